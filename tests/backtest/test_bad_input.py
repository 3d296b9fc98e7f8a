"""Every awkward market has a stated rule, and the result shows it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import polars as pl
import pytest

from execution.intents import PlanRules
from market.costs import CostModel
from tests.backtest import scenes

GRID = [(10, 10)] * 20


def rows(simulation, *columns: str) -> list[tuple]:
    return simulation.orders.select(columns).rows()


def without_volume(bars: pl.DataFrame, symbol: str, session: int) -> pl.DataFrame:
    day = scenes.sessions(session + 1)[-1]
    silent = (pl.col("symbol") == symbol) & (pl.col("session") == day)
    return bars.with_columns(pl.when(silent).then(0.0).otherwise("volume").alias("volume"))


def test_a_gap_is_filled_at_the_open_that_it_opens_at():
    bars = scenes.daily_bars({"AAA": [(100, 100), (150, 150), (150, 150)]})
    simulation = scenes.run(scenes.forecasts([("AAA", 0, 100.0)]), bars, plan_rules=scenes.HOLD)
    assert rows(simulation, "quantity", "reference_price", "price")[0] == (500.0, 100.0, 150.0)


@pytest.mark.parametrize(("view", "opened"), [(100.0, 100.21), (-100.0, 99.79)])
def test_a_limit_that_the_open_is_beyond_does_not_fill(view, opened):
    rules = PlanRules(limit_offset_bps=Decimal(20))
    made = scenes.forecasts([("AAA", 0, view)], "1d")
    far = scenes.daily_bars({"AAA": [(100, 100), (opened, 100), (100, 100)]})
    assert rows(scenes.run(made, far, plan_rules=rules), "status", "price")[0] == (
        "limit_not_reached",
        None,
    )
    near = scenes.daily_bars({"AAA": [(100, 100), (100 + view / 500, 100), (100, 100)]})
    assert rows(scenes.run(made, near, plan_rules=rules), "status", "price")[0] == (
        "filled",
        100 + view / 500,
    )


@pytest.mark.parametrize(("view", "side", "share"), [(100.0, "sell", 0.7), (-100.0, "buy", 1.3)])
def test_a_position_whose_symbol_stops_trading_is_closed_at_a_loss(view, side, share):
    bars = scenes.daily_bars({"AAA": [(100, 100), (100, 100), (100, 90)], "GRID": GRID})
    costs = replace(scenes.FREE, delisting_haircut=0.3)
    simulation = scenes.run(scenes.forecasts([("AAA", 0, view)]), bars, costs=costs)
    last = simulation.orders.row(-1, named=True)
    assert (last["reason"], last["side"], last["price"]) == ("delisted", side, 90 * share)
    # Ten sessions without a bar, 3 to 12: closed before session 13.
    assert last["filled_at"].date() == scenes.sessions(14)[13]
    assert (last["quantity"], last["cost_usd"]) == (500.0, 0.0)
    sign = 1 if view > 0 else -1
    curve = dict(simulation.equity.select("session", "equity_usd").iter_rows())
    days = scenes.sessions(14)
    assert curve[days[12]] == pytest.approx(100_000 - sign * 5_000)  # at its last close till then
    assert curve[days[13]] == pytest.approx(100_000 - sign * 5_000 - 500 * 90 * 0.3)
    assert set(simulation.denials["code"]) == {"price_too_old"}
    difference = simulation.replay.equity["equity_usd"] - simulation.equity["equity_usd"][1:]
    assert difference.abs().max() < 1e-6


def test_a_halt_of_nine_sessions_is_no_delisting():
    quotes = [(100, 100), (100, 100), *[None] * 9, *[(80, 80)] * 9]
    simulation = scenes.run(
        scenes.forecasts([("AAA", 0, 100.0)]), scenes.daily_bars({"AAA": quotes, "GRID": GRID})
    )
    assert "delisted" not in simulation.orders["reason"].to_list()
    assert simulation.fills["price"].to_list() == [100.0, 80.0]


def test_a_day_without_volume_fills_nothing():
    bars = scenes.daily_bars({"AAA": [(100, 100)] * 5})
    made = scenes.forecasts([("AAA", 0, 100.0)], "1d")
    simulation = scenes.run(made, without_volume(bars, "AAA", 1))
    assert rows(simulation, "status", "quantity", "filled_at", "cost_usd") == [
        ("no_volume", 500.0, None, None)
    ]
    assert simulation.equity["equity_usd"][-1] == 100_000.0
    # An exit waits for a day with volume, and is sent again.
    closing = scenes.run(made, without_volume(bars, "AAA", 2))
    assert rows(closing, "side", "status") == [
        ("buy", "filled"),
        ("sell", "no_volume"),
        ("sell", "filled"),
    ]


def test_an_order_above_its_share_of_volume_fills_in_part():
    bars = scenes.daily_bars({"AAA": [(100, 100)] * 3}).with_columns(
        pl.lit(2_000.0).alias("volume")
    )
    costs = replace(scenes.FREE, participation=0.1)
    simulation = scenes.run(scenes.forecasts([("AAA", 0, 100.0)]), bars, costs=costs)
    assert rows(simulation, "quantity", "status", "price")[:2] == [
        (200.0, "filled", 100.0),
        (300.0, "above_participation", None),
    ]
    assert simulation.equity["gross_exposure"][1] == pytest.approx(0.2)


def test_a_change_through_zero_whose_closing_is_cut_opens_nothing():
    bars = scenes.daily_bars({"AAA": [(100, 100)] * 5}).with_columns(
        pl.when(pl.col("session") == scenes.sessions(3)[2])
        .then(1_000.0)
        .otherwise("volume")
        .alias("volume")
    )
    made = scenes.forecasts([("AAA", 0, 100.0), ("AAA", 1, -100.0)])
    costs = replace(scenes.FREE, participation=0.1)
    simulation = scenes.run(made, bars, costs=costs)
    assert rows(simulation, "side", "quantity", "status")[:4] == [
        ("buy", 500.0, "filled"),
        ("sell", 100.0, "filled"),
        ("sell", 400.0, "above_participation"),
        ("sell", 500.0, "lapsed"),
    ]


def test_what_cannot_be_borrowed_is_not_sold_short():
    bars = scenes.daily_bars({"AAA": [(100, 100)] * 4, "BBB": [(100, 100)] * 4})
    costs = replace(scenes.FREE, unborrowable=("AAA",))
    made = scenes.forecasts([("AAA", 0, -100.0), ("BBB", 0, -100.0)])
    simulation = scenes.run(made, bars, costs=costs)
    assert simulation.fills["symbol"].unique().to_list() == ["BBB"]
    assert simulation.denials.select("symbol", "code").unique().rows() == [("AAA", "not_shortable")]
    held = scenes.run(scenes.forecasts([("AAA", 0, 100.0)]), bars, costs=costs)
    assert held.fills["side"].to_list() == ["buy"]


def test_a_period_without_forecasts_opens_nothing_and_exits_go_on():
    bars = scenes.daily_bars({"AAA": [(100, 100)] * 12})
    made = scenes.forecasts([("AAA", 0, 100.0), ("AAA", 8, 100.0)], "1d")
    simulation = scenes.run(made, bars, costs=scenes.FREE)
    days = scenes.sessions(12)
    assert simulation.sessions_without_forecast == tuple(days[2:9])
    filled = simulation.fills.select(pl.col("filled_at").dt.date(), "side", "reason").rows()
    assert filled == [
        (days[1], "buy", "signal"),
        (days[2], "sell", "exit_validity_expired"),
        (days[9], "buy", "signal"),
        (days[10], "sell", "exit_validity_expired"),
    ]


def test_costs_know_nothing_of_later_bars_nor_of_the_session_of_the_fill():
    moment = scenes.synthetic_bars("1d")["bar_end"].unique().sort()[60]
    bars = scenes.synthetic_bars("1d")
    at = pl.col("bar_end")
    # Of the session itself only the open is known, and how much was traded limits an order.
    changed = bars.with_columns(
        pl.when(at >= moment).then(pl.col("close") * 1.1).otherwise("close").alias("close"),
        pl.when(at >= moment).then(pl.col("high") * 1.7).otherwise("high").alias("high"),
        pl.when(at >= moment).then(pl.col("low") / 1.7).otherwise("low").alias("low"),
        pl.when(at > moment).then(pl.col("volume") * 3).otherwise("volume").alias("volume"),
    )
    one = scenes.run_synthetic("1d", costs=CostModel(), bars=bars)
    two = scenes.run_synthetic("1d", costs=CostModel(), bars=changed)
    before = pl.col("bar_end") <= moment
    assert one.fills.filter(pl.col("bar_end") == moment).height > 1
    assert one.orders.filter(before).equals(two.orders.filter(before))
    assert one.orders["impact_usd"].max() > 0
