"""Indicators of trend: directional movement, clouds, stops and channels in time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from features import technical_kernels as kernels
from features.kernels import Values
from features.panel import Panel, empty, ratio, shared
from features.spec import Feature, Memory
from features.technical_averages import chained, close_mean
from features.technical_prices import (
    CLOSE,
    HIGH_LOW,
    HIGH_LOW_CLOSE,
    average_true_range,
    bar_range,
    distance,
    highest,
    lowest,
    median_price,
    middle,
    moves,
    over_close,
    technical,
    true_range,
)


@shared
def _directional(p: Panel, sign: float) -> Values:
    """Return the movement up (1) or down (-1) where it is the larger of the two."""
    up, down = p.change(p["high"]), -p.change(p["low"])
    own, other = (up, down) if sign > 0 else (down, up)
    moved = np.where((own > other) & (own > 0), own, 0.0)
    return np.where(np.isfinite(up) & np.isfinite(down), moved, np.nan)


@shared
def directional_index(p: Panel, bars: int, sign: float) -> Values:
    """Return Wilder's DI+ (1) or DI- (-1), 0 to 100."""
    moved = p.recursive(
        f"technical.dm.{bars}.{sign:+.0f}",
        2,
        kernels.wilder_sum,
        _directional(p, sign),
        arguments=(bars,),
    )
    ranged = p.recursive(
        f"technical.tr_sum.{bars}", 2, kernels.wilder_sum, true_range(p), arguments=(bars,)
    )
    return 100.0 * ratio(moved, ranged)


@shared
def directional_spread(p: Panel, bars: int) -> Values:
    """Return Wilder's DX, 0 to 100."""
    plus, minus = directional_index(p, bars, 1.0), directional_index(p, bars, -1.0)
    return 100.0 * ratio(np.abs(plus - minus), plus + minus)


@shared
def directional_average(p: Panel, bars: int) -> Values:
    """Return Wilder's ADX, 0 to 100."""
    return p.wilder(f"technical.adx.{bars}", directional_spread(p, bars), bars)


def _directional_rating(p: Panel, bars: int) -> Values:
    average = directional_average(p, bars)
    return 0.5 * (average + p.lag(average, bars - 1))


@shared
def aroon(p: Panel, bars: int, sign: float) -> Values:
    """Return Chande's Aroon up (1) or down (-1), 0 to 100; of equal extremes the latest counts."""
    out = empty(p.rows)
    x = p["high"] if sign > 0 else p["low"]
    kernels.bars_since_latest(x, p.offsets, bars + 1, sign, out)
    return 100.0 * (1.0 - out / bars)


@shared
def _cloud(p: Panel) -> Values:
    return 0.5 * (middle(p, 9) + middle(p, 26))


@shared
def supertrend(p: Panel, bars: int, width: float) -> tuple[Values, Values]:
    """Return Seban's line and its direction (1 up, -1 down)."""
    span, mid = width * average_true_range(p, bars), median_price(p)
    inputs = (p["close"], mid + span, mid - span)
    name = f"technical.supertrend.{bars}.{width}"
    return p.recursive(name, 3, kernels.supertrend, *inputs, outputs=2)


@shared
def parabolic(p: Panel) -> tuple[Values, Values, Values]:
    """Return Wilder's stop and reverse, its acceleration, and 1 where it turns."""
    inputs = (p["high"], p["low"], p["close"])
    return p.recursive(
        "technical.psar", 9, kernels.parabolic, *inputs, arguments=(0.02, 0.2), outputs=3
    )


@shared
def _vortex(p: Panel, bars: int, sign: float) -> Values:
    high, low = p["high"], p["low"]
    reach = high - p.lag(low, 1) if sign > 0 else low - p.lag(high, 1)
    return ratio(p.sum(np.abs(reach), bars), p.sum(true_range(p), bars))


def _choppiness(p: Panel, bars: int) -> Values:
    path = ratio(p.sum(true_range(p), bars), highest(p, bars) - lowest(p, bars))
    return 100.0 * np.log10(path) / np.log10(bars)


@shared
def _body(p: Panel) -> Values:
    return p["close"] - p["open"]


def _mass(p: Panel, fast: int, slow: int) -> Values:
    return p.sum(_mass_ratio(p, fast), slow)


