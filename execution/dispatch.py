"""Sending what the journal holds, exactly once, and writing down what became of it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from execution.broker import Broker, Order, TimeInForce
from execution.holdings import own_quantities
from execution.journal import (
    JournalledOrder,
    JournalledPlan,
    JournalState,
    exits_of,
    pending_orders,
    read_order,
    read_plan,
)
from execution.journal_entries import insert_exit, move_order
from execution.order_timing import CLS_LEAD
from execution.state import TradingState, append_audit, current_state
from execution.targets import TargetReason
from market.errors import BrokerError, BrokerRefusal, ExecutionError
from market.ledger import Ledger
from market.ledger_tables import fills, orders

_PRICE_STEP = Decimal("0.000001")
_CLOCK_TOLERANCE = dt.timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a poll of the broker found: orders looked up, fills written, orders unknown there."""

    polled: int
    fills: int
    unknown_at_broker: tuple[str, ...]


def send_plan(ledger: Ledger, broker: Broker, plan_id: str, now: dt.datetime) -> JournalledPlan:
    """Send every accepted order of a plan that is not sent yet; safe to call again, ever.

    Parameters
    ----------
    ledger : Ledger
        The journal, which holds the plan already.
    broker : Broker
        Where to.
    plan_id : str
        From :func:`execution.journal.record_plan`.
    now : datetime
        When. Past the plan's end nothing is sent: what was not sent lapses.

    Returns
    -------
    JournalledPlan
        As it stands afterwards. ``UNCLEAR`` orders are looked up by the next call, and sent
        again with the same identity if the broker knows none.

    Raises
    ------
    ExecutionError
        When the plan is for another broker, or the broker has a different order under our id.
    """
    plan = read_plan(ledger, plan_id)
    if plan.broker != broker.name:
        raise ExecutionError(
            "the plan is for another broker",
            got=broker.name,
            allowed=plan.broker,
            remedy="connect the broker that the plan was made for",
        )
    for order in plan.orders:
        if order.state is JournalState.INTENDED:
            if (
                _may_send(ledger, plan, order, now)
                and _clear_way(ledger, broker, order, now)
                and _mark_sending(ledger, order, now)
            ):
                _submit(ledger, broker, order, now)
        elif order.state.is_unresolved:
            _resolve(ledger, broker, plan, order, now)
    return read_plan(ledger, plan_id)


def cancel_outlived(ledger: Ledger, broker: Broker, now: dt.datetime) -> int:
    """Cancel entries whose plan has ended, so that none fills in a later session; return how many.

    An entry that leaves its exits until canceled stands so long itself. What of it has not filled
    when its plan ends must not open a position on some later day.

    Raises
    ------
    BrokerError
        When the broker is out of reach; a later call goes on.
    """
    gone = 0
    for order in pending_orders(ledger):
        lasts = order.intent.time_in_force is TimeInForce.GTC and order.parent_id is None
        if not lasts or order.broker_order_id is None:
            continue
        if now >= read_plan(ledger, order.plan_id).expires_at:
            broker.cancel(order.broker_order_id)
            found = broker.find_order(order.intent.client_order_id)
            if found is not None:
                adopt_order(ledger, found, now)
            gone += 1
    return gone


def sync_orders(ledger: Ledger, broker: Broker, now: dt.datetime) -> SyncReport:
    """Poll every order of ours that may still fill, and write its status and fills.

    An order whose sending was never confirmed, that the broker does not know, lapses once its
    plan has ended; until then it is left for :func:`send_plan`.

    Raises
    ------
    BrokerError
        When the broker is out of reach; what was written before stands, and a later call goes on.
    """
    pending = pending_orders(ledger)
    if not pending:
        return SyncReport(0, 0, ())
    plans_of = {p: read_plan(ledger, p) for p in {o.plan_id for o in pending}}
    since = min(p.created_at for p in plans_of.values()) - _CLOCK_TOLERANCE
    listed = {o.client_order_id: o for o in broker.orders_since(since)}
    exits = exits_of(ledger, [o.intent.client_order_id for o in pending if o.intent.has_exits])
    written = 0
    unknown: list[str] = []
    for order in pending:
        order_id = order.intent.client_order_id
        # A listing does not say which orders belong to which: the order itself does.
        whole = not order.intent.has_exits or order_id in exits
        found = listed.get(order_id) if whole else None
        found = broker.find_order(order_id) if found is None else found
        if found is not None:
            written += adopt_order(ledger, found, now)
            continue
        unknown.append(order_id)
        why = _lapsed_because(plans_of[order.plan_id], order, now)
        if order.state.is_unresolved and why:
            _move(ledger, order, JournalState.LAPSED, now, f"unknown at the broker, and {why}")
    return SyncReport(len(pending), written, tuple(unknown))


