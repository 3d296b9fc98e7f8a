"""What Isobar wants of the market: intents, the plan they make, and its rules."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from execution.broker import OrderRequest, OrderType, Side, TimeInForce
from execution.denials import DenialCode
from execution.targets import TargetReason
from market.errors import ExecutionError
from market.hash_chain import canonical_json

ORDER_ID_PREFIX = "iso-"
CLOSING_ATTEMPT = 900
"""Attempts from here on are no batch's: the exits at a session's close."""
FLATTEN_ATTEMPT = 1_000
"""Attempts from here on are closings by hand, so that no plan's order has the same identity."""
BASIS_POINTS = Decimal(10_000)


class SkipReason(StrEnum):
    """Why a symbol with a target gets no order."""

    AT_TARGET = "at_target"
    KEPT = "kept"
    BELOW_MIN_NOTIONAL = "below_min_notional"
    BELOW_ONE_SHARE = "below_one_share"
    FOREIGN_POSITION = "foreign_position"
    FOREIGN_ORDER = "foreign_order"
    OWN_MISSING_AT_BROKER = "own_missing_at_broker"
    UNRESOLVED_ORDER = "unresolved_order"
    OPPOSING_ORDER = "opposing_order"
    CLOSING_ORDER = "closing_order_working"
    TOO_LATE_TO_SEND = "too_late_to_send"


@dataclass(frozen=True, slots=True)
class LastPrice:
    """The last known price of a symbol, and when it was made."""

    price_usd: Decimal
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class PlanRules:
    """How targets become orders.

    Attributes
    ----------
    min_notional_usd : Decimal
        Smaller changes are not worth an order, except closing a position.
    attempt : int
        Part of every order's identity; a person raises it to try a denied plan anew.
    limit_offset_bps : Decimal or None
        How far beyond the last price a limit order reaches; without it orders are market orders.
    extended_hours : bool
        Trade before and after the session, which takes limit orders.
    brackets : bool
        Leave target and stop of a position with the broker where it takes them.
    requests_per_minute : int
        What the broker answers; a plan that would take too long is cut.
    """

    min_notional_usd: Decimal = Decimal(100)
    attempt: int = 1
    limit_offset_bps: Decimal | None = None
    extended_hours: bool = False
    brackets: bool = False
    requests_per_minute: int = 180

    def __post_init__(self) -> None:
        """Refuse rules under which nothing could be sent."""
        if self.extended_hours and self.limit_offset_bps is None:
            raise ExecutionError(
                "trading outside the session takes limit orders",
                got="extended_hours without limit_offset_bps",
                allowed="both, or neither",
                remedy="set limit_offset_bps, for example to 20",
            )
        offset = self.limit_offset_bps
        if offset is not None and not (offset.is_finite() and 0 <= offset < BASIS_POINTS):
            raise ExecutionError(
                "the offset of limit orders is out of range",
                got=str(offset),
                allowed="0 to below 10000 basis points",
                remedy="correct the trading settings",
            )
        if self.requests_per_minute < 1:
            raise ExecutionError(
                "the broker's pace is out of range",
                got=self.requests_per_minute,
                allowed="1 or more requests a minute",
                remedy="correct the trading settings",
            )


@dataclass(frozen=True, slots=True)
class OrderIntent:
    """An order that Isobar wants, before any check. Leg 2 waits until leg 1 has filled.

    ``target_price_usd`` and ``stop_price_usd`` are the exit levels of the position; with
    ``take_profit_usd`` and ``stop_loss_usd`` they are left with the broker. Of a stop order, which
    only the broker makes, ``stop_price_usd`` is what triggers it. ``cancels`` are Isobar's own
    orders that must be gone before this one is sent, and ``planned_from`` what Isobar owned when
    it was planned.
    """

    client_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    order_type: OrderType
    time_in_force: TimeInForce
    leg: int
    attempt: int
    reason: TargetReason
    limit_price_usd: Decimal | None = None
    reference_price_usd: Decimal | None = None
    horizon: str | None = None
    valid_until: dt.datetime | None = None
    target_price_usd: Decimal | None = None
    stop_price_usd: Decimal | None = None
    take_profit_usd: Decimal | None = None
    stop_loss_usd: Decimal | None = None
    extended_hours: bool = False
    cancels: tuple[str, ...] = ()
    planned_from: Decimal | None = None

    @property
    def has_exits(self) -> bool:
        """Whether target or stop are left with the broker."""
        return self.take_profit_usd is not None or self.stop_loss_usd is not None

    @property
    def outlives_plan(self) -> bool:
        """Whether it only stands beside its plan in the journal, and has an end of its own."""
        return self.attempt >= CLOSING_ATTEMPT

    @property
    def signed_quantity(self) -> Decimal:
        """Return the change of position, negative for a sale."""
        return self.quantity if self.side is Side.BUY else -self.quantity

    def request(self) -> OrderRequest:
        """Return what goes to the broker."""
        return OrderRequest(
            client_order_id=self.client_order_id,
            symbol=self.symbol,
            side=self.side,
            quantity=self.quantity,
            order_type=self.order_type,
            time_in_force=self.time_in_force,
            limit_price_usd=self.limit_price_usd,
            extended_hours=self.extended_hours,
            take_profit_usd=self.take_profit_usd,
            stop_loss_usd=self.stop_loss_usd,
        )


@dataclass(frozen=True, slots=True)
class Skipped:
    """A symbol whose target needs no order, or cannot have one now."""

    symbol: str
    reason: SkipReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A symbol whose signals or price cannot be acted on: denied before there is an order."""

    symbol: str
    code: DenialCode
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything one batch leads to. After ``expires_at`` what was not sent is not sent.

    Every symbol with a target is in one of ``intents``, ``skipped`` and ``refused``.
    """

    plan_id: str
    batch_id: str
    as_of: dt.datetime
    expires_at: dt.datetime
    intents: tuple[OrderIntent, ...]
    skipped: tuple[Skipped, ...]
    refused: tuple[Refused, ...] = ()


def client_order_id(batch_id: str, symbol: str, side: Side, leg: int, attempt: int) -> str:
    """Return the identity of an order: a pure function of what it is for.

    Examples
    --------
    >>> client_order_id("b1", "AAPL", Side.BUY, 1, 1)
    'iso-0c67782b921a4351cacb3b99-1'
    """
    key = canonical_json([batch_id, symbol, side.value, leg, attempt])
    return f"{ORDER_ID_PREFIX}{hashlib.sha256(key).hexdigest()[:24]}-{leg}"