@shared
def _mass_ratio(p: Panel, fast: int) -> Values:
    once = p.ema(f"technical.ema.range.{fast}", bar_range(p), fast)
    return ratio(once, p.ema(f"technical.ema_2.range.{fast}", once, fast))


def _horizontal_filter(p: Panel, bars: int) -> Values:
    close = p["close"]
    return ratio(p.max(close, bars) - p.min(close, bars), p.sum(moves(p), bars))


@shared
def _first_stop(p: Panel, sign: float) -> Values:
    span = 3.0 * average_true_range(p, 10)
    return highest(p, 10) - span if sign > 0 else lowest(p, 10) + span


def _chande_kroll(p: Panel, sign: float) -> Values:
    first = _first_stop(p, sign)
    return distance(p, p.max(first, 20) if sign > 0 else p.min(first, 20))


@shared
def trix(p: Panel) -> Values:
    """Return the growth of the close's triple exponential mean, in percent."""
    return 100.0 * p.growth(chained(p, 30, 3))


def _mean_trend(p: Panel) -> Values:
    above = distance(p, p.mean(median_price(p), 6))
    # A close that equals the mean but for rounding is not above it.
    return np.where(np.isfinite(above), np.where(above > 1e-9, 1.0, -1.0), np.nan)


def _lagged(p: Panel, make: Callable[[Panel], Values], bars: int) -> Values:
    return distance(p, p.lag(make(p), bars))


_DECAYING = Memory.DECAYING
_WILDER = "Wilder (1978), New Concepts in Technical Trading Systems"
_ICHIMOKU = "Hosoda (1969)"
_ABOVE = "Distance of the close above {}, in units of the close"

