"""How an ensemble compares with its members, and whether it is worse by more than noise.

Engines are compared on the rows that all of them forecast, session by session, because the rows
of a session share its shocks. Intervals are from whole sessions drawn again in blocks (Politis
and Romano 1994).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import polars as pl

from market.errors import ModelError
from models.evaluation import Estimate, Vector, bootstrap_mean
from models.forecast import Prediction
from models.outcomes import Outcome
from models.scores import session_losses
from models.session_scores import bar_coefficients, session_means

ENSEMBLE = "ensemble"
MIN_EARLIER_SESSIONS = 60
"""Sessions with known outcomes before a best member is chosen by them."""

_MIN_SESSIONS = 10
_KNOWN_AT = "_known_at"
_KEYS = (Prediction.SYMBOL, Prediction.BAR_END)


class Measure(StrEnum):
    """By what engines are compared; a positive difference is the ensemble's."""

    RANK_IC = "rank_ic"
    LOG_LOSS = "log_loss"


class Choice(StrEnum):
    """Which member the ensemble is held against."""

    EACH = "each"
    HINDSIGHT = "hindsight"
    EARLIER = "earlier"


class Standing(StrEnum):
    """What the interval of the difference says about the ensemble."""

    BETTER = "better"
    NO_WORSE = "no worse than noise"
    WORSE = "worse"
    UNKNOWN = "too few sessions"


class Contrast(StrEnum):
    """Columns of the comparison; one row per measure and choice, and per member for ``each``."""

    MEASURE = "measure"
    CHOICE = "choice"
    MEMBER = "member"
    ENSEMBLE = "ensemble"
    BEST = "best"
    DIFFERENCE = "difference"
    LOW = "low"
    HIGH = "high"
    SESSIONS = "sessions"
    STANDING = "standing"


CONTRAST_SCHEMA = pl.Schema(
    {
        Contrast.MEASURE: pl.String(),
        Contrast.CHOICE: pl.String(),
        Contrast.MEMBER: pl.String(),
        Contrast.ENSEMBLE: pl.Float64(),
        Contrast.BEST: pl.Float64(),
        Contrast.DIFFERENCE: pl.Float64(),
        Contrast.LOW: pl.Float64(),
        Contrast.HIGH: pl.Float64(),
        Contrast.SESSIONS: pl.Int64(),
        Contrast.STANDING: pl.String(),
    }
)


