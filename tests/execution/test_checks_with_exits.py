"""With target and stop at the broker no accepted plan can break a limit, whatever fills.

The oracle plays every order of events through, one symbol at a time, and knows what a broker does:
target and stop of a position exclude each other, close no more than there is, and are gone before
another order of the symbol leaves; an order before whose exits were gone one had filled is not
sent at all.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from execution.broker import Order, OrderStatus, OrderType, Side
from execution.risk import DenialCode, RiskLimits, check_plan
from tests.execution.memory_broker import NOW
from tests.execution.test_risk import ACCOUNT, FINE, LIMITS, PRICE, intent, position

SYMBOLS = "ABC"
ZERO = Decimal(0)


@dataclass(frozen=True)
class Held:
    """A position of ours, what its entry may still add, and the exits that rest for it."""

    quantity: int
    entry: int
    exits: int

    @property
    def sign(self) -> int:
        return -1 if (self.quantity or self.entry) < 0 else 1

    def orders(self, symbol: str) -> list[Order]:
        made = [_order(f"entry-{symbol}", symbol, self.entry)] if self.entry else []
        size = -(self.quantity + self.entry)
        kinds = (OrderType.LIMIT, OrderType.STOP)[: self.exits] if size else ()
        return made + [
            replace(
                _order(f"{kind.value}-{symbol}", symbol, size),
                parent_id=f"entry-{symbol}",
                order_type=kind,
            )
            for kind in kinds
        ]


def _order(key: str, symbol: str, signed: int) -> Order:
    side = Side.BUY if signed > 0 else Side.SELL
    status = OrderStatus.ACCEPTED
    return Order(key, f"b-{key}", symbol, side, abs(Decimal(signed)), ZERO, None, status, NOW, NOW)


@st.composite
def holdings(draw: st.DrawFn) -> Held:
    sign = draw(st.sampled_from([1, -1]))
    held = draw(st.one_of(st.just(0), st.integers(1, 400)))
    entry = draw(st.one_of(st.just(0), st.integers(1, 300)))
    return Held(sign * held, sign * entry, draw(st.integers(0, 2)))


def outcomes(held: Held, wanted: list[Decimal]) -> set[Decimal]:
    """Every quantity that a symbol can come to hold: the naive way, event by event."""
    reached: set[Decimal] = set()
    for entered in (ZERO, Decimal(held.entry)):
        before = held.quantity + entered
        reached.add(before)
        # One of the two closes what there is; nothing else of the symbol is sent then.
        if held.exits:
            reached.add(ZERO)
            for rest in {ZERO, Decimal(held.entry) - entered}:
                reached.add(rest)
        for filled in itertools.product([False, True], repeat=len(wanted)):
            reached.add(before + sum(w for w, done in zip(wanted, filled, strict=True) if done))
    return reached


def worst(held: dict[str, Held], wanted: dict[str, list[Decimal]]) -> dict[str, Decimal]:
    """The worst figures over what every symbol can come to hold, together."""
    each = {s: outcomes(held[s], wanted.get(s, [])) for s in SYMBOLS}
    figures = {s: max(abs(q) for q in each[s]) * PRICE for s in SYMBOLS}
    figures["gross"] = figures["net"] = ZERO
    for quantities in itertools.product(*each.values()):
        gross, net = sum(map(abs, quantities)) * PRICE, abs(sum(quantities)) * PRICE
        figures["gross"], figures["net"] = (
            max(figures["gross"], gross),
            max(figures["net"], net),
        )
    return figures


def signed_by_symbol(accepted) -> dict[str, list[Decimal]]:
    found: dict[str, list[Decimal]] = {}
    for one in accepted:
        found.setdefault(one.symbol, []).append(one.signed_quantity)
    return found


def scene(held: dict[str, Held], limits: RiskLimits):
    orders = [o for s, h in held.items() for o in h.orders(s)]
    return replace(
        FINE,
        positions=tuple(position(h.quantity, s) for s, h in held.items() if h.quantity),
        own_quantities={s: Decimal(h.quantity) for s, h in held.items() if h.quantity},
        open_orders=tuple(orders),
        account=replace(ACCOUNT, buying_power_usd=Decimal(10**9)),
        average_volumes=dict.fromkeys(SYMBOLS, Decimal(10**9)),
        limits=limits,
    )


def intents_of(wanted, context):
    exits = {
        s: tuple(o.client_order_id for o in context.open_orders if o.symbol == s and o.parent_id)
        for s in SYMBOLS
    }
    return [
        intent(q, side, s, client_order_id=f"iso-{n}", cancels=exits[s])
        for n, (s, side, q) in enumerate(wanted)
    ]


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    held=st.fixed_dictionaries(dict.fromkeys(SYMBOLS, holdings())),
    wanted=st.lists(
        st.tuples(st.sampled_from(SYMBOLS), st.sampled_from(list(Side)), st.integers(1, 900)),
        max_size=5,
    ),
    shares=st.tuples(*[st.decimals("0.01", "1.5", places=2)] * 3),
    allow_short=st.booleans(),
)
def test_no_accepted_plan_can_break_a_limit_whatever_exits_fill(held, wanted, shares, allow_short):
    limits = RiskLimits(
        position_share=shares[0],
        gross_share=shares[1],
        net_share=shares[2],
        allow_short=allow_short,
    )
    context = scene(held, limits)
    verdicts = check_plan(intents_of(wanted, context), context)
    accepted = signed_by_symbol(v.intent for v in verdicts if v.accepted)
    before, after = worst(held, {}), worst(held, accepted)
    equity = ACCOUNT.equity_usd
    for name, share in (("gross", limits.gross_share), ("net", limits.net_share)):
        assert after[name] <= max(share * equity, before[name])
    for symbol in SYMBOLS:
        assert after[symbol] <= max(limits.position_share * equity, before[symbol])
        if not allow_short:
            lowest = min(outcomes(held[symbol], accepted.get(symbol, [])))
            assert lowest >= min(ZERO, *outcomes(held[symbol], []))


def run(held: Held, side: Side, quantity: int, **limits):
    everything = {s: held if s == "A" else Held(0, 0, 0) for s in SYMBOLS}
    context = scene(everything, replace(LIMITS, **limits))
    (verdict,) = check_plan(intents_of([("A", side, quantity)], context), context)
    return [d.code for d in verdict.denials]


@pytest.mark.parametrize("exits", [1, 2])
def test_exits_leave_the_room_that_a_position_has(exits: int):
    """Neither counts as an order that could open: a stop beside a target sells nothing short."""
    tight = {"position_share": Decimal("0.06"), "allow_short": False}
    held = Held(100, 0, exits)
    assert run(held, Side.BUY, 20, **tight) == []
    assert run(held, Side.BUY, 21, **tight) == [DenialCode.POSITION_NOTIONAL]
    assert run(held, Side.SELL, 100, **tight) == []
    assert run(held, Side.SELL, 101, **tight) == [DenialCode.NOT_SHORTABLE]


def test_an_exit_that_may_fill_makes_no_room_for_another_symbol():
    """The stop of a short may take it away, and then the long stands alone: net counts that."""
    held = {"A": Held(-300, 0, 1), "B": Held(300, 0, 0), "C": Held(0, 0, 0)}
    context = scene(held, replace(LIMITS, net_share=Decimal("0.17")))
    (verdict,) = check_plan(intents_of([("C", Side.BUY, 41)], context), context)
    assert [d.code for d in verdict.denials] == [DenialCode.NET_LEVERAGE]
    (verdict,) = check_plan(intents_of([("C", Side.BUY, 40)], context), context)
    assert verdict.accepted