FEATURES: tuple[Feature, ...] = (
    *(
        technical(
            f"di_{name}_14",
            lambda p, sign=sign: directional_index(p, 14, sign),
            HIGH_LOW_CLOSE,
            15,
            f"Directional indicator {name}, 0 to 100",
            f"{_WILDER}; pandas-ta-classic adx, TA-Lib",
            _DECAYING,
        )
        for name, sign in (("plus", 1.0), ("minus", -1.0))
    ),
    technical(
        "dx_14",
        lambda p: directional_spread(p, 14),
        HIGH_LOW_CLOSE,
        15,
        "Spread of the directional indicators over their sum, 0 to 100",
        _WILDER,
        _DECAYING,
    ),
    technical(
        "adx_14",
        lambda p: directional_average(p, 14),
        HIGH_LOW_CLOSE,
        28,
        "Average directional index, 0 to 100",
        _WILDER,
        _DECAYING,
    ),
    technical(
        "adxr_14",
        lambda p: _directional_rating(p, 14),
        HIGH_LOW_CLOSE,
        41,
        "Mean of the average directional index and of that 13 bars ago, 0 to 100",
        _WILDER,
        _DECAYING,
    ),
    *(
        technical(
            f"aroon_{name}_14",
            lambda p, sign=sign: aroon(p, 14, sign),
            ("high" if sign > 0 else "low",),
            15,
            f"How lately the {extreme} of 14 bars was, 0 to 100",
            "Chande (1995)",
        )
        for name, extreme, sign in (("up", "highest high", 1.0), ("down", "lowest low", -1.0))
    ),
    technical(
        "aroon_oscillator_14",
        lambda p: aroon(p, 14, 1.0) - aroon(p, 14, -1.0),
        HIGH_LOW,
        15,
        "Aroon up less Aroon down, -100 to 100",
        "Chande (1995)",
    ),
    technical(
        "ichimoku_tenkan_9",
        lambda p: distance(p, middle(p, 9)),
        HIGH_LOW_CLOSE,
        9,
        _ABOVE.format("the conversion line"),
        _ICHIMOKU,
    ),
    technical(
        "ichimoku_kijun_26",
        lambda p: distance(p, middle(p, 26)),
        HIGH_LOW_CLOSE,
        26,
        _ABOVE.format("the base line"),
        _ICHIMOKU,
    ),
    technical(
        "ichimoku_senkou_a_9_26",
        lambda p: _lagged(p, _cloud, 26),
        HIGH_LOW_CLOSE,
        52,
        _ABOVE.format("leading span A drawn for this bar, known 26 bars before"),
        _ICHIMOKU,
    ),
    technical(
        "ichimoku_senkou_b_52",
        lambda p: _lagged(p, lambda q: middle(q, 52), 26),
        HIGH_LOW_CLOSE,
        78,
        _ABOVE.format("leading span B drawn for this bar, known 26 bars before"),
        _ICHIMOKU,
    ),
    technical(
        "supertrend_7_3",
        lambda p: distance(p, supertrend(p, 7, 3.0)[0]),
        HIGH_LOW_CLOSE,
        8,
        _ABOVE.format("the trailing band of three average true ranges"),
        "Seban; pandas-ta-classic supertrend",
        _DECAYING,
    ),
    technical(
        "supertrend_direction_7_3",
        lambda p: supertrend(p, 7, 3.0)[1],
        HIGH_LOW_CLOSE,
        8,
        "1 while the close is above the trailing band, -1 below",
        "Seban; pandas-ta-classic supertrend",
        _DECAYING,
    ),
    technical(
        "psar",
        lambda p: distance(p, parabolic(p)[0]),
        HIGH_LOW_CLOSE,
        2,
        _ABOVE.format("the parabolic stop (0.02, at most 0.2)"),
        _WILDER,
        _DECAYING,
    ),
    technical(
        "psar_acceleration",
        lambda p: parabolic(p)[1],
        HIGH_LOW_CLOSE,
        2,
        "Acceleration of the parabolic stop, 0.02 to 0.2",
        _WILDER,
        _DECAYING,
    ),
    technical(
        "psar_reversal",
        lambda p: parabolic(p)[2],
        HIGH_LOW_CLOSE,
        2,
        "1 on bars where the parabolic stop turns, else 0",
        _WILDER,
        _DECAYING,
    ),
    *(
        technical(
            f"vortex_{name}_14",
            lambda p, sign=sign: _vortex(p, 14, sign),
            HIGH_LOW_CLOSE,
            15,
            f"Vortex indicator {name}: summed reach over summed true range",
            "Botes and Siepman (2010)",
        )
        for name, sign in (("plus", 1.0), ("minus", -1.0))
    ),
    technical(
        "chop_14",
        lambda p: _choppiness(p, 14),
        HIGH_LOW_CLOSE,
        15,
        "Choppiness: log of path over range, 0 (a trend) to 100",
        "Dreiss (1993)",
    ),
    technical(
        "qstick_10",
        lambda p: over_close(p, p.mean(_body(p), 10)),
        ("open", "close"),
        10,
        "Mean of close less open over 10 bars, in units of the close",
        "Chande and Kroll (1994)",
    ),
    technical(
        "dpo_20",
        lambda p: over_close(p, p["close"] - p.lag(close_mean(p, 20), 11)),
        CLOSE,
        31,
        "Close less its 20-bar mean of 11 bars ago (never centred), in units of the close",
        "pandas-ta-classic dpo with lookahead=False",
    ),
    technical(
        "massi_9_25",
        lambda p: _mass(p, 9, 25),
        HIGH_LOW,
        41,
        "Mass index: 25 ratios of the range's mean to that mean's mean, summed",
        "Dorsey (1992)",
        _DECAYING,
    ),
    technical(
        "vhf_28",
        lambda p: _horizontal_filter(p, 28),
        CLOSE,
        29,
        "Vertical horizontal filter: range of closes over their path, 0 to 1",
        "White (1991)",
    ),
    *(
        technical(
            f"cksp_{name}_10_3_20",
            lambda p, sign=sign: _chande_kroll(p, sign),
            HIGH_LOW_CLOSE,
            30,
            _ABOVE.format(f"Chande and Kroll's stop of a {name} position"),
            "Chande and Kroll (1994)",
            _DECAYING,
        )
        for name, sign in (("long", 1.0), ("short", -1.0))
    ),
    technical(
        "trix_30",
        trix,
        CLOSE,
        89,
        "Growth of the close's triple exponential mean, percent per bar",
        "Hutson (1983)",
        _DECAYING,
    ),
    technical(
        "trix_signal_30_9",
        lambda p: p.mean(trix(p), 9),
        CLOSE,
        97,
        "Mean of trix over 9 bars, percent per bar",
        "Hutson (1983)",
        _DECAYING,
    ),
    technical(
        "ttm_trend_6",
        _mean_trend,
        HIGH_LOW_CLOSE,
        6,
        "1 where the close is above the mean of 6 median prices, else -1",
        "Carter (2005)",
    ),
)
