"""The pure paper book under random orders: nothing is lost, and asking changes nothing."""

from __future__ import annotations

import contextlib
import datetime as dt
from decimal import ROUND_DOWN, Decimal
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from execution import broker as port
from execution.paper_actions import CorporateActions
from execution.paper_book import PaperBook
from execution.paper_conditions import PaperConditions
from execution.paper_legs import exits
from execution.paper_orders import BookOrder, NewOrder, OrderClass, PaperRefusal
from execution.paper_tape import Tape
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA
from tests.execution.paper_rig import FRIDAY, THURSDAY, bar, frame, moment

CASH = Decimal(50_000)
SYMBOLS = ("AAA", "BBB")
MINUTES = st.integers(min_value=-30, max_value=420)
PRICES = st.integers(min_value=900, max_value=1100).map(lambda cents: Decimal(cents) / 100)
VOLUMES = st.sampled_from([0.0, 5.0, 40.0, 300.0, 2000.0])
LASTING = st.sampled_from([port.TimeInForce.DAY, port.TimeInForce.GTC])
SIDES = st.sampled_from(list(port.Side))
SIZES = st.integers(min_value=1, max_value=300).map(Decimal)


@st.composite
def new_orders(draw: st.DrawFn) -> NewOrder:
    kind = draw(st.sampled_from(list(port.OrderType)))
    symbol, side = draw(st.sampled_from(SYMBOLS)), draw(SIDES)
    more: dict[str, Any] = {}
    if kind in (port.OrderType.LIMIT, port.OrderType.STOP_LIMIT):
        more["limit_price_usd"] = draw(PRICES)
    if kind in (port.OrderType.STOP, port.OrderType.STOP_LIMIT):
        more["stop_price_usd"] = draw(PRICES)
    if kind is port.OrderType.TRAILING_STOP:
        trail = draw(st.sampled_from([("trail_percent", "2.5"), ("trail_price_usd", "0.3")]))
        more[trail[0]] = Decimal(trail[1])
    plain = kind in (port.OrderType.MARKET, port.OrderType.LIMIT)
    tif = draw(st.sampled_from(list(port.TimeInForce))) if plain else draw(LASTING)
    return NewOrder(symbol, side, draw(SIZES), kind, tif, **more)


@st.composite
def notional_orders(draw: st.DrawFn) -> NewOrder:
    amount = Decimal(draw(st.integers(min_value=100, max_value=200_000))) / 100
    day, market = port.TimeInForce.DAY, port.OrderType.MARKET
    symbol, side = draw(st.sampled_from(SYMBOLS)), draw(SIDES)
    return NewOrder(symbol, side, None, market, day, notional_usd=amount)


@st.composite
def group_orders(draw: st.DrawFn) -> NewOrder:
    order_class = draw(st.sampled_from([OrderClass.BRACKET, OrderClass.OTO]))
    side, middle = draw(SIDES), draw(PRICES)
    away = [Decimal(draw(st.integers(min_value=1, max_value=60))) / 100 for _ in range(3)]
    sign = 1 if side is port.Side.BUY else -1
    kind = draw(st.sampled_from([port.OrderType.MARKET, port.OrderType.LIMIT]))
    outs = draw(st.sampled_from(["both"] if order_class is OrderClass.BRACKET else ["up", "down"]))
    stop = None if outs == "up" else middle - sign * away[1]
    limited = stop is not None and draw(st.booleans())
    return NewOrder(
        draw(st.sampled_from(SYMBOLS)),
        side,
        draw(SIZES),
        kind,
        draw(LASTING),
        limit_price_usd=middle if kind is port.OrderType.LIMIT else None,
        order_class=order_class,
        take_profit_usd=None if outs == "down" else middle + sign * away[0],
        stop_loss_usd=stop,
        stop_loss_limit_usd=stop - sign * away[2] if limited and stop is not None else None,
    )


