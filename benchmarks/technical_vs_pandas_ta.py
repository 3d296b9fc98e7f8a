"""Technical indicators on 500 symbols' year of 5-minute bars, against a loop of pandas-ta-classic.

The list of indicators is ``PARITY`` of ``tests/oracles/pandas_ta_reference.py``: a feature's name
and how pandas-ta-classic computes it from one symbol's bars. The peer takes the symbols one after
the other, as its users do; a call that several features share (the three lines of a MACD) is made
once per symbol. It runs on 20 symbols and is scaled to all of them, which is checked by running
10: its time must go with the symbols. Ours computes the same features for all symbols.

pandas-ta-classic calls TA-Lib only where it is installed *and* asked for (``talib=True``); where
it is installed, that variant is a row of its own.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.processes import peak_bytes, run_module

SYMBOLS, SESSIONS, MINUTES = 500, 252, 5
MEASURED, HALF = 20, 10
ROUNDS = 3
SETTLED_ROW = 1_000  # Recursive averages that begin differently agree from here on.
RELATIVE, ABSOLUTE = 1e-4, 1e-5
MOST_NONLINEAR = 0.2
MODULE = "benchmarks.technical_vs_pandas_ta"
PRICES = ["open", "high", "low", "close", "volume"]


def measure() -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        bars, values = Path(name) / "bars.parquet", Path(name) / "ours.parquet"
        run_module(MODULE, "write", str(bars))
        ours = run_module(MODULE, "ours", str(bars), str(values))
        agreed = run_module(MODULE, "agree", str(bars), str(values))
        cold = [run_module(MODULE, "ours", str(bars)) for _ in range(ROUNDS)]
        again = run_module(MODULE, "again", str(bars))
        peers = {False: run_module(MODULE, "peer", str(bars), "native")}
        if find_spec("talib"):
            peers[True] = run_module(MODULE, "peer", str(bars), "talib")
    return [*agreed["lines"], *_report(peers, [ours, *cold], again)]


def _report(peers: dict[bool, dict], cold: list[dict], again: dict) -> list[str]:
    new = statistics.median(c["process_seconds"] for c in cold[1:])
    warm = statistics.median(again["seconds"])
    peak = max(c["peak_bytes"] for c in cold)
    lines = [
        f"{SYMBOLS} symbols, {SESSIONS} sessions of {MINUTES}-minute bars, "
        f"{cold[0]['rows']:,} rows, {cold[0]['columns']} features",
        f"ours, a new process          {new:9.2f} s   (interpreter, imports, reading)",
        f"ours, again in one process   {warm:9.2f} s   (reading); peak {peak / 1e9:.2f} GB",
    ]
    for talib, peer in peers.items():
        scaled = peer["seconds"] * SYMBOLS / MEASURED
        what = "with TA-Lib" if talib else "without TA-Lib"
        lines += [
            f"pandas-ta-classic, {what}: {peer['seconds']:.2f} s for {MEASURED} symbols, "
            f"scaled to {SYMBOLS}: {scaled:,.0f} s",
            f"  {HALF} symbols took {peer['half_seconds'] / peer['seconds']:.2f} of it "
            f"(linear: {HALF / MEASURED:.2f})",
            f"  ratio to a new process {scaled / new:7.1f}, to again {scaled / warm:7.1f}",
        ]
        if abs(peer["half_seconds"] / peer["seconds"] * MEASURED / HALF - 1) > MOST_NONLINEAR:
            lines.append("  not linear: the machine was busy, or scaling is not fair; run again")
    if True not in peers:
        lines.append("TA-Lib is not installed here: the peer's variant with it was not measured")
    return lines


# ------------------------------------------------------------------ the peer


def _peer(bars: Path, talib: bool) -> dict[str, Any]:
    frames = list(_frames(bars, MEASURED))
    calls = _parity()
    _loop(frames[:1], calls, talib)  # Its lazy imports, and numba's compilation.
    half = min(_loop(frames[:HALF], calls, talib) for _ in range(2))
    return {"half_seconds": half, "seconds": min(_loop(frames, calls, talib) for _ in range(2))}


def _loop(frames: list[Any], calls: dict[str, Callable[[Any], Any]], talib: bool) -> float:
    began = time.perf_counter()
    for frame in frames:
        with _each_call_once(talib):
            for call in calls.values():
                call(frame)
    return time.perf_counter() - began


@contextmanager
def _each_call_once(talib: bool) -> Iterator[None]:
    """Let pandas-ta-classic's functions remember their results, for one symbol's bars."""
    import pandas_ta_classic as ta

    names = [name for group in ta.Category.values() for name in group]
    plain = {name: getattr(ta, name) for name in names if hasattr(ta, name)}
    made: dict[Any, tuple[Any, Any]] = {}
    for name, function in plain.items():
        setattr(ta, name, _remembering(name, function, made, talib))
    try:
        yield
    finally:
        for name, function in plain.items():
            setattr(ta, name, function)


def _remembering(
    name: str, function: Callable[..., Any], made: dict[Any, tuple[Any, Any]], talib: bool
) -> Callable[..., Any]:
    more = {"talib": True} if talib and "talib" in signature(function).parameters else {}

    def call(*args: Any, **kwargs: Any) -> Any:
        key = (name, *map(_identity, args), *((k, _identity(v)) for k, v in kwargs.items()))
        if key not in made:
            # The arguments stay alive with the result, so that no other series gets their memory.
            made[key] = (function(*args, **(more | kwargs)), (args, kwargs))
        return made[key][0]

    return call


def _identity(value: Any) -> Any:
    if hasattr(value, "to_numpy"):
        return value.to_numpy().__array_interface__["data"][0], len(value)
    return value


def _frames(bars: Path, symbols: int) -> Iterator[Any]:
    """Yield the first symbols' bars as pandas-ta-classic takes them."""
    wanted = pl.scan_parquet(bars).select(pl.col("symbol").unique().sort()).collect()["symbol"]
    for symbol in wanted[:symbols]:
        rows = pl.scan_parquet(bars).filter(pl.col("symbol") == symbol).sort("bar_end").collect()
        frame = rows.select("bar_start", *PRICES).to_pandas().set_index("bar_start")
        yield frame.astype(np.float64)


