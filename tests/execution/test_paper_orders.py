"""Order types, times in force and sizes of the paper broker, under an unmodified client."""

from __future__ import annotations

import datetime as dt
import warnings
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from execution.broker import TimeInForce
from execution.fill_rules import FillRules
from execution.paper_conditions import PaperConditions
from execution.paper_hours import order_session
from execution.paper_orders import PaperRefusal
from market import calendar
from tests.execution.paper_rig import (
    FRIDAY,
    MONDAY,
    THURSDAY,
    Rig,
    bar,
    frame,
    minutes,
    moment,
    paper,
)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"websockets\.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.trading.enums import OrderSide, OrderStatus
    from alpaca.trading.enums import TimeInForce as Tif
    from alpaca.trading.requests import (
        MarketOrderRequest,
        ReplaceOrderRequest,
        StopLimitOrderRequest,
        StopOrderRequest,
        TrailingStopOrderRequest,
    )

DAY_LONG = frame(
    bar("XYZ", THURSDAY, 0, (100.0, 106.0, 94.0, 101.0), 390),
    bar("XYZ", FRIDAY, 0, (102.0, 108.0, 99.0, 107.0), 390),
    bar("XYZ", MONDAY, 0, (90.0, 91.0, 80.0, 85.0), 390),
)


def stop(rig: Rig, side: str, price: float, tif: str = "day", **more: Any) -> Any:
    return rig.client.submit_order(
        StopOrderRequest(
            symbol="XYZ",
            qty=5,
            side=OrderSide(side),
            time_in_force=Tif(tif),
            stop_price=price,
            **more,
        )
    )


def stop_limit(rig: Rig, side: str, price: float, limit: float, tif: str = "day") -> Any:
    return rig.client.submit_order(
        StopLimitOrderRequest(
            symbol="XYZ",
            qty=5,
            side=OrderSide(side),
            time_in_force=Tif(tif),
            stop_price=price,
            limit_price=limit,
        )
    )


def trailing(rig: Rig, side: str, tif: str = "gtc", **trail: float) -> Any:
    return rig.client.submit_order(
        TrailingStopOrderRequest(
            symbol="XYZ", qty=5, side=OrderSide(side), time_in_force=Tif(tif), **trail
        )
    )


def outcome(rig: Rig, order: Any) -> tuple[str, str | None]:
    found = rig.order(order)
    return found.status.value, found.filled_avg_price


# --- stops -------------------------------------------------------------------------------------


def test_a_sell_stop_fills_at_its_price_when_the_bar_that_reached_it_has_ended() -> None:
    with paper(minutes("XYZ", (100, 101, 99, 100), (100, 100, 94, 99), (99, 99, 99, 99))) as rig:
        order = stop(rig, "sell", 95)
        assert (order.type.value, order.stop_price, order.limit_price) == ("stop", "95", None)
        assert outcome(rig.at(THURSDAY, 1.9), order) == ("new", None)
        assert outcome(rig.at(THURSDAY, 2), order) == ("filled", "95")
        assert rig.order(order).filled_at == moment(THURSDAY, 2)


def test_a_stop_gapped_over_fills_at_the_open() -> None:
    with paper(minutes("XYZ", (100, 101, 99, 100), (90, 91, 89, 90))) as rig:
        order = stop(rig.at(THURSDAY, 0.5), "sell", 95)
        assert outcome(rig.at(THURSDAY, 1), order) == ("filled", "90")


@pytest.mark.parametrize(
    ("opens", "collar", "expected"),
    [(104.0, True, "104"), (108.0, True, None), (108.0, False, "108")],
)
def test_a_buy_stop_may_have_a_collar_above_it(
    opens: float, collar: bool, expected: str | None
) -> None:
    """105 is a stop of 50 USD or more: its limit is 2.5 % above it."""
    bars = minutes("XYZ", (100, 101, 99, 100), (opens, opens, opens, opens))
    conditions = PaperConditions(rules=FillRules(buy_stop_collar=collar))
    with paper(bars, conditions=conditions) as rig:
        order = stop(rig.at(THURSDAY, 0.5), "buy", 103)
        assert rig.order(rig_order := order).status is OrderStatus.NEW
        assert rig.at(THURSDAY, 2).order(rig_order).filled_avg_price == expected