def oco(book: PaperBook) -> NewOrder:
    """Target and stop around the price of the first position."""
    holding = book.holdings[0]
    sign = 1 if holding.quantity > 0 else -1
    price = round(book.price(holding), 2)
    return NewOrder(
        holding.symbol,
        holding.closing_side,
        abs(holding.quantity).to_integral_value(ROUND_DOWN),
        port.OrderType.LIMIT,
        port.TimeInForce.GTC,
        order_class=OrderClass.OCO,
        take_profit_usd=price + sign * Decimal("0.3"),
        stop_loss_usd=price - sign * Decimal("0.2"),
    )


PLANS = st.tuples(
    st.sampled_from([THURSDAY, FRIDAY]),
    MINUTES,
    st.one_of(
        new_orders(), group_orders(), notional_orders(), st.sampled_from(["cancel", "oco", "oco"])
    ),
)


@st.composite
def random_bars(draw: st.DrawFn) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for symbol in SYMBOLS:
        for day in (THURSDAY, FRIDAY):
            for minute in (0, 65, 130, 195, 260, 325):
                prices = [float(draw(PRICES)) for _ in range(4)]
                ohlc = (prices[0], max(prices), min(prices), prices[3])
                rows.append(bar(symbol, day, minute, ohlc, 65, draw(VOLUMES)))
    return frame(*rows)


def actions() -> CorporateActions:
    """BBB splits three for two on Friday, AAA pays 0.123 a share."""
    known = moment(THURSDAY, 0)
    split, paid = ["BBB", FRIDAY, known, 1.5], ["AAA", FRIDAY, known, 0.123]
    return CorporateActions(
        pl.DataFrame([split], schema=SPLIT_SCHEMA, orient="row"),
        pl.DataFrame([paid], schema=DIVIDEND_SCHEMA, orient="row"),
    )


def replay(
    bars: pl.DataFrame,
    plans: list[Any],
    extra_steps: list[int],
    *,
    participation: Decimal | None,
    rejects: dict[str, str] | None = None,
    acted: CorporateActions | None = None,
) -> PaperBook:
    book = PaperBook(
        Tape(bars, participation=participation),
        now=moment(THURSDAY, -31),
        starting_cash_usd=CASH,
        account_number="PA1",
        conditions=PaperConditions(late_rejects=rejects or {}),
        actions=acted,
    )
    steps: list[tuple[dt.datetime, Any]] = [(moment(d, m), what) for d, m, what in plans]
    steps += [(moment(THURSDAY, minute), None) for minute in extra_steps]
    for at, what in sorted(steps, key=lambda step: step[0]):
        book.advance(at)
        with contextlib.suppress(PaperRefusal):
            if isinstance(what, NewOrder):
                book.submit(what)
            elif what == "oco" and book.holdings and abs(book.holdings[0].quantity) >= 1:
                book.submit(oco(book))
            elif what == "cancel" and book.open_orders:
                book.cancel(book.open_orders[-1].order_id)
    book.advance(moment(FRIDAY, 421))
    return book


PARTICIPATIONS = st.sampled_from([None, Decimal("0.1"), Decimal(1)])
STEPS = st.lists(st.integers(min_value=-30, max_value=1900), max_size=20)


@settings(max_examples=150, deadline=None)
@given(random_bars(), st.lists(PLANS, max_size=12), STEPS, PARTICIPATIONS, st.booleans())
def test_how_often_the_book_is_asked_changes_nothing(
    bars: pl.DataFrame, plans: list[Any], steps: list[int], share: Decimal | None, acts: bool
) -> None:
    more: dict[str, Any] = {"participation": share, "acted": actions() if acts else None}
    once, often = replay(bars, plans, [], **more), replay(bars, plans, steps, **more)
    assert once.orders == often.orders
    assert once.holdings == often.holdings
    assert (once.cash_usd, once.last_equity_usd) == (often.cash_usd, often.last_equity_usd)
    assert once.records.activities == often.records.activities
    assert once.records.updates_since(0) == often.records.updates_since(0)


