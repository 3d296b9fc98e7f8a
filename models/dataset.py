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
from market.schema import Bar
from market.timeframes import Timeframe
from models.normal_scores import source_of, to_normal_scores
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
_LABEL = ("label_known_at", "forward_return", EXCESS_RETURN)


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
    labels: pl.DataFrame,
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
    labels : pl.DataFrame
        From :func:`features.labels.forward_returns`; may lack rows.
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
    table = features.lazy()
    _require(table.collect_schema().names(), names)
    ranks = any(source_of(n) != n for n in names)
    if kept is not None and not ranks:
        table, kept = _only(table, kept.lazy()), None
    every = table.select(*PANEL_KEYS, VOLATILITY).collect()
    order = (
        every.with_row_index("_row")
        .filter(pl.col(VOLATILITY) > 0)
        .sort(Bar.BAR_END, Bar.SYMBOL)
        .with_row_index("_place")
    )
    wanted = dict.fromkeys((*_LABEL, target))
    label = labels.select(Bar.SYMBOL, Bar.BAR_END, *wanted)
    frame = (order if kept is None else _only(order, kept)).join(
        label, on=[Bar.SYMBOL, Bar.BAR_END], how="left", maintain_order="left"
    )
    if frame.is_empty():
        raise ModelError(
            "no row has a known volatility",
            got=f"{every.height} feature rows",
            allowed="more bars per symbol than the longest lookback",
            remedy="ingest a longer history",
        )
    volatility = frame[VOLATILITY].cast(pl.Float64).to_numpy()
    unit = volatility * steps**0.5
    keys = every.select(Bar.SYMBOL, Bar.BAR_END)
    places = _Places(
        order["_row"].to_numpy().astype(np.int64),
        _moments(order),
        None if kept is None else frame["_place"].to_numpy().astype(np.int64),
    )
    return Dataset(
        keys=frame.select(*PANEL_KEYS, "label_known_at"),
        x=_matrix(table, keys, names, places),
        feature_names=tuple(names),
        y=np.clip(_floats(frame[target]) / unit, -_CLIP, _CLIP),
        volatility=volatility,
        unit=unit,
        excess_return=_floats(frame[EXCESS_RETURN]),
        forward_return=_floats(frame["forward_return"]),
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
    missing = [n for n in (VOLATILITY, *map(source_of, names)) if n not in there]
    if missing:
        raise ModelError(
            "features that a model needs are not there",
            got=missing[:5],
            allowed=f"all of its {len(names)} features, and {VOLATILITY}",
            remedy="keep their families in features.families, or train again",
        )


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
    table: pl.LazyFrame, keys: pl.DataFrame, names: Sequence[str], places: _Places
) -> Matrix:
    x = np.empty((len(places.rows if places.kept is None else places.kept), len(names)), np.float32)
    columns = max(1, _BLOCK_BYTES // (4 * len(keys)))
    for begin in range(0, len(names), columns):
        block = list(names[begin : begin + columns])
        sources = [source_of(n) for n in block]
        read = table.select(Bar.SYMBOL, Bar.BAR_END, *(set(sources) - {Bar.SYMBOL})).collect()
        if not read.select(keys.columns).equals(keys):
            raise ModelError(
                "the table of features changed while it was read",
                got=f"{read.height} rows, {keys.height} before",
                allowed="one version of the table",
                remedy="read a fixed version, or try again",
            )
        # A null becomes NaN on the way.
        values = read.select(pl.col(list(dict.fromkeys(sources))).cast(pl.Float32)).to_numpy()
        if sources == block and places.kept is None:
            x[:, begin : begin + len(block)] = values[places.rows]
            continue
        at = {source: k for k, source in enumerate(dict.fromkeys(sources))}
        for k, (source, name) in enumerate(zip(sources, block, strict=True), begin):
            x[:, k] = places.column(values[:, at[source]], ranked=source != name)
    return x


def _floats(column: pl.Series) -> Vector:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
