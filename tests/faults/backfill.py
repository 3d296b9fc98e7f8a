"""A backfill of a few symbols, which children run: they import nothing besides what it needs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from market import calendar, request_estimate
from market.ingest import ingest
from market.lake import Lake
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, TICKER_SCHEMA, Bar, empty
from market.timeframes import Timeframe
from tests.markets import daily_bars

SYMBOLS = ["AAA", "BBB", "CCC", "DDD"]
SESSIONS = calendar.sessions_between(dt.date(2024, 5, 1), dt.date(2024, 7, 12))
NOW = dt.datetime(2024, 7, 15, 12, tzinfo=dt.UTC)
CHUNK = 12


class MemorySource:
    """Serves a frame."""

    name = "memory"
    adjusted = False

    def __init__(self, bars: pl.DataFrame) -> None:
        self.frame = bars

    def bars(
        self, symbols: Sequence[str], timeframe: Timeframe, start: dt.date, end: dt.date
    ) -> pl.DataFrame:
        return self.frame.filter(
            pl.col(Bar.SYMBOL).is_in(list(symbols)), pl.col(Bar.SESSION).is_between(start, end)
        )

    def splits(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        return empty(SPLIT_SCHEMA)

    def dividends(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        return empty(DIVIDEND_SCHEMA)

    def tickers(self) -> pl.DataFrame:
        return empty(TICKER_SCHEMA)


def history() -> pl.DataFrame:
    """Rising bars; one spikes, one stays at a jump, one is impossible: held, moved, released."""
    closes = {s: [10.0 * n + k / 8 for k in range(len(SESSIONS))] for n, s in enumerate("1234", 1)}
    closes["1"][30] *= 1.5
    closes["2"][35:] = [3 * c for c in closes["2"][35:]]
    named = dict(zip(SYMBOLS, closes.values(), strict=True))
    bars = daily_bars(named, SESSIONS[0])
    is_bad = (pl.col(Bar.SYMBOL) == "CCC") & (pl.col(Bar.SESSION) == SESSIONS[7])
    return bars.with_columns(pl.when(is_bad).then(-1.0).otherwise(Bar.LOW).alias(Bar.LOW))


def backfill(folder: Path) -> None:
    """Backfill in many small commits."""
    request_estimate.CHUNK_BARS = CHUNK
    source = MemorySource(history())
    ingest(Lake(folder), source, Timeframe.D1, SESSIONS, SYMBOLS, now=NOW)