@settings(max_examples=150, deadline=None)
@given(random_bars(), st.lists(PLANS, max_size=12), PARTICIPATIONS)
def test_fills_tie_to_orders_positions_and_cash(
    bars: pl.DataFrame, plans: list[Any], share: Decimal | None
) -> None:
    book = replay(bars, plans, [], participation=share)
    net = dict.fromkeys(SYMBOLS, Decimal(0))
    cash = CASH
    filled: dict[str, Decimal] = {}
    for activity in book.records.activities:
        update = activity.update
        assert update is not None
        assert update.quantity is not None
        assert update.price_usd is not None
        order = update.order
        filled[order.order_id] = filled.get(order.order_id, Decimal(0)) + update.quantity
        net[order.symbol] += order.signed * update.quantity
        cash -= order.signed * update.quantity * update.price_usd
        assert update.position_quantity == net[order.symbol]
        assert order.filled_quantity == filled[order.order_id]
    assert book.cash_usd == cash
    assert {h.symbol: h.quantity for h in book.holdings} == {s: q for s, q in net.items() if q}
    for order in book.orders:
        assert order.filled_quantity == filled.get(order.order_id, 0)
        assert 0 <= order.filled_quantity <= order.quantity
        whole = order.filled_quantity == order.quantity and order.quantity > 0
        assert whole == (order.status is port.OrderStatus.FILLED)
        assert (order.order_id in {o.order_id for o in book.open_orders}) == order.is_open


@settings(max_examples=150, deadline=None)
@given(random_bars(), st.lists(PLANS, max_size=12), PARTICIPATIONS)
def test_no_fill_breaks_its_order_its_bar_or_its_group(
    bars: pl.DataFrame, plans: list[Any], share: Decimal | None
) -> None:
    book = replay(bars, plans, [], participation=share)
    for activity in book.records.activities:
        update = activity.update
        assert update is not None
        order, price = update.order, update.price_usd
        assert price is not None
        if order.limit_price_usd is not None:
            worse = (price - order.limit_price_usd) * order.signed
            assert worse <= 0
        # A target gets its own price, also where the whole bar was better.
        buys = order.side is port.Side.BUY
        no_better = pl.col("low") <= float(price) + 1e-9
        if not buys:
            no_better = pl.col("high") >= float(price) - 1e-9
        touching = bars.filter(
            pl.col("symbol") == order.symbol,
            pl.col("bar_start") <= update.at,
            pl.col("bar_end") >= update.at,
            pl.col("volume") > 0,
            no_better,
        )
        assert not touching.is_empty()
        if share is not None:
            assert update.quantity is not None
            assert float(update.quantity) <= touching["volume"].max() * float(share) + 1e-9  # type: ignore[operator]
    asked: dict[str, Decimal] = {}
    for update in book.records.updates_since(0):
        asked.setdefault(update.order.order_id, update.order.quantity)
    for order in book.orders:
        if order.parent is None and order.legs:
            check_group(order, asked[order.order_id])


def check_group(head: BookOrder, asked: Decimal) -> None:
    outs = exits(head.legs[0])
    taken = sum((o.filled_quantity for o in outs), Decimal(0))
    if head.order_class is OrderClass.OCO:
        assert taken <= asked
        assert sum(o.status is port.OrderStatus.FILLED for o in outs) <= 1
    else:
        assert taken <= head.filled_quantity
        if any(o.filled_quantity for o in outs):
            assert head.status is port.OrderStatus.FILLED
        assert all(o.held == (head.status is not port.OrderStatus.FILLED) for o in outs)
    if any(o.status is port.OrderStatus.FILLED for o in outs):
        assert not any(o.is_open for o in outs)
    triggered = [o for o in outs if o.triggered_at is not None]
    assert all(not o.is_open for o in outs if triggered and o not in triggered)


@settings(max_examples=60, deadline=None)
@given(random_bars(), st.lists(PLANS, max_size=8), STEPS)
def test_late_rejects_fill_nothing(bars: pl.DataFrame, plans: list[Any], steps: list[int]) -> None:
    book = replay(bars, plans, steps, participation=None, rejects={"AAA": "no"})
    for order in book.orders:
        if order.symbol == "AAA":
            assert order.filled_quantity == 0
            assert order.status is not port.OrderStatus.FILLED
            assert order.reason in (None, "no")
    assert all(h.symbol != "AAA" for h in book.holdings)