def adopt_order(ledger: Ledger, found: Order, now: dt.datetime) -> int:
    """Write what the broker says of one of our orders; return the number of new fills.

    The targets and stops that it made beside the order are journalled with it. Repeated and
    outdated answers change nothing: the filled quantity only grows, and a final state stays.
    """
    with ledger.transaction() as connection:
        written = _adopt(connection, found, now)
        if found.legs:
            query = sa.select(orders).where(orders.c.client_order_id == found.client_order_id)
            parent = dict(connection.execute(query).mappings().one())
            for leg in found.legs:
                insert_exit(connection, parent, leg, now)
                written += _adopt(connection, leg, now)
    return written


def _adopt(connection: sa.Connection, found: Order, now: dt.datetime) -> int:
    query = sa.select(orders).where(orders.c.client_order_id == found.client_order_id)
    row = connection.execute(query).mappings().one()
    if (row["symbol"], row["side"]) != (found.symbol, found.side.value):
        raise ExecutionError(
            "the broker has a different order under our id",
            got=f"{found.side.value} {found.symbol}",
            allowed=f"{row['side']} {row['symbol']}",
            remedy="halt trading and compare the journal with the account",
        )
    before, filled = JournalState(row["state"]), row["filled_quantity"]
    grown = found.filled_quantity > filled
    if grown and found.filled_average_price_usd is None:
        return 0  # a fill without a price: the next poll has it
    # A lapsed order that the broker has after all is believed: it exists.
    settled = before.is_final and before is not JournalState.LAPSED
    after = before if settled else JournalState(found.status.value)
    if not grown and after is before and row["broker_order_id"] == found.broker_order_id:
        return 0
    if found.filled_quantity < filled and not after.is_final:
        return 0  # an answer from before the last one
    if grown:
        _insert_fill(connection, dict(row), found, now)
    values: dict[str, Any] = {
        "state": after.value,
        "broker_order_id": found.broker_order_id,
        "updated_at": now,
    }
    if grown:
        values["filled_quantity"] = found.filled_quantity
        values["filled_average_price_usd"] = found.filled_average_price_usd
    connection.execute(
        sa.update(orders).where(orders.c.client_order_id == found.client_order_id).values(**values)
    )
    append_audit(
        connection,
        at=now,
        subject="order",
        key=found.client_order_id,
        event=f"{before.value} -> {after.value}",
        detail={
            "broker_order_id": found.broker_order_id,
            "filled_quantity": found.filled_quantity,
            "why": found.reason,
        },
    )
    return int(grown)


def _may_send(
    ledger: Ledger, plan: JournalledPlan, order: JournalledOrder, now: dt.datetime
) -> bool:
    """Say whether an intended order may leave now; lapse it where it never may."""
    intent = order.intent
    state = current_state(ledger)
    if intent.reason is TargetReason.FLATTEN:
        return _still_closes(ledger, order, now)
    if why := _lapsed_because(plan, order, now):
        _move(ledger, order, JournalState.LAPSED, now, why)
        return False
    if state is TradingState.HALTED:
        return False
    if state is TradingState.REDUCING:
        own = own_quantities(ledger).get(intent.symbol, Decimal(0))
        if own * intent.signed_quantity >= 0 or intent.quantity > abs(own):
            return False
    if intent.leg == 1:
        return True
    first = _leg_before(ledger, plan, order)
    if first is not None and first.state is JournalState.FILLED:
        return True
    if first is None or first.state.is_final:
        _move(ledger, order, JournalState.LAPSED, now, "the leg before it did not fill")
    return False


def _still_closes(ledger: Ledger, order: JournalledOrder, now: dt.datetime) -> bool:
    """Say whether an order that a person asked for closes what is owned; lapse it if not."""
    own = own_quantities(ledger).get(order.intent.symbol, Decimal(0))
    if own * order.intent.signed_quantity < 0 and order.intent.quantity <= abs(own):
        return True
    _move(ledger, order, JournalState.LAPSED, now, f"the position became {own}")
    return False


def _lapsed_because(plan: JournalledPlan, order: JournalledOrder, now: dt.datetime) -> str | None:
    intent, valid_until = order.intent, order.intent.valid_until
    if not intent.outlives_plan and now >= plan.expires_at:
        return f"the plan ended at {plan.expires_at.isoformat()}"
    if valid_until is None:
        return None
    if intent.outlives_plan and intent.time_in_force is TimeInForce.CLS:
        last = valid_until - CLS_LEAD
        return f"the auction took orders until {last.isoformat()}" if now >= last else None
    return f"its time ended at {valid_until.isoformat()}" if now >= valid_until else None


def _leg_before(
    ledger: Ledger, plan: JournalledPlan, order: JournalledOrder
) -> JournalledOrder | None:
    # Read anew: the leg before may have filled while this plan was being sent.
    wanted = (order.intent.symbol, order.intent.leg - 1)
    present = read_plan(ledger, plan.plan_id).orders
    return next((o for o in present if (o.intent.symbol, o.intent.leg) == wanted), None)