def test_a_stop_limit_waits_for_its_limit_after_the_stop() -> None:
    bars = minutes("XYZ", (100, 101, 99, 100), (92, 93, 91, 92), (92, 97, 92, 96))
    with paper(bars) as rig:
        order = stop_limit(rig.at(THURSDAY, 0.5), "sell", 95, 94)
        assert outcome(rig.at(THURSDAY, 2), order) == ("new", None)  # gapped below the limit
        assert outcome(rig.at(THURSDAY, 3), order) == ("filled", "94")


def test_a_stop_limit_whose_limit_lies_beyond_its_stop_needs_a_later_bar() -> None:
    bars = minutes("XYZ", (100, 101, 99, 100), (100, 100, 94, 97), (96, 98, 96, 97))
    with paper(bars) as rig:
        order = stop_limit(rig.at(THURSDAY, 0.5), "sell", 95, 97)
        assert outcome(rig.at(THURSDAY, 2), order) == ("new", None)
        assert outcome(rig.at(THURSDAY, 3), order) == ("filled", "97")


@pytest.mark.parametrize(("side", "price"), [("sell", 101.0), ("buy", 100.0)])
def test_a_stop_on_the_wrong_side_of_the_market_is_refused(side: str, price: float) -> None:
    with paper(minutes("XYZ", (100, 101, 99, 100.5))) as rig:
        with pytest.raises(APIError, match="than current price") as caught:
            stop(rig.at(THURSDAY, 1), side, price)
        assert (caught.value.status_code, caught.value.code) == (422, 42210000)


# --- trailing stops ----------------------------------------------------------------------------

TREND = minutes(
    "XYZ", (100, 100, 100, 100), (100, 110, 97.5, 109), (109, 112, 108.5, 111), (111, 111, 105, 106)
)


def test_a_trailing_stop_follows_the_highs_of_the_bars_before() -> None:
    with paper(TREND) as rig:
        order = trailing(rig.at(THURSDAY, 1), "sell", trail_percent=3)
        assert (order.trail_percent, order.hwm, order.stop_price) == ("3", "100", "97")
        found = rig.at(THURSDAY, 2).order(order)
        assert (found.hwm, found.stop_price, found.status.value) == ("110", "106.7", "new")
        found = rig.at(THURSDAY, 3).order(order)
        assert (found.hwm, found.stop_price) == ("112", "108.64")
        found = rig.at(THURSDAY, 4).order(order)
        assert (found.status.value, found.filled_avg_price) == ("filled", "108.64")
        assert (found.hwm, found.stop_price) == ("112", "108.64")


def test_a_trailing_buy_follows_the_lows_by_dollars() -> None:
    bars = minutes("XYZ", (100, 100, 100, 100), (100, 101, 95, 96), (96, 99, 96, 98))
    with paper(bars) as rig:
        order = trailing(rig.at(THURSDAY, 1), "buy", trail_price=2)
        assert (order.trail_price, order.hwm, order.stop_price) == ("2", "100", "102")
        assert rig.at(THURSDAY, 2).order(order).stop_price == "97"
        assert outcome(rig.at(THURSDAY, 3), order) == ("filled", "97")


def test_a_trailing_stop_gapped_over_fills_at_the_open_of_the_next_session() -> None:
    with paper(DAY_LONG) as rig:
        order = trailing(rig.at(FRIDAY, 390), "sell", trail_price=5)
        assert (order.hwm, order.stop_price) == ("107", "102")
        assert outcome(rig.at(MONDAY, 0), order) == ("filled", "90")


def test_the_trail_can_be_replaced() -> None:
    with paper(TREND) as rig:
        order = trailing(rig.at(THURSDAY, 1), "sell", trail_percent=3)
        rig.at(THURSDAY, 2)
        newer = rig.client.replace_order_by_id(order.id, ReplaceOrderRequest(trail=10))
        assert (newer.trail_percent, newer.hwm, newer.stop_price) == ("10", "110", "99")
        assert rig.order(order).status is OrderStatus.REPLACED


# --- times in force ----------------------------------------------------------------------------


def test_gtc_lives_through_sessions_and_day_does_not() -> None:
    with paper(DAY_LONG) as rig:
        day = rig.limit("XYZ", "buy", 1, 90.5)
        lasting = rig.limit("XYZ", "buy", 1, 91.0, "gtc")
        rig.at(FRIDAY, 390)
        assert rig.order(day).status is OrderStatus.EXPIRED
        assert rig.order(lasting).status is OrderStatus.NEW
        assert outcome(rig.at(MONDAY, 0.1), lasting) == ("new", None)
        assert outcome(rig.at(MONDAY, 390), lasting) == ("filled", "91")  # its own price, no better


