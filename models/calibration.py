"""Probabilities that mean what they say: calibration on past out-of-sample predictions.

What was forecast with 60 percent should happen in 60 percent of the cases. The map from raw to
calibrated probabilities is learned from predictions whose outcome is known, and chosen by its
log loss on the newer part of them (Gneiting and Raftery 2007: the log loss is a proper score).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from market.errors import ModelError
from market.horizons import Horizon, find_horizon
from models.calibration_maps import (
    Counts,
    Knots,
    apply_isotonic,
    apply_platt,
    count_alike,
    fit_isotonic,
    fit_platt,
    mean_log_loss,
)
from models.evaluation import Vector
from models.forecast import Prediction
from models.outcomes import (
    PROBABILITIES,
    WINDOW_SESSIONS,
    Outcome,
    check_outcomes,
    check_probabilities,
    join_outcomes,
    probability_matrix,
    walk_periods,
)
from models.splits import Indices

MIN_SESSIONS = 120
# A session of intraday bars has many moments, and what they are like changes sooner.
_INTRADAY_SESSIONS = (40, 120)
_OLDER_SHARE = 0.7
_OLDER_OBSERVATIONS = 8.0
_NEWER_OBSERVATIONS = 3.0
_PLATT_ROWS = 200
_ISOTONIC_ROWS = 1000


class Method(StrEnum):
    """How a calibrator maps; from the simplest on, and the simpler wins a tie."""

    IDENTITY = "identity"
    PLATT = "platt"
    ISOTONIC = "isotonic"


@dataclass(frozen=True)
class Calibrator:
    """A fitted map of class probabilities, made of plain values only.

    Attributes
    ----------
    method : Method
        Which map.
    coefficients : tuple of float
        Of :func:`models.calibration_maps.apply_platt`.
    knots : tuple
        Of :func:`models.calibration_maps.apply_isotonic`.
    rows, sessions : int
        What it was fitted on.
    losses : tuple of (method, float)
        Log loss of each candidate on the newer part of the evidence; empty when there was too
        little to choose by.

    Examples
    --------
    >>> raw = np.array([[0.2, 0.3, 0.5]])
    >>> Calibrator(Method.PLATT, coefficients=(0.0, 0.0, 1.0, 0.0)).apply(raw).round(3).tolist()
    [[0.339, 0.322, 0.339]]
    >>> Calibrator.from_json(Calibrator().to_json()) == Calibrator()
    True
    """

    method: Method = Method.IDENTITY
    coefficients: tuple[float, ...] = ()
    knots: tuple[Knots, ...] = ()
    rows: int = 0
    sessions: int = 0
    losses: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.coefficients), len(self.knots))
        wanted = {Method.IDENTITY: (0, 0), Method.PLATT: (4, 0), Method.ISOTONIC: (0, 3)}
        curves = all(len(x) == len(y) > 0 for x, y in self.knots)
        if self.method not in wanted or shape != wanted[self.method] or not curves:
            raise ModelError(
                f"a calibrator by {self.method} lacks its values",
                got=f"{shape[0]} coefficients, {shape[1]} curves",
                allowed="identity without any, platt with 4 coefficients, isotonic with 3 curves",
                remedy="fit it again",
            )

    def apply(self, probabilities: Vector) -> Vector:
        """Return calibrated probabilities (n, 3); every row by itself, with a sum of 1.

        Raises
        ------
        ModelError
            When the rows are no distributions over short, neutral and long.
        """
        raw = check_probabilities(probabilities)
        if self.method is Method.PLATT:
            return apply_platt(self.coefficients, raw)
        return apply_isotonic(self.knots, raw) if self.method is Method.ISOTONIC else raw

    def to_json(self) -> str:
        """Return all of it as JSON; numbers are written so that they are read to the bit."""
        return orjson.dumps(self, option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def from_json(cls, text: str) -> Calibrator:
        """Return the calibrator that :meth:`to_json` wrote.

        Raises
        ------
        ModelError
            When it is something else.
        """
        try:
            read: Mapping[str, Any] = orjson.loads(text)
            return cls(
                method=Method(read["method"]),
                coefficients=tuple(float(v) for v in read["coefficients"]),
                knots=tuple(
                    (tuple(float(v) for v in x), tuple(float(v) for v in y))
                    for x, y in read["knots"]
                ),
                rows=int(read["rows"]),
                sessions=int(read["sessions"]),
                losses=tuple((str(name), float(loss)) for name, loss in read["losses"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"a stored calibrator cannot be read ({error})",
                got=text[:80],
                allowed="what Calibrator.to_json wrote",
                remedy="fit it again",
            ) from error


@dataclass(frozen=True)
class CalibrationStep:
    """What was chosen for one period of one engine and horizon, and from what.

    ``as_of`` is the period's first; ``known_at`` when the newest outcome that counted was known,
    ``None`` where there was none.
    """

    horizon: str
    engine: str
    first_session: dt.date
    as_of: dt.datetime
    known_at: dt.datetime | None
    calibrator: Calibrator


def fit_calibrator(
    probabilities: Vector,
    outcomes: npt.NDArray[np.generic],
    weights: Vector | None = None,
    *,
    sessions: npt.NDArray[np.generic] | None = None,
    gap: int = 0,
) -> Calibrator:
    """Choose a map on the newer part of past predictions, then fit it on all of them.

    Parameters
    ----------
    probabilities : (n, 3) float64
        Out of sample: short, neutral, long. In order of time.
    outcomes : (n,)
        -1, 0 or 1. All must be known; the caller sees to it that they are of the past.
    weights : (n,) float64, optional
        Positive; all alike when ``None``.
    sessions : (n,), optional
        Session of each row, ascending; each row its own when ``None``.
    gap : int
        Sessions left out between the older part, on which candidates are fitted, and the newer
        part, on which they are compared: over how many sessions a label reaches. That many
        sessions count as one observation.

    Returns
    -------
    Calibrator
        By identity where there is too little to choose by: fewer than 200 rows, one class only,
        or fewer than 8 independent sessions in the older or 3 in the newer part. Isotonic is no
        candidate below 1,000 rows in the older part (Niculescu-Mizil and Caruana 2005).

    Raises
    ------
    ModelError
        When shapes differ, rows are no distributions, sessions are not in order of time, a
        weight is not positive, or the gap is negative.

    Notes
    -----
    The older part is the first 70 percent of the sessions, the gap included.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bold = rng.dirichlet([1.0, 1.0, 1.0], 3000)
    >>> outcomes = rng.integers(-1, 2, 3000)
    >>> fitted = fit_calibrator(bold, outcomes)
    >>> fitted.method.value, fitted.apply(bold[:1]).round(1).tolist()
    ('platt', [[0.3, 0.3, 0.3]])
    """
    matrix = check_probabilities(probabilities)
    classes = check_outcomes(outcomes, len(matrix))
    weight = _check_weights(weights, len(matrix))
    number = _number_sessions(sessions, len(matrix), gap)
    seen = int(number[-1]) + 1 if len(number) else 0
    plain = Calibrator(rows=len(matrix), sessions=seen)
    overlap = max(1, gap)
    begin = round(_OLDER_SHARE * seen)
    older, newer = number < begin - gap, number >= begin
    enough = begin - gap >= _OLDER_OBSERVATIONS * overlap
    enough &= seen - begin >= _NEWER_OBSERVATIONS * overlap
    if not enough or len(matrix) < _PLATT_ROWS or np.ptp(classes[older]) == 0:
        return plain

    def count(rows: npt.NDArray[np.bool_], sessions: int) -> Counts:
        one = float(weight[rows].sum()) * overlap / sessions
        return count_alike(matrix[rows], classes[rows], weight[rows], one)

    past = count(older, begin - gap)
    recent, happened = matrix[newer], classes[newer]
    methods = list(Method) if int(older.sum()) >= _ISOTONIC_ROWS else list(Method)[:2]
    candidates = {m: _fit(m, past) for m in methods}
    losses = {
        m: mean_log_loss(c.apply(recent), happened, weight[newer]) for m, c in candidates.items()
    }
    best = min(methods, key=lambda m: losses[m])
    whole = past if best is Method.IDENTITY else count(number >= 0, seen)
    fitted = _fit(best, whole)
    return Calibrator(
        method=best,
        coefficients=fitted.coefficients,
        knots=fitted.knots,
        rows=len(matrix),
        sessions=seen,
        losses=tuple((m.value, losses[m]) for m in methods),
    )


def calibrate_walk_forward(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    rhythm: str = "1mo",
    min_sessions: int = MIN_SESSIONS,
    max_sessions: int | None = WINDOW_SESSIONS,
) -> tuple[pl.DataFrame, list[CalibrationStep]]:
    """Calibrate every period's predictions by what was known when the period began.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA``, out of sample, of any engines and horizons, in any order.
    outcomes : pl.DataFrame
        ``OUTCOME_SCHEMA``; predictions without a row here are calibrated, and teach nothing.
    rhythm : str
        How often a map is fitted anew: ``1w``, ``1mo``, ``1q`` or ``1y`` of the calendar.
    min_sessions : int
        Sessions with known outcomes before which probabilities stay raw.
    max_sessions : int, optional
        The newest sessions that count; all when ``None``.

    Returns
    -------
    (pl.DataFrame, list of CalibrationStep)
        The predictions, in their order and with the same columns, and one step per period,
        engine and horizon in order of time.

    Raises
    ------
    ModelError
        When the window is shorter than ``min_sessions``; see also
        :func:`models.outcomes.join_outcomes` and :func:`models.outcomes.walk_periods`.

    Notes
    -----
    A row of a period may be calibrated by outcomes known up to the period's first ``as_of`` and
    by no other: changing any later outcome changes no bit of it.
    """
    if max_sessions is not None and max_sessions < min_sessions:
        raise ModelError(
            "nothing would ever be calibrated",
            got=f"at least {min_sessions} sessions of the newest {max_sessions}",
            allowed="max_sessions of min_sessions or more, or None",
            remedy="widen the window",
        )
    joined = join_outcomes(predictions, outcomes)
    raw = probability_matrix(joined)
    calibrated = raw.copy()
    steps: list[CalibrationStep] = []
    columns = _Evidence.of(joined, raw)
    for period in walk_periods(joined, rhythm=rhythm, max_sessions=max_sessions):
        fitted = columns.fit(period.evidence, period.horizon, min_sessions)
        calibrated[period.rows] = fitted.apply(raw[period.rows])
        known_at = columns.newest(period.evidence)
        steps.append(
            CalibrationStep(
                horizon=period.horizon,
                engine=period.engine,
                first_session=period.first_session,
                as_of=period.as_of,
                known_at=known_at,
                calibrator=fitted,
            )
        )
    return _with_probabilities(predictions, calibrated), steps


def fit_latest(
    past: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    as_of: dt.datetime,
    min_sessions: int = MIN_SESSIONS,
    max_sessions: int = WINDOW_SESSIONS,
) -> dict[str, Calibrator]:
    """Return the map of each engine of one horizon by what is known now.

    Parameters
    ----------
    past : pl.DataFrame
        ``PREDICTION_SCHEMA``: out-of-sample predictions of one horizon, raw.
    outcomes : pl.DataFrame
        ``OUTCOME_SCHEMA``.
    as_of : datetime
        Aware. Outcomes known later are not looked at.
    min_sessions, max_sessions : int
        See :func:`calibrate_walk_forward`.

    Returns
    -------
    dict
        Engine to its map; identity for one that has too little evidence.
    """
    known = join_outcomes(past, outcomes).filter(pl.col(Outcome.LABEL_KNOWN_AT) <= as_of)
    order = (Prediction.SESSION, Prediction.AS_OF, Prediction.SYMBOL)
    maps: dict[str, Calibrator] = {}
    for engine in past[Prediction.ENGINE].unique().sort():
        seen = known.filter(pl.col(Prediction.ENGINE) == engine).sort(order)
        sessions = seen[Prediction.SESSION].unique().sort().tail(max_sessions)
        seen = seen.filter(pl.col(Prediction.SESSION).is_in(sessions.implode()))
        evidence = _Evidence.of(seen, probability_matrix(seen))
        horizon = past[Prediction.HORIZON][0]
        maps[engine] = evidence.fit(np.arange(seen.height), horizon, min_sessions)
    return maps


def calibrate(latest: pl.DataFrame, maps: Mapping[str, Mapping[str, Calibrator]]) -> pl.DataFrame:
    """Return predictions with calibrated probabilities, in their order.

    Parameters
    ----------
    latest : pl.DataFrame
        ``PREDICTION_SCHEMA`` at least, raw.
    maps : mapping
        Horizon to its engines' maps, from :func:`fit_latest`. An engine that is not there stays
        raw.
    """
    raw = probability_matrix(latest)
    calibrated = raw.copy()
    groups = [Prediction.HORIZON, Prediction.ENGINE]
    places = latest.select(groups).with_row_index("_row").group_by(groups).agg("_row")
    for horizon, engine, listed in places.iter_rows():
        found = maps.get(horizon, {}).get(engine)
        if found is not None:
            rows = np.asarray(listed, dtype=np.int64)
            calibrated[rows] = found.apply(raw[rows])
    return _with_probabilities(latest, calibrated)


def windows_of(horizon: Horizon) -> tuple[int, int]:
    """Return the least and the most sessions of outcomes that a map is learned from."""
    if horizon.timeframe.is_intraday:
        return _INTRADAY_SESSIONS
    return MIN_SESSIONS, WINDOW_SESSIONS


def _with_probabilities(predictions: pl.DataFrame, matrix: Vector) -> pl.DataFrame:
    return predictions.with_columns(
        pl.Series(name, np.ascontiguousarray(matrix[:, k])) for k, name in enumerate(PROBABILITIES)
    )


@dataclass(frozen=True)
class _Evidence:
    """The columns that calibrators are fitted on, row by row of the predictions."""

    probabilities: Vector
    outcome: npt.NDArray[np.generic]
    session: npt.NDArray[np.generic]
    known_at: pl.Series

    @classmethod
    def of(cls, joined: pl.DataFrame, raw: Vector) -> _Evidence:
        outcome = joined[Outcome.OUTCOME].fill_null(0).to_numpy()
        session = joined["session"].to_physical().to_numpy()
        return cls(raw, outcome, session, joined[Outcome.LABEL_KNOWN_AT])

    def fit(self, rows: Indices, horizon: str, min_sessions: int) -> Calibrator:
        session = self.session[rows]
        seen = int(np.count_nonzero(session[1:] != session[:-1])) + 1 if len(session) else 0
        if seen < min_sessions:
            return Calibrator(rows=len(rows), sessions=seen)
        gap = find_horizon(horizon).sessions
        return fit_calibrator(
            self.probabilities[rows], self.outcome[rows], sessions=session, gap=gap
        )

    def newest(self, rows: Indices) -> dt.datetime | None:
        newest: Any = self.known_at[rows].max() if len(rows) else None
        return newest


def _fit(method: Method, counts: Counts) -> Calibrator:
    if method is Method.PLATT:
        return Calibrator(method, coefficients=fit_platt(counts))
    if method is Method.ISOTONIC:
        return Calibrator(method, knots=fit_isotonic(counts))
    return Calibrator()


def _check_weights(weights: Vector | None, rows: int) -> Vector:
    if weights is None:
        return np.ones(rows)
    checked = np.asarray(weights, dtype=np.float64)
    if checked.shape != (rows,) or not (np.isfinite(checked) & (checked > 0.0)).all():
        raise ModelError(
            "weights do not fit the predictions",
            got=f"shape {checked.shape}",
            allowed=f"{rows} positive numbers",
            remedy="leave rows out that should not count",
        )
    return checked


def _number_sessions(sessions: npt.NDArray[np.generic] | None, rows: int, gap: int) -> Indices:
    """Return the number of each row's session, from 0."""
    if gap < 0:
        raise ModelError(
            "the gap between older and newer sessions",
            got=gap,
            allowed="0 or more",
            remedy="give the sessions over which a label reaches",
        )
    if sessions is None:
        return np.arange(rows)
    values: Any = np.asarray(sessions)
    if values.shape != (rows,) or (values[1:] < values[:-1]).any():
        raise ModelError(
            "sessions do not fit the predictions",
            got=f"shape {values.shape}",
            allowed=f"{rows} sessions in order of time",
            remedy="sort the rows by time",
        )
    fresh = np.ones(rows, dtype=np.int64)
    fresh[1:] = values[1:] != values[:-1]
    return np.cumsum(fresh) - 1
