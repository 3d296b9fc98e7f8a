"""What risk checks are told, and what they answer."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from decimal import Decimal

from execution.broker import Account, Asset, Clock, Order, Position
from execution.day_trading import DayTrading
from execution.denials import DenialCode
from execution.intents import LastPrice, OrderIntent
from execution.state import TradingState
from market.errors import ExecutionError

EVERYTHING = "*"
"""Stands for every symbol among the problems of the data."""

CLOCK_TOLERANCE = dt.timedelta(minutes=5)
"""How far the broker's clock and ours may be apart."""


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """What may not be exceeded. Shares are of account equity; ages are in seconds.

    Attributes
    ----------
    order_notional_usd : Decimal
        Largest value of one order.
    position_share : Decimal
        Largest value of one position.
    gross_share : Decimal
        Largest value of all positions.
    net_share : Decimal
        Largest value of long less short positions, either way.
    sector_share : Decimal or None
        Largest gross value of one sector; without one its check is not made.
    daily_loss_share : Decimal
        Loss since the last close from which on nothing is opened.
    drawdown_share : Decimal
        Loss from the highest equity that was reconciled from which on nothing is opened.
    volume_share : Decimal or None
        Largest order as a share of the average daily volume; without one its check is not made.
    price_collar_share : Decimal
        Farthest that an order's prices may be from the last price.
    price_age_seconds : float
        Oldest last price; counts from now in the session, and from the last close while the
        market is shut.
    batch_age_seconds : float
        Oldest batch that is traded.
    batch_late_seconds : float
        How late after its schedule a batch may have been published.
    opg_wait_seconds : float
        How long before the open an order for the auction may be sent.
    day_wait_seconds : float
        How long before the open an order for the day may be sent.
    model_age_days : float
        Oldest model that may open a position.
    order_count : int
        Most orders of one plan.
    orders_per_hour : int
        Most orders of an hour.
    allow_short : bool
        Whether positions may be short.
    restricted : frozenset of str
        Symbols that are never traded.
    """

    order_notional_usd: Decimal = Decimal(100_000)
    position_share: Decimal = Decimal("0.15")
    gross_share: Decimal = Decimal("2.0")
    net_share: Decimal = Decimal("2.0")
    sector_share: Decimal | None = None
    daily_loss_share: Decimal = Decimal("0.03")
    drawdown_share: Decimal = Decimal("0.15")
    volume_share: Decimal | None = Decimal("0.05")
    price_collar_share: Decimal = Decimal("0.05")
    price_age_seconds: float = 3600.0
    batch_age_seconds: float = 6 * 3600.0
    batch_late_seconds: float = 45 * 60.0
    opg_wait_seconds: float = 15 * 3600.0
    day_wait_seconds: float = 15 * 60.0
    model_age_days: float = 120.0
    order_count: int = 500
    orders_per_hour: int = 2_000
    allow_short: bool = False
    restricted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse limits that limit nothing."""
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None or isinstance(value, bool | frozenset):
                continue
            if not Decimal(value).is_finite() or value < 0:
                raise ExecutionError(
                    f"limit {item.name!r} is out of range",
                    got=str(value),
                    allowed="a finite number, 0 or more",
                    remedy="correct the risk settings",
                )


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """What the ledger says of the batch that is traded."""

    batch_id: str
    as_of: dt.datetime
    scheduled_for: dt.datetime
    ts_emit: dt.datetime
    late: bool
    complete: bool
    parity_broken: bool = False


@dataclass(frozen=True, slots=True)
class RiskContext:
    """All that the checks may look at. ``None`` stands for what could not be had: it denies.

    ``open_orders`` holds every order that may still fill, foreign ones included;
    ``own_quantities`` what Isobar's fills amount to; ``journalled`` the ids of orders already
    in the journal; ``prices`` must cover every symbol held, ordered or planned.
    ``models_known_at`` says by horizon when the oldest of its models learned its last; a symbol in
    ``data_problems`` has bars that cannot be trusted (``*`` stands for all). ``peak_equity_usd`` is
    the highest equity that was reconciled, ``sent_last_hour`` how many orders left in it, and
    ``average_volumes`` are daily, in shares.
    """

    now: dt.datetime
    state: TradingState | None
    batch: BatchStatus | None
    account: Account | None
    clock: Clock | None
    positions: Sequence[Position] | None
    open_orders: Sequence[Order] | None
    own_quantities: Mapping[str, Decimal] | None
    journalled: AbstractSet[str] | None
    assets: Mapping[str, Asset]
    prices: Mapping[str, LastPrice]
    models_known_at: Mapping[str, dt.datetime] | None
    data_problems: Mapping[str, str] | None
    peak_equity_usd: Decimal | None
    sent_last_hour: int | None
    day_trading: DayTrading | None
    average_volumes: Mapping[str, Decimal]
    sectors: Mapping[str, str] | None = None
    limits: RiskLimits = field(default_factory=RiskLimits)


@dataclass(frozen=True, slots=True)
class Denial:
    """One reason against an order."""

    code: DenialCode
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of all checks for one intent."""

    intent: OrderIntent
    denials: tuple[Denial, ...]

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against the order."""
        return not self.denials
