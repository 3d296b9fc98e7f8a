"""Alpaca's wire format, read and written without alpaca-py's models.

Pure functions between decoded JSON and the frozen dataclasses of ``execution.broker``. Anything
missing or malformed raises: an order that cannot be read is unclear, never guessed.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import re
from collections.abc import Mapping
from decimal import ROUND_DOWN, Context, Decimal, InvalidOperation
from typing import Any, cast
from urllib.parse import urlsplit

from execution.broker import (
    Account,
    Asset,
    Clock,
    Order,
    OrderRequest,
    OrderStatus,
    OrderType,
    Position,
    Side,
    TimeInForce,
)
from market.errors import BrokerError, ExecutionError
from market.ticks import to_tick

LIVE_HOST = "api.alpaca.markets"
PAPER_HOST = "paper-api.alpaca.markets"
MAX_CLIENT_ORDER_ID = 128

_WIDE = Context(prec=60)
_QUANTITY_STEP = Decimal("0.000000001")

_WORDS = {
    "new": OrderStatus.ACCEPTED,
    "accepted": OrderStatus.ACCEPTED,
    "pending_new": OrderStatus.ACCEPTED,
    "accepted_for_bidding": OrderStatus.ACCEPTED,
    "held": OrderStatus.ACCEPTED,
    "pending_review": OrderStatus.ACCEPTED,
    "pending_cancel": OrderStatus.ACCEPTED,
    "pending_replace": OrderStatus.ACCEPTED,
    "suspended": OrderStatus.ACCEPTED,
    "calculated": OrderStatus.ACCEPTED,
    "stopped": OrderStatus.ACCEPTED,
    "done_for_day": OrderStatus.ACCEPTED,
    "partially_filled": OrderStatus.PARTIALLY_FILLED,
    "filled": OrderStatus.FILLED,
    "canceled": OrderStatus.CANCELED,
    "replaced": OrderStatus.CANCELED,
    "expired": OrderStatus.EXPIRED,
    "rejected": OrderStatus.REJECTED,
}
_PLAIN_WORDS = frozenset(
    {"new", "accepted", "pending_new", "accepted_for_bidding", "partially_filled", "filled"}
    | {"canceled", "expired"}
)


def checked_base_url(base_url: str, *, is_paper: bool) -> str:
    """Return the address to talk to, rebuilt from its parts, or refuse it.

    Parameters
    ----------
    base_url : str
        Scheme, host and perhaps a port; no path.
    is_paper : bool
        Whether paper money is meant.

    Returns
    -------
    str
        The address without a trailing slash.

    Raises
    ------
    ExecutionError
        When the address does not belong to the mode: paper takes the paper service or a loopback
        address, live takes the live service or a loopback address, and only loopback may be
        spoken to without TLS.

    Examples
    --------
    >>> checked_base_url("https://paper-api.alpaca.markets/", is_paper=True)
    'https://paper-api.alpaca.markets'
    """
    service = PAPER_HOST if is_paper else LIVE_HOST
    mode = "paper" if is_paper else "live"
    refusal = ExecutionError(
        f"{mode} mode refuses this broker address",
        got=base_url if "@" not in base_url else "an address with credentials in it",
        allowed=f"https://{service} or a loopback address, without a path",
        remedy="correct the broker URL, or switch between paper and live on purpose",
    )
    try:
        parts = urlsplit(base_url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise refusal from None
    odd = any(c in base_url for c in "@\\") or any(c.isspace() for c in base_url)
    if odd or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise refusal
    if is_loopback(host):
        if parts.scheme not in ("http", "https"):
            raise refusal
        shown = f"[{host}]" if ":" in host else host
        return f"{parts.scheme}://{shown}" + ("" if port is None else f":{port}")
    if host != service or parts.scheme != "https" or port not in (None, 443):
        raise refusal
    return f"https://{host}"


def is_loopback(host: str) -> bool:
    """Say whether a host name or address is this machine, without asking any name server."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def quantise_price(price: Decimal, side: Side) -> Decimal:
    """Round a limit price to the service's grid, never to a worse price than asked.

    A buy is rounded down and a sell up: to 0.01 USD from 1 USD on, to 0.0001 USD below it.

    Examples
    --------
    >>> quantise_price(Decimal("10.129"), Side.BUY), quantise_price(Decimal("0.12341"), Side.SELL)
    (Decimal('10.12'), Decimal('0.1235'))
    """
    return to_tick(price, up=side is Side.SELL)


