"""Whether live forecasts are still as good as the walk-forward's, as outcomes arrive."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from market.errors import ModelError
from models.evaluation import Estimate, Vector, bootstrap_mean
from models.forecast import Prediction
from models.inner_windows import Objective, session_scores
from models.resampling import stationary_counts

_BINS = 10
LEAST_SESSIONS = 20
_ONE_OF = ("engine", "horizon")


@dataclass(frozen=True, slots=True)
class SkillDrift:
    """Rank IC of live forecasts against the walk-forward's.

    Attributes
    ----------
    reference : Estimate
        Mean per session out of sample.
    recent : Estimate
        Mean of the recent live sessions.
    difference : Estimate
        Recent less reference, with its 95 percent interval.
    """

    reference: Estimate
    recent: Estimate
    difference: Estimate

    @property
    def decayed(self) -> bool:
        """Whether the interval says that skill was lost."""
        return self.difference.high < 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """One measure, then and now; ``difference`` is now less then, with its interval."""

    reference: float
    recent: float
    difference: Estimate


@dataclass(frozen=True, slots=True)
class CalibrationDrift:
    """Class probabilities of live forecasts against the walk-forward's; less is better.

    Attributes
    ----------
    brier : Change
        Squared distance of the three probabilities from what happened, 0 to 2.
    log_loss : Change
        Negative logarithm of the probability of what happened.
    calibration_error : Change
        Mean distance of probability and frequency, over ten bins and three classes.
    """

    brier: Change
    log_loss: Change
    calibration_error: Change

    @property
    def worsened(self) -> bool:
        """Whether the interval says that probabilities are further from frequencies.

        Brier score and log loss also move with how uncertain the market is: they are reported and
        decide nothing.
        """
        return self.calibration_error.difference.low > 0.0


def skill_drift(
    live: pl.DataFrame,
    walked: pl.DataFrame,
    labels: pl.DataFrame,
    *,
    as_of: dt.datetime,
    seed: int,
    block: float,
    recent_sessions: int = 60,
) -> SkillDrift:
    """Hold the rank IC of live forecasts against that of the walk-forward.

    Parameters
    ----------
    live, walked : pl.DataFrame
        ``PREDICTION_SCHEMA``, of one engine and one horizon.
    labels : pl.DataFrame
        ``symbol``, ``bar_end``, ``label_known_at`` and ``excess_return`` of both periods.
    as_of : datetime
        Aware. Outcomes known later are not looked at.
    seed : int
        Of the resampling.
    block : float
        Mean block length in sessions; more than the horizon.
    recent_sessions : int
        How many of the newest live sessions with outcomes count, 20 or more. Those of the
        walk-forward end before the first of them.

    Returns
    -------
    SkillDrift
        Decayed only where the interval of the difference lies below zero.

    Raises
    ------
    ModelError
        When forecasts are mixed, or either side has fewer than 20 sessions with outcomes.

    Notes
    -----
    Both series are resampled in blocks, each for itself (Politis and Romano, 1994). Who looks
    every session sees one false alarm in forty looks that are far enough apart.

    Examples
    --------
    >>> from features.labels import forward_returns
    >>> from market.horizons import find_horizon
    >>> from market.synthetic import SyntheticSpec, generate
    >>> bars = generate(SyntheticSpec(symbols=5, sessions=80, minute_sessions=0)).daily
    >>> labels = forward_returns(bars, find_horizon("1d"))
    >>> guess = labels.select("symbol", "session", "bar_end", "as_of", engine=pl.lit("linear"),
    ...     horizon=pl.lit("1d"), expected_return_bps=pl.col("excess_return").fill_null(0.0))
    >>> first = guess["session"].unique().sort()[50]
    >>> early = guess["session"] < first
    >>> live, walked = guess.filter(~early), guess.filter(early)
    >>> drift = skill_drift(live, walked, labels, as_of=labels["as_of"].max(), seed=1, block=5.0)
    >>> drift.recent.mean, drift.decayed
    (1.0, False)
    """
    then, now = _sides(live, walked, labels, as_of, recent_sessions)
    before = session_scores(then, Objective.RANK_IC, 0.0)["score"].to_numpy()
    recent = session_scores(now, Objective.RANK_IC, 0.0)["score"].to_numpy()
    return SkillDrift(
        bootstrap_mean(before, seed=seed, block=block),
        bootstrap_mean(recent, seed=seed, block=block),
        difference_of_means(recent, before, seed=seed, block=block),
    )


def calibration_drift(
    live: pl.DataFrame,
    walked: pl.DataFrame,
    labels: pl.DataFrame,
    *,
    as_of: dt.datetime,
    band_bps: float,
    seed: int,
    block: float,
    recent_sessions: int = 60,
) -> CalibrationDrift:
    """Hold the class probabilities of live forecasts against those of the walk-forward.

    Parameters
    ----------
    live, walked, labels, as_of, seed, block, recent_sessions
        See :func:`skill_drift`.
    band_bps : float
        A return inside plus or minus this band is neutral.

    Returns
    -------
    CalibrationDrift
        Worsened only where the interval of the calibration error's difference lies above zero.

    Raises
    ------
    ModelError
        As :func:`skill_drift`.

    Notes
    -----
    The calibration error of few rows is large by chance alone. So the recent one is held against
    what as many sessions drawn from the walk-forward, in blocks, show: the interval is that of
    the recent error less theirs. It is the class-wise error of Kull et al. (2019).

    Examples
    --------
    >>> from features.labels import forward_returns
    >>> from market.horizons import find_horizon
    >>> from market.synthetic import SyntheticSpec, generate
    >>> bars = generate(SyntheticSpec(symbols=5, sessions=80, minute_sessions=0)).daily
    >>> labels = forward_returns(bars, find_horizon("1d"))
    >>> guess = labels.select("symbol", "session", "bar_end", "as_of", engine=pl.lit("linear"),
    ...     horizon=pl.lit("1d"), p_short=0.4, p_neutral=0.2, p_long=0.4)
    >>> sure = guess.with_columns(p_short=0.0, p_neutral=0.0, p_long=1.0)
    >>> first = guess["session"].unique().sort()[50]
    >>> early = guess["session"] < first
    >>> walked = guess.filter(early)
    >>> both = dict(as_of=labels["as_of"].max(), band_bps=20.0, seed=1, block=5.0)
    >>> calibration_drift(guess.filter(~early), walked, labels, **both).worsened
    False
    >>> calibration_drift(sure.filter(~early), walked, labels, **both).worsened
    True
    """
    then, now = _sides(live, walked, labels, as_of, recent_sessions)
    before, recent = (_Judged.of(side, band_bps) for side in (then, now))
    draws = _both(recent.sessions, before.sessions, seed, block)
    # As many sessions as the recent ones, from the walk-forward.
    alike = stationary_counts(
        before.sessions,
        length=recent.sessions,
        block=block,
        rng=np.random.default_rng([seed, 2]),
    )
    error = float(recent.error(np.ones((1, recent.sessions)))[0])
    expected = before.error(alike)
    return CalibrationDrift(
        _change(recent.brier, before.brier, draws),
        _change(recent.log_loss, before.log_loss, draws),
        Change(
            float(before.error(np.ones((1, before.sessions)))[0]),
            error,
            _estimate(error - float(expected.mean()), error - expected, recent.sessions),
        ),
    )


def difference_of_means(recent: Vector, before: Vector, *, seed: int, block: float) -> Estimate:
    """Return the difference of two series' means with a bootstrapped 95 percent interval.

    Parameters
    ----------
    recent, before : (n,), (m,) float64
        In order of time.
    seed : int
        Of the resampling.
    block : float
        Mean block length.

    Returns
    -------
    Estimate
        Recent less before; ``periods`` are the recent ones.

    Examples
    --------
    >>> found = difference_of_means(np.ones(30), np.zeros(90), seed=1, block=5.0)
    >>> found.mean, found.low, found.high, found.periods
    (1.0, 1.0, 1.0, 30)
    """
    draws = _both(len(recent), len(before), seed, block)
    return _change(recent, before, draws).difference


def _change(recent: Vector, before: Vector, draws: tuple[Vector, Vector]) -> Change:
    now, then = float(recent.mean()), float(before.mean())
    made = draws[0] @ recent / len(recent) - draws[1] @ before / len(before)
    return Change(then, now, _estimate(now - then, made, len(recent)))


def _estimate(mean: float, draws: Vector, periods: int) -> Estimate:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(mean, float(low), float(high), periods)


def _both(recent: int, before: int, seed: int, block: float) -> tuple[Vector, Vector]:
    """Return the resamples of two series, each with a chance of its own."""
    now, then = (np.random.default_rng([seed, side]) for side in (0, 1))
    return (
        stationary_counts(recent, block=block, rng=now),
        stationary_counts(before, block=block, rng=then),
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    """Per session: mean scores, and the sums from which a calibration error follows."""

    brier: Vector
    log_loss: Vector
    rows: Vector
    surplus: npt.NDArray[np.float64]

    @property
    def sessions(self) -> int:
        return len(self.rows)

    def error(self, weight: Vector) -> Vector:
        """Return the calibration error of each weighting of sessions, (draws,)."""
        gaps = np.abs(weight @ self.surplus).sum(axis=1)
        return gaps / (weight @ self.rows) / 3.0

    @classmethod
    def of(cls, frame: pl.DataFrame, band_bps: float) -> _Judged:
        frame = frame.sort("session", maintain_order=True)
        session = (frame["session"].rank("dense").cast(pl.Int64) - 1).to_numpy()
        p = frame.select(Prediction.P_SHORT, Prediction.P_NEUTRAL, Prediction.P_LONG).to_numpy()
        outcome, band = frame["excess_return"].to_numpy(), band_bps / 1e4
        happened = (outcome > band).astype(np.int64) - (outcome < -band) + 1
        hit = np.eye(3)[happened]
        rows = np.bincount(session).astype(np.float64)
        brier = np.bincount(session, weights=((p - hit) ** 2).sum(axis=1)) / rows
        bins = np.minimum((p * _BINS).astype(np.int64), _BINS - 1) + _BINS * np.arange(3)
        place = session[:, None] * (3 * _BINS) + bins
        surplus = np.bincount(
            place.ravel(), weights=(p - hit).ravel(), minlength=len(rows) * 3 * _BINS
        ).astype(np.float64)
        loss = session_scores(frame, Objective.LOG_LOSS, band_bps)["score"].to_numpy()
        return cls(brier, loss, rows, surplus.reshape(len(rows), 3 * _BINS))


def _sides(
    live: pl.DataFrame,
    walked: pl.DataFrame,
    labels: pl.DataFrame,
    as_of: dt.datetime,
    recent_sessions: int,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the walk-forward's and the recent forecasts whose outcomes are known."""
    kinds = pl.concat([live.select(*_ONE_OF), walked.select(*_ONE_OF)]).unique().sort(*_ONE_OF)
    if kinds.height != 1:
        raise ModelError(
            "forecasts of more than one engine or horizon cannot be judged together",
            got=[f"{engine} {horizon}" for engine, horizon in kinds.iter_rows()][:5],
            allowed="one engine of one horizon on both sides",
            remedy="filter them",
        )
    outcome = labels.filter(pl.col("label_known_at") <= as_of).select(
        "symbol", "bar_end", "excess_return"
    )
    then, now = (
        side.join(outcome, on=["symbol", "bar_end"], how="inner")
        .filter(pl.col("excess_return").is_finite())
        .sort("bar_end", "symbol")
        for side in (walked, live)
    )
    newest = now["session"].unique().sort().tail(recent_sessions)
    now = now.filter(pl.col("session").is_in(newest.implode()))
    then = then.filter(pl.col("session") < newest.min()) if len(newest) else then
    found = (len(newest), then["session"].n_unique())
    if min(found) < LEAST_SESSIONS:
        raise ModelError(
            "too few sessions with outcomes to judge by",
            got=f"{found[0]} recent, {found[1]} of the walk-forward",
            allowed=f"{LEAST_SESSIONS} or more of each",
            remedy="wait for outcomes, or raise recent_sessions",
        )
    return then, now
