"""How features grow: time with rows, memory of a month of minutes, and the midday step.

Time per row has to stay what it is while bars become four and sixteen times as many, both by more
symbols and by longer histories. The month and the midday step are 500 symbols' 1-minute bars with
150 features, taken evenly from all that make sense on minutes and read bars only.
"""

import datetime as dt
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.feature_bars import daily_bars, daily_table, intraday_bars
from benchmarks.processes import peak_bytes, run_module
from benchmarks.wanted import Wanted
from features.spec import PANEL_KEYS
from market import calendar
from market.schema import BAR_SCHEMA

GROWTH = (1, 4, 16)
ROUNDS = 3
SYMBOLS, MONTH, FEATURES = 500, 21, 150
MOST_GB = 6
MOST_SECONDS = 2.0
MOST_GROWTH = 1.5
MODULE = "benchmarks.feature_scaling"
MIDDAY_MINUTES = 210


def measure(wanted: Wanted) -> list[str]:
    lines = ["alpha158, daily bars: more symbols of 3,393 sessions"]
    lines += _growth([run_module(MODULE, "daily", str(50 * n), "3393") for n in GROWTH], wanted)
    lines.append("alpha158, 1-minute bars: longer histories of 50 symbols")
    lines += _growth([run_module(MODULE, "minutes", "50", str(5 * n)) for n in GROWTH], wanted)
    with tempfile.TemporaryDirectory() as name:
        bars = Path(name) / "bars.parquet"
        run_module(MODULE, "write", str(bars))
        month = run_module(MODULE, "month", str(bars))
        peak = month["peak_bytes"] / 1e9
        lines.append(
            f"{SYMBOLS} symbols, {MONTH} sessions of minutes, {month['rows']:,} rows, "
            f"{month['columns']} features: {month['seconds']:.1f} s, peak "
            f"{peak:.2f} GB {wanted.at_most(peak, MOST_GB)}"
        )
        return [*lines, _midday_line(bars, wanted)]


def _growth(found: list[dict[str, Any]], wanted: Wanted) -> list[str]:
    per_row = [f["seconds"] / f["rows"] for f in found]
    lines = [
        f"  {f['rows']:10,} rows {f['seconds']:8.2f} s {1e9 * p:8.0f} ns a row"
        f"  ({p / per_row[0]:.2f} of the first)"
        for f, p in zip(found, per_row, strict=True)
    ]
    # A small run pays more of what does not grow, so only a rise counts.
    rise = per_row[-1] / min(per_row)
    return [*lines, f"  largest over least per row {rise:.2f} {wanted.at_most(rise, MOST_GROWTH)}"]


def _midday_line(bars: Path, wanted: Wanted) -> str:
    step = run_module(MODULE, "midday", str(bars))
    return (
        f"midday step, {SYMBOLS} symbols, {step['rows']:,} new rows, {step['columns']} features, "
        f"{step['sessions']} sessions read: {step['seconds']:.2f} s "
        f"{wanted.at_most(step['seconds'], MOST_SECONDS)}\n"
        "  features not within one unit in the last place of a full computation:"
        f" {len(step['off'])}"
        f" {wanted.at_most(len(step['off']), 0)}"
        + "".join(f"\n  {name} by at most {most:.0e}" for name, most in step["off"].items())
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
    """Time today's features at 13:00 in New York, going on from a checkpoint of days before.

    Reading the sessions that it needs is in its seconds; the checkpoint is in memory.
    """
    from features.compute import compute_features
    from features.incremental import compute_increment, session_to_keep

    features, table = minute_features(), pl.read_parquet(bars)
    days = table["session"].unique().sort().to_list()
    today = days[-1]
    noon = calendar.session_open(today) + dt.timedelta(minutes=MIDDAY_MINUTES)
    table = table.filter(pl.col("bar_end") <= noon)
    history = table.filter(pl.col("session") < today)
    keep = session_to_keep(history, features)
    until_then = compute_increment(history, features, start=days[0], keep=keep, checkpoint=None)
    needed = bars.with_name("needed.parquet")
    table.filter(pl.col("session") >= _first_needed(table, features, until_then.checkpoint)).select(
        BAR_SCHEMA.names()
    ).write_parquet(needed)
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        recent = pl.read_parquet(needed)
        made = compute_increment(
            recent, features, start=today, keep=keep, checkpoint=until_then.checkpoint
        )
        taken.append(time.perf_counter() - began)
    whole = compute_features(table, features).filter(pl.col("session") == today)
    return {
        "rows": whole.height,
        "columns": len(features),
        "sessions": recent["session"].n_unique(),
        "seconds": statistics.median(taken),
        "off": _off(made.features, whole),
    }


def _first_needed(table: pl.DataFrame, features: Any, checkpoint: Any) -> dt.date:
    """Return the latest session from which bars suffice to go on from the checkpoint."""
    from features.compute import longest_lookback
    from features.incremental import out_of_reach

    days = table["session"].unique().sort().to_list()
    least = longest_lookback(features) - 1
    for first in [d for d in reversed(days[:-1]) if d <= checkpoint.session]:
        part = table.filter(pl.col("session") >= first)
        old = part.filter(pl.col("session") < days[-1]).group_by("symbol").len()["len"].min()
        short = out_of_reach(part, features, start=days[-1], checkpoint=checkpoint)
        if not short and old >= least:
            return first
    return days[0]


def _off(step: pl.DataFrame, whole: pl.DataFrame) -> dict[str, float]:
    """Return what differs by more than one unit in the last place of float32, and by how much.

    Raises ``SystemExit`` where rows differ, or one side has a value that the other lacks.
    """
    if not step.select(PANEL_KEYS).equals(whole.select(PANEL_KEYS)):
        raise SystemExit("the step has other rows than a full computation")
    found: dict[str, float] = {}
    for name in step.columns[len(PANEL_KEYS) :]:
        ours, full = (frame[name].to_numpy() for frame in (step, whole))
        both = np.isfinite(ours) & np.isfinite(full)
        if (np.isfinite(ours) != np.isfinite(full)).any():
            raise SystemExit(f"the step's {name} lacks a value that a full computation has")
        apart = np.abs(ours[both].astype(float) - full[both])
        if (apart > np.spacing(np.abs(full[both]))).any():
            found[name] = float(apart.max())
    return found


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
        wanted = Wanted()
        print("\n".join(measure(wanted)))
        wanted.end()
