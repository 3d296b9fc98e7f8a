"""What became of each prediction, and which of it was known when.

Everything that learns from past predictions (calibration, prediction sets) or judges them joins
the two tables here, so that the rule of what is known is written once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import polars as pl

from features.labels import classify_returns
from market.errors import ModelError
from market.schema import UTC_MICROSECONDS
from models.evaluation import Vector
from models.forecast import Prediction
from models.splits import Indices

CLASSES = (-1, 0, 1)
"""Short, neutral, long: the order of the columns of every matrix of probabilities."""

PROBABILITIES = (Prediction.P_SHORT, Prediction.P_NEUTRAL, Prediction.P_LONG)
RHYTHMS = ("1w", "1mo", "1q", "1y")
WINDOW_SESSIONS = 504
_NEVER = np.iinfo(np.int64).max
_ROW = "_row"


class Outcome(StrEnum):
    """Columns of the outcomes table; one row per symbol, time and horizon."""

    SYMBOL = "symbol"
    BAR_END = "bar_end"
    HORIZON = "horizon"
    OUTCOME = "outcome"
    EXCESS_RETURN = "excess_return"
    LABEL_KNOWN_AT = "label_known_at"


OUTCOME_SCHEMA = pl.Schema(
    {
        Outcome.SYMBOL: pl.String(),
        Outcome.BAR_END: UTC_MICROSECONDS,
        Outcome.HORIZON: pl.String(),
        Outcome.OUTCOME: pl.Int8(),
        Outcome.EXCESS_RETURN: pl.Float64(),
        Outcome.LABEL_KNOWN_AT: UTC_MICROSECONDS,
    }
)
_KEYS = (Outcome.SYMBOL, Outcome.BAR_END, Outcome.HORIZON)


@dataclass(frozen=True)
class Period:
    """One period of one engine and horizon, with what was known when it began.

    Attributes
    ----------
    horizon, engine : str
        Whose predictions these are.
    first_session : date
        Of the period.
    as_of : datetime
        The period's first ``as_of`` (UTC): nothing known later may be learned from.
    evidence : (e,) int64
        Rows whose outcome was known by then, of the newest sessions, in order of time.
    rows : (r,) int64
        Rows of the period.
    """

    horizon: str
    engine: str
    first_session: dt.date
    as_of: dt.datetime
    evidence: Indices
    rows: Indices


def outcomes_of(labels: pl.DataFrame, *, horizon: str, band_bps: float) -> pl.DataFrame:
    """Return the outcomes table of one horizon.

    Parameters
    ----------
    labels : pl.DataFrame
        From :func:`features.labels.forward_returns`.
    horizon : str
        Their horizon.
    band_bps : float
        Half-width of the neutral band; the one that made the predictions.

    Returns
    -------
    pl.DataFrame
        ``OUTCOME_SCHEMA``, one row per label that is known.

    Examples
    --------
    >>> from market.horizons import find_horizon
    >>> from market.synthetic import SyntheticSpec, generate
    >>> from features.labels import forward_returns
    >>> market = generate(SyntheticSpec(symbols=2, sessions=4, minute_sessions=0))
    >>> labels = forward_returns(market.daily, find_horizon("1d"))
    >>> outcomes_of(labels, horizon="1d", band_bps=6.0).shape
    (6, 6)
    """
    outcome = classify_returns(pl.col(Outcome.EXCESS_RETURN), pl.lit(band_bps / 1e4))
    return (
        labels.select(
            Outcome.SYMBOL,
            Outcome.BAR_END,
            pl.lit(horizon).alias(Outcome.HORIZON),
            outcome.alias(Outcome.OUTCOME),
            Outcome.EXCESS_RETURN,
            Outcome.LABEL_KNOWN_AT,
        )
        .drop_nulls()
        .cast(OUTCOME_SCHEMA)
    )


def join_outcomes(predictions: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return the predictions, in their order, with what became of them.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA``; further columns are kept.
    outcomes : pl.DataFrame
        ``OUTCOME_SCHEMA``; may lack rows, and ``excess_return``.

    Returns
    -------
    pl.DataFrame
        The predictions with ``outcome``, ``excess_return`` and ``label_known_at``, null where
        they are not there.

    Raises
    ------
    ModelError
        When a column is missing, an outcome is none of the three classes, a prediction has two
        outcomes, or an outcome was known no later than its prediction.
    """
    wanted = [c for c in OUTCOME_SCHEMA if c != Outcome.EXCESS_RETURN]
    _require(outcomes, wanted, "the outcomes table")
    _require(predictions, [*_KEYS, *PROBABILITIES, Prediction.AS_OF], "the predictions table")
    if Outcome.EXCESS_RETURN not in outcomes.columns:
        outcomes = outcomes.with_columns(pl.lit(None, pl.Float64).alias(Outcome.EXCESS_RETURN))
    strange = outcomes.filter(~pl.col(Outcome.OUTCOME).is_in(list(CLASSES)))
    if strange.height:
        raise ModelError(
            "an outcome is none of the three classes",
            got=strange[Outcome.OUTCOME][0],
            allowed="-1, 0 and 1, or null where it is not known",
            remedy="classify the excess returns first",
        )
    if outcomes.select(_KEYS).is_duplicated().any():
        raise ModelError(
            "a prediction has two outcomes",
            got=f"{outcomes.height} rows, {outcomes.select(_KEYS).n_unique()} different",
            allowed="one row per symbol, bar_end and horizon",
            remedy="give each outcome once",
        )
    joined = predictions.join(
        outcomes.select(list(OUTCOME_SCHEMA)), on=_KEYS, how="left", maintain_order="left"
    )
    early = joined.filter(pl.col(Outcome.LABEL_KNOWN_AT) <= pl.col(Prediction.AS_OF))
    if early.height:
        raise ModelError(
            "an outcome was known before its prediction was made",
            got=f"{early.height} rows, the first at {early[Outcome.LABEL_KNOWN_AT][0]}",
            allowed="outcomes known after the as_of of their prediction",
            remedy="correct label_known_at, or leave these rows out",
        )
    return joined


