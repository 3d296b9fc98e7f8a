"""What became of the signals that have ended, and what the backtest had promised of them."""

import datetime as dt

import dagster as dg
import polars as pl

from market import calendar
from market.actions import session_factors
from market.bars import name_companies, symbols_of
from market.horizons import PUBLISHING_RUNS
from market.lake import Lake
from market.schema import BAR_SCHEMA, Bar, Split
from market.timeframes import regular_hours
from pipelines.assets.signals import GROUP, OWNERS, signals_asset_name
from pipelines.freshness import EVERY_SESSION
from pipelines.partitions import session_partitions
from pipelines.resources import Stores, moment_of, sessions_of
from pipelines.scoreboard import PROMISES_TABLE, keep_promises
from pipelines.settings import Settings
from pipelines.table_metadata import describe_table
from signals.outcomes import SIGNAL_OUTCOME_SCHEMA, SPAN, is_intraday, reached_first, settle_signals
from signals.record import record_outcomes, unsettled_signals
from signals.schema import SignalColumn

ASSET = "signal_outcomes"
PROMISES_ASSET = PROMISES_TABLE


def build_outcome_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the asset of outcomes, partitioned by session, and that of promises."""
    return [_outcomes_asset(settings), _promises_asset()]


def _outcomes_asset(settings: Settings) -> dg.AssetsDefinition:
    longest = max((h.sessions for h in settings.enabled_horizons), default=0)
    mapping = dg.TimeWindowPartitionMapping(
        start_offset=-longest - 1, end_offset=0, allow_nonexistent_upstream_partitions=True
    )
    tables = ["bars_1d"]
    if any(h.timeframe.is_intraday for h in settings.enabled_horizons):
        tables.append("bars_1m")
    read = [*tables, *(signals_asset_name(run) for run in PUBLISHING_RUNS)]

    @dg.asset(
        name=ASSET,
        partitions_def=session_partitions(settings),
        deps=[*(dg.AssetDep(t, partition_mapping=mapping) for t in read), "splits", "dividends"],
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "sqlite"},
        freshness_policy=EVERY_SESSION,
        description="Excess returns of the signals that have ended by the session's close, and "
        "which of their levels were touched. Written once.",
    )
    def signal_outcomes(
        context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.MaterializeResult:
        now = moment_of(context)
        until = min(now, calendar.session_close(max(sessions_of(context))))
        with stores.ledger as ledger:
            pending = unsettled_signals(ledger, until=until)
            done = settle_ended(stores.lake, pending, now)
            recorded = record_outcomes(ledger, done, recorded_at=now)
        reached = reached_first(done)["reached"]
        return dg.MaterializeResult(
            metadata={
                "settled": recorded,
                "sessions": f"until {until:%Y-%m-%d %H:%M} UTC",
                "waiting for bars": pending.height - done.height,
                "target first": int((reached == "target").sum()),
                "stop first": int((reached == "stop").sum()),
            }
        )

    return signal_outcomes


def _promises_asset() -> dg.AssetsDefinition:
    @dg.asset(
        name=PROMISES_ASSET,
        deps=["models", ASSET, "regimes", "identities"],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars"},
        description="What the walk-forward before the first live signal promised, for the "
        "scoreboard; made again where it rests on something new.",
    )
    def promises(stores: dg.ResourceParam[Stores]) -> dg.MaterializeResult:
        with stores.ledger as ledger:
            made = keep_promises(
                stores.lake,
                ledger,
                stores.settings.enabled_horizons,
                band_bps=stores.settings.band_bps,
                seed=stores.settings.models.seed,
            )
        return dg.MaterializeResult(
            metadata={
                "made": ", ".join(made) or "nothing new",
                **describe_table(stores.lake, PROMISES_TABLE),
            }
        )

    return promises


def settle_ended(lake: Lake, signals: pl.DataFrame, now: dt.datetime) -> pl.DataFrame:
    """Return the outcomes of signals, as far as the lake's bars known by now tell them.

    Parameters
    ----------
    lake : Lake
        Bars and corporate actions.
    signals : pl.DataFrame
        ``SIGNAL_SCHEMA``.
    now : datetime
        Aware.

    Returns
    -------
    pl.DataFrame
        ``SIGNAL_OUTCOME_SCHEMA``.
    """
    first, last = (pl.col(c).dt.convert_time_zone(calendar.NEW_YORK.key).dt.date() for c in SPAN)
    dated = signals.with_columns(first.alias(Bar.SESSION), last.alias("_last"))
    named = name_companies(lake, dated, date=Bar.SESSION)
    # Signals of the same sessions share what is read: a month of minutes is held once at most.
    parts = [
        _settle(lake, part, now)
        for part in named.partition_by(Bar.SESSION, "_last", maintain_order=True)
    ]
    return pl.concat([pl.DataFrame(schema=SIGNAL_OUTCOME_SCHEMA), *parts])


def _settle(lake: Lake, signals: pl.DataFrame, now: dt.datetime) -> pl.DataFrame:
    begin, end = signals.select(Bar.SESSION, "_last").row(0)
    # Before the open, the price known is that of the session before.
    start = calendar.previous_session(begin)
    daily = name_companies(lake, lake.read_bars("bars_1d", start=start, end=end), date=Bar.SESSION)
    minutes = pl.DataFrame(schema=BAR_SCHEMA)
    if lake.exists("bars_1m"):
        symbols = None
        if not signals.select(is_intraday().any()).item():
            levels = [pl.col(c).list.len() > 0 for c in (SignalColumn.TARGETS, SignalColumn.STOPS)]
            with_levels = signals.filter(pl.any_horizontal(levels))
            symbols = symbols_of(lake, with_levels[SignalColumn.SYMBOL].unique().to_list())
        raw = regular_hours(lake.read_bars("bars_1m", start=start, end=end, symbols=symbols))
        minutes = name_companies(lake, raw, date=Bar.SESSION)
    actions = (
        name_companies(lake, lake.scan(t).collect(), date=Split.EX_DATE)
        for t in ("splits", "dividends")
    )
    return settle_signals(signals, daily, minutes, session_factors(daily, *actions), as_of=now)