def quantise_quantity(quantity: Decimal) -> Decimal:
    """Cut a quantity to nine decimals, the finest that the service knows."""
    return quantity.quantize(_QUANTITY_STEP, rounding=ROUND_DOWN, context=_WIDE)


def write_order(request: OrderRequest) -> dict[str, Any]:
    """Return the body of ``POST /v2/orders``, every number in it a string.

    Raises
    ------
    ExecutionError
        When the request contradicts itself: no id, quantity or price not positive, a price that
        its type does not have or one that it lacks, closing orders where the service takes none.
    """
    identity = request.client_order_id
    if not 0 < len(identity) <= MAX_CLIENT_ORDER_ID:
        raise ExecutionError(
            "client_order_id has an unusable length",
            got=len(identity),
            allowed=f"1 to {MAX_CLIENT_ORDER_ID} characters",
            remedy="derive a short, unique id for every order",
        )
    quantity = _positive(request.quantity, f"quantity of order {identity!r}")
    body: dict[str, Any] = {
        "symbol": request.symbol,
        "qty": plain(_positive(quantise_quantity(quantity), f"quantity of order {identity!r}")),
        "side": request.side.value,
        "type": request.order_type.value,
        "time_in_force": request.time_in_force.value,
        "client_order_id": identity,
    }
    _require_its_prices(request)
    # Rounded as a limit is, a stop triggers no later than asked.
    for name, price in (
        ("limit_price", request.limit_price_usd),
        ("stop_price", request.stop_price_usd),
    ):
        if price is not None:
            body[name] = _price_text(price, request.side, f"{name} of order {identity!r}")
    if request.trail_percent is not None:
        body["trail_percent"] = plain(_positive(request.trail_percent, "trail_percent"))
    if request.extended_hours:
        body["extended_hours"] = True
    body |= _write_legs(request)
    return body


def _require_its_prices(request: OrderRequest) -> None:
    kind = request.order_type
    wanted = {
        "limit_price_usd": kind in (OrderType.LIMIT, OrderType.STOP_LIMIT),
        "stop_price_usd": kind in (OrderType.STOP, OrderType.STOP_LIMIT),
        "trail_percent": kind is OrderType.TRAILING_STOP,
    }
    for name, needed in wanted.items():
        if (getattr(request, name) is not None) != needed:
            raise ExecutionError(
                f"order {request.client_order_id!r} and its {name} do not agree",
                got=f"{kind} with {name} {getattr(request, name)}",
                allowed=", ".join(n for n, w in wanted.items() if w) or "no price",
                remedy="give each type of order its own prices and no others",
            )
    late = request.extended_hours and (
        kind is not OrderType.LIMIT
        or request.time_in_force not in (TimeInForce.DAY, TimeInForce.GTC)
    )
    if late:
        raise ExecutionError(
            f"order {request.client_order_id!r} cannot trade outside the session",
            got=f"{kind}, {request.time_in_force}",
            allowed="limit orders for the day or until canceled",
            remedy="use a limit order, or wait for the session",
        )


def _write_legs(request: OrderRequest) -> dict[str, Any]:
    """Write the orders that close what this one opens."""
    profit, loss = request.take_profit_usd, request.stop_loss_usd
    if profit is None and loss is None:
        return {}
    identity = request.client_order_id
    entry = request.order_type in (OrderType.MARKET, OrderType.LIMIT)
    stands = request.time_in_force in (TimeInForce.DAY, TimeInForce.GTC)
    whole = request.quantity == request.quantity.to_integral_value()
    if not (entry and stands and whole) or request.extended_hours:
        raise ExecutionError(
            f"order {identity!r} cannot have a target or a stop of its own",
            got=f"{request.quantity} {request.order_type} {request.time_in_force}",
            allowed="market and limit orders of whole shares in the session, day or gtc",
            remedy="send it without, and leave the exit to the next run",
        )
    closing = request.side.opposite
    legs: dict[str, Any] = {"order_class": "oto" if None in (profit, loss) else "bracket"}
    if profit is not None:
        text = _price_text(profit, closing, f"target of order {identity!r}")
        legs["take_profit"] = {"limit_price": text}
    if loss is not None:
        text = _price_text(loss, closing, f"stop of order {identity!r}")
        legs["stop_loss"] = {"stop_price": text}
    return legs


