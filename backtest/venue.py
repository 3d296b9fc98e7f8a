"""The simulated venue: how much of an order a bar takes, and what the fill costs."""

from __future__ import annotations

from decimal import Decimal

import numpy as np

from backtest.liquidity import measure_liquidity
from backtest.simulation import FillStatus
from backtest.tape import Tape
from execution.broker import Side
from execution.fill_rules import FillRules, within_limit
from execution.intents import OrderIntent
from market.costs import CostModel, FillCost

_NOTHING = Decimal(0)
_RULES = FillRules()


class Venue:
    """Fills orders in the bars of a tape, at the costs of a model.

    Orders of one symbol share what a bar can take, in the order in which they come.
    """

    def __init__(self, tape: Tape, costs: CostModel) -> None:
        self._tape, self._costs = tape, costs
        self._liquidity = measure_liquidity(tape)
        self._bar = -1
        self._taken: dict[int, Decimal] = {}

    def part_of(
        self, intent: OrderIntent, bar: int, column: int, price: float
    ) -> tuple[Decimal, FillStatus | None]:
        """Return how many shares fill at a price, and what becomes of the rest, if any."""
        if np.isnan(price):
            return _NOTHING, FillStatus.EXPIRED
        volume = float(self._tape.volumes[bar, column])
        if volume <= 0.0:
            return _NOTHING, FillStatus.NO_VOLUME
        if _is_beyond_limit(intent, price):
            return _NOTHING, FillStatus.LIMIT_NOT_REACHED
        most = self._costs.most_shares(volume)
        if most is None:
            return intent.quantity, None
        if bar != self._bar:
            self._bar, self._taken = bar, {}
        taken = self._taken.get(column, _NOTHING)
        filled = max(_NOTHING, min(intent.quantity, most - taken))
        self._taken[column] = taken + filled
        return filled, None if filled == intent.quantity else FillStatus.ABOVE_PARTICIPATION

    def reaches(self, intent: OrderIntent, bar: int, column: int) -> bool:
        """Say whether a bar that trades goes through the limit of an order that rests."""
        if intent.limit_price_usd is None or not self._tape.volumes[bar, column] > 0.0:
            return False
        extremes = self._tape.highs if intent.side is Side.SELL else self._tape.lows
        best, limit = extremes[bar, column], float(intent.limit_price_usd)
        return bool(_RULES.reaches_limit(_sign(intent), best, limit))

    def cost_of(
        self, side: Side, quantity: Decimal, bar: int, column: int, price: float, *, takes: bool
    ) -> FillCost:
        """Return what a fill costs."""
        return self._costs.fill_cost(
            float(quantity),
            price,
            self._liquidity.at(bar, column),
            sells=side is Side.SELL,
            takes=takes,
            on=self._tape.sessions[bar],
        )


def _is_beyond_limit(intent: OrderIntent, price: float) -> bool:
    limit = intent.limit_price_usd
    return limit is not None and not within_limit(_sign(intent), price, float(limit))


def _sign(intent: OrderIntent) -> int:
    return 1 if intent.side is Side.SELL else -1
