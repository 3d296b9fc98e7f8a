"""What Isobar owns by its own fills, through splits and renames, and under which exit rules."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import sqlalchemy as sa

from execution.adjustments import Adjustment, AdjustmentKind, read_adjustments
from execution.broker import Side
from execution.day_trading import DayFill
from execution.intents import OrderIntent
from execution.journal import filled_intents
from execution.targets import HeldPosition, TargetReason
from market.ledger import Ledger
from market.ledger_tables import fills, orders

# Five sessions, with a weekend and holidays among them.
_DAY_TRADES_REACH = dt.timedelta(days=12)
_ZERO = Decimal(0)


def own_quantities(ledger: Ledger) -> dict[str, Decimal]:
    """Return what Isobar's own fills amount to, signed, without the symbols at zero.

    Splits, renames and fractions paid out that were written (:mod:`execution.adjustments`) count.
    """
    totals: dict[str, Decimal] = {}
    query = sa.select(fills.c.symbol, fills.c.side, fills.c.quantity)
    for row in ledger.rows(query):
        signed = row["quantity"] if row["side"] == Side.BUY else -row["quantity"]
        totals[row["symbol"]] = totals.get(row["symbol"], _ZERO) + signed
    for one in read_adjustments(ledger):
        totals[one.symbol] = totals.get(one.symbol, _ZERO) + one.quantity
    return {symbol: quantity for symbol, quantity in sorted(totals.items()) if quantity != 0}


def held_positions(ledger: Ledger) -> list[HeldPosition]:
    """Return what Isobar owns, each with the exit rule of the order that last added to it."""
    own = own_quantities(ledger)
    changes = read_adjustments(ledger)
    rules: dict[str, OrderIntent] = {}
    for intent, at in filled_intents(ledger):
        now_named = _follow(intent, at, changes)
        if own.get(now_named.symbol, _ZERO) * intent.signed_quantity > 0:
            rules[now_named.symbol] = now_named
    return [
        HeldPosition(
            symbol=symbol,
            quantity=quantity,
            opened_by_horizon=rules[symbol].horizon,
            valid_until=rules[symbol].valid_until,
            target_price=rules[symbol].target_price_usd,
            stop_price=rules[symbol].stop_price_usd,
        )
        for symbol, quantity in own.items()
    ]


def level_exits(ledger: Ledger) -> dict[str, dt.datetime]:
    """Return when a touched target or stop last closed each symbol.

    Of an exit that rested at the broker that is its last fill, of any other when it was planned.
    """
    touched = {TargetReason.EXIT_TARGET, TargetReason.EXIT_STOP}
    changes, at_broker = read_adjustments(ledger), _exits_filled(ledger)
    found: dict[str, dt.datetime] = {}
    for intent, planned in filled_intents(ledger):
        if intent.reason in touched:
            at = at_broker.get(intent.client_order_id, planned)
            symbol = _follow(intent, at, changes).symbol
            found[symbol] = max(at, found.get(symbol, at))
    return found


def _exits_filled(ledger: Ledger) -> dict[str, dt.datetime]:
    """Return when each exit that rested at the broker last filled, by its id."""
    query = (
        sa.select(fills.c.client_order_id, fills.c.filled_at)
        .join(orders, orders.c.client_order_id == fills.c.client_order_id)
        .where(orders.c.parent_id.is_not(None))
        .order_by(fills.c.filled_at)
    )
    return {r["client_order_id"]: r["filled_at"] for r in ledger.rows(query)}


def day_fills(ledger: Ledger, now: dt.datetime) -> list[DayFill]:
    """Return Isobar's own fills of the days in which day trades count, in order of time."""
    query = sa.select(fills).where(fills.c.filled_at >= now - _DAY_TRADES_REACH)
    rows = ledger.rows(query.order_by(fills.c.filled_at, fills.c.fill_id))
    return [DayFill(r["symbol"], Side(r["side"]), r["quantity"], r["filled_at"]) for r in rows]


def _follow(intent: OrderIntent, at: dt.datetime, changes: Sequence[Adjustment]) -> OrderIntent:
    """Return an order under the symbol, and with levels in the shares, of today."""
    for one in changes:
        if one.symbol != intent.symbol or one.effective_at <= at:
            continue
        if one.kind is AdjustmentKind.RENAME and "to" in one.detail:
            intent = replace(intent, symbol=str(one.detail["to"]))
        elif one.kind is AdjustmentKind.SPLIT:
            ratio = Decimal(one.detail["split_ratio"])
            intent = replace(
                intent,
                target_price_usd=_divided(intent.target_price_usd, ratio),
                stop_price_usd=_divided(intent.stop_price_usd, ratio),
            )
    return intent


def _divided(price: Decimal | None, ratio: Decimal) -> Decimal | None:
    return None if price is None else price / ratio
