"""Oscillators of the close's place in its range, and of bodies and ranges."""

from __future__ import annotations

from functools import partial

import numpy as np

from features import technical_kernels as kernels
from features.kernels import Values
from features.panel import Panel, ratio, shared
from features.spec import Feature, Memory
from features.technical_averages import close_mean
from features.technical_prices import (
    HIGH_LOW,
    HIGH_LOW_CLOSE,
    PRICES,
    average_true_range,
    bar_range,
    close_ema,
    median_price,
    over_close,
    place_in_range,
    reading,
    technical,
    true_range,
    typical_price,
    weighted,
)

_SYMMETRIC = (1.0 / 6.0, 2.0 / 6.0, 2.0 / 6.0, 1.0 / 6.0)


@shared
def _stochastic(p: Panel) -> Values:
    return p.mean(place_in_range(p, 14), 3)


@shared
def _buying(p: Panel) -> Values:
    return p["close"] - np.minimum(p["low"], p.lag(p["close"], 1))


def _ultimate(p: Panel) -> Values:
    parts = [ratio(p.sum(_buying(p), n), p.sum(true_range(p), n)) for n in (7, 14, 28)]
    return 100.0 * (4.0 * parts[0] + 2.0 * parts[1] + parts[2]) / 7.0


def _commodity_channel(p: Panel, bars: int) -> Values:
    price = typical_price(p)
    spread = p.absolute_deviation(price, bars)
    # Of equal prices rounding leaves a spread near the last bit: there is none.
    spread = np.where(spread > 1e-12 * price, spread, np.nan)
    return ratio(price - p.mean(price, bars), 0.015 * spread)


@shared
def _body(p: Panel) -> Values:
    return p["close"] - p["open"]


@shared
def vigor(p: Panel) -> Values:
    """Return Ehlers' relative vigor index of 14 bars."""
    body, span = weighted(p, _body(p), _SYMMETRIC), weighted(p, bar_range(p), _SYMMETRIC)
    return ratio(p.sum(body, 14), p.sum(span, 14))


@shared
def fisher(p: Panel) -> Values:
    """Return Ehlers' Fisher transform of the median price's place in its range of nine bars."""
    price = median_price(p)
    bottom = p.min(price, 9)
    place = ratio(price - bottom, p.max(price, 9) - bottom) - 0.5
    return p.recursive("technical.fisher", 3, kernels.fisher, place)


@shared
def _kdj_k(p: Panel) -> Values:
    return p.wilder("technical.kdj.k", place_in_range(p, 9), 3)


@shared
def _kdj_d(p: Panel) -> Values:
    return p.wilder("technical.kdj.d", _kdj_k(p), 3)


def _good_oscillator(p: Panel) -> Values:
    span = p.ema("technical.pgo.range", average_true_range(p, 14), 14)
    return ratio(p["close"] - close_mean(p, 14), span)


def _desire(p: Panel, bars: int, of_open: bool) -> Values:
    if of_open:
        up, down = p["high"] - p["open"], p["open"] - p["low"]
    else:
        before = p.lag(p["close"], 1)
        up = np.maximum(p["high"] - before, 0.0)
        down = np.maximum(before - p["low"], 0.0)
    return 100.0 * ratio(p.sum(up, bars), p.sum(down, bars))


_DECAYING = Memory.DECAYING
_LANE = "Lane (1984)"
_IN_CLOSE = ", in units of the close"
_of_range = reading(HIGH_LOW_CLOSE)

