"""From targets to order intents: one netted intent per symbol, sells before buys.

Pure: what is known of the account comes in, a plan comes out. A foreign position is never
traded: Isobar opens nothing in a symbol that somebody else holds or has an order in, and sells
no more than its own fills bought.

Orders at the broker that close a position of ours (its target and stop) stand in the way of any
other order in the symbol: shares are held for them, and a purchase beside a resting sale looks
like a wash trade. So an intent names those that are to be canceled before it is sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Decimal

from execution.broker import (
    Asset,
    Clock,
    Order,
    OrderStatus,
    OrderType,
    Position,
    Side,
    TimeInForce,
)
from execution.denials import DenialCode
from execution.intents import (
    LastPrice,
    OrderIntent,
    Plan,
    PlanRules,
    Refused,
    Skipped,
    SkipReason,
    client_order_id,
)
from execution.order_timing import closing_style, feasible, style_of, time_in_force_of_leg
from execution.targets import TargetDecision, TargetReason, Targets
from market.hash_chain import canonical_json


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
    *,
    for_close: bool = False,
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
    for_close : bool, default False
        Whether the orders are exits for the closing auction
        (:func:`execution.closing.closing_targets`), which take market orders.

    Returns
    -------
    Plan
        Closing orders and sales first, then purchases; by symbol within each. A change that
        crosses zero is two orders: leg 1 closes, leg 2 opens. What the broker could not answer
        in time, at its pace, is left out, from the end.
    """
    held = {p.symbol: p.quantity for p in positions}
    orders_of: dict[str, list[Order]] = {}
    for order in open_orders:
        orders_of.setdefault(order.symbol, []).append(order)
    intents: list[OrderIntent] = []
    skipped: list[Skipped] = []
    refused: list[Refused] = []
    for decision in targets.decisions:
        symbol = decision.symbol
        scene = _Scene(
            account=held.get(symbol, Decimal(0)),
            own=own_quantities.get(symbol, Decimal(0)),
            orders=tuple(orders_of.get(symbol, ())),
            own_order_ids=own_order_ids,
            price=prices.get(symbol),
            # Fractions only to close what is held in fractions, and only in the session.
            fractions=clock.is_open and symbol in assets and assets[symbol].fractionable,
        )
        if (refusal := _refusal(decision, scene.price)) is not None:
            refused.append(refusal)
            continue
        change = _change(decision, scene, targets.equity_usd, rules)
        if isinstance(change, Skipped):
            skipped.append(change)
        else:
            intents.extend(_legs(decision, scene, change, clock, rules, batch_id, for_close))
    intents.sort(key=lambda i: (i.leg, i.side is Side.BUY, i.symbol))
    intents, late = feasible(intents, clock, rules)
    plan_id = hashlib.sha256(canonical_json(["plan", batch_id, rules.attempt])).hexdigest()[:32]
    left_out = tuple(skipped + late), tuple(refused)
    return Plan(plan_id, batch_id, targets.as_of, clock.next_close, tuple(intents), *left_out)


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
        """Isobar's own, but for those that close a position by themselves."""
        return [
            o for o in self.orders if o.client_order_id in self.own_order_ids and not o.parent_id
        ]

    @property
    def exits(self) -> list[Order]:
        """Isobar's own targets and stops that rest at the broker."""
        return [o for o in self.orders if o.client_order_id in self.own_order_ids and o.parent_id]

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


_BAD_SIGNAL = {TargetReason.BAD_SIGNAL, TargetReason.KEPT_BAD_SIGNAL}
_NO_DATA = {TargetReason.NO_DATA, TargetReason.KEPT_NO_DATA}


def _refusal(decision: TargetDecision, price: LastPrice | None) -> Refused | None:
    """Say what of the signals or the price cannot be acted on, if anything is to be done."""
    symbol = decision.symbol
    if decision.reason in _BAD_SIGNAL:
        return Refused(symbol, DenialCode.BAD_SIGNAL, ", ".join(decision.signal_ids))
    wanted = decision.weight != 0 and decision.keep_quantity is None
    if decision.reason not in _NO_DATA and not wanted:
        return None
    if price is None:
        return Refused(symbol, DenialCode.MISSING_DATA, "last price")
    if not (price.price_usd.is_finite() and price.price_usd > 0):
        return Refused(symbol, DenialCode.BAD_PRICE, f"{price.price_usd} USD")
    if decision.reason in _NO_DATA:
        return Refused(symbol, DenialCode.MISSING_DATA, "volatility")
    return None


