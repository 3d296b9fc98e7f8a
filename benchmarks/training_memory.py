"""Peak memory of a training on minutes whose features would not fit: 500 symbols over 60 sessions.

The lake's table holds 11.7 million rows of 100 features, 4.7 GB as a matrix; the training may
make a matrix of 2 GB (`models.matrix_gb`) and must stay under 8 GB in all. Trees and a network are
fitted with few steps: how many there are does not change what is held. That every row of the test
window was forecast once is checked.
"""

import datetime as dt
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.feature_bars import sessions_until, symbol_names
from benchmarks.processes import peak_bytes, run_module
from benchmarks.wanted import Wanted
from market import calendar
from market.horizons import find_horizon

SYMBOLS, SESSIONS, FEATURES, TESTED = 500, 60, 100, 5
MATRIX_BYTES, MOST_GB = 2_000_000_000, 8
MODULE = "benchmarks.training_memory"
NAMES = ["volatility_20", *(f"f{k}" for k in range(FEATURES - 1))]


def write(folder: Path) -> dict:
    """Write a table of features, session by session, and one of labels, made of noise."""
    import deltalake

    rng = np.random.default_rng(3)
    labels = []
    for day in sessions_until(SESSIONS):
        keys = _keys(day)
        values = rng.standard_normal((keys.height, FEATURES), np.float32)
        values[:, 0] = 0.001
        frame = keys.hstack(pl.DataFrame(values, schema=NAMES))
        deltalake.write_deltalake(
            str(folder / "features"), frame.to_arrow(), mode="append", partition_by=["session"]
        )
        returns = rng.standard_normal(keys.height) / 500
        # The last five minutes of a session have no label of five minutes.
        late = pl.col("bar_end") > calendar.session_close(day) - dt.timedelta(minutes=5)
        labels.append(
            keys.with_columns(
                label_known_at=pl.col("as_of") + dt.timedelta(minutes=5),
                forward_return=pl.Series(returns),
                excess_return=pl.Series(returns),
            ).with_columns(
                pl.when(~late).then(pl.col(c)).alias(c)
                for c in ("label_known_at", "forward_return", "excess_return")
            )
        )
    pl.concat(labels).write_parquet(folder / "labels.parquet")
    return {}


def _keys(day: dt.date) -> pl.DataFrame:
    close, minute = calendar.session_close(day), dt.timedelta(minutes=1)
    ends = [close - k * minute for k in reversed(range(calendar.REGULAR_MINUTES))]
    times = pl.DataFrame({"bar_end": ends}, schema={"bar_end": pl.Datetime("us", "UTC")})
    keys = times.join(pl.DataFrame({"symbol": symbol_names(SYMBOLS)}), how="cross")
    return keys.select(
        "symbol", pl.lit(day).alias("session"), "bar_end", pl.col("bar_end").alias("as_of")
    )


def train(folder: Path) -> dict:
    """Train; say what it took."""
    from dataclasses import replace

    from models.registry import FAMILIES
    from models.train import Rhythm, train_horizon

    few = {"trees": 10, "epochs": 1, "rows_per_epoch": 20_000}
    families = [
        replace(f, defaults={k: few.get(k, v) for k, v in f.defaults.items()})
        for f in (FAMILIES["xgboost"], FAMILIES["lstm"])
    ]
    began = time.perf_counter()
    made = train_horizon(
        pl.scan_delta(str(folder / "features")),
        pl.read_parquet(folder / "labels.parquet"),
        horizon=find_horizon("5m"),
        families=families,
        feature_names=NAMES,
        rhythm=Rhythm(min_train_sessions=SESSIONS - TESTED, test_sessions=TESTED),
        start=None,
        end=None,
        as_of=dt.datetime(2100, 1, 1, tzinfo=dt.UTC),
        seed=1,
        band_bps=1.0,
        data_hash="",
        matrix_bytes=MATRIX_BYTES,
    )
    rows = made.predictions
    return {
        "peak": peak_bytes(),
        "seconds": time.perf_counter() - began,
        "forecasts": rows.height,
        "learned": made.models[0].rows,
        "once": rows.select("symbol", "bar_end", "engine").is_unique().all(),
    }


def main() -> None:
    """Measure it and print the peak."""
    with tempfile.TemporaryDirectory() as name:
        run_module(MODULE, "write", name)
        took = run_module(MODULE, "train", name)
    every = 2 * SYMBOLS * TESTED * calendar.REGULAR_MINUTES
    if took["forecasts"] != every or not took["once"]:
        raise SystemExit(f"{took['forecasts']:,} forecasts, {every:,} were to be made, each once")
    peak, wanted = took["peak"] / 1e9, Wanted()
    total = SYMBOLS * SESSIONS * calendar.REGULAR_MINUTES
    print(
        f"{total:,} rows of {FEATURES} features: learned from {took['learned']:,}, forecast all"
        f" {every:,}; peak {peak:.2f} GB {wanted.at_most(peak, MOST_GB)},"
        f" {took['seconds']:.0f} s"
    )
    wanted.end()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        work = {"write": write, "train": train}[sys.argv[1]]
        print(json.dumps(work(Path(sys.argv[2]))))
    else:
        main()
