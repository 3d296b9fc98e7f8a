"""The paper book against a slow reading of the same rules, bar by bar; also on real bars."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution.broker import OrderStatus, OrderType, Side, TimeInForce
from execution.paper_book import PaperBook
from execution.paper_conditions import PaperConditions
from execution.paper_orders import NewOrder, OrderClass, PaperRefusal
from execution.paper_tape import Tape
from market.replay_data import load_bars_file
from tests.effort import repeats
from tests.execution.paper_rig import FRIDAY, THURSDAY, moment
from tests.execution.test_paper_properties import PRICES, SIDES, random_bars

SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS", "")
Fill = tuple[dt.datetime, Decimal, int]


def by_hand(rows: list[dict[str, Any]], new: NewOrder, at: dt.datetime, share: float) -> list[Fill]:
    """Walk the bars of one symbol and fill one gtc order of whole shares."""
    buys, sign = new.side is Side.BUY, 1 if new.side is Side.BUY else -1
    left = int(new.quantity or 0)
    waits = new.order_type not in (OrderType.MARKET, OrderType.LIMIT)
    limit = None if new.limit_price_usd is None else float(new.limit_price_usd)
    level = None if new.stop_price_usd is None else float(new.stop_price_usd)
    seen = [row for row in rows if row["bar_end"] <= at]
    water = seen[-1]["close"] if seen else rows[0]["open"] if rows[0]["bar_start"] <= at else None
    fills: list[Fill] = []
    arrives = True
    for row in rows:
        if row["bar_start"] < at or row["volume"] <= 0 or not left:
            continue
        most = min(left, int(row["volume"] * share + 1e-9) if share else left)
        price, when = row["open"], row["bar_start"]
        best, worst = (row["low"], row["high"]) if buys else (row["high"], row["low"])
        fresh_stop = False
        if waits:
            if new.trail_price_usd is not None:
                trail = float(new.trail_price_usd)
                before = None if water is None else water + sign * trail
                if before is None or (price - before) * sign < 0:
                    water = price if water is None else (min if buys else max)(water, price)
                    before = water + sign * trail
                level = round(before, 4)
                water = (min if buys else max)(water, best) if water is not None else best
            assert level is not None
            if (price - level) * sign >= 0:
                waits = False
            elif (worst - level) * sign >= 0:
                waits, fresh_stop = False, True
                price, when = level, row["bar_end"]
            else:
                continue
        meets_open, arrives = arrives and not fresh_stop, False
        if limit is not None and not (meets_open and (price - limit) * sign <= 0):
            if fresh_stop:
                if (price - limit) * sign > 0:
                    continue
            elif (best - limit) * sign >= 0:
                continue
            else:
                price, when = limit, row["bar_end"]
        if most:
            fills.append((when, Decimal(repr(price)).quantize(Decimal("0.000001")), most))
            left -= most
    return fills


@st.composite
def lone_orders(draw: st.DrawFn) -> NewOrder:
    kind = draw(st.sampled_from(list(OrderType)))
    more: dict[str, Any] = {}
    if kind in (OrderType.LIMIT, OrderType.STOP_LIMIT):
        more["limit_price_usd"] = draw(PRICES)
    if kind in (OrderType.STOP, OrderType.STOP_LIMIT):
        more["stop_price_usd"] = draw(PRICES)
    if kind is OrderType.TRAILING_STOP:
        more["trail_price_usd"] = Decimal(draw(st.integers(min_value=1, max_value=80))) / 100
    quantity = Decimal(draw(st.integers(min_value=1, max_value=300)))
    return NewOrder("AAA", draw(SIDES), quantity, kind, TimeInForce.GTC, **more)


@settings(max_examples=repeats(300, 150), deadline=None)
@given(random_bars(), lone_orders(), st.integers(-30, 300), st.sampled_from([0.0, 0.1, 1.0]))
def test_one_order_fills_as_by_hand(
    bars: pl.DataFrame, new: NewOrder, minute: int, share: float
) -> None:
    at = moment(THURSDAY, minute)
    tape = Tape(bars, participation=Decimal(str(share)) if share else None)
    book = PaperBook(tape, now=at, starting_cash_usd=Decimal(50_000), account_number="P")
    with contextlib.suppress(PaperRefusal):  # a stop on the wrong side
        book.submit(new)
    if not book.orders:
        assert new.stop_price_usd is not None
        return
    book.advance(moment(FRIDAY, 391))
    found: list[Fill] = []
    for activity in book.records.activities:
        update = activity.update
        assert update is not None
        assert update.price_usd is not None
        assert update.quantity is not None
        price = update.price_usd.quantize(Decimal("0.000001"))
        found.append((update.at, price, int(update.quantity)))
    rows = bars.filter(pl.col("symbol") == "AAA").sort("bar_start").to_dicts()
    assert found == by_hand(rows, new, at, share)


# --- real bars ---------------------------------------------------------------------------------


def traded(bars: pl.DataFrame, steps: int) -> PaperBook:
    """Three hundred random orders of every kind on a real day, asked in ``steps`` steps."""
    chance = random.Random(7)
    conditions = PaperConditions(participation=Decimal("0.01"))
    session = bars["session"].min()
    assert isinstance(session, dt.date)
    tape = Tape(bars, participation=conditions.participation)
    book = PaperBook(
        tape,
        now=moment(session, -30),
        starting_cash_usd=Decimal(5_000_000),
        account_number="P",
        conditions=conditions,
    )
    moments = sorted(chance.uniform(-30, 380) for _ in range(300))
    extra = [390 * n / steps for n in range(steps)]
    for minute, orders in sorted([(m, True) for m in moments] + [(m, False) for m in extra]):
        book.advance(moment(session, minute))
        if orders:
            new = random_order(book, chance)
            with contextlib.suppress(PaperRefusal):
                book.submit(new)
    book.advance(moment(session, 391))
    return book


def random_order(book: PaperBook, chance: random.Random) -> NewOrder:
    symbol, side = chance.choice(book.tape.symbols), chance.choice(list(Side))
    sign = Decimal(1 if side is Side.BUY else -1)
    price = round(book.tape.estimate(symbol, book.now), 2)
    size = Decimal(chance.randint(1, 400))
    near = [round(price * Decimal(str(chance.uniform(0.002, 0.02))), 2) for _ in range(2)]
    kind = chance.choice(["market", "limit", "stop", "trail", "bracket", "bracket"])
    if kind == "limit":
        return NewOrder(
            symbol, side, size, OrderType.LIMIT, TimeInForce.DAY, price - sign * near[0]
        )
    if kind == "stop":
        stop = price + sign * near[0]
        return NewOrder(symbol, side, size, OrderType.STOP, TimeInForce.GTC, stop_price_usd=stop)
    if kind == "trail":
        trail = Decimal("0.7")
        more = {"trail_percent": trail}
        return NewOrder(symbol, side, size, OrderType.TRAILING_STOP, TimeInForce.DAY, **more)
    new = NewOrder(symbol, side, size, OrderType.MARKET, TimeInForce.DAY)
    if kind == "market":
        return new
    return NewOrder(
        symbol,
        side,
        size,
        OrderType.MARKET,
        TimeInForce.DAY,
        order_class=OrderClass.BRACKET,
        take_profit_usd=price + sign * near[0],
        stop_loss_usd=price - sign * near[1],
    )


@pytest.mark.real_bars
@pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS names no folder of real bars")
def test_a_real_day_ties_to_the_cent_however_often_it_is_asked() -> None:
    path = Path(SAMPLES) / "minute_99_extended_2025_01_02.parquet"
    loaded = load_bars_file(path, as_of=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)).minute
    assert loaded is not None
    bars = loaded.filter(pl.col("session") == pl.col("session").min())
    once, often = traded(bars, 1), traded(bars, 500)
    assert once.orders == often.orders
    assert once.records.activities == often.records.activities
    cash, net = Decimal(5_000_000), dict.fromkeys(once.tape.symbols, Decimal(0))
    statuses = {order.status for order in once.orders}
    assert {OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.EXPIRED} <= statuses
    for activity in once.records.activities:
        cash += activity.net_usd
        assert activity.update is not None
        net[activity.symbol] += activity.update.order.signed * activity.quantity
    assert once.cash_usd == cash
    assert {h.symbol: h.quantity for h in once.holdings} == {s: q for s, q in net.items() if q}
    exits = [o for o in once.orders if o.parent is not None and o.filled_quantity]
    assert {o.order_type for o in exits} == {OrderType.LIMIT, OrderType.STOP}
