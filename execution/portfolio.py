"""What Isobar's own fills came to: positions, average cost, profit and loss, and whose it was.

Every number is worked out from fills and adjustments, with exact fractions, and rounded once at
the end. A position is made of lots, one per order that opened or added to it; what closes takes
from all of them in proportion, so that their mean is the average cost of the position. Profit and
loss of a lot belongs to the horizon and the signals of the order that opened it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import polars as pl
import sqlalchemy as sa

from execution.adjustments import Adjustment, AdjustmentKind, read_adjustments
from execution.broker import Side
from execution.intents import BASIS_POINTS, LastPrice
from market.ledger import Ledger
from market.ledger_tables import fills, orders, plans

POSITION_SCHEMA = pl.Schema(
    {
        "symbol": pl.String(),
        "quantity": pl.Float64(),
        "average_cost_usd": pl.Float64(),
        "price_usd": pl.Float64(),
        "unrealised_usd": pl.Float64(),
        "realised_usd": pl.Float64(),
        "dividends_usd": pl.Float64(),
    }
)
HORIZON_SCHEMA = pl.Schema(
    {
        "horizon": pl.String(),
        "realised_usd": pl.Float64(),
        "unrealised_usd": pl.Float64(),
        "dividends_usd": pl.Float64(),
    }
)
SIGNAL_SCHEMA = pl.Schema(
    {
        "signal_id": pl.String(),
        "realised_usd": pl.Float64(),
        "unrealised_usd": pl.Float64(),
        "dividends_usd": pl.Float64(),
    }
)
SHORTFALL_SCHEMA = pl.Schema(
    {
        "client_order_id": pl.String(),
        "symbol": pl.String(),
        "side": pl.String(),
        "filled_quantity": pl.Float64(),
        "unfilled_quantity": pl.Float64(),
        "decision_price_usd": pl.Float64(),
        "average_price_usd": pl.Float64(),
        "shortfall_bps": pl.Float64(),
        "shortfall_usd": pl.Float64(),
    }
)

_ZERO = Fraction(0)


@dataclass(frozen=True)
class Portfolio:
    """Frames of what is held and what it earned.

    Attributes
    ----------
    positions : pl.DataFrame
        ``POSITION_SCHEMA``; a symbol that was closed has quantity 0. Without a price there is no
        unrealised profit.
    by_horizon, by_signal : pl.DataFrame
        ``HORIZON_SCHEMA`` and ``SIGNAL_SCHEMA``: the same sums, dealt out. Signals that were
        netted into one order share it evenly; what belongs to none has the null of its column.
    shortfall : pl.DataFrame
        ``SHORTFALL_SCHEMA``: what orders paid beyond the price at their decision, for what was
        filled; positive is a cost (Perold 1988).
    """

    positions: pl.DataFrame
    by_horizon: pl.DataFrame
    by_signal: pl.DataFrame
    shortfall: pl.DataFrame

    @property
    def realised_usd(self) -> float:
        """Realised profit and loss and dividends of everything."""
        return float(self.positions["realised_usd"].sum()) + float(
            self.positions["dividends_usd"].sum()
        )

    @property
    def unrealised_usd(self) -> float:
        """Unrealised profit and loss of what has a price."""
        return float(self.positions["unrealised_usd"].sum())


def read_portfolio(ledger: Ledger, prices: Mapping[str, LastPrice]) -> Portfolio:
    """Work out the portfolio from the journal.

    Parameters
    ----------
    ledger : Ledger
        With fills, orders, plans and adjustments.
    prices : Mapping
        Last prices of what is held.

    Returns
    -------
    Portfolio
        As of the last fill.
    """
    books: dict[str, _Book] = {}
    for event in _events(ledger):
        if isinstance(event, _Fill):
            book = books.setdefault(event.symbol, _Book())
            book.trade(event.signed, event.price, event.origin)
        else:
            _adjust(books, event)
    worth = {s: Fraction(p.price_usd) for s, p in prices.items()}
    rows = [book.row(symbol, worth.get(symbol)) for symbol, book in sorted(books.items())]
    shares = [share for symbol, book in books.items() for share in book.shares(worth.get(symbol))]
    return Portfolio(
        positions=pl.DataFrame(rows, schema=POSITION_SCHEMA, orient="row"),
        by_horizon=_dealt([(o.horizon, parts) for o, parts in shares], HORIZON_SCHEMA),
        by_signal=_dealt([one for o, parts in shares for one in o.deal(parts)], SIGNAL_SCHEMA),
        shortfall=_shortfall(ledger),
    )


_Parts = tuple[Fraction, ...]


@dataclass(frozen=True, slots=True)
class _Origin:
    """What an order was for."""

    horizon: str | None
    signals: tuple[str, ...]

    def deal(self, parts: _Parts) -> list[tuple[str | None, _Parts]]:
        """Share what was earned among the signals, evenly."""
        names: tuple[str | None, ...] = self.signals or (None,)
        return [(name, tuple(part / len(names) for part in parts)) for name in names]


@dataclass(frozen=True, slots=True)
class _Fill:
    symbol: str
    signed: Fraction
    price: Fraction
    at: dt.datetime
    origin: _Origin


@dataclass
class _Lot:
    """What one order added and what is left of it; its earnings stay with it."""

    origin: _Origin
    quantity: Fraction
    price: Fraction
    realised: Fraction = _ZERO
    dividends: Fraction = _ZERO


@dataclass
class _Book:
    """Lots of one symbol, in the order of their opening; those that are used up keep earnings."""

    lots: list[_Lot] = field(default_factory=list[_Lot])

    @property
    def quantity(self) -> Fraction:
        return sum((lot.quantity for lot in self.lots), _ZERO)

    def trade(self, signed: Fraction, price: Fraction, origin: _Origin) -> None:
        held = self.quantity
        closing = _ZERO
        if held * signed < 0:
            closing = -held if abs(signed) >= abs(held) else signed
            self._close(-closing / held, price)
        if signed != closing:
            self._add(signed - closing, price, origin)

    def _add(self, signed: Fraction, price: Fraction, origin: _Origin) -> None:
        for lot in self.lots:
            if lot.origin == origin and lot.quantity != 0:
                total = lot.quantity + signed
                lot.price = (lot.price * lot.quantity + price * signed) / total
                lot.quantity = total
                return
        self.lots.append(_Lot(origin, signed, price))

    def _close(self, share: Fraction, price: Fraction | None) -> None:
        """Close a share of every lot; without a price at its cost."""
        for lot in self.lots:
            taken = lot.quantity * share
            lot.realised += taken * ((lot.price if price is None else price) - lot.price)
            lot.quantity -= taken

    def adjust(self, one: Adjustment) -> None:
        held, change = self.quantity, Fraction(one.quantity)
        if one.kind is AdjustmentKind.DIVIDEND:
            for lot in self.lots:
                lot.dividends += Fraction(one.cash_usd) * lot.quantity / held if held else _ZERO
        elif one.kind is AdjustmentKind.SPLIT:
            for lot in self.lots:
                lot.quantity *= (held + change) / held
                lot.price *= held / (held + change) if held + change else _ZERO
        else:
            cost = self.average or _ZERO
            paid = None
            if one.kind is AdjustmentKind.CASH_IN_LIEU and one.cash_usd:
                paid = Fraction(one.cash_usd) / -change
            if held * change < 0:
                closing = -held if abs(change) >= abs(held) else change
                self._close(-closing / held, paid)
                change -= closing
            if change:
                self._add(change, cost, _Origin(None, ()))

    @property
    def average(self) -> Fraction | None:
        held = self.quantity
        return sum((x.quantity * x.price for x in self.lots), _ZERO) / held if held else None

    def row(self, symbol: str, price: Fraction | None) -> tuple[Any, ...]:
        held, cost = self.quantity, self.average
        open_profit = None
        if held == 0:
            open_profit = 0.0
        elif price is not None and cost is not None:
            open_profit = float(held * (price - cost))
        return (
            symbol,
            float(held),
            None if cost is None else float(cost),
            None if price is None else float(price),
            open_profit,
            float(sum((x.realised for x in self.lots), _ZERO)),
            float(sum((x.dividends for x in self.lots), _ZERO)),
        )

    def shares(self, price: Fraction | None) -> Iterator[tuple[_Origin, _Parts]]:
        for lot in self.lots:
            open_profit = _ZERO if price is None else lot.quantity * (price - lot.price)
            yield lot.origin, (lot.realised, open_profit, lot.dividends)


def _adjust(books: dict[str, _Book], one: Adjustment) -> None:
    if one.kind is AdjustmentKind.RENAME:
        if "to" in one.detail and one.symbol in books:
            moved = books.pop(one.symbol)
            target = books.setdefault(str(one.detail["to"]), _Book())
            target.lots.extend(moved.lots)
        return
    books.setdefault(one.symbol, _Book()).adjust(one)


def _events(ledger: Ledger) -> list[_Fill | Adjustment]:
    """Return fills and adjustments in the order in which they happened."""
    query = (
        sa.select(fills, orders.c.horizon, orders.c.parent_id, plans.c.decisions, orders.c.plan_id)
        .join_from(fills, orders, fills.c.client_order_id == orders.c.client_order_id)
        .join(plans, plans.c.plan_id == orders.c.plan_id)
        .order_by(fills.c.filled_at, fills.c.recorded_at, fills.c.fill_id)
    )
    signals: dict[str, dict[str, tuple[str, ...]]] = {}
    events: list[_Fill | Adjustment] = []
    for row in ledger.rows(query):
        plan = row["plan_id"]
        if plan not in signals:
            signals[plan] = {d["symbol"]: tuple(d["signal_ids"]) for d in row["decisions"]}
        sign = 1 if row["side"] == Side.BUY else -1
        origin = _Origin(row["horizon"], signals[plan].get(row["symbol"], ()))
        signed, price = sign * Fraction(row["quantity"]), Fraction(row["price_usd"])
        events.append(_Fill(row["symbol"], signed, price, row["filled_at"], origin))
    events.extend(read_adjustments(ledger))
    # A change of the morning comes before the fills of that morning.
    return sorted(
        events,
        key=lambda e: (e.at, 1) if isinstance(e, _Fill) else (e.effective_at, 0),
    )


def _dealt(shares: list[tuple[str | None, _Parts]], schema: pl.Schema) -> pl.DataFrame:
    totals: dict[str | None, list[Fraction]] = {}
    for name, parts in shares:
        sums = totals.setdefault(name, [_ZERO] * len(parts))
        for k, part in enumerate(parts):
            sums[k] += part
    ordered = sorted(totals.items(), key=lambda item: (item[0] is None, item[0] or ""))
    rows = [(name, *map(float, sums)) for name, sums in ordered]
    return pl.DataFrame(rows, schema=schema, orient="row")


def _shortfall(ledger: Ledger) -> pl.DataFrame:
    query = sa.select(orders).where(
        orders.c.parent_id.is_(None), orders.c.reference_price_usd.is_not(None)
    )
    rows: list[tuple[Any, ...]] = []
    for row in ledger.rows(query.order_by(orders.c.updated_at, orders.c.client_order_id)):
        filled: Decimal = row["filled_quantity"]
        if filled == 0:
            continue
        decided, paid = row["reference_price_usd"], row["filled_average_price_usd"]
        worse = (paid - decided) * (1 if row["side"] == Side.BUY else -1)
        rows.append(
            (
                row["client_order_id"],
                row["symbol"],
                row["side"],
                float(filled),
                float(row["quantity"] - filled),
                float(decided),
                float(paid),
                float(worse / decided * BASIS_POINTS),
                float(worse * filled),
            )
        )
    return pl.DataFrame(rows, schema=SHORTFALL_SCHEMA, orient="row")
