"""The registered features. Adding one is one expression and one line here.

All are invariant to a symbol's price scale and to its volume scale, so that the forward-adjusted
bars they are computed on give what back-adjusted ones would.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import polars as pl

from features.spec import Feature, Stage
from market.errors import FeatureError

_O, _H, _L, _C = pl.col("open"), pl.col("high"), pl.col("low"), pl.col("close")
_V, _W = pl.col("volume"), pl.col("vwap")
_R = _C / _C.shift(1) - 1.0
_BODY = _C / _O - 1.0
_VOL20 = _R.rolling_std(20)
_TYPICAL = _W.fill_null((_H + _L + _C) / 3.0)


def _positive(numerator: pl.Expr, denominator: pl.Expr) -> pl.Expr:
    """Divide, null where the denominator is not positive (never a made-up zero)."""
    return pl.when(denominator > 0).then(numerator / denominator)


def _zscore(name: str) -> pl.Expr:
    column = pl.col(name)
    return _positive(column - column.mean(), column.std())


def _rank(name: str) -> pl.Expr:
    column = pl.col(name)
    others = (column.count() - 1).cast(pl.Float64)
    return _positive(column.rank("average") - 1.0, others) - 0.5


def _momentum(bars: int) -> Feature:
    return Feature(
        f"return_{bars}",
        _C / _C.shift(bars) - 1.0,
        ("close",),
        bars + 1,
        Stage.TIME_SERIES,
        f"Return over {bars} bars",
        "Jegadeesh (1990); Jegadeesh and Titman (1993)",
    )


def _average_gap(bars: int) -> Feature:
    return Feature(
        f"sma_gap_{bars}",
        _positive(_C / _C.rolling_mean(bars) - 1.0, _VOL20),
        ("close",),
        max(bars, 21),
        Stage.TIME_SERIES,
        f"Distance from the {bars}-bar moving average in units of volatility",
        "Brock, Lakonishok and LeBaron (1992)",
    )


def _series(name: str, expression: pl.Expr, lookback: int, meaning: str, source: str) -> Feature:
    inputs = tuple(sorted(set(expression.meta.root_names())))
    return Feature(name, expression, inputs, lookback, Stage.TIME_SERIES, meaning, source)


def _cross(name: str, expression: pl.Expr, of: Feature, meaning: str, source: str) -> Feature:
    return Feature(name, expression, (of.name,), of.lookback, Stage.CROSS_SECTION, meaning, source)


def _cutler_rsi(bars: int) -> pl.Expr:
    change = _C / _C.shift(1) - 1.0
    up = change.clip(lower_bound=0.0).rolling_mean(bars)
    down = (-change).clip(lower_bound=0.0).rolling_mean(bars)
    return _positive(up, up + down)


_TIME_SERIES: tuple[Feature, ...] = (
    *(_momentum(n) for n in (1, 2, 5, 10, 20)),
    *(_average_gap(n) for n in (5, 10, 20)),
    _series("body", _BODY, 1, "Return from open to close", "candlestick body"),
    _series(
        "body_4",
        _positive(_BODY.rolling_sum(4), _BODY.rolling_std(20)),
        20,
        "Sum of the last four bodies in units of their volatility",
        "Lou, Polk and Skouras (2019), intraday component",
    ),
    _series(
        "gap", _O / _C.shift(1) - 1.0, 2, "Return from the last close to the open", "overnight gap"
    ),
    _series("range", _H / _L - 1.0, 1, "High over low", "Parkinson (1980)"),
    _series(
        "close_location",
        _positive(_C - _L, _H - _L),
        1,
        "Where the close lies between low and high, 0 to 1",
        "stochastic %K of one bar (Lane, 1984)",
    ),
    _series("volatility_20", _VOL20, 21, "Standard deviation of 20 returns", "close-to-close"),
    _series(
        "volatility_ratio",
        _positive(_R.rolling_std(5), _R.rolling_std(40)),
        41,
        "Volatility of 5 bars over that of 40",
        "volatility regime",
    ),
    _series("rsi_14", _cutler_rsi(14), 15, "Cutler's RSI, 0 to 1", "Wilder (1978), Cutler's form"),
    _series(
        "volume_ratio",
        # The maximum is exact where a rolling sum of zeros may keep a rounding residue.
        pl.when(_V.rolling_max(20) > 0).then(_V / _V.rolling_mean(20)),
        20,
        "Volume over its 20-bar mean",
        "Gervais, Kaniel and Mingelgrin (2001)",
    ),
    _series(
        "vwap_gap", _C / _TYPICAL - 1.0, 1, "Close over the bar's vwap", "Berkowitz et al. (1988)"
    ),
    _series(
        "drawdown_40",
        _C / _C.rolling_max(40) - 1.0,
        40,
        "Close under its 40-bar maximum",
        "George and Hwang (2004)",
    ),
    _series(
        "efficiency_10",
        _positive((_C / _C.shift(10) - 1.0).abs(), _R.abs().rolling_sum(10)),
        11,
        "Net move over path length in 10 bars",
        "Kaufman (1995)",
    ),
)
_BY_NAME = {f.name: f for f in _TIME_SERIES}


def _relative(name: str) -> Feature:
    return _cross(
        f"{name}_z",
        _zscore(name),
        _BY_NAME[name],
        f"{name} against all symbols at that time, in standard deviations",
        "cross-sectional standardisation",
    )


_CROSS_SECTION: tuple[Feature, ...] = (
    *(_relative(n) for n in ("return_1", "return_5", "return_20")),
    *(_relative(n) for n in ("sma_gap_5", "sma_gap_10", "sma_gap_20", "body_4")),
    _cross(
        "volatility_rank",
        _rank("volatility_20"),
        _BY_NAME["volatility_20"],
        "Rank of volatility among all symbols, -0.5 to 0.5",
        "Ang, Hodrick, Xing and Zhang (2006)",
    ),
    _cross(
        "volume_rank",
        _rank("volume_ratio"),
        _BY_NAME["volume_ratio"],
        "Rank of relative volume among all symbols, -0.5 to 0.5",
        "Gervais, Kaniel and Mingelgrin (2001)",
    ),
    _cross(
        "dispersion",
        pl.col("return_1").std(),
        _BY_NAME["return_1"],
        "Standard deviation of returns across symbols",
        "cross-sectional dispersion",
    ),
    _cross(
        "breadth",
        (pl.col("sma_gap_20") > 0).mean(),
        _BY_NAME["sma_gap_20"],
        "Share of symbols above their 20-bar average",
        "market breadth",
    ),
)

REGISTRY: tuple[Feature, ...] = (*_TIME_SERIES, *_CROSS_SECTION)


def feature_names() -> list[str]:
    """Return the names of all registered features, in column order."""
    return [f.name for f in REGISTRY]


def select_features(names: Sequence[str] | None = None) -> tuple[Feature, ...]:
    """Return features by name (all when ``None``), in registry order.

    Raises
    ------
    FeatureError
        On an unknown name; the message suggests near ones.

    Examples
    --------
    >>> [f.name for f in select_features(["gap", "body"])]
    ['body', 'gap']
    """
    if names is None:
        return REGISTRY
    known = feature_names()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known[:5]
            raise FeatureError(
                "unknown feature",
                got=name,
                allowed=f"{len(known)} registered features",
                remedy=f"did you mean {', '.join(near)}?",
            )
    wanted = set(names)
    return tuple(f for f in REGISTRY if f.name in wanted)
