"""Writing the order journal: every change of an order's state is a row of the audit log."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from execution.broker import Order, OrderType, TimeInForce
from execution.denials import DenialCode
from execution.intents import OrderIntent, Plan
from execution.journal import (
    CLOSING_RECORDED,
    JournalledPlan,
    JournalState,
    find_closing,
    newest_plan,
    position_in,
    read_plan,
)
from execution.risk import Verdict
from execution.state import append_audit
from execution.targets import TargetReason, Targets
from market.errors import ExecutionError
from market.ledger import Ledger
from market.ledger_tables import audit_log, orders, plans

# Made once: to build a statement and its cache key anew takes longer than to run it.
_MOVE = (
    sa.update(orders)
    .where(
        orders.c.client_order_id == sa.bindparam("key"), orders.c.state == sa.bindparam("before")
    )
    .values(state=sa.bindparam("after"), updated_at=sa.bindparam("at"))
)
_INSERT_ORDER = orders.insert()


def record_plan(
    ledger: Ledger,
    plan: Plan,
    verdicts: Sequence[Verdict],
    targets: Targets,
    *,
    broker: str,
    now: dt.datetime,
    based_on: int | None = None,
) -> JournalledPlan:
    """Commit a plan before anything of it is sent; the first plan of a batch is its only one.

    Parameters
    ----------
    ledger : Ledger
        The journal.
    plan, verdicts, targets
        What was decided, accepted and denied.
    broker : str
        Name of the broker it is for.
    now : datetime
        When.
    based_on : int, optional
        :func:`journal_position` from before planning. When the journal has moved since, the plan
        may count orders or fills wrongly, and is refused.

    Returns
    -------
    JournalledPlan
        The one in the journal, which is an earlier one if this batch already had a plan. What
        earlier plans did not send has lapsed.

    Raises
    ------
    ExecutionError
        When the journal moved while planning; nothing is written.
    """
    with ledger.transaction() as connection:
        query = sa.select(plans.c.plan_id).where(plans.c.batch_id == plan.batch_id)
        earlier = connection.scalar(query)
        if earlier is None:
            _refuse_moved(connection, plan, based_on)
            _lapse_unsent(connection, plan.plan_id, now)
            _insert_plan(connection, plan, verdicts, targets, broker, now)
    return read_plan(ledger, plan.plan_id if earlier is None else earlier)


def record_closing(
    ledger: Ledger,
    plan: Plan,
    verdicts: Sequence[Verdict],
    targets: Targets,
    *,
    broker: str,
    now: dt.datetime,
    based_on: int | None = None,
) -> JournalledPlan | None:
    """Commit the exits of a session's close, beside the newest plan; they are planned once.

    Parameters
    ----------
    ledger, plan, verdicts, targets, broker, now, based_on
        See :func:`record_plan`.

    Returns
    -------
    JournalledPlan or None
        What :func:`execution.journal.find_closing` returns. ``None``, and nothing written, where
        no plan was ever made: then nothing is held.

    Raises
    ------
    ExecutionError
        When the journal moved while planning; nothing is written.
    """
    with ledger.transaction() as connection:
        c = audit_log.c
        query = sa.select(c.seq).where(
            c.subject == "plan", c.key == plan.batch_id, c.event == CLOSING_RECORDED
        )
        beside = newest_plan(connection)
        if beside is None:
            return None
        if connection.scalar(query) is None:
            _refuse_moved(connection, plan, based_on)
            _lapse_unsent(connection, plan.plan_id, now)
            query = sa.select(sa.func.count()).where(orders.c.plan_id == beside[0])
            first = connection.scalar(query) or 0
            ids = _insert_orders(connection, verdicts, beside[0], first, now)
            append_audit(
                connection,
                at=now,
                subject="plan",
                key=plan.batch_id,
                event=CLOSING_RECORDED,
                detail={
                    "plan_id": beside[0],
                    "as_of": plan.as_of,
                    "expires_at": plan.expires_at,
                    "broker": broker,
                    "orders": ids,
                    "decisions": [asdict(d) for d in targets.decisions],
                    "skipped": _without_order(connection, plan, now),
                },
            )
    return find_closing(ledger, plan.batch_id)


def _refuse_moved(connection: sa.Connection, plan: Plan, based_on: int | None) -> None:
    if based_on is not None and based_on != position_in(connection):
        raise ExecutionError(
            "the journal moved while the plan was made",
            got=plan.plan_id,
            allowed="a plan made on the newest journal",
            remedy="plan again; nothing was recorded",
        )


def append_orders(
    ledger: Ledger, plan_id: str, intents: Sequence[OrderIntent], now: dt.datetime
) -> None:
    """Commit orders that were not part of a plan beside it; one that is there already stays."""
    if not intents:
        return
    with ledger.transaction() as connection:
        query = sa.select(orders.c.client_order_id).where(orders.c.plan_id == plan_id)
        there = set(connection.scalars(query))
        for place, intent in enumerate(intents, start=len(there)):
            if intent.client_order_id in there:
                continue
            _insert_order(connection, intent, plan_id, place, JournalState.INTENDED, [], now)
            append_audit(
                connection,
                at=now,
                subject="order",
                key=intent.client_order_id,
                event=JournalState.INTENDED.value,
                detail={"intent": asdict(intent), "denials": []},
            )


def move_order(
    connection: sa.Connection,
    order_id: str,
    before: JournalState,
    after: JournalState,
    now: dt.datetime,
    detail: dict[str, Any],
) -> bool:
    """Change an order's state if it still is ``before``, and log it; say whether it was."""
    change = {"key": order_id, "before": before.value, "after": after.value, "at": now}
    if connection.execute(_MOVE, change).rowcount != 1:
        return False
    append_audit(
        connection,
        at=now,
        subject="order",
        key=order_id,
        event=f"{before.value} -> {after.value}",
        detail=detail,
    )
    return True


