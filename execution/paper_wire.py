"""The paper broker's answers, written as the service writes them.

Numbers leave as strings and times in UTC. Every field that alpaca-py 0.44 requires is there;
``easy_to_borrow`` too, although the service has announced its removal.
"""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

from execution.alpaca_wire import plain
from execution.broker import OrderStatus, OrderType
from execution.paper_book import PaperBook
from execution.paper_conditions import PaperConditions
from execution.paper_hours import expires_at
from execution.paper_orders import Activity, BookOrder, Holding, OrderClass, Update
from market import calendar

_SPACE = uuid.UUID("7f0c2f3e-51c1-5a53-8f0b-2d8f64f2a7c9")
_SHOWN = Decimal("0.000000001")
_ZERO = Decimal(0)
_INITIAL_MARGIN = Decimal("0.5")
_MAINTENANCE_MARGIN = Decimal("0.3")


def asset_id(symbol: str) -> str:
    """Return the id of a symbol, the same in every run."""
    return str(uuid.uuid5(_SPACE, symbol))


def account_id(account_number: str) -> str:
    """Return the id of an account, the same in every run."""
    return str(uuid.uuid5(_SPACE, f"account/{account_number}"))


def write_account(book: PaperBook) -> dict[str, Any]:
    """Write the account."""
    long_value, short_value = book.long_value_usd(), book.short_value_usd()
    equity = book.equity_usd()
    margin = _number((long_value - short_value) * _MAINTENANCE_MARGIN)
    power = _number(book.buying_power_usd())
    return {
        "id": account_id(book.account_number),
        "account_number": book.account_number,
        "status": "ACTIVE",
        "currency": "USD",
        "cash": _number(book.cash_usd),
        "equity": _number(equity),
        "portfolio_value": _number(equity),
        "last_equity": _number(book.last_equity_usd),
        "buying_power": power,
        "regt_buying_power": power,
        "non_marginable_buying_power": _number(max(_ZERO, book.cash_usd)),
        "multiplier": "2",
        "long_market_value": _number(long_value),
        "short_market_value": _number(short_value),
        "initial_margin": _number((long_value - short_value) * _INITIAL_MARGIN),
        "maintenance_margin": margin,
        "last_maintenance_margin": margin,
        "sma": "0",
        "accrued_fees": "0",
        "trading_blocked": book.conditions.account_blocked,
        "transfers_blocked": False,
        "account_blocked": book.conditions.account_blocked,
        "trade_suspended_by_user": False,
        "shorting_enabled": True,
        "created_at": _time(book.created_at),
    }


def write_clock(now: dt.datetime) -> dict[str, Any]:
    """Write the market clock, in New York time as the service does."""
    day = now.astimezone(calendar.NEW_YORK).date()
    days = [day] if calendar.is_session(day) else []
    days.append(calendar.next_session(day))
    opens = (calendar.session_open(d) for d in days)
    closes = (calendar.session_close(d) for d in days)
    next_open = next(moment for moment in opens if moment > now)
    next_close = next(moment for moment in closes if moment > now)
    return {
        "timestamp": now.astimezone(calendar.NEW_YORK).isoformat(),
        "is_open": next_close < next_open,
        "next_open": next_open.astimezone(calendar.NEW_YORK).isoformat(),
        "next_close": next_close.astimezone(calendar.NEW_YORK).isoformat(),
    }


def write_session(session: dt.date) -> dict[str, str]:
    """Write one day of the calendar; its times are naive New York times."""
    opened = calendar.session_open(session).astimezone(calendar.NEW_YORK)
    closed = calendar.session_close(session).astimezone(calendar.NEW_YORK)
    return {
        "date": session.isoformat(),
        "open": f"{opened:%H:%M}",
        "close": f"{closed:%H:%M}",
        "session_open": "0400",
        "session_close": "2000",
    }


def write_asset(symbol: str, conditions: PaperConditions, now: dt.datetime) -> dict[str, Any]:
    """Write one asset: what has bars is active, tradable and shortable unless told otherwise."""
    active = symbol not in conditions.inactive
    shortable = symbol not in conditions.not_shortable
    return {
        "id": asset_id(symbol),
        "class": "us_equity",
        "exchange": "NYSE",
        "symbol": symbol,
        "name": symbol,
        "status": "active" if active else "inactive",
        "tradable": active and not conditions.is_halted(symbol, now),
        "marginable": True,
        "shortable": shortable,
        "easy_to_borrow": shortable and symbol not in conditions.hard_to_borrow,
        "fractionable": True,
        "maintenance_margin_requirement": "30",
        "attributes": [],
    }


def write_order(book: PaperBook, order: BookOrder, *, nested: bool = False) -> dict[str, Any]:
    """Write one order as it stands, with its legs inside when asked for."""
    row = _order(order)
    if order.order_type is OrderType.TRAILING_STOP:
        levels = book.trailing(order)
        if levels is not None:
            row["hwm"], row["stop_price"] = _number(levels[0]), _number(levels[1])
    if nested and order.legs:
        row["legs"] = [write_order(book, leg) for leg in order.legs]
    return row


