"""The paper broker's tape and book, by hand and under random orders."""

from __future__ import annotations

import contextlib
import datetime as dt
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution import broker as port
from execution.paper_book import PaperBook
from execution.paper_hours import order_session
from execution.paper_orders import Holding, NewOrder, PaperRefusal
from execution.paper_tape import Tape
from market import calendar
from market.errors import ExecutionError
from market.schema import BAR_SCHEMA

THURSDAY, FRIDAY, MONDAY = dt.date(2025, 1, 2), dt.date(2025, 1, 3), dt.date(2025, 1, 6)


def bar(
    symbol: str, day: dt.date, minute: int, ohlc: tuple[float, float, float, float], length: int = 1
) -> dict[str, Any]:
    start = calendar.session_open(day) + dt.timedelta(minutes=minute)
    end = start + dt.timedelta(minutes=length)
    opened, high, low, close = ohlc
    row = {"symbol": symbol, "session": day, "bar_start": start, "bar_end": end, "known_at": end}
    row |= {"open": opened, "high": high, "low": low, "close": close, "volume": 1000.0}
    return row | {"vwap": close, "trades": 10}


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=BAR_SCHEMA)


def moment(day: dt.date, minute: float) -> dt.datetime:
    """Minutes after the session's open (negative: before)."""
    return calendar.session_open(day) + dt.timedelta(minutes=minute)


def test_opening_orders_are_refused_from_0928_to_1900() -> None:
    opg = port.TimeInForce.OPG
    assert order_session(opg, moment(THURSDAY, -3)) == THURSDAY
    with pytest.raises(PaperRefusal, match="9:28am"):
        order_session(opg, moment(THURSDAY, -2))
    with pytest.raises(PaperRefusal):
        order_session(opg, moment(THURSDAY, 569))
    assert order_session(opg, moment(THURSDAY, 570)) == FRIDAY
    assert order_session(opg, moment(FRIDAY, 24 * 60)) == MONDAY


# --- bars that cannot be traded against --------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "no bars"),
        ([bar("A", THURSDAY, -30, (1.0, 1.0, 1.0, 1.0))], "no bars"),
        ([bar("A", THURSDAY, 0, (1.0, 1.0, 1.0, float("nan")))], "impossible"),
        ([bar("A", THURSDAY, 0, (1.0, 0.5, 1.0, 1.0))], "impossible"),
        (
            [
                bar("A", THURSDAY, 0, (1.0, 1.0, 1.0, 1.0), 390),
                bar("A", THURSDAY, 5, (1.0, 1.0, 1.0, 1.0)),
            ],
            "overlap",
        ),
    ],
)
def test_unusable_bars_are_refused(rows: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(ExecutionError, match=problem):
        Tape(frame(*rows))


@pytest.mark.parametrize(
    ("held", "average", "traded", "price", "left", "then"),
    [
        (0, 0, 10, 100, 10, 100),
        (10, 100, 10, 110, 20, 105),
        (10, 100, -4, 110, 6, 100),
        (10, 100, -16, 110, -6, 110),
        (-10, 100, -10, 90, -20, 95),
        (-10, 100, 4, 90, -6, 100),
        (-10, 100, 16, 90, 6, 90),
    ],
)
def test_average_entry_price(
    held: int, average: int, traded: int, price: int, left: int, then: int
) -> None:
    holding = Holding("XYZ", Decimal(held), Decimal(average))
    after = holding.after(Decimal(traded), Decimal(price))
    assert (after.quantity, after.average_price_usd) == (left, then)


# --- the pure book under random orders ---------------------------------------------------------

MINUTES = st.integers(min_value=-30, max_value=420)
PRICES = st.integers(min_value=900, max_value=1100).map(lambda cents: Decimal(cents) / 100)
ORDERS = st.tuples(
    st.sampled_from([THURSDAY, FRIDAY]),
    MINUTES,
    st.sampled_from(["AAA", "BBB"]),
    st.sampled_from(list(port.Side)),
    st.integers(min_value=1, max_value=500).map(Decimal),
    st.none() | PRICES,
    st.sampled_from(list(port.TimeInForce)),
)
OHLC = st.lists(PRICES.map(float), min_size=4, max_size=4)


@st.composite
def random_bars(draw: st.DrawFn) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for symbol in ("AAA", "BBB"):
        for day in (THURSDAY, FRIDAY):
            for minute in (0, 130, 260):
                prices = draw(OHLC)
                ohlc = (prices[0], max(prices), min(prices), prices[3])
                rows.append(bar(symbol, day, minute, ohlc, 130))
    return frame(*rows)


def replay(bars: pl.DataFrame, orders: list[Any], extra_steps: list[int]) -> PaperBook:
    start, end = moment(THURSDAY, -31), moment(FRIDAY, 421)
    book = PaperBook(Tape(bars), now=start, starting_cash_usd=Decimal(20_000), account_number="PA1")
    plans: list[tuple[dt.datetime, NewOrder | None]] = []
    for day, minute, symbol, side, quantity, limit, tif in orders:
        kind = port.OrderType.MARKET if limit is None else port.OrderType.LIMIT
        new = NewOrder(symbol, side, quantity, kind, tif, limit)
        plans.append((moment(day, minute), new))
    plans += [(moment(THURSDAY, minute), None) for minute in extra_steps]
    for at, new in sorted(plans, key=lambda plan: plan[0]):
        book.advance(at)
        if new is not None:
            with contextlib.suppress(PaperRefusal):
                book.submit(new)
    book.advance(end)
    return book


@settings(max_examples=60, deadline=None)
@given(bars=random_bars(), orders=st.lists(ORDERS, max_size=12))
def test_nothing_is_created_or_lost(bars: pl.DataFrame, orders: list[Any]) -> None:
    book = replay(bars, orders, [])
    gain = Decimal(0)
    net: dict[str, Decimal] = {}
    for order in book.orders:
        assert 0 <= order.filled_quantity <= order.quantity
        assert (order.filled_quantity == order.quantity) == (
            order.status is port.OrderStatus.FILLED
        )
        if order.average_price_usd is None:
            continue
        signed = order.filled_quantity * (1 if order.side is port.Side.BUY else -1)
        mark = book.tape.mark(order.symbol, book.now)
        assert mark is not None
        gain += signed * (mark - order.average_price_usd)
        net[order.symbol] = net.get(order.symbol, Decimal(0)) + signed
        if order.limit_price_usd is not None:
            worse = order.average_price_usd - order.limit_price_usd
            assert worse <= 0 if order.side is port.Side.BUY else worse >= 0
    assert abs(book.equity_usd() - 20_000 - gain) < Decimal("1e-15")
    assert {h.symbol: h.quantity for h in book.holdings} == {s: q for s, q in net.items() if q}


@settings(max_examples=40, deadline=None)
@given(
    bars=random_bars(),
    orders=st.lists(ORDERS, max_size=8),
    steps=st.lists(st.integers(min_value=-30, max_value=1900), max_size=20),
)
def test_how_often_the_book_is_asked_changes_nothing(
    bars: pl.DataFrame, orders: list[Any], steps: list[int]
) -> None:
    once, often = replay(bars, orders, []), replay(bars, orders, steps)
    assert once.orders == often.orders
    assert once.holdings == often.holdings
    assert (once.cash_usd, once.last_equity_usd) == (often.cash_usd, often.last_equity_usd)