def _clear_way(ledger: Ledger, broker: Broker, order: JournalledOrder, now: dt.datetime) -> bool:
    """Cancel our own exits that rest in the way; say whether the order may leave now.

    One of them may fill first. Then the position is not what was planned on, and the order
    lapses: the next batch plans on what is there.
    """
    intent = order.intent
    if not intent.cancels:
        return True
    for exit_id in intent.cancels:
        resting = read_order(ledger, exit_id)
        if resting is None or resting.state.is_final:
            continue
        try:
            broker.cancel(resting.broker_order_id or "")
            found = broker.find_order(exit_id)
        except BrokerError:
            return False  # for the next run
        if found is not None:
            adopt_order(ledger, found, now)
        if found is None or not found.status.is_final:
            return False
    own = own_quantities(ledger).get(intent.symbol, Decimal(0))
    if intent.planned_from is not None and own != intent.planned_from:
        why = f"the position became {own} while its exits were canceled"
        _move(ledger, order, JournalState.LAPSED, now, why)
        return False
    return True


def _mark_sending(ledger: Ledger, order: JournalledOrder, now: dt.datetime) -> bool:
    """Commit that the request is about to leave; ``False`` when another process was first."""
    return _move(ledger, order, JournalState.SENDING, now, "about to be sent")


def _submit(ledger: Ledger, broker: Broker, order: JournalledOrder, now: dt.datetime) -> None:
    try:
        found = broker.submit(order.intent.request())
    except BrokerRefusal as error:
        _give_up(ledger, order, JournalState.REJECTED, now, str(error))
    except BrokerError as error:
        _after_failure(ledger, broker, order, now, error)
    except ExecutionError as error:  # the adapter refused the request: nothing was sent
        _give_up(ledger, order, JournalState.LAPSED, now, f"never sent: {error}")
    else:
        adopt_order(ledger, found, now)


def _after_failure(
    ledger: Ledger,
    broker: Broker,
    order: JournalledOrder,
    now: dt.datetime,
    error: BrokerError,
) -> None:
    """The answer was unclear: ask whether the order exists, and adopt it if it does."""
    why = str(error)
    try:
        found = broker.find_order(order.intent.client_order_id)
    except BrokerError as second:
        found, why = None, f"{why}; and the look-up failed: {second}"
    if found is not None:
        adopt_order(ledger, found, now)
        return
    _give_up(ledger, order, JournalState.UNCLEAR, now, why)


def _give_up(
    ledger: Ledger, order: JournalledOrder, after: JournalState, now: dt.datetime, why: str
) -> None:
    """Move an order out of ``SENDING`` or ``UNCLEAR``, whichever it is in by now."""
    with ledger.transaction() as connection:
        for before in (JournalState.SENDING, JournalState.UNCLEAR):
            order_id = order.intent.client_order_id
            if move_order(connection, order_id, before, after, now, {"why": why}):
                return


def _resolve(
    ledger: Ledger,
    broker: Broker,
    plan: JournalledPlan,
    order: JournalledOrder,
    now: dt.datetime,
) -> None:
    """Settle an order that an earlier run left open: adopt it, send it again, or let it lapse."""
    try:
        found = broker.find_order(order.intent.client_order_id)
    except BrokerError:
        return  # it stays as it is, for the next run
    if found is not None:
        adopt_order(ledger, found, now)
    elif why := _lapsed_because(plan, order, now):
        _move(ledger, order, JournalState.LAPSED, now, f"unknown at the broker, and {why}")
    elif _may_send(ledger, plan, order, now):
        _submit(ledger, broker, order, now)


def _move(
    ledger: Ledger, order: JournalledOrder, after: JournalState, now: dt.datetime, why: str
) -> bool:
    with ledger.transaction() as connection:
        return move_order(
            connection, order.intent.client_order_id, order.state, after, now, {"why": why}
        )


def _insert_fill(
    connection: sa.Connection, row: dict[str, Any], found: Order, now: dt.datetime
) -> None:
    before, total = row["filled_quantity"], found.filled_quantity
    average = found.filled_average_price_usd or Decimal(0)
    paid_before = before * (row["filled_average_price_usd"] or Decimal(0))
    quantity = total - before
    price = ((average * total - paid_before) / quantity).quantize(_PRICE_STEP)
    fill = {
        "fill_id": f"{found.client_order_id}:{format(total.normalize(), 'f')}",
        "client_order_id": found.client_order_id,
        "symbol": found.symbol,
        "side": found.side.value,
        "quantity": quantity,
        "price_usd": price if price > 0 else average,
        "filled_at": found.updated_at,
        "recorded_at": now,
    }
    connection.execute(fills.insert(), fill)