def probability_matrix(frame: pl.DataFrame) -> Vector:
    """Return the class probabilities (n, 3) of a predictions table."""
    return check_probabilities(frame.select(PROBABILITIES).to_numpy())


def check_probabilities(probabilities: Vector) -> Vector:
    """Return the matrix as float64, row after row in memory.

    Raises
    ------
    ModelError
        When its shape is not (n, 3), or a row is no distribution within 1e-6.
    """
    matrix = np.ascontiguousarray(probabilities, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != len(CLASSES):
        raise ModelError(
            "class probabilities have the wrong shape",
            got=matrix.shape,
            allowed="(n, 3): short, neutral, long",
            remedy="give one row per prediction",
        )
    # Written so that NaN fails, too.
    fine = (matrix >= 0.0).all(axis=1) & (np.abs(matrix.sum(axis=1) - 1.0) <= 1e-6)
    if not fine.all():
        raise ModelError(
            "class probabilities are no distribution",
            got=[float(v) for v in matrix[~fine][0]],
            allowed="0 or more, with a sum of 1",
            remedy="correct the engine's output",
        )
    return matrix


def check_outcomes(outcomes: npt.NDArray[np.generic], rows: int) -> Indices:
    """Return the column (0, 1, 2) of each outcome.

    Raises
    ------
    ModelError
        When there is not one per row, or one is none of -1, 0 and 1.
    """
    classes = np.asarray(outcomes)
    if classes.shape != (rows,) or not np.isin(classes, CLASSES).all():
        raise ModelError(
            "outcomes do not fit the predictions",
            got=f"shape {classes.shape}, values {np.unique(classes)[:5].tolist()}",
            allowed=f"{rows} values of -1, 0 and 1",
            remedy="leave rows out whose outcome is not known",
        )
    return classes.astype(np.int64) + 1


def walk_periods(
    joined: pl.DataFrame, *, rhythm: str, max_sessions: int | None
) -> Iterator[Period]:
    """Yield the periods of every horizon and engine in order of time.

    Parameters
    ----------
    joined : pl.DataFrame
        From :func:`join_outcomes`; in any order.
    rhythm : str
        Calendar weeks, months, quarters or years: ``1w``, ``1mo``, ``1q``, ``1y``.
    max_sessions : int, optional
        The newest sessions with known outcomes that count; all when ``None``.

    Yields
    ------
    Period
        Row numbers are those of ``joined``.

    Raises
    ------
    ModelError
        When the rhythm is not one of these, or the window is not positive.
    """
    if rhythm not in RHYTHMS or (max_sessions is not None and max_sessions < 1):
        raise ModelError(
            "rhythm or window of what is learned from past outcomes",
            got=f"{rhythm!r}, {max_sessions} sessions",
            allowed=f"{', '.join(RHYTHMS)}; 1 session or more, or None for all",
            remedy="correct the settings",
        )
    known_at = pl.when(pl.col(Outcome.OUTCOME).is_not_null()).then(pl.col(Outcome.LABEL_KNOWN_AT))
    ordered = joined.select(
        Prediction.HORIZON,
        Prediction.ENGINE,
        Prediction.SESSION,
        Prediction.AS_OF,
        Prediction.SYMBOL,
        pl.col(Prediction.SESSION).dt.truncate(rhythm).alias("_period"),
        known_at.to_physical().fill_null(_NEVER).alias("_known"),
        pl.int_range(pl.len(), dtype=pl.Int64).alias(_ROW),
    ).sort(
        Prediction.HORIZON,
        Prediction.ENGINE,
        Prediction.SESSION,
        Prediction.AS_OF,
        Prediction.SYMBOL,
    )
    for part in ordered.partition_by(Prediction.HORIZON, Prediction.ENGINE, maintain_order=True):
        yield from _walk_one(part, max_sessions)


def _walk_one(part: pl.DataFrame, max_sessions: int | None) -> Iterator[Period]:
    number = part[_ROW].to_numpy()
    known = part["_known"].to_numpy()
    session = part[Prediction.SESSION].to_physical().to_numpy()
    periods = (
        part.with_row_index("_at")
        .group_by("_period")
        .agg(
            pl.col("_at").min().alias("_from"),
            pl.len().alias("_rows"),
            pl.col(Prediction.SESSION).min(),
            pl.col(Prediction.AS_OF).min(),
            pl.col(Prediction.AS_OF).min().to_physical().alias("_moment"),
        )
        .sort("_from")
    )
    for row in periods.iter_rows(named=True):
        at = np.flatnonzero(known <= row["_moment"])
        if max_sessions is not None:
            begins = np.flatnonzero(np.diff(session[at], prepend=-1))
            at = at[begins[max(0, len(begins) - max_sessions)] :] if len(begins) else at
        yield Period(
            horizon=part[Prediction.HORIZON][0],
            engine=part[Prediction.ENGINE][0],
            first_session=row[Prediction.SESSION],
            as_of=row[Prediction.AS_OF],
            evidence=number[at],
            rows=number[row["_from"] : row["_from"] + row["_rows"]],
        )


def _require(frame: pl.DataFrame, columns: list[str], table: str) -> None:
    missing = [str(c) for c in columns if c not in frame.columns]
    if missing:
        raise ModelError(
            f"{table} lacks columns",
            got=missing,
            allowed=", ".join(columns),
            remedy="give a whole table",
        )
