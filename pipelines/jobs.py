"""Jobs: the same ones are launched by schedules, by the command line and from the UI.

A job's assets share one kind of partition (sessions or horizons); unpartitioned assets go along.
"""

from typing import Any

import dagster as dg

from market.horizons import PUBLISHING_RUNS, Run
from market.ingest import bars_table
from market.layouts import BY_SYMBOL_TABLE
from market.timeframes import Timeframe
from models.retraining import Reason
from pipelines.assets.drift_checks import ASSET, check_name
from pipelines.assets.orders import TRADING_RUNS, orders_asset_name
from pipelines.assets.outcomes import ASSET as OUTCOMES_ASSET
from pipelines.assets.outcomes import PROMISES_ASSET
from pipelines.assets.reference import REFERENCE_ASSETS
from pipelines.assets.reports import report_asset_name
from pipelines.assets.signals import signals_asset_name
from pipelines.cluster import heavy_executor
from pipelines.feature_run import feature_table, used_timeframes
from pipelines.settings import Settings
from pipelines.signal_run import published_horizons

# What define_asset_job returns has no public name in Dagster 1.13.
Job = Any

ACTIONS_JOB = "corporate_actions_job"
COMPACTION_JOB = "compaction_job"
REFERENCE_JOB = "reference_job"
VERSION_JOB = "dataset_version_job"
TRAINING_JOB = "training_job"
DRIFT_JOB = "drift_job"
BACKTEST_JOB = "backtest_job"
COMBINED_BACKTEST_JOB = "combined_backtest_job"


def run_job_name(run: Run) -> str:
    """Return the job's name of a scheduled run."""
    return f"{run.value}_job"


def report_job_name(run: Run) -> str:
    """Return the job's name that makes a run's report again."""
    return f"report_{run.value}_job"


def ingest_job_name(timeframe: Timeframe) -> str:
    """Return the job's name that fills bars of a timeframe."""
    return f"ingest_{timeframe.value}_job"


def features_job_name(timeframe: Timeframe) -> str:
    """Return the job's name that computes features of a timeframe."""
    return f"{feature_table(timeframe)}_job"


def build_jobs(settings: Settings) -> list[Job]:
    """Return every job."""
    heavy = heavy_executor(settings.cluster)
    return [
        _job(ACTIONS_JOB, ["splits", "dividends"], "Fetch splits and dividends."),
        # Alone, so that no signal or order waits for data that it does not use.
        _job(
            REFERENCE_JOB,
            list(REFERENCE_ASSETS),
            "Fetch Treasury yields, the VIX, news, and ticker changes.",
        ),
        *(
            _job(ingest_job_name(t), [bars_table(t)], f"Fetch {t} bars of sessions.", heavy)
            for t in (Timeframe.D1, Timeframe.M1)
        ),
        _job(COMPACTION_JOB, [BY_SYMBOL_TABLE], "Sort settled months of minutes by symbol."),
        *(
            _job(features_job_name(t), [feature_table(t)], f"Compute features on {t} bars.", heavy)
            for t in used_timeframes(settings)
        ),
        _job(VERSION_JOB, ["regimes", "dataset_version"], "Label regimes, version the dataset."),
        _training_job(settings, heavy),
        dg.define_asset_job(
            DRIFT_JOB,
            selection=dg.AssetSelection.checks(*_drift_checks(settings)),
            description="Judge features, calibration and skill of each horizon's models.",
        ),
        _job(BACKTEST_JOB, ["walk_forward_backtest"], "Backtest a horizon after costs."),
        # Apart: it takes as long as the horizon of the shortest bars, and no run waits for it.
        _job(
            COMBINED_BACKTEST_JOB,
            ["combined_backtest"],
            "Backtest several horizons in one account after costs.",
        ),
        *(_run_job(run, settings) for run in PUBLISHING_RUNS if published_horizons(settings, run)),
        _job(
            run_job_name(Run.CLOSE),
            [bars_table(Timeframe.M1), orders_asset_name(Run.CLOSE)],
            "Exits for the closing auction, at fresh prices; nothing is published.",
        ),
        *(
            _job(
                report_job_name(run),
                [report_asset_name(run)],
                f"Make the {run.value} report from what there is, whatever became of its run.",
            )
            for run in PUBLISHING_RUNS
        ),
    ]


def _job(
    name: str, assets: list[str], description: str, executor: dg.ExecutorDefinition | None = None
) -> Job:
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*assets),
        description=description,
        executor_def=executor,
    )


def _training_job(settings: Settings, executor: dg.ExecutorDefinition | None) -> Job:
    # Right after a training there is nothing that could have drifted.
    assets = dg.AssetSelection.assets(ASSET, PROMISES_ASSET)
    wanted = assets - dg.AssetSelection.checks(*_drift_checks(settings))
    return dg.define_asset_job(
        TRAINING_JOB,
        selection=wanted,
        description="Walk forward and train the champions of a horizon.",
        executor_def=executor,
    )


def _drift_checks(settings: Settings) -> list[dg.AssetCheckKey]:
    return [
        dg.AssetCheckKey(dg.AssetKey(ASSET), check_name(horizon, reason))
        for horizon in settings.enabled_horizons
        for reason in Reason
    ]


def _run_job(run: Run, settings: Settings) -> Job:
    frames = used_timeframes(settings)
    intraday = [t for t in frames if t.is_intraday]
    names = ["splits", "dividends", signals_asset_name(run), report_asset_name(run)]
    if run is Run.EOD:
        names += ["bars_1d", "regimes", *(feature_table(t) for t in frames), "fills"]
        names += [OUTCOMES_ASSET, PROMISES_ASSET]
    if intraday:
        names.append("bars_1m")
    if run is not Run.PREMARKET:
        names += [feature_table(t) for t in intraday]
    if run in TRADING_RUNS:
        names.append(orders_asset_name(run))
    return _job(
        run_job_name(run),
        sorted(set(names)),
        f"The {run.value} run: fresh data, signals, orders if due, and the report.",
    )
