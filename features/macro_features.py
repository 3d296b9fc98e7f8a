"""Volatility index and yield curve: the same for all symbols, each from when it was known."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial

import numpy as np
import polars as pl

from features.as_of import before, in_order, padded, series, windows
from features.kernels import Values
from features.panel import ratio
from features.side import SideTables
from features.spec import Feature, Stage
from market.schema import Bar, IndexBar, Yield

FAMILY = "macro"
STALE = dt.timedelta(days=10)
VIX, VIX_3_MONTHS = "VIX", "VIX3M"
_YEAR, _QUARTER = 252, 63
_HORIZONS = (1, 5, 20)

Curve = dict[str, Values]


def _index(side: SideTables, symbol: str) -> pl.DataFrame:
    table = side.indices
    if table is None:
        return pl.DataFrame()
    own = table.filter(pl.col(IndexBar.SYMBOL) == symbol)
    return in_order(own, IndexBar.SESSION)


def _of_vix(side: SideTables, compute: Callable[[Values], Values]) -> pl.DataFrame | None:
    table = side.shared("vix", lambda: _index(side, VIX))
    if table.is_empty():
        return None
    closes = _floats(table[IndexBar.CLOSE])
    return series(table, compute(closes), STALE)


def _floats(column: pl.Series) -> Values:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _level(closes: Values) -> Values:
    return closes / 100.0


def _change(closes: Values, sessions: int) -> Values:
    return ratio(closes, before(closes, sessions)) - 1.0


def _percentile(closes: Values) -> Values:
    last = windows(closes, _YEAR)
    below = (last < last[:, -1:]).sum(axis=1)
    same = (last == last[:, -1:]).sum(axis=1) - 1
    share = np.where(np.isfinite(last).all(axis=1), (below + 0.5 * same) / (_YEAR - 1), np.nan)
    return padded(share, len(closes))


def _over_quarter(closes: Values) -> Values:
    mean = padded(windows(closes, _QUARTER).mean(axis=1), len(closes))
    return ratio(closes, mean) - 1.0


def _term(side: SideTables) -> pl.DataFrame | None:
    near, far = _index(side, VIX), _index(side, VIX_3_MONTHS)
    if near.is_empty() or far.is_empty():
        return None
    later = far.select(IndexBar.SESSION, far=IndexBar.CLOSE, far_known_at=IndexBar.KNOWN_AT)
    both = near.join(later, on=IndexBar.SESSION).with_columns(
        pl.max_horizontal(IndexBar.KNOWN_AT, "far_known_at").alias(Bar.KNOWN_AT)
    )
    both = in_order(both, IndexBar.SESSION)
    return series(both, _floats(both[IndexBar.CLOSE] / both["far"] - 1.0), STALE)


def _of_curve(side: SideTables, compute: Callable[[Curve], Values]) -> pl.DataFrame | None:
    table = side.yields
    if table is None or table.is_empty():
        return None
    known = side.shared("yields", lambda: in_order(table, Yield.DATE))
    names = (Yield.MONTH_3, Yield.YEAR_2, Yield.YEAR_5, Yield.YEAR_10)
    return series(known, compute({n: _floats(known[n]) for n in names}), STALE)


def _ten_years(curve: Curve) -> Values:
    return curve[Yield.YEAR_10]


def _slope(curve: Curve, short: str) -> Values:
    return curve[Yield.YEAR_10] - curve[short]


def _curvature(curve: Curve) -> Values:
    return 2.0 * curve[Yield.YEAR_5] - curve[Yield.YEAR_2] - curve[Yield.YEAR_10]


def _moved(curve: Curve, of: Callable[[Curve], Values], dates: int) -> Values:
    now = of(curve)
    return now - before(now, dates)


_SLOPE_2 = partial(_slope, short=Yield.YEAR_2.value)
_SLOPE_3M = partial(_slope, short=Yield.MONTH_3.value)


def _macro(
    name: str,
    compute: Callable[[SideTables], pl.DataFrame | None],
    table: str,
    meaning: str,
    source: str,
) -> Feature:
    return Feature(name, compute, (table,), 1, Stage.AS_OF, meaning, source, family=FAMILY)


def _vix(name: str, compute: Callable[[Values], Values], meaning: str) -> Feature:
    return _macro(name, partial(_of_vix, compute=compute), "indices", meaning, "Whaley (2009)")


def _curve(name: str, compute: Callable[[Curve], Values], meaning: str, source: str) -> Feature:
    return _macro(name, partial(_of_curve, compute=compute), "yields", meaning, source)


_TERM = "Estrella and Hardouvelis (1991)"
_CURVE = "Litterman and Scheinkman (1991)"

FEATURES: tuple[Feature, ...] = (
    _vix("vix_level", _level, "VIX, as a fraction a year"),
    *(
        _vix(
            f"vix_change_{n}",
            partial(_change, sessions=n),
            f"Relative change of the VIX over {n} sessions",
        )
        for n in _HORIZONS
    ),
    _vix("vix_percentile_252", _percentile, "Rank of the VIX among its last 252 values, 0 to 1"),
    _vix("vix_over_63", _over_quarter, "VIX over its mean of 63 sessions"),
    _macro(
        "vix_term",
        _term,
        "indices",
        "VIX over the three-month VIX of the same session",
        "Johnson (2017), VIX term structure",
    ),
    _curve("yield_10y", _ten_years, "Ten-year Treasury yield, percent", _CURVE),
    _curve("yield_slope_10y_2y", _SLOPE_2, "Ten-year less two-year yield, percent", _TERM),
    _curve("yield_slope_10y_3m", _SLOPE_3M, "Ten-year less three-month yield, percent", _TERM),
    _curve("yield_curvature", _curvature, "Twice five-year less two- and ten-year yield", _CURVE),
    *(
        _curve(
            f"{name}_change_{n}",
            partial(_moved, of=of, dates=n),
            f"{meaning} now less that {n} dates ago, percent",
            source,
        )
        for name, of, meaning, source in (
            ("yield_10y", _ten_years, "Ten-year Treasury yield", _CURVE),
            ("yield_slope_10y_2y", _SLOPE_2, "Ten-year less two-year yield", _TERM),
            ("yield_curvature", _curvature, "Curvature of yields", _CURVE),
        )
        for n in _HORIZONS
    ),
)
