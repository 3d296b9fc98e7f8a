"""From a published batch to orders: planning and checks, the first request, the journal.

500 symbols with positions, open orders and exits at the broker; every check has its data. What is
planned is checked against the limits before anything is timed. The journal is SQLite in WAL mode
with every commit on disk; how fast the disk takes a commit of one row is measured beside it, for
that is the limit of writes that must be on disk one by one.
"""

import sqlite3
import tempfile
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from benchmarks.wanted import Wanted
from execution.broker import OrderRequest
from execution.journal import JournalState
from execution.journal_entries import move_order, record_plan
from execution.plan import plan_orders
from execution.risk import RiskLimits, check_plan
from execution.targets import TargetRules, compute_targets
from execution.trade import TradeRules, trade
from market.ledger import Ledger, open_ledger
from tests.execution.memory_broker import NOW, MemoryBroker
from tests.execution.scenes import a_signal, content, market_of, publish, table
from tests.execution.test_risk import FINE

SYMBOLS, ROUNDS, WRITES = 500, 40, 4_000
NAMES = [f"S{n:03d}" for n in range(SYMBOLS)]
MOST_PLAN_MS, MOST_FIRST, LEAST_WRITES = 200, 1, 2_000
RULES = TradeRules(
    TargetRules(gross_limit=1.0, symbol_volatility_target=0.5, symbol_cap=0.002),
    limits=RiskLimits(order_count=1_000),
)


class Timed(MemoryBroker):
    """Remembers when the first request for an order arrived."""

    first: float = 0.0

    def submit(self, request: OrderRequest):
        self.first = self.first or time.perf_counter()
        return super().submit(request)


def plan_and_check() -> tuple[float, float]:
    """Return the median and the 99th percentile of planning and checking, seconds."""
    signals = table(*(a_signal(n, targets=[60.0], stops=[45.0]) for n in NAMES))
    broker = MemoryBroker(dict.fromkeys(NAMES, 50.0), cash=Decimal(10_000_000))
    market = market_of(broker)
    assets = broker.assets(NAMES)
    prices = {s: p.price_usd for s, p in market.prices.items()}
    equity = broker.account().equity_usd
    context = replace(
        FINE,
        account=replace(
            FINE.account, equity_usd=equity, last_equity_usd=equity, buying_power_usd=equity * 2
        ),
        assets=assets,
        prices=market.prices,
        average_volumes=market.average_volumes,
        sectors={s: f"sector {k % 11}" for k, s in enumerate(NAMES)},
        peak_equity_usd=equity,
        limits=replace(RULES.limits, sector_share=Decimal(1)),
    )
    taken: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        targets = compute_targets(
            signals, [], prices, market.volatilities, equity, RULES.targets, NOW
        )
        plan = plan_orders(
            targets, [], [], {}, market.prices, assets, broker.clock(), RULES.plan, "batch"
        )
        verdicts = check_plan(plan.intents, context)
        taken.append(time.perf_counter() - began)
    accepted = [v for v in verdicts if v.accepted]
    gross = sum(v.intent.quantity * 50 for v in accepted)
    if len(accepted) != SYMBOLS or gross > equity:
        raise SystemExit(f"{len(accepted)} orders of {gross} USD were accepted: not like work")
    return float(np.median(taken)), float(np.quantile(taken, 0.99))


def first_request(ledger: Ledger, folder: Path) -> float:
    """Return the time from a batch that is published to the first request, seconds."""
    broker = Timed(dict.fromkeys(NAMES, 50.0), cash=Decimal(10_000_000))
    publish(ledger, folder, *(content(n) for n in NAMES))
    market = market_of(broker)
    began = time.perf_counter()
    trade(ledger, broker, market=market, rules=RULES, now=NOW)
    if len(broker.placed) != SYMBOLS:
        raise SystemExit(f"{len(broker.placed)} orders were placed, {SYMBOLS} expected")
    return broker.first - began


def journal_writes(ledger: Ledger, folder: Path) -> tuple[float, float]:
    """Return rows a second of a whole plan, and changes of one order each, one by one."""
    broker = MemoryBroker(dict.fromkeys(NAMES, 50.0), cash=Decimal(10_000_000))
    broker.on_step = _refuse_to_send
    publish(ledger, folder, *(content(n) for n in NAMES))
    report = trade(ledger, broker, market=market_of(broker), rules=RULES, now=NOW, dry_run=True)
    assert report.plan is not None
    assert report.targets is not None
    before = _audit_rows(ledger)
    began = time.perf_counter()
    made = record_plan(
        ledger, report.plan, report.verdicts, report.targets, broker="memory", now=NOW
    )
    whole = time.perf_counter() - began
    rows = _audit_rows(ledger) - before + len(made.orders)
    if len(made.orders) != SYMBOLS:
        raise SystemExit(f"{len(made.orders)} orders were journalled, {SYMBOLS} expected")
    began = time.perf_counter()
    changes = 0
    while changes < WRITES:
        for order in made.orders:
            before_state, after_state = (
                (JournalState.INTENDED, JournalState.SENDING)
                if changes // len(made.orders) % 2 == 0
                else (JournalState.SENDING, JournalState.INTENDED)
            )
            with ledger.transaction() as connection:
                move_order(
                    connection, order.intent.client_order_id, before_state, after_state, NOW, {}
                )
            changes += 1
    return rows / whole, changes / (time.perf_counter() - began)


def disk_commits(folder: Path) -> float:
    """Return how many commits of one row a second SQLite reaches here, each on disk."""
    with sqlite3.connect(folder / "bare.db", isolation_level=None) as bare:
        bare.execute("PRAGMA journal_mode=WAL")
        bare.execute("PRAGMA synchronous=FULL")
        bare.execute("CREATE TABLE t (a TEXT)")
        began = time.perf_counter()
        for _ in range(WRITES):
            bare.execute("INSERT INTO t VALUES ('x')")
        return WRITES / (time.perf_counter() - began)


def _refuse_to_send(step: str) -> None:
    if "submit" in step:
        raise AssertionError("nothing is sent here")


def _audit_rows(ledger: Ledger) -> int:
    return int(ledger.read("SELECT count(*) AS n FROM audit_log").item())


def main() -> None:
    """Time, and compare with what is wanted."""
    median, p99 = plan_and_check()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open_ledger(f"sqlite:///{folder}/first/ledger.db") as ledger:
            first = first_request(ledger, folder / "first")
        with open_ledger(f"sqlite:///{folder}/writes/ledger.db") as ledger:
            rows, changes = journal_writes(ledger, folder / "writes")
        commits = disk_commits(folder)
    wanted = Wanted()
    print(f"{SYMBOLS} symbols")
    told = wanted.at_most(median * 1e3, MOST_PLAN_MS)
    print(f"targets, plan and checks, median  {median * 1e3:9.1f} ms  {told}")
    print(f"... 99th percentile               {p99 * 1e3:9.1f} ms")
    told = wanted.at_most(first, MOST_FIRST)
    print(f"batch published to first request  {first:9.3f} s   {told}")
    told = wanted.at_least(rows, LEAST_WRITES)
    print(f"rows of a plan, one commit        {rows:9,.0f} /s  {told}")
    told = wanted.at_least(changes, LEAST_WRITES)
    print(f"changes of an order, one commit each {changes:6,.0f} /s  {told}")
    print(f"bare SQLite, one row a commit     {commits:9,.0f} /s  ({changes / commits:.2f} of it)")
    wanted.end()


if __name__ == "__main__":
    main()
