"""Closing everything that Isobar owns, because a person said so.

The orders are journalled like any others, beside the newest plan, and leave while trading is
halted: they are the one thing that a halt still sends. Foreign positions are left alone.
"""

from __future__ import annotations

import datetime as dt
from decimal import ROUND_DOWN, Decimal

import sqlalchemy as sa

from execution.broker import Broker, Clock, OrderType, Side, TimeInForce
from execution.dispatch import adopt_order, send_plan, sync_orders
from execution.holdings import own_quantities
from execution.intents import FLATTEN_ATTEMPT, OrderIntent, client_order_id
from execution.journal import JournalledOrder, newest_plan, pending_orders, read_plan
from execution.journal_entries import append_orders
from execution.order_timing import time_in_force_at
from execution.state import TradingState, current_state
from execution.targets import TargetReason
from market.errors import BrokerError, ExecutionError
from market.ledger import Ledger
from market.ledger_tables import orders


def flatten(ledger: Ledger, broker: Broker, now: dt.datetime) -> list[JournalledOrder]:
    """Cancel Isobar's open orders and close its positions; calling again carries it on.

    Parameters
    ----------
    ledger, broker
        The journal and the account.
    now : datetime
        Aware.

    Returns
    -------
    list of JournalledOrder
        The closing orders as they stand. A position whose open order could not be canceled yet is
        closed by the next call.

    Raises
    ------
    ExecutionError
        When trading is not halted: something else could open again what is being closed.
    BrokerError
        When the broker is out of reach; what is journalled is carried on by the next call.
    """
    if current_state(ledger) is not TradingState.HALTED:
        raise ExecutionError(
            "positions are closed only while trading is halted",
            got=current_state(ledger).value,
            allowed=TradingState.HALTED.value,
            remedy="halt trading first",
        )
    sync_orders(ledger, broker, now)
    _cancel_all(ledger, broker, now)
    own = own_quantities(ledger)
    busy = {o.intent.symbol for o in pending_orders(ledger)}
    with ledger.snapshot() as connection:
        newest = newest_plan(connection)
    if newest is None:
        return []
    plan_id, batch_id = newest
    clock = broker.clock()
    closing = [
        _closing(ledger, batch_id, symbol, quantity, clock)
        for symbol, quantity in own.items()
        if symbol not in busy and not _is_under_way(ledger, symbol)
    ]
    append_orders(ledger, plan_id, [c for c in closing if c is not None], now)
    plans_of = {o.plan_id for o in _flattening(ledger)}
    for one in sorted(plans_of):
        send_plan(ledger, broker, one, now)
    sync_orders(ledger, broker, now)
    return _flattening(ledger)


def _cancel_all(ledger: Ledger, broker: Broker, now: dt.datetime) -> None:
    for order in pending_orders(ledger):
        if order.intent.reason is TargetReason.FLATTEN or order.broker_order_id is None:
            continue
        try:
            broker.cancel(order.broker_order_id)
        except BrokerError:
            continue  # its symbol stays busy, and the next call tries again
        found = broker.find_order(order.intent.client_order_id)
        if found is not None:
            adopt_order(ledger, found, now)


def _flattening(ledger: Ledger, symbol: str | None = None) -> list[JournalledOrder]:
    query = sa.select(orders.c.plan_id).where(orders.c.reason == TargetReason.FLATTEN.value)
    found = [
        order
        for plan_id in sorted({r["plan_id"] for r in ledger.rows(query)})
        for order in read_plan(ledger, plan_id).orders
        if order.intent.reason is TargetReason.FLATTEN
    ]
    return [o for o in found if symbol is None or o.intent.symbol == symbol]


def _is_under_way(ledger: Ledger, symbol: str) -> bool:
    return any(not o.state.is_final for o in _flattening(ledger, symbol))


def _closing(
    ledger: Ledger, batch_id: str, symbol: str, quantity: Decimal, clock: Clock
) -> OrderIntent | None:
    """Return the order that closes a position: fractions only in the session."""
    side = Side.SELL if quantity > 0 else Side.BUY
    stands = time_in_force_at(clock)
    size = abs(quantity)
    if stands is not TimeInForce.DAY or not clock.is_open:
        size = size.quantize(Decimal(1), rounding=ROUND_DOWN)
    if size == 0:
        return None
    attempt = FLATTEN_ATTEMPT + len(_flattening(ledger, symbol))
    return OrderIntent(
        client_order_id=client_order_id(batch_id, symbol, side, 1, attempt),
        symbol=symbol,
        side=side,
        quantity=size,
        order_type=OrderType.MARKET,
        time_in_force=stands,
        leg=1,
        attempt=attempt,
        reason=TargetReason.FLATTEN,
    )
