"""Exposure under the worst order of fills.

Of everything that is open or accepted, any part may fill and the rest not. So each symbol has
a range of quantities, and gross and net are judged at the worst point of all ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from execution.broker import Order, Position, Side
from execution.intents import LastPrice, OrderIntent

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Exposure:
    """Worst-case figures in USD: of the whole account, and of one symbol.

    ``long_usd`` and ``short_usd`` are each the most that could be held on that side.
    """

    gross_usd: Decimal
    net_usd: Decimal
    position_usd: Decimal
    long_usd: Decimal
    short_usd: Decimal


class ExposureBook:
    """Ranges of quantities by symbol, and running totals over all of them.

    Parameters
    ----------
    positions : Sequence of Position
        The whole account.
    open_orders : Sequence of Order
        Everything that may still fill, foreign orders included.
    own_quantities : Mapping
        What Isobar's own fills amount to.
    prices : Mapping
        Last prices; a held symbol without one is valued at the broker's mark.
    """

    def __init__(
        self,
        positions: Sequence[Position],
        open_orders: Sequence[Order],
        own_quantities: Mapping[str, Decimal],
        prices: Mapping[str, LastPrice],
    ) -> None:
        self._prices = {s: p.price_usd for s, p in prices.items() if _is_amount(p.price_usd)}
        for position in positions:
            if position.symbol not in self._prices and _is_amount(position.current_price_usd):
                self._prices[position.symbol] = position.current_price_usd
        self._low: dict[str, Decimal] = {}
        self._high: dict[str, Decimal] = {}
        self._own = dict(own_quantities)
        self._closing: dict[str, Decimal] = {}
        self._closed: dict[str, tuple[Decimal, Decimal]] = {}
        self._gross = self._low_usd = self._high_usd = _ZERO
        self._long_usd = self._short_usd = _ZERO
        self.needed_usd = _ZERO
        for position in positions:
            self._shift(position.symbol, position.quantity, position.quantity)
        for order in open_orders:
            if order.parent_id is None:
                self.add(order.symbol, order.side, order.quantity - order.filled_quantity)
        for order in open_orders:
            if order.parent_id is not None:
                self._add_exit(order.symbol, order.side, order.quantity - order.filled_quantity)

    def price(self, symbol: str) -> Decimal | None:
        """Return the price that values a symbol."""
        return self._prices.get(symbol)

    def unpriced(self) -> list[str]:
        """Return the symbols that are or may come to be held and have no price."""
        return sorted(s for s in self._low if self._worst(s) > 0 and s not in self._prices)

    def now(self, symbol: str) -> Exposure:
        """Return the worst case of what stands already."""
        return self._figures(symbol, *self._range(symbol))

    def after(self, intent: OrderIntent) -> Exposure:
        """Return the worst case with the intent added."""
        return self._figures(intent.symbol, *self._widened(intent.symbol, intent.signed_quantity))

    def gross_of(self, wanted: Callable[[str], bool]) -> Decimal:
        """Return the worst gross exposure of some symbols."""
        found = (s for s in self._low if wanted(s))
        return sum((self._worst(s) * self._prices.get(s, _ZERO) for s in found), _ZERO)

    def may_be_short(self, intent: OrderIntent) -> bool:
        """Say whether the intent opens or enlarges a short position in some order of fills."""
        low, _ = self._widened(intent.symbol, intent.signed_quantity)
        return intent.side is Side.SELL and low < 0

    def reduces_own(self, intent: OrderIntent) -> bool:
        """Say whether the intent only takes away from what Isobar's own fills bought."""
        own = self._own.get(intent.symbol, _ZERO)
        left = abs(own) - self._closing.get(intent.symbol, _ZERO)
        return own * intent.signed_quantity < 0 and intent.quantity <= left

    def opening_usd(self, symbol: str, side: Side, quantity: Decimal) -> Decimal:
        """Return how much of an order needs buying power: what does not surely close."""
        low, high = self._range(symbol)
        closes = max(-high, _ZERO) if side is Side.BUY else max(low, _ZERO)
        return max(quantity - closes, _ZERO) * self._prices.get(symbol, _ZERO)

    def add(self, symbol: str, side: Side, quantity: Decimal) -> None:
        """Count an order as standing open."""
        signed = quantity if side is Side.BUY else -quantity
        self.needed_usd += self.opening_usd(symbol, side, quantity)
        if self._own.get(symbol, _ZERO) * signed < 0:
            self._closing[symbol] = self._closing.get(symbol, _ZERO) + quantity
        self._shift(symbol, min(signed, _ZERO), max(signed, _ZERO))

    def _add_exit(self, symbol: str, side: Side, quantity: Decimal) -> None:
        """Count an order that can only close: it takes a position to zero and never beyond.

        Target and stop of a position are each counted, and together close it once. Another order
        in the symbol is sent when they are gone, so what it may lead to is reckoned without them.
        """
        low, high = self._range(symbol)
        least, most = self._closed.get(symbol, (low, high))
        if side is Side.SELL:
            least = max(min(least, _ZERO), least - quantity)
        else:
            most = min(max(most, _ZERO), most + quantity)
        self._count(symbol, -1)
        self._closed[symbol] = least, most
        self._count(symbol, 1)

    def _shift(self, symbol: str, low: Decimal, high: Decimal) -> None:
        before = self._range(symbol)
        self._count(symbol, -1)
        self._low[symbol], self._high[symbol] = before[0] + low, before[1] + high
        self._count(symbol, 1)

    def _count(self, symbol: str, sign: int) -> None:
        """Add a symbol to the totals, or take it out."""
        price = self._prices.get(symbol, _ZERO)
        low, high = self._reach(symbol, *self._range(symbol))
        self._gross += sign * max(abs(low), abs(high)) * price
        self._low_usd += sign * low * price
        self._high_usd += sign * high * price
        self._long_usd += sign * max(high, _ZERO) * price
        self._short_usd += sign * max(-low, _ZERO) * price

    def _range(self, symbol: str) -> tuple[Decimal, Decimal]:
        return self._low.get(symbol, _ZERO), self._high.get(symbol, _ZERO)

    def _reach(self, symbol: str, low: Decimal, high: Decimal) -> tuple[Decimal, Decimal]:
        """Widen a range by what exits may close before they are canceled."""
        least, most = self._closed.get(symbol, (low, high))
        return min(low, least), max(high, most)

    def _widened(self, symbol: str, signed: Decimal) -> tuple[Decimal, Decimal]:
        low, high = self._range(symbol)
        return low + min(signed, _ZERO), high + max(signed, _ZERO)

    def _worst(self, symbol: str) -> Decimal:
        return max(map(abs, self._reach(symbol, *self._range(symbol))))

    def _figures(self, symbol: str, low: Decimal, high: Decimal) -> Exposure:
        price = self._prices.get(symbol, _ZERO)
        was_low, was_high = self._reach(symbol, *self._range(symbol))
        low, high = self._reach(symbol, low, high)
        worst = max(abs(low), abs(high))
        low_usd = self._low_usd + (low - was_low) * price
        high_usd = self._high_usd + (high - was_high) * price
        return Exposure(
            gross_usd=self._gross + (worst - self._worst(symbol)) * price,
            net_usd=max(abs(low_usd), abs(high_usd)),
            position_usd=worst * price,
            long_usd=self._long_usd + (max(high, _ZERO) - max(was_high, _ZERO)) * price,
            short_usd=self._short_usd + (max(-low, _ZERO) - max(-was_low, _ZERO)) * price,
        )


def _is_amount(value: Decimal) -> bool:
    return value.is_finite() and value > 0
