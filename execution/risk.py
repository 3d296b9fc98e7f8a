"""Risk checks: every order passes all of them, or is denied with codes.

Pure, and closed when in doubt: a check that lacks its data denies. Exposure is judged by the
worst order of fills: of everything that is open or accepted, any part may fill and the rest
not. So a sale never makes room for a purchase, and no accepted plan can break a limit.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from decimal import Decimal

from execution.broker import Account, Asset, Clock, Order, Position, TimeInForce
from execution.denials import DENIALS, DenialCode, denial_table
from execution.exposure import ExposureBook
from execution.intents import LastPrice, OrderIntent
from execution.state import TradingState
from market.calendar import latest_session, session_close
from market.errors import ExecutionError

__all__ = [
    "DENIALS",
    "BatchStatus",
    "Denial",
    "DenialCode",
    "RiskContext",
    "RiskLimits",
    "Verdict",
    "check_plan",
    "denial_table",
]


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """What may not be exceeded. Shares are of account equity; ages are in seconds.

    ``price_age_seconds`` counts from now in the session, and from the last close while the
    market is shut. ``opg_wait_seconds`` and ``day_wait_seconds``: how long before the open an
    order for the auction, or for the day, may be sent.
    """

    order_notional_usd: Decimal = Decimal(100_000)
    position_share: Decimal = Decimal("0.15")
    gross_share: Decimal = Decimal("2.0")
    net_share: Decimal = Decimal("2.0")
    daily_loss_share: Decimal = Decimal("0.03")
    price_collar_share: Decimal = Decimal("0.05")
    price_age_seconds: float = 3600.0
    batch_age_seconds: float = 6 * 3600.0
    batch_late_seconds: float = 45 * 60.0
    opg_wait_seconds: float = 15 * 3600.0
    day_wait_seconds: float = 15 * 60.0
    order_count: int = 500
    allow_short: bool = False
    restricted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse limits that limit nothing."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool | frozenset):
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


def check_plan(intents: Sequence[OrderIntent], context: RiskContext) -> list[Verdict]:
    """Judge every intent, in order, beside those accepted before it.

    Parameters
    ----------
    intents : Sequence of OrderIntent
        In the order in which they would be sent.
    context : RiskContext
        What is known.

    Returns
    -------
    list of Verdict
        One per intent, in the same order. An order that makes no figure worse passes the
        limits on exposure; one that only reduces a position of Isobar's own passes those on
        order notional, daily loss and foreign holdings too. Every other check is for all.
    """
    missing = _missing(context)
    if missing:
        denial = Denial(DenialCode.MISSING_DATA, ", ".join(missing))
        return [Verdict(intent, (denial,)) for intent in intents]
    scene = _Scene(context)
    verdicts: list[Verdict] = []
    for intent in intents:
        if _is_malformed(intent):
            denials = (Denial(DenialCode.BAD_QUANTITY),)
        else:
            denials = tuple(d for check in _CHECKS for d in check(intent, scene))
        verdicts.append(Verdict(intent, denials))
        scene.remember(verdicts[-1])
    return verdicts


def _missing(context: RiskContext) -> list[str]:
    names = (
        "state",
        "batch",
        "account",
        "clock",
        "positions",
        "open_orders",
        "own_quantities",
        "journalled",
    )
    found = [n for n in names if getattr(context, n) is None]
    account = context.account
    if account is not None:
        amounts = ("equity_usd", "last_equity_usd", "buying_power_usd")
        found.extend(n for n in amounts if not getattr(account, n).is_finite())
        found.extend(n for n in amounts[:2] if n not in found and getattr(account, n) <= 0)
    return found


def _is_malformed(intent: OrderIntent) -> bool:
    stated = (intent.quantity, intent.limit_price_usd, intent.reference_price_usd)
    return any(v is not None and not (v.is_finite() and v > 0) for v in stated)


class _Scene:
    """The context with nothing missing, and what the plan has added so far."""

    def __init__(self, context: RiskContext) -> None:
        assert context.batch is not None  # _missing has looked
        assert context.account is not None
        assert context.clock is not None
        assert context.state is not None
        self.now, self.limits, self.state = context.now, context.limits, context.state
        self.batch, self.account, self.clock = context.batch, context.account, context.clock
        self.assets, self.prices = context.assets, context.prices
        self.own = context.own_quantities or {}
        self.account_quantity = {p.symbol: p.quantity for p in context.positions or ()}
        self.book = ExposureBook(
            context.positions or (), context.open_orders or (), self.own, context.prices
        )
        self.unpriced = self.book.unpriced()
        self.known_ids = set(context.journalled or ())
        self.accepted_legs: set[tuple[str, int]] = set()
        self.accepted = 0

    def remember(self, verdict: Verdict) -> None:
        intent = verdict.intent
        self.known_ids.add(intent.client_order_id)
        if verdict.accepted:
            self.accepted += 1
            self.accepted_legs.add((intent.symbol, intent.leg))
            self.book.add(intent.symbol, intent.side, intent.quantity)


def _check_state(intent: OrderIntent, scene: _Scene) -> Iterator[Denial]:
    if scene.state is TradingState.HALTED:
        yield Denial(DenialCode.TRADING_HALTED)
    if scene.state is TradingState.REDUCING and not scene.book.reduces_own(intent):
        yield Denial(DenialCode.TRADING_REDUCING)


def _check_batch(intent: OrderIntent, scene: _Scene) -> Iterator[Denial]:
    batch, limits = scene.batch, scene.limits
    if not batch.complete:
        yield Denial(DenialCode.BATCH_INCOMPLETE, batch.batch_id)
    delay = (batch.ts_emit - batch.scheduled_for).total_seconds()
    if batch.late or delay > limits.batch_late_seconds:
        yield Denial(DenialCode.BATCH_LATE, f"{delay:.0f} s after it was due")
    if batch.parity_broken:
        yield Denial(DenialCode.PARITY_BROKEN)
    age = (scene.now - batch.as_of).total_seconds()
    if not 0 <= age <= limits.batch_age_seconds:
        yield Denial(DenialCode.BATCH_STALE, f"{age:.0f} s old")
    if intent.valid_until is not None and intent.valid_until <= scene.now:
        yield Denial(DenialCode.SIGNAL_EXPIRED, intent.valid_until.isoformat())
    if intent.valid_until is None and not scene.book.reduces_own(intent):
        yield Denial(DenialCode.MISSING_DATA, "valid_until")


def _check_market(intent: OrderIntent, scene: _Scene) -> Iterator[Denial]:
    if scene.clock.is_open:
        return
    wait = (scene.clock.next_open - scene.now).total_seconds()
    auction = intent.time_in_force is TimeInForce.OPG
    longest = scene.limits.opg_wait_seconds if auction else scene.limits.day_wait_seconds
    if not 0 <= wait <= longest:
        yield Denial(DenialCode.MARKET_CLOSED, f"{wait:.0f} s to the open")


def _check_account(intent: OrderIntent, scene: _Scene) -> Iterator[Denial]:
    account = scene.account
    if account.is_blocked:
        yield Denial(DenialCode.ACCOUNT_BLOCKED)
    if account.currency != "USD":
        yield Denial(DenialCode.ACCOUNT_CURRENCY, account.currency)
    lost = (account.last_equity_usd - account.equity_usd) / account.last_equity_usd
    if lost > scene.limits.daily_loss_share and not scene.book.reduces_own(intent):
        yield Denial(DenialCode.DAILY_LOSS, f"{lost:.2%} of equity")


def _check_symbol(intent: OrderIntent, scene: _Scene) -> Iterator[Denial]:
    if intent.symbol in scene.limits.restricted:
        yield Denial(DenialCode.RESTRICTED)
    foreign = scene.account_quantity.get(intent.symbol, Decimal(0)) - scene.own.get(
        intent.symbol, Decimal(0)
    )
    if foreign != 0 and not scene.book.reduces_own(intent):
        yield Denial(DenialCode.FOREIGN_POSITION, f"{foreign} shares")
    asset = scene.assets.get(intent.symbol)
    if asset is None:
        yield Denial(DenialCode.MISSING_DATA, "asset")
        return
    if not asset.tradable or asset.status != "active":
        yield Denial(DenialCode.NOT_TRADABLE, asset.status)
    shorting = scene.limits.allow_short and scene.account.shorting_enabled and asset.shortable
    if scene.book.may_be_short(intent) and not shorting:
        yield Denial(DenialCode.NOT_SHORTABLE)


def _check_price(intent: OrderIntent, scene: _Scene) -> Iterator[Denial]:
    last = scene.prices.get(intent.symbol)
    if last is None or not (last.price_usd.is_finite() and last.price_usd > 0):
        yield Denial(DenialCode.MISSING_DATA, "last price")
        return
    basis = scene.now
    if not scene.clock.is_open:
        basis = min(basis, session_close(latest_session(scene.now)))
    age = (basis - last.at).total_seconds()
    if age > scene.limits.price_age_seconds or last.at > scene.now:
        yield Denial(DenialCode.PRICE_TOO_OLD, f"of {last.at.isoformat()}")
    for price in (intent.limit_price_usd, intent.reference_price_usd):
        if price is not None:
            gap = abs(price - last.price_usd) / last.price_usd
            if gap > scene.limits.price_collar_share:
                yield Denial(DenialCode.PRICE_COLLAR, f"{gap:.2%} from the last price")


def _check_size(intent: OrderIntent, scene: _Scene) -> Iterator[Denial]:
    price = scene.book.price(intent.symbol)
    if price is None:
        return  # denied by _check_price
    limits, equity = scene.limits, scene.account.equity_usd
    notional = intent.quantity * price
    if notional > limits.order_notional_usd and not scene.book.reduces_own(intent):
        yield Denial(DenialCode.ORDER_NOTIONAL, f"{notional:.2f} USD")
    if scene.unpriced and not scene.book.reduces_own(intent):
        yield Denial(DenialCode.MISSING_DATA, f"price of {', '.join(scene.unpriced[:5])}")
    before, after = scene.book.now(intent.symbol), scene.book.after(intent)
    for code, was, becomes, share in (
        (
            DenialCode.POSITION_NOTIONAL,
            before.position_usd,
            after.position_usd,
            limits.position_share,
        ),
        (DenialCode.GROSS_LEVERAGE, before.gross_usd, after.gross_usd, limits.gross_share),
        (DenialCode.NET_LEVERAGE, before.net_usd, after.net_usd, limits.net_share),
    ):
        if becomes > share * equity and becomes > was:
            yield Denial(code, f"{becomes / equity:.1%} of equity")
    needs = scene.book.opening_usd(intent.symbol, intent.side, intent.quantity)
    if needs > 0 and scene.book.needed_usd + needs > scene.account.buying_power_usd:
        yield Denial(DenialCode.BUYING_POWER, f"{scene.book.needed_usd + needs:.2f} USD")


def _check_order(intent: OrderIntent, scene: _Scene) -> Iterator[Denial]:
    if intent.client_order_id in scene.known_ids:
        yield Denial(DenialCode.DUPLICATE, intent.client_order_id)
    if scene.accepted >= scene.limits.order_count:
        yield Denial(DenialCode.ORDER_COUNT, f"{scene.accepted} orders")
    if intent.leg > 1 and (intent.symbol, intent.leg - 1) not in scene.accepted_legs:
        yield Denial(DenialCode.LEG_DENIED)


_CHECKS: tuple[Callable[[OrderIntent, _Scene], Iterator[Denial]], ...] = (
    _check_state,
    _check_batch,
    _check_market,
    _check_account,
    _check_symbol,
    _check_price,
    _check_size,
    _check_order,
)
