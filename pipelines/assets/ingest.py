"""Bars and corporate actions from the vendor into the lake."""

import datetime as dt

import dagster as dg
import polars as pl
from pydantic import Field

from market import calendar
from market.compaction import compact
from market.ingest import bars_table, ingest
from market.ingest_log import ingested_symbols, settled_sessions
from market.layouts import BARS_TABLE, BY_SYMBOL_TABLE
from market.schema import BAR_SCHEMA, DIVIDEND_SCHEMA, SPLIT_SCHEMA, conform
from market.source import RemoteSource
from market.timeframes import Timeframe
from pipelines.assets.features import report_changed_inputs
from pipelines.cluster import bulk_request
from pipelines.freshness import EVERY_SESSION, EVERY_WEEK
from pipelines.partitions import session_partitions
from pipelines.resources import Stores, moment_of, sessions_of
from pipelines.settings import Settings
from pipelines.table_metadata import as_table, column_schema, describe_table

GROUP = "market_data"
OWNERS = ["team:data"]
# With a version of its code, fetching again what has not changed makes nothing stale; changes
# are reported session by session, see ``build_feature_inputs``.
CODE_VERSION = "1"
_SHOWN = ("symbol", "bar_start", "open", "high", "low", "close", "volume")
_NEWEST = 5


class IngestConfig(dg.Config):
    """Symbols to ingest; the universe of the settings when empty."""

    symbols: list[str] = Field(default_factory=list)


def build_ingest_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the assets that fill the lake."""
    return [
        _bars_asset(Timeframe.D1, settings, "Official daily bars, raw prices."),
        _bars_asset(Timeframe.M1, settings, "1-minute bars with extended hours, raw prices."),
        splits,
        dividends,
        bars_1m_by_symbol,
    ]


def _bars_asset(timeframe: Timeframe, settings: Settings, description: str) -> dg.AssetsDefinition:
    @dg.asset(
        name=bars_table(timeframe),
        partitions_def=session_partitions(settings),
        op_tags=bulk_request(settings.cluster),
        backfill_policy=dg.BackfillPolicy.single_run(),
        code_version=CODE_VERSION,
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "deltalake"},
        freshness_policy=EVERY_SESSION,
        metadata=column_schema(BAR_SCHEMA),
        description=f"{description} A settled session that is in the lake costs no request.",
    )
    def bars(
        context: dg.AssetExecutionContext,
        config: IngestConfig,
        stores: dg.ResourceParam[Stores],
    ) -> dg.MaterializeResult:
        source = stores.source
        before = source.metrics if isinstance(source, RemoteSource) else None
        result = ingest(
            stores.lake,
            source,
            timeframe,
            sessions_of(context),
            config.symbols or list(stores.universe),
            now=moment_of(context),
            policy=stores.settings.refetch,
            rules=stores.settings.quality,
            second=stores.second_source if timeframe is Timeframe.D1 else None,
            progress=lambda done, total: stores.progress(f"{timeframe} bars", done, total),
        )
        cost = source.metrics - before if before and isinstance(source, RemoteSource) else None
        return dg.MaterializeResult(
            metadata={
                "bars": result.bars,
                "sessions fetched": result.fetched,
                "sessions already settled": result.skipped,
                "sessions without bars": [d.isoformat() for d in result.empty],
                "sessions revised": [d.isoformat() for d in result.revised],
                "bars held in quarantine": sum(result.held.values()),
                **{f"held: {reason}": n for reason, n in sorted(result.held.items())},
                "earlier bars withdrawn": result.withdrawn,
                "earlier bars released": result.released,
                "features that became stale": report_changed_inputs(context, stores),
                **(cost.as_metadata() if cost else {}),
                "table version": stores.lake.version(bars_table(timeframe)) or 0,
                **describe_table(stores.lake, bars_table(timeframe), _SHOWN),
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


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"polars", "deltalake"},
    code_version=CODE_VERSION,
    freshness_policy=EVERY_SESSION,
    metadata=column_schema(SPLIT_SCHEMA),
)
def splits(
    context: dg.AssetExecutionContext, config: IngestConfig, stores: dg.ResourceParam[Stores]
) -> dg.MaterializeResult:
    """Stock splits with ex-date and the time they became known."""
    found = stores.source.splits(*_action_range(stores, config, moment_of(context)))
    return _replaced(context, stores, "splits", conform(found, SPLIT_SCHEMA, "splits"))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"polars", "deltalake"},
    code_version=CODE_VERSION,
    freshness_policy=EVERY_SESSION,
    metadata=column_schema(DIVIDEND_SCHEMA),
)
def dividends(
    context: dg.AssetExecutionContext, config: IngestConfig, stores: dg.ResourceParam[Stores]
) -> dg.MaterializeResult:
    """Cash dividends with ex-date and the time they became known."""
    found = stores.source.dividends(*_action_range(stores, config, moment_of(context)))
    return _replaced(context, stores, "dividends", conform(found, DIVIDEND_SCHEMA, "dividends"))


def _replaced(
    context: dg.AssetExecutionContext, stores: Stores, table: str, frame: pl.DataFrame
) -> dg.MaterializeResult:
    """Put corporate actions in the place of those that were there, and say what that changed."""
    changed = stores.lake.replace(table, frame, None)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": frame.height,
            "newest": as_table(frame.sort("ex_date").tail(_NEWEST)),
            "changed": changed,
            "features that became stale": report_changed_inputs(context, stores) if changed else 0,
        }
    )


@dg.asset(
    name=BY_SYMBOL_TABLE,
    deps=[BARS_TABLE],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"polars", "deltalake"},
    code_version=CODE_VERSION,
    freshness_policy=EVERY_WEEK,
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
            **describe_table(stores.lake, BY_SYMBOL_TABLE),
            "months written": list(done.written),
            "months current": len(done.current),
            "months not settled": list(done.unsettled),
        }
    )
