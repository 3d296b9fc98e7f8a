"""Indicators of volatility: ranges, bands and channels around the price."""

from __future__ import annotations

import numpy as np

from features.kernels import Values
from features.panel import Panel, ratio, shared
from features.spec import Feature, Memory
from features.technical_averages import close_mean
from features.technical_momentum import volatility_index
from features.technical_prices import (
    CLOSE,
    HIGH_LOW,
    HIGH_LOW_CLOSE,
    PRICES,
    average_true_range,
    bar_range,
    close_ema,
    distance,
    highest,
    lowest,
    over_close,
    reading,
    technical,
    true_range,
    typical_price,
)


@shared
def bollinger(p: Panel, sign: float) -> Values:
    """Return Bollinger's upper (1) or lower (-1) band of 20 bars and two deviations."""
    return close_mean(p, 20) + 2.0 * sign * p.std(p["close"], 20, 0)


def _percent_b(p: Panel) -> Values:
    lower = bollinger(p, -1.0)
    return ratio(p["close"] - lower, bollinger(p, 1.0) - lower)


def _bandwidth(p: Panel) -> Values:
    return 400.0 * ratio(p.std(p["close"], 20, 0), close_mean(p, 20))


@shared
def _smoothed_range(p: Panel) -> Values:
    return p.ema("technical.ema.true_range.20", true_range(p), 20)


@shared
def keltner(p: Panel, sign: float) -> Values:
    """Return Keltner's upper (1) or lower (-1) line of 20 bars and two ranges."""
    return close_ema(p, 20) + 2.0 * sign * _smoothed_range(p)


def _percent_keltner(p: Panel) -> Values:
    lower = keltner(p, -1.0)
    return ratio(p["close"] - lower, keltner(p, 1.0) - lower)


def _percent_donchian(p: Panel) -> Values:
    lower = lowest(p, 20)
    return ratio(p["close"] - lower, highest(p, 20) - lower)


@shared
def _squeeze_change(p: Panel) -> Values:
    return p.mean(p.change(p["close"], 12), 6)


def _squeeze_state(p: Panel) -> Values:
    """Return 1 where Bollinger's bands are inside Keltner's, -1 where outside, 0 between."""
    band, channel = 2.0 * p.std(p["close"], 20, 0), 1.5 * p.mean(true_range(p), 20)
    state = (band < channel).astype(np.float64) - (band > channel)
    # Both have the same middle, so one side says it all.
    return np.where(np.isfinite(band) & np.isfinite(channel), state, np.nan)


def _ulcer(p: Panel) -> Values:
    fall = _fall(p)
    return np.sqrt(p.sum(fall, 14) / 14.0)


@shared
def _fall(p: Panel) -> Values:
    return (100.0 * (ratio(p["close"], p.max(p["close"], 14)) - 1.0)) ** 2


def _aberration(p: Panel, sign: float) -> Values:
    return distance(p, p.mean(typical_price(p), 5) + sign * average_true_range(p, 15))


@shared
def _acceleration_line(p: Panel, sign: float) -> Values:
    wide = 4.0 * ratio(bar_range(p), p["high"] + p["low"])
    return (p["high"] if sign > 0 else p["low"]) * (1.0 + sign * wide)


def _acceleration_band(p: Panel, sign: float) -> Values:
    return distance(p, p.mean(_acceleration_line(p, sign), 20))


def _chandelier(p: Panel, sign: float) -> Values:
    span = 3.0 * average_true_range(p, 22)
    return distance(p, highest(p, 22) - span if sign > 0 else lowest(p, 22) + span)


@shared
def _range_ema(p: Panel) -> Values:
    return p.ema("technical.ema.range.10", bar_range(p), 10)


@shared
def _log_returns(p: Panel) -> Values:
    return np.log(ratio(p["close"], p.lag(p["close"], 1)))


def _price_distance(p: Panel) -> Values:
    gap = np.abs(p["open"] - p.lag(p["close"], 1))
    return over_close(p, 2.0 * bar_range(p) + gap - np.abs(p["close"] - p["open"]))


@shared
def _heat(p: Panel) -> Values:
    return np.maximum(np.abs(p.change(p["high"])), np.abs(p.change(p["low"])))


@shared
def _mean_heat(p: Panel) -> Values:
    return p.ema("technical.thermo", _heat(p), 20)


_DECAYING = Memory.DECAYING
_BOLLINGER = "Bollinger (2001); pandas-ta-classic bbands"
_KELTNER = "Keltner (1960), Raschke's form; pandas-ta-classic kc"
_CARTER = "Carter (2005); pandas-ta-classic squeeze"
_IN_CLOSE = ", in units of the close"
_ABOVE = "Distance of the close above {}, in units of the close"
_SIDES = (("upper", 1.0), ("lower", -1.0))
_of_range = reading(HIGH_LOW_CLOSE)

