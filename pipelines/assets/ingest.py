"""Bars and corporate actions from the vendor into the lake."""

import datetime as dt

import dagster as dg
from pydantic import Field

from market import calendar
from market.compaction import compact
from market.ingest import bars_table, ingest, ingested_symbols, settled_sessions
from market.layouts import BARS_TABLE, BY_SYMBOL_TABLE
from market.quality import describe_bars, inspect_bars
from market.quality_picture import draw_findings
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, conform
from market.timeframes import Timeframe
from pipelines.partitions import session_partitions
from pipelines.resources import Stores, moment_of, sessions_of
from pipelines.settings import Settings

GROUP = "market_data"
OWNERS = ["team:data"]
# Daily bars are judged against the moves of the sessions before them, minutes within theirs.
_LOOK_BACK = {Timeframe.D1: 160, Timeframe.M1: 5}


class IngestConfig(dg.Config):
    """Symbols to ingest; the universe of the settings when empty."""

    symbols: list[str] = Field(default_factory=list)


def build_ingest_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the assets that fill the lake."""
    partitions = session_partitions(settings)
    return [
        _bars_asset(Timeframe.D1, partitions, "Official daily bars, raw prices."),
        _bars_asset(Timeframe.M1, partitions, "1-minute bars with extended hours, raw prices."),
        splits,
        dividends,
        bars_1m_by_symbol,
    ]


def _bars_asset(
    timeframe: Timeframe, partitions: dg.PartitionsDefinition, description: str
) -> dg.AssetsDefinition:
    @dg.asset(
        name=bars_table(timeframe),
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "deltalake"},
        description=f"{description} A settled session that is in the lake costs no request.",
    )
    def bars(
        context: dg.AssetExecutionContext,
        config: IngestConfig,
        stores: dg.ResourceParam[Stores],
    ) -> dg.MaterializeResult:
        result = ingest(
            stores.lake,
            stores.source,
            timeframe,
            sessions_of(context),
            config.symbols or list(stores.universe),
            now=moment_of(context),
            policy=stores.settings.refetch,
            progress=lambda done, total: stores.progress(f"{timeframe} bars", done, total),
        )
        return dg.MaterializeResult(
            metadata={
                "bars": result.bars,
                "sessions fetched": result.fetched,
                "sessions already settled": result.skipped,
                "sessions without bars": [d.isoformat() for d in result.empty],
                "sessions revised": [d.isoformat() for d in result.revised],
                "table version": stores.lake.version(bars_table(timeframe)) or 0,
            }
        )

    return bars


def _action_range(
    stores: Stores, config: IngestConfig, now: dt.datetime
) -> tuple[list[str], dt.date, dt.date]:
    # Whatever has bars needs its actions, also symbols that were ingested by name.
    symbols = set(config.symbols or stores.universe) | ingested_symbols(stores.lake)
    # Announced actions lie ahead; they count from their ex-date on.
    return sorted(symbols), stores.settings.history.start, now.date() + dt.timedelta(days=60)


@dg.asset(group_name=GROUP, owners=OWNERS, kinds={"polars", "deltalake"})
def splits(
    context: dg.AssetExecutionContext, config: IngestConfig, stores: dg.ResourceParam[Stores]
) -> dg.MaterializeResult:
    """Stock splits with ex-date and the time they became known."""
    frame = stores.source.splits(*_action_range(stores, config, moment_of(context)))
    changed = stores.lake.replace("splits", conform(frame, SPLIT_SCHEMA, "splits"), None)
    return dg.MaterializeResult(metadata={"splits": frame.height, "changed": changed})


@dg.asset(group_name=GROUP, owners=OWNERS, kinds={"polars", "deltalake"})
def dividends(
    context: dg.AssetExecutionContext, config: IngestConfig, stores: dg.ResourceParam[Stores]
) -> dg.MaterializeResult:
    """Cash dividends with ex-date and the time they became known."""
    frame = stores.source.dividends(*_action_range(stores, config, moment_of(context)))
    changed = stores.lake.replace("dividends", conform(frame, DIVIDEND_SCHEMA, "dividends"), None)
    return dg.MaterializeResult(metadata={"dividends": frame.height, "changed": changed})


@dg.asset(
    name=BY_SYMBOL_TABLE,
    deps=[BARS_TABLE],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"polars", "deltalake"},
)
def bars_1m_by_symbol(
    context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
) -> dg.MaterializeResult:
    """Settled months of 1-minute bars sorted by symbol, for fast reads of few symbols."""
    settled = settled_sessions(stores.lake, Timeframe.M1)
    today = moment_of(context).astimezone(calendar.NEW_YORK).date()
    done = compact(stores.lake, settled, today)
    return dg.MaterializeResult(
        metadata={
            "months written": list(done.written),
            "months current": len(done.current),
            "months not settled": list(done.unsettled),
        }
    )


def build_ingest_checks() -> list[dg.AssetChecksDefinition]:
    """Return the checks that hold bars against what a bar must be."""
    both = (Timeframe.D1, Timeframe.M1)
    return [*(_bars_check(t) for t in both), *(_oddities_check(t) for t in both)]


def _bars_check(timeframe: Timeframe) -> dg.AssetChecksDefinition:
    table = bars_table(timeframe)

    @dg.asset_check(
        asset=table,
        name=f"{table}_are_sound",
        blocking=False,
        description="Positive prices, high and low that enclose open and close, on the grid.",
    )
    def check(
        context: dg.AssetCheckExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.AssetCheckResult:
        found = describe_bars(stores.lake.scan(table), timeframe)
        return dg.AssetCheckResult(
            passed=found.faults == 0,
            severity=dg.AssetCheckSeverity.ERROR,
            metadata=found.as_metadata(),
        )

    return check


def _oddities_check(timeframe: Timeframe) -> dg.AssetChecksDefinition:
    table = bars_table(timeframe)
    sessions = _LOOK_BACK[timeframe]

    @dg.asset_check(
        asset=table,
        name=f"{table}_look_right",
        blocking=False,
        description=f"Spikes, jumps, repeats, stale prices, holes and odd dates in the last "
        f"{sessions} sessions.",
    )
    def check(
        context: dg.AssetCheckExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.AssetCheckResult:
        lake = stores.lake
        recent = sorted(lake.sessions(table))[-sessions:]
        found = inspect_bars(
            lake.read_bars(table, start=recent[0]),
            timeframe=timeframe,
            splits=lake.scan("splits").collect(),
            dividends=lake.scan("dividends").collect(),
        )
        return dg.AssetCheckResult(
            passed=found.quarantined.is_empty(),
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                **found.as_metadata(),
                "picture": dg.MetadataValue.md(draw_findings(found.findings)),
            },
        )

    return check
