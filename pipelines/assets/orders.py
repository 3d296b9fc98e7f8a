"""Signals, and the close of a session, to risk-checked orders; a dry run unless trading is on."""

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial

import dagster as dg

from execution.audit import remember_head
from execution.failures import record_failure, record_recovery
from execution.preflight import PreflightCheck, assert_ready_for_live, preflight
from execution.reconcile import Reconciliation
from execution.state import current_state, newest_reason
from execution.trade import (
    TradeReport,
    TradeRules,
    assert_may_trade,
    attend,
    newest_batch,
    trade,
    trade_close,
    watch,
)
from market.errors import BrokerError
from market.horizons import Run
from market.ingest import bars_table
from market.ledger import Ledger
from market.timeframes import Timeframe
from pipelines.alerts import Alert, send_alert
from pipelines.assets.signals import signals_asset_name
from pipelines.freshness import EVERY_SESSION
from pipelines.market_view import read_market
from pipelines.partitions import session_partitions
from pipelines.redaction import redact
from pipelines.resources import Stores, moment_of, sessions_of
from pipelines.settings import Settings

GROUP = "execution"
OWNERS = ["team:trading"]
# EOD publishes for the next session; the premarket run, fresh, sends for the open.
TRADING_RUNS = (Run.PREMARKET, Run.MIDDAY)


def orders_asset_name(run: Run) -> str:
    """Return the asset's name of a run's orders."""
    return f"orders_{run.value}"


def build_order_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return one orders asset per run that trades, and the fills; partitioned by session."""
    partitions = session_partitions(settings)
    return [
        *(_orders_asset(run, partitions) for run in TRADING_RUNS),
        _closing_asset(partitions),
        _fills_asset(partitions),
    ]


def _orders_asset(run: Run, partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        name=orders_asset_name(run),
        partitions_def=partitions,
        deps=[signals_asset_name(run)],
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"alpaca"},
        freshness_policy=EVERY_SESSION,
        description=f"Orders of the {run.value} run. Running it again sends nothing twice; "
        "unless trading.enabled is set it only plans.",
    )
    def orders(
        context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.MaterializeResult:
        now = moment_of(context)
        return _materialize(context, stores, lambda dry: trade_newest(stores, now=now, dry_run=dry))

    return orders


def _closing_asset(partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        name=orders_asset_name(Run.CLOSE),
        partitions_def=partitions,
        deps=[bars_table(Timeframe.M1)],
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"alpaca"},
        freshness_policy=EVERY_SESSION,
        description="Exits for the closing auction, of horizons that are flat overnight. Running "
        "it again sends nothing twice; unless trading.enabled is set it only plans.",
    )
    def orders(
        context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.MaterializeResult:
        now, session = moment_of(context), sessions_of(context)[-1]
        return _materialize(
            context, stores, lambda dry: close_session(stores, session, now=now, dry_run=dry)
        )

    return orders


def _materialize(
    context: dg.AssetExecutionContext, stores: Stores, make: Callable[[bool], TradeReport]
) -> dg.MaterializeResult:
    enabled = stores.settings.trading.enabled
    if not enabled and not stores.has_broker:
        return dg.MaterializeResult(metadata={"trading": "off, and no broker to plan against"})
    try:
        report = make(not enabled)
    except BrokerError as error:
        if enabled:
            raise
        # Nothing was to be sent; the plan is a courtesy that an outage may take away.
        context.log.warning(str(error))
        return dg.MaterializeResult(metadata={"trading": f"off, and no plan: {error}"})
    return dg.MaterializeResult(metadata=describe_trade(report))


def _fills_asset(partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=partitions,
        deps=[orders_asset_name(run) for run in (*TRADING_RUNS, Run.CLOSE)],
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"alpaca"},
        freshness_policy=EVERY_SESSION,
        description="What the broker did with our orders by the end of the session.",
    )
    def fills(
        context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.MaterializeResult:
        if not stores.settings.trading.enabled:
            return dg.MaterializeResult(metadata={"trading": "off"})
        found = attend_account(stores, now=moment_of(context))
        return dg.MaterializeResult(metadata=describe_account(found))

    return fills


def trade_newest(stores: Stores, *, now: dt.datetime, dry_run: bool) -> TradeReport:
    """Trade the newest batch of signals with the configured broker.

    A failure is raised, and told by the report of the run: it goes to the audit log, as does the
    end of it.
    """
    if dry_run:
        return _trade(stores, trade, now, dry_run)
    with stores.ledger as ledger:
        batch = newest_batch(ledger)
        try:
            report = _trade(stores, trade, now, dry_run)
        except Exception as error:
            if batch is not None:
                record_failure(ledger, batch.batch_id, redact(str(error)), now)
            raise
        if batch is not None:
            record_recovery(ledger, batch.batch_id, now)
        return report


def close_session(
    stores: Stores, session: dt.date, *, now: dt.datetime, dry_run: bool
) -> TradeReport:
    """Send the exits of a session's close to the configured broker."""
    return _trade(stores, partial(trade_close, session=session), now, dry_run)


