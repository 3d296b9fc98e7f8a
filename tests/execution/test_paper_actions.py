"""Splits and dividends on paper positions and orders, under an unmodified client."""

from __future__ import annotations

import warnings
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from execution.paper_actions import CorporateActions
from market.errors import ExecutionError
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA
from tests.execution.paper_rig import FRIDAY, MONDAY, THURSDAY, bar, frame, moment, paper

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"websockets\.legacy", DeprecationWarning)
    from alpaca.trading.enums import OrderSide, OrderStatus
    from alpaca.trading.enums import TimeInForce as Tif
    from alpaca.trading.models import NonTradeActivity
    from alpaca.trading.requests import TrailingStopOrderRequest

KNOWN = moment(THURSDAY, -600)


def splits(*rows: tuple[str, Any, float]) -> pl.DataFrame:
    full = [[symbol, day, KNOWN, ratio] for symbol, day, ratio in rows]
    return pl.DataFrame(full, schema=SPLIT_SCHEMA, orient="row")


def dividends(*rows: tuple[str, Any, float]) -> pl.DataFrame:
    full = [[symbol, day, KNOWN, amount] for symbol, day, amount in rows]
    return pl.DataFrame(full, schema=DIVIDEND_SCHEMA, orient="row")


def day(symbol: str, session: Any, *ohlc: float) -> dict[str, Any]:
    return bar(symbol, session, 0, (ohlc[0], ohlc[1], ohlc[2], ohlc[3]), 390)


# XYZ: four for one on Friday.
BARS = frame(
    day("XYZ", THURSDAY, 100, 104, 96, 102),
    day("XYZ", FRIDAY, 26, 27, 24, 25),
    day("XYZ", MONDAY, 25, 26, 20, 22),
    day("ABC", THURSDAY, 50, 50, 50, 50),
    day("ABC", FRIDAY, 49, 49, 49, 49),
)
FOUR = splits(("XYZ", FRIDAY, 4.0))


def test_a_split_changes_shares_and_price_and_no_value() -> None:
    with paper(BARS, splits=FOUR) as rig:
        rig.market("XYZ", "buy", 10)
        before = rig.at(THURSDAY, 391).client.get_account()
        position = rig.at(FRIDAY, -1).client.get_open_position("XYZ")
        assert (position.qty, position.avg_entry_price) == ("40", "25")
        assert (position.current_price, position.lastday_price) == ("25.5", "25.5")
        assert (position.cost_basis, position.unrealized_pl) == ("1000", "20")
        after = rig.client.get_account()
        assert (after.equity, after.cash) == (before.equity, before.cash)
        (row,) = rig.get("/account/activities/SPLIT")
        assert (row["qty"], row["net_amount"], row["date"]) == ("30", "0", "2025-01-03")


def test_a_reverse_split_may_leave_fractions() -> None:
    bars = frame(day("XYZ", THURSDAY, 10, 10, 10, 10), day("XYZ", FRIDAY, 30, 30, 30, 30))
    with paper(bars, splits=splits(("XYZ", FRIDAY, 1 / 3))) as rig:
        rig.market("XYZ", "sell", 10)
        rig.at(FRIDAY, 1)
        assert rig.positions() == {"XYZ": Decimal("-3.333333333")}
        assert rig.client.get_account().equity.startswith("100000")


def test_gtc_orders_follow_a_split() -> None:
    with paper(BARS, splits=FOUR) as rig:
        rig.market("XYZ", "buy", 10)
        rig.at(THURSDAY, 1)
        target = rig.limit("XYZ", "sell", 4, 107.0, "gtc")
        trail = rig.client.submit_order(
            TrailingStopOrderRequest(
                symbol="XYZ", qty=5, side=OrderSide.SELL, time_in_force=Tif.GTC, trail_price=8
            )
        )
        found = rig.at(FRIDAY, -1).order(target)
        assert (found.qty, found.limit_price) == ("16", "26.75")
        assert rig.client.get_open_position("XYZ").qty_available == "4"
        found = rig.order(trail)
        assert (found.qty, found.trail_price, found.status) == ("20", "2", OrderStatus.NEW)
        assert (found.hwm, found.stop_price) == ("25", "23")  # 100 when it came
        rig.at(FRIDAY, 390)
        assert rig.order(target).filled_avg_price == "26.75"
        found = rig.order(trail)  # the open of 26 lifted the stop to 24, the day's low
        assert (found.status, found.filled_avg_price) == (OrderStatus.FILLED, "24")
        assert rig.positions() == {"XYZ": Decimal(4)}


def test_a_bracket_follows_a_split() -> None:
    with paper(BARS, splits=FOUR) as rig:
        exits = {"take_profit": {"limit_price": "140"}, "stop_loss": {"stop_price": "84"}}
        rig.market("XYZ", "buy", 10, "gtc", order_class="bracket", **exits)
        rig.at(THURSDAY, 391)
        rig.at(MONDAY, 390)
        assert rig.positions() == {}
        assert rig.cash() == 100_000 - 1000 + 40 * 21


def test_an_order_split_away_is_canceled() -> None:
    with paper(BARS, splits=splits(("ABC", FRIDAY, 0.1))) as rig:
        order = rig.limit("ABC", "buy", 5, 40.0, "gtc")
        assert rig.at(FRIDAY, -1).order(order).status is OrderStatus.CANCELED


def test_dividends_are_paid_to_long_and_by_short_positions_held_into_the_ex_date() -> None:
    paid = dividends(("XYZ", FRIDAY, 0.333), ("ABC", FRIDAY, 1.0), ("XYZ", MONDAY, 5.0))
    with paper(BARS, dividends=paid) as rig:
        rig.market("XYZ", "buy", 10)
        rig.market("ABC", "sell", 4)
        rig.at(THURSDAY, 391)
        assert rig.cash() == 100_000 - 1000 + 200
        assert rig.at(FRIDAY, -1).cash() == 99_200 + Decimal("3.33") - 4
        rows = rig.get("/account/activities/DIV", direction="asc")
        told = ("symbol", "qty", "per_share_amount", "net_amount", "date")
        assert [tuple(row[name] for name in told) for row in rows] == [
            ("ABC", "-4", "1", "-4", "2025-01-03"),
            ("XYZ", "10", "0.333", "3.33", "2025-01-03"),
        ]
        assert NonTradeActivity(**rows[0]).net_amount == -4
        rig.market("XYZ", "sell", 10)  # sold on the ex-date: the next one is another's
        rig.at(MONDAY, 1)
        assert len(rig.get("/account/activities/DIV")) == 2


def test_a_dividend_on_a_splits_day_is_per_new_share() -> None:
    with paper(BARS, splits=FOUR, dividends=dividends(("XYZ", FRIDAY, 0.5))) as rig:
        rig.market("XYZ", "buy", 10)
        rig.at(FRIDAY, -1)
        assert rig.cash() == 99_000 + 40 * Decimal("0.5")


def test_actions_before_the_account_opened_are_past() -> None:
    with paper(BARS, splits=splits(("XYZ", THURSDAY, 4.0))) as rig:
        rig.market("XYZ", "buy", 10)
        assert rig.at(THURSDAY, 1).positions() == {"XYZ": Decimal(10)}


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_actions_are_refused(ratio: float) -> None:
    with pytest.raises(ExecutionError, match="unusable"):
        CorporateActions(splits(("XYZ", FRIDAY, ratio)))
    with pytest.raises(ExecutionError, match="unusable"):
        CorporateActions(None, dividends(("XYZ", FRIDAY, ratio)))
