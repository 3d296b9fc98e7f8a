"""Moving averages of the close, each as the close's distance from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from features import technical_kernels as kernels
from features.kernels import Values
from features.panel import Panel, ratio, shared
from features.spec import Feature, Memory
from features.technical_prices import (
    CLOSE,
    CLOSE_VOLUME,
    close_change,
    close_ema,
    distance,
    moves,
    summed_change,
    technical,
    weighted,
)

BARS = 10
Weights = npt.NDArray[np.float64]


def close_mean(p: Panel, bars: int) -> Values:
    """Return the plain mean of the close."""
    return p.mean(p["close"], bars)


def close_weighted_mean(p: Panel, bars: int) -> Values:
    """Return the linearly weighted mean of the close."""
    return p.weighted_mean(p["close"], bars)


@shared
def chained(p: Panel, span: int, depth: int) -> Values:
    """Return the exponential mean of an exponential mean of ... the close."""
    if depth == 1:
        return close_ema(p, span)
    return p.ema(f"technical.ema_{depth}.close.{span}", chained(p, span, depth - 1), span)


def double_exponential(p: Panel, span: int) -> Values:
    """Return Mulloy's mean of two exponential means."""
    return 2.0 * chained(p, span, 1) - chained(p, span, 2)


def triple_exponential(p: Panel, span: int) -> Values:
    """Return Mulloy's mean of three exponential means."""
    return 3.0 * (chained(p, span, 1) - chained(p, span, 2)) + chained(p, span, 3)


def tillson(p: Panel, span: int, a: float = 0.7) -> Values:
    """Return Tillson's T3, of six exponential means."""
    c6, c5 = -(a**3), 3.0 * a**2 + 3.0 * a**3
    c4 = -6.0 * a**2 - 3.0 * a - 3.0 * a**3
    c3 = a**3 + 3.0 * a**2 + 3.0 * a + 1.0
    e3, e4, e5, e6 = (chained(p, span, depth) for depth in (3, 4, 5, 6))
    return c6 * e6 + c5 * e5 + c4 * e4 + c3 * e3


