"""Alpha158 of 800 symbols over 3,393 sessions, against pyqlib 0.9.7, after every cell agrees.

Both sides begin with files of the same bars and end with a frame of 158 features: pyqlib with its
own binary files (writing them is a row of its own), ours with one Parquet file. Each run is a
process of its own with cold caches; ours is also repeated inside one process, and begun once with
no compiled code on disk. Both sides' seconds leave out interpreter and imports, and hold the
reading: what is wanted is from data to features. The lines on whole processes leave out nothing.

Run by ``make bench-peers``, which builds pyqlib's environment first.
"""

import importlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.command import measure_beside
from benchmarks.processes import peak_bytes, run, run_module
from benchmarks.wanted import Wanted

SYMBOLS, SESSIONS = 800, 3_393
ROUNDS = 3
LEAST_TIMES, MOST_OF_PEAK = 20, 0.5
SCRIPT = Path(__file__).parent / "peers" / "alpha158_pyqlib.py"
MODULE = "benchmarks.alpha158_vs_pyqlib"


def measure(peer: Path, folder: Path, symbols: int, sessions: int, wanted: Wanted) -> list[str]:
    """Run both sides on the same bars; raise ``SystemExit`` where their values differ."""
    bars, ours, values = (folder / f"{n}.parquet" for n in ("bars", "ours", "theirs"))
    run_module(MODULE, "write", str(bars), str(symbols), str(sessions))
    files = str(folder / "qlib")
    dumped = run([str(peer), str(SCRIPT), "dump", str(bars), files])
    two = [str(peer), str(SCRIPT), "features", files, "--kernels", "2"]
    compiled = {"NUMBA_CACHE_DIR": str(folder / "compiled")}
    first = run_module(MODULE, "once", str(bars), environment=compiled)
    # One more of each for the values: writing them is part of the seconds of its process.
    run([*two, "--values", str(values)])
    run_module(MODULE, "once", str(bars), str(ours), environment=compiled)
    agreed = _agree(bars, ours, values)
    rounds, cold = list[dict](), list[dict]()
    # In turns: a machine that slows down or speeds up does so for both sides.
    for _ in range(ROUNDS):
        rounds.append(run(two))
        cold.append(run_module(MODULE, "once", str(bars), environment=compiled))
    again = run_module(MODULE, "again", str(bars), environment=compiled)
    one = run([str(peer), str(SCRIPT), "features", files, "--kernels", "1"])
    theirs = {"dumped": dumped, "two": rounds, "one": one}
    return [*agreed, *_report(theirs, first, cold, again, symbols * sessions, wanted)]


def _report(
    theirs: dict, first: dict, cold: list[dict], again: dict, rows: int, wanted: Wanted
) -> list[str]:
    two = statistics.median(r["features_seconds"] for r in theirs["two"])
    whole = statistics.median(r["process_seconds"] for r in theirs["two"])
    one = theirs["one"]["features_seconds"]
    # The least that pyqlib needed: its own process, without its workers, of either run.
    peak = min(r["peak_bytes"] for r in [*theirs["two"], theirs["one"]])
    with_workers = max(r["peak_bytes_with_workers"] for r in theirs["two"])
    ours = statistics.median(r["seconds"] for r in cold)
    ours_whole = statistics.median(r["process_seconds"] for r in cold)
    most = max(r["peak_bytes"] for r in [*cold, first])
    warm = statistics.median(again["seconds"])
    share = most / peak
    return [
        f"{rows:,} bars, 158 features; medians of {ROUNDS} rounds",
        f"pyqlib {theirs['one']['versions']['qlib']}, two kernels     {two:9.2f} s"
        f"   ({whole:.2f} s with its interpreter and imports)",
        f"pyqlib, one kernel             {one:9.2f} s   (one round)",
        f"pyqlib, writing its files      {theirs['dumped']['dump_seconds']:9.2f} s",
        f"ours, first in a new process   {ours:9.2f} s   ({ours_whole:.2f} s with the same)",
        f"ours, again in one process     {warm:9.2f} s",
        f"ours, nothing compiled yet     {first['process_seconds']:9.2f} s   (a whole process,"
        " one round)",
        f"ratio, two kernels to first             {two / ours:9.1f}"
        f"   {wanted.at_least(two / ours, LEAST_TIMES)}",
        f"ratio, two kernels to again             {two / warm:9.1f}"
        f"   {wanted.at_least(two / warm, LEAST_TIMES)}",
        f"ratio, whole processes                  {whole / ours_whole:9.1f}",
        f"ratio, with nothing compiled            {whole / first['process_seconds']:9.1f}",
        f"ratio, one kernel to first              {one / ours:9.1f}",
        f"peak memory: pyqlib {peak / 1e9:.2f} GB ({with_workers / 1e9:.2f} with its workers),"
        f" ours {most / 1e9:.2f} GB, {share:.2f} of it {wanted.at_most(share, MOST_OF_PEAK)}",
    ]


