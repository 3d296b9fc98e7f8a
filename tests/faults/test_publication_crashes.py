"""Publications that are killed, locked out, or out of room: whole batches, none lost, none twice.

``ISOBAR_RELIABILITY=1`` (``make reliability``) kills at 100 moments on each database instead of
a sample of them.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from market import ledger as ledger_module
from market.errors import LedgerError, SignalError
from market.ledger import Ledger, open_ledger
from signals.publish import verify_chain
from tests.faults.test_bad_input import free_bytes, small_disk
from tests.postgres import PostgresServer
from tests.signals.batches import MANY, a_batch, publish, publish_at, publish_nth

KILLS = 100 if os.environ.get("ISOBAR_RELIABILITY") == "1" else 3
PUBLICATIONS = 12
_PATIENCE_SECONDS = 120.0
_HALVES = """
SELECT count(*) AS n FROM (
    SELECT b.batch_id FROM signal_batches AS b LEFT JOIN signals AS s ON s.batch_id = b.batch_id
    GROUP BY b.batch_id, b.rows HAVING count(s.seq) <> b.rows) AS halves
"""
_PROCESS = """
import sys
from pathlib import Path
from market.ledger import open_ledger
from tests.signals.batches import publish_nth
print("ready", flush=True)
sys.stdin.readline()
with open_ledger(sys.argv[1]) as ledger:
    for n in range(int(sys.argv[3])):
        print(publish_nth(ledger, Path(sys.argv[2]), n).batch_id, flush=True)
"""


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The hashes of an undisturbed history."""
    folder = tmp_path_factory.mktemp("truth")
    with open_ledger(f"sqlite:///{folder}/ledger.db") as ledger:
        for n in range(PUBLICATIONS):
            publish_nth(ledger, folder / "heads.jsonl", n)
        return _hashes(ledger)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with open_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
def head_file(tmp_path: Path) -> Path:
    return tmp_path / "heads.jsonl"


def _hashes(ledger: Ledger) -> list[str]:
    return ledger.read("SELECT hash FROM signals ORDER BY seq")["hash"].to_list()


def _batch_ids(ledger: Ledger) -> list[str]:
    rows = ledger.read("SELECT batch_id FROM signal_batches ORDER BY seq")
    return rows["batch_id"].to_list()


@pytest.mark.parametrize("moment", range(KILLS))
def test_killed_at_any_moment_no_batch_is_half_lost_or_doubled(
    ledger_url: str, ledger: Ledger, head_file: Path, truth: list[str], moment: int
):
    """The kill comes when so many batches are visible, and a random fraction of one later."""
    chance = random.Random(moment)
    visible = chance.randrange(PUBLICATIONS)
    process = subprocess.Popen(
        [sys.executable, "-c", _PROCESS, ledger_url, str(head_file), str(PUBLICATIONS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()
    while process.poll() is None and len(_batch_ids(ledger)) < visible:
        assert ledger.read(_HALVES).item() == 0, "half of a batch was seen"
    try:
        process.wait(chance.uniform(0, 0.08))
    except subprocess.TimeoutExpired:
        process.kill()
    reported = process.communicate(timeout=_PATIENCE_SECONDS)[0].split()

    assert ledger.read(_HALVES).item() == 0, "half of a batch was left"
    there = _batch_ids(ledger)
    assert there[: len(reported)] == reported, "a batch that was reported is lost"
    assert len(there) - len(reported) in (0, 1)
    findings = verify_chain(ledger, head_file)
    assert [f for f in findings if "is not in the head file" not in f] == []
    for n in range(len(reported), PUBLICATIONS):
        again = publish_nth(ledger, head_file, n)
        assert again.already_published == (n < len(there))
    assert _hashes(ledger) == truth
    assert verify_chain(ledger, head_file) == []


def test_a_locked_ledger_is_said_and_the_retry_is_clean(
    ledger_url: str, ledger: Ledger, head_file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ledger_module, "BUSY_TIMEOUT_SECONDS", 0)
    with open_ledger(ledger_url) as impatient:
        with (
            ledger.transaction(),
            pytest.raises(LedgerError, match=r"(?s)(locked|lock timeout).*another process"),
        ):
            publish(impatient, head_file)
        assert not head_file.exists()
        assert not publish(impatient, head_file).already_published
    assert verify_chain(ledger, head_file) == []


def _publish_until_full(ledger: Ledger, head_file: Path) -> int:
    for n in range(200):
        publish_at(ledger, head_file, n, a_batch(symbols=MANY, explain="words " * 300))
    return 200


def _refused_for_room(ledger: Ledger, head_file: Path, ballast: Path) -> None:
    """Publish until there is no room; then make some, and publish on."""
    publish(ledger, head_file)
    with pytest.raises(LedgerError, match=r"(full|No space left).*free disk space"):
        _publish_until_full(ledger, head_file)
    told = len(_batch_ids(ledger))
    assert verify_chain(ledger, head_file) == []
    ballast.unlink()
    done = publish_at(ledger, head_file, told, a_batch(symbols=MANY))
    assert (done.rows, done.already_published) == (len(MANY), False)
    assert _batch_ids(ledger)[told:] == [done.batch_id]
    assert verify_chain(ledger, head_file) == []


def test_a_full_disk_under_sqlite(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk), open_ledger(f"sqlite:///{disk}/ledger.db") as ledger:
        (disk / "ballast").write_bytes(bytes(free_bytes(disk) - 2 * 2**20))
        _refused_for_room(ledger, tmp_path / "heads.jsonl", disk / "ballast")


def test_a_full_disk_under_postgresql(postgres: PostgresServer, tmp_path: Path):
    disk = postgres.folder("small-disk")
    with small_disk(disk):
        postgres.own(disk)
        postgres.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        url = f"{postgres.database()}%20-cdefault_tablespace%3Dsmall"
        with open_ledger(url) as ledger:
            (disk / "ballast").write_bytes(bytes(free_bytes(disk) - 2 * 2**20))
            _refused_for_room(ledger, tmp_path / "heads.jsonl", disk / "ballast")
            schema = ledger.read("SELECT current_schema() AS name").item()
        postgres.execute(f"DROP SCHEMA {schema} CASCADE")
        postgres.execute("CHECKPOINT")
        postgres.execute("DROP TABLESPACE small")


def test_no_room_for_the_head_file_is_healed_by_the_retry(ledger: Ledger, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk):
        head_file = disk / "heads.jsonl"
        publish(ledger, head_file)
        (disk / "ballast").write_bytes(bytes(free_bytes(disk)))
        # The page that the file has already takes some more lines.
        with pytest.raises(SignalError, match=r"head file cannot be used.*free disk space"):
            _publish_small(ledger, head_file)
        told = len(_batch_ids(ledger))
        (disk / "ballast").unlink()
        assert publish_at(ledger, head_file, told - 1).already_published
        assert verify_chain(ledger, head_file) == []


def _publish_small(ledger: Ledger, head_file: Path) -> None:
    for n in range(1, 100):
        publish_at(ledger, head_file, n)
