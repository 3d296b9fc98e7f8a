"""What a training keeps of its sessions' outcomes, so that a scheduled run need not look again.

Predictions and these tables are written one after the other. What is read here is checked
against the predictions: where a training was killed between the writes, or the tables are older
than Isobar's keeping of them, everything is worked out from all predictions.
"""

from __future__ import annotations

import datetime as dt

import polars as pl

from market.horizons import Horizon
from market.lake import Lake
from models.forecast import Prediction
from models.session_moments import MOMENT_SCHEMA, Moment
from signals.schema import ENSEMBLE_ENGINE
from signals.session_evidence import SessionEvidence, gather_evidence, settled_evidence
from signals.weighting import SKILL_SCHEMA

SKILL_TABLE, MOMENTS_TABLE = "session_skill", "session_moments"


def keep_settled(
    lake: Lake,
    horizon: Horizon,
    predictions: pl.DataFrame,
    labels: pl.DataFrame,
    regimes: pl.DataFrame,
) -> None:
    """Keep the settled evidence of predictions that were just written, under the lake's lock.

    Parameters
    ----------
    lake, horizon
        Where, and whose.
    predictions, labels, regimes : pl.DataFrame
        See :func:`signals.session_evidence.gather_evidence`.
    """
    newest = max(predictions[Prediction.SESSION].unique().to_list())
    evidence = gather_evidence(predictions, labels, regimes, horizon)
    settled = settled_evidence(evidence, horizon, newest)
    by = [Prediction.ENGINE, Prediction.SESSION]
    versions = predictions.group_by(by).agg(pl.col(Prediction.MODEL_VERSION).max())
    named = pl.lit(horizon.name).alias(Prediction.HORIZON)
    # The skill names the models, so it comes last: see read_settled.
    lake.replace(MOMENTS_TABLE, settled.moments.with_columns(named), [horizon.name])
    skill = settled.skill.join(versions, on=by, how="left", maintain_order="left")
    lake.replace(SKILL_TABLE, skill.with_columns(named), [horizon.name])


def read_settled(lake: Lake, horizon: Horizon, as_of: dt.datetime) -> SessionEvidence | None:
    """Return the settled evidence of the predictions that are in the lake.

    Returns
    -------
    SessionEvidence or None
        ``None`` where there is none of this horizon, or it is that of other predictions: their
        models in its last session are not the same.
    """
    if not (lake.exists(SKILL_TABLE) and lake.exists(MOMENTS_TABLE)):
        return None
    own = pl.col(Prediction.HORIZON) == horizon.name
    stored = lake.scan(SKILL_TABLE).filter(own).sort("engine", "session").collect()
    if stored.is_empty():
        return None
    last = max(stored["session"].unique().to_list())
    then = pl.col(Prediction.SESSION) == last
    kept = stored.filter(then).select(Prediction.ENGINE, Prediction.MODEL_VERSION)
    there = (
        lake.scan("predictions")
        .filter(own & then & (pl.col(Prediction.ENGINE) != ENSEMBLE_ENGINE))
        .group_by(Prediction.ENGINE)
        .agg(pl.col(Prediction.MODEL_VERSION).max())
        .sort(Prediction.ENGINE)
        .collect()
    )
    if not kept.equals(there) or last > as_of.date():
        return None
    order = (Moment.SESSION, Moment.ENGINE, Moment.OTHER)
    moments = lake.scan(MOMENTS_TABLE).filter(own & (pl.col(Moment.SESSION) <= last)).sort(order)
    return SessionEvidence(
        stored.select(SKILL_SCHEMA.names()).cast(SKILL_SCHEMA),
        moments.select(MOMENT_SCHEMA.names()).cast(MOMENT_SCHEMA).collect(),
    )