def _agree(bars: Path, ours: Path, theirs: Path) -> list[str]:
    """Compare every cell from the first full windows on; the least agreeing come first."""
    import polars as pl

    from tests.oracles import alpha158_parity as parity

    table = pl.read_parquet(bars)
    names = pl.read_parquet_schema(theirs).names()[2:]
    if (mine := pl.read_parquet_schema(ours).names()[4:]) != names:
        raise SystemExit(f"names differ: ours {mine}, pyqlib's {names}")
    keys = ["symbol", "session"]
    for path in (ours, theirs):
        if not pl.read_parquet(path, columns=keys).equals(table.select(keys)):
            raise SystemExit(f"{path.name} has other rows than the bars")
    full = parity.row_numbers(table["symbol"]) >= parity.FULL_ROW
    found = []
    for name in names:
        nothing = parity.flags(table, parity.zero_denominator(name))
        mine, their = (pl.read_parquet(p, columns=[name])[name].to_numpy() for p in (ours, theirs))
        found.append(parity.deviation(name, mine, their, full & ~nothing))
    found.sort(key=lambda d: (d.agrees, -d.of_tolerance))
    lines = [str(d) for d in found]
    if not all(d.agrees for d in found):
        raise SystemExit("\n".join([*lines, "the two disagree: nothing to compare"]))
    cells = sum(d.cells for d in found)
    return [
        f"{cells:,} cells agree, from row {parity.FULL_ROW} of each symbol on; the least agreeing:",
        *(f"  {line}" for line in lines[:8]),
    ]


def _compute(bars: Path) -> Any:
    import polars as pl

    from features.compute import compute_features
    from features.registry import select_features

    return compute_features(pl.read_parquet(bars), select_features(family="alpha158"))


def _once(bars: Path, values: Path | None = None) -> dict:
    # pyqlib's imports are not timed either.
    importlib.import_module("features.compute")
    began = time.perf_counter()
    frame = _compute(bars)
    spent = time.perf_counter() - began
    taken = {"seconds": spent, "peak_bytes": peak_bytes(), "rows": frame.height}
    if values is not None:
        frame.write_parquet(values, compression="uncompressed")
    return taken


def _again(bars: Path) -> dict:
    _compute(bars)
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        frame = _compute(bars)
        taken.append(time.perf_counter() - began)
        del frame
    return {"seconds": taken}


def _child(what: str, bars: str, *more: str) -> dict:
    if what == "write":
        from benchmarks.feature_bars import daily_bars, daily_table

        # With the columns of a bar in the lake, of which pyqlib's side reads its own.
        daily_bars(daily_table(*map(int, more))).write_parquet(bars)
        return {}
    return _again(Path(bars)) if what == "again" else _once(Path(bars), *map(Path, more))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("write", "once", "again"):
        print(json.dumps(_child(*sys.argv[1:])))
    else:
        measure_beside(measure, __doc__, symbols=SYMBOLS, sessions=SESSIONS)
