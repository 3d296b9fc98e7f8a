"""The trading state latches, survives restarts, and says why."""

from __future__ import annotations

import datetime as dt

import pytest

from execution.state import TradingState, current_state, halt, reduce_only, resume, verify_audit
from market.errors import ExecutionError
from market.ledger import open_ledger
from market.ledger_tables import trading_state
from tests.execution.memory_broker import NOW

LATER = NOW + dt.timedelta(minutes=1)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/ledger.db"


def test_a_fresh_ledger_is_active(url):
    with open_ledger(url) as ledger:
        assert current_state(ledger) is TradingState.ACTIVE


def test_a_halt_survives_a_restart(url):
    with open_ledger(url) as ledger:
        assert halt(ledger, "drift", NOW) is TradingState.HALTED
    with open_ledger(url) as ledger:
        assert current_state(ledger) is TradingState.HALTED


def test_only_resume_leaves_a_halt(url):
    with open_ledger(url) as ledger:
        reduce_only(ledger, "loss", NOW)
        assert current_state(ledger) is TradingState.REDUCING
        halt(ledger, "more loss", NOW)
        assert reduce_only(ledger, "late news", LATER) is TradingState.HALTED
        assert resume(ledger, "checked the account", LATER) is TradingState.ACTIVE
        rows = ledger.read("SELECT event FROM audit_log ORDER BY seq")["event"].to_list()
        assert rows[-2:] == ["halted -> halted", "halted -> active"]
        assert verify_audit(ledger) == []


@pytest.mark.parametrize("change", [halt, resume, reduce_only])
@pytest.mark.parametrize("reason", ["", "  "])
def test_every_change_needs_a_reason(url, change, reason):
    with open_ledger(url) as ledger, pytest.raises(ExecutionError, match="reason"):
        change(ledger, reason, NOW)


def test_an_unknown_word_is_no_permission(url):
    with open_ledger(url) as ledger:
        with ledger.transaction() as connection:
            row = {"seq": 1, "at": NOW, "state": "paused", "reason": "?"}
            connection.execute(trading_state.insert(), row)
        with pytest.raises(ExecutionError, match="unknown trading state"):
            current_state(ledger)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit_log SET detail = '{}' WHERE seq = 2",
        "DELETE FROM audit_log WHERE seq = 2",
        "UPDATE audit_log SET event = 'x' WHERE seq = 3",
    ],
)
def test_tampering_with_the_audit_log_is_found(url, sql):
    with open_ledger(url) as ledger:
        for n in range(3):
            halt(ledger, f"reason {n}", NOW)
        with ledger.transaction() as connection:
            connection.exec_driver_sql(sql)
        assert verify_audit(ledger) != []
