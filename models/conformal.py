"""Prediction sets: the classes that cannot be ruled out at a declared coverage.

Split conformal prediction (Angelopoulos and Bates 2023) with the score of the least ambiguous
sets (LAC; Sadinle, Lei and Wasserman 2019): one less the probability of the class that happened.
Of all scores it gives the smallest sets on average. Adaptive sets (APS) would need a random draw
per row to hold their coverage exactly, and a signal must be the same when computed again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import polars as pl

from market.errors import ModelError
from models.evaluation import Vector
from models.forecast import Prediction
from models.outcomes import (
    WINDOW_SESSIONS,
    Outcome,
    check_outcomes,
    check_probabilities,
    join_outcomes,
    probability_matrix,
    walk_periods,
)

Sets = npt.NDArray[np.bool_]
Directions = npt.NDArray[np.int8]


class SetColumn(StrEnum):
    """Columns of the table of prediction sets, after the keys of the predictions."""

    SYMBOL = "symbol"
    SESSION = "session"
    BAR_END = "bar_end"
    AS_OF = "as_of"
    HORIZON = "horizon"
    ENGINE = "engine"
    HAS_SHORT = "has_short"
    HAS_NEUTRAL = "has_neutral"
    HAS_LONG = "has_long"
    DIRECTION = "direction"
    EVIDENCE_ROWS = "evidence_rows"


@dataclass(frozen=True)
class ConformalSets:
    """A fitted threshold: a class is in the set where its probability is not too small.

    Attributes
    ----------
    coverage : float
        Declared share of rows whose set holds what happens.
    threshold : float
        A class is in where one less its probability is at most this; 1 puts every class in.
    rows : int
        What it was fitted on.

    Examples
    --------
    >>> sets = ConformalSets(coverage=0.8, threshold=0.6, rows=100)
    >>> sure, unsure = [0.1, 0.3, 0.6], [0.45, 0.1, 0.45]
    >>> sets.sets(np.array([sure, unsure])).tolist()
    [[False, False, True], [True, False, True]]
    >>> sets.directions(np.array([sure, unsure])).tolist()
    [1, 0]
    """

    coverage: float
    threshold: float
    rows: int

    def sets(self, probabilities: Vector) -> Sets:
        """Return which of short, neutral and long is in each row's set, (n, 3)."""
        return 1.0 - check_probabilities(probabilities) <= self.threshold

    def directions(self, probabilities: Vector) -> Directions:
        """Return 1 where the set is long alone, -1 where it is short alone, else 0: abstain."""
        return _directions(self.sets(probabilities))


def fit_conformal(
    probabilities: Vector, outcomes: npt.NDArray[np.generic], *, coverage: float
) -> ConformalSets:
    """Fit the threshold on past calibrated predictions, none of which the model learned from.

    Parameters
    ----------
    probabilities : (n, 3) float64
        Short, neutral, long.
    outcomes : (n,)
        -1, 0 or 1.
    coverage : float
        Above 0 and below 1.

    Returns
    -------
    ConformalSets
        Every class is in every set where ``n`` is too small for the coverage.

    Raises
    ------
    ModelError
        When the coverage is out of range, or rows are no distributions or no classes.

    Notes
    -----
    The threshold is the ``ceil((n + 1) * coverage)``-th smallest score. Where past and new rows
    are exchangeable, the set holds the class that happens with at least the declared
    probability, and at most ``1 / (n + 1)`` more without ties. Markets are not exchangeable:
    rows of one session share its shocks, and the past is not the future. There the coverage is
    a figure to be watched and no promise. It also speaks of all rows together, and neither of
    one row nor of those whose set is a single class.
    """
    if not 0.0 < coverage < 1.0:
        raise ModelError(
            "the coverage of prediction sets",
            got=coverage,
            allowed="above 0 and below 1",
            remedy="declare for instance 0.8",
        )
    matrix = check_probabilities(probabilities)
    classes = check_outcomes(outcomes, len(matrix))
    rows = len(matrix)
    rank = math.ceil((rows + 1) * coverage)
    if rank > rows:
        return ConformalSets(coverage, 1.0, rows)
    scores = 1.0 - matrix[np.arange(rows), classes]
    return ConformalSets(coverage, float(np.partition(scores, rank - 1)[rank - 1]), rows)


def conformal_walk_forward(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    coverage: float,
    rhythm: str = "1mo",
    max_sessions: int | None = WINDOW_SESSIONS,
) -> pl.DataFrame:
    """Return every prediction's set, by the outcomes known when its period began.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA``, from :func:`models.calibration.calibrate_walk_forward`.
    outcomes : pl.DataFrame
        ``OUTCOME_SCHEMA``.
    coverage : float
        Above 0 and below 1.
    rhythm, max_sessions
        See :func:`models.calibration.calibrate_walk_forward`.

    Returns
    -------
    pl.DataFrame
        ``SetColumn``, one row per prediction in their order: keys, which class is in the set,
        ``direction`` (i8; 1 or -1 where the set is that class alone, else 0) and
        ``evidence_rows``, on how many past rows the threshold rests.

    Raises
    ------
    ModelError
        See :func:`fit_conformal` and :func:`models.outcomes.join_outcomes`.
    """
    joined = join_outcomes(predictions, outcomes)
    matrix = probability_matrix(joined)
    happened = joined[Outcome.OUTCOME].fill_null(0).to_numpy()
    sets = np.ones(matrix.shape, dtype=np.bool_)
    evidence = np.zeros(len(matrix), dtype=np.int64)
    for period in walk_periods(joined, rhythm=rhythm, max_sessions=max_sessions):
        past = period.evidence
        fitted = fit_conformal(matrix[past], happened[past], coverage=coverage)
        sets[period.rows] = fitted.sets(matrix[period.rows])
        evidence[period.rows] = fitted.rows
    return predictions.select(
        Prediction.SYMBOL,
        Prediction.SESSION,
        Prediction.BAR_END,
        Prediction.AS_OF,
        Prediction.HORIZON,
        Prediction.ENGINE,
        pl.Series(SetColumn.HAS_SHORT, sets[:, 0]),
        pl.Series(SetColumn.HAS_NEUTRAL, sets[:, 1]),
        pl.Series(SetColumn.HAS_LONG, sets[:, 2]),
        pl.Series(SetColumn.DIRECTION, _directions(sets)),
        pl.Series(SetColumn.EVIDENCE_ROWS, evidence),
    )


def _directions(sets: Sets) -> Directions:
    alone = sets.sum(axis=1) == 1
    return (sets[:, 2] & alone).astype(np.int8) - (sets[:, 0] & alone).astype(np.int8)
