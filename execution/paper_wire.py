"""The paper broker's JSON: requests read as the service reads them, answers written as it writes.

Numbers leave as strings and times in UTC. Every field that alpaca-py 0.44 requires is there;
``easy_to_borrow`` too, although the service has announced its removal.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from execution.alpaca_wire import MAX_CLIENT_ORDER_ID, plain
from execution.broker import OrderStatus, OrderType, Side, TimeInForce
from execution.paper_book import BookOrder, Holding, NewOrder, PaperBook, PaperRefusal
from market import calendar

_SPACE = uuid.UUID("7f0c2f3e-51c1-5a53-8f0b-2d8f64f2a7c9")
_SHOWN = Decimal("0.000000001")
_ZERO = Decimal(0)
_INITIAL_MARGIN = Decimal("0.5")
_MAINTENANCE_MARGIN = Decimal("0.3")


def asset_id(symbol: str) -> str:
    """Return the id of a symbol, the same in every run."""
    return str(uuid.uuid5(_SPACE, symbol))


def read_new_order(body: Mapping[str, Any], symbols: frozenset[str]) -> NewOrder:
    """Read the body of ``POST /v2/orders``.

    Raises
    ------
    PaperRefusal
        In the service's words, for anything malformed or not offered here.
    """
    symbol = body.get("symbol")
    if not isinstance(symbol, str) or not symbol:
        raise malformed("symbol is required")
    if symbol not in symbols:
        raise PaperRefusal(422, 42210000, f'asset "{symbol}" not found')
    if body.get("notional") is not None:
        raise PaperRefusal(422, 42210000, "notional orders are not supported by this server")
    if body.get("order_class") not in (None, "", "simple"):
        raise PaperRefusal(422, 42210000, "only simple orders are supported by this server")
    if body.get("extended_hours"):
        raise PaperRefusal(422, 42210000, "extended hours are not supported by this server")
    side = _word(body, "side", [s.value for s in Side])
    kind = OrderType(_word(body, "type", [t.value for t in OrderType]))
    validity = TimeInForce(_word(body, "time_in_force", [t.value for t in TimeInForce]))
    quantity = read_number(body.get("qty"), "qty")
    if quantity != quantity.to_integral_value() and validity is not TimeInForce.DAY:
        raise PaperRefusal(422, 42210000, "fractional orders must be DAY orders")
    identity = body.get("client_order_id") or None
    if identity is not None and (
        not isinstance(identity, str) or len(identity) > MAX_CLIENT_ORDER_ID
    ):
        raise malformed(f"client_order_id must be no more than {MAX_CLIENT_ORDER_ID} characters")
    limit = _read_limit(body, kind)
    return NewOrder(symbol, Side(side), quantity, kind, validity, limit, identity)


def _read_limit(body: Mapping[str, Any], kind: OrderType) -> Decimal | None:
    raw = body.get("limit_price")
    if kind is OrderType.MARKET:
        if raw is not None:
            raise malformed("market orders must not have a limit_price")
        return None
    if raw is None:
        raise malformed("limit orders require limit price")
    limit = read_number(raw, "limit_price")
    step = Decimal("0.01") if limit >= 1 else Decimal("0.0001")
    if limit % step:
        raise PaperRefusal(
            422,
            42210000,
            f"invalid limit_price {plain(limit)}. "
            "sub-penny increment does not fulfill minimum pricing criteria",
        )
    return limit


def read_number(raw: object, name: str) -> Decimal:
    """Read a positive decimal, given as a string or a number, with at most nine decimals."""
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        raise malformed(f"{name} is required")
    try:
        number = Decimal(str(raw))
    except InvalidOperation:
        raise malformed(f"{name} is not a number") from None
    if not number.is_finite() or number <= 0:
        raise malformed(f"{name} must be > 0")
    if number > Decimal("1e12") or number != number.quantize(_SHOWN):
        raise malformed(f"{name} is out of range or has more than nine decimals")
    return number


def read_time(raw: str | None, name: str) -> dt.datetime | None:
    """Read an ISO 8601 moment; a date alone is its midnight, UTC."""
    if raw is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(raw)
    except ValueError:
        raise malformed(f"invalid {name} format") from None
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment


def malformed(message: str) -> PaperRefusal:
    """Return the service's general validation error."""
    return PaperRefusal(422, 40010001, message)


