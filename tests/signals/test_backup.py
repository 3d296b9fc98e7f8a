"""Backups: consistent, proved, portable; restored whole or not at all."""

from __future__ import annotations

import datetime as dt
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from market.errors import LedgerError, SignalError
from market.ledger import Ledger, open_ledger
from market.ledger_tables import METADATA, VERSION_TABLE, regimes, trading_state
from signals import backup as backup_module
from signals.backup import Backup, backup_ledger, restore_ledger
from signals.consume import newest_cursor, read_after
from signals.publish import verify_chain
from tests.faults.test_bad_input import free_bytes, small_disk
from tests.signals.batches import AS_OF, DAY, a_batch, publish, publish_at, tamper

MADE_AT = AS_OF + 9 * DAY


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with open_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
def head_file(tmp_path: Path) -> Path:
    return tmp_path / "heads.jsonl"


@pytest.fixture(params=["sqlite", "postgresql"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger to restore into."""
    url = f"sqlite:///{tmp_path}/other/ledger.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").database()
    with open_ledger(url) as opened:
        yield opened


def fill(ledger: Ledger, head_file: Path) -> None:
    """Signals with a correction, and rows of every kind of column beside them."""
    publish(ledger, head_file)
    publish_at(ledger, head_file, 1, a_batch(explain="é " * 40 + '"quoted"', stops=[0.1 + 0.2]))
    publish_at(ledger, head_file, 1, a_batch(symbols=("AAPL",), expected_return_bps=-1e-7))
    state = {"seq": 1, "at": AS_OF, "state": "ACTIVE", "reason": "all is well"}
    regime = {
        "as_of": AS_OF,
        "regime": "bull",
        "probabilities": {"bull": 1 / 3, "bear": 1e300},
        "model_version": "1",
        "recorded_at": AS_OF + dt.timedelta(microseconds=1),
    }
    with ledger.transaction() as connection:
        connection.execute(trading_state.insert(), state)
        connection.execute(regimes.insert(), regime)


def keep(ledger: Ledger, head_file: Path, target: Path) -> Backup:
    return backup_ledger(ledger, head_file, target, made_at=MADE_AT)


def contents(ledger: Ledger) -> dict[str, list[dict]]:
    return {
        t.name: ledger.rows(sa.select(t).order_by(*t.primary_key.columns))
        for t in METADATA.sorted_tables
    }


def test_from_either_database_to_either(ledger: Ledger, head_file: Path, other: Ledger, tmp_path):
    fill(ledger, head_file)
    made = keep(ledger, head_file, tmp_path / "kept.backup")
    assert (made.batches, made.rows, made.head_hash) == (3, 10, newest_cursor(ledger))
    heads = tmp_path / "other" / "heads.jsonl"
    assert restore_ledger(tmp_path / "kept.backup", other, heads) == made
    assert contents(other) == contents(ledger)
    assert heads.read_bytes() == head_file.read_bytes()
    assert verify_chain(other, heads) == []
    # Life goes on there: the same batch is known, the next one follows, a consumer resumes.
    assert publish(other, heads).already_published
    done = publish_at(other, heads, 2)
    assert read_after(other, made.head_hash).cursor == done.head_hash
    assert verify_chain(other, heads) == []
    assert sorted(p.name for p in tmp_path.glob("*.partial*")) == []


def test_an_empty_ledger_can_be_kept_and_restored(ledger, head_file, other, tmp_path):
    made = keep(ledger, head_file, tmp_path / "kept.backup")
    assert (made.rows, made.batches) == (0, 0)
    restore_ledger(tmp_path / "kept.backup", other, tmp_path / "other.jsonl")
    assert publish(other, tmp_path / "other.jsonl").rows == 2


def test_a_backup_is_consistent_while_writers_work(ledger: Ledger, head_file: Path, tmp_path):
    """Each one is a whole state of the history, none older than when it was begun."""
    ended, began = threading.Event(), threading.Event()

    def write() -> None:
        day = 0
        while not ended.is_set():
            publish_at(ledger, head_file, day)
            began.set()
            day += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert began.wait(60)
        for n in range(4):
            before = ledger.read("SELECT count(*) AS n FROM signal_batches").item()
            made = keep(ledger, head_file, tmp_path / f"kept-{n}.backup")
            assert made.batches >= before
            assert made.rows == 3 * made.batches  # a batch is one row here and two there
    finally:
        ended.set()
        thread.join()
    with open_ledger(f"sqlite:///{tmp_path}/restored.db") as restored:
        restore_ledger(tmp_path / "kept-3.backup", restored, tmp_path / "restored.jsonl")
        assert verify_chain(restored, tmp_path / "restored.jsonl") == []


def test_a_ledger_with_content_is_replaced_only_when_told(ledger, head_file, tmp_path):
    fill(ledger, head_file)
    keep(ledger, head_file, tmp_path / "kept.backup")
    as_kept, heads_kept = contents(ledger), head_file.read_bytes()
    publish_at(ledger, head_file, 5)
    later, heads_later = contents(ledger), head_file.read_bytes()
    with pytest.raises(LedgerError, match=r"has content.*7 signals.*--replace"):
        restore_ledger(tmp_path / "kept.backup", ledger, head_file)
    assert (contents(ledger), head_file.read_bytes()) == (later, heads_later)
    restore_ledger(tmp_path / "kept.backup", ledger, head_file, replace=True)
    assert (contents(ledger), head_file.read_bytes()) == (as_kept, heads_kept)


def test_batches_that_only_the_head_file_knows_are_not_given_up_silently(
    ledger, head_file, tmp_path
):
    publish(ledger, head_file)
    keep(ledger, head_file, tmp_path / "kept.backup")
    publish_at(ledger, head_file, 1)
    with open_ledger(f"sqlite:///{tmp_path}/anew.db") as anew:
        with pytest.raises(LedgerError, match=r"2 batches remembered, 1 in the backup.*--replace"):
            restore_ledger(tmp_path / "kept.backup", anew, head_file)
        assert contents(anew)["signals"] == []
        restore_ledger(tmp_path / "kept.backup", anew, head_file, replace=True)
        assert verify_chain(anew, head_file) == []


def test_a_ledger_that_vanished_is_restored_and_the_run_retried(tmp_path, head_file):
    url = f"sqlite:///{tmp_path}/ledger.db"
    with open_ledger(url) as ledger:
        publish(ledger, head_file)
        keep(ledger, head_file, tmp_path / "kept.backup")
        for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        with pytest.raises(LedgerError, match="removed or replaced"):
            publish_at(ledger, head_file, 1)
    with open_ledger(url) as anew:
        # An empty ledger in its place is not taken for the one that was.
        with pytest.raises(SignalError, match=r"different histories.*restore"):
            publish_at(anew, head_file, 1)
        restore_ledger(tmp_path / "kept.backup", anew, head_file)
        assert publish_at(anew, head_file, 1).rows == 2
        assert verify_chain(anew, head_file) == []


def test_a_broken_ledger_is_not_kept(ledger, head_file, tmp_path):
    fill(ledger, head_file)
    tamper(ledger, "UPDATE signals SET confidence = 0.9 WHERE seq = 2")
    with pytest.raises(LedgerError, match=r"does not hold.*altered"):
        keep(ledger, head_file, tmp_path / "kept.backup")
    assert not list(tmp_path.glob("kept*"))


def test_an_existing_file_is_never_overwritten(ledger, head_file, tmp_path):
    (tmp_path / "kept.backup").write_text("precious")
    with pytest.raises(LedgerError, match="there already"):
        keep(ledger, head_file, tmp_path / "kept.backup")
    assert (tmp_path / "kept.backup").read_text() == "precious"


def _spoil(sql: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        with closing(sqlite3.connect(file)) as raw:
            raw.execute(sql)
            raw.commit()

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_spoil("UPDATE signals SET direction = 'short' WHERE seq = 1"), "does not hold.*altered"),
        (_spoil("DELETE FROM signals WHERE seq = 5"), "does not hold"),
        (_spoil("DELETE FROM isobar_backup WHERE rowid = 4"), "does not hold.*head file"),
        (_spoil("DELETE FROM regimes"), "9 rows arrived of 10"),
        (_spoil("DELETE FROM isobar_backup"), "no backup of a ledger"),
        (_spoil("DROP TABLE isobar_backup"), "no backup of a ledger"),
        (_spoil("UPDATE isobar_backup SET value = '{'"), "no backup of a ledger"),
        (lambda file: file.write_bytes(b"no database" * 99), "no backup of a ledger"),
        (lambda file: file.unlink(), "no backup of a ledger"),
    ],
)
def test_a_spoilt_backup_changes_nothing(ledger, head_file, tmp_path, spoil, message):
    fill(ledger, head_file)
    kept = tmp_path / "kept.backup"
    keep(ledger, head_file, kept)
    before, heads = contents(ledger), head_file.read_bytes()
    spoil(kept)
    with pytest.raises(LedgerError, match=message):
        restore_ledger(kept, ledger, head_file, replace=True)
    assert (contents(ledger), head_file.read_bytes()) == (before, heads)


def test_a_backup_of_a_newer_version_is_refused(ledger, head_file, tmp_path):
    fill(ledger, head_file)
    kept = tmp_path / "kept.backup"
    keep(ledger, head_file, kept)
    _spoil(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")(kept)
    _spoil("""UPDATE isobar_backup SET value = json_set(value, '$.version', '9999')
              WHERE name = 'backup'""")(kept)
    before = contents(ledger)
    with pytest.raises(LedgerError, match=r"newer version.*9999.*upgrade Isobar"):
        restore_ledger(kept, ledger, head_file, replace=True)
    assert contents(ledger) == before


_EXIT_COLUMNS = (
    "parent_id",
    "take_profit_usd",
    "stop_loss_usd",
    "planned_from",
    "cancels",
    "extended_hours",
)


def test_a_backup_of_an_older_version_is_brought_up_to_date(tmp_path, head_file, other):
    """One made before hashes were indexed and orders had exits."""
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        publish(ledger, head_file)
        kept = tmp_path / "kept.backup"
        keep(ledger, head_file, kept)
        for sql in (
            "DROP INDEX ix_signals_hash",
            "DROP INDEX ix_signal_batches_as_of",
            "DROP INDEX ix_orders_parent_id",
            *(f"ALTER TABLE orders DROP COLUMN {c}" for c in _EXIT_COLUMNS),
            "DROP TABLE adjustments",
            "DROP TABLE reconciliations",
            f"UPDATE {VERSION_TABLE} SET version_num = '0002'",
            "UPDATE isobar_backup SET value = json_set(value, '$.version', '0002') "
            "WHERE name = 'backup'",
        ):
            _spoil(sql)(kept)
        as_made = kept.read_bytes()
        assert restore_ledger(kept, other, tmp_path / "other.jsonl").version == "0002"
        assert contents(other) == contents(ledger)
        assert kept.read_bytes() == as_made


def test_a_restore_that_fails_in_the_middle_changes_nothing(
    ledger, head_file, tmp_path, monkeypatch
):
    fill(ledger, head_file)
    keep(ledger, head_file, tmp_path / "kept.backup")
    publish_at(ledger, head_file, 3)
    before, heads = contents(ledger), head_file.read_bytes()

    def fail(source: sa.Connection, target: sa.Connection) -> int:
        original(source, target)
        raise KeyboardInterrupt

    original = backup_module._copy_rows
    monkeypatch.setattr(backup_module, "_copy_rows", fail)
    with pytest.raises(KeyboardInterrupt):
        restore_ledger(tmp_path / "kept.backup", ledger, head_file, replace=True)
    assert (contents(ledger), head_file.read_bytes()) == (before, heads)
    assert sorted(p.name for p in tmp_path.glob("heads*")) == ["heads.jsonl"]


def test_a_disk_too_small_for_the_backup(ledger, head_file, tmp_path):
    fill(ledger, head_file)
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk):
        (disk / "ballast").write_bytes(bytes(free_bytes(disk) - 16 * 1024))
        with pytest.raises(LedgerError, match=r"(full|I/O error).*(free disk space|has room)"):
            keep(ledger, head_file, disk / "kept.backup")
        assert [p.name for p in disk.iterdir()] == ["ballast"]
        (disk / "ballast").unlink()
        assert keep(ledger, head_file, disk / "kept.backup").batches == 3
