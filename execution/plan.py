"""From targets to order intents: one netted intent per symbol, sells before buys.

Pure: what is known of the account comes in, a plan comes out. A foreign position is never
traded: Isobar opens nothing in a symbol that somebody else holds or has an order in, and sells
no more than its own fills bought.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum

from execution.broker import (
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
from execution.targets import TargetDecision, TargetReason, Targets
from market.calendar import NEW_YORK
from market.errors import ExecutionError
from market.hash_chain import canonical_json

ORDER_ID_PREFIX = "iso-"
_OPG_REFUSED_FROM = dt.time(9, 28)
_OPG_REFUSED_UNTIL = dt.time(19, 0)


class SkipReason(StrEnum):
    """Why a symbol with a target gets no order."""

    AT_TARGET = "at_target"
    KEPT = "kept"
    BELOW_MIN_NOTIONAL = "below_min_notional"
    BELOW_ONE_SHARE = "below_one_share"
    NO_PRICE = "no_price"
    FOREIGN_POSITION = "foreign_position"
    FOREIGN_ORDER = "foreign_order"
    OWN_MISSING_AT_BROKER = "own_missing_at_broker"
    UNRESOLVED_ORDER = "unresolved_order"
    OPPOSING_ORDER = "opposing_order"
    NO_DATA = "no_price_or_volatility"


@dataclass(frozen=True, slots=True)
class LastPrice:
    """The last known price of a symbol, and when it was made."""

    price_usd: Decimal
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class PlanRules:
    """How targets become orders.

    ``min_notional_usd``: smaller changes are not worth an order, except closing a position.
    ``attempt``: part of every order's identity; a person raises it to try a denied plan anew.
    """

    min_notional_usd: Decimal = Decimal(100)
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class OrderIntent:
    """An order that Isobar wants, before any check. Leg 2 waits until leg 1 has filled."""

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
        )


@dataclass(frozen=True, slots=True)
class Skipped:
    """A symbol whose target needs no order, or cannot have one now."""

    symbol: str
    reason: SkipReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything one batch leads to. After ``expires_at`` what was not sent is not sent."""

    plan_id: str
    batch_id: str
    as_of: dt.datetime
    expires_at: dt.datetime
    intents: tuple[OrderIntent, ...]
    skipped: tuple[Skipped, ...]


def client_order_id(batch_id: str, symbol: str, side: Side, leg: int, attempt: int) -> str:
    """Return the identity of an order: a pure function of what it is for.

    Examples
    --------
    >>> client_order_id("b1", "AAPL", Side.BUY, 1, 1)
    'iso-0c67782b921a4351cacb3b99-1'
    """
    key = canonical_json([batch_id, symbol, side.value, leg, attempt])
    return f"{ORDER_ID_PREFIX}{hashlib.sha256(key).hexdigest()[:24]}-{leg}"


def plan_orders(
    targets: Targets,
    positions: Sequence[Position],
    open_orders: Sequence[Order],
    own_quantities: Mapping[str, Decimal],
    prices: Mapping[str, LastPrice],
    assets: Mapping[str, Asset],
    clock: Clock,
    rules: PlanRules,
    batch_id: str,
    own_order_ids: AbstractSet[str] = frozenset(),
) -> Plan:
    """Return the orders that lead from what Isobar owns to its targets.

    Parameters
    ----------
    targets : Targets
        From :func:`execution.targets.compute_targets`.
    positions : Sequence of Position
        The whole account, foreign positions included.
    open_orders : Sequence of Order
        Everything that may still fill: Isobar's own as its journal knows them (status
        ``UNKNOWN`` where an answer is outstanding), and foreign ones.
    own_quantities : Mapping
        What Isobar's own fills amount to, signed, by symbol.
    prices, assets, clock, rules
        Symbols that do not short or trade are denied by the risk checks, not here.
    batch_id : str
    own_order_ids : Set of str
        Ids in Isobar's journal; an open order with another id is foreign.

    Returns
    -------
    Plan
        Closing orders and sales first, then purchases; by symbol within each. A change that
        crosses zero is two orders: leg 1 closes, leg 2 opens.
    """
    held = {p.symbol: p.quantity for p in positions}
    intents: list[OrderIntent] = []
    skipped: list[Skipped] = []
    for decision in targets.decisions:
        symbol = decision.symbol
        scene = _Scene(
            account=held.get(symbol, Decimal(0)),
            own=own_quantities.get(symbol, Decimal(0)),
            orders=tuple(o for o in open_orders if o.symbol == symbol),
            own_order_ids=own_order_ids,
            price=prices.get(symbol),
            # Fractions only to close what is held in fractions, and only in the session.
            fractions=clock.is_open and symbol in assets and assets[symbol].fractionable,
        )
        change = _change(decision, scene, targets.equity_usd, rules)
        if isinstance(change, Skipped):
            skipped.append(change)
        else:
            intents.extend(_legs(decision, scene, change, clock, rules, batch_id))
    intents.sort(key=lambda i: (i.leg, i.side is Side.BUY, i.symbol))
    plan_id = hashlib.sha256(canonical_json(["plan", batch_id, rules.attempt])).hexdigest()[:32]
    return Plan(plan_id, batch_id, targets.as_of, clock.next_close, tuple(intents), tuple(skipped))


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is known of one symbol."""

    account: Decimal
    own: Decimal
    orders: tuple[Order, ...]
    own_order_ids: AbstractSet[str]
    price: LastPrice | None
    fractions: bool

    @property
    def own_orders(self) -> list[Order]:
        return [o for o in self.orders if o.client_order_id in self.own_order_ids]

    @property
    def pending(self) -> Decimal:
        return sum((_remaining(o) for o in self.own_orders), Decimal(0))

    @property
    def expected(self) -> Decimal:
        """What Isobar owns once its open orders have filled."""
        return self.own + self.pending


def _remaining(order: Order) -> Decimal:
    left = order.quantity - order.filled_quantity
    return left if order.side is Side.BUY else -left


def _change(
    decision: TargetDecision, scene: _Scene, equity: float, rules: PlanRules
) -> Decimal | Skipped:
    """Return the wanted change of Isobar's own quantity, or why there is none."""
    symbol = decision.symbol
    if decision.keep_quantity is not None:
        return Skipped(symbol, SkipReason.KEPT, decision.reason.value)
    if decision.reason is TargetReason.NO_DATA:
        return Skipped(symbol, SkipReason.NO_DATA)
    if any(o.status is OrderStatus.UNKNOWN for o in scene.own_orders):
        return Skipped(symbol, SkipReason.UNRESOLVED_ORDER)
    target = Decimal(0)
    if decision.weight != 0:
        if scene.price is None or scene.price.price_usd <= 0:
            return Skipped(symbol, SkipReason.NO_PRICE)
        amount = Decimal(str(decision.weight)) * Decimal(str(equity))
        target = _whole(amount / scene.price.price_usd)
    change = target - scene.expected
    if not (target == 0 and scene.fractions):
        change = _whole(change)
    if change == 0:
        small = decision.weight != 0 and target == 0
        return Skipped(symbol, SkipReason.BELOW_ONE_SHARE if small else SkipReason.AT_TARGET)
    if any((_remaining(o) > 0) != (change > 0) for o in scene.own_orders):
        return Skipped(symbol, SkipReason.OPPOSING_ORDER)
    if (refusal := _foreign(symbol, scene, change)) is not None:
        return refusal
    closes = target == 0
    if not closes and scene.price is not None:
        notional = abs(change) * scene.price.price_usd
        if notional < rules.min_notional_usd:
            return Skipped(symbol, SkipReason.BELOW_MIN_NOTIONAL, f"{notional:.2f} USD")
    return change


