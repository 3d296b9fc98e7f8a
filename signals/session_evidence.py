"""What outcomes say of a horizon's past forecasts, session by session.

The weights, the meta-learner and the scale look at all of the past. What they need of a session
does not change once its outcomes are known, so a training keeps it, and a scheduled run works out
the sessions since.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Self, cast

import polars as pl

from market import calendar
from market.horizons import Horizon
from models.ensemble import META_ENGINE
from models.forecast import Prediction
from models.recipe import is_challenger
from models.session_moments import MOMENT_SCHEMA, Moment, session_moments
from signals.schema import ENSEMBLE_ENGINE
from signals.weighting import SKILL_SCHEMA, blend_by_month, session_skill


@dataclass(frozen=True)
class SessionEvidence:
    """Skill and moments of every session of one horizon.

    Attributes
    ----------
    skill : pl.DataFrame
        From :func:`signals.weighting.session_skill`, of all engines but the ensemble.
    moments : pl.DataFrame
        ``models.session_moments.MOMENT_SCHEMA``: of the engines below the meta-learner, among
        each other, where there is one; and of the ensemble, whose expected returns are not
        scaled here.
    """

    skill: pl.DataFrame
    moments: pl.DataFrame

    @classmethod
    def none(cls) -> Self:
        """Return the evidence before any forecast."""
        return cls(pl.DataFrame(schema=SKILL_SCHEMA), pl.DataFrame(schema=MOMENT_SCHEMA))

    @property
    def last(self) -> dt.date | None:
        """The newest session of which the skill is there."""
        return cast("dt.date | None", self.skill["session"].max())

    def needed_from(self, as_of: dt.datetime, sessions: int) -> dt.date | None:
        """Return from which session on predictions are needed beside this; ``None``: all.

        Parameters
        ----------
        as_of : datetime
            Aware.
        sessions : int
            So many of every engine, with outcomes known by then, are needed in any case.
        """
        if self.last is None:
            return None
        known = self.skill.filter(pl.col("known_at") <= as_of).sort("session", descending=True)
        newest = known.group_by("engine").agg(
            pl.col("session").get(sessions - 1, null_on_oob=True).alias("first")
        )
        if newest.height < self.skill["engine"].n_unique() or newest["first"].null_count():
            return None
        # Weights of a month are those of its first moment, so that a begun one is needed whole.
        month = calendar.offset_session(self.last, 1).replace(day=1)
        return min(*newest["first"].to_list(), month)


def gather_evidence(
    predictions: pl.DataFrame,
    labels: pl.DataFrame,
    regimes: pl.DataFrame,
    horizon: Horizon,
    settled: SessionEvidence | None = None,
) -> SessionEvidence:
    """Return what outcomes say of every session.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA`` of one horizon, out of sample, raw. At the ensemble's own rows nothing
        is looked at: its blend is made again, month by month.
    labels : pl.DataFrame
        ``symbol``, ``bar_end``, ``label_known_at``, ``excess_return``.
    regimes : pl.DataFrame
        From :func:`features.regime.classify_regimes`.
    horizon : Horizon
        Of the predictions.
    settled : SessionEvidence, optional
        From :func:`settled_evidence` of the same predictions. Sessions up to its last are taken
        from there; then predictions are needed from :meth:`SessionEvidence.needed_from` on
        only, and the result is the same.
    """
    known = settled or SessionEvidence.none()
    rows = predictions.filter(pl.col(Prediction.ENGINE) != ENSEMBLE_ENGINE)
    later = pl.lit(True) if known.last is None else pl.col(Prediction.SESSION) > known.last
    outcome = labels.select("symbol", "bar_end", "label_known_at", "excess_return")
    keys = ["symbol", "bar_end"]
    scored = rows.filter(later).join(outcome, on=keys, how="left")
    if scored.is_empty():
        return known
    skill = pl.concat([known.skill, session_skill(scored)]).sort("engine", "session")
    engines = {*rows[Prediction.ENGINE].unique(), *known.skill["engine"].unique()}
    core = sorted(e for e in engines if not is_challenger(e))
    begin = min(scored[Prediction.SESSION].unique().to_list()).replace(day=1)
    months = rows.filter(
        pl.col(Prediction.ENGINE).is_in(core) & (pl.col(Prediction.SESSION) >= begin)
    )
    blended = blend_by_month(months, skill, regimes, core).filter(later)
    moments = [
        known.moments,
        session_moments(blended.join(outcome, on=keys, how="left"), [ENSEMBLE_ENGINE]),
    ]
    if horizon.stacked:
        moments.append(session_moments(scored, [e for e in core if e != META_ENGINE]))
    order = (Moment.SESSION, Moment.ENGINE, Moment.OTHER)
    return SessionEvidence(skill, pl.concat(moments).sort(order))


def settled_evidence(
    evidence: SessionEvidence, horizon: Horizon, newest: dt.date
) -> SessionEvidence:
    """Return the part of which all outcomes are known that ever will be.

    Parameters
    ----------
    evidence : SessionEvidence
        From :func:`gather_evidence`.
    horizon : Horizon
        Whose.
    newest : date
        The newest session that was forecast. Labels of the horizon's last sessions are not
        there yet, or not of all bars; one session more is left out for the delay of data.
    """
    until = calendar.offset_session(newest, -(horizon.sessions + 1))
    skill = evidence.skill.filter(pl.col("session") <= until)
    last = skill["session"].max()
    if last is None:
        return SessionEvidence(skill, evidence.moments.clear())
    return SessionEvidence(skill, evidence.moments.filter(pl.col(Moment.SESSION) <= last))
