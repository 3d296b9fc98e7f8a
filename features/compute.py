"""From bars to a frame of features: through time, then across symbols, then from side tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from features import kernels
from features.kernels import Offsets
from features.panel import Panel, Recursion, scratch
from features.registry import CORE, find_feature
from features.side import SideTables
from features.spec import Feature, Stage
from market.errors import FeatureError
from market.schema import Bar

_FLOATS = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VOLUME, Bar.VWAP)
_TIMES = (Bar.BAR_START, Bar.BAR_END, Bar.KNOWN_AT)
MARKET_RETURN = "market_return"
SECTOR = "sector"

# A part's columns then fit the cache of one core, and its results are written once.
_ROWS_AT_ONCE = 32_768

_PLACES = {Bar.SYMBOL.value: pl.String(), "_code": pl.Int64()}

Matrix = npt.NDArray[np.float32]
Columns = dict[str, npt.NDArray[Any]]
Moments = tuple[npt.NDArray[np.int64], Offsets]


@dataclass(frozen=True)
class Panels:
    """Sorted bars as arrays: ``columns`` by name, ``offsets`` of the symbols, their names."""

    keys: pl.DataFrame
    columns: Columns
    offsets: Offsets
    symbols: list[str]
    wanted: frozenset[str]


def compute_features(
    bars: pl.DataFrame,
    features: Sequence[Feature] = CORE,
    side: SideTables | None = None,
    recursion: Recursion | None = None,
) -> pl.DataFrame:
    """Compute features on forward-adjusted bars.

    Parameters
    ----------
    bars : pl.DataFrame
        ``BAR_SCHEMA`` of one timeframe, prices forward-adjusted
        (:func:`market.actions.forward_adjust`), rows in any order, no duplicates.
    features : sequence of Feature
        From the registry, or your own.
    side : SideTables, optional
        What as-of features and sectors are read from; they are null without.
    recursion : Recursion, optional
        For :mod:`features.incremental`: where recursions go on from, by symbol in sorted order.

    Returns
    -------
    pl.DataFrame
        ``symbol``, ``session``, ``bar_end``, ``as_of`` (the bar's ``known_at``, UTC) and one
        float32 column per feature, sorted by symbol and time. A value whose lookback reaches
        before the symbol's first bar is null, as is one that is not finite: never zero.

    Raises
    ------
    FeatureError
        On duplicated bars, or a cross-section feature whose input is not a time-series feature.

    Examples
    --------
    >>> from market.synthetic import SyntheticSpec, generate
    >>> market = generate(SyntheticSpec(symbols=2, sessions=30, minute_sessions=0))
    >>> compute_features(market.daily).shape
    (60, 35)
    """
    side = side or SideTables()
    first = [f for f in features if f.stage is Stage.TIME_SERIES]
    second = [f for f in features if f.stage is Stage.CROSS_SECTION]
    first += _inputs_of(second, first)
    panels = to_panels(bars, {n for f in first for n in f.inputs})
    rows = panels.keys.height
    own: Matrix = np.empty((len(first), rows), np.float32)
    across: Matrix = np.empty((len(second), rows), np.float32)
    made = {f.name: own[k] for k, f in enumerate(first)}
    if rows:
        needs_market = MARKET_RETURN in panels.wanted
        by_moment = (
            _by_moment(panels) if second or needs_market else (panels.offsets, panels.offsets)
        )
        if needs_market:
            panels.columns[MARKET_RETURN] = _market_return(panels, by_moment)
        _through_time(panels, first, own, recursion)
        if second:
            _across_symbols(panels, second, made, across, by_moment, side)
    made |= {f.name: across[k] for k, f in enumerate(second)}
    with ThreadPoolExecutor(pl.thread_pool_size()) as pool:
        columns = pool.map(
            lambda f: (
                _from_side(f, panels, side)
                if f.stage is Stage.AS_OF
                else _series(f.name, made[f.name])
            ),
            features,
        )
        return panels.keys.with_columns(columns)


def to_panels(bars: pl.DataFrame, wanted: set[str]) -> Panels:
    """Sort bars by symbol and time, and lay their columns out as arrays.

    Raises
    ------
    FeatureError
        When a symbol has two bars at one time, or a column is unknown.
    """
    unknown = wanted - {*_FLOATS, *_TIMES, Bar.SESSION, MARKET_RETURN}
    if unknown:
        raise FeatureError(
            "a time-series feature reads something that bars do not have",
            got=sorted(unknown),
            allowed=", ".join((*_FLOATS, *_TIMES, Bar.SESSION, MARKET_RETURN)),
            remedy="declare it as a cross-section or as-of feature, or correct its inputs",
        )
    bars, offsets, symbols, ends = _in_order(bars)
    same = ends[1:] == ends[:-1]
    same[offsets[1:-1] - 1] = False
    if same.any():
        raise FeatureError(
            "bars are not unique per symbol and time",
            got=f"{int(same.sum())} duplicates",
            allowed="one bar per symbol and bar_end",
            remedy="remove duplicates before computing features",
        )
    columns: Columns = {Bar.BAR_END: ends}
    for name in (*_FLOATS, *_TIMES, Bar.SESSION):
        needed = name in wanted or (name == Bar.CLOSE and MARKET_RETURN in wanted)
        if needed and name not in columns:
            columns[name] = _to_array(bars[name])
    keys = bars.select(Bar.SYMBOL, Bar.SESSION, Bar.BAR_END, pl.col(Bar.KNOWN_AT).alias("as_of"))
    return Panels(keys, columns, offsets, symbols, frozenset(wanted))


def _in_order(
    bars: pl.DataFrame,
) -> tuple[pl.DataFrame, Offsets, list[str], npt.NDArray[np.int64]]:
    for attempt in (bars, None):
        if attempt is None:
            bars = bars.sort(Bar.SYMBOL, Bar.BAR_END)
        runs = bars[Bar.SYMBOL].rle().struct.unnest()
        offsets = np.append(0, np.cumsum(runs["len"].to_numpy())).astype(np.int64)
        ends = _to_array(bars[Bar.BAR_END])
        symbols = runs["value"].to_list()
        back = ends[1:] < ends[:-1]
        back[offsets[1:-1] - 1] = False
        if symbols == sorted(set(symbols)) and not back.any():
            break
    return bars, offsets, symbols, ends


def _to_array(column: pl.Series) -> npt.NDArray[Any]:
    if column.dtype == pl.Date:
        return column.to_physical().cast(pl.Int64).to_numpy()
    if column.dtype == pl.Datetime:
        return column.dt.timestamp("us").to_numpy()
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _inputs_of(second: Sequence[Feature], first: Sequence[Feature]) -> list[Feature]:
    have = {f.name for f in first}
    out: list[Feature] = []
    for feature in second:
        for name in feature.inputs:
            if name == SECTOR or name in have:
                continue
            found = find_feature(name)
            if found is None or found.stage is not Stage.TIME_SERIES:
                raise FeatureError(
                    f"cross-section feature {feature.name!r} reads something that is not a "
                    "time-series feature",
                    got=name,
                    allowed="registered time-series features, or sector",
                    remedy="register the input as a time-series feature first",
                )
            have.add(name)
            out.append(found)
    return out


def _parts(offsets: Offsets) -> Iterator[tuple[int, int]]:
    """Yield ranges of whole groups of some ten thousand rows."""
    begin, groups = 0, len(offsets) - 1
    while begin < groups:
        limit = offsets[begin] + _ROWS_AT_ONCE
        end = max(begin + 1, int(np.searchsorted(offsets, limit, side="right")) - 1)
        yield begin, min(end, groups)
        begin = end


def _in_threads(work: Callable[[tuple[int, int]], None], offsets: Offsets) -> None:
    parts = list(_parts(offsets))
    # As many as Polars uses: one setting bounds them all.
    workers = min(len(parts), pl.thread_pool_size())
    # Each begins far from the others: two that write for the first time to one page of memory
    # would each have one made, and one of them would be thrown away.
    stride = -(-len(parts) // workers)
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, [p for k in range(stride) for p in parts[k::stride]]):
            pass


def _through_time(
    panels: Panels, features: Sequence[Feature], out: Matrix, recursion: Recursion | None
) -> None:
    after: dict[str, npt.NDArray[np.float64]] = {}
    groups = len(panels.offsets) - 1

    def work(part: tuple[int, int]) -> None:
        begin, end = part
        a, b = panels.offsets[begin], panels.offsets[end]
        own = None if recursion is None else _slice(recursion, begin, end, a)
        # Copies: a kernel is compiled once more for memory that it may not write to.
        columns = {n: panels.columns[n][a:b].copy() for n in panels.wanted}
        panel = Panel(columns, panels.offsets[begin : end + 1] - a, own)
        _evaluate(features, panel, out[:, a:b])
        if own is not None:
            for name, state in own.after.items():
                whole = after.setdefault(name, np.zeros((groups, state.shape[1])))
                whole[begin:end] = state

    _in_threads(work, panels.offsets)
    if recursion is not None:
        recursion.after.update(after)


def _slice(recursion: Recursion, begin: int, end: int, first_row: int) -> Recursion:
    return Recursion(
        recursion.start[begin:end] - first_row,
        recursion.snapshot[begin:end] - first_row,
        {n: s[begin:end] for n, s in recursion.before.items()},
    )


def _evaluate(features: Sequence[Feature], panel: Panel, out: Matrix) -> None:
    with np.errstate(all="ignore"), scratch():
        for k, feature in enumerate(features):
            panel.declared = frozenset(feature.inputs)
            values = np.ascontiguousarray(feature.compute(panel))
            if values.shape != (panel.rows,):
                raise FeatureError(
                    f"feature {feature.name!r} has not one value per row",
                    got=values.shape,
                    allowed=f"({panel.rows},)",
                    remedy="return an array as long as the panel's columns",
                )
            kernels.keep_old_enough(values, panel.offsets, feature.lookback, out[k])


def _by_moment(panels: Panels) -> Moments:
    """Return the rows in order of time (then symbol), and where each moment begins."""
    ends = panels.columns[Bar.BAR_END]
    order = np.argsort(ends, kind="stable")
    ordered = ends[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    return order, np.append(starts, len(order)).astype(np.int64)


def _market_return(panels: Panels, by_moment: Moments) -> npt.NDArray[np.float64]:
    """Return for each row the mean return of all symbols over the bar that ends then."""
    order, moments = by_moment
    whole = Panel({Bar.CLOSE: panels.columns[Bar.CLOSE]}, panels.offsets)
    with np.errstate(all="ignore"):
        own = whole.growth(whole[Bar.CLOSE])[order]
        there = np.isfinite(own)
        total = np.add.reduceat(np.where(there, own, 0.0), moments[:-1])
        mean = total / np.add.reduceat(there.astype(np.float64), moments[:-1])
    out = np.empty(len(order))
    out[order] = np.repeat(mean, np.diff(moments))
    return out


def _across_symbols(
    panels: Panels,
    features: Sequence[Feature],
    inputs: dict[str, npt.NDArray[np.float32]],
    out: Matrix,
    by_moment: Moments,
    side: SideTables,
) -> None:
    if not features:
        return
    order, moments = by_moment
    age = np.arange(len(order)) - np.repeat(panels.offsets[:-1], np.diff(panels.offsets))
    names = {n for f in features for n in f.inputs}
    sectors = _sector_codes(panels, side) if SECTOR in names else None

    def work(part: tuple[int, int]) -> None:
        a, b = moments[part[0]], moments[part[1]]
        rows = order[a:b]
        columns: Columns = {n: inputs[n][rows].astype(np.float64) for n in names - {SECTOR}}
        if sectors is not None:
            columns[SECTOR] = sectors[rows]
        panel = Panel(columns, moments[part[0] : part[1] + 1] - a)
        with np.errstate(all="ignore"), scratch():
            for k, feature in enumerate(features):
                panel.declared = frozenset(feature.inputs)
                values = np.asarray(feature.compute(panel)).astype(np.float32)
                # An aggregate of the others says nothing about a symbol's first bars.
                young = age[rows] < feature.lookback - 1
                values[young | ~np.isfinite(values)] = np.nan
                out[k][rows] = values

    _in_threads(work, moments)


def _sector_codes(panels: Panels, side: SideTables) -> npt.NDArray[np.int64]:
    names = pl.DataFrame({Bar.SYMBOL: panels.symbols})
    if side.sectors is None:
        codes = np.full(len(panels.symbols), -1)
    else:
        known = side.sectors.unique(Bar.SYMBOL, keep="first", maintain_order=True)
        joined = names.join(known, on=Bar.SYMBOL, how="left", maintain_order="left")
        found = joined[SECTOR].rank("dense").cast(pl.Int64).fill_null(-1)
        codes = found.to_numpy()
    return np.repeat(codes, np.diff(panels.offsets)).astype(np.int64)


def _from_side(feature: Feature, panels: Panels, side: SideTables) -> pl.Series:
    """Return for each bar the newest value that was known by then."""
    as_of = _to_array(panels.keys["as_of"])
    out = np.full(len(as_of), np.nan, np.float32)
    table = feature.compute(side)
    if table is None or table.is_empty():
        return _series(feature.name, out)
    times, values, codes = _steps(table, panels.symbols)
    everybody = len(panels.symbols)
    begins = np.searchsorted(codes, np.arange(everybody + 2))
    # Symbols side by side that have no rows of their own read the same ones.
    own = np.flatnonzero(np.diff(begins[:-1]))
    edges = np.unique(np.concatenate([[0], own, own + 1, [everybody]]))
    for first, last in pairwise(edges):
        code = first if begins[first] < begins[first + 1] else everybody
        known = slice(begins[code], begins[code + 1])
        rows = slice(panels.offsets[first], panels.offsets[last])
        newest = np.searchsorted(times[known], as_of[rows], side="right")
        out[rows] = np.append(np.float32(np.nan), values[known])[newest]
    return _series(feature.name, out)


def _steps(
    table: pl.DataFrame, symbols: Sequence[str]
) -> tuple[npt.NDArray[np.int64], Matrix, npt.NDArray[np.int64]]:
    """Return times, values and places of symbols, sorted by place and time.

    Rows of no symbol have the place after the last: they are about every symbol that has no rows
    of its own. Rows of other symbols are left out.
    """
    table = table.drop_nulls(Bar.KNOWN_AT)
    codes = np.full(table.height, len(symbols))
    if Bar.SYMBOL in table.columns:
        places = pl.DataFrame(
            {Bar.SYMBOL: symbols, "_code": np.arange(len(symbols))}, schema_overrides=_PLACES
        )
        found = table.select(Bar.SYMBOL).join(
            places, on=Bar.SYMBOL, how="left", maintain_order="left"
        )
        other = pl.when(pl.col(Bar.SYMBOL).is_null()).then(len(symbols)).otherwise(-1)
        codes = found.select(pl.coalesce("_code", other))["_code"].to_numpy()
    times = _to_array(table[Bar.KNOWN_AT])
    with np.errstate(over="ignore"):
        values = _to_array(table["value"]).astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    if (times[1:] < times[:-1]).any():
        order = np.argsort(times, kind="stable")
        times, values, codes = times[order], values[order], codes[order]
    order = np.argsort(codes, kind="stable")
    order = order[np.searchsorted(codes[order], 0) :]
    return times[order], values[order], codes[order]


def _series(name: str, values: npt.NDArray[np.float32]) -> pl.Series:
    """Hand an array to Polars as it is, missing values as nulls."""
    bits = np.empty((len(values) + 7) // 8, np.uint8)
    kernels.validity(values, bits)
    buffers = [pa.py_buffer(bits), pa.py_buffer(values)]
    return pl.Series(_Arrow(pa.Array.from_buffers(pa.float32(), len(values), buffers))).alias(name)


@dataclass(frozen=True)
class _Arrow:
    """An array that Polars takes through Arrow's C interface alone, without a module to import."""

    array: pa.Array

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        return self.array.__arrow_c_array__(requested_schema)


def longest_lookback(features: Sequence[Feature] = CORE) -> int:
    """Return how many bars, the current one included, the features need."""
    return max(f.lookback for f in features)
