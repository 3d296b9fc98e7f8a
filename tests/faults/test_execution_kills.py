"""Processes that are killed while they trade, and two that trade at once.

``ISOBAR_RELIABILITY=1`` (``make reliability``) kills at 60 random moments instead of a sample.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from execution.trade import trade
from market.ledger import open_ledger
from tests.execution.scenes import publish
from tests.faults.trading_day import MINUTE, OPEN, RULES, Day, a_day, outcome

KILLS = 60 if os.environ.get("ISOBAR_RELIABILITY") == "1" else 3
_PATIENCE_SECONDS = 120.0
_PROCESS = """
import sys
from pathlib import Path
from tests.faults.trading_day import trade_once
arguments = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
trade_once(*arguments)
print("done", flush=True)
"""


def start(day: Day) -> subprocess.Popen[str]:
    """Start a process that trades the newest batch when it is told to."""
    moment = day.clock.now().isoformat()
    process = subprocess.Popen(
        [sys.executable, "-c", _PROCESS, str(day.seed), str(day.folder), day.url, moment],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def prepare(day: Day) -> None:
    """Publish a batch at a moment of the session."""
    day.clock.advance_to(OPEN + 30 * MINUTE)
    at = day.clock.now() - MINUTE
    with open_ledger(f"sqlite:///{day.folder}/ledger.db") as ledger:
        publish(ledger, day.folder, *day.rows(0), as_of=at, scheduled_for=at, ts_emit=at)


def finish(day: Day) -> dict[str, object]:
    """Trade again in this process, let orders fill, and return what it all came to."""
    with open_ledger(f"sqlite:///{day.folder}/ledger.db") as ledger:
        trade(ledger, day.broker, market=day.market(), rules=RULES, now=day.clock.now())
        day.clock.advance_to(OPEN + 40 * MINUTE)
        day.care(ledger)
    return outcome(day)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What an undisturbed run comes to."""
    with a_day(3, tmp_path_factory.mktemp("undisturbed")) as day:
        prepare(day)
        return finish(day)


@pytest.mark.parametrize("moment", range(KILLS))
def test_killed_at_any_moment_the_next_run_comes_to_the_same(
    tmp_path: Path, expected: dict[str, object], moment: int
):
    with a_day(3, tmp_path) as day:
        prepare(day)
        process = start(day)
        go(process)
        try:
            process.wait(random.Random(moment).uniform(0.0, 0.5))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate(timeout=_PATIENCE_SECONDS)
        assert finish(day) == expected
    assert expected["problems"] == []
    assert expected["orders"]


def test_two_schedulers_at_once_send_one_plan(tmp_path: Path, expected: dict[str, object]):
    with a_day(3, tmp_path) as day:
        prepare(day)
        both = [start(day), start(day)]
        for process in both:
            go(process)
        said = [p.communicate(timeout=_PATIENCE_SECONDS)[0] for p in both]
        assert "done\n" in said
        with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
            assert ledger.read("SELECT count(*) AS n FROM plans").item() == 1
        assert finish(day) == expected
