"""Features and labels joined into the matrix that models learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from features.label_weights import sample_weights
from features.spec import PANEL_KEYS
from market.errors import ModelError
from market.schema import UTC_MICROSECONDS, Bar
from market.timeframes import Timeframe
from models.normal_scores import sources_of, to_normal_scores
from models.spec import Indices, Labelled, Lines, Matrix, Sample, Vector

VOLATILITY = "volatility_20"
EXCESS_RETURN = "excess_return"
REACH_SESSIONS = 100
"""How many sessions back a window of daily bars may reach."""

_REACH_INTRADAY = 5

_CLIP = 4.0
# What is read at once: beside a large matrix there is only so much in memory, and a table is not
# gone through more often than that asks for.
_BLOCK_BYTES = 64_000_000
_KNOWN_AT = "label_known_at"
_LABEL = (_KNOWN_AT, "forward_return", EXCESS_RETURN)


@dataclass(frozen=True)
class Dataset:
    """Rows that can be learned from or forecast, in order of time.

    Attributes
    ----------
    keys : pl.DataFrame
        ``symbol``, ``session``, ``bar_end``, ``as_of`` and ``label_known_at`` (null when the
        label is not known).
    x : (n, k) float32
        Features; NaN where one is missing.
    feature_names : tuple of str
        Names of the columns of ``x``.
    y : (n,) float64
        What is learned, in ``unit``, clipped to plus or minus 4; NaN when not known.
    volatility : (n,) float64
        Standard deviation of one bar's return, known at ``as_of``.
    unit : (n,) float64
        The same over the horizon.
    excess_return, forward_return : (n,) float64
        Fractions; NaN when not known.
    lines : Lines
        Where the earlier bars of each row are.
    steps : int
        Bars that a label spans.
    target : str
        The label that ``y`` was made of.
    """

    keys: pl.DataFrame
    x: Matrix
    feature_names: tuple[str, ...]
    y: Vector
    volatility: Vector
    unit: Vector
    excess_return: Vector
    forward_return: Vector
    lines: Lines
    steps: int
    target: str = EXCESS_RETURN

    def __len__(self) -> int:
        return self.keys.height

    def sample(self, rows: Indices) -> Sample:
        """Return some rows as models read them."""
        return Sample(self.x, np.asarray(rows, dtype=np.int64), self.lines)

    def labelled(self, rows: Indices, *, band_bps: float, last_weight: float = 1.0) -> Labelled:
        """Return those of some rows whose label is known, with weights.

        Parameters
        ----------
        rows : (n,) int64
            Ascending.
        band_bps : float
            The neutral band.
        last_weight : float
            What the oldest label weighs beside the newest; see
            :func:`features.label_weights.time_decay`.
        """
        known = np.asarray(rows, dtype=np.int64)
        known = known[np.isfinite(self.y[known])]
        keys = self.keys[known]
        weight = np.ones(len(known))
        if len(known):
            arrived: Any = keys["label_known_at"].max()
            made = sample_weights(keys, arrived, last_weight=last_weight)
            weight = made["sample_weight"].to_numpy()
        band = band_bps / 1e4 / self.unit[known]
        return Labelled(self.sample(known), self.y[known], weight, band, self.steps)


def assemble(
    features: pl.DataFrame | pl.LazyFrame,
    labels: pl.DataFrame | None,
    names: Sequence[str],
    *,
    steps: int,
    reach_sessions: int = REACH_SESSIONS,
    target: str = EXCESS_RETURN,
    kept: pl.DataFrame | None = None,
) -> Dataset:
    """Join features and labels on (symbol, bar_end).

    Parameters
    ----------
    features : pl.DataFrame or pl.LazyFrame
        From :func:`features.compute.compute_features`. A lazy one is read a few columns at a
        time, so that little more than the matrix is in memory.
    labels : pl.DataFrame, optional
        From :func:`features.labels.forward_returns`; may lack rows. None where no label can be
        known yet.
    names : sequence of str
        Feature columns to learn from; of one with the suffix ``@rank`` the normal scores among
        the rows of each moment (:mod:`models.normal_scores`), all of which must then be there.
        ``volatility_20`` must be among ``features``: it scales the target.
    steps : int
        Length of the horizon in bars: volatility grows with its square root.
    reach_sessions : int
        How many sessions back a window of bars may reach; see :func:`reach_of`.
    target : str
        The column of ``labels`` that is learned: a fraction over the horizon.
    kept : pl.DataFrame, optional
        The only pairs of ``symbol`` and ``session`` of which there are rows in the result; normal
        scores are those among all rows.

    Returns
    -------
    Dataset
        One row per feature row whose volatility is known, sorted by time, then symbol.

    Raises
    ------
    ModelError
        When a feature is not there, no row is left, or the table changed while it was read.
    """
    table = features
    _require(table.lazy().collect_schema().names(), names)
    ranks = sources_of(tuple(names)) != tuple(names)
    if kept is not None and not ranks:
        table, kept = _only(table, kept if isinstance(table, pl.DataFrame) else kept.lazy()), None
    every = _read(table, [*PANEL_KEYS, VOLATILITY])
    order = (
        every.lazy()
        .with_row_index("_row")
        .filter(pl.col(VOLATILITY) > 0)
        .sort(Bar.BAR_END, Bar.SYMBOL)
        .with_row_index("_place")
        .collect()
    )
    frame = order if kept is None else _only(order, kept)
    if frame.is_empty():
        raise ModelError(
            "no row has a known volatility",
            got=f"{every.height} feature rows",
            allowed="more bars per symbol than the longest lookback",
            remedy="ingest a longer history",
        )
    known_at, excess, forward, learned = _labels_of(frame, labels, target)
    volatility = frame[VOLATILITY].cast(pl.Float64).to_numpy()
    unit = volatility * steps**0.5
    places = _Places(
        order["_row"].to_numpy().astype(np.int64),
        _moments(order),
        None if kept is None else frame["_place"].to_numpy().astype(np.int64),
    )
    return Dataset(
        keys=pl.DataFrame([*(frame[c] for c in PANEL_KEYS), known_at]),
        x=_matrix(table, every, names, places),
        feature_names=tuple(names),
        y=np.clip(learned / unit, -_CLIP, _CLIP),
        volatility=volatility,
        unit=unit,
        excess_return=excess,
        forward_return=forward,
        lines=lines_of(frame, reach_sessions),
        steps=steps,
        target=target,
    )


def reach_of(timeframe: Timeframe) -> int:
    """Return how many sessions back a window of such bars may reach."""
    return _REACH_INTRADAY if timeframe.is_intraday else REACH_SESSIONS


def lines_of(keys: pl.DataFrame, reach_sessions: int = REACH_SESSIONS) -> Lines:
    """Return where the earlier bars of each row are.

    Parameters
    ----------
    keys : pl.DataFrame
        ``symbol``, ``session``, ``bar_end``, in order of time.
    reach_sessions : int
        See :class:`models.spec.Lines`. Sessions are counted as working days, holidays included.
    """
    order = keys.select(pl.arg_sort_by(Bar.SYMBOL, Bar.BAR_END)).to_series().to_numpy()
    order = order.astype(np.int64)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    symbols = keys[Bar.SYMBOL].rank("dense").to_numpy()[order]
    begins = np.flatnonzero(np.append(True, symbols[1:] != symbols[:-1]))
    first = np.repeat(begins, np.diff(np.append(begins, len(order))))
    days = keys[Bar.SESSION].to_numpy().astype("datetime64[D]")
    session = np.busday_count(np.datetime64("1970-01-01"), days).astype(np.int64)
    return Lines(order, place, first[place], session, reach_sessions)


def _require(columns: Sequence[str], names: Sequence[str]) -> None:
    there = set(columns)
    missing = [n for n in (VOLATILITY, *sources_of(tuple(names))) if n not in there]
    if missing:
        raise ModelError(
            "features that a model needs are not there",
            got=missing[:5],
            allowed=f"all of its {len(names)} features, and {VOLATILITY}",
            remedy="keep their families in features.families, or train again",
        )


def _read(table: pl.DataFrame | pl.LazyFrame, columns: Sequence[str]) -> pl.DataFrame:
    # A query would take longer than all else that is done with the few rows of scoring.
    return table[columns] if isinstance(table, pl.DataFrame) else table.select(columns).collect()


def _labels_of(
    frame: pl.DataFrame, labels: pl.DataFrame | None, target: str
) -> tuple[pl.Series, Vector, Vector, Vector]:
    """Return when each row's label is known, its returns, and what is learned."""
    if labels is None:
        unknown = np.full(frame.height, np.nan)
        known_at = pl.Series(_KNOWN_AT, [None], dtype=UTC_MICROSECONDS)
        return known_at.new_from_index(0, frame.height), unknown, unknown, unknown
    wanted = dict.fromkeys((*_LABEL, target))
    label = labels.select(Bar.SYMBOL, Bar.BAR_END, *wanted)
    keys = frame.select(Bar.SYMBOL, Bar.BAR_END)
    joined = keys.join(label, on=keys.columns, how="left", maintain_order="left")
    excess, forward, learned = (
        _floats(joined[c]) for c in (EXCESS_RETURN, "forward_return", target)
    )
    return joined[_KNOWN_AT], excess, forward, learned


