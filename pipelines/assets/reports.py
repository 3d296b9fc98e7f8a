"""The reports of the day: premarket, midday, end of day."""

import datetime as dt
from collections.abc import Iterable, Sequence

import dagster as dg

from market.horizons import PUBLISHING_RUNS, Run
from pipelines.assets.signals import signals_asset_name
from pipelines.check_results import read_checks
from pipelines.freshness import EVERY_SESSION
from pipelines.partitions import session_partitions
from pipelines.report_data import read_report
from pipelines.report_files import PublishedReport, first_screen, publish_report
from pipelines.resources import Stores, moment_of, sessions_of
from pipelines.settings import Settings
from reports.facts import Report

GROUP = "reports"
OWNERS = ["team:research"]
# Of the steps that could run now a job takes the one of the highest priority: this one last.
_LAST = {"dagster/priority": "-1"}


def report_asset_name(run: Run) -> str:
    """Return the asset's name of a run's report."""
    return f"report_{run.value}"


def build_report_assets(
    settings: Settings, checks: Iterable[dg.AssetChecksDefinition]
) -> list[dg.AssetsDefinition]:
    """Return one report per scheduled run, partitioned by session, that tells of these checks."""
    partitions = session_partitions(settings)
    keys = sorted(key for check in checks for key in check.check_keys)
    return [_report_asset(run, keys, partitions) for run in PUBLISHING_RUNS]


def _report_asset(
    run: Run, keys: Sequence[dg.AssetCheckKey], partitions: dg.PartitionsDefinition
) -> dg.AssetsDefinition:
    @dg.asset(
        name=report_asset_name(run),
        partitions_def=partitions,
        # Not on orders, fills and outcomes: when they fail, the desk needs the report most.
        deps=[signals_asset_name(run)],
        op_tags=_LAST,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"html", "markdown"},
        freshness_policy=EVERY_SESSION,
        description=f"What a desk reads after the {run.value} run: what is different, what to do, "
        "what not to trust.",
    )
    def report(
        context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.MaterializeResult:
        metadata: dict[str, object] = {}
        for session in sessions_of(context):
            made, read = make_report(
                stores, run, session, moment_of(context), context.instance, keys
            )
            metadata = {
                "report": dg.MetadataValue.path(str(made.html)),
                "markdown": dg.MetadataValue.path(str(made.markdown)),
                "already published": made.already_published,
                "warnings": made.summary["warnings"],
                "failures": made.summary["failures"],
                "first screen": dg.MetadataValue.md(first_screen(read)),
            }
        return dg.MaterializeResult(metadata=metadata)

    return report


def make_report(
    stores: Stores,
    run: Run,
    session: dt.date,
    now: dt.datetime,
    instance: dg.DagsterInstance,
    keys: Sequence[dg.AssetCheckKey],
) -> tuple[PublishedReport, Report]:
    """Read, render and publish the report of a run; return it and what it shows.

    Raises
    ------
    SignalError
        When the run is not due yet.
    """
    checks = read_checks(instance, keys, now)
    report = read_report(stores, run, session, now, checks)
    return publish_report(stores, report), report
