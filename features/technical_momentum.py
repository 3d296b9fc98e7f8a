"""Oscillators of momentum, of the close alone."""

from __future__ import annotations

from functools import partial

import numpy as np

from features.kernels import Values
from features.panel import Panel, ratio, shared
from features.spec import Feature, Memory
from features.technical_averages import close_mean, efficiency, line_ahead, line_end
from features.technical_prices import (
    CLOSE,
    close_change,
    close_ema,
    gains,
    losses,
    moves,
    over_close,
    reading,
    summed_change,
)

# An RSI that moves by less than this in a window has only rounding left in it.
_STILL = 1e-7


@shared
def rsi(p: Panel, bars: int) -> Values:
    """Return Wilder's relative strength index, 0 to 100."""
    up = p.wilder(f"technical.gains.{bars}", gains(p), bars)
    down = p.wilder(f"technical.losses.{bars}", losses(p), bars)
    return 100.0 * ratio(up, up + down)


@shared
def _stochastic_rsi(p: Panel) -> Values:
    value = rsi(p, 14)
    bottom = p.min(value, 14)
    width = p.max(value, 14) - bottom
    return p.mean(100.0 * ratio(value - bottom, np.where(width > _STILL, width, np.nan)), 3)


@shared
def macd(p: Panel) -> Values:
    """Return Appel's MACD line, in price units."""
    return close_ema(p, 12) - close_ema(p, 26)


@shared
def macd_signal(p: Panel) -> Values:
    """Return the exponential mean of nine of the MACD line."""
    return p.ema("technical.macd.signal", macd(p), 9)


@shared
def _price_oscillator(p: Panel) -> Values:
    return 100.0 * (ratio(close_mean(p, 12), close_mean(p, 26)) - 1.0)


@shared
def _price_oscillator_signal(p: Panel) -> Values:
    return p.ema("technical.ppo.signal", _price_oscillator(p), 9)


def _rate(p: Panel, bars: int) -> Values:
    return 100.0 * p.growth(p["close"], bars)


@shared
def true_strength(p: Panel, fast: int, slow: int) -> Values:
    """Return Blau's true strength index, -1 to 1."""
    name = f"technical.tsi.{slow}"
    up = p.ema(f"{name}.change", close_change(p), slow)
    path = p.ema(f"{name}.moves", moves(p), slow)
    up = p.ema(f"{name}.{fast}.change", up, fast)
    return ratio(up, p.ema(f"{name}.{fast}.moves", path, fast))


@shared
def true_strength_signal(p: Panel, fast: int, slow: int, signal: int) -> Values:
    """Return the exponential mean of the true strength index."""
    return p.ema(f"technical.tsi.{slow}.{fast}.signal", true_strength(p, fast, slow), signal)


@shared
def _chande_momentum(p: Panel) -> Values:
    up = p.wilder("technical.gains.14", gains(p), 14)
    down = p.wilder("technical.losses.14", losses(p), 14)
    return 100.0 * ratio(up - down, up + down)


@shared
def know_sure_thing(p: Panel) -> Values:
    """Return Pring's sum of four smoothed rates of change, in percent."""
    close = p["close"]
    out = p.mean(p.growth(close, 10), 10) + 2.0 * p.mean(p.growth(close, 15), 10)
    out = out + 3.0 * p.mean(p.growth(close, 20), 10) + 4.0 * p.mean(p.growth(close, 30), 15)
    return 100.0 * out


@shared
def _two_rates(p: Panel) -> Values:
    return _rate(p, 11) + _rate(p, 14)


def _gravity(p: Panel, bars: int) -> Values:
    total = p.sum(p["close"], bars)
    heavy = p.weighted_mean(p["close"], bars) * (0.5 * bars * (bars + 1))
    return ratio(heavy, total) - (bars + 1)


