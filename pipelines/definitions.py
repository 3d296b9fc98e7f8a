"""Everything Dagster is told: assets, checks, jobs, schedules, sensors, resources."""

import warnings

import dagster as dg

from pipelines.assets.backtest import build_backtest_assets
from pipelines.assets.bar_checks import build_bar_checks
from pipelines.assets.drift_checks import build_drift_checks
from pipelines.assets.features import (
    build_feature_assets,
    build_feature_checks,
    build_feature_inputs,
)
from pipelines.assets.ingest import build_ingest_assets
from pipelines.assets.models import build_model_assets, build_model_checks
from pipelines.assets.orders import build_order_assets
from pipelines.assets.outcomes import build_outcome_assets
from pipelines.assets.reference import build_reference_assets, build_reference_checks
from pipelines.assets.reports import build_report_assets
from pipelines.assets.signals import build_signal_assets, build_signal_checks
from pipelines.jobs import build_jobs
from pipelines.resources import Stores
from pipelines.schedules import build_schedules
from pipelines.sensors import build_sensors
from pipelines.settings import Settings, hide_secrets
from pipelines.trading_sensors import build_trading_sensors
from pipelines.tuning_job import build_tuning_job


def build_definitions(settings: Settings, stores: Stores | None = None) -> dg.Definitions:
    """Return the definitions of one installation.

    Parameters
    ----------
    settings : Settings
        Universe, horizons, folders.
    stores : Stores, optional
        Given by tests and the command line; made from the settings otherwise.
    """
    hide_secrets(settings)
    with warnings.catch_warnings():
        # Backfill policies and partition mappings work, and are still marked beta in Dagster 1.13.
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return _definitions(settings, stores or Stores(settings))


def _definitions(settings: Settings, stores: Stores) -> dg.Definitions:
    checks = [
        *build_bar_checks(),
        *build_reference_checks(),
        *build_feature_checks(settings),
        *build_model_checks(),
        *build_drift_checks(settings),
        *build_signal_checks(),
    ]
    return dg.Definitions(
        assets=[
            *build_ingest_assets(settings),
            *build_reference_assets(),
            *build_feature_assets(settings),
            *build_feature_inputs(settings),
            *build_model_assets(settings),
            *build_backtest_assets(settings),
            *build_signal_assets(settings),
            *build_outcome_assets(settings),
            *build_order_assets(settings),
            *build_report_assets(settings, checks),
        ],
        asset_checks=checks,
        jobs=[*build_jobs(settings), build_tuning_job(settings)],
        schedules=build_schedules(settings),
        sensors=[*build_sensors(settings), *build_trading_sensors(settings)],
        resources={"stores": stores},
        executor=dg.in_process_executor,
    )
