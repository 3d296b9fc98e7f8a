"""Depth, halts and activities of the paper broker, under an unmodified client."""

from __future__ import annotations

import datetime as dt
import uuid
import warnings
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
import requests

from execution.broker import OrderType, Side, TimeInForce
from execution.paper_book import PaperBook
from execution.paper_conditions import Halt, PaperConditions
from execution.paper_orders import NewOrder
from execution.paper_tape import Tape
from market.errors import ExecutionError
from tests.execution.paper_rig import (
    FRIDAY,
    KEYS,
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
    from alpaca.trading.enums import OrderStatus
    from alpaca.trading.models import TradeActivity

TENTH = PaperConditions(participation=Decimal("0.1"))
RISING = minutes("XYZ", *[(p, p, p, p) for p in (100.0, 101.0, 102.0, 103.0)])  # 1000 shares each


# --- volume ------------------------------------------------------------------------------------


def test_an_order_takes_its_share_of_each_bar_and_the_rest_waits() -> None:
    with paper(RISING, conditions=TENTH) as rig:
        order = rig.market("XYZ", "buy", 250)
        found = rig.at(THURSDAY, 0).order(order)
        assert (found.status, found.filled_qty) == (OrderStatus.PARTIALLY_FILLED, "100")
        assert found.filled_at is None
        # At the very moment of the open what arrives comes first.
        assert rig.at(THURSDAY, 1).order(order).filled_qty == "100"
        found = rig.at(THURSDAY, 1.1).order(order)
        assert (found.filled_qty, found.filled_avg_price) == ("200", "100.5")
        found = rig.at(THURSDAY, 2.1).order(order)
        assert (found.status, found.filled_avg_price) == (OrderStatus.FILLED, "100.8")
        assert found.filled_at == moment(THURSDAY, 2)
        assert rig.cash() == 100_000 - 10_000 - 10_100 - 5_100


def test_a_limit_order_fills_in_parts_at_its_price() -> None:
    bars = minutes("XYZ", (100, 100, 95, 100), (99, 99, 95, 97), (97, 99, 97, 98))
    with paper(bars, conditions=TENTH) as rig:
        order = rig.limit("XYZ", "buy", 250, 96.0)
        assert rig.at(THURSDAY, 1).order(order).filled_qty == "100"
        found = rig.at(THURSDAY, 390).order(order)
        assert (found.status, found.filled_qty) == (OrderStatus.EXPIRED, "200")
        assert found.filled_avg_price == "96"
        assert rig.positions() == {"XYZ": Decimal(200)}


def test_a_canceled_rest_leaves_what_has_filled() -> None:
    with paper(RISING, conditions=TENTH) as rig:
        order = rig.market("XYZ", "buy", 250)
        rig.at(THURSDAY, 0).client.cancel_order_by_id(order.id)
        found = rig.at(THURSDAY, 3).order(order)
        assert (found.status, found.filled_qty) == (OrderStatus.CANCELED, "100")


@pytest.mark.parametrize(("tif", "price"), [("opg", "100"), ("cls", "103")])
def test_an_auction_fills_once_and_the_rest_expires(tif: str, price: str) -> None:
    last = frame(bar("XYZ", THURSDAY, 389, (103.0, 103.0, 103.0, 103.0)))
    with paper(RISING.vstack(last), conditions=TENTH) as rig:
        order = rig.market("XYZ", "buy", 250, tif)
        found = rig.at(THURSDAY, 390).order(order)
        assert (found.status, found.filled_qty) == (OrderStatus.EXPIRED, "100")
        assert found.filled_avg_price == price


def test_a_stop_in_parts_goes_on_as_a_market_order() -> None:
    bars = minutes("XYZ", (100, 100, 94, 96), (97, 97, 97, 97), (98, 98, 98, 98))
    with paper(bars, conditions=TENTH) as rig:
        rig.market("XYZ", "sell", 1)
        body = {"side": "sell", "type": "stop", "stop_price": "95", "qty": "250"}
        placed = rig.post(symbol="XYZ", time_in_force="day", **body).json()
        rig.at(THURSDAY, 2.1)
        found = rig.client.get_order_by_id(placed["id"])
        # The sale at the open took one share of the bar: 99 at the stop, 100 at 97, 51 at 98.
        assert (found.status, found.filled_avg_price) == (OrderStatus.FILLED, "96.412")


def test_a_bar_without_volume_fills_nothing_and_hits_nothing() -> None:
    bars = frame(
        bar("XYZ", THURSDAY, 0, (100, 100, 80, 100), volume=0.0),
        bar("XYZ", THURSDAY, 1, (101, 101, 99, 100), volume=9.0),  # trades, but under ten shares
        bar("XYZ", THURSDAY, 2, (102, 102, 102, 102)),
    )
    with paper(bars) as rig:
        order = rig.market("XYZ", "buy", 1)
        rig.limit("XYZ", "buy", 1, 90.0)
        assert rig.at(THURSDAY, 0.5).order(order).status is OrderStatus.NEW
        assert rig.at(THURSDAY, 1.1).order(order).filled_avg_price == "101"
        assert rig.at(THURSDAY, 3).positions() == {"XYZ": Decimal(1)}
    with paper(bars, conditions=TENTH) as rig:
        order = rig.market("XYZ", "buy", 1)
        assert rig.at(THURSDAY, 1.5).order(order).status is OrderStatus.NEW
        assert rig.at(THURSDAY, 2.1).order(order).filled_avg_price == "102"


def test_a_stop_is_not_hit_where_nothing_traded() -> None:
    quiet = bar("XYZ", THURSDAY, 0, (100, 100, 80, 100), volume=0.0)
    with paper(frame(quiet, bar("XYZ", THURSDAY, 1, (100, 100, 96, 100)))) as rig:
        body = {"side": "sell", "type": "stop", "stop_price": "95", "qty": "1"}
        placed = rig.post(symbol="XYZ", time_in_force="day", **body).json()
        found = rig.at(THURSDAY, 3).client.get_order_by_id(placed["id"])
        assert found.status is OrderStatus.NEW


@pytest.mark.parametrize("share", [Decimal(0), Decimal("1.1"), Decimal(-1), Decimal("NaN")])
def test_an_unusable_participation_is_refused(share: Decimal) -> None:
    with pytest.raises((ExecutionError, ArithmeticError)):
        PaperConditions(participation=share)


def test_a_bar_of_unknown_volume_is_refused() -> None:
    with pytest.raises(ExecutionError, match="volume"):
        Tape(frame(bar("XYZ", THURSDAY, 0, (1, 1, 1, 1), volume=float("nan"))))


# --- halts -------------------------------------------------------------------------------------


def test_a_halted_symbol_neither_trades_nor_takes_orders() -> None:
    halt = Halt("XYZ", moment(THURSDAY, 1), moment(THURSDAY, 3))
    with paper(RISING, conditions=PaperConditions(halts=(halt,))) as rig:
        order = rig.market("XYZ", "buy", 1)
        waiting = rig.limit("XYZ", "buy", 1, 99.5, "gtc")
        rig.at(THURSDAY, 0.5)
        assert rig.client.get_asset("XYZ").tradable
        assert rig.order(order).status is OrderStatus.FILLED
        later = rig.market("XYZ", "buy", 1)
        rig.at(THURSDAY, 2)
        assert not rig.client.get_asset("XYZ").tradable
        assert rig.order(later).status is OrderStatus.NEW
        with pytest.raises(APIError, match="asset XYZ is not tradable") as caught:
            rig.market("XYZ", "buy", 1)
        assert (caught.value.status_code, caught.value.code) == (422, 42210000)
        rig.client.cancel_order_by_id(waiting.id)  # cancels are taken
        assert rig.at(THURSDAY, 3).order(later).filled_avg_price == "103"
        assert rig.client.get_asset("XYZ").tradable


def test_a_halt_needs_a_span() -> None:
    with pytest.raises(ExecutionError, match="unusable span"):
        PaperConditions(halts=(Halt("XYZ", moment(THURSDAY, 3), moment(THURSDAY, 3)),))


# --- activities --------------------------------------------------------------------------------


def filled_rig(rig: Rig) -> Any:
    order = rig.market("XYZ", "buy", 250)
    rig.at(THURSDAY, 3)
    rig.market("XYZ", "sell", 50)
    rig.at(THURSDAY, 390)
    return order


def test_fills_are_activities() -> None:
    with paper(RISING, conditions=TENTH) as rig:
        order = filled_rig(rig)
        rows = rig.get("/account/activities/FILL", direction="asc")
        assert [TradeActivity(**row).order_id for row in rows[:3]] == [order.id] * 3
        told = ("type", "qty", "cum_qty", "leaves_qty", "price", "side", "order_status")
        assert [tuple(row[name] for name in told) for row in rows] == [
            ("partial_fill", "100", "100", "150", "100", "buy", "partially_filled"),
            ("partial_fill", "100", "200", "50", "101", "buy", "partially_filled"),
            ("fill", "50", "250", "0", "102", "buy", "filled"),
            ("fill", "50", "50", "0", "103", "sell", "filled"),
        ]
        first = rows[0]
        assert (first["activity_type"], first["symbol"]) == ("FILL", "XYZ")
        assert dt.datetime.fromisoformat(first["transaction_time"]) == moment(THURSDAY, 0)
        stamp, _, identity = first["id"].partition("::")
        assert stamp == "20250102143000000"
        assert uuid.UUID(identity)
        assert len({row["id"] for row in rows}) == 4


def test_activities_are_paged_and_filtered() -> None:
    with paper(RISING, conditions=TENTH) as rig:
        filled_rig(rig)

        def prices(**params: Any) -> list[str]:
            return [row["price"] for row in rig.get("/account/activities", **params)]

        assert prices() == ["103", "102", "101", "100"]
        page = rig.get("/account/activities/FILL", page_size=3)
        assert [row["price"] for row in page] == ["103", "102", "101"]
        assert prices(page_token=page[-1]["id"]) == ["100"]
        assert prices(after=moment(THURSDAY, 1).isoformat()) == ["103", "102"]
        assert prices(until=moment(THURSDAY, 1).isoformat()) == ["100"]
        assert prices(date=THURSDAY.isoformat(), direction="asc", page_size=1) == ["100"]
        assert prices(date=FRIDAY.isoformat()) == []
        assert prices(activity_types="DIV") == []
        assert prices(activity_types="DIV,FILL", page_size=1) == ["103"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/FFFFF", "invalid activity type: FFFFF"),
        ("?page_token=nothing", "page_token is invalid"),
        ("?page_size=101", "page_size"),
        ("?after=soon", "invalid after format"),
        ("?date=2025-01-02&after=2025-01-01", "date cannot be used with after or until"),
    ],
)
def test_bad_questions_about_activities(path: str, message: str) -> None:
    with paper(RISING) as rig:
        url = f"{rig.url}/v2/account/activities{path}"
        answer = requests.get(url, headers=KEYS, timeout=5)
        assert (answer.status_code, answer.json()["code"]) == (422, 40010001)
        assert message in answer.json()["message"]


