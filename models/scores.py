"""Proper scores and the calibration error of class probabilities, with their intervals.

Sources: Brier (1950); Good (1952) for the log loss; Naeini, Cooper and Hauskrecht (2015) for the
calibration error.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl

from models.calibration_maps import SMALLEST
from models.evaluation import Estimate, Vector
from models.forecast import Prediction
from models.judged import Judged, equal_bins, judge
from models.outcomes import CLASSES
from models.session_bootstrap import LEVEL, draw_counts, share_intervals


def brier(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    as_of: dt.datetime,
    seed: int,
    block: float,
    draws: int = 1000,
) -> Estimate:
    """Return the mean Brier score: squared errors summed over the three classes, 0 to 2.

    Parameters
    ----------
    predictions, outcomes : pl.DataFrame
        ``PREDICTION_SCHEMA`` and ``OUTCOME_SCHEMA``.
    as_of : datetime
        Aware. Outcomes known later are not looked at.
    seed, block, draws
        See :func:`models.session_bootstrap.share_intervals`.

    Returns
    -------
    Estimate
        Over all rows; ``periods`` are sessions.

    Raises
    ------
    ModelError
        See :func:`models.judged.judge`.
    """
    judged = judge(predictions, outcomes, as_of=as_of)
    return _estimate(judged, brier_rows(judged), seed=seed, block=block, draws=draws)


def log_loss(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    as_of: dt.datetime,
    seed: int,
    block: float,
    draws: int = 1000,
) -> Estimate:
    """Return the mean negative log-probability of what happened, in nats.

    A probability below 1e-6 counts as 1e-6. Parameters as for :func:`brier`; always guessing one
    third gives 1.0986.
    """
    judged = judge(predictions, outcomes, as_of=as_of)
    return _estimate(judged, log_rows(judged), seed=seed, block=block, draws=draws)


def session_losses(
    predictions: pl.DataFrame, outcomes: pl.DataFrame, *, as_of: dt.datetime
) -> pl.DataFrame:
    """Return the mean loss of each session, as :mod:`models.comparison` takes them.

    Parameters
    ----------
    predictions, outcomes, as_of
        As for :func:`brier`.

    Returns
    -------
    pl.DataFrame
        ``session``, ``rows``, ``log_loss`` and ``brier``, ascending.
    """
    judged = judge(predictions, outcomes, as_of=as_of)
    return (
        judged.frame.select(
            Prediction.SESSION,
            pl.Series("log_loss", log_rows(judged)),
            pl.Series("brier", brier_rows(judged)),
        )
        .group_by(Prediction.SESSION, maintain_order=True)
        .agg(pl.len().alias("rows"), pl.col("log_loss").mean(), pl.col("brier").mean())
    )


def expected_calibration_error(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    as_of: dt.datetime,
    seed: int,
    block: float,
    draws: int = 1000,
    bins: int = 10,
) -> Estimate:
    """Return the mean distance between forecast and observed share over bins and classes.

    Parameters
    ----------
    predictions, outcomes, as_of, seed, block, draws
        As for :func:`brier`.
    bins : int
        Bins of equal size per class.

    Returns
    -------
    Estimate
        The estimate is biased upwards: distances of a perfect forecaster are not 0 by chance.
        The interval is on the safe side (a ball around all distances at once, cut off at 0),
        so that it holds 0 for such a forecaster.
    """
    judged = judge(predictions, outcomes, as_of=as_of)
    columns: list[Vector] = []
    for k in range(len(CLASSES)):
        forecast = judged.probabilities[:, k]
        group, of = equal_bins(forecast, bins)
        columns.append(judged.sums(forecast - (judged.classes == k), group, of))
    gaps = np.concatenate(columns, axis=1)
    rows = judged.sums(np.ones(len(judged.classes)))[:, 0]
    counts = draw_counts(judged.sessions, seed=seed, block=block, draws=draws)
    total = float(rows.sum())
    drawn = np.einsum("ds,sk->dk", counts, gaps) / np.einsum("ds,s->d", counts, rows)[:, None]
    found = gaps.sum(axis=0) / total
    noise = float(np.quantile(np.abs(drawn - found).sum(axis=1), LEVEL)) / len(CLASSES)
    error = float(np.abs(found).sum()) / len(CLASSES)
    return Estimate(error, max(0.0, error - noise), error + noise, judged.sessions)


def brier_rows(judged: Judged) -> Vector:
    """Return the Brier score of each row."""
    happened = np.eye(len(CLASSES))[judged.classes]
    return ((judged.probabilities - happened) ** 2).sum(axis=1)


def log_rows(judged: Judged) -> Vector:
    """Return the negative log-probability of what happened, of each row."""
    chosen = judged.probabilities[np.arange(len(judged.classes)), judged.classes]
    return -np.log(np.maximum(chosen, SMALLEST))


def _estimate(judged: Judged, values: Vector, *, seed: int, block: float, draws: int) -> Estimate:
    found = share_intervals(
        judged.sums(values),
        judged.sums(np.ones(len(values))),
        seed=seed,
        block=block,
        draws=draws,
        binary=False,
    )
    low, high = float(found.low[0]), float(found.high[0])
    return Estimate(float(found.share[0]), low, high, judged.sessions)
