"""Orders at a distant broker: what is unclear, what is adopted, what never leaves the house."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from execution.alpaca import AlpacaBroker
from execution.broker import OrderRequest, OrderStatus, OrderType, Side, TimeInForce
from market.errors import BrokerError, BrokerRefusal, ExecutionError
from tests.execution.distant_broker import (
    BY_ID,
    DUPLICATE,
    HTML,
    ORDERS,
    REQUEST,
    Fake,
    make,
    order,
)

# --- unclear answers to an order ---------------------------------------------------------------

UNCLEAR: dict[str, Any] = {
    "504 after acceptance": (504, HTML),
    "500 in the service's format": (500, {"code": 50010000, "message": "internal"}),
    "html with 200": (200, HTML),
    "html with 403": (403, HTML),
    "empty with 200": (200, ""),
    "cut off": (200, '{"id": "61e6'),
    "a list": (200, [order()]),
    "no id": (200, order(id=None)),
    "no status": (200, order(status="")),
    "naive time": (200, order(submitted_at="2025-01-02T14:30:00")),
    "redirect": (302, "", {"location": "/login"}),
    "duplicate id": (422, DUPLICATE),
}


@pytest.mark.parametrize("answer", UNCLEAR.values(), ids=UNCLEAR.keys())
def test_an_order_that_arrived_is_adopted(fake: Fake, broker: AlpacaBroker, answer: Any) -> None:
    fake.on("POST", ORDERS, answer)
    fake.on("GET", BY_ID, (200, order()))
    adopted = broker.submit(REQUEST)
    assert adopted.broker_order_id == order()["id"]
    assert fake.count("POST") == 1
    assert fake.seen[-1][2] == {"client_order_id": "one"}


@pytest.mark.parametrize("answer", UNCLEAR.values(), ids=UNCLEAR.keys())
def test_an_order_that_is_not_found_is_unclear(
    fake: Fake, broker: AlpacaBroker, answer: Any
) -> None:
    fake.on("POST", ORDERS, answer)
    with pytest.raises(BrokerError, match=r"'one' is unclear.*repeat the call with the same"):
        broker.submit(REQUEST)


def test_a_lookup_that_fails_too_is_unclear(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("POST", ORDERS, (504, HTML))
    fake.on("GET", BY_ID, (504, HTML))
    with pytest.raises(BrokerError, match=r"looking it up failed too.*repeat the call"):
        broker.submit(REQUEST)


def test_a_timeout_after_acceptance_is_adopted(fake: Fake, url: str) -> None:
    fake.on("POST", ORDERS, None)
    fake.on("GET", BY_ID, (200, order(status="filled", filled_qty="10", filled_avg_price="99")))
    adopted = make(url, timeout_seconds=0.1).submit(REQUEST)
    assert adopted.status is OrderStatus.FILLED
    assert adopted.filled_average_price_usd == 99


def test_the_general_validation_code_is_no_duplicate(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("POST", ORDERS, (422, {"code": 40010001, "message": "qty must be > 0"}))
    with pytest.raises(BrokerRefusal, match=r"refused order 'one'.*qty must be > 0"):
        broker.submit(REQUEST)
    assert fake.count("GET") == 0


@pytest.mark.parametrize(
    "change", [{"qty": "11"}, {"side": "sell"}, {"symbol": "ABC"}, {"client_order_id": "two"}]
)
@pytest.mark.parametrize("answer", [(422, DUPLICATE), (504, HTML)], ids=["duplicate", "504"])
def test_a_different_order_under_the_id_is_refused(
    fake: Fake, broker: AlpacaBroker, answer: Any, change: dict[str, str]
) -> None:
    fake.on("POST", ORDERS, answer)
    fake.on("GET", BY_ID, (200, order(**change)))
    with pytest.raises(BrokerError, match="is not the one asked for"):
        broker.submit(REQUEST)


def test_an_answer_about_another_order_is_refused(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("POST", ORDERS, (200, order(qty="100")))
    with pytest.raises(BrokerError, match="is not the one asked for"):
        broker.submit(REQUEST)


@pytest.mark.parametrize(
    "answer",
    [(404, HTML), (404, {"message": "no route"}), (404, {"code": 40400000, "message": "no route"})],
)
def test_only_the_broker_itself_can_say_that_it_knows_no_order(
    fake: Fake, broker: AlpacaBroker, answer: Any
) -> None:
    fake.on("GET", BY_ID, answer)
    with pytest.raises(BrokerError):
        broker.find_order("one")


# --- the wire ----------------------------------------------------------------------------------


def test_numbers_travel_as_quantised_strings(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("POST", ORDERS, (200, order(qty="0.3")))
    quantity, limit = Decimal("0.30000000000000004"), Decimal("100.12999")
    broker.submit(
        OrderRequest("one", "XYZ", Side.BUY, quantity, OrderType.LIMIT, TimeInForce.DAY, limit)
    )
    assert fake.seen[-1][3] == {
        "symbol": "XYZ",
        "qty": "0.3",
        "side": "buy",
        "type": "limit",
        "time_in_force": "day",
        "client_order_id": "one",
        "limit_price": "100.12",
    }


def test_an_unknown_status_is_no_failed_order(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("POST", ORDERS, (200, order(status="teleported")))
    placed = broker.submit(REQUEST)
    assert placed.status is OrderStatus.UNKNOWN
    assert not placed.status.is_final


def test_times_are_utc_and_nanoseconds_are_cut(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("GET", BY_ID, (200, order(updated_at="2025-01-02T09:30:01.000000999-05:00")))
    found = broker.find_order("one")
    assert found is not None
    assert found.submitted_at == dt.datetime(2025, 1, 2, 14, 30, 0, 123456, dt.UTC)
    assert found.updated_at == dt.datetime(2025, 1, 2, 14, 30, 1, tzinfo=dt.UTC)


# --- cancellation ------------------------------------------------------------------------------


def test_a_cancellation_under_way_or_final_is_enough(fake: Fake, broker: AlpacaBroker) -> None:
    path = ORDERS + "/61e69015"
    fake.on("DELETE", path, (422, {"code": 42210000, "message": "order is not cancelable"}))
    fake.on("GET", path, (200, order(status="filled")), (200, order(status="pending_cancel")))
    broker.cancel("61e69015")
    broker.cancel("61e69015")
    assert (fake.count("DELETE", path), fake.count("GET", path)) == (2, 2)


@pytest.mark.parametrize("answer", [(504, HTML), (302, "", {"location": "/"}), (200, HTML)])
def test_a_cancellation_that_did_not_take_is_an_error(
    fake: Fake, broker: AlpacaBroker, answer: Any
) -> None:
    path = ORDERS + "/61e69015"
    fake.on("DELETE", path, answer)
    fake.on("GET", path, (200, order()))
    with pytest.raises(BrokerError, match="was not canceled"):
        broker.cancel("61e69015")
    assert fake.count("DELETE") == 1


# --- orders with legs --------------------------------------------------------------------------

LEGS = [
    order(**{"id": "l1", "client_order_id": "leg-1", "side": "sell", "status": "held"}),
    order(**{"id": "l2", "client_order_id": "leg-2", "side": "sell", "status": "held"}),
]
BRACKET = replace(REQUEST, take_profit_usd=Decimal("110.004"), stop_loss_usd=Decimal("95.004"))


def test_a_bracket_travels_with_its_exits(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("POST", ORDERS, (200, order(**{"order_class": "bracket", "legs": LEGS})))
    placed = broker.submit(BRACKET)
    (body,) = [body for method, _, _, body in fake.seen if method == "POST"]
    assert body["order_class"] == "bracket"
    assert body["take_profit"] == {"limit_price": "110.01"}
    assert body["stop_loss"] == {"stop_price": "95.01"}
    assert [leg.client_order_id for leg in placed.legs] == ["leg-1", "leg-2"]


def test_legs_that_were_not_told_are_asked_for(fake: Fake, broker: AlpacaBroker) -> None:
    bare = order(**{"order_class": "bracket", "legs": None})
    fake.on("POST", ORDERS, (200, bare))
    fake.on("GET", BY_ID, (200, bare))
    fake.on("GET", f"{ORDERS}/{bare['id']}", (200, bare | {"legs": LEGS}))
    assert len(broker.submit(BRACKET).legs) == 2
    assert fake.seen[-1][2] == {"nested": "true"}
    assert fake.count("POST") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"time_in_force": TimeInForce.OPG},
        {"quantity": Decimal("1.5")},
        {"order_type": OrderType.STOP, "stop_price_usd": Decimal(5), "limit_price_usd": None},
        {"order_type": OrderType.LIMIT, "limit_price_usd": Decimal(5), "extended_hours": True},
    ],
)
def test_exits_that_the_service_does_not_take_are_never_sent(
    fake: Fake, broker: AlpacaBroker, change: dict[str, Any]
) -> None:
    with pytest.raises(ExecutionError, match="target or a stop of its own"):
        broker.submit(replace(BRACKET, **change))
    assert not fake.seen


@pytest.mark.parametrize(
    ("kind", "prices"),
    [
        (OrderType.MARKET, {"limit_price_usd": Decimal(5)}),
        (OrderType.LIMIT, {}),
        (OrderType.STOP, {"limit_price_usd": Decimal(5)}),
        (OrderType.STOP_LIMIT, {"stop_price_usd": Decimal(5)}),
        (OrderType.TRAILING_STOP, {"stop_price_usd": Decimal(5)}),
        (OrderType.STOP, {"stop_price_usd": Decimal(5), "trail_percent": Decimal(1)}),
    ],
)
def test_a_type_has_its_own_prices_and_no_others(
    fake: Fake, broker: AlpacaBroker, kind: OrderType, prices: dict[str, Decimal]
) -> None:
    bare = replace(REQUEST, order_type=kind, limit_price_usd=None)
    with pytest.raises(ExecutionError, match="do not agree"):
        broker.submit(replace(bare, **prices))
    assert not fake.seen
