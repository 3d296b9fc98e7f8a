"""The Alpha158 set of Microsoft's Qlib, with its names and values.

Source of every definition: Yang, Liu, Zhou, Bian and Liu (2020), "Qlib: An AI-oriented
Quantitative Investment Platform", and pyqlib 0.9.7, against whose values these are tested. Two
differences are on purpose. Where pyqlib divides by nothing plus 1e-12 (a bar without range, no
volume, no move in the window), the value is null here. And a value needs its whole window: what
pyqlib makes of the first few bars is null.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from features.core import returns, typical_price
from features.kernels import Values
from features.panel import Panel, ratio, shared
from features.spec import Feature, Stage

FAMILY = "alpha158"
WINDOWS = (5, 10, 20, 30, 60)
_SOURCE = "Yang et al. (2020), Qlib Alpha158"


@shared
def _range(p: Panel) -> Values:
    return p["high"] - p["low"]


@shared
def _top(p: Panel) -> Values:
    return np.maximum(p["open"], p["close"])


@shared
def _bottom(p: Panel) -> Values:
    return np.minimum(p["open"], p["close"])


@shared
def _log_volume(p: Panel) -> Values:
    return np.log(p["volume"] + 1.0)


@shared
def _close_ratio(p: Panel) -> Values:
    return p["close"] / p.lag(p["close"], 1)


@shared
def _log_volume_ratio(p: Panel) -> Values:
    return np.log(ratio(p["volume"], p.lag(p["volume"], 1)) + 1.0)


@shared
def _weighted_move(p: Panel) -> Values:
    return np.abs(returns(p)) * p["volume"]


@shared
def _indicator(p: Panel, up: bool) -> Values:
    move = p.change(p["close"])
    hit = (move > 0) if up else (move < 0)
    return np.where(np.isnan(move), np.nan, hit)


@shared
def _moves(p: Panel, column: str, part: str) -> Values:
    move = p.change(p[column])
    if part == "up":
        return np.maximum(move, 0.0)
    return np.maximum(-move, 0.0) if part == "down" else np.abs(move)


def _over_close(p: Panel, values: Values) -> Values:
    return ratio(values, p["close"])


def _extreme(p: Panel, d: int, high: bool) -> Values:
    return p.max(p["high"], d) if high else p.min(p["low"], d)


def _position(p: Panel, d: int, high: bool) -> Values:
    # 1 is the oldest bar of the window, d the current one.
    since = p.bars_since_max(p["high"], d) if high else p.bars_since_min(p["low"], d)
    return d - since


def _rsv(p: Panel, d: int) -> Values:
    low = _extreme(p, d, high=False)
    return ratio(p["close"] - low, _extreme(p, d, high=True) - low)


def _share(p: Panel, d: int, column: str, part: str) -> Values:
    return ratio(p.sum(_moves(p, column, part), d), p.sum(_moves(p, column, "all"), d))


def _difference(p: Panel, d: int, column: str) -> Values:
    up, down = (p.sum(_moves(p, column, part), d) for part in ("up", "down"))
    return ratio(up - down, p.sum(_moves(p, column, "all"), d))


def _count(p: Panel, d: int, up: bool) -> Values:
    # A sum of zeros and ones is exact; so a difference of two is zero where they are as many.
    return p.sum(_indicator(p, up), d)


Make = Callable[[Panel, int], Values]

_OHLC = ("close", "high", "low", "open")
_BARS: tuple[tuple[str, Callable[[Panel], Values], tuple[str, ...], str], ...] = (
    ("KMID", lambda p: ratio(p["close"] - p["open"], p["open"]), ("close", "open"), "Body"),
    ("KLEN", lambda p: ratio(_range(p), p["open"]), ("high", "low", "open"), "Range"),
    ("KMID2", lambda p: ratio(p["close"] - p["open"], _range(p)), _OHLC, "Body over range"),
    (
        "KUP",
        lambda p: ratio(p["high"] - _top(p), p["open"]),
        ("close", "high", "open"),
        "Upper shadow",
    ),
    ("KUP2", lambda p: ratio(p["high"] - _top(p), _range(p)), _OHLC, "Upper shadow over range"),
    (
        "KLOW",
        lambda p: ratio(_bottom(p) - p["low"], p["open"]),
        ("close", "low", "open"),
        "Lower shadow",
    ),
    ("KLOW2", lambda p: ratio(_bottom(p) - p["low"], _range(p)), _OHLC, "Lower shadow over range"),
    (
        "KSFT",
        lambda p: ratio(2 * p["close"] - p["high"] - p["low"], p["open"]),
        _OHLC,
        "Where the close lies",
    ),
    (
        "KSFT2",
        lambda p: ratio(2 * p["close"] - p["high"] - p["low"], _range(p)),
        ("close", "high", "low"),
        "Where the close lies, over range",
    ),
    ("OPEN0", lambda p: _over_close(p, p["open"]), ("close", "open"), "Open over close"),
    ("HIGH0", lambda p: _over_close(p, p["high"]), ("close", "high"), "High over close"),
    ("LOW0", lambda p: _over_close(p, p["low"]), ("close", "low"), "Low over close"),
    (
        "VWAP0",
        lambda p: _over_close(p, typical_price(p)),
        ("close", "high", "low", "vwap"),
        "Vwap over close",
    ),
)

# Name, function, columns, bars needed beyond the window, meaning.
_ROLLING: tuple[tuple[str, Make, tuple[str, ...], int, str], ...] = (
    (
        "ROC",
        lambda p, d: _over_close(p, p.lag(p["close"], d)),
        ("close",),
        1,
        "Close {d} bars ago over close",
    ),
    (
        "MA",
        lambda p, d: _over_close(p, p.mean(p["close"], d)),
        ("close",),
        0,
        "Mean close of {d} bars over close",
    ),
    (
        "STD",
        lambda p, d: _over_close(p, p.std(p["close"], d)),
        ("close",),
        0,
        "Deviation of {d} closes over close",
    ),
    (
        "BETA",
        lambda p, d: _over_close(p, p.trend(p["close"], d)[0]),
        ("close",),
        0,
        "Slope of {d} closes over close",
    ),
    (
        "RSQR",
        lambda p, d: p.trend(p["close"], d)[1],
        ("close",),
        0,
        "R squared of the line through {d} closes",
    ),
    (
        "RESI",
        lambda p, d: _over_close(p, p.trend(p["close"], d)[2]),
        ("close",),
        0,
        "Distance from the line through {d} closes, over close",
    ),
    (
        "MAX",
        lambda p, d: _over_close(p, _extreme(p, d, True)),
        ("close", "high"),
        0,
        "Highest high of {d} bars over close",
    ),
    (
        "MIN",
        lambda p, d: _over_close(p, _extreme(p, d, False)),
        ("close", "low"),
        0,
        "Lowest low of {d} bars over close",
    ),
    (
        "QTLU",
        lambda p, d: _over_close(p, p.order(p["close"], d)[1]),
        ("close",),
        0,
        "80 percent quantile of {d} closes over close",
    ),
    (
        "QTLD",
        lambda p, d: _over_close(p, p.order(p["close"], d)[0]),
        ("close",),
        0,
        "20 percent quantile of {d} closes over close",
    ),
    (
        "RANK",
        lambda p, d: p.order(p["close"], d)[2] / d,
        ("close",),
        0,
        "Rank of the close among {d}, up to 1",
    ),
    ("RSV", _rsv, ("close", "high", "low"), 0, "Where the close lies in the range of {d} bars"),
    (
        "IMAX",
        lambda p, d: _position(p, d, True) / d,
        ("high",),
        0,
        "Place of the highest high in {d} bars, 1 is now",
    ),
    (
        "IMIN",
        lambda p, d: _position(p, d, False) / d,
        ("low",),
        0,
        "Place of the lowest low in {d} bars, 1 is now",
    ),
    (
        "IMXD",
        lambda p, d: (_position(p, d, True) - _position(p, d, False)) / d,
        ("high", "low"),
        0,
        "How much later the high of {d} bars is than the low",
    ),
    (
        "CORR",
        lambda p, d: p.correlation(p["close"], _log_volume(p), d),
        ("close", "volume"),
        0,
        "Correlation of close and log volume over {d} bars",
    ),
    (
        "CORD",
        lambda p, d: p.correlation(_close_ratio(p), _log_volume_ratio(p), d),
        ("close", "volume"),
        1,
        "Correlation of the changes of close and log volume over {d} bars",
    ),
    ("CNTP", lambda p, d: _count(p, d, True) / d, ("close",), 1, "Share of rises in {d} bars"),
    ("CNTN", lambda p, d: _count(p, d, False) / d, ("close",), 1, "Share of falls in {d} bars"),
    (
        "CNTD",
        lambda p, d: (_count(p, d, True) - _count(p, d, False)) / d,
        ("close",),
        1,
        "Rises less falls in {d} bars",
    ),
    (
        "SUMP",
        partial(_share, column="close", part="up"),
        ("close",),
        1,
        "Gains over all moves in {d} bars",
    ),
    (
        "SUMN",
        partial(_share, column="close", part="down"),
        ("close",),
        1,
        "Losses over all moves in {d} bars",
    ),
    (
        "SUMD",
        partial(_difference, column="close"),
        ("close",),
        1,
        "Gains less losses over all moves in {d} bars",
    ),
    (
        "VMA",
        lambda p, d: ratio(p.mean(p["volume"], d), p["volume"]),
        ("volume",),
        0,
        "Mean volume of {d} bars over volume",
    ),
    (
        "VSTD",
        lambda p, d: ratio(p.std(p["volume"], d), p["volume"]),
        ("volume",),
        0,
        "Deviation of {d} volumes over volume",
    ),
    (
        "WVMA",
        lambda p, d: ratio(p.std(_weighted_move(p), d), p.mean(_weighted_move(p), d)),
        ("close", "volume"),
        1,
        "Unevenness of volume-weighted moves in {d} bars",
    ),
    (
        "VSUMP",
        partial(_share, column="volume", part="up"),
        ("volume",),
        1,
        "Rises of volume over all its changes in {d} bars",
    ),
    (
        "VSUMN",
        partial(_share, column="volume", part="down"),
        ("volume",),
        1,
        "Falls of volume over all its changes in {d} bars",
    ),
    (
        "VSUMD",
        partial(_difference, column="volume"),
        ("volume",),
        1,
        "Rises less falls of volume over all its changes in {d} bars",
    ),
)


def _feature(
    name: str,
    compute: Callable[[Panel], Values],
    inputs: tuple[str, ...],
    lookback: int,
    meaning: str,
) -> Feature:
    return Feature(
        name, compute, inputs, lookback, Stage.TIME_SERIES, meaning, _SOURCE, family=FAMILY
    )


FEATURES: tuple[Feature, ...] = (
    *(_feature(name, compute, inputs, 1, text) for name, compute, inputs, text in _BARS),
    *(
        _feature(f"{name}{d}", partial(make, d=d), inputs, d + more, text.format(d=d))
        for name, make, inputs, more, text in _ROLLING
        for d in WINDOWS
    ),
)
