"""Indicators of volume and money flow.

Those that add up since the start of history depend on it for ever; each has a windowed sister
that does not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from features import kernels
from features.kernels import Values
from features.panel import Panel, empty, ratio, shared
from features.spec import Feature, Memory, Scope
from features.technical_averages import volume_weighted
from features.technical_prices import (
    CLOSE_VOLUME,
    HIGH_LOW_CLOSE,
    HIGH_LOW_CLOSE_VOLUME,
    VOLUME,
    bar_range,
    close_change,
    distance,
    mean_volume,
    median_price,
    over_close,
    over_volume,
    technical,
    typical_price,
)
from market.schema import Bar


@shared
def signed_volume(p: Panel) -> Values:
    """Return the volume of rises less that of falls; none on a group's first bar."""
    return np.sign(close_change(p)) * p["volume"]


@shared
def on_balance(p: Panel) -> Values:
    """Return Granville's on-balance volume, from the first bar's volume on."""
    # A checkpoint's state already holds the first bar, so only a whole run sees it.
    flow, first = signed_volume(p).copy(), p.offsets[:-1][np.diff(p.offsets) > 0]
    flow[first] = p["volume"][first]
    return p.running_sum("technical.obv", np.where(np.isfinite(p["close"]), flow, np.nan))


@shared
def money_flow_volume(p: Panel) -> Values:
    """Return Chaikin's volume times the close's place in the range; a bar without one adds none."""
    span = bar_range(p)
    place = ratio(2.0 * p["close"] - p["high"] - p["low"], span)
    return np.where(span == 0.0, 0.0 * p["close"], place) * p["volume"]


@shared
def accumulation(p: Panel) -> Values:
    """Return Chaikin's accumulation and distribution line."""
    return p.running_sum("technical.ad", money_flow_volume(p))


def accumulation_oscillator(p: Panel) -> Values:
    """Return Chaikin's oscillator of 3 and 10, both means seeded with the first value."""
    line = accumulation(p)
    fast = p.exponential("technical.adosc.fast", line, 2.0 / 4.0)
    return fast - p.exponential("technical.adosc.slow", line, 2.0 / 11.0)


@shared
def force(p: Panel) -> Values:
    """Return Elder's force: change of the close times volume."""
    return close_change(p) * p["volume"]


def _force_index(p: Panel) -> Values:
    return over_close(p, over_volume(p, p.ema("technical.efi", force(p), 13)))


@shared
def _ease(p: Panel) -> Values:
    return ratio(p.change(median_price(p)) * bar_range(p), p["volume"])


def _in_squared_bps(p: Panel, ease: Values) -> Values:
    return 1e8 * ease * ratio(mean_volume(p), p["close"] * p["close"])


@shared
def session_vwap(p: Panel) -> Values:
    """Return the volume-weighted mean of typical prices since the session's open."""
    sessions = p.session_offsets
    sums: list[Values] = []
    for x in (typical_price(p) * p["volume"], p["volume"]):
        # A missing price adds nothing, and neither does its volume.
        x = np.where(np.isfinite(typical_price(p)), x, np.nan)
        out, state = empty(p.rows), np.zeros((len(sessions) - 1, 1))
        kernels.running_sum(x, sessions, sessions[:-1], state, sessions[1:] - 1, state.copy(), out)
        sums.append(out)
    return ratio(sums[0], sums[1])


def _rolling_vwap(p: Panel) -> Values:
    turnover = p.sum(typical_price(p) * p["volume"], 20)
    return distance(p, ratio(turnover, p.sum(p["volume"], 20)))


def _money_flow_index(p: Panel) -> Values:
    price = typical_price(p)
    change, flow = p.change(price), price * p["volume"]
    known = np.where(np.isfinite(change), flow, np.nan)
    up = p.sum(np.where(change > 0, known, known * 0.0), 14)
    down = p.sum(np.where(change < 0, known, known * 0.0), 14)
    return 100.0 * ratio(up, up + down)


@shared
def _percent_volume(p: Panel) -> Values:
    return 100.0 * p.growth(p["close"]) * p["volume"]


@shared
def _returns_where(p: Panel, sign: float) -> Values:
    change = p.change(p["volume"]) * sign
    growth = 100.0 * p.growth(p["close"])
    return np.where(np.isfinite(change), np.where(change > 0, growth, 0.0 * growth), np.nan)


@shared
def volume_index(p: Panel, sign: float) -> Values:
    """Return the sum of returns where volume rose (1: positive) or fell (-1: negative index)."""
    return p.running_sum(f"technical.volume_index.{sign:+.0f}", _returns_where(p, sign))


@shared
def _klinger(p: Panel) -> Values:
    flow = np.sign(p.change(typical_price(p))) * p["volume"]
    return p.ema("technical.kvo.34", flow, 34) - p.ema("technical.kvo.55", flow, 55)


