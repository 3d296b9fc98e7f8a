"""Whether an ensemble is worse than its best member by more than noise.

Rank ICs are compared session by session, because both forecast the same rows. Which member is
best can be said in two ways: in hindsight, over the very sessions on which it is then compared
(unfair to the ensemble, for the best of several looks better than it is), or on the first half of
the sessions, with the comparison on the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np
import polars as pl

from market.errors import ModelError
from models.evaluation import Estimate, Vector
from models.session_bootstrap import share_intervals

LEAST_SESSIONS = 20
"""Sessions that ensemble and members must share: ten on each side of the middle."""


class Verdict(StrEnum):
    """What the interval of a difference says."""

    BETTER = "better"
    WORSE = "worse"
    WITHIN_NOISE = "within noise"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class MemberGap:
    """Mean rank IC of the ensemble less that of a member, with its 95 percent interval."""

    member: str
    difference: Estimate

    @property
    def verdict(self) -> Verdict:
        """Whether the ensemble is better or worse than the member by more than noise.

        ``unknown`` where there are too few sessions for an interval.
        """
        if not math.isfinite(self.difference.low + self.difference.high):
            return Verdict.UNKNOWN
        if self.difference.low > 0.0:
            return Verdict.BETTER
        return Verdict.WORSE if self.difference.high < 0.0 else Verdict.WITHIN_NOISE


@dataclass(frozen=True, slots=True)
class EnsembleReport:
    """An ensemble beside its members.

    Attributes
    ----------
    ensemble : str
        The engine that is judged.
    skill : dict
        Mean rank IC with its interval of the ensemble and of each member, by engine.
    gaps : tuple of MemberGap
        Against each member, by name.
    hindsight : MemberGap
        Against the member with the highest mean over all sessions.
    foresight : MemberGap
        Against the member with the highest mean in the first half of the sessions, on the second.
    """

    ensemble: str
    skill: dict[str, Estimate]
    gaps: tuple[MemberGap, ...]
    hindsight: MemberGap
    foresight: MemberGap


def ensemble_report(
    daily: pl.DataFrame,
    ensemble: str,
    members: Sequence[str],
    *,
    seed: int,
    block: float,
    draws: int = 1000,
) -> EnsembleReport:
    """Compare an ensemble with its members on the sessions that all of them have.

    Parameters
    ----------
    daily : pl.DataFrame
        ``engine``, ``session``, ``rank_ic``, as from :func:`signals.weighting.session_skill`;
        other columns and engines are not looked at.
    ensemble : str
        The engine that is judged.
    members : sequence of str
        What it is made of.
    seed, block, draws
        See :func:`models.session_bootstrap.share_intervals`.

    Returns
    -------
    EnsembleReport
        Of equal members the first by name counts as best.

    Raises
    ------
    ModelError
        When there are no members, the ensemble is one of them, an engine has two values for a
        session, or fewer than 20 sessions have a finite value of all of them.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.normal(0.02, 0.1, 300), rng.normal(0.02, 0.1, 300)
    >>> daily = pl.DataFrame(
    ...     {
    ...         "engine": ["a"] * 300 + ["b"] * 300 + ["mix"] * 300,
    ...         "session": [*range(300)] * 3,
    ...         "rank_ic": [*a, *b, *(0.7 * (a + b))],
    ...     }
    ... )
    >>> report = ensemble_report(daily, "mix", ["a", "b"], seed=1, block=5.0)
    >>> report.hindsight.member, report.hindsight.verdict.value
    ('b', 'within noise')
    """
    names = sorted(members)
    series = _aligned(daily, ensemble, names)
    estimate = partial(mean_interval, seed=seed, block=block, draws=draws)
    own = series[ensemble]
    best = _best(series, names, slice(None))
    half = len(own) // 2
    early = _best(series, names, slice(None, half))
    return EnsembleReport(
        ensemble=ensemble,
        skill={n: estimate(series[n]) for n in (ensemble, *names)},
        gaps=tuple(MemberGap(n, estimate(own - series[n])) for n in names),
        hindsight=MemberGap(best, estimate(own - series[best])),
        foresight=MemberGap(early, estimate((own - series[early])[half:])),
    )


def mean_interval(values: Vector, *, seed: int, block: float, draws: int = 1000) -> Estimate:
    """Return the mean of a value per session with its 95 percent interval.

    The interval is that of :func:`models.session_bootstrap.share_intervals`, which allows for
    short samples; NaN below 10 sessions.

    Examples
    --------
    >>> mean_interval(np.ones(50), seed=1, block=5.0)
    Estimate(mean=1.0, low=1.0, high=1.0, periods=50)
    """
    column = np.asarray(values, dtype=np.float64)[:, None]
    found = share_intervals(
        column, np.ones_like(column), seed=seed, block=block, draws=draws, binary=False
    )
    return Estimate(float(found.share[0]), float(found.low[0]), float(found.high[0]), len(column))


def _best(series: dict[str, Vector], names: list[str], part: slice) -> str:
    return max(names, key=lambda n: float(series[n][part].mean()))


def _aligned(daily: pl.DataFrame, ensemble: str, names: list[str]) -> dict[str, Vector]:
    if not names or ensemble in names or len(set(names)) < len(names):
        raise ModelError(
            "an ensemble and its members",
            got=f"{ensemble!r} of {names}",
            allowed="one member or more, each once, the ensemble not among them",
            remedy="name the engines that it is made of",
        )
    wanted = [ensemble, *names]
    rows = daily.filter(pl.col("engine").is_in(wanted) & pl.col("rank_ic").is_finite())
    if rows.select("engine", "session").is_duplicated().any():
        raise ModelError(
            "an engine has two rank ICs for one session",
            got=f"{rows.height} rows",
            allowed="one per engine and session",
            remedy="average within the session first, and give one horizon at a time",
        )
    missing = sorted(set(wanted) - set(rows["engine"].unique()))
    # No pivot: an engine may be called like any column.
    whole = rows.filter(pl.len().over("session") == len(wanted)).sort("session")
    sessions = whole["session"].n_unique()
    if missing or sessions < LEAST_SESSIONS:
        raise ModelError(
            "too few sessions to compare an ensemble with its members",
            got=f"no rank IC of {missing}" if missing else f"{sessions} sessions",
            allowed=f"{LEAST_SESSIONS} sessions or more that all of them have",
            remedy="give predictions of the same period for all engines",
        )
    ranks = whole.partition_by("engine", as_dict=True)
    return {n: ranks[n,]["rank_ic"].to_numpy().astype(np.float64) for n in wanted}
