"""The paper broker's requests, read and refused as the service reads them.

Messages are the service's own where they are documented or known; the general validation code
is 40010001, that of a rule of trading 42210000.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any, cast

from execution.alpaca_wire import MAX_CLIENT_ORDER_ID, plain
from execution.broker import OrderType, Side, TimeInForce
from execution.paper_orders import BookOrder, NewOrder, OrderClass, PaperRefusal

_STEP = Decimal("0.000000001")
_LARGEST = Decimal("1e12")
_PRICES = ("limit_price", "stop_price", "trail_price", "trail_percent")
_NEEDED = {
    OrderType.MARKET: (),
    OrderType.LIMIT: ("limit_price",),
    OrderType.STOP: ("stop_price",),
    OrderType.STOP_LIMIT: ("limit_price", "stop_price"),
    OrderType.TRAILING_STOP: ("trail_price", "trail_percent"),
}
_NAMES = {
    OrderType.MARKET: "market orders require no stop or limit price",
    OrderType.LIMIT: "limit orders require a limit price",
    OrderType.STOP: "stop orders require a stop price",
    OrderType.STOP_LIMIT: "stop limit orders require both stop and limit price",
    OrderType.TRAILING_STOP: "trailing stop orders require either trail_price or trail_percent",
}


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
        raise _unprocessable(f'asset "{symbol}" not found')
    side = Side(_word(body, "side", [s.value for s in Side]))
    kind = OrderType(_word(body, "type", [t.value for t in OrderType]))
    validity = TimeInForce(_word(body, "time_in_force", [t.value for t in TimeInForce]))
    quantity, notional = _read_size(body)
    order_class = _read_class(body)
    prices = _read_prices(body, kind, order_class)
    new = NewOrder(
        symbol,
        side,
        quantity,
        kind,
        validity,
        limit_price_usd=prices.get("limit_price"),
        client_order_id=_read_identity(body),
        stop_price_usd=prices.get("stop_price"),
        trail_percent=prices.get("trail_percent"),
        trail_price_usd=prices.get("trail_price"),
        notional_usd=notional,
        extended_hours=_read_flag(body, "extended_hours"),
        order_class=order_class,
        **_read_exits(body, order_class),
    )
    _check_combination(new)
    return new


def read_replacement(body: Mapping[str, Any], order: BookOrder) -> NewOrder:
    """Read the body of ``PATCH /v2/orders/{id}`` as the whole order that shall stand."""
    if order.notional_usd is not None:
        raise _unprocessable("notional orders cannot be replaced")
    quantity = order.quantity if body.get("qty") is None else read_number(body["qty"], "qty")
    validity = order.time_in_force
    if body.get("time_in_force"):
        validity = TimeInForce(_word(body, "time_in_force", [t.value for t in TimeInForce]))
    given = {name: body[name] for name in ("limit_price", "stop_price") if body.get(name)}
    trail = body.get("trail")
    if trail is not None:
        percent = order.trail_percent is not None
        given["trail_percent" if percent else "trail_price"] = trail
    old = {
        "limit_price": order.limit_price_usd,
        "stop_price": order.stop_price_usd,
        "trail_price": order.trail_price_usd,
        "trail_percent": order.trail_percent,
    }
    kept = {name: old[name] for name in _NEEDED[order.order_type] if old[name] is not None}
    merged = {name: plain(value) for name, value in kept.items() if value is not None} | given
    prices = _read_prices(merged, order.order_type, OrderClass.SIMPLE)
    new = NewOrder(
        order.symbol,
        order.side,
        quantity,
        order.order_type,
        validity,
        limit_price_usd=prices.get("limit_price"),
        client_order_id=_read_identity(body),
        stop_price_usd=prices.get("stop_price"),
        trail_percent=prices.get("trail_percent"),
        trail_price_usd=prices.get("trail_price"),
        extended_hours=order.extended_hours,
    )
    _check_combination(new)
    return replace(new, order_class=order.order_class)


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
    if number > _LARGEST or number != number.quantize(_STEP):
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


def _unprocessable(message: str) -> PaperRefusal:
    return PaperRefusal(422, 42210000, message)


def _word(body: Mapping[str, Any], name: str, offered: list[str]) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise malformed(f"{name} is required")
    if value not in offered:
        raise malformed(f"invalid {name} {value!r}: this server offers {', '.join(offered)}")
    return value


def _read_flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise malformed("request body format is invalid")
    return value is True


def _read_identity(body: Mapping[str, Any]) -> str | None:
    identity = body.get("client_order_id") or None
    if identity is not None and (
        not isinstance(identity, str) or len(identity) > MAX_CLIENT_ORDER_ID
    ):
        raise malformed(f"client_order_id must be no more than {MAX_CLIENT_ORDER_ID} characters")
    return identity


def _read_size(body: Mapping[str, Any]) -> tuple[Decimal | None, Decimal | None]:
    qty, notional = body.get("qty"), body.get("notional")
    if qty is None and notional is None:
        raise malformed("qty or notional is required")
    if qty is not None and notional is not None:
        raise malformed("only one of qty or notional is accepted")
    if notional is None:
        return read_number(qty, "qty"), None
    amount = read_number(notional, "notional")
    if amount < 1:
        raise malformed("notional must be >= 1.00")
    if amount != amount.quantize(Decimal("0.01")):
        raise malformed("notional is limited to 2 decimal places")
    return None, amount


def _read_class(body: Mapping[str, Any]) -> OrderClass:
    word = body.get("order_class") or OrderClass.SIMPLE.value
    if word not in [c.value for c in OrderClass]:
        raise malformed(f"invalid order_class {word!r}: this server knows no such class")
    return OrderClass(word)


def _read_prices(
    body: Mapping[str, Any], kind: OrderType, order_class: OrderClass
) -> dict[str, Decimal]:
    given = [name for name in _PRICES if body.get(name) is not None]
    needed = _NEEDED[kind]
    if order_class is OrderClass.OCO:
        needed, given = (), [name for name in given if name != "limit_price"]
    fits = set(given) <= set(needed) and len(given) == len(needed)
    if kind is OrderType.TRAILING_STOP:
        fits = set(given) <= set(needed) and len(given) == 1
    if not fits:
        raise malformed(_NAMES[kind])
    return {
        name: _read_price(body[name], name)
        if name != "trail_percent"
        else read_number(body[name], name)
        for name in given
    }


def _read_price(raw: object, name: str) -> Decimal:
    price = read_number(raw, name)
    step = Decimal("0.01") if price >= 1 else Decimal("0.0001")
    if price % step:
        raise _unprocessable(
            f"invalid {name} {plain(price)}. "
            "sub-penny increment does not fulfill minimum pricing criteria"
        )
    return price


def _read_exits(body: Mapping[str, Any], order_class: OrderClass) -> dict[str, Decimal | None]:
    target = _nested(body, "take_profit", "limit_price")
    stop = _nested(body, "stop_loss", "stop_price")
    limit = _nested(body, "stop_loss", "limit_price")
    if order_class is OrderClass.SIMPLE:
        if target is not None or stop is not None or limit is not None:
            raise malformed("simple orders require no take_profit or stop_loss")
        return {}
    both = order_class in (OrderClass.BRACKET, OrderClass.OCO)
    if both and target is None:
        raise malformed(f"{order_class} orders require take_profit.limit_price")
    if (both or limit is not None) and stop is None:
        raise malformed(f"{order_class} orders require stop_loss.stop_price")
    if order_class is OrderClass.OTO and (target is None) == (stop is None):
        raise malformed("oto orders require either take_profit or stop_loss")
    return {"take_profit_usd": target, "stop_loss_usd": stop, "stop_loss_limit_usd": limit}


def _nested(body: Mapping[str, Any], outer: str, inner: str) -> Decimal | None:
    part = body.get(outer)
    if part is None:
        return None
    if not isinstance(part, dict):
        raise malformed("request body format is invalid")
    value = cast("dict[str, Any]", part).get(inner)
    return None if value is None else _read_price(value, f"{outer}.{inner}")


def _check_combination(new: NewOrder) -> None:
    kind, validity = new.order_type, new.time_in_force
    lasting = validity in (TimeInForce.DAY, TimeInForce.GTC)
    simple = new.order_class is OrderClass.SIMPLE
    fraction = new.quantity is None or new.quantity != new.quantity.to_integral_value()
    if not simple:
        if new.order_class is OrderClass.OCO and kind is not OrderType.LIMIT:
            raise malformed("oco orders must be limit orders")
        if kind not in (OrderType.MARKET, OrderType.LIMIT):
            raise malformed(f"{new.order_class} orders must be market or limit orders")
        if not lasting:
            raise malformed(f"{new.order_class} orders must be DAY or GTC orders")
        if new.extended_hours:
            raise _unprocessable(f"extended hours are not supported for {new.order_class} orders")
        if fraction:
            raise _unprocessable("fractional orders must be simple orders")
    if new.notional_usd is not None and kind is not OrderType.MARKET:
        raise _unprocessable("notional orders must be market orders")
    if fraction and validity is not TimeInForce.DAY:
        raise _unprocessable("fractional orders must be DAY orders")
    if fraction and kind is OrderType.TRAILING_STOP:
        raise _unprocessable("fractional orders must not be trailing stop orders")
    if new.extended_hours and (kind is not OrderType.LIMIT or not lasting):
        raise _unprocessable("extended hours order must be DAY or GTC limit orders")
    if not lasting and kind not in (OrderType.MARKET, OrderType.LIMIT):
        raise _unprocessable(f"{validity} orders must be market or limit orders")
