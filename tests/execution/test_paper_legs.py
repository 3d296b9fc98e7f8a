"""Brackets, OCOs and OTOs of the paper broker, under an unmodified client."""

from __future__ import annotations

import warnings
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from execution.paper_conditions import PaperConditions
from tests.execution.paper_rig import FRIDAY, THURSDAY, Rig, bar, frame, minutes, paper

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"websockets\.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.trading.enums import OrderClass, OrderSide, QueryOrderStatus
    from alpaca.trading.enums import TimeInForce as Tif
    from alpaca.trading.requests import (
        GetOrdersRequest,
        LimitOrderRequest,
        ReplaceOrderRequest,
        StopLossRequest,
        TakeProfitRequest,
    )

CALM = (100.0, 101.0, 99.0, 100.0)


def bracket(rig: Rig, side: str = "buy", tif: str = "day", **more: Any) -> Any:
    """Ten at market; a long one has its target at 110 and its stop at 90."""
    up, down = (110, 90) if side == "buy" else (90, 110)
    exits = {"take_profit": TakeProfitRequest(limit_price=up)}
    exits["stop_loss"] = StopLossRequest(stop_price=down)
    asked = {"order_class": OrderClass.BRACKET} | exits | more
    return rig.market("XYZ", side, 10, tif, **asked)


def legs(rig: Rig, order: Any) -> dict[str, tuple[str, str | None]]:
    found = rig.order(order, nested=True).legs
    return {leg.type.value: (leg.status.value, leg.filled_avg_price) for leg in found}


def test_a_bracket_is_three_orders_and_its_legs_wait() -> None:
    with paper(minutes("XYZ", CALM, CALM)) as rig:
        order = bracket(rig, client_order_id="mine")
        target, stop = order.legs
        assert order.order_class is OrderClass.BRACKET
        assert (target.type.value, target.limit_price, target.stop_price) == ("limit", "110", None)
        assert (stop.type.value, stop.limit_price, stop.stop_price) == ("stop", None, "90")
        assert {leg.side.value for leg in order.legs} == {"sell"}
        assert {leg.qty for leg in order.legs} == {"10"}
        assert {leg.order_class for leg in order.legs} == {OrderClass.BRACKET}
        assert {leg.time_in_force for leg in order.legs} == {Tif.DAY}
        assert len({o.client_order_id for o in (order, target, stop)}) == 3
        assert rig.legs(order) == [("limit", "held"), ("stop", "held")]
        assert rig.order(order).legs is None
        assert rig.client.get_account().buying_power == "199000"  # legs reserve nothing
        flat = rig.client.get_orders(GetOrdersRequest())
        assert [o.id for o in flat] == [stop.id, target.id, order.id]
        assert rig.client.get_order_by_client_id(str(target.client_order_id)).id == target.id
        (rolled,) = rig.client.get_orders(GetOrdersRequest(nested=True))
        assert [leg.id for leg in rolled.legs] == [target.id, stop.id]


def test_the_legs_live_once_the_entry_has_filled_and_bind_its_shares_once() -> None:
    with paper(minutes("XYZ", CALM, CALM)) as rig:
        order = bracket(rig)
        rig.at(THURSDAY, 0)
        assert rig.order(order).status.value == "filled"
        assert rig.legs(order) == [("limit", "new"), ("stop", "new")]
        assert rig.client.get_open_position("XYZ").qty_available == "0"
        answer = rig.post(symbol="XYZ", qty="1", side="sell", type="market", time_in_force="day")
        assert answer.status_code == 403
        body = answer.json()
        assert (body["existing_qty"], body["held_for_orders"], body["available"]) == (
            "10",
            "10",
            "0",
        )
        assert body["related_orders"] == [str(leg.id) for leg in order.legs]
        (rolled,) = rig.client.get_orders(GetOrdersRequest(nested=True))
        assert rolled.id == order.id  # filled, and still open as a group
        closed = GetOrdersRequest(status=QueryOrderStatus.CLOSED, nested=True)
        assert rig.client.get_orders(closed) == []


