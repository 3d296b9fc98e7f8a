"""Lake reads: one symbol, or one session, against a file of exactly those rows."""

import datetime as dt
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.wanted import Wanted
from market import calendar
from market.compaction import compact
from market.lake import Lake
from market.layouts import BY_SYMBOL_TABLE
from market.schema import BAR_SCHEMA, conform

SYMBOLS = 500
SESSIONS = 252
REPEATS = 21
MOST_OF_SYMBOL, MOST_OF_SESSION = 5, 2


def measure(wanted: Wanted) -> list[str]:
    days = calendar.sessions_between(dt.date(2023, 1, 3), dt.date(2023, 12, 29))
    days = (days + calendar.sessions_between(dt.date(2024, 1, 2), dt.date(2024, 2, 1)))[:SESSIONS]
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder) / "lake")
        for k in range(0, len(days), 10):
            part = days[k : k + 10]
            lake.replace("bars_1m", pl.concat([_session(d) for d in part]), part)
        name, day = "S250", days[len(days) // 2]
        exact = Path(folder) / "exact.parquet"
        lines = [f"{SYMBOLS} symbols x {len(days)} sessions of minutes"]
        one = {"symbols": [name]}
        lake.read_bars("bars_1m", **one).write_parquet(exact)
        lines.append(_line("one symbol, before compaction", *_ratio(lake, exact, one)))
        lines.append(_compact(lake, days))
        lines.append(_sizes(lake, Path(folder) / "lake"))
        times, ratio = _ratio(lake, exact, one)
        told = wanted.at_most(ratio, MOST_OF_SYMBOL)
        lines.append(_line("one symbol, all sessions", times, ratio, told))
        one = {"start": day, "end": day}
        lake.read_bars("bars_1m", **one).write_parquet(exact)
        times, ratio = _ratio(lake, exact, one)
        told = wanted.at_most(ratio, MOST_OF_SESSION)
        lines.append(_line("one session, all symbols", times, ratio, told))
    return lines


def _compact(lake: Lake, days: list[dt.date]) -> str:
    began = time.perf_counter()
    compact(lake, days, dt.date(2024, 3, 1))
    spent = time.perf_counter() - began
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"compaction of it all {spent:8.1f} s, peak memory of this process {peak / 1e9:.2f} GB"


def _sizes(lake: Lake, folder: Path) -> str:
    told: list[str] = []
    for table in ("bars_1m", BY_SYMBOL_TABLE):
        bars = lake.scan(table).select(pl.len()).collect().item()
        size = sum(f.stat().st_size for f in (folder / table).rglob("*.parquet"))
        told.append(f"{table} {size / 1e9:.1f} GB, {size / bars:.0f} bytes a bar")
    return "; ".join(told)


def _ratio(lake: Lake, exact: Path, asked: dict) -> tuple[str, float]:
    ours, peer = [], []
    for _ in range(REPEATS):
        began = time.perf_counter()
        found = lake.read_bars("bars_1m", **asked)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        plain = pl.read_parquet(exact)
        peer.append(time.perf_counter() - began)
        if not found.equals(plain):
            raise SystemExit("the two disagree: nothing to compare")
    a, b = statistics.median(ours), statistics.median(peer)
    return f"{1e3 * a:8.1f} ms, exact file {1e3 * b:7.1f} ms", a / b


def _line(what: str, times: str, ratio: float, told: str = "") -> str:
    return f"{what:30} {times}, ratio {ratio:6.2f} {told}".rstrip()


def _session(day: dt.date) -> pl.DataFrame:
    opened, closed = calendar.session_open(day), calendar.session_close(day)
    minutes = int((closed - opened).total_seconds() // 60)
    rng = np.random.default_rng(day.toordinal())
    n = SYMBOLS * minutes
    close = np.round(100 * np.exp(rng.normal(0, 0.01, n)), 2)
    start = (
        pl.Series(np.tile(np.arange(minutes), SYMBOLS)).cast(pl.Int64) * 60_000_000
        + int(opened.timestamp()) * 1_000_000
    ).cast(pl.Datetime("us", "UTC"))
    minute = dt.timedelta(minutes=1)
    frame = pl.DataFrame(
        {
            "symbol": np.repeat([f"S{k:03d}" for k in range(SYMBOLS)], minutes),
            "session": pl.Series([day]).new_from_index(0, n),
            "bar_start": start,
            "bar_end": start + minute,
            "known_at": start + minute,
            "open": close,
            "high": close + 0.05,
            "low": close - 0.05,
            "close": close,
            "volume": np.round(rng.lognormal(7, 1, n)),
            "vwap": close,
            "trades": rng.integers(1, 99, n),
        }
    )
    return conform(frame, BAR_SCHEMA, "bars_1m")


if __name__ == "__main__":
    wanted = Wanted()
    print("\n".join(measure(wanted)))
    wanted.end()
