"""One training of one horizon: out-of-sample predictions and the newest models."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from market import calendar
from market.errors import ModelError
from market.horizons import Horizon
from market.schema import Bar
from models.dataset import EXCESS_RETURN, Dataset, assemble, reach_of
from models.fit import FittedModel, fit_lesson, prepare
from models.importances import importance_table, newest_sample
from models.row_budget import kept_weeks, symbols_per_kept
from models.spec import Family, Indices
from models.splits import PurgedWalkForward
from models.trained_features import TrainedFeatures, summarize_training
from models.walk_forward import walk_forward
from models.windows import describe_windows


@dataclass(frozen=True, slots=True)
class Rhythm:
    """On what a walk-forward trains, and how often.

    Attributes
    ----------
    min_train_sessions : int
        First training window; ignored where a period's first session is named.
    test_sessions : int
        Sessions from one training to the next.
    embargo_sessions : int
        Sessions left out beyond the purge.
    max_train_sessions : int or None
        Rolling windows of so many sessions; ``None``: all of the past.
    last_weight : float
        What the oldest label weighs beside the newest.
    """

    min_train_sessions: int
    test_sessions: int
    embargo_sessions: int = 1
    max_train_sessions: int | None = None
    last_weight: float = 1.0


@dataclass(frozen=True)
class Training:
    """What a training gives.

    Attributes
    ----------
    predictions : pl.DataFrame
        Out of sample, every engine (``PREDICTION_SCHEMA``).
    models : tuple of FittedModel
        One per family, fitted on everything known at ``as_of``: the coming champions.
    windows : int
        Out-of-sample windows.
    spans : pl.DataFrame
        The windows (``models.windows.WINDOW_SCHEMA``).
    importances : pl.DataFrame
        What moves the newest models' forecasts (``models.importances.IMPORTANCE_SCHEMA``).
    features : TrainedFeatures or None
        How the newest models' features were distributed, to hold later rows against; nothing
        where there are fewer than four sessions.
    """

    predictions: pl.DataFrame
    models: tuple[FittedModel, ...]
    windows: int
    spans: pl.DataFrame
    importances: pl.DataFrame
    features: TrainedFeatures | None


def train_horizon(
    features: pl.DataFrame | pl.LazyFrame,
    labels: pl.DataFrame,
    *,
    horizon: Horizon,
    families: Sequence[Family],
    feature_names: Sequence[str],
    rhythm: Rhythm,
    start: dt.date | None,
    end: dt.date | None,
    as_of: dt.datetime,
    seed: int,
    band_bps: float,
    data_hash: str,
    target: str = EXCESS_RETURN,
    matrix_bytes: int | None = None,
    live_sessions: int = 20,
    progress: Callable[[int, int], None] | None = None,
) -> Training:
    """Walk forward over the out-of-sample period, then fit on all that is known.

    Parameters
    ----------
    features, labels : pl.DataFrame
        From :mod:`features`; rows known after ``as_of`` are not looked at. Lazy features are
        read a few columns at a time.
    horizon : Horizon
        A row of the horizons table.
    families : sequence of Family
        Engines.
    feature_names : sequence of str
        Columns to learn from.
    rhythm : Rhythm
        Windows of the walk-forward.
    start, end : date, optional
        First and last session of the out-of-sample period.
    as_of : datetime
        Aware; the moment at which the training happens.
    target : str
        The column of ``labels`` that is learned; see :func:`models.dataset.assemble`.
    matrix_bytes : int, optional
        How large the matrix may be. Where all rows would be larger, some symbols of each week are
        left out of what is learned from (:mod:`models.row_budget`); all rows are forecast.
    seed, band_bps, data_hash, progress
        See :func:`models.walk_forward.walk_forward`.
    live_sessions : int
        See :func:`models.trained_features.summarize_training`.

    Raises
    ------
    ModelError
        When the period leaves too little to train on, or nothing to test on.
    """
    known = features.filter(pl.col("as_of") <= as_of)
    if end is not None:
        known = known.filter(pl.col("session") <= end)
    arrived = labels.with_columns(
        pl.when(pl.col("label_known_at") <= as_of).then(pl.col(c)).alias(c)
        for c in dict.fromkeys(("label_known_at", "forward_return", EXCESS_RETURN, target))
    )
    table = _Table(known.lazy(), arrived, tuple(feature_names), horizon, target, matrix_bytes)
    dataset = table.to_learn_from()
    splitter = PurgedWalkForward(
        horizon,
        min_train_sessions=_first_window(dataset, start, rhythm.min_train_sessions),
        test_sessions=rhythm.test_sessions,
        embargo_sessions=rhythm.embargo_sessions,
        max_train_sessions=rhythm.max_train_sessions,
    )
    walked = walk_forward(
        dataset,
        families,
        splitter,
        seed=seed,
        band_bps=band_bps,
        last_weight=rhythm.last_weight,
        data_hash=data_hash,
        read=table.to_forecast,
        progress=progress,
    )
    newest = splitter.newest(dataset.keys["session"].to_numpy())
    lesson = prepare(
        dataset,
        newest,
        horizon=horizon.name,
        band_bps=band_bps,
        last_weight=rhythm.last_weight,
        max_train_sessions=rhythm.max_train_sessions,
    )
    fitted = tuple(fit_lesson(lesson, f, seed=seed, data_hash=data_hash) for f in families)
    importances = importance_table(fitted, newest_sample(dataset))
    return Training(
        walked.predictions,
        fitted,
        walked.windows,
        describe_windows(dataset, splitter),
        importances,
        summarize_training(dataset, newest, importances, seed=seed, live_sessions=live_sessions),
    )


@dataclass(frozen=True)
class _Table:
    """Features and labels of a horizon, read into matrices of bounded size."""

    features: pl.LazyFrame
    labels: pl.DataFrame
    names: tuple[str, ...]
    horizon: Horizon
    target: str
    matrix_bytes: int | None

    @cached_property
    def _pairs(self) -> pl.DataFrame:
        counted = self.features.group_by(Bar.SYMBOL, Bar.SESSION).agg(pl.len().alias("rows"))
        return counted.sort(Bar.SESSION, Bar.SYMBOL).collect()

    @cached_property
    def _one_in(self) -> int:
        if self.matrix_bytes is None:
            return 1
        rows = int(self._pairs["rows"].sum())
        return symbols_per_kept(rows, len(self.names), matrix_bytes=self.matrix_bytes)

    def to_learn_from(self) -> Dataset:
        """Return the rows that models learn from."""
        if self._one_in == 1:
            return self._assembled(self.features)
        return self._assembled(self.features, kept_weeks(self._pairs, self._one_in))

    def to_forecast(self, dataset: Dataset, rows: Indices) -> Iterator[tuple[Dataset, Indices]]:
        """Yield all rows of a test window, as many sessions at once as fit."""
        if self._one_in == 1:
            yield dataset, rows
            return
        assert self.matrix_bytes is not None
        first, last = (dataset.keys[Bar.SESSION][int(rows[k])] for k in (0, -1))
        inside = self._pairs.filter(pl.col(Bar.SESSION).is_between(first, last))
        by_session = inside.group_by(Bar.SESSION, maintain_order=True).agg(pl.col("rows").sum())
        reach = reach_of(self.horizon.timeframe)
        most = self.matrix_bytes // (4 * len(self.names)) // int(by_session["rows"].max())  # type: ignore[arg-type]
        for part in by_session[Bar.SESSION].to_frame().iter_slices(max(1, most - reach)):
            days = part[Bar.SESSION]
            begin = calendar.offset_session(days[0], -reach)
            near = pl.col(Bar.SESSION).is_between(begin, days[-1])
            made = self._assembled(self.features.filter(near))
            yield made, np.flatnonzero((made.keys[Bar.SESSION] >= days[0]).to_numpy())

    def _assembled(self, features: pl.LazyFrame, kept: pl.DataFrame | None = None) -> Dataset:
        return assemble(
            features,
            self.labels,
            self.names,
            steps=self.horizon.steps,
            reach_sessions=reach_of(self.horizon.timeframe),
            target=self.target,
            kept=kept,
        )


def _first_window(dataset: Dataset, start: dt.date | None, default: int) -> int:
    if start is None:
        return default
    sessions = dataset.keys["session"].unique()
    before = int((sessions < start).sum())
    if before == 0:
        raise ModelError(
            "no history before the out-of-sample period",
            got=f"start {start}, first session with features {sessions.min()}",
            allowed="a start that leaves sessions to train on",
            remedy="choose a later start, or ingest older bars",
        )
    return before