@pytest.mark.parametrize(
    ("then", "target", "stop", "cash"),
    [
        ((100, 111, 99, 105), ("filled", "110"), ("canceled", None), 100_100),
        ((112, 113, 111, 112), ("filled", "110"), ("canceled", None), 100_100),  # no better
        ((100, 110, 99, 105), ("new", None), ("new", None), 99_000),  # touched, not gone through
        ((100, 101, 89, 95), ("canceled", None), ("filled", "90"), 99_900),
        ((85, 86, 84, 85), ("canceled", None), ("filled", "85"), 99_850),
        ((100, 115, 85, 100), ("canceled", None), ("filled", "90"), 99_900),  # both: the stop
        ((112, 113, 85, 90), ("canceled", None), ("filled", "90"), 99_900),  # both: the stop
    ],
)
def test_one_exit_cancels_the_other(
    then: tuple[float, float, float, float], target: Any, stop: Any, cash: int
) -> None:
    with paper(minutes("XYZ", CALM, then)) as rig:
        order = bracket(rig)
        rig.at(THURSDAY, 2)
        assert legs(rig, order) == {"limit": target, "stop": stop}
        assert rig.cash() == cash
        assert bool(rig.positions()) == bool(rig.client.get_orders()) == (cash == 99_000)


def test_a_short_bracket_is_the_mirror() -> None:
    with paper(minutes("XYZ", CALM, (100, 112, 88, 100))) as rig:
        order = bracket(rig, "sell", "gtc")
        rig.at(THURSDAY, 2)
        assert legs(rig, order) == {"limit": ("canceled", None), "stop": ("filled", "110")}
        assert rig.cash() == 99_900


def test_an_entry_at_the_open_may_be_stopped_in_the_same_bar() -> None:
    with paper(frame(bar("XYZ", THURSDAY, 0, (100, 120, 80, 100), 390))) as rig:
        order = bracket(rig)
        rig.at(THURSDAY, 390)
        assert legs(rig, order) == {"limit": ("canceled", None), "stop": ("filled", "90")}


@pytest.mark.parametrize(
    ("low", "expected"),
    [
        (80.0, {"limit": ("canceled", None), "stop": ("filled", "90")}),
        (94.0, {"limit": ("filled", "110"), "stop": ("canceled", None)}),
    ],
)
def test_an_entry_inside_a_bar_may_be_stopped_in_it_but_reaches_no_target(
    low: float, expected: Any
) -> None:
    """The price went from 95 down to the low; whether 110 came before nobody knows."""
    bars = minutes("XYZ", (100, 120, low, 100), (112, 112, 112, 112))
    with paper(bars) as rig:
        exits = {"take_profit": TakeProfitRequest(limit_price=110)}
        exits["stop_loss"] = StopLossRequest(stop_price=90)
        order = rig.limit("XYZ", "buy", 10, 95, order_class=OrderClass.BRACKET, **exits)
        rig.at(THURSDAY, 2)
        assert legs(rig, order) == expected


def test_a_stop_gets_no_price_that_the_bar_of_its_entry_did_not_have() -> None:
    """The limit rested when the price gapped over it and over the stop."""
    with paper(minutes("XYZ", CALM, (88, 89, 87, 88), CALM)) as rig:
        exits = {"take_profit": TakeProfitRequest(limit_price=110)}
        exits["stop_loss"] = StopLossRequest(stop_price=90)
        order = rig.limit("XYZ", "buy", 10, 95, order_class=OrderClass.BRACKET, **exits)
        rig.at(THURSDAY, 2)
        assert rig.order(order).filled_avg_price == "95"
        assert legs(rig, order) == {"limit": ("canceled", None), "stop": ("filled", "88")}


def test_a_leg_inherits_its_time_in_force() -> None:
    bars = frame(bar("XYZ", THURSDAY, 0, CALM), bar("XYZ", FRIDAY, 0, (111, 111, 111, 111)))
    with paper(bars) as rig:
        day, lasting = bracket(rig, tif="day"), bracket(rig, tif="gtc")
        rig.at(THURSDAY, 390)
        assert rig.legs(day) == [("limit", "expired"), ("stop", "expired")]
        assert rig.legs(lasting) == [("limit", "new"), ("stop", "new")]
        rig.at(FRIDAY, 1)
        assert legs(rig, lasting)["limit"] == ("filled", "110")


