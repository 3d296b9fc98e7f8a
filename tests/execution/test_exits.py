"""Targets and stops that rest with the broker: journalled, canceled first, never doubled."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest

from execution.broker import OrderType, TimeInForce
from execution.dispatch import cancel_outlived, sync_orders
from execution.holdings import held_positions, level_exits, own_quantities
from execution.intents import PlanRules
from execution.journal import JournalState, pending_orders, read_order, read_plan
from execution.risk import RiskLimits
from execution.state import verify_audit
from execution.targets import TargetReason, TargetRules
from execution.trade import TradeRules, trade
from market.ledger import open_ledger
from tests.execution.memory_broker import NOW, Crash, MemoryBroker, outage
from tests.execution.scenes import AS_OF, content, fault_at_every_step, market_of, publish

RULES = TradeRules(
    TargetRules(symbol_volatility_target=0.03), PlanRules(brackets=True), RiskLimits()
)
LATER = NOW + dt.timedelta(minutes=2)
LEVELS = {"targets": [110.0], "stops": [95.0], "valid_until": NOW + dt.timedelta(days=2)}
AGAINST = {**LEVELS, "direction": "short", "targets": [90.0], "stops": [105.0]}


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
def broker():
    return MemoryBroker({"A": 100.0, "B": 50.0})


def run(ledger, broker, now=NOW):
    broker.clock_now = replace(broker.clock_now, now=now)
    market = market_of(broker, now - dt.timedelta(minutes=1))
    return trade(ledger, broker, market=market, rules=RULES, now=now)


def publish_later(ledger, folder, *rows):
    at = AS_OF + dt.timedelta(minutes=2)
    return publish(ledger, folder, *rows, as_of=at, scheduled_for=at, ts_emit=at)


def exit_of(broker, kind):
    (key,) = [k for k in broker.orders if k.startswith(f"{kind.value}-of")]
    return key


def test_an_entry_is_journalled_with_its_exits(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A", **LEVELS))
    run(ledger, broker)
    resting = {o.intent.order_type: o for o in pending_orders(ledger)}
    assert resting[OrderType.LIMIT].intent.limit_price_usd == 110
    assert resting[OrderType.STOP].intent.stop_price_usd == 95
    assert {o.parent_id for o in resting.values()} == set(broker.placed)
    assert own_quantities(ledger) == {"A": 60}
    assert held_positions(ledger)[0].stop_price == 95


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(OrderType.STOP, TargetReason.EXIT_STOP), (OrderType.LIMIT, TargetReason.EXIT_TARGET)],
)
def test_an_exit_that_fills_closes_the_position_and_spends_its_signal(
    ledger, broker, tmp_path, kind, reason
):
    publish(ledger, tmp_path, content("A", **LEVELS))
    run(ledger, broker)
    broker.touch(exit_of(broker, kind))
    assert sync_orders(ledger, broker, LATER).fills == 1
    assert own_quantities(ledger) == {}
    assert pending_orders(ledger) == []
    assert "A" in level_exits(ledger)
    publish_later(ledger, tmp_path, content("B"))
    run(ledger, broker, LATER)
    assert broker.holdings["A"] == 0


def test_another_order_in_the_symbol_cancels_the_exits_first(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A", **LEVELS))
    run(ledger, broker)
    steps: list[str] = []
    broker.on_step = steps.append
    publish_later(ledger, tmp_path, content("A", **AGAINST))
    run(ledger, broker, LATER)
    assert steps.index("after cancel") < steps.index("before submit")
    assert broker.holdings["A"] == 0
    assert own_quantities(ledger) == {}
    assert pending_orders(ledger) == []


def test_an_exit_that_fills_while_it_is_canceled_is_not_sold_again(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A", **LEVELS))
    run(ledger, broker)
    stop = exit_of(broker, OrderType.STOP)

    def race(step: str) -> None:
        if step == "before cancel":
            broker.touch(stop)

    broker.on_step = race
    publish_later(ledger, tmp_path, content("A", **AGAINST))
    report = run(ledger, broker, LATER)
    (order,) = report.journalled.orders
    assert order.state is JournalState.LAPSED
    assert broker.holdings["A"] == 0
    assert own_quantities(ledger) == {}


def test_a_cancellation_that_fails_leaves_the_order_for_the_next_run(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A", **LEVELS))
    run(ledger, broker)
    publish_later(ledger, tmp_path, content("A", **AGAINST))
    broker.on_step = lambda step: (_ for _ in ()).throw(outage()) if "cancel" in step else None
    report = run(ledger, broker, LATER)
    assert [o.state for o in report.journalled.orders] == [JournalState.INTENDED]
    broker.on_step = lambda _step: None
    run(ledger, broker, LATER)
    assert broker.holdings["A"] == 0
    assert len(broker.placed) == 2


def enter(ledger, broker, folder):
    publish(ledger, folder, content("A", **LEVELS))
    run(ledger, broker)


def turn(ledger, broker, folder):
    publish_later(ledger, folder, content("A", **AGAINST))
    run(ledger, broker, LATER)


def all_is_closed_once(ledger, broker):
    assert len(broker.placed) == 2
    assert broker.holdings == {"A": 0}
    assert own_quantities(ledger) == {}
    assert pending_orders(ledger) == []
    assert verify_audit(ledger) == []


@pytest.mark.parametrize("error", [Crash, outage])
def test_a_fault_while_entering_loses_no_exit(tmp_path, monkeypatch, error):
    def check(ledger, broker, folder):
        run(ledger, broker)
        assert sorted(o.intent.client_order_id for o in pending_orders(ledger)) == sorted(
            k for ks in broker.exits.values() for k in ks
        )
        turn(ledger, broker, folder)
        run(ledger, broker, LATER)
        all_is_closed_once(ledger, broker)

    steps = fault_at_every_step(
        tmp_path,
        monkeypatch,
        error,
        broker=MemoryBroker({"A": 100.0, "B": 50.0}),
        prepare=lambda ledger, _broker, folder: publish(ledger, folder, content("A", **LEVELS)),
        act=lambda ledger, broker, _folder: run(ledger, broker),
        check=check,
    )
    assert steps > 40


@pytest.mark.parametrize("error", [Crash, outage])
def test_a_fault_while_turning_doubles_no_order(tmp_path, monkeypatch, error):
    def prepare(ledger, broker, folder):
        enter(ledger, broker, folder)
        publish_later(ledger, folder, content("A", **AGAINST))

    def check(ledger, broker, _folder):
        run(ledger, broker, LATER)
        all_is_closed_once(ledger, broker)

    steps = fault_at_every_step(
        tmp_path,
        monkeypatch,
        error,
        broker=MemoryBroker({"A": 100.0, "B": 50.0}),
        prepare=prepare,
        act=lambda ledger, broker, _folder: run(ledger, broker, LATER),
        check=check,
    )
    assert steps > 40


def test_signals_from_before_an_exit_filled_are_spent(ledger, broker, tmp_path):
    """Also those that came after the entry: else the next run opens what was just stopped."""
    publish(ledger, tmp_path, content("A", **LEVELS))
    run(ledger, broker)
    between = NOW + dt.timedelta(minutes=1)
    at = {"as_of": between, "scheduled_for": between, "ts_emit": between}
    publish(ledger, tmp_path, content("A", **LEVELS), **at)
    stop = exit_of(broker, OrderType.STOP)
    broker.touch(stop)
    broker.orders[stop] = replace(broker.orders[stop], updated_at=LATER)
    sync_orders(ledger, broker, LATER)
    assert level_exits(ledger) == {"A": LATER}
    run(ledger, broker, LATER)
    assert broker.holdings["A"] == 0


def test_an_entry_that_outlives_its_plan_is_canceled(ledger, broker, tmp_path):
    broker.fill_share = Decimal("0.5")
    publish(ledger, tmp_path, content("A", **LEVELS))
    run(ledger, broker)
    (entry,) = [o for o in pending_orders(ledger) if o.parent_id is None]
    assert entry.intent.time_in_force is TimeInForce.GTC
    ends = read_plan(ledger, entry.plan_id).expires_at
    assert cancel_outlived(ledger, broker, ends - dt.timedelta(seconds=1)) == 0
    assert cancel_outlived(ledger, broker, ends) == 1
    assert read_order(ledger, entry.intent.client_order_id).state is JournalState.CANCELED
    assert own_quantities(ledger) == {"A": 30}
    assert cancel_outlived(ledger, broker, ends) == 0
