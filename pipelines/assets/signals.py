"""The scheduled runs: score, weight by regime, publish."""

import time

import dagster as dg
import polars as pl

from market.horizons import PUBLISHING_RUNS, Run, scheduled_for
from pipelines.feature_run import feature_table
from pipelines.freshness import EVERY_SESSION
from pipelines.parity import ParityCheck, check_parity
from pipelines.partitions import session_partitions
from pipelines.resources import Stores, moment_of, sessions_of
from pipelines.settings import Settings
from pipelines.signal_run import publish_run, published_horizons
from pipelines.table_metadata import as_table, column_schema
from signals.publish import verify_chain
from signals.schema import ENSEMBLE_ENGINE, SIGNAL_SCHEMA

GROUP = "signals"
OWNERS = ["team:research"]
PARITY_CHECK = "is_made_again"


def signals_asset_name(run: Run) -> str:
    """Return the asset's name of a run's signals."""
    return f"signals_{run.value}"


def build_signal_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return one signals asset per scheduled run, partitioned by session."""
    partitions = session_partitions(settings)
    return [_signals_asset(run, settings, partitions) for run in PUBLISHING_RUNS]


def _signals_asset(
    run: Run, settings: Settings, partitions: dg.PartitionsDefinition
) -> dg.AssetsDefinition:
    tables = {feature_table(h.timeframe) for h in published_horizons(settings, run)}
    # Before the open, what is known is the previous session's.
    offset = -1 if run is Run.PREMARKET else 0
    mapping = dg.TimeWindowPartitionMapping(
        start_offset=-1, end_offset=offset, allow_nonexistent_upstream_partitions=True
    )

    @dg.asset(
        name=signals_asset_name(run),
        partitions_def=partitions,
        deps=[
            *(dg.AssetDep(t, partition_mapping=mapping) for t in sorted(tables)),
            dg.AssetDep("models", partition_mapping=dg.AllPartitionMapping()),
            "regimes",
        ],
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "sqlite"},
        freshness_policy=EVERY_SESSION,
        metadata=column_schema(SIGNAL_SCHEMA),
        description=f"Signals of the {run.value} run: scored by the champions, weighted by "
        "regime, published whole or not at all.",
        check_specs=[
            dg.AssetCheckSpec(
                PARITY_CHECK,
                asset=signals_asset_name(run),
                description="The batch before, made again from the same inputs, is what was "
                "published. If it is not, no order is sent.",
            )
        ],
    )
    def signals(
        context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.MaterializeResult:
        now = moment_of(context)
        metadata: dict[str, object] = {}
        for session in sessions_of(context):
            made, batch = publish_run(stores, run, session, now)
            metadata = {
                "batch": batch.batch_id,
                "signals": batch.rows,
                "dagster/row_count": batch.rows,
                "already published": batch.already_published,
                "as of": scheduled_for(run, session).isoformat(),
                **dict(made.rows["direction"].value_counts().iter_rows()),
                "strongest": as_table(strongest(made.rows)),
                **{f"seconds: {what}": spent for what, spent in made.seconds.items()},
            }
        # Here and not in a check of its own: orders are decided by what it finds, and a report
        # tells of it, so both come after it and neither is held up.
        began = time.perf_counter()
        found = check_parity(stores, run, now)
        metadata["seconds: parity"] = round(time.perf_counter() - began, 3)
        return dg.MaterializeResult(metadata=metadata, check_results=[_parity_result(found)])

    return signals


def strongest(rows: pl.DataFrame, count: int = 10) -> pl.DataFrame:
    """Return the signals of the ensemble with a direction that expect most, either way."""
    shown = ("symbol", "horizon", "direction", "confidence", "expected_return_bps")
    of = (pl.col("engine") == ENSEMBLE_ENGINE) & (pl.col("direction") != "neutral")
    order = pl.col("expected_return_bps").abs()
    return rows.filter(of).sort(order, descending=True).head(count).select(shown)


def _parity_result(found: ParityCheck | None) -> dg.AssetCheckResult:
    metadata: dict[str, object] = {"batch": "none before"}
    if found is not None:
        metadata = {"batch": found.batch_id, "as of": found.as_of.isoformat()}
        if found.findings:
            metadata["findings"] = dg.MetadataValue.md("\n".join(f"- {f}" for f in found.findings))
    return dg.AssetCheckResult(
        check_name=PARITY_CHECK, passed=found is None or found.equal, metadata=metadata
    )


def build_signal_checks() -> list[dg.AssetChecksDefinition]:
    """Return a check of the signals chain after each run."""
    return [_chain_check(run) for run in PUBLISHING_RUNS]


def _chain_check(run: Run) -> dg.AssetChecksDefinition:
    name = signals_asset_name(run)

    @dg.asset_check(
        asset=name,
        name=f"{name}_chain_is_whole",
        description="No row of the signals table was altered, removed or inserted.",
    )
    def check(
        context: dg.AssetCheckExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.AssetCheckResult:
        with stores.ledger as ledger:
            findings = verify_chain(ledger, stores.head_file)
        return dg.AssetCheckResult(passed=not findings, metadata={"findings": findings[:20]})

    return check
