"""Write the slices of synthetic bars with pyqlib's values that the parity tests read.

``python -m benchmarks.peers.parity_slice`` in the project's environment, after
``make bench-peers`` has built the peer's: rewrites ``tests/oracles/alpha158_*.parquet``. The same
generator, seeds and versions give the same files.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.feature_bars import PEER_COLUMNS, daily_table
from benchmarks.peers.command import PYTHON
from benchmarks.processes import run
from tests.oracles.alpha158_parity import FULL_ROW, row_numbers

PLACE = Path("tests/oracles")
SCRIPT = "benchmarks/peers/alpha158_pyqlib.py"


def plain() -> pl.DataFrame:
    """Three ordinary symbols."""
    return daily_table(symbols=3, sessions=130, seed=20)


def awkward() -> pl.DataFrame:
    """One symbol for each way in which a window degenerates; rows count from zero."""
    names = ["ZZFLAT", "ZZHALT", "ZZIDLE", "ZZSAME", "ZZSTUCK"]
    table = daily_table(symbols=len(names), sessions=140, seed=21)
    row = row_numbers(table["symbol"])
    symbol = np.repeat(np.array(names), 140)
    values = {c: table[c].to_numpy().copy() for c in PEER_COLUMNS[2:]}

    def hold(rows: np.ndarray, prices: np.ndarray) -> None:
        for name in ("open", "high", "low", "close", "vwap"):
            values[name][rows] = prices

    # Single sessions at one price; then ten of them, at changing prices.
    flat = (symbol == "ZZFLAT") & (np.isin(row, (80, 90, 91)) | ((row >= 110) & (row < 120)))
    hold(flat, values["close"][flat])
    # No trading for 36 sessions: one price, no volume.
    halt = (symbol == "ZZHALT") & (row >= 65) & (row < 101)
    hold(halt, values["close"][halt][:1])
    values["volume"][halt] = 0.0
    # Quotes move, but nothing trades: single sessions, then 26.
    idle = (symbol == "ZZIDLE") & (np.isin(row, (80, 90, 91)) | ((row >= 105) & (row < 131)))
    values["volume"][idle] = 0.0
    # The same volume, then the same price, for 70 sessions.
    same = (symbol == "ZZSAME") & (row >= 62) & (row < 132)
    values["volume"][same] = 1_000_000.0
    stuck = (symbol == "ZZSTUCK") & (row >= 62) & (row < 132)
    hold(stuck, values["close"][stuck][:1])
    return table.with_columns(
        pl.Series("symbol", symbol), *(pl.Series(n, v) for n, v in values.items())
    )


def with_values(bars: pl.DataFrame) -> pl.DataFrame:
    """Return the bars with pyqlib's 158 columns beside them, null before the windows are full."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bars.write_parquet(folder / "bars.parquet")
        run([str(PYTHON), SCRIPT, "dump", str(folder / "bars.parquet"), str(folder / "qlib")])
        out = folder / "values.parquet"
        run([str(PYTHON), SCRIPT, "features", str(folder / "qlib"), "--values", str(out)])
        values = pl.read_parquet(out)
    if not values.select("symbol", "session").equals(bars.select("symbol", "session")):
        raise SystemExit("the peer's rows are not those of the bars")
    full = pl.Series(row_numbers(bars["symbol"]) >= FULL_ROW)
    names = values.columns[2:]
    return bars.hstack(values.select(pl.when(full).then(pl.col(n)).alias(n) for n in names))


def main() -> None:
    if not PYTHON.exists():
        sys.exit(f"{PYTHON} is not there: run `make bench-peers` once, it builds it")
    for name, bars in (("plain", plain()), ("awkward", awkward())):
        path = PLACE / f"alpha158_{name}.parquet"
        with_values(bars).write_parquet(path, compression="zstd", compression_level=19)
        print(f"{path}: {bars.height} bars, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
