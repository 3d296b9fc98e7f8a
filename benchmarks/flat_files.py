"""Flat files: S3 object to settled partition, against read_csv plus write_parquet of the file."""

import datetime as dt
import gzip
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import SecretStr

from benchmarks.wanted import Wanted
from market import calendar
from market.flatfiles import FlatFileSource
from market.ingest import ingest
from market.lake import Lake
from market.source import EVERY
from market.timeframes import Timeframe

SESSION = dt.date(2024, 7, 2)
LATER = dt.datetime(2024, 7, 8, tzinfo=dt.UTC)
SYMBOLS, ROWS, MINUTES, ROUNDS = 11_000, 1_700_000, 960, 7
MOST_TIMES, MOST_GB = 2.5, 1.5


def day_table(symbols: int = SYMBOLS, rows: int = ROWS, seed: int = 7) -> pl.DataFrame:
    """A minute file: activity by a power law, thin extended hours, sorted as the vendor does."""
    rng = np.random.default_rng(seed)
    minute = np.arange(MINUTES)  # From 04:00 to 20:00 in New York.
    pull = np.where((minute >= 330) & (minute < 720), 1.0, 0.05)
    counts = _bars_per_symbol(symbols, rows)
    minutes = [np.sort(np.argsort(rng.exponential(size=MINUTES) / pull)[:n]) for n in counts]
    begin = calendar.session_open(SESSION) - dt.timedelta(minutes=330)
    names = ["".join(chr(65 + n // 26**k % 26) for k in (3, 2, 1, 0)) for n in range(symbols)]
    owner, size = np.repeat(np.arange(symbols), counts), counts.sum()
    price = rng.lognormal(3.3, 1.0, symbols)[owner] * np.exp(rng.normal(0, 0.002, size)) + 0.1
    opened, closed = np.round(price, 4), np.round(price * np.exp(rng.normal(0, 0.0005, size)), 4)
    return pl.DataFrame(
        {
            "ticker": np.array(names)[owner],
            "volume": rng.integers(1, 50_000, size),
            "open": opened,
            "close": closed,
            "high": np.round(np.maximum(opened, closed) + 0.002, 4),
            "low": np.round(np.minimum(opened, closed) - 0.002, 4),
            "window_start": int(begin.timestamp()) * 10**9 + np.concatenate(minutes) * 60 * 10**9,
            "transactions": rng.integers(1, 400, size),
        }
    )


def _bars_per_symbol(symbols: int, rows: int) -> np.ndarray:
    weight = 1 / np.arange(1, symbols + 1) ** 0.8
    low, high = 0.0, 1e9
    for _ in range(80):
        middle = (low + high) / 2
        too_many = np.clip(weight * middle, 1, MINUTES).sum() > rows
        low, high = (low, middle) if too_many else (middle, high)
    counts = np.clip(weight * low, 1, MINUTES).astype(int)
    counts[np.flatnonzero(counts < MINUTES)[: rows - counts.sum()]] += 1
    return counts


def plain(path: Path, folder: Path) -> float:
    """Seconds for what anyone would write: read the file, write it as Parquet."""
    began = time.perf_counter()
    pl.read_csv(path).write_parquet(folder / "plain.parquet")
    return time.perf_counter() - began


def ours(place: str, folder: Path) -> float:
    """Seconds for an ingest: the S3 object read, judged by every rule, written, remembered."""
    url, bucket = place.split()
    source = FlatFileSource(SecretStr("bench"), SecretStr("bench"), url, bucket=bucket)
    began = time.perf_counter()
    done = ingest(Lake(folder), source, Timeframe.M1, [SESSION], [EVERY], now=LATER)
    if (done.bars, done.held) != (ROWS, {}):
        raise SystemExit("bars were held: nothing to compare")
    return time.perf_counter() - began


def measure(wanted: Wanted) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "day.csv.gz"
        _python("make", str(path))
        with _server(path) as place:
            # First, while this process is small: a child's peak starts at that of its parent.
            peak = int(_python("ingest", place, str(folder / "alone"))) / 1e9
            peers: list[float] = []
            times: list[float] = []
            for n in range(ROUNDS):
                peers.append(plain(path, folder))
                times.append(ours(place, folder / str(n)))
            _compare(folder / "plain.parquet", folder / "0")
    ratios = [whole / peer for whole, peer in zip(times, peers, strict=True)]
    # Other load on the machine only adds time, to either side: the best rounds have least of it.
    best = min(times) / min(peers)
    return [
        f"{ROWS:,} bars of {SYMBOLS:,} symbols, values equal; medians of {ROUNDS} rounds",
        f"read_csv + write_parquet       {statistics.median(peers):12.2f} s",
        f"S3 object to settled partition {statistics.median(times):12.2f} s",
        f"ratio, median of the rounds    {statistics.median(ratios):12.2f}"
        f"   ({min(ratios):.2f} to {max(ratios):.2f})",
        f"ratio of best to best          {best:12.2f}   {wanted.at_most(best, MOST_TIMES)}",
        f"peak memory                    {peak:12.2f} GB {wanted.at_most(peak, MOST_GB)}",
    ]


def _compare(plain_file: Path, lake: Path) -> None:
    theirs = pl.read_parquet(plain_file)
    stored = Lake(lake).read_bars("bars_1m")
    same = stored.select(
        pl.col("symbol").alias("ticker"),
        pl.col("volume").cast(pl.Int64),
        "open",
        "close",
        "high",
        "low",
        (pl.col("bar_start").dt.epoch("us") * 1000).alias("window_start"),
        pl.col("trades").alias("transactions"),
    )
    if not same.equals(theirs):
        raise SystemExit("the two disagree: nothing to compare")


@contextmanager
def _server(path: Path) -> Iterator[str]:
    """An S3 server with the file, in a process of its own: its time and memory are not ours."""
    command = [sys.executable, "-m", "benchmarks.flat_files", "serve", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        try:
            yield run.stdout.readline().strip()
        finally:
            run.communicate("stop\n")


def _python(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.flat_files", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _child(what: str, *arguments: str) -> None:
    if what == "serve":
        from tests.flat_server import flat_server

        with flat_server() as server:
            server.put(Timeframe.M1, SESSION, Path(arguments[0]).read_bytes())
            print(server.url, server.bucket, flush=True)
            sys.stdin.readline()
        return
    if what == "make":
        Path(arguments[0]).write_bytes(gzip.compress(day_table().write_csv().encode()))
        return
    ours(arguments[0], Path(arguments[1]))
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _child(*sys.argv[1:])
    else:
        wanted = Wanted()
        print("\n".join(measure(wanted)))
        wanted.end()
