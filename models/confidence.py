"""What stated probabilities are worth: reliability, and accuracy against coverage.

Every number comes with a 95 percent interval from whole sessions drawn again
(:mod:`models.session_bootstrap`). Frames in, frames out; one engine and one horizon at a time.
Sources: Broecker and Smith (2007) for reliability; El-Yaniv and Wiener (2010) for accuracy
against coverage.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import polars as pl

from market.errors import ModelError
from models.evaluation import Vector
from models.judged import equal_bins, judge
from models.outcomes import CLASSES, Outcome
from models.session_bootstrap import share_intervals

COVERAGES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LEVELS = (0.60, 0.65, 0.70)


class Reliability(StrEnum):
    """Columns of the reliability table; one row per class and bin of its forecasts."""

    CLASS = "outcome"
    FORECAST_LOW = "forecast_low"
    FORECAST_HIGH = "forecast_high"
    ROWS = "rows"
    SESSIONS = "sessions"
    FORECAST = "forecast"
    OBSERVED = "observed"
    LOW = "low"
    HIGH = "high"


class Accuracy(StrEnum):
    """Columns of accuracy against coverage; one row per declared coverage, ascending.

    ``confidence`` is the threshold; ``share`` how many rows reach it, with its interval.
    """

    COVERAGE = "coverage"
    CONFIDENCE = "confidence"
    SHARE = "share"
    SHARE_LOW = "share_low"
    SHARE_HIGH = "share_high"
    ROWS = "rows"
    SESSIONS = "sessions"
    ACCURACY = "accuracy"
    LOW = "low"
    HIGH = "high"
    BAND_LOW = "band_low"
    BAND_HIGH = "band_high"


class Reached(StrEnum):
    """Columns of which accuracy is reached where; null but for the first two where never."""

    LEVEL = "level"
    VERDICT = "verdict"
    CONFIDENCE = "confidence"
    SHARE = "share"
    SHARE_LOW = "share_low"
    SHARE_HIGH = "share_high"
    ACCURACY = "accuracy"
    BAND_LOW = "band_low"
    BAND_HIGH = "band_high"


class Verdict(StrEnum):
    """Whether the lower edge of the band reaches a level of accuracy somewhere."""

    SUPPORTED = "supported"
    NEVER = "never"


def reliability_table(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    as_of: dt.datetime,
    seed: int,
    block: float,
    draws: int = 1000,
    bins: int = 10,
) -> pl.DataFrame:
    """Return how often what was forecast with about this probability happened.

    Parameters
    ----------
    predictions, outcomes, as_of, seed, block, draws
        As for :func:`models.scores.brier`.
    bins : int
        Bins of equal size per class; equal forecasts share a bin, so there may be fewer.

    Returns
    -------
    pl.DataFrame
        ``Reliability``: the class (-1, 0, 1), the bin's range and mean of forecasts, the
        observed share and its 95 percent interval, by itself, within 0 and 1.
    """
    judged = judge(predictions, outcomes, as_of=as_of)
    parts: list[pl.DataFrame] = []
    for k, outcome in enumerate(CLASSES):
        forecast = judged.probabilities[:, k]
        group, of = equal_bins(forecast, bins)
        rows = judged.sums(np.ones(len(group)), group, of)
        hits = judged.sums((judged.classes == k).astype(np.float64), group, of)
        found = share_intervals(hits, rows, seed=seed, block=block, draws=draws)
        total = rows.sum(axis=0)
        ranked = np.sort(forecast)
        last = np.cumsum(total).astype(np.int64)
        first = last - total.astype(np.int64)
        parts.append(
            pl.DataFrame(
                {
                    Reliability.CLASS: pl.Series([outcome] * of, dtype=pl.Int8),
                    Reliability.FORECAST_LOW: ranked[first],
                    Reliability.FORECAST_HIGH: ranked[last - 1],
                    Reliability.ROWS: total.astype(np.int64),
                    Reliability.SESSIONS: (rows > 0.0).sum(axis=0),
                    Reliability.FORECAST: judged.sums(forecast, group, of).sum(axis=0) / total,
                    Reliability.OBSERVED: found.share,
                    Reliability.LOW: np.clip(found.low, 0.0, 1.0),
                    Reliability.HIGH: np.clip(found.high, 0.0, 1.0),
                }
            )
        )
    return pl.concat(parts)


def accuracy_against_coverage(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    as_of: dt.datetime,
    seed: int,
    block: float,
    draws: int = 1000,
    coverages: Sequence[float] = COVERAGES,
    conditional: bool = True,
) -> pl.DataFrame:
    """Return how often the direction is right among the most confident rows.

    Parameters
    ----------
    predictions, outcomes, as_of, seed, block, draws
        As for :func:`models.scores.brier`; outcomes must have ``excess_return``.
    coverages : sequence of float
        Shares of all rows, ascending, above 0 and up to 1.
    conditional : bool
        Confidence is the larger of ``p_long`` and ``p_short``, divided by their sum: the
        probability of the direction once the return leaves the neutral band. Otherwise it is
        the larger itself, which also rises with volatility.

    Returns
    -------
    pl.DataFrame
        ``Accuracy``, with 95 percent intervals point by point (``low``, ``high``) and a band
        that holds all rows of the table at once (``band_low``, ``band_high``); NaN where
        sessions are too few.

    Raises
    ------
    ModelError
        When coverages are out of order or range, or no row has an excess return.

    Notes
    -----
    The direction is right where its sign is that of the excess return, whether or not that
    left the band. An excess return of exactly 0 is half a hit, and so is a row without
    direction (``p_long`` equal to ``p_short``), as a coin would do: without skill the accuracy
    is one half. Thresholds are quantiles of the confidence over all rows and look at no
    outcome; they stay where they are when sessions are drawn again. Rows whose confidence
    equals the threshold all count, so ``share`` may exceed the declared coverage.
    """
    grid = np.asarray(coverages, dtype=np.float64)
    if not (len(grid) and grid[0] > 0.0 and grid[-1] <= 1.0 and (np.diff(grid) > 0.0).all()):
        raise ModelError(
            "coverages are out of order or range",
            got=[float(c) for c in coverages],
            allowed="ascending, above 0 and up to 1",
            remedy="leave them out for the default",
        )
    judged = judge(predictions, outcomes, as_of=as_of, with_returns=True)
    returns = judged.frame[Outcome.EXCESS_RETURN].to_numpy()
    confidence, hit = directions(judged.probabilities, returns, conditional=conditional)
    at = np.ceil(grid * len(confidence)).astype(np.int64) - 1
    thresholds = np.sort(confidence)[::-1][at]
    # The first row of the table that a prediction belongs to; it belongs to all that follow.
    group = len(grid) - np.searchsorted(thresholds[::-1], confidence, side="right")
    of = len(grid) + 1
    rows = judged.sums(np.ones(len(group)), group, of).cumsum(axis=1)
    hits = judged.sums(hit, group, of).cumsum(axis=1)[:, :-1]
    covered, every = rows[:, :-1], np.repeat(rows[:, -1:], len(grid), axis=1)
    right = share_intervals(hits, covered, seed=seed, block=block, draws=draws)
    often = share_intervals(covered, every, seed=seed, block=block, draws=draws, binary=False)
    return pl.DataFrame(
        {
            Accuracy.COVERAGE: grid,
            Accuracy.CONFIDENCE: thresholds,
            Accuracy.SHARE: often.share,
            Accuracy.SHARE_LOW: np.clip(often.low, 0.0, 1.0),
            Accuracy.SHARE_HIGH: np.clip(often.high, 0.0, 1.0),
            Accuracy.ROWS: covered.sum(axis=0).astype(np.int64),
            Accuracy.SESSIONS: (covered > 0.0).sum(axis=0),
            Accuracy.ACCURACY: right.share,
            Accuracy.LOW: np.clip(right.low, 0.0, 1.0),
            Accuracy.HIGH: np.clip(right.high, 0.0, 1.0),
            Accuracy.BAND_LOW: np.clip(right.band_low, 0.0, 1.0),
            Accuracy.BAND_HIGH: np.clip(right.band_high, 0.0, 1.0),
        }
    )


def directions(
    probabilities: Vector, returns: Vector, *, conditional: bool = True
) -> tuple[Vector, Vector]:
    """Return how confident each row is of its direction, and whether that was right.

    Parameters
    ----------
    probabilities : (n, 3) float64
        Short, neutral, long.
    returns : (n,) float64
        Excess returns.
    conditional : bool
        See :func:`accuracy_against_coverage`.

    Returns
    -------
    tuple of (n,) float64
        Confidence; and 1 where the direction is the sign of the return, 0 where it is not, one
        half where there is no direction or the return is 0.

    Examples
    --------
    >>> sure, torn = [0.1, 0.3, 0.6], [0.4, 0.2, 0.4]
    >>> confidence, hit = directions(np.array([sure, torn]), np.array([0.01, 0.01]))
    >>> confidence.round(3).tolist(), hit.tolist()
    ([0.857, 0.5], [1.0, 0.5])
    """
    short, long = probabilities[:, 0], probabilities[:, 2]
    larger, either = np.maximum(short, long), short + long
    confidence = np.where(either > 0.0, larger / np.where(either > 0.0, either, 1.0), 0.5)
    hit = 0.5 + 0.5 * np.sign(long - short) * np.sign(returns)
    return (confidence if conditional else larger), hit


def coverage_at_accuracy(table: pl.DataFrame, levels: Sequence[float] = LEVELS) -> pl.DataFrame:
    """Return from which confidence on the direction holds so often, and how often that is.

    Parameters
    ----------
    table : pl.DataFrame
        From :func:`accuracy_against_coverage`.
    levels : sequence of float
        Accuracies.

    Returns
    -------
    pl.DataFrame
        ``Reached``, one row per level: the widest coverage whose *band* lies wholly at or above
        the level. The band and not the interval, because the whole table was searched.
        ``never`` where there is none, however good the estimates look.

    Examples
    --------
    >>> names = [str(c) for c in Accuracy]
    >>> rows = [(0.1, 0.7, 0.1, 0.08, 0.12, 50, 40, 0.68, 0.63, 0.73, 0.61, 0.75),
    ...         (1.0, 0.5, 1.0, 1.0, 1.0, 500, 50, 0.52, 0.49, 0.55, 0.48, 0.56)]
    >>> found = coverage_at_accuracy(pl.DataFrame(rows, schema=names, orient="row"), (0.6, 0.65))
    >>> found.select("level", "verdict", "confidence", "share").rows()
    [(0.6, 'supported', 0.7, 0.1), (0.65, 'never', None, None)]
    """
    picked = [c for c in Reached if c not in (Reached.LEVEL, Reached.VERDICT)]
    parts: list[pl.DataFrame] = []
    for level in levels:
        # A band that is NaN compares as the largest number in Polars.
        reached = pl.col(Accuracy.BAND_LOW).is_finite() & (pl.col(Accuracy.BAND_LOW) >= level)
        best = table.filter(reached).sort(Accuracy.SHARE).tail(1).select(picked)
        verdict = Verdict.SUPPORTED if best.height else Verdict.NEVER
        if best.is_empty():
            best = best.clear(1)
        parts.append(
            best.select(
                pl.lit(level, pl.Float64).alias(Reached.LEVEL),
                pl.lit(verdict.value).alias(Reached.VERDICT),
                *picked,
            )
        )
    return pl.concat(parts)