def write_update(update: Update) -> dict[str, Any]:
    """Write one trade update, the order in it as it was then."""
    data: dict[str, Any] = {
        "event": update.event.value,
        "execution_id": update.execution_id,
        "timestamp": _time(update.at),
        "order": _order(update.order),
    }
    if update.quantity is not None and update.price_usd is not None:
        data["qty"] = _number(update.quantity)
        data["price"] = _number(update.price_usd)
        data["position_qty"] = _number(update.position_quantity or _ZERO)
    return data


def write_activity(activity: Activity, account_number: str) -> dict[str, Any]:
    """Write one row of the account's activities."""
    row: dict[str, Any] = {
        "id": activity.activity_id,
        "account_id": account_id(account_number),
        "activity_type": activity.kind,
        "symbol": activity.symbol,
        "qty": _number(activity.quantity),
    }
    update = activity.update
    if update is None:
        row |= {
            "date": activity.at.astimezone(calendar.NEW_YORK).date().isoformat(),
            "net_amount": _number(activity.net_usd),
            "description": "",
            "status": "executed",
        }
        if activity.kind == "DIV":
            row["per_share_amount"] = _number(activity.per_share or _ZERO)
        return row
    order = update.order
    return row | {
        "transaction_time": _time(activity.at),
        "type": update.event.value,
        "price": _number(update.price_usd or _ZERO),
        "side": order.side.value,
        "order_id": order.order_id,
        "cum_qty": _number(order.filled_quantity),
        "leaves_qty": _number(order.remaining),
        "order_status": _status(order),
    }


def _order(order: BookOrder) -> dict[str, Any]:
    finished = None if order.finished_at is None else _time(order.finished_at)
    status = _status(order)
    row: dict[str, Any] = {
        "id": order.order_id,
        "client_order_id": order.client_order_id,
        "created_at": _time(order.submitted_at),
        "updated_at": _time(order.updated_at),
        "submitted_at": _time(order.submitted_at),
        "filled_at": finished if status == "filled" else None,
        "expired_at": finished if status == "expired" else None,
        "canceled_at": finished if status == "canceled" else None,
        "failed_at": finished if status == "rejected" else None,
        "replaced_at": finished if status == "replaced" else None,
        "replaced_by": order.replaced_by,
        "replaces": order.replaces,
        "expires_at": _time(expires_at(order)),
        "asset_id": asset_id(order.symbol),
        "symbol": order.symbol,
        "asset_class": "us_equity",
        "notional": _maybe(order.notional_usd),
        "qty": _number(order.quantity) if order.notional_usd is None else None,
        "filled_qty": _number(order.filled_quantity),
        "filled_avg_price": _maybe(order.average_price_usd),
        "order_class": "" if order.order_class is OrderClass.SIMPLE else order.order_class.value,
        "order_type": order.order_type.value,
        "type": order.order_type.value,
        "side": order.side.value,
        "time_in_force": order.time_in_force.value,
        "limit_price": _maybe(order.limit_price_usd),
        "stop_price": _maybe(order.stop_price_usd),
        "status": status,
        "extended_hours": order.extended_hours,
        "legs": None,
        "trail_percent": _maybe(order.trail_percent),
        "trail_price": _maybe(order.trail_price_usd),
        "hwm": _maybe(order.high_water_usd),
    }
    return row if order.reason is None else row | {"reject_reason": order.reason}


def write_position(book: PaperBook, holding: Holding) -> dict[str, Any]:
    """Write one position; a short one has a negative quantity and market value."""
    price, quantity = book.price(holding), holding.quantity
    cost = quantity * holding.average_price_usd
    day = book.now.astimezone(calendar.NEW_YORK).date()
    last_close = calendar.session_close(calendar.previous_session(day))
    before = book.mark(holding.symbol, last_close) or price
    gain, today = quantity * price - cost, quantity * (price - before)
    return {
        "asset_id": asset_id(holding.symbol),
        "symbol": holding.symbol,
        "exchange": "NYSE",
        "asset_class": "us_equity",
        "asset_marginable": True,
        "qty": _number(quantity),
        "qty_available": _number(book.available_quantity(holding)),
        "side": "long" if quantity > 0 else "short",
        "avg_entry_price": _number(holding.average_price_usd),
        "cost_basis": _number(cost),
        "market_value": _number(quantity * price),
        "current_price": _number(price),
        "lastday_price": _number(before),
        "change_today": _number(price / before - 1),
        "unrealized_pl": _number(gain),
        "unrealized_plpc": _number(gain / abs(cost)),
        "unrealized_intraday_pl": _number(today),
        "unrealized_intraday_plpc": _number(today / abs(quantity * before)),
    }


def _status(order: BookOrder) -> str:
    if order.replaced_by is not None:
        return "replaced"
    if order.status is not OrderStatus.ACCEPTED:
        return order.status.value
    if order.held:
        return "held"
    return "new" if order.routed else "accepted"


def _maybe(value: Decimal | None) -> str | None:
    return None if value is None else _number(value)


def _number(value: Decimal) -> str:
    return plain(value.quantize(_SHOWN))


def _time(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
