"""Exposure against an oracle that plays every outcome: each order fills wholly or not at all.

Between the two nothing is worse: gross exposure is convex in each fill, and net is linear.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execution.broker import Order, OrderStatus, Position, Side
from execution.exposure import ExposureBook
from execution.intents import LastPrice, OrderIntent
from tests.execution.test_risk import intent

SYMBOLS = "ABC"
NOW = dt.datetime(2024, 7, 2, 15, tzinfo=dt.UTC)
PRICES = {"A": Decimal(10), "B": Decimal("2.5"), "C": Decimal(40)}
ZERO = Decimal(0)


@dataclass(frozen=True)
class Scene:
    """An account: what is held, plain orders and exits by symbol, signed, and what is ours."""

    held: dict[str, int]
    orders: tuple[tuple[str, int], ...]
    exits: tuple[tuple[str, int], ...]
    own: dict[str, int]

    @property
    def book(self) -> ExposureBook:
        return ExposureBook(
            [position(s, q) for s, q in self.held.items()],
            [
                *(order(f"o{k}", s, q) for k, (s, q) in enumerate(self.orders)),
                *(
                    replace(order(f"x{k}", s, q), parent_id="entry")
                    for k, (s, q) in enumerate(self.exits)
                ),
            ],
            {s: Decimal(q) for s, q in self.own.items()},
            {s: LastPrice(p, NOW) for s, p in PRICES.items()},
        )

    def outcomes(self, symbol: str, added: int = 0) -> list[int]:
        """What may come to be held: exits close towards zero, and are gone before ``added``."""
        moves = [q for s, q in self.orders if s == symbol]
        found = [q for one in moves_of(self.held.get(symbol, 0), [*moves, added]) for q in [one]]
        for quantity in moves_of(self.held.get(symbol, 0), moves):
            found += closed(quantity, [q for s, q in self.exits if s == symbol])
        return found

    def accounts(self, symbol: str = "", added: int = 0) -> Iterator[dict[str, int]]:
        each = [self.outcomes(s, added if s == symbol else 0) for s in SYMBOLS]
        for quantities in itertools.product(*each):
            yield dict(zip(SYMBOLS, quantities, strict=True))


def moves_of(begin: int, moves: list[int]) -> list[int]:
    """Return where each choice of moves leads."""
    choices = itertools.product(*((0, m) for m in moves))
    return sorted({begin + sum(chosen) for chosen in choices})


def closed(quantity: int, exits: list[int]) -> list[int]:
    """Return what exits may leave: each closes what it can, and none opens."""
    found = {quantity}
    for one in exits:
        for now in list(found):
            if one * now < 0:
                found.add(now + min(abs(now), abs(one)) * (1 if one > 0 else -1))
    return sorted(found)


def position(symbol: str, quantity: int) -> Position:
    value = Decimal(quantity)
    return Position(symbol, value, PRICES[symbol], PRICES[symbol], value * PRICES[symbol])


def order(key: str, symbol: str, signed: int, filled: int = 0) -> Order:
    side = Side.BUY if signed > 0 else Side.SELL
    quantity, done = Decimal(abs(signed)) + filled, Decimal(filled)
    return Order(
        key, f"b-{key}", symbol, side, quantity, done, None, OrderStatus.ACCEPTED, NOW, NOW
    )


def wanted(symbol: str, signed: int) -> OrderIntent:
    return intent(abs(signed), Side.BUY if signed > 0 else Side.SELL, symbol)


_MOVE = st.integers(-9, 9).filter(bool)
_PLACED = st.tuples(st.sampled_from(SYMBOLS), _MOVE)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    held = draw(st.dictionaries(st.sampled_from(SYMBOLS), _MOVE, max_size=3))
    orders = tuple(draw(st.lists(_PLACED, max_size=3)))
    # The exits of a symbol all close the same way.
    exits = tuple(
        (s, -abs(q) if held[s] > 0 else abs(q))
        for s, q in draw(st.lists(_PLACED, max_size=2))
        if s in held
    )
    own = draw(st.dictionaries(st.sampled_from(SYMBOLS), st.integers(-9, 9), max_size=3))
    return Scene(held, orders, exits, own)


def most(accounts: Iterator[dict[str, int]], value: Callable[[dict[str, int]], Decimal]) -> Decimal:
    return max(value(a) for a in accounts)


def usd(account: dict[str, int]) -> dict[str, Decimal]:
    return {s: q * PRICES[s] for s, q in account.items()}


@given(scenes(), _PLACED)
def test_every_figure_is_that_of_the_worst_outcome(scene: Scene, placed: tuple[str, int]) -> None:
    symbol, signed = placed
    for added in (0, signed):
        got = scene.book.after(wanted(symbol, signed)) if added else scene.book.now(symbol)
        accounts = [usd(a) for a in scene.accounts(symbol, added)]
        assert got.gross_usd == max(sum(map(abs, a.values()), ZERO) for a in accounts)
        assert got.net_usd == max(abs(sum(a.values(), ZERO)) for a in accounts)
        assert got.position_usd == max(abs(a[symbol]) for a in accounts)
        assert got.long_usd == max(sum((max(v, ZERO) for v in a.values()), ZERO) for a in accounts)
        assert got.short_usd == max(
            sum((max(-v, ZERO) for v in a.values()), ZERO) for a in accounts
        )


@given(scenes(), _PLACED)
def test_an_order_that_was_accepted_counts_as_one_that_stands(
    scene: Scene, placed: tuple[str, int]
) -> None:
    without = replace(scene, exits=())
    book, symbol, signed = without.book, *placed
    book.add(symbol, wanted(symbol, signed).side, Decimal(abs(signed)))
    other = replace(without, orders=(*without.orders, placed)).book
    assert [book.now(s) for s in SYMBOLS] == [other.now(s) for s in SYMBOLS]
    assert book.needed_usd == other.needed_usd


@given(scenes())
def test_a_group_is_as_large_as_its_symbols(scene: Scene) -> None:
    group = {"A", "C"}
    worst = most(scene.accounts(), lambda a: sum((abs(usd(a)[s]) for s in group), ZERO))
    assert scene.book.gross_of(group.__contains__) == worst


@given(scenes(), _PLACED)
def test_what_an_order_opens_is_what_the_worst_outcome_leaves_of_it(
    scene: Scene, placed: tuple[str, int]
) -> None:
    """Exits are gone before it leaves, so nothing that they close is counted on."""
    symbol, signed = placed
    bare = replace(scene, exits=())
    opens = max(
        max(0, abs(signed) - max(0, -q if signed > 0 else q)) for q in bare.outcomes(symbol)
    )
    side = wanted(symbol, signed).side
    assert scene.book.opening_usd(symbol, side, Decimal(abs(signed))) == opens * PRICES[symbol]


@given(scenes(), _PLACED)
def test_a_sale_may_be_short_where_some_outcome_is(scene: Scene, placed: tuple[str, int]) -> None:
    symbol, signed = placed
    bare = replace(scene, exits=())
    short = signed < 0 and min(bare.outcomes(symbol, signed)) < 0
    assert scene.book.may_be_short(wanted(symbol, signed)) is short


@given(scenes(), _PLACED)
def test_an_order_reduces_our_own_as_far_as_others_leave_it(
    scene: Scene, placed: tuple[str, int]
) -> None:
    symbol, signed = placed
    own = scene.own.get(symbol, 0)
    closing = sum(abs(q) for s, q in scene.orders if s == symbol and q * own < 0)
    reduces = signed * own < 0 and abs(signed) <= abs(own) - closing
    assert scene.book.reduces_own(wanted(symbol, signed)) is reduces


@given(scenes())
def test_orders_need_money_in_the_order_in_which_they_stand(scene: Scene) -> None:
    needed, before = ZERO, replace(scene, orders=(), exits=())
    for symbol, signed in scene.orders:
        side = wanted(symbol, signed).side
        needed += before.book.opening_usd(symbol, side, Decimal(abs(signed)))
        before = replace(before, orders=(*before.orders, (symbol, signed)))
    assert scene.book.needed_usd == needed


def test_only_what_is_left_of_an_order_counts() -> None:
    book = ExposureBook([], [order("o", "A", 3, filled=4)], {}, {"A": LastPrice(Decimal(10), NOW)})
    assert book.now("A").gross_usd == 30
    resting = replace(order("x", "A", -3, filled=4), parent_id="o")
    book = ExposureBook([position("A", 5)], [resting], {}, {"A": LastPrice(Decimal(10), NOW)})
    assert (book.now("A").long_usd, book.opening_usd("A", Side.SELL, Decimal(5))) == (50, 0)


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "0", "-1"])
def test_a_price_that_is_none_gives_way_to_the_brokers_mark(bad: str) -> None:
    prices = {"A": LastPrice(Decimal(bad), NOW)}
    book = ExposureBook([position("A", 2)], [], {}, prices)
    assert book.price("A") == PRICES["A"]
    assert book.unpriced() == []
    marked = replace(position("A", 2), current_price_usd=Decimal(bad))
    unpriced = ExposureBook([marked], [order("o", "B", 1), order("p", "C", -1)], {}, prices)
    assert unpriced.price("A") is None
    assert unpriced.unpriced() == ["A", "B", "C"]
    assert unpriced.now("A").gross_usd == 0


@pytest.mark.parametrize("last", ["7", "1", "0.01"])
def test_the_last_price_comes_before_the_brokers_mark(last: str) -> None:
    price = Decimal(last)
    book = ExposureBook([position("A", 2)], [], {}, {"A": LastPrice(price, NOW)})
    assert (book.price("A"), book.now("A").gross_usd) == (price, 2 * price)


def test_a_symbol_that_is_neither_held_nor_ordered_needs_no_price() -> None:
    flat = replace(position("A", 1), quantity=ZERO, current_price_usd=ZERO)
    assert ExposureBook([flat], [], {}, {}).unpriced() == []


def test_shares_may_be_broken() -> None:
    """The oracle plays whole ones; half of one is on the same side of nothing as a whole one."""
    half = Decimal("0.5")
    held = replace(position("A", 1), quantity=half)
    book = ExposureBook([held], [], {"A": half}, {"A": LastPrice(Decimal(10), NOW)})
    for quantity, side, short, reduces in (
        ("0.25", Side.SELL, False, True),
        ("0.5", Side.SELL, False, True),
        ("0.75", Side.SELL, True, False),
        ("0.25", Side.BUY, False, False),
    ):
        placed = replace(intent(1, side, "A"), quantity=Decimal(quantity))
        assert book.may_be_short(placed) is short, quantity
        assert book.reduces_own(placed) is reduces, quantity


@pytest.mark.parametrize(("side", "reduces"), [(Side.BUY, True), (Side.SELL, False)])
def test_what_closes_half_a_share_is_counted_once(side: Side, reduces: bool) -> None:
    half = Decimal("0.5")
    held = replace(position("A", 1), quantity=half)
    standing = replace(order("o", "A", 1), side=side, quantity=half)
    book = ExposureBook([held], [standing], {"A": half}, {"A": LastPrice(Decimal(10), NOW)})
    sale = replace(intent(1, Side.SELL, "A"), quantity=half)
    assert book.reduces_own(sale) is reduces


def test_an_order_of_which_nothing_is_left_changes_nothing() -> None:
    done = replace(order("o", "A", -3), filled_quantity=Decimal(3))
    held, own = [position("A", 3)], {"A": Decimal(3)}
    prices = {"A": LastPrice(Decimal(10), NOW)}
    with_it, without = (ExposureBook(held, o, own, prices) for o in ([done], []))
    assert with_it.now("A") == without.now("A")
    assert with_it.reduces_own(wanted("A", -3))


def test_only_what_is_left_of_an_exit_may_close() -> None:
    resting = replace(order("x", "A", -3, filled=4), parent_id="o")
    book = ExposureBook([position("A", 5), position("B", -20)], [resting], {}, {})
    assert book.now("A").net_usd == 30  # 20 left of 50 long, and 50 short