def insert_exit(
    connection: sa.Connection, parent: Mapping[str, Any], leg: Order, now: dt.datetime
) -> bool:
    """Journal a target or stop that the broker made beside an order of ours; once.

    Returns
    -------
    bool
        Whether it was new.
    """
    query = sa.select(orders.c.client_order_id).where(
        orders.c.client_order_id == leg.client_order_id
    )
    if connection.scalar(query) is not None:
        return False
    is_target = leg.order_type is OrderType.LIMIT
    intent = OrderIntent(
        client_order_id=leg.client_order_id,
        symbol=leg.symbol,
        side=leg.side,
        quantity=leg.quantity,
        order_type=leg.order_type or OrderType.STOP,
        time_in_force=TimeInForce(parent["time_in_force"]),
        leg=parent["leg"],
        attempt=parent["attempt"],
        reason=TargetReason.EXIT_TARGET if is_target else TargetReason.EXIT_STOP,
        limit_price_usd=leg.limit_price_usd,
        horizon=parent["horizon"],
        stop_price_usd=leg.stop_price_usd,
    )
    _insert_order(
        connection, intent, parent["plan_id"], parent["place"], JournalState.ACCEPTED, [], now,
        parent_id=parent["client_order_id"], broker_order_id=leg.broker_order_id,
    )  # fmt: skip
    append_audit(
        connection,
        at=now,
        subject="order",
        key=leg.client_order_id,
        event=JournalState.ACCEPTED.value,
        detail={"exit_of": parent["client_order_id"], "intent": asdict(intent)},
    )
    return True


def _lapse_unsent(connection: sa.Connection, plan_id: str, now: dt.datetime) -> None:
    unsent = sa.select(orders.c.client_order_id).where(
        orders.c.state == JournalState.INTENDED.value,
        orders.c.reason != TargetReason.FLATTEN.value,
    )
    for (order_id,) in connection.execute(unsent).all():
        move_order(
            connection,
            order_id,
            JournalState.INTENDED,
            JournalState.LAPSED,
            now,
            {"why": f"superseded by plan {plan_id}"},
        )


def _insert_plan(
    connection: sa.Connection,
    plan: Plan,
    verdicts: Sequence[Verdict],
    targets: Targets,
    broker: str,
    now: dt.datetime,
) -> None:
    row = {
        "plan_id": plan.plan_id,
        "batch_id": plan.batch_id,
        "as_of": plan.as_of,
        "created_at": now,
        "expires_at": plan.expires_at,
        "broker": broker,
        "decisions": [asdict(d) for d in targets.decisions],
        "skipped": _without_order(connection, plan, now),
    }
    connection.execute(plans.insert(), row)
    append_audit(
        connection,
        at=now,
        subject="plan",
        key=plan.plan_id,
        event="recorded",
        detail={"batch_id": plan.batch_id, "orders": len(verdicts)},
    )
    _insert_orders(connection, verdicts, plan.plan_id, 0, now)


def _without_order(connection: sa.Connection, plan: Plan, now: dt.datetime) -> list[dict[str, Any]]:
    """Log what was refused, and return it with what was skipped, as a plan keeps them."""
    for one in plan.refused:
        append_audit(
            connection,
            at=now,
            subject="denial",
            key=one.symbol,
            event=one.code.value,
            detail={"batch_id": plan.batch_id, "detail": one.detail},
        )
    return [asdict(s) for s in (*plan.skipped, *plan.refused)]


def _insert_orders(
    connection: sa.Connection,
    verdicts: Sequence[Verdict],
    plan_id: str,
    first: int,
    now: dt.datetime,
) -> list[str]:
    """Journal orders and verdicts from a place on; return the ids of those with a row."""
    ids: list[str] = []
    for place, verdict in enumerate(verdicts, start=first):
        intent = verdict.intent
        state = JournalState.INTENDED if verdict.accepted else JournalState.DENIED
        denials = [asdict(d) for d in verdict.denials]
        # A duplicate has no row of its own: its identity is taken. The audit log tells of it.
        if all(d.code is not DenialCode.DUPLICATE for d in verdict.denials):
            _insert_order(connection, intent, plan_id, place, state, denials, now)
            ids.append(intent.client_order_id)
        append_audit(
            connection,
            at=now,
            subject="order",
            key=intent.client_order_id,
            event=state.value,
            detail={"intent": asdict(intent), "denials": denials},
        )
    return ids


def _insert_order(
    connection: sa.Connection,
    intent: OrderIntent,
    plan_id: str,
    place: int,
    state: JournalState,
    denials: list[dict[str, Any]],
    now: dt.datetime,
    *,
    parent_id: str | None = None,
    broker_order_id: str | None = None,
) -> None:
    fields = {
        **_plain(intent),
        "cancels": list(intent.cancels),
        "plan_id": plan_id,
        "place": place,
        "denials": denials,
        "state": state.value,
        "filled_quantity": Decimal(0),
        "updated_at": now,
        "parent_id": parent_id,
        "broker_order_id": broker_order_id,
    }
    connection.execute(_INSERT_ORDER, fields)


def _plain(intent: OrderIntent) -> dict[str, Any]:
    # Drivers other than SQLite's store an enumeration by its name.
    return {k: v.value if isinstance(v, StrEnum) else v for k, v in asdict(intent).items()}
