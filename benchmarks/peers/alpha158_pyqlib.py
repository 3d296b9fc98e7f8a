"""Alpha158 by pyqlib: run by the Python of ``.venv-peers``, never imported by Isobar.

``dump BARS.parquet FOLDER`` writes daily bars in qlib's format; ``features FOLDER`` computes the
158 features of all symbols. Each prints one JSON object with what it took.
"""

import argparse
import json
import os
import threading
import time
from pathlib import Path

FIELDS = ("open", "high", "low", "close", "volume", "vwap")


def dump(bars: Path, folder: Path) -> dict:
    """Write calendar, instruments and one little-endian float32 file per symbol and field.

    A file begins with the calendar index of its first value; a session without a bar is NaN.
    """
    import numpy as np
    import pandas as pd

    frame = pd.read_parquet(bars)
    began = time.perf_counter()
    days = np.sort(pd.to_datetime(frame["session"]).unique())
    text = [str(day)[:10] for day in days]
    (folder / "calendars").mkdir(parents=True)
    (folder / "instruments").mkdir()
    (folder / "calendars" / "day.txt").write_text("\n".join(text) + "\n")
    spans = []
    for symbol, rows in frame.groupby("symbol", sort=True):
        at = np.searchsorted(days, pd.to_datetime(rows["session"]).to_numpy())
        first, last = int(at.min()), int(at.max())
        spans.append(f"{symbol}\t{text[first]}\t{text[last]}")
        place = folder / "features" / str(symbol).lower()
        place.mkdir(parents=True)
        for field in FIELDS:
            values = np.full(last - first + 1, np.nan)
            values[at - first] = rows[field].to_numpy()
            np.hstack([first, values]).astype("<f4").tofile(place / f"{field}.day.bin")
    (folder / "instruments" / "all.txt").write_text("\n".join(spans) + "\n")
    return {"dump_seconds": time.perf_counter() - began, "rows": len(frame)}


def features(folder: Path, kernels: int, values: Path | None) -> dict:
    """Compute Alpha158 with cold caches; write the values where asked, after the clock."""
    began = time.perf_counter()
    import numpy
    import pandas
    import qlib
    from qlib.config import REG_US
    from qlib.contrib.data.loader import Alpha158DL
    from qlib.data import D

    qlib.init(
        provider_uri=str(folder),
        region=REG_US,
        kernels=kernels,
        expression_cache=None,
        dataset_cache=None,
        logging_level=30,
    )
    fields, names = Alpha158DL.get_feature_config()
    imported = time.perf_counter()
    with _Sampled() as sampled:
        frame = D.features(D.instruments("all"), fields, freq="day")
    spent = time.perf_counter() - imported
    result = {
        "kernels": kernels,
        "import_seconds": imported - began,
        "features_seconds": spent,
        "rows": len(frame),
        "columns": len(names),
        "peak_bytes": _peak_bytes(),
        "peak_bytes_with_workers": sampled.peak,
        "versions": {m.__name__: m.__version__ for m in (qlib, numpy, pandas)},
    }
    if values is not None:
        _write(frame, names, values)
    return result


def _write(frame, names, values: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = frame.index
    columns = {
        "symbol": pa.array(index.get_level_values("instrument").astype(str)),
        "session": pa.array(index.get_level_values("datetime")).cast(pa.date32()),
    }
    for at, name in enumerate(names):
        # NaN stays NaN: whether a peer gave no number is part of the comparison.
        columns[name] = pa.array(frame.iloc[:, at].to_numpy("float32"), from_pandas=False)
    pq.write_table(pa.table(columns), values, compression="none", use_dictionary=["symbol"])


def _peak_bytes() -> int:
    import resource
    import sys

    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM:"))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _Sampled:
    """Resident memory of this process and its workers together, looked at now and then."""

    peak = 0

    def __enter__(self):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self.peak = max(self.peak, _resident(os.getpid()))


def _resident(process: int) -> int:
    """Resident bytes of a process and its descendants; 0 where /proc does not exist."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        children = [
            child
            for task in Path(f"/proc/{process}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:  # It ended, or this is no Linux.
        return 0
    return pages * os.sysconf("SC_PAGESIZE") + sum(_resident(int(c)) for c in children)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("dump")
    writing.add_argument("bars", type=Path)
    writing.add_argument("folder", type=Path)
    computing = commands.add_parser("features")
    computing.add_argument("folder", type=Path)
    computing.add_argument("--kernels", type=int, default=1)
    computing.add_argument("--values", type=Path)
    given = parser.parse_args()
    if given.command == "dump":
        print(json.dumps(dump(given.bars, given.folder)))
    else:
        print(json.dumps(features(given.folder, given.kernels, given.values)))


if __name__ == "__main__":
    main()
