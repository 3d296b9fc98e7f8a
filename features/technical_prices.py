"""What the technical indicators share: price transforms, units, and how one is declared.

Forward-adjusted prices and volumes have a scale of no meaning, so every indicator is registered
in a unit that has none: a line in price units as the close's distance from it over the close, a
difference of prices over the close, a volume over its mean of 20 bars.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from features import technical_kernels as kernels
from features.kernels import Values
from features.panel import Panel, empty, ratio, shared
from features.spec import Feature, Memory, Scope, Stage

FAMILY = "technical"
VOLUME_BARS = 20

CLOSE = ("close",)
HIGH_LOW = ("high", "low")
HIGH_LOW_CLOSE = ("high", "low", "close")
PRICES = ("open", "high", "low", "close")
VOLUME = ("volume",)
CLOSE_VOLUME = ("close", "volume")
HIGH_LOW_CLOSE_VOLUME = ("high", "low", "close", "volume")


@shared
def median_price(p: Panel) -> Values:
    """Return the mean of high and low."""
    return 0.5 * (p["high"] + p["low"])


@shared
def typical_price(p: Panel) -> Values:
    """Return the mean of high, low and close."""
    return (p["high"] + p["low"] + p["close"]) / 3.0


@shared
def bar_range(p: Panel) -> Values:
    """Return high minus low."""
    return p["high"] - p["low"]


@shared
def close_change(p: Panel) -> Values:
    """Return the close minus the one before."""
    return p.change(p["close"])


@shared
def gains(p: Panel) -> Values:
    """Return the rises of the close."""
    return np.maximum(close_change(p), 0.0)


@shared
def losses(p: Panel) -> Values:
    """Return the falls of the close, positive."""
    return np.maximum(-close_change(p), 0.0)


@shared
def moves(p: Panel) -> Values:
    """Return the changes of the close without their sign."""
    return np.abs(close_change(p))


@shared
def true_range(p: Panel) -> Values:
    """Return Wilder's true range; none on a group's first bar."""
    previous = p.lag(p["close"], 1)
    gap = np.maximum(np.abs(p["high"] - previous), np.abs(p["low"] - previous))
    return np.maximum(bar_range(p), gap)


@shared
def average_true_range(p: Panel, bars: int) -> Values:
    """Return Wilder's average of the true range."""
    return p.wilder(f"technical.atr.{bars}", true_range(p), bars)


@shared
def close_ema(p: Panel, span: int) -> Values:
    """Return the exponential mean of the close."""
    return p.ema(f"technical.ema.close.{span}", p["close"], span)


@shared
def mean_volume(p: Panel) -> Values:
    """Return the mean volume of 20 bars, the unit of volumes."""
    return p.mean(p["volume"], VOLUME_BARS)


@shared
def highest(p: Panel, bars: int) -> Values:
    """Return the highest high."""
    return p.max(p["high"], bars)


@shared
def lowest(p: Panel, bars: int) -> Values:
    """Return the lowest low."""
    return p.min(p["low"], bars)


@shared
def middle(p: Panel, bars: int) -> Values:
    """Return the mean of the highest high and the lowest low."""
    return 0.5 * (highest(p, bars) + lowest(p, bars))


@shared
def place_in_range(p: Panel, bars: int) -> Values:
    """Return where the close lies between lowest low and highest high, 0 to 100."""
    bottom = lowest(p, bars)
    return 100.0 * ratio(p["close"] - bottom, highest(p, bars) - bottom)


@shared
def summed_gains(p: Panel, bars: int) -> tuple[Values, Values]:
    """Return the sums of rises and of falls of the close."""
    return p.sum(gains(p), bars), p.sum(losses(p), bars)


@shared
def summed_change(p: Panel, bars: int) -> Values:
    """Return Chande's momentum of sums, -1 to 1."""
    up, down = summed_gains(p, bars)
    return ratio(up - down, up + down)


def weighted(p: Panel, x: Values, weights: Sequence[float]) -> Values:
    """Return the sum of the last values times weights, the oldest first."""

    def make() -> Values:
        out = empty(p.rows)
        kernels.window_weighted(x, p.offsets, np.array(weights), out)
        return out

    return p.shared(("window_weighted", id(x), tuple(weights)), make, keep=x)


def distance(p: Panel, line: Values) -> Values:
    """Return how far the close is above a line, over the close."""
    return 1.0 - ratio(line, p["close"])


def over_close(p: Panel, x: Values) -> Values:
    """Return a difference of prices over the close."""
    return ratio(x, p["close"])


def over_volume(p: Panel, x: Values) -> Values:
    """Return a volume over its mean of 20 bars."""
    return ratio(x, mean_volume(p))


def technical(
    name: str,
    compute: Callable[[Panel], Values],
    inputs: tuple[str, ...],
    lookback: int,
    meaning: str,
    source: str,
    memory: Memory = Memory.WINDOW,
    scope: Scope = Scope.ANY,
) -> Feature:
    """Declare an indicator of this family."""
    return Feature(
        name,
        compute,
        inputs,
        lookback,
        Stage.TIME_SERIES,
        meaning,
        source,
        family=FAMILY,
        memory=memory,
        scope=scope,
    )


def reading(inputs: tuple[str, ...]) -> Callable[..., Feature]:
    """Return :func:`technical` for indicators that read these columns."""

    def declare(
        name: str,
        compute: Callable[[Panel], Values],
        lookback: int,
        meaning: str,
        source: str,
        memory: Memory = Memory.WINDOW,
    ) -> Feature:
        return technical(name, compute, inputs, lookback, meaning, source, memory)

    return declare