def _trade(
    stores: Stores, make: Callable[..., TradeReport], now: dt.datetime, dry_run: bool
) -> TradeReport:
    settings = stores.settings
    assert_may_trade(settings.trading.mode, stores.broker, settings.trading.allow_live)
    with stores.ledger as ledger, _telling(stores, ledger, now):
        if settings.trading.mode == "live" and not dry_run:
            assert_ready_for_live(check_trading(stores, ledger))
        return make(
            ledger,
            stores.broker,
            market=read_market(stores, now),
            rules=trade_rules(settings),
            now=now,
            dry_run=dry_run,
        )


def check_trading(stores: Stores, ledger: Ledger) -> list[PreflightCheck]:
    """Ask whether the configured account may trade, by this machine's clock."""
    settings = stores.settings
    # On paper a broker on this machine replays the past; real money has one clock.
    replays = settings.trading.mode == "paper" and settings.alpaca.is_replay
    return preflight(
        ledger,
        stores.broker,
        mode=settings.trading.mode,
        allow_live_account=settings.trading.allow_live,
        now=None if replays else _machine_time(),
    )


def _machine_time() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def attend_account(stores: Stores, *, now: dt.datetime) -> Reconciliation:
    """Reconcile with the configured broker, carry plans on, and stop where need be.

    A live account that `isobar doctor` does not find well is reconciled, and nothing is sent.
    """
    settings = stores.settings
    assert_may_trade(settings.trading.mode, stores.broker, settings.trading.allow_live)
    market, rules = read_market(stores, now), trade_rules(settings)
    with stores.ledger as ledger, _telling(stores, ledger, now):
        if settings.trading.mode == "live":
            found = watch(ledger, stores.broker, market=market, rules=rules, now=now)
            if not all(check.ok for check in check_trading(stores, ledger)):
                return found
        return attend(ledger, stores.broker, market=market, rules=rules, now=now)


@contextmanager
def _telling(stores: Stores, ledger: Ledger, now: dt.datetime) -> Iterator[None]:
    """Tell people when trading stopped meanwhile, and keep the audit log's head outside."""
    before = current_state(ledger)
    try:
        yield
    finally:
        remember_head(ledger, stores.audit_head_file)
        after = current_state(ledger)
        if after is not before:
            why = newest_reason(ledger)
            send_alert(stores.settings.alerts, Alert(now, f"trading is {after.value}", why))


def trade_rules(settings: Settings) -> TradeRules:
    """Return every rule of trading that is set."""
    return TradeRules(settings.targets, settings.orders, settings.risk, settings.guard)


def describe_account(found: Reconciliation) -> dict[str, object]:
    """Return what a person wants to see of journal and account."""
    rows = [(f.kind.value, f.key, f.detail) for f in found.findings]
    return {
        "journal and account agree": found.is_clean,
        "new fills": found.sync.fills,
        "orders asked about": found.sync.polled,
        "equity": f"{found.account.equity_usd} USD",
        "positions": len(found.positions),
        "findings": _table(("finding", "of", "detail"), rows),
    }


def describe_trade(report: TradeReport) -> dict[str, object]:
    """Return what a person wants to see of a trading run."""
    denied = Counter(code.value for code in report.denials)
    states = Counter(o.state.value for o in report.journalled.orders) if report.journalled else {}
    left_out = report.plan.skipped if report.plan else ()
    return {
        "batch": report.batch_id or "none published",
        "dry run": report.dry_run,
        "resumed": report.resumed,
        "intents": len(report.verdicts),
        "denied": dict(denied),
        "orders": dict(states),
        "plan": _table(
            ("symbol", "side", "shares", "order", "why", "exits at the broker", "verdict"),
            [
                (
                    i.symbol,
                    i.side.value,
                    str(i.quantity),
                    f"{i.order_type.value}, {i.time_in_force.value}",
                    i.reason.value.replace("_", " "),
                    f"{_level(i.take_profit_usd)} / {_level(i.stop_loss_usd)}",
                    ", ".join(d.code.value for d in v.denials) or "accepted",
                )
                for v in report.verdicts
                for i in (v.intent,)
            ],
        ),
        "refused": _table(
            ("symbol", "denied", "detail"),
            [(r.symbol, r.code.value, r.detail) for r in report.refused],
        ),
        "left out": _table(
            ("symbol", "why", "detail"),
            [(s.symbol, s.reason.value.replace("_", " "), s.detail) for s in left_out],
        ),
    }


def _level(price: Decimal | None) -> str:
    return "-" if price is None else str(price)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> dg.MetadataValue | str:
    if not rows:
        return "none"
    lines = [head, ["---"] * len(head), *rows]
    return dg.MetadataValue.md("\n".join("| " + " | ".join(line) + " |" for line in lines))