def ensemble_against_members(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    as_of: dt.datetime,
    seed: int,
    block: float,
    ensemble: str = ENSEMBLE,
    members: Sequence[str] | None = None,
    min_sessions: int = MIN_EARLIER_SESSIONS,
    draws: int = 2000,
) -> pl.DataFrame:
    """Hold the ensemble against each member, and against the best of them.

    Parameters
    ----------
    predictions, outcomes : pl.DataFrame
        ``PREDICTION_SCHEMA`` of one horizon and ``OUTCOME_SCHEMA``.
    as_of : datetime
        Aware. Outcomes known later are not looked at.
    seed : int
        Of the resampling.
    block : float
        Mean length of a block in sessions, 1 or more; about twice the overlap of labels.
    ensemble : str
        The engine that is judged.
    members : sequence of str, optional
        Engines it is held against; all others when ``None``.
    min_sessions : int
        Sessions with known outcomes before a best member is chosen by them.
    draws : int
        Number of resamples.

    Returns
    -------
    pl.DataFrame
        ``CONTRAST_SCHEMA``. ``difference`` is the mean over sessions of the ensemble's rank IC
        less the member's, or of the member's log loss less the ensemble's: positive where the
        ensemble is better. ``hindsight`` holds it against the member that was best over the same
        sessions, which favours the member by the luck it was chosen for. ``earlier`` holds it, in
        every session, against the member that was best by all outcomes known before that
        session's first forecast: what could have been chosen then; ``member`` names the one
        chosen most often.

    Raises
    ------
    ModelError
        When there is no ensemble or no member.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> times = [dt.datetime(2024, 1, 1, 21, tzinfo=dt.UTC) + dt.timedelta(days=k // 9)
    ...     for k in range(900)]
    >>> keys = pl.DataFrame({"symbol": [f"S{k % 9}" for k in range(900)], "bar_end": times,
    ...     "as_of": times, "session": [t.date() for t in times], "horizon": "1d"})
    >>> truth, third = rng.standard_normal(900), pl.lit(1.0 / 3.0)
    >>> outcomes = keys.select("symbol", "bar_end", "horizon",
    ...     pl.Series("outcome", np.sign(truth).astype(np.int8)),
    ...     pl.Series("excess_return", truth),
    ...     (pl.col("bar_end") + pl.duration(days=1)).alias("label_known_at"))
    >>> told = pl.concat(keys.with_columns(pl.lit(engine).alias("engine"),
    ...         third.alias("p_short"), third.alias("p_neutral"), third.alias("p_long"),
    ...         pl.Series("expected_return_bps", truth + noise * rng.standard_normal(900)))
    ...     for engine, noise in (("ensemble", 1.0), ("good", 3.0), ("poor", 30.0)))
    >>> later = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    >>> found = ensemble_against_members(told, outcomes, as_of=later, seed=1, block=2.0)
    >>> found.filter(measure="rank_ic")["choice", "member", "standing", "sessions"].rows()[2:]
    [('hindsight', 'good', 'better', 100), ('earlier', 'good', 'better', 40)]
    """
    engines = _engines(predictions, ensemble, members)
    shared = _shared(predictions.filter(pl.col(Prediction.ENGINE).is_in(engines)), len(engines))
    parts: list[pl.DataFrame] = []
    for measure in Measure:
        series = _series(shared, outcomes, engines, measure, as_of)
        parts.append(
            _compare(
                series, measure, engines, seed=seed, block=block, least=min_sessions, draws=draws
            )
        )
    return pl.concat(parts)


def session_rank_ic(
    predictions: pl.DataFrame, outcomes: pl.DataFrame, *, as_of: dt.datetime
) -> pl.DataFrame:
    """Return the mean rank IC of every session of one engine.

    Parameters
    ----------
    predictions, outcomes, as_of
        As for :func:`models.scores.brier`.

    Returns
    -------
    pl.DataFrame
        ``session`` and ``rank_ic``, ascending; coefficients of several bars are averaged.
    """
    known = _known(outcomes, as_of)
    frame = predictions.join(known, on=_KEYS, how="inner")
    return session_means(bar_coefficients(frame)).select(Prediction.SESSION, "rank_ic")


def _engines(
    predictions: pl.DataFrame, ensemble: str, members: Sequence[str] | None
) -> tuple[str, ...]:
    there = sorted(predictions[Prediction.ENGINE].unique())
    wanted = [e for e in there if e != ensemble] if members is None else sorted(set(members))
    missing = sorted({ensemble, *wanted} - set(there))
    if missing or not wanted or ensemble in wanted:
        raise ModelError(
            "an ensemble cannot be held against its members",
            got=f"ensemble {ensemble}, members {', '.join(wanted) or 'none'}",
            allowed=f"engines with predictions: {', '.join(there)}",
            remedy="name an ensemble and one or more other engines",
        )
    return (ensemble, *wanted)


def _shared(predictions: pl.DataFrame, engines: int) -> pl.DataFrame:
    """Return the rows that every engine has: none is judged on easier ones."""
    whole = predictions.group_by(_KEYS).len().filter(pl.col("len") == engines).select(_KEYS)
    return predictions.join(whole, on=_KEYS, how="semi")


def _known(outcomes: pl.DataFrame, as_of: dt.datetime) -> pl.DataFrame:
    return outcomes.filter(pl.col(Outcome.LABEL_KNOWN_AT) <= as_of).select(
        *_KEYS, Outcome.EXCESS_RETURN, Outcome.LABEL_KNOWN_AT
    )