def _change(
    decision: TargetDecision, scene: _Scene, equity: float, rules: PlanRules
) -> Decimal | Skipped:
    """Return the wanted change of Isobar's own quantity, or why there is none."""
    symbol = decision.symbol
    if decision.keep_quantity is not None:
        return Skipped(symbol, SkipReason.KEPT, decision.reason.value)
    if any(o.status is OrderStatus.UNKNOWN for o in scene.own_orders):
        return Skipped(symbol, SkipReason.UNRESOLVED_ORDER)
    target = Decimal(0)
    if decision.weight != 0 and scene.price is not None:  # refused where it is absent
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
    if scene.own * scene.pending < 0 and scene.own * (scene.expected + change) < 0:
        # Until what closes has filled, what opens would only close, and its exits be refused.
        return Skipped(symbol, SkipReason.CLOSING_ORDER)
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
    if len(scene.own_orders) + len(scene.exits) < len(scene.orders):
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
    for_close: bool,
) -> list[OrderIntent]:
    side = Side.BUY if change > 0 else Side.SELL
    crosses = scene.expected * change < 0 and abs(change) > abs(scene.expected)
    closing = _whole(abs(scene.expected)) if crosses else Decimal(0)
    quantities = [closing, abs(change) - closing] if closing else [abs(change)]
    style = style_of(side, scene.price, clock, rules)
    if for_close:
        style = closing_style(abs(change), clock)
    cancels = tuple(sorted(o.client_order_id for o in scene.exits))
    legs: list[OrderIntent] = []
    for leg, quantity in enumerate(quantities, start=1):
        intent = OrderIntent(
            client_order_id=client_order_id(batch_id, decision.symbol, side, leg, rules.attempt),
            symbol=decision.symbol,
            side=side,
            quantity=quantity,
            order_type=OrderType.MARKET if style.limit is None else OrderType.LIMIT,
            time_in_force=time_in_force_of_leg(leg, style.time_in_force),
            leg=leg,
            attempt=rules.attempt,
            reason=decision.reason,
            limit_price_usd=style.limit,
            reference_price_usd=None if scene.price is None else scene.price.price_usd,
            horizon=decision.horizon,
            valid_until=decision.valid_until,
            target_price_usd=decision.target_price,
            stop_price_usd=decision.stop_price,
            extended_hours=style.extended_hours,
            cancels=cancels if leg == 1 else (),
            planned_from=scene.own if leg == 1 else None,
        )
        opens = leg == 2 or scene.expected == 0
        legs.append(_with_exits(intent, clock) if rules.brackets and opens else intent)
    return legs


def _with_exits(intent: OrderIntent, clock: Clock) -> OrderIntent:
    """Leave target and stop with the broker, where it takes them.

    It does in the session, for whole shares. The order itself then stands as long as its exits
    must: beyond the session until canceled.
    """
    price = intent.reference_price_usd
    whole = intent.quantity == intent.quantity.to_integral_value()
    if not clock.is_open or intent.extended_hours or not whole or price is None:
        return intent
    sign = 1 if intent.side is Side.BUY else -1

    def beyond(level: Decimal | None, side: int) -> Decimal | None:
        return level if level is not None and side * (level - price) > 0 else None

    profit, loss = beyond(intent.target_price_usd, sign), beyond(intent.stop_price_usd, -sign)
    if profit is None and loss is None:
        return intent
    outlasts = intent.valid_until is not None and intent.valid_until > clock.next_close
    return replace(
        intent,
        take_profit_usd=profit,
        stop_loss_usd=loss,
        time_in_force=TimeInForce.GTC if outlasts else TimeInForce.DAY,
    )