@shared
def volatility_index(p: Panel) -> Values:
    """Return Dorsey's relative volatility index of 14 bars, 0 to 100."""
    spread, change = p.std(p["close"], 14, 0), close_change(p)
    rises = np.where(np.isfinite(change), (change > 0) * spread, np.nan)
    falls = np.where(np.isfinite(change), (change < 0) * spread, np.nan)
    up = p.ema("technical.rvi.up", rises, 14)
    return 100.0 * ratio(up, up + p.ema("technical.rvi.down", falls, 14))


def inertia(p: Panel) -> Values:
    """Return where a line fitted to 20 relative volatility indices ends."""
    index = volatility_index(p)
    return index - p.trend(index, 20)[2]


def _trend_correlation(p: Panel, bars: int) -> Values:
    slope, fit, _ = p.trend(p["close"], bars)
    return np.sign(slope) * np.sqrt(fit)


def _psychological_line(p: Panel, bars: int) -> Values:
    return 100.0 / bars * p.sum(_rises(p), bars)


@shared
def _rises(p: Panel) -> Values:
    change = close_change(p)
    return np.where(np.isfinite(change), (change > 0).astype(np.float64), np.nan)


_DECAYING = Memory.DECAYING
_BLAU = "Blau (1995), Momentum, Direction and Divergence"
_APPEL = "Appel (2005)"
_IN_CLOSE = ", in units of the close"
_of_close = reading(CLOSE)

