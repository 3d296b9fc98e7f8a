"""One training of one horizon: out-of-sample predictions and the newest models."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from market.errors import ModelError
from market.horizons import Horizon
from models.dataset import Dataset, assemble, reach_of
from models.fit import FittedModel, fit_lesson, prepare
from models.importances import importance_table, newest_sample
from models.spec import Family
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
        for c in ("label_known_at", "forward_return", "excess_return")
    )
    dataset = assemble(
        known,
        arrived,
        feature_names,
        steps=horizon.steps,
        reach_sessions=reach_of(horizon.timeframe),
    )
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
