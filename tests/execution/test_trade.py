"""A trading run from published signals to fills."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest

from execution.broker import Broker, OrderRequest, OrderType, Position, Side, TimeInForce
from execution.holdings import held_positions, own_quantities
from execution.intents import LastPrice, PlanRules, SkipReason
from execution.journal import JournalState
from execution.risk import DenialCode, RiskLimits
from execution.state import halt, verify_audit
from execution.targets import TargetReason, TargetRules
from execution.trade import TradeRules, assert_may_trade, trade
from market.errors import BrokerError, ExecutionError
from market.ledger import open_ledger
from market.ledger_tables import parity_checks
from tests.execution.memory_broker import NOW, Crash, FaultAt, MemoryBroker, open_clock, outage
from tests.execution.scenes import AS_OF, content, market_of, publish, watched

RULES = TradeRules(TargetRules(symbol_volatility_target=0.03), PlanRules(), RiskLimits())


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
def broker():
    return MemoryBroker({"A": 100.0, "B": 50.0, "C": 20.0})


def run(ledger, broker, now=NOW, rules=RULES, **changes):
    broker.clock_now = replace(broker.clock_now, now=now)
    market = market_of(broker, now - dt.timedelta(minutes=1))
    market = replace(market, prices=changes.pop("prices", market.prices))
    return trade(ledger, broker, market=market, rules=rules, now=now, **changes)


def publish_at(ledger, folder, minutes, *rows, **changes):
    at = AS_OF + dt.timedelta(minutes=minutes)
    return publish(
        ledger, folder, *rows, as_of=at, scheduled_for=at, ts_emit=at, run="midday", **changes
    )


def test_the_fake_satisfies_the_protocol(broker):
    assert isinstance(broker, Broker)


def test_without_signals_nothing_happens(ledger, broker):
    report = run(ledger, broker)
    assert report.batch_id is None
    assert broker.placed == []


def test_signals_become_positions(ledger, broker, tmp_path):
    batch = publish(ledger, tmp_path, content("A"), content("B", confidence=0.3))
    report = run(ledger, broker)
    assert report.batch_id == batch.batch_id
    assert broker.holdings == {"A": 60, "B": 60}
    assert own_quantities(ledger) == broker.holdings
    assert [o.state for o in report.journalled.orders] == [JournalState.FILLED] * 2
    assert verify_audit(ledger) == []


def test_a_second_run_of_the_batch_sends_nothing(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A"))
    run(ledger, broker)
    broker.prices["A"] = Decimal(50)
    report = run(ledger, broker)
    assert report.resumed
    assert len(broker.placed) == 1


def test_a_dry_run_writes_and_sends_nothing(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A"))
    report = run(ledger, broker, dry_run=True)
    assert [v.accepted for v in report.verdicts] == [True]
    assert broker.placed == []
    assert ledger.read("SELECT * FROM plans").is_empty()
    assert ledger.read("SELECT * FROM audit_log").is_empty()


def test_a_missing_signal_closes_nothing_and_an_opposite_one_does(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A"), content("B"))
    run(ledger, broker)
    publish_at(ledger, tmp_path, 2, content("C"))
    run(ledger, broker)
    assert broker.holdings["A"] == 60
    assert broker.holdings["B"] == 120
    publish_at(ledger, tmp_path, 4, content("A", direction="short"))
    run(ledger, broker)
    assert broker.holdings["A"] == 0
    assert broker.holdings["B"] == 120


def test_an_expired_position_is_closed(ledger, broker, tmp_path):
    soon = NOW + dt.timedelta(minutes=10)
    publish(ledger, tmp_path, content("A", valid_until=soon))
    run(ledger, broker)
    publish_at(ledger, tmp_path, 10, content("B"))
    report = run(ledger, broker, now=soon)
    assert report.targets.decisions[0].reason is TargetReason.EXIT_EXPIRED
    assert broker.holdings["A"] == 0


def test_a_touched_stop_closes_and_does_not_open_again(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A", stops=[95.0]))
    run(ledger, broker)
    assert held_positions(ledger)[0].stop_price == 95
    broker.prices["A"] = Decimal(94)
    publish_at(ledger, tmp_path, 2, content("B"))
    run(ledger, broker)
    assert broker.holdings["A"] == 0
    broker.prices["A"] = Decimal(100)
    publish_at(ledger, tmp_path, 4, content("B"))
    run(ledger, broker)
    assert broker.holdings["A"] == 0


def test_foreign_positions_and_orders_are_never_touched(ledger, broker, tmp_path):
    broker.holdings["A"] = Decimal(33)
    broker.fill_share = Decimal(0)
    broker.submit(
        OrderRequest("mine", "B", Side.BUY, Decimal(5), OrderType.MARKET, TimeInForce.DAY)
    )
    publish(ledger, tmp_path, content("A"), content("B"), content("C"))
    broker.fill_share = Decimal(1)
    report = run(ledger, broker)
    assert broker.holdings == {"A": 33, "C": 309}  # 6% of 103,300 USD
    assert {(s.symbol, s.reason) for s in report.plan.skipped} == {
        ("A", SkipReason.FOREIGN_POSITION),
        ("B", SkipReason.FOREIGN_ORDER),
    }


def test_denials_are_data(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A"), late=True)
    report = run(ledger, broker)
    assert [d.code for d in report.verdicts[0].denials] == [DenialCode.BATCH_LATE]
    assert report.journalled.orders[0].state is JournalState.DENIED
    assert broker.placed == []


def keep_parity(ledger, batch_id, *, equal, minutes):
    row = {"batch_id": batch_id, "checked_at": NOW + dt.timedelta(minutes=minutes)}
    with ledger.transaction() as connection:
        connection.execute(parity_checks.insert(), row | {"equal": equal, "findings": []})


@pytest.mark.parametrize(("checks", "broken"), [([False], True), ([False, True], False)])
def test_the_newest_parity_check_has_the_word(ledger, broker, tmp_path, checks, broken):
    batch = publish(ledger, tmp_path, content("A"))
    for k, equal in enumerate(checks):
        keep_parity(ledger, batch.batch_id, equal=equal, minutes=k)
    report = run(ledger, broker)
    codes = [d.code for d in report.verdicts[0].denials]
    assert codes == [DenialCode.PARITY_BROKEN] * broken
    assert bool(broker.placed) is not broken


def test_a_halt_denies(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A"))
    halt(ledger, "test", NOW)
    report = run(ledger, broker)
    assert [d.code for d in report.verdicts[0].denials] == [DenialCode.TRADING_HALTED]


def test_a_clock_that_jumped_denies(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A"))
    broker.clock_now = open_clock(NOW + dt.timedelta(hours=1))
    report = trade(ledger, broker, market=market_of(broker), rules=RULES, now=NOW)
    assert [d.code for d in report.verdicts[0].denials] == [DenialCode.MISSING_DATA]


def test_old_prices_deny(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A"))
    old = {"A": LastPrice(Decimal(100), NOW - dt.timedelta(hours=2))}
    report = run(ledger, broker, prices=old)
    assert [d.code for d in report.verdicts[0].denials] == [DenialCode.PRICE_TOO_OLD]


def test_unfilled_orders_are_counted_by_the_next_plan(ledger, broker, tmp_path):
    broker.fill_share = Decimal(0)
    publish(ledger, tmp_path, content("A"))
    run(ledger, broker)
    publish_at(ledger, tmp_path, 2, content("A"))
    report = run(ledger, broker)
    assert [(s.symbol, s.reason) for s in report.plan.skipped] == [("A", SkipReason.AT_TARGET)]
    assert len(broker.placed) == 1


def test_an_unresolved_order_blocks_its_symbol(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A"))
    broker.on_step = lambda step: (_ for _ in ()).throw(outage()) if "submit" in step else None
    run(ledger, broker)
    publish_at(ledger, tmp_path, 2, content("A"))
    report = run(ledger, broker)
    assert report.plan.skipped[0].reason is SkipReason.UNRESOLVED_ORDER


@pytest.mark.parametrize("error", [Crash, outage])
def test_a_fault_anywhere_in_the_run_is_carried_on(tmp_path, monkeypatch, error):
    at = total = 0
    while at <= total:
        folder = tmp_path / str(at)
        broker = MemoryBroker({"A": 100.0, "B": 50.0, "C": 20.0})
        with open_ledger(f"sqlite:///{folder}/ledger.db") as ledger:
            publish(ledger, folder, content("A"), content("B"))
            fault = FaultAt(at, error)
            with (
                watched(monkeypatch, broker, fault),
                contextlib.suppress(Crash, BrokerError),
            ):
                run(ledger, broker)
            total = max(total, len(fault.steps))
            run(ledger, broker)
            assert len(broker.placed) == 2, at
            assert broker.holdings == {"A": 60, "B": 120}, at
            assert own_quantities(ledger) == broker.holdings, at
            assert verify_audit(ledger) == [], at
        at += 1
    assert total > 15


def test_live_needs_two_settings_that_agree(broker):
    assert assert_may_trade("paper", broker, None).account_number == "PA1"
    assert assert_may_trade("paper", broker, "PA1").account_number == "PA1"
    with pytest.raises(ExecutionError, match="mode"):
        assert_may_trade("LIVE", broker, "PA1")
    with pytest.raises(ExecutionError, match="paper one"):
        assert_may_trade("live", broker, "PA1")
    broker.is_paper = False
    with pytest.raises(ExecutionError, match="refuses a live broker"):
        assert_may_trade("paper", broker, "PA1")
    for allowed in (None, "", "PA2"):
        with pytest.raises(ExecutionError, match="not allowed"):
            assert_may_trade("live", broker, allowed)
    assert assert_may_trade("live", broker, "PA1").account_number == "PA1"


def test_foreign_exposure_counts(ledger, broker, tmp_path):
    broker.holdings["B"] = Decimal(3000)
    broker.cash = Decimal(-50_000)
    tight = replace(RULES, limits=RiskLimits(gross_share=Decimal("1.4")))
    publish(ledger, tmp_path, content("A"))
    report = run(ledger, broker, rules=tight)
    assert [d.code for d in report.verdicts[0].denials] == [DenialCode.GROSS_LEVERAGE]
    assert broker.positions() == [
        Position("B", Decimal(3000), Decimal(50), Decimal(50), Decimal(150_000))
    ]
