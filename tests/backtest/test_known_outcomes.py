"""Strategies whose result can be worked out by hand, with every line of costs."""

from __future__ import annotations

import math
import statistics
from decimal import Decimal
from itertools import pairwise

import polars as pl
import pytest

from execution.intents import PlanRules
from execution.targets import TargetRules
from market.costs import CostModel
from tests.backtest import scenes

# Spread constant at one basis point: what bars tell of it has tests of its own.
FULL = CostModel(
    commission_bps=0.0,
    commission_per_share_usd=0.01,
    half_spread_bps=1.0,
    slippage_bps=2.0,
    estimated_spread=False,
    borrow_rate=0.036,
    participation=None,
)
UNKNOWN_VOLATILITY = 0.03
SECTION_31 = 8.00 / 1e6  # March 2024
ACTIVITY = 0.000166  # per share


def final_cash_and_equity(simulation) -> tuple[float, float]:
    return simulation.equity.select("cash_usd", "equity_usd").row(-1)


def flows_of(simulation) -> list[tuple]:
    return simulation.cash_flows.select("kind", "quantity", "amount_usd").rows()


def test_buy_and_hold_through_a_split_and_a_dividend():
    quotes = [(100, 100), (102, 104), (105, 106), (53, 54), (54, 55), (55, 56)]
    quotes += [(56, 57)] * 5 + [(60, 61), (61, 62)]
    simulation = scenes.run(
        scenes.forecasts([("AAA", 0, 100.0)]),
        scenes.daily_bars({"AAA": quotes, "BBB": [(10, 10)] * 13}),
        costs=FULL,
        splits=scenes.splits_of(("AAA", 3, 2.0)),
        dividends=scenes.dividends_of(("AAA", 5, 0.5)),
        plan_rules=scenes.HOLD,
    )
    # Half of 100,000 USD at a last close of 100: 500 shares, bought at 102. One session of a
    # million shares is known, and no volatility.
    bought = 500 * 102.0
    buy_cost = 500 * 0.01 + bought * 3e-4
    buy_cost += bought * UNKNOWN_VOLATILITY * math.sqrt(500 / 1e6)
    # 1,000 shares are sold at 60 at the open of the eleventh session. Of the eleven before, three
    # traded a million old shares and eight a million new ones.
    sold = 1000 * 60.0
    closes = [100, 104, 106, 108, 110, 112, 114, 114, 114, 114, 114]  # in old shares
    moves = [math.log(b / a) for a, b in pairwise(closes)]
    volume = (3 * 2e6 + 8 * 1e6) / 11
    sell_cost = 1000 * 0.01 + sold * 3e-4 + sold * SECTION_31 + 1000 * ACTIVITY
    sell_cost += sold * statistics.stdev(moves) * math.sqrt(1000 / volume)
    assert simulation.fills["cost_usd"].to_list() == pytest.approx([buy_cost, sell_cost])
    assert flows_of(simulation) == [("dividend", 1000.0, 500.0)]
    cash, equity = final_cash_and_equity(simulation)
    assert cash == pytest.approx(100_000 - bought - buy_cost + 500.0 + sold - sell_cost, abs=1e-6)
    assert equity == cash


def test_a_fixed_weekly_rebalance():
    quotes = {
        "AAA": [(100, 100), (100, 110), (110, 120), (120, 120), (120, 120), (120, 120), (120, 120)],
        "BBB": [(50, 50), (50, 50), (50, 50), (50, 50), (50, 40), (40, 40), (40, 44)],
    }
    costs = CostModel.flat(commission_bps=10.0)
    simulation = scenes.run(
        scenes.forecasts([(s, n, 100.0) for n in (0, 4) for s in quotes], "7d"),
        scenes.daily_bars(quotes),
        rules=TargetRules(symbol_cap=0.4, symbol_volatility_target=1000.0),
        costs=costs,
        plan_rules=PlanRules(min_notional_usd=Decimal(5_000)),
    )
    # Week 1: 40,000 USD each at 100 and 50, a thousandth of 80,000 in costs. Week 2: 20,000 - 80
    # + 400 x 120 + 800 x 40 = 99,920, of which 40% are 333 shares at 120 and 999 at 40.
    assert simulation.fills.select("symbol", "side", "quantity", "price", "cost_usd").rows() == [
        ("AAA", "buy", 400.0, 100.0, pytest.approx(40.0)),
        ("BBB", "buy", 800.0, 50.0, pytest.approx(40.0)),
        ("AAA", "sell", 67.0, 120.0, pytest.approx(8.04)),
        ("BBB", "buy", 199.0, 40.0, pytest.approx(7.96)),
    ]
    cash = 20_000 - 80 + 67 * 120 - 8.04 - 199 * 40 - 7.96
    assert final_cash_and_equity(simulation) == pytest.approx((cash, cash + 333 * 120 + 999 * 44))


def test_a_short_through_a_dividend_and_a_weekend():
    quotes = [(50, 50), (50, 50), (50, 52), (49, 49), (49, 49), (48, 48)]
    simulation = scenes.run(
        scenes.forecasts([("AAA", 0, -100.0)]),
        scenes.daily_bars({"AAA": quotes}),
        costs=FULL,
        dividends=scenes.dividends_of(("AAA", 2, 0.25)),
        plan_rules=scenes.HOLD,
    )
    # Monday's forecast: 1,000 shares are sold short on Tuesday at 50.
    sold = 1000 * 50.0
    cost = 1000 * 0.01 + sold * (3e-4 + SECTION_31) + 1000 * ACTIVITY
    cost += sold * UNKNOWN_VOLATILITY * math.sqrt(1000 / 1e6)
    nightly = 1000 * 0.036 / 360
    # Nights to Wednesday, Thursday, Friday; three to Monday. Each on the close before.
    assert flows_of(simulation) == [
        ("borrow", -1000.0, pytest.approx(-50 * nightly)),
        ("dividend", -1000.0, -250.0),
        ("borrow", -1000.0, pytest.approx(-52 * nightly)),
        ("borrow", -1000.0, pytest.approx(-49 * nightly)),
        ("borrow", -1000.0, pytest.approx(-49 * nightly * 3)),
    ]
    cash = 100_000 + sold - cost - 250.0 - nightly * (50 + 52 + 49 + 3 * 49)
    assert final_cash_and_equity(simulation) == pytest.approx((cash, cash - 1000 * 48))
    assert simulation.equity["cost_usd"].sum() == pytest.approx(cost + nightly * 298)
    difference = simulation.replay.equity["equity_usd"] - simulation.equity["equity_usd"][1:]
    assert difference.abs().max() < 1e-6
    assert simulation.orders.select(pl.col("side")).to_series().to_list() == ["sell"]
