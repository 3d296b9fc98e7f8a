"""Exits that rest at the broker, one rule at a time."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import polars as pl
import pytest

from backtest.legs import RestingExits
from backtest.tape import make_tape
from execution.broker import OrderType, Side, TimeInForce
from execution.fill_rules import scaled_level
from execution.intents import OrderIntent, PlanRules
from execution.targets import TargetReason
from market.costs import CostModel
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, empty
from tests.backtest import scenes

AS_OF = dt.datetime(2024, 3, 4, 14, 0, tzinfo=dt.UTC)
CALM = (100.0, 100.0, 100.0, 100.0, 1e6)
BRACKETS = PlanRules(brackets=True, min_notional_usd=Decimal(40_000))


def entry(side: Side, profit: float | None, stop: float | None) -> OrderIntent:
    return OrderIntent(
        client_order_id="e",
        symbol="AAA",
        side=side,
        quantity=Decimal(100),
        order_type=OrderType.MARKET,
        time_in_force=TimeInForce.GTC,
        leg=1,
        attempt=1,
        reason=TargetReason.SIGNAL,
        take_profit_usd=None if profit is None else Decimal(str(profit)),
        stop_loss_usd=None if stop is None else Decimal(str(stop)),
    )


def touch_in(bar: scenes.Candle, side: Side, profit: float | None, stop: float | None, since: int):
    """What the second bar does to exits that were left in bar ``since``."""
    bars = scenes.candles({"AAA": [[CALM, bar, CALM]]})
    tape = make_tape(bars, empty(SPLIT_SCHEMA), empty(DIVIDEND_SCHEMA))
    exits = RestingExits(tape)
    exits.leave(entry(side, profit, stop), since, AS_OF)
    found = exits.touched(1)
    assert len(found) <= 1
    if not found:
        return None
    at = {tape.starts[1]: "open", tape.ends[1]: "end"}[found[0].at]
    return ("stop" if found[0].is_stop else "target", found[0].price, at)


@pytest.mark.parametrize(
    ("bar", "expected"),
    [
        ((100, 101, 99, 100, 1e6), None),
        ((100, 101, 95, 96, 1e6), ("stop", 95.0, "end")),
        ((94, 96, 93, 95, 1e6), ("stop", 94.0, "open")),
        ((100, 105, 99, 104, 1e6), None),  # reached, and not gone through
        ((100, 105.01, 99, 104, 1e6), ("target", 105.0, "end")),
        ((108, 109, 107, 108, 1e6), ("target", 105.0, "end")),  # no better than asked for
        ((100, 110, 90, 100, 1e6), ("stop", 95.0, "end")),
        ((108, 109, 90, 91, 1e6), ("stop", 95.0, "end")),
        ((94, 110, 93, 110, 1e6), ("stop", 94.0, "open")),
        ((90, 90, 90, 90, 0), None),
    ],
)
def test_a_long_position_after_its_entry(bar, expected):
    assert touch_in(bar, Side.BUY, 105.0, 95.0, since=0) == expected


@pytest.mark.parametrize(
    ("bar", "expected"),
    [
        ((100, 105, 99, 104, 1e6), ("stop", 105.0, "end")),
        ((106, 107, 99, 104, 1e6), ("stop", 106.0, "open")),
        ((100, 101, 95, 96, 1e6), None),
        ((100, 101, 94.99, 96, 1e6), ("target", 95.0, "end")),
        ((90, 91, 89, 90, 1e6), ("target", 95.0, "end")),
        ((100, 110, 90, 100, 1e6), ("stop", 105.0, "end")),
    ],
)
def test_a_short_position_after_its_entry(bar, expected):
    assert touch_in(bar, Side.SELL, 95.0, 105.0, since=0) == expected


@pytest.mark.parametrize(
    ("bar", "expected"),
    [
        ((100, 110, 99, 104, 1e6), None),  # when in the bar is not known
        ((100, 110, 94, 104, 1e6), ("stop", 95.0, "end")),
        ((94, 110, 93, 104, 1e6), ("stop", 94.0, "end")),
    ],
)
def test_in_the_bar_of_the_entry_only_the_stop_is_hit(bar, expected):
    assert touch_in(bar, Side.BUY, 105.0, 95.0, since=1) == expected


def test_one_exit_alone_may_stand():
    assert touch_in((100, 110, 90, 100, 1e6), Side.BUY, None, 95.0, since=0) == (
        "stop",
        95.0,
        "end",
    )
    assert touch_in((100, 110, 90, 100, 1e6), Side.BUY, 105.0, None, since=0) == (
        "target",
        105.0,
        "end",
    )


def four_hours(days, **changes):
    """A forecast at the end of the second bar of the first day, with brackets."""
    flat = [(10.0, 10.0, 10.0, 10.0, 1e6)] * 13
    market = {"AAA": days, "GRID": [flat] * len(days)}
    rows = changes.pop("rows", [("AAA", 0, 1, 60.0)])
    arguments = {"plan_rules": BRACKETS, "costs": scenes.FREE, **changes}
    return scenes.run(scenes.intraday_forecasts(rows), scenes.candles(market), **arguments)


def exits_of(simulation) -> list[tuple]:
    found = simulation.fills.filter("is_bracket_exit")
    return found.select("side", "quantity", "price", "reason").rows()


def levels_of(simulation) -> tuple[float, float]:
    row = simulation.orders.row(0, named=True)
    return row["take_profit"], row["stop_loss"]


def test_a_stop_closes_the_position_and_the_signal_that_opened_it_is_spent():
    _, stop = levels_of(four_hours([[CALM] * 13] * 2))
    day = [*[CALM] * 5, (100.0, 100.0, stop - 0.2, 100.0, 1e6), *[CALM] * 7]
    simulation = four_hours([day, [CALM] * 13])
    assert exits_of(simulation) == [("sell", 500.0, stop, "exit_stop_touched")]
    assert simulation.orders.height == 2  # and it is not opened again
    assert simulation.equity["equity_usd"][-1] == pytest.approx(100_000 - 500 * (100 - stop))
    assert simulation.trades["is_closed"].to_list() == [True]


def test_a_target_pays_no_spread_and_a_stop_does():
    target, stop = levels_of(four_hours([[CALM] * 13] * 2))
    costs = CostModel.flat(commission_bps=1.0, half_spread_bps=3.0, slippage_bps=5.0)
    for extreme, level, bps in ((target + 0.2, target, 1.0), (stop - 0.2, stop, 9.0)):
        bar = (100.0, max(100.0, extreme), min(100.0, extreme), 100.0, 1e6)
        simulation = four_hours([[*[CALM] * 5, bar, *[CALM] * 7], [CALM] * 13], costs=costs)
        order = simulation.fills.filter("is_bracket_exit").row(0, named=True)
        assert order["price"] == level
        assert order["cost_usd"] == pytest.approx(order["quantity"] * level * bps / 1e4)


def test_exits_follow_a_split_overnight():
    target, _ = levels_of(four_hours([[CALM] * 13] * 2))
    half = (50.0, 50.0, 50.0, 50.0, 1e6)
    through = (50.0, target / 2 + 0.1, 50.0, 50.0, 1e6)
    # The forecast comes late in the day, so that it is still in force in the morning.
    rows = [("AAA", 0, 10, 60.0)]
    simulation = four_hours(
        [[CALM] * 13, [half, through, *[half] * 11]],
        splits=scenes.splits_of(("AAA", 1, 2.0)),
        rows=rows,
    )
    assert simulation.orders["time_in_force"][0] == "gtc"
    assert exits_of(simulation) == [
        (
            "sell",
            1000.0,
            float(scaled_level(Decimal(str(target)), Decimal(2))),
            "exit_target_touched",
        )
    ]


def test_a_stop_cut_short_before_a_reverse_split_is_replayed_to_the_cent():
    rows = [("AAA", 0, 10, 60.0)]
    _, stop = levels_of(four_hours([[CALM] * 13] * 2, rows=rows))
    thin = (100.0, 100.0, stop - 0.2, 100.0, 950.0)
    ten = (1000.0, 1000.0, 1000.0, 1000.0, 1e6)
    simulation = four_hours(
        [[*[CALM] * 12, thin], [ten] * 13],
        rows=rows,
        costs=CostModel(participation=0.1),
        splits=scenes.splits_of(("AAA", 1, 0.1)),
    )
    # 95 of 500 shares are sold; 405 become 40 and a half; the rest goes at the next open.
    assert exits_of(simulation) == [
        ("sell", 95.0, stop, "exit_stop_touched"),
        ("sell", 40.0, 1000.0, "exit_stop_touched"),
    ]
    flows = simulation.cash_flows.select("kind", "quantity", "amount_usd").rows()
    assert flows == [("cash_in_lieu", 0.5, pytest.approx(500.0))]
    difference = simulation.replay.equity["equity_usd"] - simulation.equity["equity_usd"][1:]
    assert difference.abs().max() < 1e-6


def test_another_order_of_the_symbol_takes_the_exits_away_first():
    _, stop = levels_of(four_hours([[CALM] * 13] * 2))
    crash = (stop - 1, stop - 1, stop - 1, stop - 1, 1e6)
    # The opposite view arrives at the end of bar 4: its order and the crash meet at one open.
    rows = [("AAA", 0, 1, 60.0), ("AAA", 0, 4, -60.0)]
    simulation = four_hours([[*[CALM] * 5, *[crash] * 8], [crash] * 13], rows=rows)
    assert exits_of(simulation) == []
    first = simulation.fills.row(1, named=True)
    assert (first["reason"], first["side"]) == ("exit_opposite_signal", "sell")
    assert first["quantity"] == 500.0


def test_exits_of_the_day_expire_at_its_close():
    flat = [(10.0, 10.0, 10.0, 10.0, 1e6)] * 26
    day = [CALM] * 26
    made = scenes.intraday_forecasts([("AAA", 0, 1, 60.0)], "1h")
    bars = scenes.candles(
        {"AAA": [day] * 2, "GRID": [flat] * 2}, scenes.find_horizon("1h").timeframe
    )
    simulation = scenes.run(made, bars, plan_rules=BRACKETS, costs=scenes.FREE)
    assert simulation.orders["time_in_force"][0] == "day"
    assert simulation.orders["stop_loss"][0] is not None
    tape = make_tape(bars, empty(SPLIT_SCHEMA), empty(DIVIDEND_SCHEMA))
    exits = RestingExits(tape)
    exits.leave(entry(Side.BUY, 105.0, 95.0), 0, AS_OF)
    exits.end_session()
    assert len(exits.open_orders({"AAA": Decimal(100)})) == 2  # until canceled
    day_order = entry(Side.BUY, 105.0, 95.0)
    exits.leave(replace(day_order, time_in_force=TimeInForce.DAY), 0, AS_OF)
    exits.end_session()
    assert exits.open_orders({}) == []


def test_an_entry_leaves_its_exits_when_its_rest_has_filled():
    thin = (100.0, 100.0, 100.0, 100.0, 1000.0)
    _, stop = levels_of(four_hours([[CALM] * 13] * 2))
    low = (100.0, 100.0, stop - 1, 100.0, 1e6)
    costs = CostModel(participation=0.1)
    day = [CALM, CALM, thin, low, *[CALM] * 9]
    simulation = four_hours([day, [CALM] * 13], costs=costs)
    assert simulation.orders.select("quantity", "status").rows()[:2] == [
        (100.0, "filled"),
        (400.0, "filled"),  # at the next open
    ]
    assert exits_of(simulation) == [("sell", 500.0, stop, "exit_stop_touched")]


def test_an_entry_that_stays_a_part_leaves_no_exits():
    thin, none = (100.0, 100.0, 100.0, 100.0, 1000.0), (100.0, 100.0, 80.0, 100.0, 0.0)
    costs = CostModel(participation=0.1)
    day = [CALM, CALM, thin, *[none] * 10]
    simulation = four_hours([day, [CALM] * 13], costs=costs)
    assert simulation.orders.select("quantity", "status").rows()[:2] == [
        (100.0, "filled"),
        (400.0, "no_volume"),  # until the session ended
    ]
    assert exits_of(simulation) == []


def test_orders_for_the_opening_auction_leave_nothing_with_the_broker():
    bars = scenes.daily_bars({"AAA": [(100, 100)] * 5})
    simulation = scenes.run(scenes.forecasts([("AAA", 0, 100.0)]), bars, plan_rules=BRACKETS)
    assert simulation.orders.select(pl.col("take_profit", "stop_loss").null_count()).row(0) == (
        1,
        1,
    )
