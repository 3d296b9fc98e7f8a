"""The core set: a few dozen plain, scale-free features that every horizon starts from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from features.kernels import Values
from features.panel import Panel, ratio, shared
from features.spec import Feature, Stage

FAMILY = "core"


@shared
def returns(p: Panel) -> Values:
    """Return each bar's return from the close before, a fraction."""
    return p.growth(p["close"])


@shared
def body(p: Panel) -> Values:
    """Return each bar's return from open to close."""
    return p["close"] / p["open"] - 1.0


@shared
def typical_price(p: Panel) -> Values:
    """Return the bar's vwap, or where there is none the mean of high, low and close."""
    vwap = p["vwap"]
    return np.where(np.isfinite(vwap), vwap, (p["high"] + p["low"] + p["close"]) / 3.0)


@shared
def volatility(p: Panel, bars: int) -> Values:
    """Return the standard deviation of returns, a fraction per bar."""
    return p.std(returns(p), bars)


def _momentum(p: Panel, bars: int) -> Values:
    return p.growth(p["close"], bars)


def _average_gap(p: Panel, bars: int) -> Values:
    return ratio(p["close"] / p.mean(p["close"], bars) - 1.0, volatility(p, 20))


def _body_4(p: Panel) -> Values:
    return ratio(p.sum(body(p), 4), p.std(body(p), 20))


def _gap(p: Panel) -> Values:
    return p["open"] / p.lag(p["close"], 1) - 1.0


def _close_location(p: Panel) -> Values:
    return ratio(p["close"] - p["low"], p["high"] - p["low"])


def _volatility_ratio(p: Panel) -> Values:
    return ratio(volatility(p, 5), volatility(p, 40))


def _cutler_rsi(p: Panel, bars: int) -> Values:
    up = p.mean(p.shared("gains", lambda: np.maximum(returns(p), 0.0)), bars)
    down = p.mean(p.shared("losses", lambda: np.maximum(-returns(p), 0.0)), bars)
    return ratio(up, up + down)


def _volume_ratio(p: Panel) -> Values:
    return ratio(p["volume"], p.mean(p["volume"], 20))


def _drawdown(p: Panel) -> Values:
    return p["close"] / p.max(p["close"], 40) - 1.0


def _efficiency(p: Panel) -> Values:
    path = p.sum(p.shared("absolute_returns", lambda: np.abs(returns(p))), 10)
    return ratio(np.abs(p.growth(p["close"], 10)), path)


def _series(
    name: str,
    compute: Callable[[Panel], Values],
    inputs: tuple[str, ...],
    lookback: int,
    meaning: str,
    source: str,
) -> Feature:
    return Feature(
        name, compute, inputs, lookback, Stage.TIME_SERIES, meaning, source, family=FAMILY
    )


_CLOSE = ("close",)

FEATURES: tuple[Feature, ...] = (
    *(
        _series(
            f"return_{n}",
            partial(_momentum, bars=n),
            _CLOSE,
            n + 1,
            f"Return over {n} bars",
            "Jegadeesh (1990); Jegadeesh and Titman (1993)",
        )
        for n in (1, 2, 5, 10, 20)
    ),
    *(
        _series(
            f"sma_gap_{n}",
            partial(_average_gap, bars=n),
            _CLOSE,
            max(n, 21),
            f"Distance from the {n}-bar moving average in units of volatility",
            "Brock, Lakonishok and LeBaron (1992)",
        )
        for n in (5, 10, 20)
    ),
    _series("body", body, ("close", "open"), 1, "Return from open to close", "candlestick body"),
    _series(
        "body_4",
        _body_4,
        ("close", "open"),
        20,
        "Sum of the last four bodies in units of their volatility",
        "Lou, Polk and Skouras (2019), intraday component",
    ),
    _series(
        "gap", _gap, ("close", "open"), 2, "Return from the last close to the open", "overnight gap"
    ),
    _series(
        "range",
        lambda p: p["high"] / p["low"] - 1.0,
        ("high", "low"),
        1,
        "High over low",
        "Parkinson (1980)",
    ),
    _series(
        "close_location",
        _close_location,
        ("close", "high", "low"),
        1,
        "Where the close lies between low and high, 0 to 1",
        "stochastic %K of one bar (Lane, 1984)",
    ),
    _series(
        "volatility_20",
        partial(volatility, bars=20),
        _CLOSE,
        21,
        "Standard deviation of 20 returns",
        "close-to-close",
    ),
    _series(
        "volatility_ratio",
        _volatility_ratio,
        _CLOSE,
        41,
        "Volatility of 5 bars over that of 40",
        "volatility regime",
    ),
    _series(
        "rsi_14_cutler",
        partial(_cutler_rsi, bars=14),
        _CLOSE,
        15,
        "Cutler's RSI, 0 to 1",
        "Wilder (1978), Cutler's form",
    ),
    _series(
        "volume_ratio",
        _volume_ratio,
        ("volume",),
        20,
        "Volume over its 20-bar mean",
        "Gervais, Kaniel and Mingelgrin (2001)",
    ),
    _series(
        "vwap_gap",
        lambda p: p["close"] / typical_price(p) - 1.0,
        ("close", "high", "low", "vwap"),
        1,
        "Close over the bar's vwap",
        "Berkowitz et al. (1988)",
    ),
    _series(
        "drawdown_40",
        _drawdown,
        _CLOSE,
        40,
        "Close under its 40-bar maximum",
        "George and Hwang (2004)",
    ),
    _series(
        "efficiency_10",
        _efficiency,
        _CLOSE,
        11,
        "Net move over path length in 10 bars",
        "Kaufman (1995)",
    ),
)
