"""`isobar signals` for consumers: csv, --after, --follow; and the commands that keep the ledger."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from execution.state import TradingState, current_state, newest_reason
from isobar.signal_commands import ends_on_interrupt
from isobar.workspace import Workspace
from market.hash_chain import GENESIS_HASH
from market.ledger import Ledger, open_ledger
from signals.publish import read_signals
from tests.commands import Outcome, isobar
from tests.pipelines.installation import environment, environment_of
from tests.signals.batches import AS_OF, DAY, a_batch, publish, publish_at, tamper

_PATIENCE_SECONDS = 120.0


class Place:
    """A data root whose ledger is on one of the databases."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.environment = {**environment(home), "ISOBAR_LEDGER_URL": url}
        self.head_file = home / "signal_heads.jsonl"

    def run(self, *arguments: str) -> Outcome:
        return isobar(*arguments, environment=self.environment)


@pytest.fixture
def place(tmp_path: Path, ledger_url: str) -> Place:
    (tmp_path / "home").mkdir()
    return Place(tmp_path / "home", ledger_url)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with open_ledger(ledger_url) as opened:
        yield opened


def two_batches(ledger: Ledger, place: Place) -> None:
    publish(ledger, place.head_file, pl.concat([a_batch(), a_batch(engine="linear")]))
    publish_at(ledger, place.head_file, 1, a_batch(explain='say "a, b"\nand é'))


def test_csv_has_every_column_and_survives_quotes(place: Place, ledger: Ledger):
    two_batches(ledger, place)
    rows = read_signals(ledger, engine="ensemble")
    told = list(csv.DictReader(io.StringIO(place.run("signals", "--csv").out)))
    assert [list(t) for t in told] == [rows.columns] * rows.height
    for row, line in zip(rows.iter_rows(named=True), told, strict=True):
        assert line["as_of"] == f"{row['as_of']:%Y-%m-%dT%H:%M:%S.%f}Z"
        assert (line["explain"], line["hash"]) == (row["explain"], row["hash"])
        assert float(line["confidence"]) == row["confidence"]
        for name in ("targets", "stops", "features"):
            assert json.loads(line[name]) == row[name]


def test_after_gives_what_came_later_superseded_or_not(place: Place, ledger: Ledger):
    two_batches(ledger, place)
    first = read_signals(ledger)["hash"][0]
    publish(ledger, place.head_file, a_batch(direction="short"))
    every = place.run("signals", "--engine", "all", "--after", GENESIS_HASH, "--json").document
    assert len(every) == 8
    later = place.run("signals", "--engine", "all", "--after", first, "--json").document
    assert later == every[1:]
    ours = place.run("signals", "--after", first, "--json").document
    assert ours == [s for s in later if s["engine"] == "ensemble"]
    last = every[-1]["hash"]
    assert place.run("signals", "--after", last, "--json").document == []
    assert "Nothing was published after it." in place.run("signals", "--after", last).out
    shown = place.run("signals", "--after", first).out
    assert f"Go on with --after {last}" in shown
    with environment_of(place.environment, place.home.parent):
        workspace = Workspace()
    assert workspace.signals(after=first)["hash"].to_list() == [s["hash"] for s in later]
    assert workspace.signals(after=first, since=AS_OF + DAY).height == 2


@pytest.mark.parametrize("more", [[], ["--follow"], ["--csv"]])
def test_an_unknown_cursor_is_one_clear_message(place: Place, ledger: Ledger, more: list[str]):
    two_batches(ledger, place)
    done = place.run("signals", "--after", "feedbeef", *more)
    assert (done.status, done.out) == (1, "")
    assert "no signal has this cursor" in done.message
    assert "Remedy" in done.message


def test_two_forms_at_once_are_refused(place: Place):
    done = place.run("signals", "--csv", "--json")
    assert done.status == 2
    assert "two forms at once" in done.message


