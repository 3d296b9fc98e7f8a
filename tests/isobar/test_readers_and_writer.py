"""DuckDB over lake and ledger, in several processes, while a writer is at work."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from isobar.workspace import Workspace
from market import calendar
from market.lake import Lake
from market.ledger import open_ledger
from market.ledger_tables import regimes
from market.schema import Bar
from tests.markets import daily_bars

DAYS = calendar.sessions_between(dt.date(2024, 7, 1), dt.date(2024, 7, 5))
ROUNDS, BATCH, READERS = 25, 7, 2
_QUERY = """
select (select min(close) from bars_1d) as low, (select max(close) from bars_1d) as high,
       (select count(*) from bars_1d) as bars, (select count(*) from ledger_regimes) as rows
"""
_PROCESS = """
import sys
from pathlib import Path
from tests.isobar.test_readers_and_writer import {name}
{name}(Path(sys.argv[1]))
"""


def bars_at(price: float) -> pl.DataFrame:
    """Four sessions of three symbols, every close the same."""
    bars = daily_bars({s: [price] * len(DAYS) for s in "ABC"}, DAYS[0])
    return bars.with_columns(pl.lit(price).alias(Bar.CLOSE))


def write(home: Path) -> None:
    """Replace all sessions at once, and add a batch to the ledger, again and again."""
    lake = Lake(home / "lake")
    with open_ledger(f"sqlite:///{home / 'ledger.db'}") as ledger:
        for n in range(1, ROUNDS + 1):
            lake.replace("bars_1d", bars_at(float(n)), DAYS)
            moment = dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=n)
            rows = [
                {
                    "as_of": moment + dt.timedelta(minutes=k),
                    "regime": "bull",
                    "probabilities": {},
                    "model_version": "v1",
                    "recorded_at": moment,
                }
                for k in range(BATCH)
            ]
            with ledger.transaction() as connection:
                connection.execute(sa.insert(regimes), rows)


def read(home: Path) -> None:
    """Query until the writer's last round is there; each answer must be whole."""
    workspace, last = Workspace(home), 0
    while last < ROUNDS:
        low, high, bars, rows = workspace.sql(_QUERY).row(0)
        assert low == high, "half of a write was seen"
        assert bars == 3 * len(DAYS)
        assert rows % BATCH == 0, "half of a batch was seen"
        assert high >= last, "the past came back"
        if not last:
            sys.stdout.write("begun\n")
            sys.stdout.flush()
        last = int(high)


def _start(name: str, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROCESS.format(name=name), str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_readers_see_whole_writes_while_the_writer_is_at_work(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.replace("bars_1d", bars_at(1.0), DAYS)
    lake.replace("regimes", pl.DataFrame({"session": DAYS, "regime": "bull"}), None)
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}"):
        pass
    readers = [_start("read", tmp_path) for _ in range(READERS)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "begun\n"
    writer = _start("write", tmp_path)
    for process in (writer, *readers):
        _, complaint = process.communicate(timeout=240)
        assert process.returncode == 0, complaint
