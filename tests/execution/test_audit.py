"""Whatever is altered, removed or inserted in log, orders or fills is found."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from execution.audit import keep_restored_heads, read_heads, remember_head, verify_orders
from execution.state import halt
from execution.trade import TradeRules, trade
from market.ledger import open_ledger
from market.ledger_tables import audit_log
from tests.execution.memory_broker import NOW, MemoryBroker
from tests.execution.scenes import content, market_of, publish


@pytest.fixture
def scene(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        broker = MemoryBroker({"A": 100.0, "B": 50.0})
        publish(ledger, tmp_path, content("A"), content("B"))
        trade(ledger, broker, market=market_of(broker), rules=TradeRules(), now=NOW)
        remember_head(ledger, tmp_path / "audit.jsonl")
        yield ledger, tmp_path / "audit.jsonl"


def test_an_untouched_journal_is_clean_and_the_head_is_kept_once(scene):
    ledger, head = scene
    assert verify_orders(ledger, head) == []
    remember_head(ledger, head)
    assert len(read_heads(head)) == 1


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("UPDATE audit_log SET event = 'x' WHERE seq = 3", "was altered"),
        ("DELETE FROM audit_log WHERE seq = 3", "are missing"),
        ("DELETE FROM audit_log WHERE seq = (SELECT max(seq) FROM audit_log)", "was removed"),
        ("UPDATE orders SET state = 'canceled' WHERE symbol = 'A'", "the audit log says filled"),
        ("DELETE FROM fills WHERE symbol = 'A'", "its fills add up to None"),
        ("UPDATE fills SET quantity = '1' WHERE symbol = 'B'", "its fills add up to 1"),
    ],
)
def test_damage_is_found(scene, damage, finding):
    ledger, head = scene
    with ledger.transaction() as connection:
        connection.execute(sa.text(damage))
    assert any(finding in f for f in verify_orders(ledger, head))


def test_a_log_that_was_written_anew_is_found(scene):
    ledger, head = scene
    head.write_text(head.read_text().replace('"hash":"', '"hash":"0'))
    assert any("not as the head file has it" in f for f in verify_orders(ledger, head))


def test_a_line_that_a_crash_cut_short_is_no_head_and_spoils_none(scene):
    ledger, head = scene
    with head.open("a") as file:
        file.write('{"seq": 99')
    assert verify_orders(ledger, head) == []
    halt(ledger, "one row more", NOW)
    remember_head(ledger, head)
    assert len(read_heads(head)) == 2
    assert verify_orders(ledger, head) == []


def test_after_a_restore_only_heads_that_its_log_has_are_kept(scene):
    ledger, head = scene
    (kept,) = read_heads(head)
    backup = ledger.rows(sa.select(audit_log))
    halt(ledger, "after the backup", NOW)
    remember_head(ledger, head)
    with ledger.transaction() as connection:
        connection.execute(sa.delete(audit_log))
        connection.execute(sa.insert(audit_log), backup)
    assert any("was removed" in f for f in verify_orders(ledger, head))
    # The row that comes next has the number of one that is gone, and another hash.
    halt(ledger, "restored", NOW)
    assert keep_restored_heads(ledger, head) == 1
    assert verify_orders(ledger, head) == []
    assert read_heads(head)[0] == kept
    assert len(read_heads(head)) == 2
    assert keep_restored_heads(ledger, head) == 0
