"""Targets and stops that rest at the broker, and what a bar does to them.

A bar leaves open in which order its prices came. The rules are the pessimistic ones of
:mod:`execution.fill_rules`, which the paper broker shares:

- A stop is hit by a price at or beyond it. It fills at its own price, or at the open of a bar that
  opens beyond it, and takes liquidity like a market order.
- A target fills only where the bar goes through it, strictly beyond, and at its own price: no
  better, even where the bar opens beyond.
- Where a bar reaches both, the stop is hit.
- In the bar of the entry only the stop can be hit: the broker wakes the exits when the entry has
  filled, and what they would fill at then is not known. Such a fill is dated at the end of the bar.
- A bar without volume hits nothing. A stop that the bar's volume does not fill whole goes on as a
  market order at the open of the bars that follow; a target rests on.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from backtest.tape import Tape
from execution.broker import Order, OrderStatus, OrderType, Side, TimeInForce
from execution.fill_rules import FillRules, hits_stop, scaled_level
from execution.intents import OrderIntent
from execution.targets import TargetReason

_RULES = FillRules()
_EXIT_NAMES = {OrderType.LIMIT: "target", OrderType.STOP: "stop"}


@dataclass(frozen=True, slots=True)
class Touch:
    """An exit that a bar reached, and the price at which it fills."""

    symbol: str
    column: int
    is_stop: bool
    price: float
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class _Left:
    """What an entry left with the broker."""

    entry: OrderIntent
    as_of: dt.datetime


class RestingExits:
    """The exits of all positions: one target and one stop at most of each, one cancels the other.

    They always stand for the whole position: any other order of the symbol cancels them first.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        count = len(tape.symbols)
        self._column = {s: i for i, s in enumerate(tape.symbols)}
        self._left: dict[str, _Left] = {}
        self._sign = np.zeros(count)
        self._target, self._stop = np.full(count, np.nan), np.full(count, np.nan)
        self._since = np.zeros(count, dtype=np.int64)
        self._triggered = np.zeros(count, dtype=bool)

    def leave(self, entry: OrderIntent, bar: int, as_of: dt.datetime) -> None:
        """Bring the exits of an entry to life that a bar has filled whole."""
        column = self._column[entry.symbol]
        self._left[entry.symbol] = _Left(entry, as_of)
        self._sign[column] = 1.0 if entry.side is Side.BUY else -1.0
        self._target[column] = _level(entry.take_profit_usd)
        self._stop[column] = _level(entry.stop_loss_usd)
        self._since[column], self._triggered[column] = bar, False

    def cancel(self, symbol: str) -> None:
        """Take the exits of a symbol away, if there are any."""
        if self._left.pop(symbol, None) is not None:
            column = self._column[symbol]
            self._sign[column] = 0.0
            self._target[column] = self._stop[column] = np.nan

    def end_session(self) -> None:
        """Let expire what stood for the day alone."""
        for symbol, left in list(self._left.items()):
            if left.entry.time_in_force is not TimeInForce.GTC:
                self.cancel(symbol)

    def split(self, symbol: str, ratio: float) -> None:
        """Scale the levels of a symbol; the quantity is that of the position."""
        if symbol in self._left:
            column = self._column[symbol]
            for levels in (self._target, self._stop):
                if not np.isnan(levels[column]):
                    before = Decimal(repr(float(levels[column])))
                    levels[column] = float(scaled_level(before, Decimal(repr(ratio))))

    def open_orders(self, quantities: Mapping[str, Decimal]) -> list[Order]:
        """Return the exits as the broker would list them."""
        return [
            order
            for symbol in sorted(self._left)
            for order in self._orders_of(symbol, abs(quantities[symbol]))
        ]

    def _orders_of(self, symbol: str, quantity: Decimal) -> list[Order]:
        left, column = self._left[symbol], self._column[symbol]
        stand = (not np.isnan(self._target[column]), not np.isnan(self._stop[column]))
        return leg_orders(left.entry, left.as_of, quantity, *stand)

    def touched(self, bar: int) -> list[Touch]:
        """Return the exits that a bar reaches, by symbol. A hit stop stays hit until it is gone."""
        if not self._left:
            return []
        tape, sign = self._tape, self._sign
        opens, trades = tape.opens[bar], tape.volumes[bar] > 0.0
        live = (sign != 0.0) & trades & np.isfinite(opens)
        worst = np.where(sign > 0.0, tape.lows[bar], tape.highs[bar])
        best = np.where(sign > 0.0, tape.highs[bar], tape.lows[bar])
        stopped = live & (self._triggered | hits_stop(sign, worst, self._stop))
        later = self._since < bar
        gapped = self._triggered | hits_stop(sign, opens, self._stop)
        through = _RULES.reaches_limit(sign, best, self._target)
        reached = live & later & ~stopped & through
        self._triggered |= stopped
        start, end = tape.starts[bar], tape.ends[bar]
        found: list[Touch] = []
        for column in np.flatnonzero(stopped | reached).tolist():
            symbol = tape.symbols[column]
            if reached[column]:
                found.append(Touch(symbol, column, False, float(self._target[column]), end))
            elif gapped[column]:
                at = start if later[column] else end
                found.append(Touch(symbol, column, True, float(opens[column]), at))
            else:
                found.append(Touch(symbol, column, True, float(self._stop[column]), end))
        return found

    def intent_of(self, touch: Touch, quantity: Decimal) -> tuple[OrderIntent, dt.datetime]:
        """Return the exit as an order, and when the order was decided that left it."""
        left = self._left[touch.symbol]
        entry = left.entry
        kind = OrderType.STOP if touch.is_stop else OrderType.LIMIT
        return OrderIntent(
            client_order_id=f"{entry.client_order_id}-{_EXIT_NAMES[kind]}",
            symbol=touch.symbol,
            side=entry.side.opposite,
            quantity=quantity,
            order_type=kind,
            time_in_force=entry.time_in_force,
            leg=entry.leg,
            attempt=entry.attempt,
            reason=TargetReason.EXIT_STOP if touch.is_stop else TargetReason.EXIT_TARGET,
            horizon=entry.horizon,
        ), left.as_of


def leg_orders(
    entry: OrderIntent, as_of: dt.datetime, quantity: Decimal, target: bool, stop: bool
) -> list[Order]:
    """Return the exits of an entry as the broker would list them; which of them stand is said."""
    kinds = ((OrderType.LIMIT, target), (OrderType.STOP, stop))
    return [
        Order(
            client_order_id=f"{entry.client_order_id}-{_EXIT_NAMES[kind]}",
            broker_order_id=f"{entry.client_order_id}-{_EXIT_NAMES[kind]}",
            symbol=entry.symbol,
            side=entry.side.opposite,
            quantity=quantity,
            filled_quantity=Decimal(0),
            filled_average_price_usd=None,
            status=OrderStatus.ACCEPTED,
            submitted_at=as_of,
            updated_at=as_of,
            order_type=kind,
            parent_id=entry.client_order_id,
        )
        for kind, stands in kinds
        if stands
    ]


def _level(value: Decimal | None) -> float:
    return np.nan if value is None else float(value)