def test_canceling_the_entry_cancels_its_legs() -> None:
    with paper(minutes("XYZ", CALM)) as rig:
        order = bracket(rig)
        rig.client.cancel_order_by_id(order.id)
        assert rig.legs(order) == [("limit", "canceled"), ("stop", "canceled")]


def test_canceling_one_leg_cancels_the_other() -> None:
    with paper(minutes("XYZ", CALM)) as rig:
        order = bracket(rig)
        rig.at(THURSDAY, 0)
        rig.client.cancel_order_by_id(order.legs[0].id)
        assert rig.legs(order) == [("limit", "canceled"), ("stop", "canceled")]
        assert rig.client.get_open_position("XYZ").qty_available == "10"


def test_cancel_all_takes_groups_whole() -> None:
    with paper(minutes("XYZ", CALM)) as rig:
        order = bracket(rig)
        assert {r.status for r in rig.client.cancel_orders()} == {200}
        assert rig.order(order).status.value == "canceled"
        assert rig.client.get_orders() == []


def test_an_entry_that_expires_takes_its_legs_along() -> None:
    with paper(frame(bar("XYZ", THURSDAY, 0, CALM), bar("ABC", FRIDAY, 0, CALM))) as rig:
        order = bracket(rig.at(THURSDAY, 0.5))
        rig.at(THURSDAY, 390)
        assert rig.order(order).status.value == "expired"
        assert rig.legs(order) == [("limit", "expired"), ("stop", "expired")]


def test_the_legs_wait_for_the_whole_entry() -> None:
    conditions = PaperConditions(participation=Decimal("0.1"))
    bars = minutes("XYZ", CALM, CALM, (100, 111, 99, 100), CALM, volume=60.0)
    with paper(bars, conditions=conditions) as rig:  # six shares a bar
        order = bracket(rig)
        rig.at(THURSDAY, 0)
        assert rig.order(order).filled_qty == "6"
        assert rig.legs(order) == [("limit", "held"), ("stop", "held")]
        rig.at(THURSDAY, 1.1)
        assert rig.legs(order) == [("limit", "new"), ("stop", "new")]
        target, stop = rig.at(THURSDAY, 3).order(order, nested=True).legs
        assert (target.status.value, target.filled_qty) == ("partially_filled", "6")
        assert (stop.status.value, stop.qty) == ("new", "4")  # adjusted to what is left
        assert rig.positions() == {"XYZ": Decimal(4)}


def test_a_stop_that_is_hit_cancels_the_target_before_it_has_filled_wholly() -> None:
    conditions = PaperConditions(participation=Decimal("0.1"))
    late = bar("XYZ", THURSDAY, 9, (111, 111, 111, 111), volume=60.0)
    bars = minutes("XYZ", CALM, CALM, (100, 115, 85, 100), volume=60.0)
    with paper(pl.concat([bars, frame(late)]), conditions=conditions) as rig:
        order = bracket(rig)
        target, stop = rig.at(THURSDAY, 3).order(order, nested=True).legs
        assert (stop.status.value, stop.filled_qty) == ("partially_filled", "6")
        assert (target.status.value, target.filled_qty) == ("canceled", "0")
        assert legs(rig.at(THURSDAY, 9.1), order)["stop"] == ("filled", "98.4")  # 6 at 90, 4 at 111


def test_both_exits_together_bind_their_shares_once() -> None:
    with paper(minutes("XYZ", CALM, CALM)) as rig:
        rig.market("XYZ", "buy", 5)
        bracket(rig)
        position = rig.at(THURSDAY, 0).client.get_open_position("XYZ")
        assert (position.qty, position.qty_available) == ("15", "5")