def _foreign(symbol: str, scene: _Scene, change: Decimal) -> Skipped | None:
    """Say why somebody else's holding or order forbids the change, if it does."""
    if len(scene.own_orders) < len(scene.orders):
        return Skipped(symbol, SkipReason.FOREIGN_ORDER)
    foreign = scene.account - scene.own
    if scene.own != 0 and foreign * scene.own < 0:
        return Skipped(
            symbol,
            SkipReason.OWN_MISSING_AT_BROKER,
            f"journal {scene.own}, account {scene.account}",
        )
    only_reduces = scene.expected * change < 0 and abs(change) <= abs(scene.expected)
    if foreign != 0 and not only_reduces:
        return Skipped(symbol, SkipReason.FOREIGN_POSITION, f"{foreign} shares")
    return None


def _whole(quantity: Decimal) -> Decimal:
    return quantity.quantize(Decimal(1), rounding=ROUND_DOWN)


def _legs(
    decision: TargetDecision,
    scene: _Scene,
    change: Decimal,
    clock: Clock,
    rules: PlanRules,
    batch_id: str,
) -> list[OrderIntent]:
    side = Side.BUY if change > 0 else Side.SELL
    crosses = scene.expected * change < 0 and abs(change) > abs(scene.expected)
    closing = _whole(abs(scene.expected)) if crosses else Decimal(0)
    quantities = [closing, abs(change) - closing] if closing else [abs(change)]
    return [
        OrderIntent(
            client_order_id=client_order_id(batch_id, decision.symbol, side, leg, rules.attempt),
            symbol=decision.symbol,
            side=side,
            quantity=quantity,
            order_type=OrderType.MARKET,
            time_in_force=time_in_force_at(clock),
            leg=leg,
            attempt=rules.attempt,
            reason=decision.reason,
            reference_price_usd=None if scene.price is None else scene.price.price_usd,
            horizon=decision.horizon,
            valid_until=decision.valid_until,
            target_price_usd=decision.target_price,
            stop_price_usd=decision.stop_price,
        )
        for leg, quantity in enumerate(quantities, start=1)
    ]


def time_in_force_at(clock: Clock) -> TimeInForce:
    """Return how an order sent now should stand.

    Returns
    -------
    TimeInForce
        ``DAY`` in the session. While the market is shut ``OPG`` (the next opening auction),
        except from 9:28 to 19:00 New York time, when the broker refuses such orders: ``DAY``.

    Raises
    ------
    ExecutionError
        When the clock has no time zone.
    """
    if clock.now.tzinfo is None:
        raise ExecutionError(
            "the broker's clock has no time zone",
            got=clock.now.isoformat(),
            remedy="fix the broker adapter",
        )
    local = clock.now.astimezone(NEW_YORK).time()
    if clock.is_open or _OPG_REFUSED_FROM <= local < _OPG_REFUSED_UNTIL:
        return TimeInForce.DAY
    return TimeInForce.OPG
