"""How features grow: time with rows, memory of a month of minutes, and the midday step.

Time per row has to stay what it is while bars become four and sixteen times as many, both by more
symbols and by longer histories. The month and the midday step are 500 symbols' 1-minute bars with
150 features, taken evenly from all that make sense on minutes and read bars only.
"""

import json
import statistics
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.feature_bars import daily_bars, daily_table, intraday_bars
from benchmarks.processes import peak_bytes, run_module

GROWTH = (1, 4, 16)
ROUNDS = 3
SYMBOLS, MONTH, FEATURES = 500, 21, 150
MOST_BYTES = 6_000_000_000
MOST_SECONDS = 2.0
MOST_GROWTH = 1.5
MODULE = "benchmarks.feature_scaling"
INCREMENTAL = "features.incremental"


def measure() -> list[str]:
    lines = ["alpha158, daily bars: more symbols of 3,393 sessions"]
    lines += _growth([run_module(MODULE, "daily", str(50 * n), "3393") for n in GROWTH])
    lines.append("alpha158, 1-minute bars: longer histories of 50 symbols")
    lines += _growth([run_module(MODULE, "minutes", "50", str(5 * n)) for n in GROWTH])
    with tempfile.TemporaryDirectory() as name:
        bars = Path(name) / "bars.parquet"
        run_module(MODULE, "write", str(bars))
        month = run_module(MODULE, "month", str(bars))
        lines.append(
            f"{SYMBOLS} symbols, {MONTH} sessions of minutes, {month['rows']:,} rows, "
            f"{month['columns']} features: {month['seconds']:.1f} s, peak "
            f"{month['peak_bytes'] / 1e9:.2f} GB (under {MOST_BYTES / 1e9:g})"
        )
        return [*lines, _midday_line(bars)]


def _growth(found: list[dict[str, Any]]) -> list[str]:
    per_row = [f["seconds"] / f["rows"] for f in found]
    lines = [
        f"  {f['rows']:10,} rows {f['seconds']:8.2f} s {1e9 * p:8.0f} ns a row"
        f"  ({p / per_row[0]:.2f} of the first)"
        for f, p in zip(found, per_row, strict=True)
    ]
    # A small run pays more of what does not grow, so only a rise counts.
    rise = per_row[-1] / min(per_row)
    return [*lines, f"  largest over least per row {rise:.2f} (at most {MOST_GROWTH:g})"]


def _midday_line(bars: Path) -> str:
    if find_spec(INCREMENTAL) is None:
        return f"midday step: not measured, there is no {INCREMENTAL} yet"
    step = run_module(MODULE, "midday", str(bars))
    return (
        f"midday step, {SYMBOLS} symbols, {step['rows']:,} new rows, {step['columns']} features: "
        f"{step['seconds']:.2f} s (under {MOST_SECONDS:g}); values as of a full computation"
    )


# ------------------------------------------------------------------ in a process of their own


def _alpha158() -> Any:
    from features.registry import select_features

    return select_features(family="alpha158")


def minute_features() -> Any:
    """Return 150 features of minutes, evenly from all of them that read only bars."""
    from features.registry import select_features
    from features.spec import Stage
    from market.timeframes import Timeframe

    able = [f for f in select_features(timeframe=Timeframe.M1) if f.stage.value != "as_of"]
    if len(able) < FEATURES:
        raise SystemExit(f"{len(able)} features of minutes are registered, {FEATURES} are wanted")
    wanted = [able[k] for k in np.linspace(0, len(able) - 1, FEATURES).astype(int)]
    assert any(f.stage is Stage.CROSS_SECTION for f in wanted)
    return wanted


def _timed_growth(bars: pl.DataFrame) -> dict[str, Any]:
    from features.compute import compute_features

    features = _alpha158()
    compute_features(bars.head(1_000), features)  # Compiled, and imported.
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        frame = compute_features(bars, features)
        taken.append(time.perf_counter() - began)
        del frame
    # Other load on the machine only adds time, and to a long run more of it.
    return {"rows": bars.height, "seconds": min(taken)}


def _month(bars: Path) -> dict[str, Any]:
    from features.compute import compute_features

    began = time.perf_counter()
    frame = compute_features(pl.read_parquet(bars), minute_features())
    return {
        "rows": frame.height,
        "columns": frame.width - 4,
        "seconds": time.perf_counter() - began,
        "peak_bytes": peak_bytes(),
    }


def _midday(bars: Path) -> dict[str, Any]:
    """Time the bars of one midday run: the last session's second hour, after what was before.

    The seam: ``start`` takes the history once and keeps what later values depend on; ``advance``
    takes that and the new bars, and returns their rows of features.
    """
    from features.compute import compute_features

    engine, features = import_module(INCREMENTAL), minute_features()
    table = pl.read_parquet(bars)
    opened = table.filter(pl.col("session") == table["session"].max())["bar_start"].min()
    until = pl.lit(opened).dt.offset_by("120m")
    table = table.filter(pl.col("bar_end") <= until)
    is_new = pl.col("bar_end") > pl.lit(opened).dt.offset_by("60m")
    history, new = table.filter(~is_new), table.filter(is_new)
    state = engine.start(history, features)
    engine.advance(state, new.filter(pl.col("symbol") == new["symbol"][0]))  # Compiled.
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        frame = engine.advance(state, new)
        taken.append(time.perf_counter() - began)
    whole = compute_features(table, features).filter(is_new)
    if not frame.equals(whole):
        raise SystemExit("the step's values are not those of a full computation")
    return {
        "rows": frame.height,
        "columns": frame.width - 4,
        "seconds": statistics.median(taken),
    }


def _child(what: str, *more: str) -> dict[str, Any]:
    if what == "daily":
        return _timed_growth(daily_bars(daily_table(int(more[0]), int(more[1]))))
    if what == "minutes":
        return _timed_growth(intraday_bars(int(more[0]), int(more[1]), minutes=1))
    path = Path(more[0])
    if what == "write":
        intraday_bars(SYMBOLS, MONTH, minutes=1).write_parquet(path)
        return {}
    return _month(path) if what == "month" else _midday(path)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_child(*sys.argv[1:])))
    else:
        print("\n".join(measure()))