def _price_text(price: Decimal, side: Side, name: str) -> str:
    return format(_positive(quantise_price(_positive(price, name), side), name), "f")


def plain(number: Decimal) -> str:
    """Write a number in digits, without an exponent and without trailing zeros."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _positive(number: Decimal, name: str) -> Decimal:
    if not number.is_finite() or number <= 0:
        raise ExecutionError(
            f"{name} cannot be sent",
            got=str(number),
            allowed="a finite number above zero, not rounded away by the service's grid",
            remedy="leave the order out, or size it again",
        )
    return number


def read_order(raw: object) -> Order:
    """Read one order. An unknown status word gives ``OrderStatus.UNKNOWN`` with a reason."""
    row = _mapping(raw, "order")
    filled = _number(row, "filled_qty")
    status, reason = read_status(_text(row, "status"), filled, row)
    return Order(
        client_order_id=_text(row, "client_order_id"),
        broker_order_id=_text(row, "id"),
        symbol=_text(row, "symbol"),
        side=_side(row),
        quantity=_number(row, "qty"),
        filled_quantity=filled,
        filled_average_price_usd=_number_or_none(row, "filled_avg_price"),
        status=status,
        submitted_at=_time(row, "submitted_at"),
        updated_at=_time(row, "updated_at"),
        reason=reason,
        order_type=_order_type(row),
        limit_price_usd=_number_or_none(row, "limit_price"),
        stop_price_usd=_number_or_none(row, "stop_price"),
        legs=tuple(read_order(leg) for leg in row.get("legs") or ()),
    )


def lacks_legs(raw: object) -> bool:
    """Say whether an order was given without the legs that its class says it has.

    Only the first order of such a class has legs; the service lists them when asked to.
    """
    row = _mapping(raw, "order")
    return row.get("order_class") in ("bracket", "oto") and not row.get("legs")


def read_status(
    word: str, filled: Decimal, row: Mapping[str, Any] | None = None
) -> tuple[OrderStatus, str | None]:
    """Translate a status word of the service, with a reason where the word says more.

    Parameters
    ----------
    word : str
        The service's word.
    filled : Decimal
        Quantity filled so far: a working order with some is partially filled.
    row : Mapping, optional
        The whole order, for the service's own reason.

    Examples
    --------
    >>> read_status("pending_cancel", Decimal(0))
    (<OrderStatus.ACCEPTED: 'accepted'>, 'pending_cancel')
    """
    status = _WORDS.get(word)
    if status is None:
        return OrderStatus.UNKNOWN, f"unknown order status {word!r}"
    if status is OrderStatus.ACCEPTED and filled > 0:
        status = OrderStatus.PARTIALLY_FILLED
    own = (row or {}).get("reject_reason")
    if isinstance(own, str) and own:
        return status, own
    return status, None if word in _PLAIN_WORDS else word


def read_account(raw: object) -> Account:
    """Read the account; blocked for any reason means blocked."""
    row = _mapping(raw, "account")
    blocks = ("trading_blocked", "account_blocked", "trade_suspended_by_user")
    blocked = [_flag(row, name) for name in blocks]
    return Account(
        account_number=_text(row, "account_number"),
        currency=_text(row, "currency"),
        cash_usd=_number(row, "cash"),
        equity_usd=_number(row, "equity"),
        last_equity_usd=_number(row, "last_equity"),
        buying_power_usd=_number(row, "buying_power"),
        is_blocked=any(blocked) or _text(row, "status") != "ACTIVE",
        shorting_enabled=_flag(row, "shorting_enabled"),
    )


def read_clock(raw: object) -> Clock:
    """Read the broker's clock, in UTC."""
    row = _mapping(raw, "clock")
    return Clock(
        now=_time(row, "timestamp"),
        is_open=_flag(row, "is_open"),
        next_open=_time(row, "next_open"),
        next_close=_time(row, "next_close"),
    )