@shared
def _percent_oscillator(p: Panel) -> Values:
    fast = p.ema("technical.ema.volume.12", p["volume"], 12)
    return 100.0 * (ratio(fast, p.ema("technical.ema.volume.26", p["volume"], 26)) - 1.0)


@shared
def _percent_oscillator_signal(p: Panel) -> Values:
    return p.ema("technical.pvo.signal", _percent_oscillator(p), 9)


@shared
def _williams_flow(p: Panel) -> Values:
    close, before = p["close"], p.lag(p["close"], 1)
    up, down = close - np.minimum(p["low"], before), close - np.maximum(p["high"], before)
    flow = np.where(close > before, up, np.where(close < before, down, 0.0))
    return np.where(np.isfinite(up + down), flow, np.nan)


@shared
def _weighted_macd(p: Panel) -> Values:
    return volume_weighted(p, 12) - volume_weighted(p, 26)


@shared
def _weighted_macd_signal(p: Panel) -> Values:
    turnover = _weighted_macd(p) * p["volume"]
    return ratio(p.sum(turnover, 9), p.sum(p["volume"], 9))


_DECAYING, _CUMULATIVE = Memory.DECAYING, Memory.CUMULATIVE
_UNIT = ", in mean volumes of 20 bars"
_CHAIKIN = "Chaikin; TA-Lib AD, ADOSC; pandas-ta-classic"


def _volume(
    name: str,
    compute: Callable[[Panel], Values],
    lookback: int,
    meaning: str,
    source: str,
    memory: Memory = Memory.WINDOW,
    inputs: tuple[str, ...] = CLOSE_VOLUME,
) -> Feature:
    return technical(name, compute, inputs, lookback, meaning, source, memory)


SUMS: tuple[Feature, ...] = (
    _volume(
        "obv",
        lambda p: over_volume(p, on_balance(p)),
        20,
        f"On-balance volume since the start of history{_UNIT}",
        "Granville (1963)",
        _CUMULATIVE,
    ),
    _volume(
        "obv_change_20",
        lambda p: ratio(p.sum(signed_volume(p), 20), p.sum(p["volume"], 20)),
        21,
        "On-balance volume's change over 20 bars, in their volume, -1 to 1",
        "Granville (1963), windowed",
    ),
    _volume(
        "ad",
        lambda p: over_volume(p, accumulation(p)),
        20,
        f"Accumulation and distribution since the start of history{_UNIT}",
        _CHAIKIN,
        _CUMULATIVE,
        HIGH_LOW_CLOSE_VOLUME,
    ),
    _volume(
        "cmf_20",
        lambda p: ratio(p.sum(money_flow_volume(p), 20), p.sum(p["volume"], 20)),
        20,
        "Chaikin money flow: accumulation's change over 20 bars, in their volume, -1 to 1",
        _CHAIKIN,
        inputs=HIGH_LOW_CLOSE_VOLUME,
    ),
    _volume(
        "adosc_3_10",
        lambda p: over_volume(p, accumulation_oscillator(p)),
        20,
        f"Fast less slow exponential mean of accumulation and distribution{_UNIT}",
        _CHAIKIN,
        _DECAYING,
        HIGH_LOW_CLOSE_VOLUME,
    ),
    _volume(
        "pvt",
        lambda p: over_volume(p, p.running_sum("technical.pvt", _percent_volume(p))),
        20,
        f"Price volume trend, percent times volume since the start of history{_UNIT}",
        "pandas-ta-classic pvt",
        _CUMULATIVE,
    ),
    _volume(
        "pvt_change_20",
        lambda p: ratio(p.sum(_percent_volume(p), 20), p.sum(p["volume"], 20)),
        21,
        "Price volume trend's change over 20 bars, in their volume: a mean return, percent",
        "pandas-ta-classic pvt, windowed",
    ),
    *(
        feature
        for name, title, sign in (("nvi", "fell", -1.0), ("pvi", "rose", 1.0))
        for feature in (
            _volume(
                f"{name}_1",
                lambda p, sign=sign: volume_index(p, sign),
                2,
                f"Sum since the start of history of returns of bars whose volume {title}, percent "
                "(pandas-ta-classic's less its first value of 1000)",
                "Fosback (1976)",
                _CUMULATIVE,
            ),
            _volume(
                f"{name}_change_20",
                lambda p, sign=sign: p.sum(_returns_where(p, sign), 20),
                21,
                f"Sum over 20 bars of returns of bars whose volume {title}, percent",
                "Fosback (1976), windowed",
            ),
        )
    ),
    _volume(
        "wad",
        lambda p: over_close(p, p.running_sum("technical.wad", _williams_flow(p))),
        2,
        "Williams' accumulation since the start of history, in units of the close",
        "Williams (1972)",
        _CUMULATIVE,
        HIGH_LOW_CLOSE,
    ),
    _volume(
        "wad_change_20",
        lambda p: over_close(p, p.sum(_williams_flow(p), 20)),
        21,
        "Williams' accumulation over 20 bars, in units of the close",
        "Williams (1972), windowed",
        inputs=HIGH_LOW_CLOSE,
    ),
)