def _series(
    shared: pl.DataFrame,
    outcomes: pl.DataFrame,
    engines: Sequence[str],
    measure: Measure,
    as_of: dt.datetime,
) -> pl.DataFrame:
    """Return, per session that all engines have, each one's measure and when it was known."""
    times = (
        shared.filter(pl.col(Prediction.ENGINE) == engines[0])
        .join(_known(outcomes, as_of), on=_KEYS)
        .group_by(Prediction.SESSION)
        .agg(
            pl.col(Prediction.AS_OF).min(),
            pl.col(Outcome.LABEL_KNOWN_AT).max().alias(_KNOWN_AT),
        )
    )
    if times.is_empty():
        return times.with_columns(pl.lit(None, pl.Float64).alias(e) for e in engines)
    for engine in engines:
        mine = shared.filter(pl.col(Prediction.ENGINE) == engine)
        if measure is Measure.RANK_IC:
            found = session_rank_ic(mine, outcomes, as_of=as_of)
        else:
            # The sign is turned round: more is better, as with the rank IC.
            losses = session_losses(mine, outcomes, as_of=as_of)
            found = losses.select(Prediction.SESSION, -pl.col(measure.value))
        times = times.join(found.rename({measure.value: engine}), on=Prediction.SESSION)
    return times.sort(Prediction.SESSION)


def _compare(
    series: pl.DataFrame,
    measure: Measure,
    engines: Sequence[str],
    *,
    seed: int,
    block: float,
    least: int,
    draws: int,
) -> pl.DataFrame:
    ensemble = series[engines[0]].to_numpy()
    members = series.select(engines[1:]).to_numpy()
    sign = 1.0 if measure is Measure.RANK_IC else -1.0

    def row(choice: Choice, name: str | None, mine: Vector, other: Vector) -> dict[str, object]:
        estimate = bootstrap_mean(mine - other, seed=seed, block=block, draws=draws)
        return {
            Contrast.MEASURE: measure.value,
            Contrast.CHOICE: choice.value,
            Contrast.MEMBER: name,
            Contrast.ENSEMBLE: sign * float(mine.mean()) if len(mine) else float("nan"),
            Contrast.BEST: sign * float(other.mean()) if len(other) else float("nan"),
            Contrast.DIFFERENCE: estimate.mean,
            Contrast.LOW: estimate.low,
            Contrast.HIGH: estimate.high,
            Contrast.SESSIONS: estimate.periods,
            Contrast.STANDING: _standing(estimate).value,
        }

    names = engines[1:]
    rows = [row(Choice.EACH, n, ensemble, members[:, k]) for k, n in enumerate(names)]
    best = int(members.mean(axis=0).argmax()) if len(members) else 0
    rows.append(row(Choice.HINDSIGHT, names[best], ensemble, members[:, best]))
    chosen = _best_by_earlier(series, members, least)
    at = np.flatnonzero(chosen >= 0)
    often = names[int(np.bincount(chosen[at]).argmax())] if len(at) else None
    rows.append(row(Choice.EARLIER, often, ensemble[at], members[at, chosen[at]]))
    return pl.DataFrame(rows, schema=CONTRAST_SCHEMA)


def _best_by_earlier(series: pl.DataFrame, members: Vector, least: int) -> np.ndarray:
    """Return, per session, the member with the best mean of what was known then; -1: too little."""
    # A session counts from when it and all before it were known.
    known = series[_KNOWN_AT].cum_max().to_physical().to_numpy()
    begun = series[Prediction.AS_OF].to_physical().to_numpy()
    seen = np.searchsorted(known, begun, side="right")
    sums = np.vstack([np.zeros(members.shape[1]), members.cumsum(axis=0)])
    best = sums[seen].argmax(axis=1)
    return np.where(seen >= max(1, least), best, -1)


def _standing(difference: Estimate) -> Standing:
    if difference.periods < _MIN_SESSIONS:
        return Standing.UNKNOWN
    if difference.low > 0.0:
        return Standing.BETTER
    return Standing.WORSE if difference.high < 0.0 else Standing.NO_WORSE