@pytest.mark.parametrize("asked", [[], [1.0], [1.0, 1.5, 2.0]])
def test_what_rests_comes_after_what_arrived_however_often_the_book_is_asked(
    asked: list[float],
) -> None:
    bars = pl.concat([RISING, minutes("ABC", *[(50.0, 50.0, 50.0, 50.0)] * 4)])
    tape = Tape(bars, participation=Decimal("0.1"))
    book = PaperBook(
        tape,
        now=moment(THURSDAY, 0),
        starting_cash_usd=Decimal(100_000),
        account_number="P",
        conditions=TENTH,
    )
    day = TimeInForce.DAY
    book.submit(NewOrder("XYZ", Side.BUY, Decimal(250), OrderType.MARKET, day))
    book.advance(moment(THURSDAY, 0.5))
    book.submit(NewOrder("ABC", Side.BUY, Decimal(10), OrderType.MARKET, day))
    book.submit(NewOrder("XYZ", Side.BUY, Decimal(70), OrderType.MARKET, day))
    for minute in [*asked, 3.5]:
        book.advance(moment(THURSDAY, minute))
    fills = [(a.at, a.symbol, a.quantity) for a in book.records.activities]
    second, third = moment(THURSDAY, 1), moment(THURSDAY, 2)
    assert fills == [
        (moment(THURSDAY, 0), "XYZ", 100),
        (second, "ABC", 10),
        (second, "XYZ", 70),
        (second, "XYZ", 30),
        (third, "XYZ", 100),
        (moment(THURSDAY, 3), "XYZ", 20),
    ]
