"""Ingest again: a year of settled minutes of 500 symbols that is in the lake already."""

import datetime as dt
import statistics
import tempfile
import time
from pathlib import Path

import polars as pl

from market import calendar
from market.ingest import LOG_SCHEMA, LOG_TABLE, RefetchPolicy, ingest
from market.lake import Lake
from market.timeframes import Timeframe

SYMBOLS = [f"S{k:03d}" for k in range(500)]
REPEATS = 5
MOST_SECONDS = 1.0


class _Silent:
    """A source that may not be asked."""

    name = "silent"

    def bars(self, *_: object) -> pl.DataFrame:
        raise SystemExit("a settled session was asked for again")

    splits = dividends = tickers = bars


def measure() -> list[str]:
    days = calendar.sessions_between(dt.date(2023, 1, 3), dt.date(2024, 1, 3))
    now = dt.datetime(2024, 3, 1, 12, tzinfo=dt.UTC)
    # Once by the default, never again; once by a policy of which nothing is due.
    policies = {"never again": RefetchPolicy(False, 0), "by policy": RefetchPolicy(True, 0)}
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        _remember_all(lake, days, now)
        return [_line(lake, days, now, *named) for named in policies.items()]


def _remember_all(lake: Lake, days: list[dt.date], now: dt.datetime) -> None:
    """Write the log as a backfill leaves it: what is skipped is decided by it alone."""
    entry = {
        "timeframe": "1m",
        "fetched_at": now - dt.timedelta(days=7),
        "settled": True,
        "source": "silent",
        "symbols": SYMBOLS,
        "content": "0" * 16,
    }
    rows = [{**entry, "session": day} for day in days]
    lake.replace(LOG_TABLE, pl.DataFrame(rows, schema=LOG_SCHEMA), None)


def _line(
    lake: Lake, days: list[dt.date], now: dt.datetime, name: str, policy: RefetchPolicy
) -> str:
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        found = ingest(lake, _Silent(), Timeframe.M1, days, SYMBOLS, now=now, policy=policy)
        taken.append(time.perf_counter() - began)
        if (found.fetched, found.skipped) != (0, len(days)):
            raise SystemExit("not every session was skipped: nothing to time")
    spent = statistics.median(taken)
    return (
        f"{len(days)} sessions, {len(SYMBOLS)} symbols, {name:12} {spent:6.3f} s"
        f" (under {MOST_SECONDS:g})"
    )


if __name__ == "__main__":
    print("\n".join(measure()))
