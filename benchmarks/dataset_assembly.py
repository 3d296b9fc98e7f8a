"""Peak memory of the matrix that models learn from, beside its own bytes.

500 symbols over ten years of sessions, 158 features in a Delta table of the lake, read and
assembled in a process of its own; what the process holds before it begins is taken off. The
matrix is then held against one that is read whole.
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

SYMBOLS, SESSIONS, FEATURES = 500, 2_520, 158
MOST = 2
MODULE = "benchmarks.dataset_assembly"
_DAYS_AT_ONCE = 252


def write(folder: Path) -> dict:
    """Write a table of features and one of labels, made of noise."""
    import deltalake

    rng = np.random.default_rng(3)
    names = ["volatility_20", *(f"f{k}" for k in range(FEATURES))]
    days = sessions_until(SESSIONS)
    labels = []
    for begin in range(0, SESSIONS, _DAYS_AT_ONCE):
        keys = _keys(days[begin : begin + _DAYS_AT_ONCE])
        values = rng.standard_normal((keys.height, len(names)), np.float32)
        values[:, 0] = 0.01
        frame = keys.hstack(pl.DataFrame(values, schema=names))
        deltalake.write_deltalake(str(folder / "features"), frame.to_arrow(), mode="append")
        labels.append(
            keys.with_columns(
                label_known_at=pl.col("as_of") + dt.timedelta(days=1),
                forward_return=pl.Series(rng.standard_normal(keys.height) / 100),
                excess_return=pl.Series(rng.standard_normal(keys.height) / 100),
            )
        )
    pl.concat(labels).write_parquet(folder / "labels.parquet")
    return {}


def _keys(days: list[dt.date]) -> pl.DataFrame:
    times = calendar.schedule().select("session", pl.col("session_close").alias("bar_end"))
    symbols = pl.DataFrame({"symbol": symbol_names(SYMBOLS)})
    keys = pl.DataFrame({"session": days}).join(symbols, how="cross").join(times, on="session")
    return keys.select("symbol", "session", "bar_end", pl.col("bar_end").alias("as_of"))


def assemble_it(folder: Path) -> dict:
    """Assemble the dataset; say what it took."""
    from models.dataset import assemble

    labels = pl.read_parquet(folder / "labels.parquet")
    table = pl.scan_delta(str(folder / "features"))
    names = [f"f{k}" for k in range(FEATURES)]
    before, began = peak_bytes(), time.perf_counter()
    data = assemble(table, labels, names, steps=find_horizon("1d").steps)
    spent, peak = time.perf_counter() - began, peak_bytes()
    whole = table.sort("bar_end", "symbol").select("f0", f"f{FEATURES - 1}").collect()
    same = np.array_equal(data.x[:, [0, FEATURES - 1]], whole.to_numpy())
    return {
        "peak": peak - before,
        "matrix": data.x.nbytes,
        "seconds": spent,
        "rows": len(data),
        "same": bool(same),
    }


def main() -> None:
    """Measure it and print the ratio."""
    with tempfile.TemporaryDirectory() as name:
        run_module(MODULE, "write", name)
        took = run_module(MODULE, "assemble", name)
    if not took["same"]:
        raise SystemExit("the matrix is not what the table holds")
    ratio, wanted = took["peak"] / took["matrix"], Wanted()
    print(
        f"{took['rows']:,} rows, {FEATURES} features: matrix {took['matrix'] / 1e9:.2f} GB, peak "
        f"{took['peak'] / 1e9:.2f} GB, {ratio:.2f} of it {wanted.at_most(ratio, MOST)}; "
        f"{took['seconds']:.1f} s"
    )
    wanted.end()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        work = {"write": write, "assemble": assemble_it}[sys.argv[1]]
        print(json.dumps(work(Path(sys.argv[2]))))
    else:
        main()
