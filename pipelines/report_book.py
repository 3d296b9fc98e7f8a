"""Positions, orders and plans for a report: from the broker where it can be heard."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import sqlalchemy as sa

from execution.broker import Position, Side
from execution.journal import JournalState
from market import calendar
from market.actions import per_share_of
from market.bars import splits_in_force
from market.errors import BrokerError, IsobarError
from market.ledger import Ledger
from market.ledger_tables import audit_log, fills, orders, plans, signal_batches
from market.schema import Bar
from pipelines.redaction import redact
from pipelines.resources import Stores
from reports.facts import ORDER_SCHEMA, POSITION_SCHEMA, Book, LastPlan

_JOURNAL = "Isobar's own fills"
_PRICE_SESSIONS = 10
_OPEN = {s.value for s in JournalState if s.may_fill}


@dataclass(frozen=True, slots=True)
class _Holding:
    quantity: float
    average_price_usd: float
    horizon: str | None
    valid_until: dt.datetime | None
    target_price_usd: float | None
    stop_price_usd: float | None


def read_book(stores: Stores, ledger: Ledger, known_by: dt.datetime, *, is_present: bool) -> Book:
    """Return what is held.

    Parameters
    ----------
    stores : Stores
        Broker, lake and limits.
    ledger : Ledger
        The journal.
    known_by : datetime
        Fills that were recorded later are left out.
    is_present : bool
        Whether ``known_by`` is now: the broker knows no other time, and is not asked otherwise.

    Returns
    -------
    Book
        By the broker, or by Isobar's own fills with the reason why.
    """
    own = _holdings(ledger, known_by)
    limits = stores.settings.risk
    bounds = {
        "gross_limit": float(limits.gross_share),
        "net_limit": float(limits.net_share),
    }
    problem = None
    if not is_present:
        problem = "this report is of an earlier time, and the broker knows only the present."
    elif not stores.has_broker:
        problem = "no keys for the broker are set."
    else:
        try:
            return Book(**_asked(stores, own), **bounds)
        except BrokerError as error:
            problem = redact(error.problem) + "."
    return Book(
        positions=_priced(stores, own, known_by), source=_JOURNAL, problem=problem, **bounds
    )


def _asked(stores: Stores, own: Mapping[str, _Holding]) -> dict[str, Any]:
    account = stores.broker.account()
    positions = stores.broker.positions()
    rows = [_held(p, own.get(p.symbol)) for p in sorted(positions, key=lambda p: p.symbol)]
    return {
        "positions": pl.DataFrame(rows, schema=POSITION_SCHEMA, orient="row"),
        "source": f"the broker ({stores.broker.name})",
        "cash_usd": float(account.cash_usd),
        "equity_usd": float(account.equity_usd),
        "last_equity_usd": float(account.last_equity_usd),
        "broker_orders": len(stores.broker.open_orders()),
    }


def _held(position: Position, own: _Holding | None) -> dict[str, Any]:
    return {
        "symbol": position.symbol,
        "quantity": float(position.quantity),
        "own_quantity": 0.0 if own is None else own.quantity,
        "average_price_usd": float(position.average_price_usd),
        "price_usd": float(position.current_price_usd),
        "price_at": None,
        **_rule(own),
    }


def _rule(own: _Holding | None) -> dict[str, Any]:
    names = ("horizon", "valid_until", "target_price_usd", "stop_price_usd")
    return {n: None if own is None else getattr(own, n) for n in names}


def _priced(stores: Stores, own: Mapping[str, _Holding], known_by: dt.datetime) -> pl.DataFrame:
    prices = _last_prices(stores, list(own), known_by)
    rows = [
        {
            "symbol": symbol,
            "quantity": held.quantity,
            "own_quantity": held.quantity,
            "average_price_usd": held.average_price_usd,
            "price_usd": prices.get(symbol, (None, None))[0],
            "price_at": prices.get(symbol, (None, None))[1],
            **_rule(held),
        }
        for symbol, held in own.items()
    ]
    return pl.DataFrame(rows, schema=POSITION_SCHEMA, orient="row")


def _last_prices(
    stores: Stores, symbols: list[str], known_by: dt.datetime
) -> dict[str, tuple[float, dt.datetime]]:
    if not symbols:
        return {}
    first = calendar.offset_session(calendar.latest_session(known_by), -_PRICE_SESSIONS)
    parts: list[pl.DataFrame] = []
    for table in ("bars_1d", "bars_1m"):
        try:
            if stores.lake.exists(table):
                bars = stores.lake.read_bars(table, start=first, as_of=known_by, symbols=symbols)
                parts.append(bars.select(Bar.SYMBOL, Bar.SESSION, Bar.BAR_END, Bar.CLOSE))
        except IsobarError:
            # Positions without a price are named in the report, and left out of its sums.
            continue
    if not parts:
        return {}
    newest = pl.concat(parts).sort(Bar.BAR_END).group_by(Bar.SYMBOL).last()
    last = per_share_of(newest, splits_in_force(stores.lake, known_by))
    return {s: (c, at) for s, at, c in last.select(Bar.SYMBOL, Bar.BAR_END, Bar.CLOSE).iter_rows()}


def _holdings(ledger: Ledger, known_by: dt.datetime) -> dict[str, _Holding]:
    """Return what Isobar's own fills amount to, by symbol, without those at zero."""
    f, o = fills.c, orders.c
    names = ("horizon", "valid_until", "target_price_usd", "stop_price_usd")
    query = (
        sa.select(f.symbol, f.side, f.quantity, f.price_usd, *(o[n] for n in names))
        .join_from(fills, orders, f.client_order_id == o.client_order_id)
        .where(f.recorded_at <= known_by)
        .order_by(f.filled_at, f.fill_id)
    )
    held: dict[str, _Holding] = {}
    for row in ledger.rows(query):
        signed = float(row["quantity"]) * (1 if row["side"] == Side.BUY.value else -1)
        held[row["symbol"]] = _after(held.get(row["symbol"]), signed, row)
    return {s: h for s, h in sorted(held.items()) if h.quantity}


