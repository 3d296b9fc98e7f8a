"""Predictions beside what became of them, as arrays by session: what every measure starts from."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import polars as pl

from market.errors import ModelError
from models.evaluation import Vector
from models.forecast import Prediction
from models.outcomes import Outcome, join_outcomes, probability_matrix
from models.splits import Indices


@dataclass(frozen=True)
class Judged:
    """Predictions of one engine and horizon with known outcomes, in order of time.

    Attributes
    ----------
    frame : pl.DataFrame
        From :func:`models.outcomes.join_outcomes`.
    probabilities : (n, 3) float64
        Short, neutral, long.
    classes : (n,) int64
        Column of what happened.
    session : (n,) int64
        Number of the session, from 0.
    sessions : int
        How many there are.
    """

    frame: pl.DataFrame
    probabilities: Vector
    classes: Indices
    session: Indices
    sessions: int

    def sums(self, values: Vector, groups: Indices | None = None, of: int = 1) -> Vector:
        """Return sums of values per session and group, (sessions, of)."""
        cell = self.session * of + (0 if groups is None else groups)
        found = np.bincount(cell, values, minlength=self.sessions * of)
        return found.reshape(-1, of).astype(np.float64)


def judge(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    as_of: dt.datetime,
    with_returns: bool = False,
) -> Judged:
    """Return the predictions of one engine and horizon whose outcome is known at ``as_of``.

    Parameters
    ----------
    predictions, outcomes : pl.DataFrame
        ``PREDICTION_SCHEMA`` and ``OUTCOME_SCHEMA``.
    as_of : datetime
        Aware. Outcomes known later are not looked at.
    with_returns : bool
        Only rows with an ``excess_return``.

    Raises
    ------
    ModelError
        When there are several engines or horizons (one return would count several times), or no
        outcome is known.
    """
    frame = _judged_rows(predictions, outcomes, as_of=as_of)
    if with_returns:
        frame = frame.filter(pl.col(Outcome.EXCESS_RETURN).is_finite())
        if frame.is_empty():
            raise ModelError(
                "no outcome has an excess return",
                got=f"{outcomes.height} outcomes",
                allowed="excess_return beside the class",
                remedy="make outcomes with models.outcomes.outcomes_of",
            )
    session = frame[Prediction.SESSION].rank("dense").cast(pl.Int64).to_numpy() - 1
    classes = frame[Outcome.OUTCOME].cast(pl.Int64).to_numpy() + 1
    return Judged(frame, probability_matrix(frame), classes, session, int(session[-1]) + 1)


def equal_bins(forecast: Vector, bins: int) -> tuple[Indices, int]:
    """Return each forecast's bin of about equal size, from 0, and how many there are.

    Equal forecasts share a bin; none is empty.

    Examples
    --------
    >>> group, of = equal_bins(np.array([0.1, 0.4, 0.2, 0.3]), 2)
    >>> group.tolist(), of
    ([0, 1, 0, 1], 2)
    """
    if bins < 1:
        raise ModelError(
            "number of bins",
            got=bins,
            allowed="1 or more",
            remedy="leave it out for the default",
        )
    below = np.searchsorted(np.sort(forecast), forecast, side="left")
    used, group = np.unique(below * bins // max(1, len(forecast)), return_inverse=True)
    return group, len(used)


def _judged_rows(
    predictions: pl.DataFrame, outcomes: pl.DataFrame, *, as_of: dt.datetime
) -> pl.DataFrame:
    mixed = predictions.select(Prediction.HORIZON, Prediction.ENGINE).unique()
    if mixed.height > 1:
        raise ModelError(
            "predictions of several engines or horizons are judged together",
            got=sorted(mixed.rows())[:4],
            allowed="one engine and one horizon at a time",
            remedy="filter the predictions first",
        )
    known = join_outcomes(predictions, outcomes).filter(
        (pl.col(Outcome.LABEL_KNOWN_AT) <= as_of) & pl.col(Outcome.OUTCOME).is_not_null()
    )
    if known.is_empty():
        raise ModelError(
            f"no outcome is known at {as_of.isoformat()}",
            got=f"{predictions.height} predictions, {outcomes.height} outcomes",
            allowed="one or more",
            remedy="wait until the first horizon has passed",
        )
    return known.sort(Prediction.SESSION, Prediction.AS_OF, Prediction.SYMBOL)
