"""What the paper broker refuses when an order arrives, in the service's words.

Sources: https://docs.alpaca.markets/docs/orders-at-alpaca and
https://docs.alpaca.markets/docs/user-protection.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal

from execution.alpaca_wire import plain
from execution.broker import OrderType, Side, TimeInForce
from execution.paper_conditions import PaperConditions
from execution.paper_fills import is_marketable
from execution.paper_legs import binds_shares
from execution.paper_orders import BookOrder, Holding, NewOrder, OrderClass, PaperRefusal

_CENT = Decimal("0.01")
_FORBIDDEN = 40310000
_UNPROCESSABLE = 42210000


def check_asset(
    conditions: PaperConditions, new: NewOrder, now: dt.datetime, *, opens_short: bool
) -> None:
    """Refuse what the account or the asset does not allow at all."""
    symbol = new.symbol
    if conditions.account_blocked:
        raise PaperRefusal(403, _FORBIDDEN, "account is blocked")
    if symbol in conditions.inactive:
        raise PaperRefusal(422, _UNPROCESSABLE, f"asset {symbol} is not active")
    if conditions.is_halted(symbol, now):
        raise PaperRefusal(422, _UNPROCESSABLE, f"asset {symbol} is not tradable")
    if not opens_short:
        return
    if symbol in conditions.not_shortable:
        raise PaperRefusal(422, _UNPROCESSABLE, f"asset {symbol} cannot be sold short")
    if symbol in conditions.hard_to_borrow and new.time_in_force is not TimeInForce.DAY:
        message = f"only day orders are allowed for hard-to-borrow asset {symbol}"
        raise PaperRefusal(422, _UNPROCESSABLE, message)


def check_class(new: NewOrder, holding: Holding | None) -> None:
    """Refuse entries that would close a position, and exits that would not."""
    closes = holding is not None and new.side is holding.closing_side
    if new.order_class is OrderClass.OCO and not closes:
        raise PaperRefusal(422, _UNPROCESSABLE, "oco orders must be exit orders")
    if new.order_class in (OrderClass.BRACKET, OrderClass.OTO) and closes:
        message = f"{new.order_class} orders must be entry orders"
        raise PaperRefusal(422, _UNPROCESSABLE, message)


def check_prices(new: NewOrder, mark: Decimal | None) -> None:
    """Refuse stops and targets on the wrong side of each other or of the market."""
    if new.order_type in (OrderType.STOP, OrderType.STOP_LIMIT):
        _check_stop(new.side, new.stop_price_usd, mark)
    if new.order_class is OrderClass.SIMPLE:
        return
    is_exit = new.order_class is OrderClass.OCO
    long = (new.side is Side.SELL) == is_exit
    target, stop = new.take_profit_usd, new.stop_loss_usd
    if target is not None and stop is not None and not (target > stop if long else target < stop):
        sign = ">" if long else "<"
        message = f"take_profit.limit_price must be {sign} stop_loss.stop_price"
        raise PaperRefusal(422, _UNPROCESSABLE, message)
    base = target if is_exit else new.limit_price_usd or mark
    if base is None:
        return
    if stop is not None and not (stop <= base - _CENT if long else stop >= base + _CENT):
        raise _off_base("stop_loss.stop_price", "<=" if long else ">=", "-" if long else "+", base)
    if is_exit or target is None:
        return
    if not (target >= base + _CENT if long else target <= base - _CENT):
        raise _off_base(
            "take_profit.limit_price", ">=" if long else "<=", "+" if long else "-", base
        )


def check_wash(new: NewOrder, open_orders: Iterable[BookOrder]) -> None:
    """Refuse an order that might trade with one of the account's own.

    Market and stop orders always conflict with an order of the other side, limit orders when the
    two limits cross. Complex and trailing-stop orders are exempt, as documented.
    """
    if _is_exempt(new.order_class, new.order_type):
        return
    for order in open_orders:
        if order.symbol != new.symbol or order.side is new.side:
            continue
        if order.held or _is_exempt(order.order_class, order.order_type):
            continue
        theirs, ours = order.limit_price_usd, new.limit_price_usd
        if theirs is None or ours is None or is_marketable(new.side, ours, theirs):
            kind = "market/stop" if theirs is None else "limit"
            raise PaperRefusal(
                403,
                _FORBIDDEN,
                "potential wash trade detected. use complex orders",
                reject_reason=f"opposite side {kind} order exists",
                existing_order_id=order.order_id,
            )


def check_held_shares(
    new: NewOrder, quantity: Decimal, holding: Holding, open_orders: Iterable[BookOrder]
) -> None:
    """Refuse to close more of a position than open orders have left free."""
    related = [o for o in open_orders if o.symbol == new.symbol and o.side is new.side]
    held = sum((o.remaining for o in related if binds_shares(o)), Decimal(0))
    size = abs(holding.quantity)
    available = max(Decimal(0), size - held)
    if quantity > available:
        raise PaperRefusal(
            403,
            _FORBIDDEN,
            "insufficient qty available for order "
            f"(requested: {plain(quantity)}, available: {plain(available)})",
            symbol=new.symbol,
            existing_qty=plain(size),
            available=plain(available),
            held_for_orders=plain(size - available),
            related_orders=[order.order_id for order in related],
        )


def check_buying_power(new: NewOrder, cost: Decimal, power: Decimal) -> None:
    """Refuse what the account cannot pay for or margin, and fractions sold short."""
    quantity = new.quantity
    fraction = quantity is None or quantity != quantity.to_integral_value()
    if new.side is Side.SELL and fraction:
        raise PaperRefusal(422, _UNPROCESSABLE, "fractional orders cannot be sold short")
    if cost > power:
        raise PaperRefusal(
            403,
            _FORBIDDEN,
            "insufficient buying power",
            buying_power=plain(power),
            cost_basis=plain(cost),
        )


def _check_stop(side: Side, stop: Decimal | None, mark: Decimal | None) -> None:
    if stop is None or mark is None:
        return
    if stop >= mark if side is Side.SELL else stop <= mark:
        word = "less" if side is Side.SELL else "greater"
        raise PaperRefusal(
            422,
            _UNPROCESSABLE,
            f"stop price must be {word} than current price",
            market_price=plain(mark),
        )


def _off_base(name: str, relation: str, sign: str, base: Decimal) -> PaperRefusal:
    message = f"{name} must be {relation} base_price {sign} 0.01"
    return PaperRefusal(422, _UNPROCESSABLE, message, base_price=plain(base))


def _is_exempt(order_class: OrderClass, kind: OrderType) -> bool:
    return order_class is not OrderClass.SIMPLE or kind is OrderType.TRAILING_STOP
