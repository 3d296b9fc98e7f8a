"""Drift as checks on the models: per horizon one on features, one on calibration, one on skill.

They run by a job of their own, in the evening, so that no signal or order waits for them.
"""

import datetime as dt
from collections.abc import Iterator

import dagster as dg
import polars as pl

from market.horizons import Horizon
from models.card_tables import show_number, table
from models.confidence import reliability_table
from models.decay import CalibrationDrift, SkillDrift
from models.drift import bin_shares
from models.evaluation import Estimate
from models.outcomes import outcomes_of
from models.pictures import (
    as_markdown,
    draw_feature_shares,
    draw_live_reliability,
    draw_live_skill,
)
from models.retraining import Reason
from pipelines.drift import HorizonDrift, block_of, judge_drift
from pipelines.resources import Stores, moment_of
from pipelines.settings import Settings

ASSET = "models"
_SHOWN_FEATURES = 6
_QUESTIONS = {
    Reason.FEATURES: "Features of the newest sessions are distributed as in training.",
    Reason.CALIBRATION: "Live probabilities come true as often as the walk-forward's did.",
    Reason.SKILL: "Live forecasts rank as well as the walk-forward's did.",
}


def check_name(horizon: Horizon, reason: Reason) -> str:
    """Return the name of a check."""
    return f"drift_{horizon.name}_{reason.value}"


def build_drift_checks(settings: Settings) -> list[dg.AssetChecksDefinition]:
    """Return the drift checks of the horizons that are on."""
    return [_drift_checks(horizon) for horizon in settings.enabled_horizons]


def _drift_checks(horizon: Horizon) -> dg.AssetChecksDefinition:
    specs = [
        dg.AssetCheckSpec(
            name=check_name(horizon, reason),
            asset=ASSET,
            description=f"{horizon.name}: {text} A warning: trades go on.",
        )
        for reason, text in _QUESTIONS.items()
    ]

    @dg.multi_asset_check(name=f"drift_{horizon.name}", specs=specs, can_subset=True)
    def checks(
        context: dg.AssetCheckExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> Iterator[dg.AssetCheckResult]:
        now = moment_of(context)
        found = judge_drift(stores, horizon, now)
        wanted = {key.name for key in context.selected_asset_check_keys}
        for reason in _QUESTIONS:
            if check_name(horizon, reason) in wanted:
                yield _result(found, reason, stores.settings, now)

    return checks


def _result(
    found: HorizonDrift, reason: Reason, settings: Settings, now: dt.datetime
) -> dg.AssetCheckResult:
    training = found.training
    metadata: dict[str, object] = {
        "found": found.told[reason],
        "sessions": found.sessions.get(reason, 0),
        "champions since": training.since.isoformat() if training is not None else "none",
        "MLflow run": training.run_id if training is not None else "none",
    }
    if reason is Reason.FEATURES:
        metadata |= _of_features(found)
    elif reason is Reason.CALIBRATION and found.calibration is not None:
        metadata |= _of_calibration(found, found.calibration, settings, now)
    elif found.skill is not None:
        metadata |= _of_skill(found, found.skill)
    return dg.AssetCheckResult(
        check_name=check_name(found.horizon, reason),
        asset_key=ASSET,
        passed=reason not in found.reasons,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=metadata,
    )


def _of_features(found: HorizonDrift) -> dict[str, object]:
    if found.features is None or found.trained is None or found.rows is None:
        return {}
    worst = found.features.head(_SHOWN_FEATURES)
    trained = {f.name: f for f in found.trained.reference.features}
    pictured = {
        f"{name}: index {psi:.2f}{', drifted' if drifted else ''}": bin_shares(
            trained[name], found.rows
        )
        for name, psi, drifted in worst.select("feature", "psi", "drifted").iter_rows()
    }
    weight = found.trained.importance
    shown = worst.select(
        "feature",
        pl.col("feature").replace_strict(weight, default=0.0).alias("importance"),
        pl.col("psi").alias("index"),
        pl.col("psi_noise").alias("noise"),
        pl.col("ks").alias("distance"),
        pl.col("q_value"),
        pl.col("null_share_change").alias("more nulls"),
        "drifted",
    )
    share = found.verdict.drifted_share if found.verdict is not None else float("nan")
    return {
        "drifted share by importance": share,
        "features": found.features.height,
        "features that drifted": int(found.features["drifted"].sum()),
        "worst features": dg.MetadataValue.md(_table(shown)),
        "picture": _picture(
            "features then and now", draw_feature_shares(pictured, found.horizon.name)
        ),
    }


def _of_calibration(
    found: HorizonDrift, drift: CalibrationDrift, settings: Settings, now: dt.datetime
) -> dict[str, object]:
    measures = {
        "calibration error": drift.calibration_error,
        "Brier score": drift.brier,
        "log loss": drift.log_loss,
    }
    shown = pl.DataFrame(
        [
            {
                "measure": name,
                "walk-forward": change.reference,
                "live": change.recent,
                "worse by": change.difference.mean,
                "from": change.difference.low,
                "to": change.difference.high,
            }
            for name, change in measures.items()
        ]
    )
    metadata: dict[str, object] = {
        "calibration error worse by": drift.calibration_error.difference.mean,
        "measures": dg.MetadataValue.md(_table(shown)),
    }
    if found.forecasts is None:
        return metadata
    horizon, forecasts = found.horizon, found.forecasts
    outcomes = outcomes_of(forecasts.labels, horizon=horizon.name, band_bps=settings.band_bps)
    tables = [
        reliability_table(
            side.drop("label_known_at", "excess_return"),
            outcomes,
            as_of=now,
            seed=settings.models.seed,
            block=block_of(horizon),
        )
        for side in (forecasts.walked, forecasts.live)
    ]
    picture = draw_live_reliability(*tables, horizon.name)
    return metadata | {"picture": _picture("stated and observed probability", picture)}


def _of_skill(found: HorizonDrift, drift: SkillDrift) -> dict[str, object]:
    rows = {
        "walk-forward": drift.reference,
        "live": drift.recent,
        "live less walk-forward": drift.difference,
    }
    shown = pl.DataFrame([_row(name, estimate) for name, estimate in rows.items()])
    metadata: dict[str, object] = {
        "rank IC live": drift.recent.mean,
        "rank IC of the walk-forward": drift.reference.mean,
        "rank IC": dg.MetadataValue.md(_table(shown)),
    }
    if found.forecasts is None:
        return metadata
    means = (drift.reference, drift.recent)
    picture = draw_live_skill(*found.forecasts.scores(), means, found.horizon.name)
    return metadata | {"picture": _picture("rank IC live and in the walk-forward", picture)}


def _row(name: str, estimate: Estimate) -> dict[str, object]:
    return {
        "": name,
        "rank IC": estimate.mean,
        "from": estimate.low,
        "to": estimate.high,
        "sessions": estimate.periods,
    }


def _picture(name: str, png: bytes) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(as_markdown(name, png))


def _table(frame: pl.DataFrame) -> str:
    return table(frame.columns, [[_cell(v) for v in row] for row in frame.iter_rows()])


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return show_number(value) if isinstance(value, float) else str(value)
