"""Closing everything by hand: once, through crashes, and nobody else's shares."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest

from execution.broker import TimeInForce
from execution.flatten import flatten
from execution.holdings import own_quantities
from execution.intents import PlanRules
from execution.journal import JournalState, pending_orders
from execution.state import halt, verify_audit
from execution.targets import TargetRules
from execution.trade import TradeRules, trade
from market.errors import ExecutionError
from market.ledger import open_ledger
from tests.execution.memory_broker import NOW, Crash, MemoryBroker, outage
from tests.execution.scenes import content, fault_at_every_step, market_of, publish

LATER = NOW + dt.timedelta(minutes=5)
RULES = TradeRules(TargetRules(long_only=False), PlanRules(brackets=True))
LEVELS = {"targets": [110.0], "stops": [95.0], "valid_until": NOW + dt.timedelta(days=2)}


def invest(ledger, broker, folder):
    """Isobar holds A with its exits at the broker, and half of an order in B; C is foreign."""
    broker.holdings["C"] = Decimal(7)
    publish(ledger, folder, content("A", **LEVELS), content("B"))
    broker.fill_share = Decimal("0.5")
    trade(ledger, broker, market=market_of(broker), rules=RULES, now=NOW)


@contextlib.contextmanager
def invested(folder):
    broker = MemoryBroker({"A": 100.0, "B": 50.0, "C": 20.0})
    with open_ledger(f"sqlite:///{folder}/ledger.db") as ledger:
        invest(ledger, broker, folder)
        yield ledger, broker


def test_a_halt_closes_what_is_ours_and_cancels_what_is_open(tmp_path):
    with invested(tmp_path) as (ledger, broker):
        halt(ledger, "enough", LATER)
        broker.fill_share = Decimal(1)
        made = flatten(ledger, broker, LATER)
        assert {o.state for o in made} == {JournalState.FILLED}
        assert broker.holdings == {"A": 0, "B": 0, "C": 7}
        assert own_quantities(ledger) == {}
        assert pending_orders(ledger) == []
        assert flatten(ledger, broker, LATER) == made
        assert verify_audit(ledger) == []


def test_without_a_halt_nothing_is_closed(tmp_path):
    with invested(tmp_path) as (ledger, broker):
        with pytest.raises(ExecutionError, match="only while trading is halted"):
            flatten(ledger, broker, LATER)
        assert own_quantities(ledger)


def test_before_anything_was_traded_there_is_nothing_to_close(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        halt(ledger, "new here", NOW)
        assert flatten(ledger, MemoryBroker({"A": 1.0}), NOW) == []


def test_after_the_close_it_waits_for_the_auction_and_tries_again_when_that_fails(tmp_path):
    with invested(tmp_path) as (ledger, broker):
        halt(ledger, "enough", LATER)
        broker.fill_share = Decimal(0)
        evening = dt.datetime(2025, 3, 5, 1, 0, tzinfo=dt.UTC)
        broker.clock_now = replace(broker.clock_now, now=evening, is_open=False)
        first = flatten(ledger, broker, evening)
        assert {o.intent.time_in_force for o in first} == {TimeInForce.OPG}
        for order in first:
            broker.cancel(order.broker_order_id)
        broker.fill_share = Decimal(1)
        noon = dt.datetime(2025, 3, 5, 17, 0, tzinfo=dt.UTC)
        broker.clock_now = replace(broker.clock_now, now=noon, is_open=True)
        again = flatten(ledger, broker, noon)
        assert len(again) == 2 * len(first)
        assert own_quantities(ledger) == {}


@pytest.mark.parametrize("error", [Crash, outage])
def test_a_fault_anywhere_sells_nothing_twice(tmp_path, monkeypatch, error):
    def prepare(ledger, broker, folder):
        invest(ledger, broker, folder)
        halt(ledger, "enough", LATER)
        broker.fill_share = Decimal(1)

    def check(ledger, broker, _folder):
        for _ in range(2):
            flatten(ledger, broker, LATER)
        assert broker.holdings == {"A": 0, "B": 0, "C": 7}
        assert own_quantities(ledger) == {}
        assert pending_orders(ledger) == []
        assert verify_audit(ledger) == []

    steps = fault_at_every_step(
        tmp_path,
        monkeypatch,
        error,
        broker=MemoryBroker({"A": 100.0, "B": 50.0, "C": 20.0}),
        prepare=prepare,
        act=lambda ledger, broker, _folder: flatten(ledger, broker, LATER),
        check=check,
    )
    assert steps > 30