FLOWS: tuple[Feature, ...] = (
    _volume(
        "efi_13",
        _force_index,
        20,
        "Force index: exponential mean of change times volume, in closes times mean volumes",
        "Elder (1993)",
        _DECAYING,
    ),
    _volume(
        "eom_14",
        lambda p: _in_squared_bps(p, p.mean(_ease(p), 14)),
        20,
        "Ease of movement: mean of move times range over relative volume, in squared bps",
        "Arms (1989); pandas-ta-classic eom",
        inputs=HIGH_LOW_CLOSE_VOLUME,
    ),
    _volume(
        "emv",
        lambda p: _in_squared_bps(p, _ease(p)),
        20,
        "Ease of movement of one bar: move times range over relative volume, in squared bps",
        "Arms (1989); pandas-ta-classic emv",
        inputs=HIGH_LOW_CLOSE_VOLUME,
    ),
    _volume(
        "marketfi",
        lambda p: ratio(over_close(p, bar_range(p)), over_volume(p, p["volume"])),
        20,
        "Market facilitation: range in units of the close over volume in mean volumes",
        "Williams (1995)",
        inputs=HIGH_LOW_CLOSE_VOLUME,
    ),
    technical(
        "vwap_session",
        lambda p: distance(p, session_vwap(p)),
        (*HIGH_LOW_CLOSE_VOLUME, Bar.SESSION.value),
        1,
        "Distance of the close above the session's vwap so far, in units of the close",
        "Berkowitz et al. (1988); pandas-ta-classic vwap",
        Memory.SESSION,
        Scope.INTRADAY,
    ),
    _volume(
        "vwap_20",
        _rolling_vwap,
        20,
        "Distance of the close above the vwap of 20 bars, in units of the close",
        "Berkowitz et al. (1988)",
        inputs=HIGH_LOW_CLOSE_VOLUME,
    ),
    _volume(
        "mfi_14",
        _money_flow_index,
        15,
        "Money flow index: share of turnover on rising bars, 0 to 100",
        "Quong and Soudack (1989); TA-Lib MFI",
        inputs=HIGH_LOW_CLOSE_VOLUME,
    ),
    _volume(
        "kvo_34_55",
        lambda p: over_volume(p, _klinger(p)),
        56,
        f"Klinger's oscillator: two exponential means of signed volume{_UNIT}",
        "Klinger (1997), pandas-ta-classic kvo",
        _DECAYING,
        HIGH_LOW_CLOSE_VOLUME,
    ),
    _volume(
        "kvo_signal_34_55_13",
        lambda p: over_volume(p, p.ema("technical.kvo.signal", _klinger(p), 13)),
        68,
        f"Exponential mean of 13 of Klinger's oscillator{_UNIT}",
        "Klinger (1997), pandas-ta-classic kvo",
        _DECAYING,
        HIGH_LOW_CLOSE_VOLUME,
    ),
    _volume(
        "pvo_12_26_9",
        _percent_oscillator,
        26,
        "Percentage volume oscillator, in percent",
        "pandas-ta-classic pvo",
        _DECAYING,
        VOLUME,
    ),
    _volume(
        "pvo_signal_12_26_9",
        _percent_oscillator_signal,
        34,
        "Exponential mean of nine of the percentage volume oscillator, in percent",
        "pandas-ta-classic pvo",
        _DECAYING,
        VOLUME,
    ),
    _volume(
        "pvo_histogram_12_26_9",
        lambda p: _percent_oscillator(p) - _percent_oscillator_signal(p),
        34,
        "Percentage volume oscillator less its signal, in percent",
        "pandas-ta-classic pvo",
        _DECAYING,
        VOLUME,
    ),
    _volume(
        "vosc_14_28",
        lambda p: 100.0 * (ratio(p.mean(p["volume"], 14), p.mean(p["volume"], 28)) - 1.0),
        28,
        "Volume oscillator: mean of 14 over mean of 28, less one, in percent",
        "pandas-ta-classic vosc",
        inputs=VOLUME,
    ),
    *(
        _volume(name, compute, lookback, meaning, "Hawkins; pandas-ta-classic vwmacd")
        for name, compute, lookback, meaning in (
            (
                "vwmacd_12_26_9",
                lambda p: over_close(p, _weighted_macd(p)),
                26,
                "Volume-weighted mean of 12 less that of 26, in units of the close",
            ),
            (
                "vwmacd_signal_12_26_9",
                lambda p: over_close(p, _weighted_macd_signal(p)),
                34,
                "Volume-weighted mean of nine of the volume-weighted MACD, in units of the close",
            ),
            (
                "vwmacd_histogram_12_26_9",
                lambda p: over_close(p, _weighted_macd(p) - _weighted_macd_signal(p)),
                34,
                "Volume-weighted MACD less its signal, in units of the close",
            ),
        )
    ),
)

FEATURES: tuple[Feature, ...] = (*SUMS, *FLOWS)
