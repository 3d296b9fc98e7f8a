"""Ingest again: a year of settled minutes of 500 symbols that is in the lake already."""

import datetime as dt
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from benchmarks.wanted import Wanted
from market import calendar
from market.ingest import RefetchPolicy, ingest
from market.lake import Lake
from market.schema import BAR_SCHEMA, conform
from market.timeframes import Timeframe

SYMBOLS = [f"S{k:03d}" for k in range(500)]
REPEATS = 5
MOST_SECONDS = 1


class _Source:
    """Has one bar of each symbol and session, and may be asked only once."""

    name = "memory"
    adjusted = False
    is_open = True

    def bars(
        self, symbols: Sequence[str], timeframe: Timeframe, start: dt.date, end: dt.date
    ) -> pl.DataFrame:
        if not self.is_open:
            raise SystemExit("a settled session was asked for again")
        opens = [calendar.session_open(day) for day in calendar.sessions_between(start, end)]
        minute, names = dt.timedelta(minutes=1), pl.DataFrame({"symbol": list(symbols)})
        rows = names.join(pl.DataFrame({"bar_start": opens}), how="cross").with_columns(
            pl.col("bar_start").dt.date().alias("session"),
            (pl.col("bar_start") + minute).alias("bar_end"),
            (pl.col("bar_start") + minute).alias("known_at"),
            *(pl.lit(100.0).alias(c) for c in ("open", "high", "low", "close", "volume", "vwap")),
            pl.lit(1).alias("trades"),
        )
        return conform(rows, BAR_SCHEMA, "bars_1m")


def measure(wanted: Wanted) -> list[str]:
    days = calendar.sessions_between(dt.date(2023, 1, 3), dt.date(2024, 1, 3))
    now = dt.datetime(2024, 3, 1, 12, tzinfo=dt.UTC)
    # Once by the default, never again; once by a policy of which nothing is due.
    policies = {"never again": RefetchPolicy(False, 0), "by policy": RefetchPolicy(True, 0)}
    with tempfile.TemporaryDirectory() as folder:
        lake, source = Lake(Path(folder)), _Source()
        ingest(lake, source, Timeframe.M1, days, SYMBOLS, now=now)
        source.is_open = False
        return [_line(lake, source, days, now, wanted, *named) for named in policies.items()]


def _line(
    lake: Lake,
    source: _Source,
    days: list[dt.date],
    now: dt.datetime,
    wanted: Wanted,
    name: str,
    policy: RefetchPolicy,
) -> str:
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        found = ingest(lake, source, Timeframe.M1, days, SYMBOLS, now=now, policy=policy)
        taken.append(time.perf_counter() - began)
        if (found.fetched, found.skipped) != (0, len(days)):
            raise SystemExit("not every session was skipped: nothing to time")
    spent = statistics.median(taken)
    return (
        f"{len(days)} sessions, {len(SYMBOLS)} symbols, {name:12} {spent:6.3f} s"
        f" {wanted.at_most(spent, MOST_SECONDS)}"
    )


if __name__ == "__main__":
    wanted = Wanted()
    print("\n".join(measure(wanted)))
    wanted.end()
