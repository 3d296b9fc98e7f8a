"""Hand-made bars for the quality rules, and the ways to spoil them."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl

from market import calendar
from market.quality import inspect_bars
from market.quality_rules import FINDING_SCHEMA, QUARANTINE_SCHEMA, Inspection, Reason
from market.schema import BAR_SCHEMA, DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar, conform, empty
from market.timeframes import Timeframe
from tests.markets import minute_bars

NO_SPLITS, NO_DIVIDENDS = empty(SPLIT_SCHEMA), empty(DIVIDEND_SCHEMA)
START = dt.date(2024, 3, 1)
SESSION = dt.date(2024, 7, 10)
HALF_DAY = dt.date(2024, 7, 3)
N = 80


def walk(symbols: int = 1, sessions: int = N, seed: int = 1) -> pl.DataFrame:
    """Daily bars with moves near 1 percent, so that the usual move is known."""
    days = calendar.sessions_between(START, START + dt.timedelta(days=400))[:sessions]
    rng = np.random.default_rng(seed)
    frames = []
    for n in range(symbols):
        moves = 0.01 * rng.choice([-1.0, 1.0], sessions) * rng.uniform(0.5, 1.5, sessions)
        close = 100 * np.exp(np.cumsum(moves))
        opened = close * np.exp(-moves / 2)
        frames.append(
            pl.DataFrame(
                {
                    Bar.SYMBOL: f"S{n:03}",
                    Bar.SESSION: days,
                    Bar.BAR_START: [calendar.session_open(d) for d in days],
                    Bar.BAR_END: [calendar.session_close(d) for d in days],
                    Bar.KNOWN_AT: [calendar.session_close(d) for d in days],
                    Bar.OPEN: opened,
                    Bar.HIGH: np.maximum(opened, close) * 1.002,
                    Bar.LOW: np.minimum(opened, close) * 0.998,
                    Bar.CLOSE: close,
                    Bar.VOLUME: rng.integers(10_000, 99_999, sessions).astype(float),
                    Bar.VWAP: close,
                    Bar.TRADES: 10,
                }
            )
        )
    return conform(pl.concat(frames), BAR_SCHEMA, "walk")


def minutes(count: int = 390, session: dt.date = SESSION, first: int = 0) -> pl.DataFrame:
    """Minutes of one symbol from ``first`` minutes after the open."""
    opened = calendar.session_open(session) + dt.timedelta(minutes=first)
    starts = [opened + dt.timedelta(minutes=n) for n in range(count)]
    closes = [100 + 0.01 * (n % 7) for n in range(count)]
    return minute_bars("A", starts, closes, session).with_columns(
        pl.col(Bar.VOLUME) + 5000, pl.lit(None, pl.Float64).alias(Bar.VWAP)
    )


def put(bars: pl.DataFrame, at: int, **values: object) -> pl.DataFrame:
    """Replace values of one row."""
    here = pl.int_range(pl.len()) == at % bars.height
    return bars.with_columns(
        pl.when(here).then(pl.lit(v, dtype=BAR_SCHEMA[c])).otherwise(pl.col(c)).alias(c)
        for c, v in values.items()
    )


def scaled(bars: pl.DataFrame, at: int | pl.Expr, factor: float) -> pl.DataFrame:
    """Multiply the prices of one row, or of the rows from a condition on."""
    here = pl.int_range(pl.len()) == at % bars.height if isinstance(at, int) else at
    prices = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VWAP)
    return bars.with_columns(
        pl.when(here).then(pl.col(c) * factor).otherwise(c).alias(c) for c in prices
    )


def inspect(bars: pl.DataFrame, timeframe: Timeframe = Timeframe.D1, **more: object) -> Inspection:
    options = {"splits": NO_SPLITS, "dividends": NO_DIVIDENDS} | more
    found = inspect_bars(bars, timeframe=timeframe, **options)  # type: ignore[arg-type]
    assert found.good.height + found.quarantined.height == bars.height
    assert found.good.schema == BAR_SCHEMA
    assert found.quarantined.schema == QUARANTINE_SCHEMA == found.suspects.schema
    assert found.findings.schema == FINDING_SCHEMA
    return found


def rules_of(found: Inspection) -> set[str]:
    return set(found.findings["rule"])


def reasons(found: Inspection) -> list[str]:
    return found.quarantined["reason"].to_list()


def rows_of(found: Inspection, reason: Reason) -> int:
    return found.findings.filter(pl.col("rule") == reason.value)["rows"].sum()


def shift(bars: pl.DataFrame, **by: int) -> pl.DataFrame:
    """Move one row's times."""
    delta = pl.duration(**by)
    here = pl.int_range(pl.len()) == 5
    times = (Bar.BAR_START, Bar.BAR_END, Bar.KNOWN_AT)
    return bars.with_columns(
        pl.when(here).then(pl.col(c) + delta).otherwise(c).alias(c) for c in times
    )


def copy_row(bars: pl.DataFrame, source: int, target: int) -> pl.DataFrame:
    columns = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VOLUME)
    return put(bars, target, **{c: bars[c][source] for c in columns})