def read_asset(raw: object) -> Asset:
    """Read one asset; ``easy_to_borrow`` is not asked for, since the service may drop it."""
    row = _mapping(raw, "asset")
    return Asset(
        symbol=_text(row, "symbol"),
        tradable=_flag(row, "tradable"),
        shortable=_flag(row, "shortable"),
        fractionable=_flag(row, "fractionable"),
        status=_text(row, "status"),
    )


def read_position(raw: object) -> Position:
    """Read one position; a short one has a negative quantity and market value."""
    row = _mapping(raw, "position")
    quantity, value = _number(row, "qty"), _number(row, "market_value")
    if _text(row, "side") == "short":
        quantity, value = -abs(quantity), -abs(value)
    return Position(
        symbol=_text(row, "symbol"),
        quantity=quantity,
        average_price_usd=_number(row, "avg_entry_price"),
        current_price_usd=_number(row, "current_price"),
        market_value_usd=value,
    )


def read_rows(raw: object, what: str) -> list[Mapping[str, Any]]:
    """Read a JSON list of objects."""
    if not isinstance(raw, list):
        raise _unreadable(f"list of {what}s", raw)
    return [_mapping(row, what) for row in cast("list[object]", raw)]


def read_refusal(body: str) -> tuple[int, str] | None:
    """Return code and message of the service's own error body; ``None`` for any other body.

    Examples
    --------
    >>> read_refusal('{"code": 40410000, "message": "order not found"}')
    (40410000, 'order not found')
    >>> read_refusal("<html>502 Bad Gateway</html>") is None
    True
    """
    try:
        raw: object = json.loads(body)
    except ValueError:
        return None
    if not isinstance(raw, dict):
        return None
    row = cast("dict[str, Any]", raw)
    code, message = row.get("code"), row.get("message")
    if isinstance(code, bool) or not isinstance(code, int) or not isinstance(message, str):
        return None
    return code, message


def is_duplicate(code: int, message: str) -> bool:
    """Say whether a refusal means that the ``client_order_id`` is already taken.

    The code alone is the general validation code, so the message decides.
    """
    return code == 40010001 and re.search(r"client.?order.?id.*unique", message, re.I) is not None


def _unreadable(what: str, got: object) -> BrokerError:
    return BrokerError(
        f"the broker's answer holds no readable {what}",
        got=None if got is None else type(got).__name__ if not isinstance(got, str) else got[:80],
        remedy="compare the broker's account by hand before sending more orders",
    )


def _mapping(raw: object, what: str) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise _unreadable(what, raw)
    return cast("dict[str, Any]", raw)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise _unreadable(name, value)
    return value


def _flag(row: Mapping[str, Any], name: str) -> bool:
    value = row.get(name)
    if not isinstance(value, bool):
        raise _unreadable(name, value)
    return value


def _side(row: Mapping[str, Any]) -> Side:
    word = _text(row, "side")
    if word not in (Side.BUY.value, Side.SELL.value):
        raise _unreadable("side", word)
    return Side(word)


def _number(row: Mapping[str, Any], name: str) -> Decimal:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _unreadable(name, value)
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise _unreadable(name, value) from None
    if not number.is_finite():
        raise _unreadable(name, str(value))
    return number


def _number_or_none(row: Mapping[str, Any], name: str) -> Decimal | None:
    return None if row.get(name) is None else _number(row, name)


def _order_type(row: Mapping[str, Any]) -> OrderType | None:
    word = row.get("type")
    return OrderType(word) if word in list(OrderType) else None


def _time(row: Mapping[str, Any], name: str) -> dt.datetime:
    text = _text(row, name)
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise _unreadable(name, text) from None
    if moment.tzinfo is None:
        raise _unreadable(f"{name} with a time zone", text)
    return moment.astimezone(dt.UTC)
