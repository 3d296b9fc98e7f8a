"""The order journal: what Isobar wanted, was denied, sent and got, in the ledger.

An intent is committed (:mod:`execution.journal_entries`) before any request leaves. A batch has
one plan: asking again returns the journalled one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from execution.broker import Order, OrderStatus, OrderType, Side, TimeInForce
from execution.denials import DenialCode
from execution.intents import OrderIntent, Refused
from execution.risk import Denial
from execution.targets import TargetReason
from market.errors import ExecutionError
from market.hash_chain import from_utc_text
from market.ledger import Ledger
from market.ledger_tables import audit_log, fills, orders, plans


class JournalState(StrEnum):
    """States of an order in the journal.

    ``SENDING`` is committed before the request: after a crash the order may or may not exist.
    ``UNCLEAR``: the request failed and the broker could not tell. ``LAPSED``: never sent, and
    never will be. The others are the broker's own.
    """

    DENIED = "denied"
    INTENDED = "intended"
    SENDING = "sending"
    UNCLEAR = "unclear"
    LAPSED = "lapsed"
    ACCEPTED = "accepted"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    UNKNOWN = "unknown"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to the order."""
        return self in _FINAL

    @property
    def is_unresolved(self) -> bool:
        """Whether it is not known that the broker has the order."""
        return self in {JournalState.SENDING, JournalState.UNCLEAR}

    @property
    def may_fill(self) -> bool:
        """Whether the order was sent, or may have been, and is not final."""
        return not self.is_final and self is not JournalState.INTENDED


CLOSING_RECORDED = "closing recorded"
"""The event in the audit log that holds the exits of a session's close."""

_FINAL = frozenset(
    {
        JournalState.DENIED,
        JournalState.LAPSED,
        JournalState.FILLED,
        JournalState.CANCELED,
        JournalState.EXPIRED,
        JournalState.REJECTED,
    }
)


@dataclass(frozen=True, slots=True)
class JournalledOrder:
    """An intent and what became of it."""

    intent: OrderIntent
    plan_id: str
    denials: tuple[Denial, ...]
    state: JournalState
    broker_order_id: str | None
    filled_quantity: Decimal
    filled_average_price_usd: Decimal | None
    updated_at: dt.datetime
    parent_id: str | None = None


@dataclass(frozen=True, slots=True)
class JournalledPlan:
    """The plan of a batch, as it stands."""

    plan_id: str
    batch_id: str
    as_of: dt.datetime
    created_at: dt.datetime
    expires_at: dt.datetime
    broker: str
    orders: tuple[JournalledOrder, ...]
    skipped: tuple[dict[str, str], ...]
    refused: tuple[Refused, ...]


def journal_position(ledger: Ledger) -> int:
    """Return a number that grows with every change of the journal or the trading state."""
    with ledger.engine.connect() as connection:
        return position_in(connection)


def find_plan(ledger: Ledger, batch_id: str) -> JournalledPlan | None:
    """Return the plan of a batch, if it has one."""
    found = ledger.rows(sa.select(plans.c.plan_id).where(plans.c.batch_id == batch_id))
    return read_plan(ledger, found[0]["plan_id"]) if found else None