BANDS: tuple[Feature, ...] = (
    *(
        technical(
            f"bb_{side}_20_2",
            lambda p, sign=sign: distance(p, bollinger(p, sign)),
            CLOSE,
            20,
            _ABOVE.format(f"Bollinger's {side} band"),
            _BOLLINGER,
        )
        for side, sign in _SIDES
    ),
    technical(
        "bb_percent_20_2",
        _percent_b,
        CLOSE,
        20,
        "Place of the close between Bollinger's bands, 0 at the lower to 1 at the upper",
        _BOLLINGER,
    ),
    technical(
        "bb_bandwidth_20_2",
        _bandwidth,
        CLOSE,
        20,
        "Width of Bollinger's bands, percent of their middle",
        _BOLLINGER,
    ),
    *(
        _of_range(
            f"kc_{side}_20_2",
            lambda p, sign=sign: distance(p, keltner(p, sign)),
            21,
            _ABOVE.format(f"Keltner's {side} line"),
            _KELTNER,
            _DECAYING,
        )
        for side, sign in _SIDES
    ),
    _of_range(
        "kc_percent_20_2",
        _percent_keltner,
        21,
        "Place of the close between Keltner's lines, 0 at the lower to 1 at the upper",
        _KELTNER,
        _DECAYING,
    ),
    technical(
        "donchian_upper_20",
        lambda p: distance(p, highest(p, 20)),
        ("high", "close"),
        20,
        _ABOVE.format("the highest high of 20 bars"),
        "Donchian (1960)",
    ),
    technical(
        "donchian_lower_20",
        lambda p: distance(p, lowest(p, 20)),
        ("low", "close"),
        20,
        _ABOVE.format("the lowest low of 20 bars"),
        "Donchian (1960)",
    ),
    _of_range(
        "donchian_percent_20",
        _percent_donchian,
        20,
        "Place of the close between lowest low and highest high of 20 bars, 0 to 1",
        "Donchian (1960)",
    ),
    technical(
        "squeeze_20_2_20_15",
        lambda p: over_close(p, _squeeze_change(p)),
        CLOSE,
        18,
        f"Mean of six of the close's change over 12 bars{_IN_CLOSE}",
        _CARTER,
    ),
    _of_range(
        "squeeze_state_20_2_20_15",
        _squeeze_state,
        21,
        "1 where Bollinger's bands lie inside Keltner's lines, -1 where outside, else 0",
        _CARTER,
    ),
    *(
        _of_range(
            f"aberration_{side}_5_15",
            lambda p, sign=sign: _aberration(p, sign),
            16,
            _ABOVE.format(f"the aberration band's {side} line"),
            "pandas-ta-classic aberration",
            _DECAYING,
        )
        for side, sign in _SIDES
    ),
    *(
        _of_range(
            f"accbands_{side}_20_4",
            lambda p, sign=sign: _acceleration_band(p, sign),
            20,
            _ABOVE.format(f"the {side} acceleration band"),
            "Headley (2002)",
        )
        for side, sign in _SIDES
    ),
    *(
        _of_range(
            f"ce_{side}_22_3",
            lambda p, sign=sign: _chandelier(p, sign),
            23,
            _ABOVE.format(f"the chandelier stop of a {side} position"),
            "LeBeau (1992)",
            _DECAYING,
        )
        for side, sign in (("long", 1.0), ("short", -1.0))
    ),
)

RANGES: tuple[Feature, ...] = (
    _of_range(
        "true_range",
        lambda p: over_close(p, true_range(p)),
        2,
        f"True range{_IN_CLOSE}",
        "Wilder (1978)",
    ),
    _of_range(
        "atr_14",
        lambda p: over_close(p, average_true_range(p, 14)),
        15,
        f"Wilder's average true range{_IN_CLOSE}",
        "Wilder (1978); pandas-ta-classic atr",
        _DECAYING,
    ),
    _of_range(
        "natr_14",
        lambda p: 100.0 * over_close(p, average_true_range(p, 14)),
        15,
        "Wilder's average true range, percent of the close",
        "Forman (2006); TA-Lib NATR",
        _DECAYING,
    ),
    technical(
        "rvi_14",
        volatility_index,
        CLOSE,
        27,
        "Relative volatility index: share of deviation on rising bars, 0 to 100",
        "Dorsey (1993)",
        _DECAYING,
    ),
    technical(
        "ui_14", _ulcer, CLOSE, 27, "Ulcer index: root mean square fall, percent", "Martin (1987)"
    ),
    technical(
        "cvi_10",
        lambda p: 100.0 * p.growth(_range_ema(p), 10),
        HIGH_LOW,
        20,
        "Chaikin volatility: change over 10 bars of the range's exponential mean, percent",
        "Chaikin; pandas-ta-classic cvi",
        _DECAYING,
    ),
    technical(
        "hvol_20",
        lambda p: 100.0 * np.sqrt(252.0) * p.std(_log_returns(p), 20),
        CLOSE,
        21,
        "Deviation of 20 log returns, percent, times the root of 252 whatever the bar",
        "pandas-ta-classic hvol",
    ),
    technical(
        "pdist",
        _price_distance,
        PRICES,
        2,
        f"Distance that the price travelled at least in the bar{_IN_CLOSE}",
        "pandas-ta-classic pdist",
    ),
    _of_range(
        "thermo_20",
        lambda p: over_close(p, _heat(p)),
        2,
        f"Elder's thermometer: the larger move of high or low{_IN_CLOSE}",
        "Elder (2002)",
    ),
    _of_range(
        "thermo_ma_20",
        lambda p: over_close(p, _mean_heat(p)),
        21,
        f"Exponential mean of 20 of Elder's thermometer{_IN_CLOSE}",
        "Elder (2002)",
        _DECAYING,
    ),
    technical(
        "zscore_30",
        lambda p: ratio(p["close"] - close_mean(p, 30), p.std(p["close"], 30)),
        CLOSE,
        30,
        "Distance of the close from its mean of 30, in standard deviations",
        "pandas-ta-classic zscore",
    ),
    technical(
        "stderr_14",
        lambda p: over_close(p, p.std(p["close"], 14) / np.sqrt(14.0)),
        CLOSE,
        14,
        f"Standard error of the mean of 14 closes{_IN_CLOSE}",
        "pandas-ta-classic stderr",
    ),
)

FEATURES: tuple[Feature, ...] = (*BANDS, *RANGES)
