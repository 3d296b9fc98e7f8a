"""Orders that belong together: the legs of brackets, OCOs and OTOs.

Source: https://docs.alpaca.markets/docs/orders-at-alpaca (bracket, OCO and OTO orders).
"""

from __future__ import annotations

from dataclasses import replace

from execution.broker import OrderType, Side
from execution.paper_orders import BookOrder, NewOrder, OrderClass

_ENTRIES = frozenset({OrderClass.BRACKET, OrderClass.OTO})


def main_order(new: NewOrder) -> NewOrder:
    """Return the order that stands at the head of what was asked for.

    Of an OCO that is the take-profit itself; of the others it is the entry.
    """
    if new.order_class is not OrderClass.OCO:
        return new
    return replace(new, order_type=OrderType.LIMIT, limit_price_usd=new.take_profit_usd)


def leg_orders(new: NewOrder) -> list[NewOrder]:
    """Return the legs, take-profit before stop-loss; without client ids."""
    if new.order_class is OrderClass.SIMPLE:
        return []
    is_entry = new.order_class in _ENTRIES
    opposite = Side.SELL if new.side is Side.BUY else Side.BUY
    bare = replace(
        new,
        side=opposite if is_entry else new.side,
        client_order_id=None,
        limit_price_usd=None,
        stop_price_usd=None,
    )
    legs: list[NewOrder] = []
    if is_entry and new.take_profit_usd is not None:
        legs.append(replace(bare, order_type=OrderType.LIMIT, limit_price_usd=new.take_profit_usd))
    if new.stop_loss_usd is not None:
        limit = new.stop_loss_limit_usd
        kind = OrderType.STOP if limit is None else OrderType.STOP_LIMIT
        legs.append(
            replace(bare, order_type=kind, stop_price_usd=new.stop_loss_usd, limit_price_usd=limit)
        )
    return legs


def group(order: BookOrder) -> tuple[BookOrder, ...]:
    """Return every order that belongs with this one, itself included."""
    head = order.parent or order
    return (head, *head.legs)


def exits(order: BookOrder) -> tuple[BookOrder, ...]:
    """Return the orders of which one cancels the other, if this order is one of them."""
    head = order.parent or order
    if head.order_class is OrderClass.OCO:
        return (head, *head.legs)
    return head.legs if order.parent is not None else ()


def rivals(order: BookOrder) -> list[BookOrder]:
    """Return the open exits that stand beside this one."""
    return [other for other in exits(order) if other is not order and other.is_open]


def waiting_legs(order: BookOrder) -> list[BookOrder]:
    """Return the legs that this entry's whole fill brings to life."""
    if order.order_class not in _ENTRIES or order.parent is not None:
        return []
    return [leg for leg in order.legs if leg.is_open and leg.held]


def binds_shares(order: BookOrder) -> bool:
    """Say whether an open order binds shares: a held leg does not, of two exits one does."""
    if order.held:
        return False
    return all(other.sequence > order.sequence for other in rivals(order))
