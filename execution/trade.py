"""One trading run: fresh signals to targets, plan, checks, journal, broker, fills."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

import sqlalchemy as sa

from execution.adjustments import CorporateActions, split_levels
from execution.broker import Account, Broker, Clock, Order
from execution.closing import assert_closing_time, closing_batch, target_rule
from execution.day_trading import count_day_trades
from execution.denials import DenialCode
from execution.dispatch import cancel_outlived, send_plan
from execution.guard import GuardRules, causes_to_stop, stop_trading
from execution.holdings import day_fills, held_positions, level_exits, own_quantities
from execution.intents import CLOSING_ATTEMPT, LastPrice, Plan, PlanRules, Refused
from execution.journal import (
    JournalledPlan,
    as_broker_order,
    find_closing,
    find_plan,
    journal_position,
    journalled_ids,
    pending_orders,
    sent_since,
    unfinished_plans,
)
from execution.journal_entries import record_closing, record_plan
from execution.model_ages import models_known_at
from execution.plan import plan_orders
from execution.reconcile import Reconciliation, peak_equity, reconcile
from execution.risk import BatchStatus, RiskContext, RiskLimits, Verdict, check_plan
from execution.risk_context import CLOCK_TOLERANCE
from execution.state import current_state
from execution.targets import TargetRules, Targets
from market.errors import ExecutionError
from market.ledger import Ledger
from market.ledger_tables import parity_checks, signal_batches, signals_current
from signals.publish import decode_signals
from signals.schema import ENSEMBLE_ENGINE


@dataclass(frozen=True, slots=True)
class TradeRules:
    """Every rule of a trading run."""

    targets: TargetRules = field(default_factory=TargetRules)
    plan: PlanRules = field(default_factory=PlanRules)
    limits: RiskLimits = field(default_factory=RiskLimits)
    guard: GuardRules = field(default_factory=GuardRules)


@dataclass(frozen=True, slots=True)
class MarketView:
    """What is known of the market beside the broker and the signals.

    Attributes
    ----------
    prices : Mapping
        Last prices, of everything that has a signal or is held.
    volatilities : Mapping
        Annualised, by symbol, as shares.
    average_volumes : Mapping
        Shares traded on an average day, by symbol.
    data_problems : Mapping or None
        Symbols whose bars cannot be trusted, and why; ``None`` where that is not known.
    sectors : Mapping, optional
        By symbol.
    actions : CorporateActions, optional
        Splits, dividends and renames of what may be held.
    """

    prices: Mapping[str, LastPrice]
    volatilities: Mapping[str, float]
    average_volumes: Mapping[str, Decimal]
    data_problems: Mapping[str, str] | None
    sectors: Mapping[str, str] | None = None
    actions: CorporateActions | None = None


@dataclass(frozen=True, slots=True)
class TradeReport:
    """What a run decided and did.

    Attributes
    ----------
    batch_id : str or None
        The batch that was traded; ``None`` when no batch was ever published.
    dry_run : bool
        Whether nothing was written or sent.
    resumed : bool
        Whether the batch already had a plan, which was carried on instead of made anew.
    targets, plan, verdicts
        What was decided in this run; absent in a resumed one.
    journalled : JournalledPlan or None
        The plan with the state of each order; absent in a dry run.
    reconciliation : Reconciliation or None
        Journal against account after the run; absent in a dry run.
    """

    batch_id: str | None
    dry_run: bool
    resumed: bool = False
    targets: Targets | None = None
    plan: Plan | None = None
    verdicts: tuple[Verdict, ...] = ()
    journalled: JournalledPlan | None = None
    reconciliation: Reconciliation | None = None

    @property
    def refused(self) -> tuple[Refused, ...]:
        """What was denied before there was an order, as planned or as journalled."""
        made = self.plan or self.journalled
        return made.refused if made else ()

    @property
    def denials(self) -> list[DenialCode]:
        """Every denial of the plan, of orders and of what was refused, each by its code."""
        # A plan that was carried on has its denials in the journal.
        judged = self.verdicts or (self.journalled.orders if self.journalled else ())
        of_orders = [d.code for one in judged for d in one.denials]
        return of_orders + [one.code for one in self.refused]


@dataclass(frozen=True, slots=True)
class _Decision:
    targets: Targets
    plan: Plan
    verdicts: tuple[Verdict, ...]
    based_on: int


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a run trades: signals, or the exits of a session's close."""

    closes: bool
    find: Callable[[Ledger, str], JournalledPlan | None]
    record: Callable[..., JournalledPlan | None]


_SIGNALS = _Kind(False, find_plan, record_plan)
_CLOSING = _Kind(True, find_closing, record_closing)