def _parity() -> dict[str, Callable[[Any], Any]]:
    from tests.oracles.pandas_ta_reference import PARITY

    return PARITY


# ------------------------------------------------------------------ ours


def _names(bars: Path) -> Path:
    """Where the features are listed, so that our process need not import the peer for that."""
    return bars.with_name("features.json")


def _compute(bars: Path) -> pl.DataFrame:
    from features.compute import compute_features
    from features.registry import select_features

    names = json.loads(_names(bars).read_text())
    return compute_features(pl.read_parquet(bars), select_features(names))


def _ours(bars: Path, values: Path | None = None) -> dict[str, Any]:
    frame = _compute(bars)
    taken = {"rows": frame.height, "columns": frame.width - 4, "peak_bytes": peak_bytes()}
    if values is not None:
        # Sorted by symbol: the ones that the peer computed are all that is compared.
        some = frame["symbol"].unique().sort()[:MEASURED]
        frame.filter(pl.col("symbol").is_in(some.implode())).write_parquet(values)
    return taken


def _again(bars: Path) -> dict[str, Any]:
    _compute(bars)
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        frame = _compute(bars)
        taken.append(time.perf_counter() - began)
        del frame
    return {"seconds": taken}


def _agree(bars: Path, values: Path) -> dict[str, Any]:
    """Compare values symbol by symbol; raise ``SystemExit`` where a feature disagrees."""
    ours = pl.read_parquet(values).partition_by("symbol", maintain_order=True)
    worst = dict.fromkeys(_parity(), 0.0)
    faults: list[str] = []
    cells = 0
    for mine, frame in zip(ours, _frames(bars, MEASURED), strict=True):
        for name, call in _parity().items():
            theirs = call(frame).to_numpy(np.float64)[SETTLED_ROW:]
            own = mine[name].to_numpy().astype(np.float64)[SETTLED_ROW:]
            have, had = np.isfinite(own), np.isfinite(theirs)
            both = have & had
            off = np.abs(own - theirs)[both] / (ABSOLUTE + RELATIVE * np.abs(theirs[both]))
            most = float(off.max(initial=0.0))
            worst[name] = max(worst[name], most)
            cells += int(both.sum())
            if most > 1.0 or (have != had).any():
                faults.append(
                    f"{name} of {mine['symbol'][0]}: {most:.1f} times the tolerance, "
                    f"{int((had & ~have).sum())} missing, {int((have & ~had).sum())} extra"
                )
    if faults:
        raise SystemExit("\n".join([*faults, "the two disagree: nothing to compare"]))
    least = max(worst, key=lambda n: worst[n])
    return {
        "lines": [
            f"{cells:,} cells of {MEASURED} symbols agree within {RELATIVE:g} + {ABSOLUTE:g}, from "
            f"row {SETTLED_ROW:,} on; {least} the least ({worst[least]:.0%} of that)"
        ]
    }


def _child(what: str, bars: str, *more: str) -> dict[str, Any]:
    path = Path(bars)
    if what == "write":
        from benchmarks.feature_bars import intraday_bars

        intraday_bars(SYMBOLS, SESSIONS, MINUTES).write_parquet(path)
        _names(path).write_text(json.dumps(list(_parity())))
        return {}
    if what == "peer":
        return _peer(path, talib=more == ("talib",))
    if what == "agree":
        return _agree(path, Path(more[0]))
    return _again(path) if what == "again" else _ours(path, *map(Path, more))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_child(*sys.argv[1:])))
    else:
        print("\n".join(measure()))