def _only(rows: Any, kept: Any) -> Any:
    return rows.join(kept, on=[Bar.SYMBOL, Bar.SESSION], how="semi", maintain_order="left")


def _moments(frame: pl.DataFrame) -> Indices:
    """Return where each moment of rows in order of time begins, and how many rows there are."""
    ends = frame[Bar.BAR_END].to_physical().to_numpy()
    begins = np.flatnonzero(np.append(True, ends[1:] != ends[:-1]))
    return np.append(begins, len(ends)).astype(np.int64)


@dataclass(frozen=True)
class _Places:
    """Rows of a table in order of time, where their moments begin, and which of them are kept."""

    rows: Indices
    moments: Indices
    kept: Indices | None

    def column(self, values: Matrix, *, ranked: bool) -> Matrix:
        ordered = values[self.rows]
        scored = to_normal_scores(ordered, self.moments) if ranked else ordered
        return scored if self.kept is None else scored[self.kept]


def _matrix(
    table: pl.DataFrame | pl.LazyFrame,
    keys: pl.DataFrame,
    names: Sequence[str],
    places: _Places,
) -> Matrix:
    x = np.empty((len(places.rows if places.kept is None else places.kept), len(names)), np.float32)
    columns = max(1, _BLOCK_BYTES // (4 * len(keys)))
    for begin in range(0, len(names), columns):
        block = list(names[begin : begin + columns])
        made_of = sources_of(tuple(block))
        sources = list(dict.fromkeys(made_of))
        made = _sources(table, keys, sources)
        # A null becomes NaN on the way. What is taken, rows or columns, lies side by side.
        if sources == block and places.kept is None:
            x[:, begin : begin + len(block)] = made.to_numpy(order="c")[places.rows]
            continue
        values = made.to_numpy(order="fortran")
        at = {source: k for k, source in enumerate(sources)}
        for k, (source, name) in enumerate(zip(made_of, block, strict=True), begin):
            x[:, k] = places.column(values[:, at[source]], ranked=source != name)
    return x


def _sources(
    table: pl.DataFrame | pl.LazyFrame, keys: pl.DataFrame, sources: list[str]
) -> pl.DataFrame:
    """Return some columns as float32, of the very rows that were read before."""
    single = pl.col(sources).cast(pl.Float32)
    if isinstance(table, pl.DataFrame):
        found = table[sources]
        return found if set(found.dtypes) == {pl.Float32} else found.select(single)
    again = (Bar.SYMBOL, Bar.BAR_END)
    read = table.select(*again, *(c for c in sources if c not in again)).collect()
    if not read.select(again).equals(keys.select(again)):
        raise ModelError(
            "the table of features changed while it was read",
            got=f"{read.height} rows, {keys.height} before",
            allowed="one version of the table",
            remedy="read a fixed version, or try again",
        )
    return read.select(single)


def _floats(column: pl.Series) -> Vector:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