def trade(
    ledger: Ledger,
    broker: Broker,
    *,
    market: MarketView,
    rules: TradeRules,
    now: dt.datetime,
    dry_run: bool = False,
) -> TradeReport:
    """Trade the newest batch; calling again carries its plan on and sends nothing twice.

    Parameters
    ----------
    ledger : Ledger
        Signals, journal and trading state.
    broker : Broker
        Paper or live; see :func:`assert_may_trade`.
    market : MarketView
    rules : TradeRules
    now : datetime
        The present; more than five minutes away from the broker's clock, every order is denied.
    dry_run : bool
        Decide and check, but write and send nothing.

    Returns
    -------
    TradeReport
        Denials are in it, per order: they are data.

    Raises
    ------
    BrokerError
        When the broker is out of reach; what is journalled is carried on by the next call.
    LedgerError
        When the journal cannot be written; nothing was sent that is not journalled.
    """
    if not dry_run:
        watch(ledger, broker, market=market, rules=rules, now=now)
        cancel_outlived(ledger, broker, now)
    batch = newest_batch(ledger)
    if batch is None:
        return TradeReport(None, dry_run)
    return _carry_out(ledger, broker, batch, market, rules, now, dry_run, _SIGNALS)


def trade_close(
    ledger: Ledger,
    broker: Broker,
    *,
    session: dt.date,
    market: MarketView,
    rules: TradeRules,
    now: dt.datetime,
    dry_run: bool = False,
) -> TradeReport:
    """Close for a session's end what its horizons do not hold overnight; once, like a batch.

    Parameters
    ----------
    session : date
        The one that is about to close, by the broker's clock.
    ledger, broker, market, rules, now, dry_run
        See :func:`trade`.

    Returns
    -------
    TradeReport
        Of the batch ``close-<session>``: exits alone, for the closing auction.

    Raises
    ------
    BrokerError, LedgerError
        See :func:`trade`.
    ExecutionError
        When this session is not about to close and its exits were not planned before.
    """
    if not dry_run:
        watch(ledger, broker, market=market, rules=rules, now=now)
    batch = closing_batch(session, now)
    if find_closing(ledger, batch.batch_id) is None:
        assert_closing_time(session, broker.clock())
    return _carry_out(ledger, broker, batch, market, rules, now, dry_run, _CLOSING)


def _carry_out(
    ledger: Ledger,
    broker: Broker,
    batch: BatchStatus,
    market: MarketView,
    rules: TradeRules,
    now: dt.datetime,
    dry_run: bool,
    kind: _Kind,
) -> TradeReport:
    report = TradeReport(batch.batch_id, dry_run)
    journalled = None if dry_run else kind.find(ledger, batch.batch_id)
    if journalled is None:
        made = _decide(ledger, broker, batch, market, rules, now, kind)
        report = replace(report, targets=made.targets, plan=made.plan, verdicts=made.verdicts)
        if dry_run:
            return report
        journalled = kind.record(
            ledger,
            made.plan,
            made.verdicts,
            made.targets,
            broker=broker.name,
            now=now,
            based_on=made.based_on,
        )
    if journalled is not None:
        send_plan(ledger, broker, journalled.plan_id, now)
    found = watch(ledger, broker, market=market, rules=rules, now=now)
    return replace(
        report,
        resumed=report.plan is None,
        journalled=kind.find(ledger, batch.batch_id),
        reconciliation=found,
    )


def attend(
    ledger: Ledger,
    broker: Broker,
    *,
    market: MarketView,
    rules: TradeRules,
    now: dt.datetime,
) -> Reconciliation:
    """Carry journalled plans on between runs, and :func:`watch`; makes no plan.

    Parameters and errors are those of :func:`trade`.
    """
    found = watch(ledger, broker, market=market, rules=rules, now=now)
    if cancel_outlived(ledger, broker, now):
        found = watch(ledger, broker, market=market, rules=rules, now=now)
    unfinished = unfinished_plans(ledger, broker.name)
    for plan_id in unfinished:
        send_plan(ledger, broker, plan_id, now)
    if not unfinished:
        return found
    return watch(ledger, broker, market=market, rules=rules, now=now)


def watch(
    ledger: Ledger,
    broker: Broker,
    *,
    market: MarketView,
    rules: TradeRules,
    now: dt.datetime,
) -> Reconciliation:
    """Reconcile, and stop trading where what is found calls for it; sends nothing.

    Parameters
    ----------
    ledger, broker, market, rules, now
        See :func:`trade`.

    Returns
    -------
    Reconciliation
        The trading state may be another one afterwards.
    """
    clock = broker.clock()
    found = reconcile(ledger, broker, now, actions=market.actions)
    oldest = now - dt.timedelta(seconds=rules.limits.price_age_seconds)
    fresh = frozenset(s for s, p in market.prices.items() if p.at >= oldest)
    stops = causes_to_stop(
        ledger,
        found,
        rules.limits,
        rules.guard,
        broker=broker.name,
        fresh=fresh if clock.is_open else None,
    )
    stop_trading(ledger, stops, now)
    return found


