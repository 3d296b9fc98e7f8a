"""The paper broker's orders, positions and records: plain data, no behaviour of the market."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from execution.broker import OrderStatus, OrderType, Side, TimeInForce
from market.errors import ExecutionError

ZERO = Decimal(0)
_SPACE = uuid.UUID("3c1f5a0e-8f5b-5d0e-9a57-0d6a1f6b2a41")


def paper_id(name: str) -> str:
    """Return an id that is the same in every run."""
    return str(uuid.uuid5(_SPACE, name))


class PaperRefusal(ExecutionError):
    """The paper broker says no, in the words of the service that it stands for.

    Parameters
    ----------
    http_status, code : int
        The service's status and error code.
    message : str
        The service's message.
    **details : str or list of str
        Further fields of the error body.
    """

    def __init__(
        self, http_status: int, code: int, message: str, **details: str | list[str]
    ) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.body: dict[str, int | str | list[str]] = {"code": code, "message": message, **details}


class OrderClass(StrEnum):
    """How an order belongs to others."""

    SIMPLE = "simple"
    BRACKET = "bracket"
    OCO = "oco"
    OTO = "oto"


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order as it arrives: ``quantity`` or ``notional_usd`` is given, never both."""

    symbol: str
    side: Side
    quantity: Decimal | None
    order_type: OrderType
    time_in_force: TimeInForce
    limit_price_usd: Decimal | None = None
    client_order_id: str | None = None
    stop_price_usd: Decimal | None = None
    trail_percent: Decimal | None = None
    trail_price_usd: Decimal | None = None
    notional_usd: Decimal | None = None
    extended_hours: bool = False
    order_class: OrderClass = OrderClass.SIMPLE
    take_profit_usd: Decimal | None = None
    stop_loss_usd: Decimal | None = None
    stop_loss_limit_usd: Decimal | None = None


@dataclass(slots=True)
class BookOrder:
    """An order in the book.

    ``eligible_from`` is the earliest start of a bar that may fill it. A stop that was born
    inside a bar (``inside_bar`` is that bar's start) may also be hit in that bar. A limit that
    ``rested`` gets no better open any more.
    ``parent`` and ``legs`` tie the orders of a bracket, an OCO or an OTO; a leg is ``held`` until
    its entry has filled wholly. ``version`` counts what happened to the order.
    """

    order_id: str
    sequence: int
    client_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    order_type: OrderType
    time_in_force: TimeInForce
    limit_price_usd: Decimal | None
    session: dt.date
    submitted_at: dt.datetime
    updated_at: dt.datetime
    eligible_from: dt.datetime
    stop_price_usd: Decimal | None = None
    trail_percent: Decimal | None = None
    trail_price_usd: Decimal | None = None
    high_water_usd: Decimal | None = None
    notional_usd: Decimal | None = None
    extended_hours: bool = False
    order_class: OrderClass = OrderClass.SIMPLE
    held: bool = False
    routed: bool = False
    will_reject: str | None = None
    inside_bar: dt.datetime | None = None
    rested: bool = False
    triggered_at: dt.datetime | None = None
    status: OrderStatus = OrderStatus.ACCEPTED
    filled_quantity: Decimal = ZERO
    filled_value_usd: Decimal = ZERO
    finished_at: dt.datetime | None = None
    reason: str | None = None
    replaces: str | None = None
    replaced_by: str | None = None
    parent: BookOrder | None = field(default=None, compare=False, repr=False)
    legs: tuple[BookOrder, ...] = field(default=(), compare=False, repr=False)
    version: int = field(default=0, compare=False, repr=False)

    @property
    def is_open(self) -> bool:
        """Whether it may still fill."""
        return not self.status.is_final

    @property
    def remaining(self) -> Decimal:
        """Quantity not yet filled."""
        return self.quantity - self.filled_quantity

    @property
    def average_price_usd(self) -> Decimal | None:
        """Average price of what has filled."""
        return self.filled_value_usd / self.filled_quantity if self.filled_quantity else None

    @property
    def signed(self) -> int:
        """1 for a buy, -1 for a sale."""
        return 1 if self.side is Side.BUY else -1


@dataclass(frozen=True, slots=True)
class Holding:
    """A position: signed quantity and average entry price."""

    symbol: str
    quantity: Decimal
    average_price_usd: Decimal

    @property
    def closing_side(self) -> Side:
        """The side of an order that makes the position smaller."""
        return Side.SELL if self.quantity > 0 else Side.BUY

    def after(self, signed_quantity: Decimal, price_usd: Decimal) -> Holding:
        """Return the holding after a trade of a signed quantity at a price."""
        total = self.quantity + signed_quantity
        if self.quantity * signed_quantity >= 0:
            cost = self.quantity * self.average_price_usd + signed_quantity * price_usd
            return Holding(self.symbol, total, cost / total)
        crossed = total * self.quantity < 0
        return Holding(self.symbol, total, price_usd if crossed else self.average_price_usd)


class Event(StrEnum):
    """What the stream of trade updates says, in the service's words."""

    ACCEPTED = "accepted"
    NEW = "new"
    PARTIAL_FILL = "partial_fill"
    FILL = "fill"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Update:
    """One change of one order: ``order`` is a copy as it was after the change."""

    event: Event
    at: dt.datetime
    order: BookOrder
    execution_id: str
    quantity: Decimal | None = None
    price_usd: Decimal | None = None
    position_quantity: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """A fill, a dividend or a split, as it changed the account.

    ``update`` is the fill; otherwise ``kind`` is ``DIV`` or ``SPLIT`` and ``quantity`` the
    signed position that it met, ``net_usd`` the cash that moved.
    """

    activity_id: str
    kind: str
    at: dt.datetime
    symbol: str
    quantity: Decimal
    net_usd: Decimal
    per_share: Decimal | None = None
    update: Update | None = None
