"""Signals to risk-checked orders; a dry run unless trading is switched on."""

import datetime as dt
from collections import Counter
from dataclasses import asdict
from decimal import Decimal

import dagster as dg
import polars as pl

from execution.dispatch import sync_orders
from execution.failures import record_failure, record_recovery
from execution.plan import LastPrice
from execution.trade import TradeReport, TradeRules, assert_may_trade, newest_batch, trade
from market import calendar
from market.errors import BrokerError
from market.horizons import Run
from market.schema import Bar
from pipelines.assets.signals import signals_asset_name
from pipelines.partitions import session_partitions
from pipelines.redaction import redact
from pipelines.resources import Stores, moment_of
from pipelines.settings import Settings

GROUP = "execution"
OWNERS = ["team:trading"]
# EOD publishes for the next session; the premarket run, fresh, sends for the open.
TRADING_RUNS = (Run.PREMARKET, Run.MIDDAY)
_SESSIONS_PER_YEAR = 252


def orders_asset_name(run: Run) -> str:
    """Return the asset's name of a run's orders."""
    return f"orders_{run.value}"


def build_order_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return one orders asset per run that trades, and the fills; partitioned by session."""
    partitions = session_partitions(settings)
    return [*(_orders_asset(run, partitions) for run in TRADING_RUNS), _fills_asset(partitions)]


def _orders_asset(run: Run, partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        name=orders_asset_name(run),
        partitions_def=partitions,
        deps=[signals_asset_name(run)],
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"alpaca"},
        description=f"Orders of the {run.value} run. Running it again sends nothing twice; "
        "unless trading.enabled is set it only plans.",
    )
    def orders(
        context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.MaterializeResult:
        enabled = stores.settings.trading.enabled
        if not enabled and not stores.has_broker:
            return dg.MaterializeResult(metadata={"trading": "off, and no broker to plan against"})
        try:
            report = trade_newest(stores, now=moment_of(context), dry_run=not enabled)
        except BrokerError as error:
            if enabled:
                raise
            # Nothing was to be sent; the plan is a courtesy that an outage may take away.
            context.log.warning(str(error))
            return dg.MaterializeResult(metadata={"trading": f"off, and no plan: {error}"})
        return dg.MaterializeResult(metadata=describe_trade(report))

    return orders


def _fills_asset(partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=partitions,
        deps=[orders_asset_name(run) for run in TRADING_RUNS],
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"alpaca"},
        description="What the broker did with our orders by the end of the session.",
    )
    def fills(
        context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.MaterializeResult:
        if not stores.settings.trading.enabled:
            return dg.MaterializeResult(metadata={"trading": "off"})
        with stores.ledger as ledger:
            found = sync_orders(ledger, stores.broker, moment_of(context))
        return dg.MaterializeResult(metadata={k: str(v) for k, v in asdict(found).items()})

    return fills


def trade_newest(stores: Stores, *, now: dt.datetime, dry_run: bool) -> TradeReport:
    """Trade the newest batch of signals with the configured broker.

    A failure is raised, and told by the report of the run: it goes to the audit log, as does the
    end of it.
    """
    if dry_run:
        return _trade_newest(stores, now, dry_run)
    with stores.ledger as ledger:
        batch = newest_batch(ledger)
        try:
            report = _trade_newest(stores, now, dry_run)
        except Exception as error:
            if batch is not None:
                record_failure(ledger, batch.batch_id, redact(str(error)), now)
            raise
        if batch is not None:
            record_recovery(ledger, batch.batch_id, now)
        return report


def _trade_newest(stores: Stores, now: dt.datetime, dry_run: bool) -> TradeReport:
    settings = stores.settings
    assert_may_trade(settings.trading.mode, stores.broker, settings.trading.allow_live)
    with stores.ledger as ledger:
        return trade(
            ledger,
            stores.broker,
            prices=_last_prices(stores, now),
            volatilities=_volatilities(stores, now),
            rules=TradeRules(targets=settings.targets, limits=settings.risk),
            now=now,
            dry_run=dry_run,
        )


def _last_prices(stores: Stores, now: dt.datetime) -> dict[str, LastPrice]:
    first = calendar.offset_session(calendar.latest_session(now), -10)
    parts = [
        stores.lake.read_bars(table, start=first, as_of=now).select(
            Bar.SYMBOL, Bar.BAR_END, Bar.CLOSE
        )
        for table in ("bars_1d", "bars_1m")
        if stores.lake.exists(table)
    ]
    last = pl.concat(parts).sort(Bar.BAR_END).group_by(Bar.SYMBOL).last()
    return {
        symbol: LastPrice(Decimal(str(round(close, 4))), at)
        for symbol, at, close in last.select(Bar.SYMBOL, Bar.BAR_END, Bar.CLOSE).iter_rows()
    }


def _volatilities(stores: Stores, now: dt.datetime) -> dict[str, float]:
    if not stores.lake.exists("features_1d"):
        return {}
    first = calendar.offset_session(calendar.latest_session(now), -10)
    rows = (
        stores.lake.scan("features_1d")
        .filter((pl.col("session") >= first) & (pl.col("as_of") <= now))
        .filter(pl.col("volatility_20") > 0)
        .select("symbol", "bar_end", "volatility_20")
        .collect()
        .sort("bar_end")
        .group_by("symbol")
        .last()
    )
    yearly = _SESSIONS_PER_YEAR**0.5
    return {s: float(v) * yearly for s, v in rows.select("symbol", "volatility_20").iter_rows()}


def describe_trade(report: TradeReport) -> dict[str, object]:
    """Return what a person wants to see of a trading run."""
    denied = Counter(d.code.value for v in report.verdicts for d in v.denials)
    states = Counter(o.state.value for o in report.journalled.orders) if report.journalled else {}
    lines = [
        f"| {v.intent.symbol} | {v.intent.side.value} | {v.intent.quantity} | "
        f"{', '.join(d.code.value for d in v.denials) or 'accepted'} |"
        for v in report.verdicts
    ]
    table = "| symbol | side | shares | verdict |\n|---|---|---|---|\n" + "\n".join(lines)
    return {
        "batch": report.batch_id or "none published",
        "dry run": report.dry_run,
        "resumed": report.resumed,
        "intents": len(report.verdicts),
        "denied": dict(denied),
        "orders": dict(states),
        "plan": dg.MetadataValue.md(table),
    }
