"""The scheduled runs: score, weight by regime, publish."""

import datetime as dt
from collections.abc import Mapping

import dagster as dg
import polars as pl

from market import calendar
from market.errors import SignalError
from market.horizons import Horizon, Run, scheduled_for
from market.schema import Bar
from pipelines.feature_run import feature_table
from pipelines.partitions import session_partitions
from pipelines.resources import Stores, moment_of, sessions_of
from pipelines.scoring import keep_live, load_ensemble, recent_features
from pipelines.settings import Settings
from signals.compose import compose_signals
from signals.publish import PublishedBatch, publish_batch, verify_chain
from signals.reasons import strongest_reasons
from signals.record import record_engines, record_regime, record_weights
from signals.score import Scores, score_horizons

GROUP = "signals"
OWNERS = ["team:research"]
SCHEDULED_RUNS = (Run.PREMARKET, Run.MIDDAY, Run.EOD)


def signals_asset_name(run: Run) -> str:
    """Return the asset's name of a run's signals."""
    return f"signals_{run.value}"


def published_horizons(settings: Settings, run: Run) -> list[Horizon]:
    """Return the horizons that are on and that this run publishes."""
    return [h for h in settings.enabled_horizons if run in h.runs]


def build_signal_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return one signals asset per scheduled run, partitioned by session."""
    partitions = session_partitions(settings)
    return [_signals_asset(run, settings, partitions) for run in SCHEDULED_RUNS]


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
        description=f"Signals of the {run.value} run: scored by the champions, weighted by "
        "regime, published whole or not at all.",
    )
    def signals(
        context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.MaterializeResult:
        now = moment_of(context)
        metadata: dict[str, object] = {}
        for session in sessions_of(context):
            rows, batch = publish_run(stores, run, session, now)
            metadata = {
                "batch": batch.batch_id,
                "signals": batch.rows,
                "already published": batch.already_published,
                "as of": scheduled_for(run, session).isoformat(),
                **dict(rows["direction"].value_counts().iter_rows()),
            }
        return dg.MaterializeResult(metadata=metadata)

    return signals


def publish_run(
    stores: Stores, run: Run, session: dt.date, now: dt.datetime
) -> tuple[pl.DataFrame, PublishedBatch]:
    """Score and publish everything that a run of a session publishes.

    Raises
    ------
    SignalError
        When the run is not due yet, or nothing is published by it.
    """
    settings, as_of = stores.settings, scheduled_for(run, session)
    horizons = published_horizons(settings, run)
    if now < as_of:
        raise SignalError(
            f"the {run.value} run of {session} is not due yet",
            got=f"now {now.isoformat()}",
            allowed=f"from {as_of.isoformat()}",
            remedy="wait, or name an earlier session",
        )
    if not horizons:
        raise SignalError(
            f"the {run.value} run publishes none of the horizons that are on",
            got=", ".join(settings.models.horizons),
            allowed="a horizon whose row names this run",
            remedy="switch such a horizon on in the settings",
        )
    late = now > as_of + dt.timedelta(minutes=settings.trading.late_after_minutes)
    ensembles = [load_ensemble(stores, h, as_of) for h in horizons]
    scores = score_horizons(
        recent_features(stores, ensembles, as_of),
        ensembles,
        as_of=as_of,
        delay=stores.delay,
        band_bps=settings.band_bps,
    ).values()
    rows = pl.concat([_compose(stores, s, as_of, now) for s in scores])
    with stores.ledger as ledger:
        batch = publish_batch(
            ledger,
            rows,
            run=run.value,
            as_of=as_of,
            scheduled_for=as_of,
            ts_emit=now,
            late=late,
            head_file=stores.head_file,
        )
    keep_live(stores.lake, scores, as_of)
    return rows, batch


def _compose(stores: Stores, scores: Scores, as_of: dt.datetime, now: dt.datetime) -> pl.DataFrame:
    """Return the signals of one horizon; what made them is recorded in the ledger."""
    settings, ensemble = stores.settings, scores.ensemble
    horizon, regimes = ensemble.horizon, ensemble.regimes
    regime = regimes["regime"].to_list()[-1] if regimes.height else "neutral"
    with stores.ledger as ledger:
        record_weights(ledger, ensemble.weights, horizon=horizon.name, as_of=as_of)
        record_engines(ledger, ensemble, scores.data_hash, settings.config_hash, recorded_at=now)
        record_regime(ledger, regime, as_of=as_of, recorded_at=now)
    return compose_signals(
        scores.predictions,
        horizon=horizon,
        prices=last_prices(stores, horizon, as_of),
        regime=regime,
        band_bps=settings.band_bps,
        as_of=as_of,
        data_hash=scores.data_hash,
        config_hash=settings.config_hash,
        contributions=strongest_reasons(scores),
    )


def last_prices(stores: Stores, horizon: Horizon, as_of: dt.datetime) -> Mapping[str, float]:
    """Return each symbol's last raw close known at ``as_of``."""
    table = "bars_1m" if horizon.timeframe.is_intraday else "bars_1d"
    day = as_of.astimezone(calendar.NEW_YORK).date()
    first = calendar.offset_session(calendar.previous_session(day), -5)
    bars = stores.lake.read_bars(table, start=first, as_of=as_of)
    last = bars.group_by(Bar.SYMBOL).agg(pl.col(Bar.CLOSE).last())
    return dict(last.iter_rows())


def build_signal_checks() -> list[dg.AssetChecksDefinition]:
    """Return a check of the signals chain after each run."""
    return [_chain_check(run) for run in SCHEDULED_RUNS]


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