def _word(body: Mapping[str, Any], name: str, offered: list[str]) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise malformed(f"{name} is required")
    if value not in offered:
        raise malformed(f"invalid {name} {value!r}: this server offers {', '.join(offered)}")
    return value


def write_account(book: PaperBook) -> dict[str, Any]:
    """Write the account."""
    long_value, short_value = book.long_value_usd(), book.short_value_usd()
    equity = book.equity_usd()
    margin = _number((long_value - short_value) * _MAINTENANCE_MARGIN)
    power = _number(book.buying_power_usd())
    return {
        "id": str(uuid.uuid5(_SPACE, f"account/{book.account_number}")),
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
        "trading_blocked": False,
        "transfers_blocked": False,
        "account_blocked": False,
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


def write_asset(symbol: str) -> dict[str, Any]:
    """Write one asset: everything with bars is active, tradable and shortable."""
    return {
        "id": asset_id(symbol),
        "class": "us_equity",
        "exchange": "NYSE",
        "symbol": symbol,
        "name": symbol,
        "status": "active",
        "tradable": True,
        "marginable": True,
        "shortable": True,
        "easy_to_borrow": True,
        "fractionable": True,
        "maintenance_margin_requirement": "30",
        "attributes": [],
    }


def write_order(order: BookOrder, now: dt.datetime) -> dict[str, Any]:
    """Write one order as it stands at ``now``."""
    finished = None if order.finished_at is None else _time(order.finished_at)
    average = order.average_price_usd
    limit = order.limit_price_usd
    return {
        "id": order.order_id,
        "client_order_id": order.client_order_id,
        "created_at": _time(order.submitted_at),
        "updated_at": _time(order.updated_at),
        "submitted_at": _time(order.submitted_at),
        "filled_at": finished if order.status is OrderStatus.FILLED else None,
        "expired_at": finished if order.status is OrderStatus.EXPIRED else None,
        "canceled_at": finished if order.status is OrderStatus.CANCELED else None,
        "expires_at": _time(calendar.session_close(order.session)),
        "failed_at": None,
        "replaced_at": None,
        "replaced_by": None,
        "replaces": None,
        "asset_id": asset_id(order.symbol),
        "symbol": order.symbol,
        "asset_class": "us_equity",
        "notional": None,
        "qty": _number(order.quantity),
        "filled_qty": _number(order.filled_quantity),
        "filled_avg_price": None if average is None else _number(average),
        "order_class": "",
        "order_type": order.order_type.value,
        "type": order.order_type.value,
        "side": order.side.value,
        "time_in_force": order.time_in_force.value,
        "limit_price": None if limit is None else _number(limit),
        "stop_price": None,
        "status": _status(order, now),
        "extended_hours": False,
        "legs": None,
        "trail_percent": None,
        "trail_price": None,
        "hwm": None,
    }


def write_position(book: PaperBook, holding: Holding) -> dict[str, Any]:
    """Write one position; a short one has a negative quantity and market value."""
    price, quantity = book.price(holding), holding.quantity
    cost = quantity * holding.average_price_usd
    day = book.now.astimezone(calendar.NEW_YORK).date()
    last_close = calendar.session_close(calendar.previous_session(day))
    before = book.tape.mark(holding.symbol, last_close) or price
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


def _status(order: BookOrder, now: dt.datetime) -> str:
    if order.status is not OrderStatus.ACCEPTED:
        return order.status.value
    return "new" if calendar.session_open(order.session) <= now else "accepted"


def _number(value: Decimal) -> str:
    return plain(value.quantize(_SHOWN))


def _time(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