def newest_batch(ledger: Ledger) -> BatchStatus | None:
    """Return the newest batch of signals, or ``None`` where there is none."""
    table = signal_batches.c
    query = sa.select(signal_batches).order_by(table.as_of.desc(), table.seq.desc()).limit(1)
    rows = ledger.rows(query)
    if not rows:
        return None
    names = ("batch_id", "as_of", "scheduled_for", "ts_emit", "late", "complete")
    return BatchStatus(
        **{name: rows[0][name] for name in names}, parity_broken=_parity_broken(ledger)
    )


def _parity_broken(ledger: Ledger) -> bool:
    """Say whether the newest parity check, of whatever batch, found something."""
    newest = sa.select(parity_checks.c.equal).order_by(parity_checks.c.checked_at.desc()).limit(1)
    return any(not row["equal"] for row in ledger.rows(newest))


def assert_may_trade(mode: str, broker: Broker, allow_live_account: str | None) -> Account:
    """Refuse to trade real money unless two separate settings agree; return the account.

    Parameters
    ----------
    mode : str
        ``paper`` or ``live``, from the settings.
    broker : Broker
        The connected broker.
    allow_live_account : str or None
        The second setting: the number of the live account.

    Raises
    ------
    ExecutionError
        When mode, broker and account do not agree.
    """
    if mode not in {"paper", "live"}:
        raise ExecutionError(
            "unknown trading mode", got=mode, allowed="paper, live", remedy="use paper"
        )
    if mode == "paper" and not broker.is_paper:
        raise ExecutionError(
            "paper mode refuses a live broker",
            got=broker.name,
            allowed="a paper broker",
            remedy="use the paper URL and paper keys",
        )
    if mode == "live" and broker.is_paper:
        raise ExecutionError(
            "live mode is set and the broker is a paper one",
            got=broker.name,
            allowed="a live broker",
            remedy="set the mode to paper, or use the live URL",
        )
    account = broker.account()
    if mode == "live" and (not allow_live_account or allow_live_account != account.account_number):
        raise ExecutionError(
            "live trading is not allowed for this account",
            allowed="ISOBAR_ALLOW_LIVE equal to the account number",
            remedy="set it on purpose, or trade on paper",
        )
    return account


def _decide(
    ledger: Ledger,
    broker: Broker,
    batch: BatchStatus,
    market: MarketView,
    rules: TradeRules,
    now: dt.datetime,
    kind: _Kind,
) -> _Decision:
    # The journal's position comes first: whatever moves after it makes record_plan refuse.
    based_on = journal_position(ledger)
    view = signals_current.c
    query = sa.select(signals_current).where(
        view.engine == ENSEMBLE_ENGINE, view.valid_until > now, view.as_of <= now
    )
    own = own_quantities(ledger)
    account, clock, positions = broker.account(), broker.clock(), broker.positions()
    known = journalled_ids(ledger)
    open_orders = _open_orders(ledger, broker, known)
    signals = decode_signals(ledger.read(query))
    if market.actions is not None:
        signals = split_levels(signals, market.actions.splits, now)
    targets = target_rule(clock.next_close if kind.closes else None)(
        signals,
        held_positions(ledger),
        {symbol: last.price_usd for symbol, last in market.prices.items()},
        market.volatilities,
        account.equity_usd,
        rules.targets,
        now,
        level_exits(ledger),
        market.sectors,
    )
    assets = broker.assets([d.symbol for d in targets.decisions])
    plan = plan_orders(
        targets,
        positions,
        open_orders,
        own,
        market.prices,
        assets,
        clock,
        replace(rules.plan, attempt=CLOSING_ATTEMPT) if kind.closes else rules.plan,
        batch.batch_id,
        known,
        for_close=kind.closes,
    )
    context = RiskContext(
        now=now,
        state=current_state(ledger),
        batch=batch,
        account=account,
        clock=_checked(clock, now),
        positions=positions,
        open_orders=open_orders,
        own_quantities=own,
        journalled=known,
        assets=assets,
        prices=market.prices,
        models_known_at=models_known_at(ledger, now),
        data_problems=market.data_problems,
        peak_equity_usd=peak_equity(ledger, broker.name) or account.equity_usd,
        sent_last_hour=sent_since(ledger, now - dt.timedelta(hours=1)),
        day_trading=count_day_trades(day_fills(ledger, now), now),
        average_volumes=market.average_volumes,
        sectors=market.sectors,
        limits=rules.limits,
    )
    return _Decision(targets, plan, tuple(check_plan(plan.intents, context)), based_on)


def _open_orders(ledger: Ledger, broker: Broker, known: set[str]) -> list[Order]:
    """Return what may still fill: ours as the journal knows it, and what is foreign."""
    foreign = [o for o in broker.open_orders() if o.client_order_id not in known]
    return [as_broker_order(o) for o in pending_orders(ledger)] + foreign


def _checked(clock: Clock, now: dt.datetime) -> Clock | None:
    """Return the clock, or ``None`` (which denies) when it and ``now`` are far apart."""
    return None if abs(clock.now - now) > CLOCK_TOLERANCE else clock
