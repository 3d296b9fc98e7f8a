from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import polars as pl
import pytest

from backtest.metrics import cost_lines, session_curve, sharpe_ratio
from backtest.sensitivity import capacity, cost_sensitivity
from execution.intents import PlanRules
from market.costs import CostModel
from tests.backtest import scenes

IMPACT_ALONE = replace(CostModel.flat(), impact_coefficient=1.0)


def net_ratio(simulation) -> float:
    equity = session_curve(simulation)["equity_usd"].to_numpy()
    return sharpe_ratio(equity[1:] / equity[:-1] - 1.0)


def test_lines_add_up_to_what_costs_took():
    simulation = scenes.run_synthetic("1d", costs=CostModel(commission_bps=0.2))
    lines = cost_lines(simulation)
    assert sum(lines.values()) == pytest.approx(simulation.equity["cost_usd"].sum())
    borrow = lines.pop("borrow_usd")
    assert borrow == pytest.approx(
        -simulation.cash_flows.filter(pl.col("kind") == "borrow")["amount_usd"].sum()
    )
    assert sum(lines.values()) == pytest.approx(simulation.fills["cost_usd"].sum())
    assert min(lines.values()) > 0
    assert borrow > 0


def test_orders_priced_again_come_near_to_orders_decided_again():
    table = cost_sensitivity(scenes.run_synthetic("1d", costs=CostModel()))
    assert table["multiple"].to_list() == [0.0, 1.0, 2.0, 3.0]
    assert table["total_return"].is_sorted(descending=True)
    assert table["total_return"].n_unique() == 4
    for multiple, total, ratio in table.iter_rows():
        again = scenes.run_synthetic("1d", costs=CostModel(multiplier=multiple))
        equity = session_curve(again)["equity_usd"]
        assert total == pytest.approx(equity[-1] / equity[0] - 1.0, abs=0.03)
        assert ratio == pytest.approx(net_ratio(again), abs=0.3)


def test_at_its_own_costs_a_simulation_is_what_it_was():
    simulation = scenes.run_synthetic("1d", costs=CostModel())
    equity = session_curve(simulation)["equity_usd"]
    (total, ratio) = cost_sensitivity(simulation, [1.0]).row(0)[1:]
    assert total == pytest.approx(equity[-1] / equity[0] - 1.0, abs=1e-12)
    assert ratio == pytest.approx(net_ratio(simulation), abs=1e-12)


def test_at_its_capacity_a_simulation_has_half_the_ratio():
    def at(capital: float):
        # Thresholds in dollars grow with the account, as weights do not.
        rules = PlanRules(min_notional_usd=Decimal(round(capital / 1e4)))
        return scenes.run_synthetic(
            "1d", costs=IMPACT_ALONE, starting_cash_usd=capital, plan_rules=rules
        )

    found = capacity(at(1e6))
    assert found.capacity_usd is not None
    assert found.capacity_usd > 1e6
    # Decided anew, sizes follow the equity that impact takes: a second order that is left out.
    again = net_ratio(at(found.capacity_usd))
    assert again == pytest.approx(found.sharpe_ratio / 2, rel=0.1)
    assert f"{found.capacity_usd:,.0f} USD" in found.statement


def test_capacity_says_why_there_is_none():
    free = scenes.run_synthetic("1d", costs=scenes.FREE)
    assert capacity(free).statement == "unknown: no impact was charged"
    good = scenes.run_synthetic("1d", costs=IMPACT_ALONE)
    bound = capacity(good, most_times=1.0)
    assert bound.capacity_usd is None
    assert bound.statement == "not found below 1,000,000 USD"
    dear = scenes.run_synthetic("1d", costs=CostModel.flat(slippage_bps=300.0))
    assert capacity(dear).statement == "none: the net Sharpe ratio is not above zero"