def read_plan(ledger: Ledger, plan_id: str) -> JournalledPlan:
    """Return a plan and its orders, in the order of sending.

    Raises
    ------
    ExecutionError
        When there is no such plan.
    """
    found = ledger.rows(sa.select(plans).where(plans.c.plan_id == plan_id))
    if not found:
        raise ExecutionError("unknown plan", got=plan_id, remedy="name a plan of the table 'plans'")
    row = found[0]
    query = sa.select(orders).where(orders.c.plan_id == plan_id)
    query = query.order_by(orders.c.place, orders.c.client_order_id)
    return JournalledPlan(
        plan_id=plan_id,
        batch_id=row["batch_id"],
        as_of=row["as_of"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        broker=row["broker"],
        orders=tuple(_order(r) for r in ledger.rows(query)),
        skipped=tuple(s for s in row["skipped"] if "code" not in s),
        refused=_refused(row["skipped"]),
    )


def newest_plan(connection: sa.Connection) -> tuple[str, str] | None:
    """Return the newest plan and its batch, if any plan was ever made."""
    query = sa.select(plans.c.plan_id, plans.c.batch_id).order_by(plans.c.created_at.desc())
    found = connection.execute(query.limit(1)).first()
    return None if found is None else (found[0], found[1])


def find_closing(ledger: Ledger, batch_id: str) -> JournalledPlan | None:
    """Return the exits of a session's close (``close-<session>``) as they stand, if planned.

    They stand beside the newest plan of a batch of signals, whose ``plan_id`` they carry; what
    was planned is a row of the audit log.
    """
    c = audit_log.c
    query = sa.select(c.at, c.detail).where(
        c.subject == "plan", c.key == batch_id, c.event == CLOSING_RECORDED
    )
    rows = ledger.rows(query)
    if not rows:
        return None
    at, detail = rows[0]["at"], rows[0]["detail"]
    query = sa.select(orders).where(orders.c.client_order_id.in_(detail["orders"]))
    return JournalledPlan(
        plan_id=detail["plan_id"],
        batch_id=batch_id,
        as_of=from_utc_text(detail["as_of"]),
        created_at=at,
        expires_at=from_utc_text(detail["expires_at"]),
        broker=detail["broker"],
        orders=tuple(_order(r) for r in ledger.rows(query.order_by(orders.c.place))),
        skipped=tuple(s for s in detail["skipped"] if "code" not in s),
        refused=_refused(detail["skipped"]),
    )


def pending_orders(ledger: Ledger) -> list[JournalledOrder]:
    """Return every order that was sent, or may have been, and is not final."""
    states = [s.value for s in JournalState if s.may_fill]
    query = sa.select(orders).where(orders.c.state.in_(states))
    return [_order(r) for r in ledger.rows(query.order_by(orders.c.client_order_id))]


def read_order(ledger: Ledger, client_order_id: str) -> JournalledOrder | None:
    """Return one order of the journal, if it is there."""
    query = sa.select(orders).where(orders.c.client_order_id == client_order_id)
    found = ledger.rows(query)
    return _order(found[0]) if found else None


def exits_of(ledger: Ledger, parents: Collection[str]) -> dict[str, list[JournalledOrder]]:
    """Return the targets and stops that the broker made beside these orders, by their ids."""
    query = sa.select(orders).where(orders.c.parent_id.in_(list(parents)))
    found: dict[str, list[JournalledOrder]] = {}
    for row in ledger.rows(query.order_by(orders.c.client_order_id)):
        found.setdefault(row["parent_id"], []).append(_order(row))
    return found


def unfinished_plans(ledger: Ledger, broker: str) -> list[str]:
    """Return the plans of a broker with orders that were not sent or not clearly, oldest first."""
    open_states = [
        s.value for s in (JournalState.INTENDED, JournalState.SENDING, JournalState.UNCLEAR)
    ]
    query = (
        sa.select(plans.c.plan_id)
        .join_from(plans, orders, plans.c.plan_id == orders.c.plan_id)
        .where(plans.c.broker == broker, orders.c.state.in_(open_states))
        .order_by(plans.c.created_at)
        .distinct()
    )
    return [r["plan_id"] for r in ledger.rows(query.add_columns(plans.c.created_at))]


def as_broker_order(order: JournalledOrder) -> Order:
    """Return a journalled order in the broker's words; ``UNKNOWN`` where none has answered."""
    intent, unresolved = order.intent, order.state.is_unresolved
    return Order(
        client_order_id=intent.client_order_id,
        broker_order_id=order.broker_order_id or "",
        symbol=intent.symbol,
        side=intent.side,
        quantity=intent.quantity,
        filled_quantity=order.filled_quantity,
        filled_average_price_usd=order.filled_average_price_usd,
        status=OrderStatus.UNKNOWN if unresolved else OrderStatus(order.state.value),
        submitted_at=order.updated_at,
        updated_at=order.updated_at,
        order_type=intent.order_type,
        limit_price_usd=intent.limit_price_usd,
        stop_price_usd=intent.stop_price_usd if order.parent_id else None,
        parent_id=order.parent_id,
    )


def journalled_ids(ledger: Ledger) -> set[str]:
    """Return the identity of every order that Isobar ever journalled."""
    return {r["client_order_id"] for r in ledger.rows(sa.select(orders.c.client_order_id))}


def sent_since(ledger: Ledger, moment: dt.datetime) -> int:
    """Return how many orders left, or may have, and changed since a moment."""
    never = [s.value for s in (JournalState.DENIED, JournalState.INTENDED, JournalState.LAPSED)]
    query = sa.select(sa.func.count()).where(
        orders.c.updated_at >= moment,
        orders.c.state.not_in(never),
        orders.c.parent_id.is_(None),
    )
    with ledger.engine.connect() as connection:
        return connection.scalar(query) or 0


def filled_intents(ledger: Ledger) -> list[tuple[OrderIntent, dt.datetime]]:
    """Return every order that filled at all, with the moment it was planned for, oldest first."""
    query = (
        sa.select(orders, plans.c.as_of)
        .join_from(orders, plans, orders.c.plan_id == plans.c.plan_id)
        .where(orders.c.client_order_id.in_(sa.select(fills.c.client_order_id)))
        .order_by(plans.c.as_of, plans.c.created_at, orders.c.place)
    )
    return [(_order(r).intent, r["as_of"]) for r in ledger.rows(query)]


def position_in(connection: sa.Connection) -> int:
    """Return what :func:`journal_position` does, inside a transaction."""
    return connection.scalar(sa.select(sa.func.max(audit_log.c.seq))) or 0


def _refused(rows: Sequence[Mapping[str, str]]) -> tuple[Refused, ...]:
    return tuple(
        Refused(r["symbol"], DenialCode(r["code"]), r.get("detail", ""))
        for r in rows
        if "code" in r
    )


def _order(row: dict[str, Any]) -> JournalledOrder:
    intent = OrderIntent(
        client_order_id=row["client_order_id"],
        symbol=row["symbol"],
        side=Side(row["side"]),
        quantity=row["quantity"],
        order_type=OrderType(row["order_type"]),
        time_in_force=TimeInForce(row["time_in_force"]),
        leg=row["leg"],
        attempt=row["attempt"],
        reason=TargetReason(row["reason"]),
        limit_price_usd=row["limit_price_usd"],
        reference_price_usd=row["reference_price_usd"],
        horizon=row["horizon"],
        valid_until=row["valid_until"],
        target_price_usd=row["target_price_usd"],
        stop_price_usd=row["stop_price_usd"],
        take_profit_usd=row["take_profit_usd"],
        stop_loss_usd=row["stop_loss_usd"],
        extended_hours=row["extended_hours"],
        cancels=tuple(row["cancels"]),
        planned_from=row["planned_from"],
    )
    return JournalledOrder(
        intent=intent,
        plan_id=row["plan_id"],
        denials=tuple(Denial(DenialCode(d["code"]), d["detail"]) for d in row["denials"]),
        state=JournalState(row["state"]),
        broker_order_id=row["broker_order_id"],
        filled_quantity=row["filled_quantity"],
        filled_average_price_usd=row["filled_average_price_usd"],
        updated_at=row["updated_at"],
        parent_id=row["parent_id"],
    )
