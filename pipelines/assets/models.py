"""Training: out-of-sample predictions into the lake, champions into MLflow."""

import datetime as dt
import math

import dagster as dg
import polars as pl

from features.labels import forward_returns
from features.spec import Memory
from market import calendar
from market.bars import by_company, read_adjusted
from market.horizons import Horizon, find_horizon
from market.ingest_log import settled_sessions
from market.lake import Lake
from market.lineage import dataset_digest
from market.timeframes import Timeframe
from models.calibration import calibrate_walk_forward, windows_of
from models.ensemble import stack_walk_forward
from models.evaluation import Estimate, skill
from models.forecast import Prediction, keep_raw
from models.outcomes import outcomes_of
from models.train import Rhythm, Training, train_horizon
from pipelines.daily_recipe import learned_from
from pipelines.feature_run import feature_table, kept_features, used_timeframes
from pipelines.partitions import horizon_partitions
from pipelines.resources import Stores, moment_of
from pipelines.settings import ModelSettings, Settings
from signals.schema import ENSEMBLE_ENGINE
from signals.weighting import blend_walk_forward

GROUP = "models"
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
        description="Purged walk-forward of every engine and the regime-weighted ensemble; "
        "the newest models become champions.",
    )
    def models(
        context: dg.AssetExecutionContext,
        config: PeriodConfig,
        stores: dg.ResourceParam[Stores],
    ) -> dg.MaterializeResult:
        horizon = find_horizon(context.partition_key)
        as_of = _as_of(context, config)
        labels = read_labels(stores.lake, horizon)
        version = dataset_digest(stores.lake, used_timeframes(stores.settings))
        training = _train(stores, horizon, config, as_of, labels, version)
        raw = with_ensemble(stores.lake, training.predictions, labels, horizon)
        predictions = _calibrated(raw, labels, horizon, stores.settings.band_bps)
        stores.lake.replace("predictions", predictions, [horizon.name])
        estimates = skill_by_engine(predictions, labels, horizon, stores.settings.models.seed)
        run_id = _log(stores, horizon, training, estimates, version)
        return dg.MaterializeResult(metadata=_metadata(training, predictions, estimates, run_id))

    return [models]


def read_labels(lake: Lake, horizon: Horizon) -> pl.DataFrame:
    """Return the labels of a horizon from the bars in the lake."""
    bars = read_adjusted(lake, horizon.timeframe, None, None)
    return by_company(lake, bars, lambda rows: forward_returns(rows, horizon))


def with_ensemble(
    lake: Lake, engines: pl.DataFrame, labels: pl.DataFrame, horizon: Horizon
) -> pl.DataFrame:
    """Return the engines' predictions and below them the ensemble's, blended as known then."""
    if horizon.stacked:
        engines = pl.concat([engines, stack_walk_forward(engines, labels)])
    blended = blend_walk_forward(engines, labels, lake.scan("regimes").collect())
    return pl.concat([engines, blended])


def _calibrated(
    raw: pl.DataFrame, labels: pl.DataFrame, horizon: Horizon, band_bps: float
) -> pl.DataFrame:
    least, most = windows_of(horizon)
    outcomes = outcomes_of(labels, horizon=horizon.name, band_bps=band_bps)
    made, _ = calibrate_walk_forward(keep_raw(raw), outcomes, min_sessions=least, max_sessions=most)
    return made


def skill_by_engine(
    predictions: pl.DataFrame, labels: pl.DataFrame, horizon: Horizon, seed: int
) -> dict[str, Estimate]:
    """Return each engine's out-of-sample rank IC with its interval."""
    scored = predictions.join(
        labels.select("symbol", "bar_end", "excess_return"), on=["symbol", "bar_end"], how="left"
    )
    block = float(max(5, 2 * horizon.sessions))
    return {
        str(name[0]): skill(part, seed=seed, periods_per_block=block)
        for name, part in sorted(scored.partition_by(Prediction.ENGINE, as_dict=True).items())
    }


