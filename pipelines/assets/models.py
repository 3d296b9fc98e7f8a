"""Training: out-of-sample predictions into the lake, champions into MLflow."""

import datetime as dt
import math
import time
from collections.abc import Callable

import dagster as dg
import polars as pl

from market import calendar
from market.horizons import find_horizon
from models.forecast import Prediction
from pipelines.cluster import training_request, training_retries
from pipelines.freshness import EVERY_MONTH
from pipelines.partitions import horizon_partitions
from pipelines.resources import Progress, Stores, moment_of
from pipelines.settings import Settings
from pipelines.training import TrainingSummary
from pipelines.training_process import TrainingRequest, train_apart
from signals.schema import ENSEMBLE_ENGINE

GROUP = "models"
# A machine has room for one training at a time: dagster.yaml gives every pool one run.
POOL = "training"
OWNERS = ["team:research"]


class PeriodConfig(dg.Config):
    """Out-of-sample period; ISO dates, empty for the default."""

    start: str = ""
    end: str = ""


def parse_date(text: str) -> dt.date | None:
    """Return the date, or ``None`` for an empty text."""
    return dt.date.fromisoformat(text) if text else None


def build_model_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the training asset, partitioned by horizon."""

    @dg.asset(
        partitions_def=horizon_partitions(settings),
        deps=["dataset_version", "regimes"],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"xgboost", "lightgbm", "mlflow"},
        pool=POOL,
        freshness_policy=EVERY_MONTH,
        op_tags=training_request(settings.cluster),
        retry_policy=training_retries(settings.cluster),
        description="Purged walk-forward of every engine and the regime-weighted ensemble; "
        "the newest models become champions.",
    )
    def models(
        context: dg.AssetExecutionContext,
        config: PeriodConfig,
        stores: dg.ResourceParam[Stores],
    ) -> dg.MaterializeResult:
        horizon = find_horizon(context.partition_key)
        now = moment_of(context)
        end = parse_date(config.end)
        summary, peak = train_apart(
            TrainingRequest(
                settings=stores.settings,
                horizon=horizon.name,
                start=parse_date(config.start),
                end=end,
                as_of=_as_of(now, end),
                now=now,
            ),
            memory_bytes=int(stores.settings.models.memory_gb * 1e9),
            progress=_Progress(f"training {horizon.name}", stores.progress, context.log.info),
        )
        return dg.MaterializeResult(metadata=_metadata(summary, peak))

    return [models]


class _Progress:
    """Tells the terminal of every step, and the log of every tenth of them with the time left."""

    def __init__(self, what: str, shown: Progress, log: Callable[[str], None]) -> None:
        self._what, self._shown, self._log = what, shown, log
        self._began = time.monotonic()
        self._told = 0

    def __call__(self, done: int, total: int, windows: int) -> None:
        self._shown(self._what, done, total)
        tenth = done * 10 // total
        if tenth > self._told:
            self._told = tenth
            left = (time.monotonic() - self._began) / done * (total - done)
            self._log(
                f"{self._what}: {done * windows // total} of {windows} windows done, {done} of"
                f" {total} models, about {left:.0f} s left"
            )


def _as_of(now: dt.datetime, end: dt.date | None) -> dt.datetime:
    if end is None:
        return now
    # A declared end bounds what the champions may know, too.
    day = end if calendar.is_session(end) else calendar.previous_session(end)
    return min(now, calendar.session_close(day) + dt.timedelta(hours=1))


def _metadata(summary: TrainingSummary, peak_bytes: int) -> dict[str, object]:
    ensemble = summary.estimates[ENSEMBLE_ENGINE]
    return {
        **{label: dg.MetadataValue.md(text) for label, text in summary.shown.items()},
        "rank IC": None if math.isnan(ensemble.mean) else ensemble.mean,
        "predictions": summary.predictions,
        "windows": summary.windows,
        "models": [*summary.champions],
        "challengers": [*summary.challengers],
        "MLflow run": summary.run_id,
        "peak memory, GB": round(peak_bytes / 1e9, 2),
    }


def build_model_checks() -> list[dg.AssetChecksDefinition]:
    """Return the checks on predictions."""

    @dg.asset_check(
        asset="models",
        description="Probabilities add up to one, and no prediction is missing or infinite.",
    )
    def predictions_are_sound(
        context: dg.AssetCheckExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.AssetCheckResult:
        parts = (Prediction.P_SHORT, Prediction.P_NEUTRAL, Prediction.P_LONG)
        row = (
            stores.lake.scan("predictions")
            .select(
                rows=pl.len(),
                not_finite=(~pl.col(Prediction.EXPECTED_RETURN_BPS).is_finite()).sum(),
                not_one=((pl.sum_horizontal(parts) - 1.0).abs() > 1e-6).sum(),
            )
            .collect()
            .row(0, named=True)
        )
        return dg.AssetCheckResult(
            passed=row["not_finite"] == 0 and row["not_one"] == 0,
            metadata={k.replace("_", " "): int(v) for k, v in row.items()},
        )

    return [predictions_are_sound]
