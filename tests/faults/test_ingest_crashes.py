"""Backfills that are killed, doubled or full of holes end where an undisturbed one does.

``ISOBAR_RELIABILITY=1`` (``make reliability``) kills at 100 moments instead of a sample of them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from market import calendar, request_estimate
from market.errors import LakeError
from market.ingest import bars_table, ingest
from market.ingest_log import LOG_TABLE
from market.lake import Lake
from market.quarantine import quarantine_table
from market.schema import (
    BAR_SCHEMA,
    Bar,
)
from market.timeframes import Timeframe
from tests.faults.backfill import CHUNK, NOW, SESSIONS, SYMBOLS, MemorySource, history
from tests.faults.test_bad_input import free_bytes, small_disk
from tests.markets import bits, minute_bars

KILLS = 100 if os.environ.get("ISOBAR_RELIABILITY") == "1" else 5
_PATIENCE_SECONDS = 120.0


def _content(lake: Lake) -> tuple[str, ...]:
    tables = (bars_table(Timeframe.D1), quarantine_table(Timeframe.D1), LOG_TABLE)
    return tuple(lake.content_hash(table) for table in tables)


_PROCESS = """
import sys
from pathlib import Path
from tests.faults.backfill import backfill
print("ready", flush=True)
sys.stdin.readline()
backfill(Path(sys.argv[1]))
"""


def _start(folder: Path) -> subprocess.Popen[str]:
    """Return a process that is ready to backfill, and begins when told."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROCESS, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _end(process: subprocess.Popen[str]) -> int:
    """Wait for the end of a process and close its pipes."""
    process.communicate(timeout=_PATIENCE_SECONDS)
    return process.returncode


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_estimate, "CHUNK_BARS", CHUNK)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    lake = Lake(tmp_path_factory.mktemp("truth"))
    ingest(lake, MemorySource(history()), Timeframe.D1, SESSIONS, SYMBOLS, now=NOW)
    held = lake.scan(quarantine_table(Timeframe.D1)).collect()
    assert sorted(held["reason"]) == ["not_positive", "spike"]
    return _content(lake)


@pytest.mark.parametrize("moment", range(KILLS))
def test_killed_at_any_moment_it_resumes_to_the_same_lake(
    tmp_path: Path, truth: tuple[str, ...], small_chunks: None, moment: int
) -> None:
    """The kill comes when so many commits are on disk, and a random fraction of one later."""
    chance = random.Random(moment)
    commits = chance.randrange(0, 2 * len(SESSIONS) * len(SYMBOLS) // CHUNK)
    process = _start(tmp_path)
    _begin(process)
    _wait_for_commits(process, tmp_path, commits)
    try:
        process.wait(chance.uniform(0, 0.08))
    except subprocess.TimeoutExpired:
        process.kill()
    _end(process)
    lake = Lake(tmp_path)
    ingest(lake, MemorySource(history()), Timeframe.D1, SESSIONS, SYMBOLS, now=NOW)
    assert _content(lake) == truth


def _wait_for_commits(process: subprocess.Popen[str], folder: Path, commits: int) -> None:
    """Return when there are so many commits, or the process is over."""
    while process.poll() is None:
        if sum(1 for _ in folder.glob("*/_delta_log/*.json")) >= commits:
            return
        # Looking without a pause would take from the process the core on which it runs.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.005)


def test_two_backfills_of_the_same_range_at_once_make_the_same_lake(
    tmp_path: Path, truth: tuple[str, ...]
) -> None:
    processes = [_start(tmp_path) for _ in range(2)]
    for process in processes:
        _begin(process)
    assert [_end(p) for p in processes] == [0, 0]
    assert _content(Lake(tmp_path)) == truth


def test_a_killed_backfill_does_not_hold_up_another(tmp_path: Path, truth: tuple[str, ...]) -> None:
    first, second = _start(tmp_path), _start(tmp_path)
    _begin(first)
    _wait_for_commits(first, tmp_path, 3)
    _begin(second)
    first.kill()
    _end(first)
    assert _end(second) == 0
    assert _content(Lake(tmp_path)) == truth


@pytest.mark.parametrize("order", ["session by session", "newest first", "all at once"])
def test_a_symbol_halted_for_two_days_has_every_bar_at_its_true_time(
    tmp_path: Path, order: str
) -> None:
    days = calendar.sessions_between(dt.date(2024, 7, 1), dt.date(2024, 7, 10))
    halted = days[2:4]
    whole = _minutes_of(days)
    bars = whole.filter(~((pl.col(Bar.SYMBOL) == "HALT") & pl.col(Bar.SESSION).is_in(halted)))
    steps = {
        "session by session": [[d] for d in days],
        "newest first": [[d] for d in reversed(days)],
        "all at once": [list(days)],
    }[order]
    lake = Lake(tmp_path)
    for step in steps:
        evening = calendar.session_close(step[-1]) + dt.timedelta(hours=8)
        known = MemorySource(bars.filter(pl.col(Bar.BAR_END) <= evening))
        ingest(lake, known, Timeframe.M1, step, ["HALT", "LIVE"], now=evening)
        told = lake.read_bars("bars_1m", as_of=evening)
        assert (told[Bar.KNOWN_AT] <= evening).all()
    stored = lake.read_bars("bars_1m")
    assert bits(stored) == bits(bars)
    of_halted = stored.filter(pl.col(Bar.SYMBOL) == "HALT")
    assert set(of_halted[Bar.SESSION]) == set(days) - set(halted)
    # Each price says which minute of which day it belongs to: none is served for another.
    joined = stored.join(whole, on=[Bar.SYMBOL, Bar.BAR_START], suffix="_true")
    assert joined.height == stored.height
    assert (joined[Bar.CLOSE] == joined["close_true"]).all()
    for day in halted:
        gone = lake.read_bars("bars_1m", start=day, end=day, symbols=["HALT"])
        assert gone.is_empty()


def _minutes_of(days: Sequence[dt.date]) -> pl.DataFrame:
    minute = dt.timedelta(minutes=1)
    parts = [
        minute_bars(
            symbol,
            [calendar.session_open(day) + minute * k for k in range(30)],
            [base + 100.0 * n + k / 32 for k in range(30)],
            day,
        )
        for symbol, base in (("HALT", 1_000.0), ("LIVE", 5_000.0))
        for n, day in enumerate(days)
    ]
    return pl.concat(parts).select(BAR_SCHEMA.names()).sort(Bar.SYMBOL, Bar.BAR_START)


def test_a_disk_that_fills_up_stops_it_and_freed_it_resumes(
    tmp_path: Path, truth: tuple[str, ...], small_chunks: None
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk):
        lake = Lake(disk / "lake")
        ingest(lake, MemorySource(history()), Timeframe.D1, SESSIONS[:6], SYMBOLS, now=NOW)
        (disk / "ballast").write_bytes(bytes(free_bytes(disk) - 200 * 1024))
        with pytest.raises(LakeError, match="free disk space"):
            ingest(lake, MemorySource(history()), Timeframe.D1, SESSIONS, SYMBOLS, now=NOW)
        there = lake.read_bars("bars_1d")
        assert set(SESSIONS[:6]) <= set(there[Bar.SESSION]) < set(SESSIONS)
        whole = there.group_by(Bar.SESSION).len()
        # One row of a session is held; no session is there by half.
        assert set(whole["len"]) <= {len(SYMBOLS), len(SYMBOLS) - 1}
        (disk / "ballast").unlink()
        ingest(lake, MemorySource(history()), Timeframe.D1, SESSIONS, SYMBOLS, now=NOW)
        assert _content(lake) == truth
