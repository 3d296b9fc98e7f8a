"""The port through which orders leave: every broker is one file behind this protocol.

Prices and quantities are :class:`decimal.Decimal` from here on: a float never reaches a wire.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Protocol, runtime_checkable


class Side(StrEnum):
    """Side of an order."""

    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> Side:
        """The other side."""
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderType(StrEnum):
    """Order types that Isobar sends."""

    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"
    TRAILING_STOP = "trailing_stop"


class TimeInForce(StrEnum):
    """How long an order stands: the day, until canceled, or for one auction alone."""

    DAY = "day"
    GTC = "gtc"
    OPG = "opg"
    CLS = "cls"


class OrderStatus(StrEnum):
    """States of an order at the broker, in Isobar's words.

    ``UNKNOWN`` stands for a status word that this version does not know: the order exists.
    """

    ACCEPTED = "accepted"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    UNKNOWN = "unknown"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to the order."""
        return self in _FINAL


_FINAL = frozenset(
    {OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.EXPIRED, OrderStatus.REJECTED}
)


@dataclass(frozen=True, slots=True)
class Account:
    """Balances in USD. ``is_blocked`` is true when the broker forbids trading for any reason."""

    account_number: str
    currency: str
    cash_usd: Decimal
    equity_usd: Decimal
    last_equity_usd: Decimal
    buying_power_usd: Decimal
    is_blocked: bool
    shorting_enabled: bool


@dataclass(frozen=True, slots=True)
class Asset:
    """What the broker lets one do with a symbol."""

    symbol: str
    tradable: bool
    shortable: bool
    fractionable: bool
    status: str


@dataclass(frozen=True, slots=True)
class Clock:
    """The broker's clock (UTC)."""

    now: dt.datetime
    is_open: bool
    next_open: dt.datetime
    next_close: dt.datetime


@dataclass(frozen=True, slots=True)
class Position:
    """A holding; ``quantity`` is negative for a short position."""

    symbol: str
    quantity: Decimal
    average_price_usd: Decimal
    current_price_usd: Decimal
    market_value_usd: Decimal


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An order as Isobar wants it. ``client_order_id`` is its identity, everywhere.

    ``take_profit_usd`` and ``stop_loss_usd`` ask for orders that close what this one opens: of
    two the first that fills cancels the other. A trailing stop has ``trail_percent``.
    """

    client_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    order_type: OrderType
    time_in_force: TimeInForce
    limit_price_usd: Decimal | None = None
    stop_price_usd: Decimal | None = None
    trail_percent: Decimal | None = None
    extended_hours: bool = False
    take_profit_usd: Decimal | None = None
    stop_loss_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """An order as the broker has it.

    ``order_type`` is absent where the broker has one that Isobar does not know. ``legs`` are the
    orders that close what this one opens; the broker named them. ``parent_id`` is set on such an
    order where it is Isobar's own: it can only close, never open.
    """

    client_order_id: str
    broker_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    filled_quantity: Decimal
    filled_average_price_usd: Decimal | None
    status: OrderStatus
    submitted_at: dt.datetime
    updated_at: dt.datetime
    reason: str | None = None
    order_type: OrderType | None = None
    limit_price_usd: Decimal | None = None
    stop_price_usd: Decimal | None = None
    legs: tuple[Order, ...] = ()
    parent_id: str | None = None


@runtime_checkable
class Broker(Protocol):
    """What Isobar needs of a broker.

    Contract (``tests/contracts/test_broker.py``): every call has a timeout and raises
    :class:`~market.errors.BrokerError` on anything unclear, and its child
    :class:`~market.errors.BrokerRefusal` on a clear no. ``submit`` is idempotent in
    ``client_order_id``: a second call with the same id returns the first order. ``find_order``
    returns ``None`` only when the broker says that it knows no such order.
    """

    @property
    def name(self) -> str:
        """Short name, written beside every order."""
        ...

    @property
    def is_paper(self) -> bool:
        """Whether no real money moves."""
        ...

    def account(self) -> Account:
        """Return balances."""
        ...

    def clock(self) -> Clock:
        """Return the broker's clock."""
        ...

    def assets(self, symbols: Sequence[str]) -> dict[str, Asset]:
        """Return what is known of these symbols; unknown ones are left out."""
        ...

    def positions(self) -> list[Position]:
        """Return every position of the account, whoever opened it."""
        ...

    def open_orders(self) -> list[Order]:
        """Return every order that may still fill, whoever placed it."""
        ...

    def orders_since(self, moment: dt.datetime) -> list[Order]:
        """Return every order submitted at or after a moment, whatever became of it."""
        ...

    def submit(self, request: OrderRequest) -> Order:
        """Place an order once, however often it is called with the same id."""
        ...

    def find_order(self, client_order_id: str) -> Order | None:
        """Return the order of this id, or ``None`` if the broker knows none."""
        ...

    def cancel(self, broker_order_id: str) -> None:
        """Ask for cancellation; a final order is left as it is."""
        ...
