"""Drift of a horizon's models, judged by what is in the stores: for checks and for the sensor."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import polars as pl

from market.horizons import Horizon
from market.lake import Lake
from models.dataset import VOLATILITY
from models.decay import (
    LEAST_SESSIONS,
    CalibrationDrift,
    SkillDrift,
    calibration_drift,
    skill_drift,
)
from models.drift import feature_drift
from models.forecast import STORED_SCHEMA, Prediction
from models.inner_windows import Objective, session_scores
from models.registry_store import StoredTraining
from models.retraining import DriftLimits, Reason, Verdict, needs_retraining
from models.trained_features import TrainedFeatures, draw_alike
from pipelines.feature_run import feature_table
from pipelines.resources import Stores
from pipelines.scoring import LIVE_TABLE
from pipelines.settings import Settings
from pipelines.training import read_labels, training_features
from signals.schema import ENSEMBLE_ENGINE

# So many sessions of features at the least, where the training was long enough for as many.
LEAST_FEATURE_SESSIONS = 5
# Of the walk-forward, so that what is read stays bounded.
_WALKED_SESSIONS, _WALKED_INTRADAY = 504, 60


class _How(TypedDict):
    as_of: dt.datetime
    seed: int
    block: float
    recent_sessions: int


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of the ensemble whose outcomes are known.

    Attributes
    ----------
    walked, live : pl.DataFrame
        Predictions with ``excess_return`` and ``label_known_at``; live ones are of the sessions
        that are judged, the walk-forward's are of sessions before them.
    labels : pl.DataFrame
        What both were joined with.
    """

    walked: pl.DataFrame
    live: pl.DataFrame
    labels: pl.DataFrame

    def scores(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the rank IC of each session: of the walk-forward, and live."""
        walked, live = (
            session_scores(side, Objective.RANK_IC, 0.0) for side in (self.walked, self.live)
        )
        return walked, live


@dataclass(frozen=True)
class HorizonDrift:
    """What was found about one horizon.

    Attributes
    ----------
    horizon : Horizon
        Whose models.
    training : StoredTraining or None
        What the champions come from.
    verdict : Verdict or None
        ``None`` where there was too little to judge by.
    told : mapping
        For each reason one sentence: what was found, or what is missing.
    trained : TrainedFeatures or None
        The training's features, where they are judged.
    rows : pl.DataFrame or None
        The newest rows of these features.
    features, calibration, skill
        What was found, ``None`` where there was too little to judge by.
    forecasts : Forecasts or None
        What calibration and skill were judged by.
    sessions : mapping
        How many sessions each was judged by, or would be.
    """

    horizon: Horizon
    training: StoredTraining | None
    verdict: Verdict | None = None
    told: Mapping[Reason, str] = field(default_factory=dict)
    trained: TrainedFeatures | None = None
    rows: pl.DataFrame | None = None
    features: pl.DataFrame | None = None
    calibration: CalibrationDrift | None = None
    skill: SkillDrift | None = None
    forecasts: Forecasts | None = None
    sessions: Mapping[Reason, int] = field(default_factory=dict)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why to train again; empty where nothing asks for it."""
        return self.verdict.reasons if self.verdict is not None else ()


def least_sessions(horizon: Horizon) -> int:
    """Return how many sessions with outcomes are judged at the least.

    Two blocks of the bootstrap: where labels overlap, fewer would look more alike than they are.
    """
    return max(LEAST_SESSIONS, int(2 * block_of(horizon)))


def block_of(horizon: Horizon) -> float:
    """Return the mean length of the bootstrap's blocks, in sessions."""
    return float(max(5, 2 * horizon.sessions))


def state_of(stores: Stores, horizon: Horizon, training: StoredTraining) -> str:
    """Return what a verdict rests on, as text: while it is the same, so is the verdict."""
    bars = "bars_1m" if horizon.timeframe.is_intraday else "bars_1d"
    tables = (feature_table(horizon.timeframe), LIVE_TABLE, "predictions", bars)
    versions = [str(stores.lake.version(t)) for t in tables]
    return " ".join([training.run_id, training.since.isoformat(), *versions])


def judge_drift(
    stores: Stores, horizon: Horizon, now: dt.datetime, *, since_training: bool = False
) -> HorizonDrift:
    """Judge features, calibration and skill of a horizon's models.

    Parameters
    ----------
    stores : Stores
        Of the installation.
    horizon : Horizon
        A row of the horizons table.
    now : datetime
        Aware. What was known later is not looked at.
    since_training : bool
        Only forecasts since the present champions are it. Otherwise the newest ones, whichever
        champions made them; features are always those after the training.

    Raises
    ------
    ModelError
        When features of the training exist no longer, or the stores cannot be read.
    """
    training = stores.tracker.training(horizon.name)
    found = HorizonDrift(horizon, training)
    if training is None:
        return replace(found, told=dict.fromkeys(Reason, "no model is trained yet"))
    found = _judge_features(stores, found, training, now)
    since = training.since if since_training else None
    found = _judge_forecasts(
        stores.settings, found, _read_forecasts(stores, horizon, now, since), now
    )
    judged = [r for r in Reason if getattr(found, r.value) is not None]
    if not judged:
        return found
    verdict = needs_retraining(
        features=found.features,
        calibration=found.calibration,
        skill=found.skill,
        importance=found.trained.weights if found.trained is not None else None,
        limits=_limits(stores.settings),
    )
    findings = dict(zip(judged, verdict.findings, strict=True))
    return replace(found, verdict=verdict, told={**found.told, **findings})


def _limits(settings: Settings) -> DriftLimits:
    drift = settings.drift
    return DriftLimits(drift.drifted_share, drift.calibration_error, drift.rank_ic)


def _judge_features(
    stores: Stores, found: HorizonDrift, training: StoredTraining, now: dt.datetime
) -> HorizonDrift:
    trained = stores.tracker.trained_features(training)
    if trained is None:
        text = "the training kept no summary of its features: too short, or from ranks"
        return replace(found, told={Reason.FEATURES: text})
    reference = trained.reference
    rows = _newest_rows(stores, found.horizon, trained, now)
    sessions = rows["session"].n_unique()
    found = replace(found, sessions={Reason.FEATURES: sessions})
    least = min(LEAST_FEATURE_SESSIONS, reference.live_sessions)
    if sessions < least:
        text = (
            f"not enough sessions yet: {sessions} after the training's newest, {least} are needed"
        )
        return replace(found, told={Reason.FEATURES: text})
    drawn = draw_alike(rows, reference, seed=stores.settings.models.seed)
    limit = stores.settings.drift.psi_limit
    made = feature_drift(reference, drawn, psi_limit=limit)
    return replace(found, trained=trained, rows=drawn, features=made)


def _newest_rows(
    stores: Stores, horizon: Horizon, trained: TrainedFeatures, now: dt.datetime
) -> pl.DataFrame:
    table = training_features(stores, horizon.timeframe, after=trained.last_session)
    there = set(table.collect_schema().names())
    # One that is gone is for the judge to name.
    names = [f.name for f in trained.reference.features if f.name in there]
    known = table.filter((pl.col("as_of") <= now) & (pl.col(VOLATILITY) > 0))
    days = known.select(pl.col("session").unique().sort()).collect()["session"]
    newest = days.tail(min(stores.settings.drift.live_sessions, trained.reference.live_sessions))
    rows = known.filter(pl.col("session").is_in(newest.implode()))
    return rows.sort("bar_end", "symbol").select("session", *names).collect()


def _read_forecasts(
    stores: Stores, horizon: Horizon, now: dt.datetime, since: dt.datetime | None
) -> Forecasts | None:
    """Return the newest live forecasts with outcomes, and the walk-forward's before them."""
    lake, least = stores.lake, least_sessions(horizon)
    if not lake.exists(LIVE_TABLE) or not lake.exists("predictions"):
        return None
    most = max(stores.settings.drift.recent_sessions, least)
    # Outcomes of the newest are not known yet.
    days = sorted(lake.sessions(LIVE_TABLE))[-(most + horizon.sessions + 5) :]
    mine = (pl.col(Prediction.HORIZON) == horizon.name) & (
        pl.col(Prediction.ENGINE) == ENSEMBLE_ENGINE
    )
    known = mine & (pl.col(Prediction.AS_OF) <= now)
    made = lake.scan(LIVE_TABLE).filter(pl.col(Prediction.SESSION).is_in(days), known)
    if since is not None:
        made = made.filter(pl.col("run_as_of") >= since)
    live = made.collect()
    if live.is_empty():
        return None
    first: Any = live[Prediction.SESSION].min()
    walked = newest_walked(lake, horizon, known, first)
    begin = (walked if walked.height else live)[Prediction.SESSION].min()
    labels = read_labels(lake, horizon, begin).select(
        "symbol", "bar_end", "label_known_at", "excess_return"
    )
    live, walked = (_with_outcome(side, labels, now) for side in (live, walked))
    newest = live[Prediction.SESSION].unique().sort().tail(most)
    live = live.filter(pl.col(Prediction.SESSION).is_in(newest.implode()))
    return Forecasts(walked, live, labels)


def newest_walked(
    lake: Lake, horizon: Horizon, wanted: pl.Expr, before: dt.date | None
) -> pl.DataFrame:
    """Return the walk-forward's predictions of its newest sessions before one (or all).

    Of 504 sessions at most, and of 60 where bars are intraday.
    """
    table = lake.scan("predictions").filter(wanted)
    if before is not None:
        table = table.filter(pl.col(Prediction.SESSION) < before)
    days = table.select(pl.col(Prediction.SESSION).unique().sort()).collect().to_series()
    most = _WALKED_INTRADAY if horizon.timeframe.is_intraday else _WALKED_SESSIONS
    return table.filter(pl.col(Prediction.SESSION).is_in(days.tail(most).implode())).collect()


def _with_outcome(side: pl.DataFrame, labels: pl.DataFrame, now: dt.datetime) -> pl.DataFrame:
    arrived = labels.filter(pl.col("label_known_at") <= now, pl.col("excess_return").is_finite())
    keys = [Prediction.SYMBOL, Prediction.BAR_END]
    return side.join(arrived, on=keys, how="inner").sort(Prediction.BAR_END, Prediction.SYMBOL)


def _judge_forecasts(
    settings: Settings, found: HorizonDrift, forecasts: Forecasts | None, now: dt.datetime
) -> HorizonDrift:
    least = least_sessions(found.horizon)
    live = walked = 0
    if forecasts is not None:
        # Sessions of which a rank IC is known: three symbols or more with outcomes.
        walked, live = (side.height for side in forecasts.scores())
    reasons = (Reason.CALIBRATION, Reason.SKILL)
    found = replace(found, sessions={**found.sessions, **dict.fromkeys(reasons, live)})
    if forecasts is None or min(live, walked) < least:
        text = (
            f"not enough sessions yet: {live} live and {walked} of the walk-forward"
            f" with outcomes, {least} of each are needed"
        )
        return replace(found, told={**found.told, **dict.fromkeys(reasons, text)})
    sides = [s.select(STORED_SCHEMA.names()) for s in (forecasts.live, forecasts.walked)]
    how: _How = {
        "as_of": now,
        "seed": settings.models.seed,
        "block": block_of(found.horizon),
        "recent_sessions": max(settings.drift.recent_sessions, least),
    }
    labels = forecasts.labels
    return replace(
        found,
        forecasts=forecasts,
        calibration=calibration_drift(*sides, labels, band_bps=settings.band_bps, **how),
        skill=skill_drift(*sides, labels, **how),
    )
