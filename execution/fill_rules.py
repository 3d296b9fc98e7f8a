"""How a bar fills an order: the one set of rules of the paper broker and of the backtest.

A bar leaves open in which order its prices came, and how much of its volume one could have had.
Where it does, the rule is the pessimistic one. The functions are of numbers, or of arrays of
numbers element by element: the paper broker looks at one order over many bars, the backtest at
one bar over many orders.

``sign`` is 1 for an order that sells and -1 for one that buys, everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import numpy as np

_CENT, _HUNDREDTH_CENT = Decimal("0.01"), Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class FillRules:
    """What a bar does to an order that rests. The defaults are what the backtest assumes, always.

    Each option makes the paper broker kinder, or more like the service; with one of them set it
    is no longer what the backtest assumes.

    Attributes
    ----------
    touch_fills : bool, default False
        Whether a limit fills where the bar touches it. Else the bar must go through it: at the
        limit itself others may have stood before us.
    better_open : bool, default False
        Whether a limit that rested when the bar began gets an open that is better. Else it fills
        at its own price.
    buy_stop_collar : bool, default False
        Whether a buy stop that is hit carries a limit, 4 % above a stop below 50 USD and 2.5 %
        above any other, as the service documents. Else it pays whatever is asked.

    Examples
    --------
    >>> FillRules().reaches_limit(1, 105.0, 105.0), FillRules().reaches_limit(1, 105.01, 105.0)
    (False, True)
    """

    touch_fills: bool = False
    better_open: bool = False
    buy_stop_collar: bool = False

    def reaches_limit(self, sign: Any, best: Any, limit: Any) -> Any:
        """Say whether a bar fills a limit that rests; ``best`` is its high for a sale, else low."""
        beyond = sign * (best - limit)
        return beyond >= 0.0 if self.touch_fills else beyond > 0.0


def within_limit(sign: Any, price: Any, limit: Any) -> Any:
    """Say whether an order of this limit trades at a price.

    Examples
    --------
    >>> within_limit(1, 105.0, 105.0), within_limit(-1, 105.01, 105.0)
    (True, False)
    """
    return sign * (price - limit) >= 0.0


def hits_stop(sign: Any, price: Any, stop: Any) -> Any:
    """Say whether a price hits a stop: at it or beyond.

    Examples
    --------
    >>> hits_stop(1, 95.0, 95.0), hits_stop(-1, 94.99, 95.0)
    (True, False)
    """
    return sign * (price - stop) <= 0.0


def worse_price(sign: Any, opened: Any, stop: Any) -> Any:
    """Return what a hit stop gets where the bar opened beyond it: the open, and no better.

    Examples
    --------
    >>> float(worse_price(1, 94.0, 95.0)), float(worse_price(-1, 94.0, 95.0))
    (94.0, 95.0)
    """
    return np.where(np.greater(sign, 0), np.minimum(opened, stop), np.maximum(opened, stop))


def scaled_level(price_usd: Decimal, ratio: Decimal) -> Decimal:
    """Return a price of a resting order after a split, on the grid of prices.

    Examples
    --------
    >>> scaled_level(Decimal("95.01"), Decimal(2)), scaled_level(Decimal("0.5"), Decimal(3))
    (Decimal('47.5'), Decimal('0.1667'))
    """
    new = price_usd / ratio
    step = _CENT if new >= 1 else _HUNDREDTH_CENT
    return new.quantize(step, ROUND_HALF_EVEN).normalize() + 0