def test_gtc_expires_after_ninety_days() -> None:
    later = dt.date(2025, 4, 3)
    bars = pl.concat([DAY_LONG, frame(bar("XYZ", later, 0, (85.0, 85.0, 85.0, 85.0), 390))])
    with paper(bars) as rig:
        order = rig.limit("XYZ", "buy", 1, 10.0, "gtc")
        assert order.expires_at == calendar.session_close(dt.date(2025, 4, 2))
        assert rig.at(dt.date(2025, 4, 2), 389).order(order).status is OrderStatus.NEW
        assert rig.at(later, 0).order(order).status is OrderStatus.EXPIRED


def test_closing_orders_trade_at_the_last_close_or_not_at_all() -> None:
    with paper(DAY_LONG) as rig:
        market = rig.market("XYZ", "buy", 1, "cls")
        good = rig.limit("XYZ", "buy", 1, 101.5, "cls")
        poor = rig.limit("XYZ", "buy", 1, 100.0, "cls")  # the day's low is 94, its close 101
        assert rig.at(THURSDAY, 389).order(market).status is OrderStatus.NEW
        rig.at(THURSDAY, 390)
        assert (outcome(rig, market), outcome(rig, good)) == (("filled", "101"), ("filled", "101"))
        assert rig.order(poor).status is OrderStatus.EXPIRED


def test_closing_orders_are_refused_from_1550_to_1900() -> None:
    cls = TimeInForce.CLS
    assert order_session(cls, moment(THURSDAY, 379)) == THURSDAY
    for minute in (380, 389, 391, 569):
        with pytest.raises(PaperRefusal, match="before 3:50pm"):
            order_session(cls, moment(THURSDAY, minute))
    assert order_session(cls, moment(THURSDAY, 570)) == FRIDAY
    half = dt.date(2024, 11, 29)
    with pytest.raises(PaperRefusal, match="before 12:50pm"):
        order_session(cls, calendar.session_close(half) - dt.timedelta(minutes=10))


def test_extended_hours_last_until_eight() -> None:
    with paper(DAY_LONG) as rig:
        order = rig.limit("XYZ", "buy", 1, 50.0, extended_hours=True)
        assert order.extended_hours
        assert order.status is OrderStatus.NEW  # an hour before the open it is live already
        assert rig.at(THURSDAY, 629).order(order).status is OrderStatus.NEW
        assert rig.at(THURSDAY, 630).order(order).status is OrderStatus.EXPIRED
        queued = rig.limit("XYZ", "buy", 1, 103.0, "gtc", extended_hours=True)
        assert queued.status is OrderStatus.ACCEPTED
        assert outcome(rig.at(FRIDAY, 0), queued) == ("filled", "102")


# --- notional orders ---------------------------------------------------------------------------


def notional(rig: Rig, side: str, amount: float) -> Any:
    return rig.client.submit_order(
        MarketOrderRequest(
            symbol="XYZ", notional=amount, side=OrderSide(side), time_in_force=Tif.DAY
        )
    )


def test_a_notional_order_becomes_shares_at_its_fill() -> None:
    with paper(minutes("XYZ", (64, 64, 64, 64), (80, 80, 80, 80))) as rig:
        order = notional(rig, "buy", 1000)
        assert (order.notional, order.qty, order.filled_qty) == ("1000", None, "0")
        assert rig.client.get_account().buying_power == "199000"
        rig.at(THURSDAY, 0)
        assert rig.order(order).filled_qty == "15.625"
        assert rig.cash() == 99_000
        sold = notional(rig.at(THURSDAY, 0.5), "sell", 900)
        assert rig.at(THURSDAY, 1).order(sold).filled_qty == "11.25"
        assert rig.positions() == {"XYZ": Decimal("4.375")}


def test_a_notional_sale_never_sells_more_than_there_is() -> None:
    with paper(minutes("XYZ", (100, 100, 100, 100), (50, 50, 50, 50))) as rig:
        notional(rig, "buy", 1000)
        order = notional(rig.at(THURSDAY, 0.5), "sell", 1000)
        assert rig.at(THURSDAY, 1).order(order).filled_qty == "10"
        assert rig.positions() == {}