FEATURES: tuple[Feature, ...] = (
    _of_range("stoch_k_14_3_3", _stochastic, 16, "Slow stochastic %K, 0 to 100", _LANE),
    _of_range(
        "stoch_d_14_3_3",
        lambda p: p.mean(_stochastic(p), 3),
        18,
        "Slow stochastic %D, 0 to 100",
        _LANE,
    ),
    _of_range(
        "stochf_k_5_3", lambda p: place_in_range(p, 5), 5, "Fast stochastic %K, 0 to 100", _LANE
    ),
    _of_range(
        "stochf_d_5_3",
        lambda p: p.mean(place_in_range(p, 5), 3),
        7,
        "Fast stochastic %D, 0 to 100",
        _LANE,
    ),
    _of_range("kdj_k_9_3", _kdj_k, 11, "KDJ's K: Wilder's mean of %K, 0 to 100", _LANE, _DECAYING),
    _of_range("kdj_d_9_3", _kdj_d, 13, "KDJ's D: Wilder's mean of K, 0 to 100", _LANE, _DECAYING),
    _of_range(
        "kdj_j_9_3",
        lambda p: 3.0 * _kdj_k(p) - 2.0 * _kdj_d(p),
        13,
        "KDJ's J: three K less two D",
        _LANE,
        _DECAYING,
    ),
    _of_range(
        "cci_14",
        partial(_commodity_channel, bars=14),
        14,
        "Commodity channel index",
        "Lambert (1980)",
    ),
    _of_range(
        "willr_14",
        lambda p: place_in_range(p, 14) - 100.0,
        14,
        "Williams %R, -100 to 0",
        "Williams (1979)",
    ),
    _of_range("uo_7_14_28", _ultimate, 29, "Ultimate oscillator, 0 to 100", "Williams (1985)"),
    technical(
        "ao_5_34",
        lambda p: ratio(p.mean(median_price(p), 5) - p.mean(median_price(p), 34), p["close"]),
        HIGH_LOW_CLOSE,
        34,
        f"Awesome oscillator{_IN_CLOSE}",
        "Williams (1998)",
    ),
    technical(
        "bop",
        lambda p: ratio(_body(p), bar_range(p)),
        PRICES,
        1,
        "Balance of power: body over range, -1 to 1",
        "Livshin (2001)",
    ),
    technical("rvgi_14_4", vigor, PRICES, 17, "Relative vigor index, -1 to 1", "Ehlers (2002)"),
    technical(
        "rvgi_signal_14_4",
        lambda p: weighted(p, vigor(p), _SYMMETRIC),
        PRICES,
        20,
        "Symmetric mean of four of the relative vigor index",
        "Ehlers (2002)",
    ),
    technical(
        "rvgi_histogram_14_4",
        lambda p: vigor(p) - weighted(p, vigor(p), _SYMMETRIC),
        PRICES,
        20,
        "Relative vigor index less its signal",
        "Ehlers (2002)",
    ),
    technical(
        "fisher_9",
        fisher,
        HIGH_LOW,
        10,
        "Fisher transform of the median price's place in 9 bars",
        "Ehlers (2002); without a floor of the range, which would depend on the price scale",
        _DECAYING,
    ),
    technical(
        "fisher_signal_9_1",
        lambda p: p.lag(fisher(p), 1),
        HIGH_LOW,
        11,
        "Fisher transform of the bar before",
        "Ehlers (2002)",
        _DECAYING,
    ),
    technical(
        "eri_bull_13",
        lambda p: over_close(p, p["high"] - close_ema(p, 13)),
        ("high", "close"),
        13,
        f"Elder ray's bull power: high less exponential mean{_IN_CLOSE}",
        "Elder (1993)",
        _DECAYING,
    ),
    technical(
        "eri_bear_13",
        lambda p: over_close(p, p["low"] - close_ema(p, 13)),
        ("low", "close"),
        13,
        f"Elder ray's bear power: low less exponential mean{_IN_CLOSE}",
        "Elder (1993)",
        _DECAYING,
    ),
    _of_range(
        "pgo_14",
        _good_oscillator,
        28,
        "Pretty good oscillator: close less its mean, in smoothed true ranges",
        "Johnson; pandas-ta-classic pgo",
        _DECAYING,
    ),
    technical(
        "brar_ar_26",
        partial(_desire, bars=26, of_open=True),
        ("open", "high", "low"),
        26,
        "Strength of the mood: rises above the open over falls below it, in percent",
        "pandas-ta-classic brar",
    ),
    technical(
        "brar_br_26",
        partial(_desire, bars=26, of_open=False),
        HIGH_LOW_CLOSE,
        27,
        "Strength of the desire: rises above the last close over falls below, in percent",
        "pandas-ta-classic brar",
    ),
)