def _follow(place: Place, *more: str) -> subprocess.Popen[str]:
    """Return a consumer that has begun to follow."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "isobar.cli", "signals", "--follow", *more],
        cwd=Path(__file__).parents[2],
        env={**_clean_environment(), **place.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    told = process.stderr.readline()
    assert told.startswith("Following after "), told + process.stderr.read()
    return process


def _clean_environment() -> dict[str, str]:
    import os

    return {k: v for k, v in os.environ.items() if not k.startswith(("ISOBAR_", "DAGSTER_"))}


def _line(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def test_following_prints_each_batch_once_and_ends_on_ctrl_c(place: Place, ledger: Ledger):
    two_batches(ledger, place)
    consumer = _follow(place, "--json", "--every", "0.05")
    corrected = publish(ledger, place.head_file, a_batch(direction="short"), late=True)
    told = _line(consumer)
    assert (told["hash"], told["batch_id"]) == (corrected.head_hash, corrected.batch_id)
    assert (told["run"], told["revision"], told["late"]) == ("premarket", 2, True)
    assert [s["direction"] for s in told["signals"]] == ["short", "short"]
    publish_at(ledger, place.head_file, 2, a_batch(engine="linear"))  # not what was asked for
    newest = publish_at(ledger, place.head_file, 3)
    assert _line(consumer)["hash"] == newest.head_hash
    consumer.send_signal(signal.SIGINT)
    out, complaint = consumer.communicate(timeout=_PATIENCE_SECONDS)
    assert (consumer.returncode, out, complaint) == (0, "", "")

    # Another one goes on after what the first had seen, and gets what came in between.
    missed = publish_at(ledger, place.head_file, 4)
    again = _follow(place, "--json", "--every", "0.05", "--after", newest.head_hash)
    assert _line(again)["hash"] == missed.head_hash
    again.kill()
    again.communicate(timeout=_PATIENCE_SECONDS)


def test_ctrl_c_breaks_off_a_wait_but_no_query():
    with ends_on_interrupt() as wait_with, pytest.raises(KeyboardInterrupt):
        wait_with(lambda: signal.raise_signal(signal.SIGINT))
    with ends_on_interrupt() as wait_with:
        # As if a query were under way: it is finished, and its connection is whole.
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            wait_with(lambda: pytest.fail("waited on"))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("form", [["--csv"], ["--json"], []], ids=["csv", "json", "table"])
def test_following_ends_quietly_when_its_reader_has_gone(place: Place, ledger: Ledger, form):
    consumer = _follow(place, "--every", "0.05", *form)
    assert consumer.stdout is not None
    publish(ledger, place.head_file)
    assert consumer.stdout.readline()
    consumer.stdout.close()
    publish_at(ledger, place.head_file, 1)
    assert consumer.stderr is not None
    assert consumer.stderr.read() == ""
    consumer.stderr.close()
    assert consumer.wait(_PATIENCE_SECONDS) == 0


def test_backup_restore_and_audit(place: Place, ledger: Ledger, tmp_path: Path):
    two_batches(ledger, place)
    clean = place.run("audit", "signals", "--json").document
    assert clean == {"clean": True, "signals": 6, "findings": []}
    kept = tmp_path / "kept.backup"
    made = place.run("ledger", "backup", str(kept), "--json").document
    assert (made["file"], made["batches"], made["rows"]) == (str(kept), 2, 8)

    tamper(ledger, "UPDATE signals SET confidence = 0.99 WHERE seq = 3")
    found = place.run("audit", "signals", "--json")
    assert found.status == 1
    assert found.document["clean"] is False
    assert "(row 3) was altered" in found.document["findings"][0]
    shown = place.run("audit", "signals")
    assert (shown.status, "was altered" in shown.out) == (1, True)
    refused = place.run("ledger", "backup", str(tmp_path / "other.backup"))
    assert refused.status == 1
    assert "does not hold" in refused.message

    refused = place.run("ledger", "restore", str(kept))
    assert refused.status == 1
    assert "--replace" in refused.message
    place.run("halt", "--reason", "after the backup")
    restored = place.run("ledger", "restore", str(kept), "--replace", "--json")
    assert restored.document["head_hash"] == made["head_hash"]
    assert "6 signals are as they were published." in place.run("audit", "signals").out
    assert place.run("audit", "orders").status == 0
    # The halt of after the backup is gone with it; nothing is sent all the same.
    assert current_state(ledger) is TradingState.HALTED
    assert newest_reason(ledger) == "a backup of the ledger was restored"
