"""Random bars of half an hour, with everything on: exits, costs, splits, dividends, borrow."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backtest.simulation import COST_LINES, Simulation
from execution.intents import PlanRules
from market.costs import CostModel
from tests.backtest import scenes
from tests.effort import repeats
from tests.oracles.bracket_loop import expected_exits
from tests.oracles.event_loop import equity_curve

SESSIONS, BARS = 4, 13
SYMBOLS = ("AAA", "BBB")
CENT = 0.005


def random_market(seed: int, volume: float) -> pl.DataFrame:
    """Jumps at opens, wide ranges, halts, bars without volume."""
    rng = np.random.default_rng(seed)
    market: dict[str, list[list[scenes.Candle | None]]] = {}
    for symbol in SYMBOLS:
        price, days = 40.0, []
        for _ in range(SESSIONS):
            day: list[scenes.Candle | None] = []
            for _ in range(BARS):
                opened = price * (1 + rng.normal(0, 0.0015))
                price = opened * (1 + rng.normal(0, 0.003))
                wide = rng.exponential(0.002, 2)
                high, low = max(opened, price) * (1 + wide[0]), min(opened, price) * (1 - wide[1])
                traded = 0.0 if rng.random() < 0.05 else volume * rng.exponential()
                quote = (opened, high, low, price)
                candle = (*(round(v, 2) for v in quote), float(int(traded)))
                day.append(None if rng.random() < 0.05 else candle)
            days.append(day)
        market[symbol] = days
    market["GRID"] = [[(10.0, 10.0, 10.0, 10.0, 1e6)] * BARS] * SESSIONS
    return scenes.candles(market)


def simulate(
    seed: int, costs: CostModel, volume: float, volatility: float, **actions: pl.DataFrame
) -> tuple[Simulation, pl.DataFrame]:
    bars = random_market(seed, volume)
    rng = np.random.default_rng(seed + 1)
    views = {
        (SYMBOLS[rng.integers(2)], int(rng.integers(SESSIONS)), int(rng.integers(BARS - 1)))
        for _ in range(12)
    }
    rows = [(s, day, bar, float(rng.choice([-1, 1]) * 20.0)) for s, day, bar in sorted(views)]
    simulation = scenes.run(
        scenes.intraday_forecasts(rows, volatility_bps=volatility),
        bars,
        costs=costs,
        plan_rules=PlanRules(brackets=True),
        **actions,
    )
    return simulation, bars


everything = given(
    seed=st.integers(0, 2**32 - 2),
    participation=st.sampled_from([None, 0.1, 1.0]),
    volume=st.sampled_from([20_000.0, 200_000.0]),
    volatility=st.sampled_from([10.0, 30.0]),
    split=st.sampled_from([None, 2.0, 0.5, 1.5]),
)


def costs_of(participation: float | None) -> CostModel:
    return CostModel(
        commission_bps=0.5,
        commission_per_share_usd=0.003,
        participation=participation,
        borrow_rate=0.5,
    )


def actions_of(split: float | None) -> dict[str, pl.DataFrame]:
    if split is None:
        return {}
    return {
        "splits": scenes.splits_of(("AAA", 2, split)),
        "dividends": scenes.dividends_of(("BBB", 1, 0.11)),
    }


@settings(max_examples=repeats(60, 30), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@everything
def test_exits_at_the_broker_and_equity_agree_with_the_oracles(
    seed, participation, volume, volatility, split
):
    costs, actions = costs_of(participation), actions_of(split)
    simulation, bars = simulate(seed, costs, volume, volatility, **actions)
    splits = actions.get("splits", scenes.splits_of())
    dividends = actions.get("dividends", scenes.dividends_of())
    orders = simulation.orders
    ours = orders.filter("is_bracket_exit").select(
        "bar_end", "symbol", "side", "quantity", "price", "filled_at"
    )
    ended = simulation.equity["bar_end"][-1]
    expected = expected_exits(
        orders, bars.filter(pl.col("bar_end") <= ended), splits, participation
    )
    assert sorted(ours.rows()) == sorted(expected)

    oracle = equity_curve(orders, bars, splits, dividends, 100_000.0, borrow_rate=0.5)
    for end, value in simulation.equity[1:].select("bar_end", "equity_usd").iter_rows():
        assert abs(float(oracle[end]) - value) < CENT, end
    replayed = simulation.replay.equity["equity_usd"]
    assert (replayed - simulation.equity["equity_usd"][1:]).abs().max() < CENT


@settings(max_examples=repeats(60, 30), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@everything
def test_no_fill_is_better_than_its_bar_and_none_larger_than_its_share(
    seed, participation, volume, volatility, split
):
    simulation, bars = simulate(
        seed, costs_of(participation), volume, volatility, **actions_of(split)
    )
    fills = simulation.fills.join(bars, on=["symbol", "bar_end"], how="left")
    assert fills["open"].null_count() == 0
    buys = pl.col("side") == "buy"
    assert (fills["volume"] > 0).all()
    assert fills.filter(buys & (pl.col("price") < pl.col("low"))).is_empty()
    assert fills.filter(~buys & (pl.col("price") > pl.col("high"))).is_empty()
    if participation is not None:
        taken = fills.group_by("symbol", "bar_end").agg(
            pl.col("quantity").sum(), pl.col("volume").first()
        )
        assert (taken["quantity"] <= taken["volume"] * participation + 1e-6).all()
    lines = fills.select(COST_LINES)
    assert (
        fills["cost_usd"] - lines.select(pl.sum_horizontal(pl.all())).to_series()
    ).abs().max() < 1e-9
    assert (lines.min_horizontal() >= 0.0).all()


@settings(max_examples=repeats(60, 30), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 2), volatility=st.sampled_from([10.0, 30.0]))
def test_never_both_exits_and_no_stop_above_its_level(seed, volatility):
    simulation, _ = simulate(seed, CostModel(participation=None), 100_000.0, volatility)
    for _, orders in simulation.fills.group_by("symbol"):
        held, entry = 0.0, {}
        for order in orders.iter_rows(named=True):
            signed = order["quantity"] if order["side"] == "buy" else -order["quantity"]
            if order["is_bracket_exit"]:
                # It closes all that is held: so the other one never finds a position to close.
                assert signed == -held
                assert held != 0.0
                sign = 1.0 if held > 0 else -1.0
                if order["reason"] == "exit_stop_touched":
                    assert sign * (order["price"] - entry["stop_loss"]) <= 0
                else:
                    assert order["price"] == entry["take_profit"]
                    assert order["bar_end"] > entry["bar_end"]
            else:
                entry = order
            held += signed


def test_the_random_cases_hold_every_kind_of_exit():
    kinds: set[tuple[str, str, bool]] = set()
    partly = False
    for seed in range(30):
        simulation, _ = simulate(seed, CostModel(), 20_000.0, 30.0)
        exits = simulation.orders.filter("is_bracket_exit")
        gapped = pl.col("filled_at") < pl.col("bar_end")
        kinds |= set(exits.select("side", "reason", gapped.alias("gapped")).rows())
        parts = simulation.fills.filter("is_bracket_exit").group_by("symbol", "as_of").len()
        partly |= bool((parts["len"] > 1).any())
        kinds |= {("", status, False) for status in simulation.orders["status"].unique()}
    for side in ("buy", "sell"):
        assert (side, "exit_stop_touched", True) in kinds
        assert (side, "exit_stop_touched", False) in kinds
        assert (side, "exit_target_touched", False) in kinds
        assert (side, "exit_target_touched", True) not in kinds
    assert partly
    for status in ("filled", "expired", "no_volume", "above_participation"):
        assert ("", status, False) in kinds