def _as_of(context: dg.AssetExecutionContext, config: PeriodConfig) -> dt.datetime:
    end = parse_date(config.end)
    now = moment_of(context)
    if end is None:
        return now
    # A declared end bounds what the champions may know, too.
    day = end if calendar.is_session(end) else calendar.previous_session(end)
    return min(now, calendar.session_close(day) + dt.timedelta(hours=1))


def learned_features(settings: Settings, timeframe: Timeframe) -> list[str]:
    """Return the features that models learn from, in column order.

    Not those that depend on where history starts: a level of them means nothing by itself.
    """
    return [
        f.name
        for f in kept_features(settings, timeframe)
        if f.family in settings.models.families and f.memory is not Memory.CUMULATIVE
    ]


def _rhythm(settings: ModelSettings, horizon: Horizon) -> Rhythm:
    prefix = "intraday" if horizon.timeframe.is_intraday else "daily"
    names = ("min_train_sessions", "test_sessions", "max_train_sessions")
    return Rhythm(
        **{name: getattr(settings, f"{prefix}_{name}") for name in names},
        embargo_sessions=settings.embargo_sessions,
        last_weight=settings.last_weight,
    )


def _train(
    stores: Stores,
    horizon: Horizon,
    config: PeriodConfig,
    as_of: dt.datetime,
    labels: pl.DataFrame,
    version: str,
) -> Training:
    settings = stores.settings
    settled = settled_sessions(stores.lake, Timeframe.D1)
    if horizon.timeframe.is_intraday:
        settled &= settled_sessions(stores.lake, Timeframe.M1)
    features = stores.lake.scan(feature_table(horizon.timeframe))
    members = stores.only_members(features.filter(pl.col("session").is_in(sorted(settled))))
    names = learned_features(settings, horizon.timeframe)
    learned = learned_from(stores, horizon, members, labels, names)
    return train_horizon(
        members,
        learned.labels,
        horizon=horizon,
        families=settings.models.families_of(horizon),
        feature_names=learned.names,
        rhythm=_rhythm(settings.models, horizon),
        start=parse_date(config.start),
        end=parse_date(config.end),
        as_of=as_of,
        seed=settings.models.seed,
        band_bps=settings.band_bps,
        data_hash=version,
        target=learned.target,
        progress=lambda done, total: stores.progress(f"training {horizon.name}", done, total),
    )


def _log(
    stores: Stores,
    horizon: Horizon,
    training: Training,
    estimates: dict[str, Estimate],
    version: str,
) -> str:
    settings = stores.settings
    metrics = {f"rank_ic_{engine}": e.mean for engine, e in estimates.items()}
    ensemble = estimates[ENSEMBLE_ENGINE]
    metrics |= {"rank_ic_low": ensemble.low, "rank_ic_high": ensemble.high}
    return stores.tracker.log_training(
        horizon.name,
        training.models,
        params={
            "horizon": horizon.name,
            "families": ",".join(m.family.name for m in training.models),
            "windows": training.windows,
            "features": len(training.models[0].feature_names),
            "seed": settings.models.seed,
        },
        metrics=metrics,
        tags={"dataset_version": version, "config_hash": settings.config_hash},
        # The predictions that weigh the engines are those of this training: until a challenger's
        # are kept apart, whoever trains with other settings means them to serve.
        as_challenger=False,
    )


def _metadata(
    training: Training, predictions: pl.DataFrame, estimates: dict[str, Estimate], run_id: str
) -> dict[str, object]:
    table = "| engine | rank IC | 95% interval | sessions |\n|---|---|---|---|\n" + "\n".join(
        f"| {name} | {e.mean:+.4f} | {e.low:+.4f} to {e.high:+.4f} | {e.periods} |"
        for name, e in estimates.items()
    )
    ensemble = estimates[ENSEMBLE_ENGINE]
    return {
        "out-of-sample skill": dg.MetadataValue.md(table),
        "rank IC": None if math.isnan(ensemble.mean) else ensemble.mean,
        "predictions": predictions.height,
        "windows": training.windows,
        "models": [m.version for m in training.models],
        "MLflow run": run_id,
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
