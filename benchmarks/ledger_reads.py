"""Reads of a ledger that holds a million signals: the latest batch, a symbol's history.

On SQLite, and on a PostgreSQL of its own where the machine has the binaries. Exits with 1 when a
limit is missed.
"""

import datetime as dt
import hashlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from benchmarks.wanted import Wanted
from market.hash_chain import utc_text
from market.ledger import Ledger, open_ledger
from market.ledger_tables import signal_batches
from signals.consume import read_after
from signals.publish import newest_batch, read_signals
from tests.postgres import postgres_server

SYMBOLS = 500
HORIZONS = ("4h", "1d", "14d", "1M")
ENGINES = ("ensemble", "xgboost", "transformer")
BATCHES = 167
BATCH_ROWS = SYMBOLS * len(HORIZONS) * len(ENGINES)
REPEATS = 21
LIMITS_MS = {"latest batch": 50, "a symbol's history": 200}
_FIRST = dt.datetime(2024, 1, 2, 13, 30, tzinfo=dt.UTC)
_CONTENT = {
    "regime": "bull",
    "explain": "momentum over 63 sessions and low volatility speak for it, volume against it",
    "features": '[{"contribution":0.41,"feature":"momentum_63"},'
    '{"contribution":-0.22,"feature":"volume_ratio_20"},{"contribution":0.17,"feature":"rsi_14"}]',
    "targets": "[101.25,102.5]",
    "stops": "[98.75]",
    "model_version": "7",
    "data_hash": "d" * 64,
    "config_hash": "c" * 64,
    "prev_hash": "0" * 64,
}


def measure(url: str, wanted: Wanted) -> None:
    """Print what was seen."""
    with open_ledger(url) as ledger:
        began = time.perf_counter()
        rows = fill(ledger)
        kind = ledger.engine.dialect.name
        print(f"{kind}: {rows:,} signals made in {time.perf_counter() - began:.0f} s")
        newest, symbol = newest_batch(ledger), "S250"
        before = ledger.read(
            "SELECT head_hash FROM signal_batches WHERE seq = :seq", {"seq": BATCHES - 1}
        ).item()
        reads: dict[str, tuple[Callable[[], pl.DataFrame], int]] = {
            "latest batch": (
                lambda: read_signals(ledger, batch=newest_batch(ledger)),
                BATCH_ROWS,
            ),
            "its ensemble": (
                lambda: read_signals(ledger, batch=newest_batch(ledger), engine="ensemble"),
                BATCH_ROWS // len(ENGINES),
            ),
            "a symbol's history": (
                lambda: read_signals(ledger, symbol=symbol),
                BATCHES * len(HORIZONS) * len(ENGINES),
            ),
            "one horizon of it": (
                lambda: read_signals(ledger, symbol=symbol, horizon="1d"),
                BATCHES * len(ENGINES),
            ),
            "what came after a cursor": (
                lambda: read_after(ledger, before).rows,
                BATCH_ROWS,
            ),
            "the newest moment": (
                lambda: read_signals(ledger, since=_moment(BATCHES - 1)),
                BATCH_ROWS,
            ),
        }
        assert newest is not None
        for what, read in reads.items():
            print(_line(kind, what, *read, wanted))


def _line(
    kind: str, what: str, read: Callable[[], pl.DataFrame], height: int, wanted: Wanted
) -> str:
    spent = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        found = read()
        spent.append(1e3 * (time.perf_counter() - began))
        if found.height != height:
            raise SystemExit(f"{what}: {found.height} rows, not {height}")
    median, limit = statistics.median(spent), LIMITS_MS.get(what)
    told = "" if limit is None else wanted.at_most(median, limit)
    span = f"{min(spent):.1f} to {max(spent):.1f}"
    return f"{kind:10} {what:26} {height:6,} rows {median:8.1f} ms, {span} {told}".rstrip()


def fill(ledger: Ledger) -> int:
    """Write the batches as they would lie there; the hashes are no chain."""
    columns = [c["name"] for c in sa.inspect(ledger.engine).get_columns("signals")]
    named = ", ".join(columns)
    values = ", ".join(f":{c}" for c in columns)
    insert = sa.text(f"INSERT INTO signals ({named}) VALUES ({values})")
    size = BATCH_ROWS
    for place in range(BATCHES):
        rows = list(_rows(place, place * size))
        with ledger.transaction() as connection:
            connection.execute(sa.insert(signal_batches), _batch(place, rows))
            connection.execute(insert, rows)
    with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # PostgreSQL does so by itself within a minute; the benchmark does not wait for it.
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("VACUUM ANALYZE")
    return BATCHES * size


def _moment(place: int) -> dt.datetime:
    return _FIRST + dt.timedelta(days=place)


def _rows(place: int, last: int) -> Iterator[dict[str, Any]]:
    moment = _moment(place)
    shared = {
        **_CONTENT,
        "batch_id": f"batch-{place:06}",
        "revision": 1,
        "ts_emit": utc_text(moment),
        "as_of": utc_text(moment),
        "valid_until": utc_text(moment + dt.timedelta(days=1)),
        "direction": "long",
    }
    for k in range(SYMBOLS):
        for horizon, engine in itertools.product(HORIZONS, ENGINES):
            last += 1
            digest = hashlib.sha256(str(last).encode()).hexdigest()
            yield {
                **shared,
                "seq": last,
                "id": digest[:32],
                "hash": digest,
                "symbol": f"S{k:03}",
                "horizon": horizon,
                "engine": engine,
                "confidence": 0.5 + (last % 997) / 2_000,
                "expected_return_bps": (last % 4_001) / 100 - 20,
            }


def _batch(place: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    moment = _moment(place)
    return {
        "seq": place + 1,
        "batch_id": rows[0]["batch_id"],
        "run": "premarket",
        "as_of": moment,
        "revision": 1,
        "scheduled_for": moment,
        "ts_emit": moment,
        "late": False,
        "complete": True,
        "rows": len(rows),
        "first_seq": rows[0]["seq"],
        "last_seq": rows[-1]["seq"],
        "content_hash": "",
        "head_hash": rows[-1]["hash"],
    }


def main() -> None:
    wanted = Wanted()
    with tempfile.TemporaryDirectory() as folder:
        measure(f"sqlite:///{folder}/ledger.db", wanted)
    try:
        with postgres_server() as server:
            measure(server.database(), wanted)
    except pytest.skip.Exception as absent:
        print(absent)
    wanted.end()


if __name__ == "__main__":
    main()