def _after(held: _Holding | None, signed: float, row: Mapping[str, Any]) -> _Holding:
    """Return a holding after a fill: additions move its average price, reductions do not."""
    had, price = (0.0 if held is None else held.quantity), float(row["price_usd"])
    total = had + signed
    if held is not None and had * signed < 0 and had * total >= 0:
        return _Holding(total, held.average_price_usd, *_rule(held).values())
    # Opened, added to, or turned round: then all that is left was bought at this price.
    average = price
    if held is not None and had * signed > 0:
        average = (had * held.average_price_usd + signed * price) / total
    levels = (row["target_price_usd"], row["stop_price_usd"])
    target, stop = (None if v is None else float(v) for v in levels)
    return _Holding(total, average, row["horizon"], row["valid_until"], target, stop)


def read_plan(ledger: Ledger, as_of: dt.datetime, known_by: dt.datetime) -> LastPlan | None:
    """Return the newest plan of a batch up to ``as_of`` that was made by ``known_by``."""
    p, b = plans.c, signal_batches.c
    query = (
        sa.select(plans, b.run.label("run"))
        .join_from(plans, signal_batches, p.batch_id == b.batch_id)
        .where(p.as_of <= as_of, p.created_at <= known_by)
        .order_by(p.as_of.desc(), p.created_at.desc())
        .limit(1)
    )
    rows = ledger.rows(query)
    if not rows:
        return None
    row = rows[0]
    found = _orders(ledger, orders.c.plan_id == row["plan_id"], known_by)
    return LastPlan(
        batch_id=row["batch_id"],
        run=row["run"],
        as_of=row["as_of"],
        created_at=row["created_at"],
        broker=row["broker"],
        orders=found,
        skipped=dict(Counter(s["reason"] for s in row["skipped"] if "reason" in s)),
        refused=dict(Counter(s["code"] for s in row["skipped"] if "code" in s)),
    )


def read_open_orders(ledger: Ledger, known_by: dt.datetime) -> pl.DataFrame:
    """Return the orders (``ORDER_SCHEMA``) that could still fill at a moment."""
    # An order that has been final since before that moment cannot have been open at it.
    maybe = orders.c.state.in_(_OPEN) | (orders.c.updated_at > known_by)
    return _orders(ledger, maybe, known_by).filter(pl.col("state").is_in(_OPEN))


def _orders(ledger: Ledger, wanted: Any, known_by: dt.datetime) -> pl.DataFrame:
    o = orders.c
    query = (
        sa.select(orders)
        .join_from(orders, plans, o.plan_id == plans.c.plan_id)
        .where(wanted, plans.c.created_at <= known_by)
        .order_by(plans.c.as_of.desc(), o.place)
    )
    rows = ledger.rows(query)
    moved = [r["client_order_id"] for r in rows if r["updated_at"] > known_by]
    past = _states_at(ledger, moved, known_by)
    # What closes stands beside an earlier plan: what the log did not know yet was not there yet.
    rows = [r for r in rows if r["updated_at"] <= known_by or r["client_order_id"] in past]
    made = [_order(r, past.get(r["client_order_id"])) for r in rows]
    return pl.DataFrame(made, schema=ORDER_SCHEMA, orient="row")


def _states_at(
    ledger: Ledger, ids: list[str], known_by: dt.datetime
) -> dict[str, tuple[str, dt.datetime, float]]:
    """Return the state that orders were in at a moment, and since when, by the audit log."""
    if not ids:
        return {}
    a = audit_log.c
    query = (
        sa.select(a.key, a.event, a.at, a.detail)
        .where(a.subject == "order", a.key.in_(ids), a.at <= known_by)
        .order_by(a.seq)
    )
    return {
        r["key"]: (
            r["event"].rpartition(" -> ")[2],
            r["at"],
            float(r["detail"].get("filled_quantity") or 0.0),
        )
        for r in ledger.rows(query)
    }


def _order(row: Mapping[str, Any], past: tuple[str, dt.datetime, float] | None) -> dict[str, Any]:
    state, at, filled = past or (row["state"], row["updated_at"], float(row["filled_quantity"]))
    price = row["limit_price_usd"] or row["reference_price_usd"]
    return {
        "client_order_id": row["client_order_id"],
        "symbol": row["symbol"],
        "side": row["side"],
        "quantity": float(row["quantity"]),
        "filled_quantity": filled,
        "price_usd": None if price is None else float(price),
        "state": state,
        "reason": row["reason"],
        "horizon": row["horizon"],
        "denials": [d["code"] for d in row["denials"]],
        "updated_at": at,
    }