FEATURES: tuple[Feature, ...] = (
    _of_close(
        "rsi_14",
        partial(rsi, bars=14),
        15,
        "Relative strength index, 0 to 100",
        "Wilder (1978); pandas-ta-classic rsi",
        _DECAYING,
    ),
    _of_close(
        "stochrsi_k_14_14_3_3",
        _stochastic_rsi,
        30,
        "Place of the RSI in its own range, mean of three, 0 to 100",
        "Chande and Kroll (1994); pandas-ta-classic stochrsi",
        _DECAYING,
    ),
    _of_close(
        "stochrsi_d_14_14_3_3",
        lambda p: p.mean(_stochastic_rsi(p), 3),
        32,
        "Mean of three of the stochastic RSI, 0 to 100",
        "Chande and Kroll (1994); pandas-ta-classic stochrsi",
        _DECAYING,
    ),
    _of_close(
        "macd_12_26_9",
        lambda p: over_close(p, macd(p)),
        26,
        f"MACD line: exponential mean of 12 less that of 26{_IN_CLOSE}",
        _APPEL,
        _DECAYING,
    ),
    _of_close(
        "macd_signal_12_26_9",
        lambda p: over_close(p, macd_signal(p)),
        34,
        f"Exponential mean of nine of the MACD line{_IN_CLOSE}",
        _APPEL,
        _DECAYING,
    ),
    _of_close(
        "macd_histogram_12_26_9",
        lambda p: over_close(p, macd(p) - macd_signal(p)),
        34,
        f"MACD line less its signal{_IN_CLOSE}",
        _APPEL,
        _DECAYING,
    ),
    _of_close(
        "apo_12_26",
        lambda p: over_close(p, close_mean(p, 12) - close_mean(p, 26)),
        26,
        f"Absolute price oscillator: mean of 12 less that of 26{_IN_CLOSE}",
        "TA-Lib APO; pandas-ta-classic apo",
    ),
    _of_close(
        "ppo_12_26_9",
        _price_oscillator,
        26,
        "Percentage price oscillator of plain means, in percent",
        "pandas-ta-classic ppo, TA-Lib PPO",
    ),
    _of_close(
        "ppo_signal_12_26_9",
        _price_oscillator_signal,
        34,
        "Exponential mean of nine of the percentage price oscillator, in percent",
        "pandas-ta-classic ppo",
        _DECAYING,
    ),
    _of_close(
        "ppo_histogram_12_26_9",
        lambda p: _price_oscillator(p) - _price_oscillator_signal(p),
        34,
        "Percentage price oscillator less its signal, in percent",
        "pandas-ta-classic ppo",
        _DECAYING,
    ),
    _of_close("roc_10", partial(_rate, bars=10), 11, "Rate of change, in percent", "TA-Lib ROC"),
    _of_close(
        "mom_10",
        lambda p: over_close(p, p.change(p["close"], 10)),
        11,
        f"Change of the close over 10 bars{_IN_CLOSE}",
        "TA-Lib MOM",
    ),
    _of_close(
        "tsi_13_25_13",
        lambda p: 100.0 * true_strength(p, 13, 25),
        38,
        "True strength index, -100 to 100",
        _BLAU,
        _DECAYING,
    ),
    _of_close(
        "tsi_signal_13_25_13",
        lambda p: 100.0 * true_strength_signal(p, 13, 25, 13),
        50,
        "Exponential mean of 13 of the true strength index, -100 to 100",
        _BLAU,
        _DECAYING,
    ),
    _of_close(
        "smi_5_20_5",
        lambda p: true_strength(p, 5, 20),
        25,
        "Ergodic indicator: true strength index of 5 and 20, -1 to 1",
        _BLAU,
        _DECAYING,
    ),
    _of_close(
        "smi_signal_5_20_5",
        lambda p: true_strength_signal(p, 5, 20, 5),
        29,
        "Exponential mean of five of the ergodic indicator, -1 to 1",
        _BLAU,
        _DECAYING,
    ),
    _of_close(
        "smi_oscillator_5_20_5",
        lambda p: true_strength(p, 5, 20) - true_strength_signal(p, 5, 20, 5),
        29,
        "Ergodic indicator less its signal",
        _BLAU,
        _DECAYING,
    ),
    _of_close(
        "cmo_14",
        _chande_momentum,
        15,
        "Chande momentum oscillator with Wilder's smoothing, -100 to 100",
        "Chande and Kroll (1994); TA-Lib CMO",
        _DECAYING,
    ),
    _of_close(
        "cmo_sum_14",
        lambda p: 100.0 * summed_change(p, 14),
        15,
        "Chande momentum oscillator of plain sums, -100 to 100",
        "Chande and Kroll (1994); pandas-ta-classic cmo(talib=False)",
    ),
    _of_close(
        "kst_10_15_20_30",
        know_sure_thing,
        45,
        "Know sure thing: four smoothed rates of change, in percent",
        "Pring (1992)",
    ),
    _of_close(
        "kst_signal_9",
        lambda p: p.mean(know_sure_thing(p), 9),
        53,
        "Mean of nine of the know sure thing, in percent",
        "Pring (1992)",
    ),
    _of_close(
        "coppock_10_11_14",
        lambda p: p.weighted_mean(_two_rates(p), 10),
        24,
        "Weighted mean of ten of two rates of change, in percent",
        "Coppock (1962)",
    ),
    _of_close(
        "cg_10",
        partial(_gravity, bars=10),
        10,
        "Ehlers' centre of gravity, -10 to -1",
        "Ehlers (2002)",
    ),
    _of_close(
        "er_10",
        partial(efficiency, bars=10),
        11,
        "Efficiency ratio: net move over path, 0 to 1",
        "Kaufman (1995)",
    ),
    _of_close(
        "cfo_9",
        lambda p: 100.0 * (1.0 - ratio(line_ahead(p, 9), p["close"])),
        9,
        "Close less the forecast of a line of 9 bars, percent of the close",
        "Chande and Kroll (1994)",
    ),
    _of_close(
        "cti_12",
        partial(_trend_correlation, bars=12),
        12,
        "Correlation of the close with time, -1 to 1",
        "Ehlers (2020)",
    ),
    _of_close(
        "psl_12",
        partial(_psychological_line, bars=12),
        13,
        "Share of bars that rose, 0 to 100",
        "pandas-ta-classic psl",
    ),
    _of_close(
        "po_14",
        lambda p: 100.0 * (ratio(p["close"], line_end(p, 14)) - 1.0),
        14,
        "Close over the end of a line of 14 bars, less one, in percent",
        "pandas-ta-classic po",
    ),
    _of_close(
        "inertia_20_14",
        inertia,
        46,
        "End of a line fitted to 20 relative volatility indices, 0 to 100",
        "Dorsey (1995)",
        _DECAYING,
    ),
)