def test_a_target_in_parts_leaves_its_stop_one_hit_for_the_rest() -> None:
    """All in one step of the clock: what was foreseen for the stop is foreseen anew."""
    falls = [(100, 111, 99, 100), (100, 100, 85, 95), (95, 95, 95, 95), (95, 95, 95, 95)]
    bars = minutes("XYZ", CALM, CALM, CALM, CALM, *falls, volume=60.0)  # six shares a bar
    with paper(bars, conditions=PaperConditions(participation=Decimal("0.1"))) as rig:
        exits = {"take_profit": TakeProfitRequest(limit_price=110)}
        exits["stop_loss"] = StopLossRequest(stop_price=90)
        order = rig.market("XYZ", "buy", 20, order_class=OrderClass.BRACKET, **exits)
        target, stop = rig.at(THURSDAY, 390).order(order, nested=True).legs
        assert (target.status.value, target.filled_qty) == ("canceled", "6")
        rows = rig.get("/account/activities/FILL", direction="asc")
        assert [(r["qty"], r["price"]) for r in rows if r["order_id"] == str(stop.id)] == [
            ("6", "90"),
            ("6", "95"),
            ("2", "95"),
        ]
        assert rig.positions() == {}


# --- OCO and OTO -------------------------------------------------------------------------------


def oco(rig: Rig, **more: Any) -> Any:
    return rig.client.submit_order(
        LimitOrderRequest(
            symbol="XYZ",
            qty=10,
            side=OrderSide.SELL,
            time_in_force=Tif.GTC,
            order_class=OrderClass.OCO,
            take_profit=TakeProfitRequest(limit_price=110),
            stop_loss=StopLossRequest(stop_price=90, **more),
        )
    )


def test_an_oco_is_its_target_with_the_stop_below_it() -> None:
    with paper(minutes("XYZ", CALM, (100, 112, 95, 100))) as rig:
        rig.market("XYZ", "buy", 10)
        order = oco(rig.at(THURSDAY, 0.5), limit_price=89)
        assert (order.type.value, order.limit_price, order.status.value) == ("limit", "110", "new")
        (stop,) = order.legs
        assert (stop.type.value, stop.stop_price, stop.limit_price) == ("stop_limit", "90", "89")
        assert rig.client.get_open_position("XYZ").qty_available == "0"
        assert rig.at(THURSDAY, 2).order(order).filled_avg_price == "110"
        assert rig.legs(order) == [("stop_limit", "canceled")]
        assert rig.positions() == {}


def test_an_oco_stop_cancels_its_target() -> None:
    with paper(minutes("XYZ", CALM, (100, 112, 85, 100))) as rig:
        rig.market("XYZ", "buy", 10)
        order = oco(rig.at(THURSDAY, 0.5))
        assert rig.at(THURSDAY, 2).order(order).status.value == "canceled"
        assert legs(rig, order) == {"stop": ("filled", "90")}


def test_an_oto_has_one_exit() -> None:
    with paper(minutes("XYZ", CALM, (100, 100, 89, 95))) as rig:
        exits = {"stop_loss": StopLossRequest(stop_price=90, limit_price=88)}
        order = rig.market("XYZ", "buy", 10, order_class=OrderClass.OTO, **exits)
        assert rig.legs(order) == [("stop_limit", "held")]
        rig.at(THURSDAY, 2)
        assert legs(rig, order) == {"stop_limit": ("filled", "90")}


def test_a_leg_can_be_replaced_and_keeps_its_place() -> None:
    with paper(minutes("XYZ", CALM, (100, 106, 99, 100))) as rig:
        order = bracket(rig)
        target = rig.at(THURSDAY, 0.5).order(order, nested=True).legs[0]
        newer = rig.client.replace_order_by_id(target.id, ReplaceOrderRequest(limit_price=105))
        assert rig.order(order, nested=True).legs[0].id == newer.id
        assert legs(rig.at(THURSDAY, 2), order) == {
            "limit": ("filled", "105"),
            "stop": ("canceled", None),
        }


