"""Small batches of signals, and their publication."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa

from market.ledger import Ledger
from signals.publish import PublishedBatch, publish_batch
from signals.schema import CONTENT_SCHEMA

AS_OF = dt.datetime(2025, 3, 4, 13, 30, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
MANY = [f"S{k:02}" for k in range(40)]


def a_batch(symbols: Sequence[str] = ("AAPL", "MSFT"), **changes: Any) -> pl.DataFrame:
    """One horizon's signals of some symbols, the same but for what is said."""
    rows = [
        {
            "valid_until": AS_OF + DAY,
            "symbol": symbol,
            "engine": "ensemble",
            "direction": "long",
            "confidence": 0.6,
            "horizon": "1d",
            "expected_return_bps": 12.5,
            "targets": [101.0, 102.5],
            "stops": [98.0],
            "regime": "bull",
            "explain": "momentum is strong",
            "features": [{"feature": "momentum", "contribution": 3.25}],
            "model_version": "7",
            "data_hash": "d",
            "config_hash": "c",
            **changes,
        }
        for symbol in symbols
    ]
    return pl.DataFrame(rows, schema=CONTENT_SCHEMA)


def publish(
    ledger: Ledger, head_file: Path, signals: pl.DataFrame | None = None, **changes: Any
) -> PublishedBatch:
    """Publish as the premarket run would have, but for what is said."""
    arguments: dict[str, Any] = {
        "run": "premarket",
        "as_of": AS_OF,
        "scheduled_for": AS_OF,
        "ts_emit": AS_OF + dt.timedelta(seconds=20),
        "late": False,
        "head_file": head_file,
        **changes,
    }
    return publish_batch(ledger, a_batch() if signals is None else signals, **arguments)


def publish_at(
    ledger: Ledger, head_file: Path, day: int, signals: pl.DataFrame | None = None, **changes: Any
) -> PublishedBatch:
    """Publish so many days after the first moment."""
    at = AS_OF + day * DAY
    batch = a_batch() if signals is None else signals
    moved = batch.with_columns(valid_until=pl.lit(at + DAY))
    times = {"as_of": at, "scheduled_for": at, "ts_emit": at, **changes}
    return publish(ledger, head_file, moved, **times)


def publish_nth(ledger: Ledger, head_file: Path, n: int) -> PublishedBatch:
    """Publish a batch, or for each third the correction of the one before."""
    day = n - 1 if n % 3 == 2 else n
    signals = a_batch(symbols=MANY[: 40 - n], confidence=0.5 + n / 100)
    return publish_at(ledger, head_file, day, signals)


def tamper(ledger: Ledger, sql: str, parameters: dict[str, Any] | None = None) -> None:
    """Change the database behind the ledger's back, against its rules where need be."""
    if ledger.engine.dialect.name == "sqlite":
        with closing(sqlite3.connect(str(ledger.engine.url.database))) as raw:
            raw.execute(sql, parameters or {})
            raw.commit()
        return
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.execute(sa.text(sql), parameters or {})