# --- replacing ---------------------------------------------------------------------------------


def test_replacing_an_order() -> None:
    with paper(DAY_LONG) as rig:
        old = rig.limit("XYZ", "buy", 10, 80.0, "gtc", client_order_id="old")
        change = ReplaceOrderRequest(qty=4, limit_price=100.0, client_order_id="new")
        new = rig.client.replace_order_by_id(old.id, change)
        assert (new.qty, new.limit_price, new.client_order_id) == ("4", "100", "new")
        gone = rig.order(old)
        assert (gone.status, gone.replaced_by, new.replaces) == (
            OrderStatus.REPLACED,
            new.id,
            old.id,
        )
        assert [o.id for o in rig.client.get_orders()] == [new.id]
        assert outcome(rig.at(THURSDAY, 0), new) == ("filled", "100")
        with pytest.raises(APIError, match="order is not open"):
            rig.client.replace_order_by_id(new.id, ReplaceOrderRequest(qty=5))


def test_a_refused_replacement_leaves_the_order() -> None:
    with paper(DAY_LONG) as rig:
        old = rig.limit("XYZ", "buy", 10, 80.0)
        with pytest.raises(APIError, match="insufficient buying power"):
            rig.client.replace_order_by_id(old.id, ReplaceOrderRequest(qty=100_000))
        assert rig.order(old).status is OrderStatus.ACCEPTED
        assert [o.id for o in rig.client.get_orders()] == [old.id]


# --- combinations that the service refuses -----------------------------------------------------

GOOD = {"symbol": "XYZ", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
LIMIT = {"type": "limit", "limit_price": "10"}
STOP = {"type": "stop", "stop_price": "10"}
TRAIL = {"type": "trailing_stop", "trail_price": "1"}


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"type": "stop"}, 40010001, "stop orders require a stop price"),
        (STOP | {"limit_price": "9"}, 40010001, "stop orders require a stop price"),
        ({"type": "stop_limit", "stop_price": "9"}, 40010001, "require both stop and limit price"),
        ({"type": "trailing_stop"}, 40010001, "either trail_price or trail_percent"),
        (TRAIL | {"trail_percent": "1"}, 40010001, "either trail_price or trail_percent"),
        (TRAIL | {"limit_price": "1"}, 40010001, "either trail_price or trail_percent"),
        ({"stop_price": "5"}, 40010001, "market orders require no stop or limit price"),
        (STOP | {"stop_price": "0"}, 40010001, "stop_price must be > 0"),
        (STOP | {"stop_price": "10.001"}, 42210000, "sub-penny increment"),
        (STOP | {"time_in_force": "opg"}, 42210000, "opg orders must be market or limit orders"),
        (TRAIL | {"time_in_force": "cls"}, 42210000, "cls orders must be market or limit orders"),
        ({"qty": "0.5", "time_in_force": "gtc"}, 42210000, "fractional orders must be DAY orders"),
        ({"qty": "0.5"} | TRAIL, 42210000, "fractional orders must not be trailing"),
        ({"notional": "100"}, 40010001, "only one of qty or notional"),
        ({"qty": None, "notional": "0.5"}, 40010001, "notional must be >= 1.00"),
        ({"qty": None, "notional": "10.001"}, 40010001, "limited to 2 decimal places"),
        ({"qty": None, "notional": "100"} | LIMIT, 42210000, "notional orders must be market"),
        (
            {"qty": None, "notional": "100", "time_in_force": "gtc"},
            42210000,
            "fractional orders must be DAY orders",
        ),
        ({"qty": None, "notional": "9", "side": "sell"}, 42210000, "cannot be sold short"),
        (LIMIT | {"extended_hours": "true"}, 40010001, "request body format is invalid"),
        ({"extended_hours": True}, 42210000, "must be DAY or GTC limit orders"),
        (
            LIMIT | {"extended_hours": True, "time_in_force": "opg"},
            42210000,
            "must be DAY or GTC limit orders",
        ),
    ],
)
def test_bad_combinations(change: dict[str, Any], code: int, message: str) -> None:
    with paper(DAY_LONG) as rig:
        assert message in rig.refused(422, code, **(GOOD | change))
        assert rig.get("/orders", status="all") == []