def test_a_stop_is_not_replaced_by_one_beyond_the_entry_or_the_market() -> None:
    with paper(minutes("XYZ", CALM, CALM)) as rig:
        exits = {"take_profit": TakeProfitRequest(limit_price=110)}
        exits["stop_loss"] = StopLossRequest(stop_price=90)
        order = rig.limit("XYZ", "buy", 10, 95, order_class=OrderClass.BRACKET, **exits)
        live = bracket(rig)
        rig.at(THURSDAY, 1)
        for one, price in ((order, 95), (live, 100)):
            change = ReplaceOrderRequest(stop_price=price)
            with pytest.raises(APIError, match="stop price must be less than current price"):
                rig.client.replace_order_by_id(one.legs[1].id, change)
            change = ReplaceOrderRequest(stop_price=price - 1)
            newer = rig.client.replace_order_by_id(one.legs[1].id, change)
            assert newer.status.value == ("held" if one is order else "new")


# --- refusals ----------------------------------------------------------------------------------

BRACKET = {
    "symbol": "XYZ",
    "qty": "10",
    "side": "buy",
    "type": "market",
    "time_in_force": "day",
    "order_class": "bracket",
    "take_profit": {"limit_price": "110"},
    "stop_loss": {"stop_price": "90"},
}


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"take_profit": None}, 40010001, "bracket orders require take_profit.limit_price"),
        ({"stop_loss": None}, 40010001, "bracket orders require stop_loss.stop_price"),
        (
            {"stop_loss": {"limit_price": "89"}},
            40010001,
            "bracket orders require stop_loss.stop_price",
        ),
        ({"stop_loss": "90"}, 40010001, "request body format is invalid"),
        ({"stop_loss": {"stop_price": "111"}}, 42210000, "must be > stop_loss.stop_price"),
        (
            {"take_profit": {"limit_price": "-1"}},
            40010001,
            "take_profit.limit_price must be > 0",
        ),
        ({"time_in_force": "opg"}, 40010001, "bracket orders must be DAY or GTC orders"),
        ({"type": "stop", "stop_price": "9"}, 40010001, "must be market or limit orders"),
        (
            {"type": "limit", "limit_price": "100", "extended_hours": True},
            42210000,
            "extended hours are not supported",
        ),
        ({"qty": "1.5"}, 42210000, "fractional orders must be simple orders"),
        ({"qty": None, "notional": "100"}, 42210000, "fractional orders must be simple orders"),
        (
            {"type": "limit", "limit_price": "90"},
            42210000,
            "stop_loss.stop_price must be <= base_price - 0.01",
        ),
        (
            {"type": "limit", "limit_price": "110"},
            42210000,
            "take_profit.limit_price must be >= base_price + 0.01",
        ),
        (
            {"side": "sell", "type": "limit", "limit_price": "100"},
            42210000,
            "must be < stop_loss.stop_price",
        ),
        ({"order_class": "oco"}, 40010001, "oco orders must be limit orders"),
        ({"order_class": "oco", "type": "limit"}, 42210000, "oco orders must be exit orders"),
        ({"order_class": "oto"}, 40010001, "oto orders require either"),
        ({"order_class": "simple"}, 40010001, "simple orders require no take_profit"),
        ({"order_class": "mleg"}, 40010001, "invalid order_class"),
    ],
)
def test_refused_groups(change: dict[str, Any], code: int, message: str) -> None:
    with paper(minutes("XYZ", CALM)) as rig:
        assert message in rig.refused(422, code, **(BRACKET | change))
        assert rig.get("/orders", status="all") == []


def test_stops_are_judged_against_the_market_for_a_market_entry() -> None:
    with paper(minutes("XYZ", CALM)) as rig:
        rig.at(THURSDAY, 1)
        answer = rig.post(**(BRACKET | {"stop_loss": {"stop_price": "100"}}))
        assert answer.status_code == 422
        assert answer.json()["base_price"] == "100"


def test_a_bracket_may_not_close_a_position() -> None:
    with paper(minutes("XYZ", CALM)) as rig:
        rig.market("XYZ", "buy", 10)
        rig.at(THURSDAY, 0.5)
        sale = BRACKET | {"side": "sell", "take_profit": {"limit_price": "90"}}
        message = rig.refused(422, 42210000, **(sale | {"stop_loss": {"stop_price": "110"}}))
        assert message == "bracket orders must be entry orders"
