"""Whether an account may trade: each question alone, and live orders only if all are well."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from execution.preflight import assert_ready_for_live, preflight
from execution.reconcile import reconcile
from execution.state import halt, reduce_only, resume
from market.errors import BrokerError, ExecutionError
from market.ledger import open_ledger
from tests.execution.memory_broker import NOW, MemoryBroker, outage
from tests.execution.scenes import content, publish
from tests.execution.test_trade import run

SECOND = dt.timedelta(seconds=1)
NAMES = ["trading mode", "account", "broker's clock", "trading state", "reconciliation"]


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
def broker():
    """A live account."""
    made = MemoryBroker({"A": 100.0, "B": 50.0, "C": 20.0})
    made.is_paper = False
    return made


@pytest.fixture
def ready(ledger, broker):
    """A live account with a clean reconciliation."""
    reconcile(ledger, broker, NOW)
    return broker


def ask(ledger, broker, mode="live", allowed="PA1", now=NOW):
    return preflight(ledger, broker, mode=mode, allow_live_account=allowed, now=now)


def failed(checks):
    return [c.name for c in checks if not c.ok]


def test_a_ready_live_account(ledger, ready):
    checks = ask(ledger, ready)
    assert [c.name for c in checks] == NAMES
    assert failed(checks) == []
    assert_ready_for_live(checks)


@pytest.mark.parametrize(("mode", "allowed"), [("live", None), ("live", "PA2"), ("paper", "PA1")])
def test_settings_that_do_not_fit_the_account_are_all_that_is_said(ledger, ready, mode, allowed):
    checks = ask(ledger, ready, mode, allowed)
    assert [c.name for c in checks] == failed(checks) == ["trading mode"]
    with pytest.raises(ExecutionError, match="not ready"):
        assert_ready_for_live(checks)


def account(broker, **changes):
    made = replace(broker.account(), **changes)
    broker.account = lambda: made


@pytest.mark.parametrize(
    ("change", "said"), [({"is_blocked": True}, "blocked"), ({"currency": "EUR"}, "EUR")]
)
def test_an_account_that_the_checks_of_every_order_would_deny(ledger, ready, change, said):
    account(ready, **change)
    checks = ask(ledger, ready)
    assert failed(checks) == ["account"]
    with pytest.raises(ExecutionError, match=said):
        assert_ready_for_live(checks)


@pytest.mark.parametrize(("seconds", "well"), [(300, True), (301, False), (-301, False)])
def test_clocks_may_be_five_minutes_apart(ledger, ready, seconds, well):
    checks = ask(ledger, ready, now=NOW + seconds * SECOND)
    assert failed(checks) == ([] if well else ["broker's clock"])


def test_a_replay_has_a_clock_of_its_own(ledger, ready):
    assert failed(ask(ledger, ready, now=None)) == []


def test_a_halt_is_not_well_and_reducing_is_said(ledger, ready):
    reduce_only(ledger, "daily loss: 4%", NOW)
    checks = ask(ledger, ready)
    assert failed(checks) == []
    assert "only what reduces is sent: daily loss" in checks[3].says
    halt(ledger, "a storm", NOW)
    checks = ask(ledger, ready)
    assert failed(checks) == ["trading state"]
    assert "a storm" in checks[3].says
    resume(ledger, "it passed", NOW)
    assert failed(ask(ledger, ready)) == []


def test_live_needs_a_reconciliation_with_this_broker(ledger, broker):
    assert failed(ask(ledger, broker)) == ["reconciliation"]
    paper = MemoryBroker({"A": 100.0})
    paper.name = "alpaca-paper"
    reconcile(ledger, paper, NOW)
    checks = ask(ledger, broker)
    assert failed(checks) == ["reconciliation"]
    assert "alpaca-paper" in checks[4].says
    reconcile(ledger, broker, NOW)
    assert failed(ask(ledger, broker)) == []


def test_paper_may_start_without_one(ledger):
    checks = ask(ledger, MemoryBroker(), mode="paper", allowed=None)
    assert failed(checks) == []
    assert "never" in checks[4].says


def test_the_newest_reconciliation_has_the_word(ledger, broker, tmp_path):
    broker.is_paper = True
    publish(ledger, tmp_path, content("A"))
    run(ledger, broker)
    broker.holdings["A"] -= 1
    reconcile(ledger, broker, NOW)
    checks = ask(ledger, broker, mode="paper")
    assert failed(checks) == ["reconciliation"]
    assert "position_drift A" in checks[4].says
    broker.holdings["A"] += 1
    reconcile(ledger, broker, NOW + SECOND)
    assert failed(ask(ledger, broker, mode="paper")) == []


@pytest.mark.parametrize("step", ["account", "clock"])
def test_a_broker_out_of_reach_is_an_error_and_no_answer(ledger, ready, step):
    def fails(found):
        if found == step:
            raise outage()

    ready.on_step = fails
    with pytest.raises(BrokerError):
        ask(ledger, ready)


def test_no_check_is_no_leave():
    with pytest.raises(ExecutionError, match="no check was made"):
        assert_ready_for_live([])