@shared
def hull(p: Panel, bars: int) -> Values:
    """Return Hull's mean of weighted means."""
    close = p["close"]
    inner = 2.0 * p.weighted_mean(close, bars // 2) - p.weighted_mean(close, bars)
    return p.weighted_mean(inner, math.isqrt(bars))


@shared
def zero_lag(p: Panel, span: int) -> Values:
    """Return the exponential mean of the close plus its change over half the span."""
    ahead = 2.0 * p["close"] - p.lag(p["close"], (span - 1) // 2)
    return p.ema(f"technical.zlema.{span}", ahead, span)


@shared
def close_wilder(p: Panel, bars: int) -> Values:
    """Return Wilder's mean of the close."""
    return p.wilder(f"technical.rma.close.{bars}", p["close"], bars)


@shared
def efficiency(p: Panel, bars: int) -> Values:
    """Return Kaufman's efficiency ratio: net move over path, 0 to 1."""
    return ratio(np.abs(p.change(p["close"], bars)), p.sum(moves(p), bars))


@shared
def kaufman(p: Panel, bars: int, fast: int, slow: int) -> Values:
    """Return Kaufman's adaptive mean, seeded with the close before its first value."""
    quick, tardy = 2.0 / (fast + 1.0), 2.0 / (slow + 1.0)
    weight = (efficiency(p, bars) * (quick - tardy) + tardy) ** 2
    inputs = (weight, p["close"], p.lag(p["close"], 1))
    return p.recursive(f"technical.kama.{bars}.{fast}.{slow}", 2, kernels.adaptive, *inputs)


@shared
def variable_index(p: Panel, bars: int) -> Values:
    """Return Chande's variable index dynamic average, seeded with the mean of the first bars."""
    weight = 2.0 / (bars + 1.0) * np.abs(summed_change(p, bars))
    inputs = (weight, p["close"], p.lag(p.mean(p["close"], bars), 1))
    return p.recursive(f"technical.vidya.{bars}", 2, kernels.adaptive, *inputs)


@shared
def super_smoother(p: Panel, bars: int) -> Values:
    """Return Ehlers' super smoother of two poles."""
    x = math.pi * math.sqrt(2.0) / bars
    b1, b2 = 2.0 * math.exp(-x) * math.cos(x), -math.exp(-2.0 * x)
    return p.recursive(
        f"technical.ssf.{bars}", 3, kernels.two_poles, p["close"], arguments=(b1, b2)
    )


@shared
def volume_weighted(p: Panel, bars: int) -> Values:
    """Return the mean of the close weighted by volume."""
    turnover = p["close"] * p["volume"]
    return ratio(p.sum(turnover, bars), p.sum(p["volume"], bars))


@shared
def triangular(p: Panel, bars: int) -> Values:
    """Return a mean of means, each of half the bars and one."""
    half = bars // 2 + 1
    return p.mean(p.mean(p["close"], half), half)


@shared
def line_end(p: Panel, bars: int) -> Values:
    """Return where a straight line fitted to the close ends."""
    return p["close"] - p.trend(p["close"], bars)[2]


def line_ahead(p: Panel, bars: int) -> Values:
    """Return where a straight line fitted to the close will be one bar on."""
    return line_end(p, bars) + p.trend(p["close"], bars)[0]


def arnaud_legoux_weights(bars: int, sigma: float = 6.0, at: float = 0.85) -> Weights:
    """Return weights of a Gaussian bell, oldest first (as pandas-ta-classic has them)."""
    k = np.arange(bars)
    bell = np.exp(-((k - at * (bars - 1)) ** 2) / (2.0 * (bars / sigma) ** 2))
    return np.ascontiguousarray((bell / bell.sum())[::-1])


def fibonacci_weights(bars: int) -> Weights:
    """Return weights in the ratio of Fibonacci's numbers."""
    numbers = [1.0, 1.0]
    while len(numbers) < bars:
        numbers.append(numbers[-1] + numbers[-2])
    return np.array(numbers[:bars]) / sum(numbers[:bars])


def pascal_weights(bars: int) -> Weights:
    """Return weights in the ratio of a row of Pascal's triangle."""
    row = np.array([math.comb(bars - 1, k) for k in range(bars)], dtype=np.float64)
    return row / row.sum()


def sine_weights(bars: int) -> Weights:
    """Return weights of half a sine wave."""
    wave = np.sin(np.arange(1, bars + 1) * math.pi / (bars + 1))
    return wave / wave.sum()


def triangle_weights(bars: int) -> Weights:
    """Return weights that rise to the middle and fall again."""
    k = np.arange(1, bars + 1)
    rising = np.minimum(k, k[::-1]).astype(np.float64)
    return rising / rising.sum()


def _filtered(p: Panel, make: Callable[[int], Weights], bars: int) -> Values:
    return weighted(p, p["close"], make(bars).tolist())


def _distance(p: Panel, line: Callable[..., Values], *args: int) -> Values:
    return distance(p, line(p, *args))


def _average(
    name: str,
    line: Callable[..., Values],
    args: tuple[int, ...],
    lookback: int,
    title: str,
    source: str,
    memory: Memory = Memory.WINDOW,
    inputs: tuple[str, ...] = CLOSE,
) -> Feature:
    return technical(
        "_".join(map(str, (name, *args))),
        lambda p: _distance(p, line, *args),
        inputs,
        lookback,
        f"Distance of the close above {title}, in units of the close",
        source,
        memory,
    )


def _filter(name: str, make: Callable[[int], Weights], bars: int, title: str) -> Feature:
    return _average(
        name,
        partial(_filtered, make=make, bars=bars),
        (),
        bars,
        title,
        f"pandas-ta-classic {name.rsplit('_', 1)[0]}",
    )


_DECAYING = Memory.DECAYING

FEATURES: tuple[Feature, ...] = (
    _average("sma", close_mean, (BARS,), BARS, "its plain mean", "pandas-ta-classic sma"),
    _average(
        "ema", close_ema, (BARS,), BARS, "its exponential mean", "pandas-ta-classic ema", _DECAYING
    ),
    _average("rma", close_wilder, (BARS,), BARS, "Wilder's mean", "Wilder (1978)", _DECAYING),
    _average(
        "wma", close_weighted_mean, (BARS,), BARS, "its weighted mean", "pandas-ta-classic wma"
    ),
    _average(
        "dema",
        double_exponential,
        (BARS,),
        2 * BARS - 1,
        "its double exponential mean",
        "Mulloy (1994)",
        _DECAYING,
    ),
    _average(
        "tema",
        triple_exponential,
        (BARS,),
        3 * BARS - 2,
        "its triple exponential mean",
        "Mulloy (1994)",
        _DECAYING,
    ),
    _average("t3", tillson, (BARS,), 6 * BARS - 5, "Tillson's T3", "Tillson (1998)", _DECAYING),
    _average("hma", hull, (BARS,), 12, "Hull's mean", "Hull (2005)"),
    _average(
        "zlema",
        zero_lag,
        (BARS,),
        BARS + (BARS - 1) // 2,
        "its zero-lag exponential mean",
        "Ehlers and Way (2010)",
        _DECAYING,
    ),
    _average(
        "kama",
        kaufman,
        (BARS, 2, 30),
        BARS + 1,
        "Kaufman's adaptive mean",
        "Kaufman (1995)",
        _DECAYING,
    ),
    _average(
        "vidya",
        variable_index,
        (14,),
        15,
        "Chande's variable index dynamic average",
        "Chande (1992)",
        _DECAYING,
    ),
    _average(
        "ssf",
        super_smoother,
        (BARS,),
        3,
        "Ehlers' super smoother",
        "Ehlers (2013), Cycle Analytics for Traders",
        _DECAYING,
    ),
    _average(
        "vwma",
        volume_weighted,
        (BARS,),
        BARS,
        "its volume-weighted mean",
        "pandas-ta-classic vwma",
        inputs=CLOSE_VOLUME,
    ),
    _average(
        "trima", triangular, (BARS,), BARS + 1, "its triangular mean", "pandas-ta-classic trima"
    ),
    _average("linreg", line_end, (14,), 14, "the end of its fitted line", "least squares"),
    _average(
        "tsf", line_ahead, (14,), 14, "its fitted line one bar on", "TA-Lib TSF, least squares"
    ),
    _filter("alma_10", arnaud_legoux_weights, 10, "the mean of Arnaud Legoux"),
    _filter("fwma_10", fibonacci_weights, 10, "its Fibonacci-weighted mean"),
    _filter("pwma_10", pascal_weights, 10, "its Pascal-weighted mean"),
    _filter("sinwma_14", sine_weights, 14, "its sine-weighted mean"),
    _filter("swma_10", triangle_weights, 10, "its symmetric weighted mean"),
    technical(
        "bias_26",
        lambda p: ratio(p["close"], close_mean(p, 26)) - 1.0,
        CLOSE,
        26,
        "Close over its mean of 26 bars, less one",
        "pandas-ta-classic bias",
    ),
    technical(
        "linreg_slope_14",
        lambda p: ratio(p.trend(p["close"], 14)[0], p["close"]),
        CLOSE,
        14,
        "Slope of a line fitted to the close, per bar in units of the close",
        "TA-Lib LINEARREG_SLOPE, least squares",
    ),
    technical(
        "slope_1",
        lambda p: ratio(close_change(p), p["close"]),
        CLOSE,
        2,
        "Change of the close in one bar, in units of the close",
        "pandas-ta-classic slope",
    ),
)
