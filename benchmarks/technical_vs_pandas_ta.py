"""Technical indicators on 500 symbols' year of 5-minute bars, against a loop of pandas-ta-classic.

The list of indicators is ``PARITY`` of ``tests/oracles/pandas_ta_reference.py``: a feature's name
and how it follows from one symbol's bars. All of it is compared; of it, the features that
pandas-ta-classic's own functions give are timed, on both sides. The peer takes the symbols one
after the other, as its users do. Only the time inside its functions counts, not the conversion to
our units, and a call that several features share (the three lines of a MACD) is made once per
symbol. It runs on 20 symbols and is scaled to all of them, which is checked by running 10: its
time must go with the symbols. Ours computes the same features for all symbols.

pandas-ta-classic calls TA-Lib only where it is installed *and* asked for (``talib=True``); where
it is installed, that variant is a row of its own.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.feature_bars import intraday_bars, symbol_names
from benchmarks.processes import peak_bytes, run_module
from benchmarks.wanted import Wanted

SYMBOLS, SESSIONS, MINUTES = 500, 252, 5
MEASURED, HALF = 20, 10
ROUNDS = 3
SETTLED_ROW = 1_000  # Recursive averages that begin differently agree from here on.
RELATIVE, ABSOLUTE = 1e-6, 1e-7
MOST_NONLINEAR = 0.2
LEAST_TIMES = 10
MODULE = "benchmarks.technical_vs_pandas_ta"
PRICES = ["open", "high", "low", "close", "volume"]


def measure(wanted: Wanted) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        bars = Path(name) / "bars.parquet"
        run_module(MODULE, "write", str(bars))
        agreed = run_module(MODULE, "agree", str(bars))
        cold = [run_module(MODULE, "ours", str(bars)) for _ in range(ROUNDS)]
        again = run_module(MODULE, "again", str(bars))
        peers = {False: run_module(MODULE, "peer", str(bars), "native")}
        if find_spec("talib"):
            peers[True] = run_module(MODULE, "peer", str(bars), "talib")
    return [*agreed["lines"], *_report(peers, cold, again, wanted)]


def _report(peers: dict[bool, dict], cold: list[dict], again: dict, wanted: Wanted) -> list[str]:
    new = statistics.median(c["process_seconds"] for c in cold)
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
        # With TA-Lib's C it is another peer, of which nothing was promised.
        told = "" if talib else wanted.at_least(scaled / new, LEAST_TIMES)
        lines += [
            f"pandas-ta-classic, {what}, one core: {peer['seconds']:.2f} s for {MEASURED} symbols, "
            f"scaled to {SYMBOLS}: {scaled:,.0f} s",
            f"  {HALF} symbols took {peer['half_seconds'] / peer['seconds']:.2f} of it "
            f"(linear: {HALF / MEASURED:.2f})",
            f"  ratio to a new process {scaled / new:7.1f} {told}, to again {scaled / warm:7.1f}",
        ]
        if abs(peer["half_seconds"] / peer["seconds"] * MEASURED / HALF - 1) > MOST_NONLINEAR:
            lines.append("  not linear: the machine was busy, or scaling is not fair; run again")
    if True not in peers:
        lines.append("TA-Lib is not installed here: the peer's variant with it was not measured")
    return lines


# ------------------------------------------------------------------ the peer


class _Timed:
    """pandas-ta-classic's functions, with the time inside them, and each call made once.

    Use as a context: inside it the package's functions are replaced by these.
    """

    def __init__(self, talib: bool = False) -> None:
        self.talib = talib
        self.seconds = 0.0
        self.calls = 0
        self._made: dict[Any, tuple[Any, Any]] = {}
        self._depth = 0

    def __enter__(self) -> "_Timed":
        import pandas_ta_classic as ta

        names = {name for group in ta.Category.values() for name in group}
        self._plain = {name: getattr(ta, name) for name in names if hasattr(ta, name)}
        for name, function in self._plain.items():
            setattr(ta, name, self._replacing(name, function))
        return self

    def __exit__(self, *_: object) -> None:
        import pandas_ta_classic as ta

        for name, function in self._plain.items():
            setattr(ta, name, function)

    def forget(self) -> None:
        """Begin the next symbol."""
        self._made.clear()

    def _replacing(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        able = self.talib and "talib" in signature(function).parameters
        more = {"talib": True} if able else {}

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            key = (name, *map(_identity, args), *((k, _identity(v)) for k, v in kwargs.items()))
            if key not in self._made:
                began, self._depth = time.perf_counter(), self._depth + 1
                found = function(*args, **(kwargs | more))
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - began
                # The arguments stay alive beside it, so that no other series gets their memory.
                self._made[key] = (found, (args, kwargs))
            return self._made[key][0]

        return call


def _identity(value: Any) -> Any:
    if hasattr(value, "to_numpy"):
        return value.to_numpy().__array_interface__["data"][0], len(value)
    return repr(value)


def _peer(bars: Path, talib: bool) -> dict[str, Any]:
    frames = list(_frames(bars, MEASURED))
    _loop(bars, frames[:1], talib)  # Its lazy imports, and numba's compilation.
    half = min(_loop(bars, frames[:HALF], talib) for _ in range(ROUNDS))
    return {"half_seconds": half, "seconds": min(_loop(bars, frames, talib) for _ in range(ROUNDS))}


def _loop(bars: Path, frames: list[Any], talib: bool) -> float:
    parity = _parity()
    calls = [parity[name] for name in json.loads(_names(bars).read_text())]
    with _Timed(talib) as timed:
        for frame in frames:
            for call in calls:
                call(frame)
            timed.forget()
    return timed.seconds


def _given_by_peer(frame: Any) -> list[str]:
    """Return the features whose reference calls a function of pandas-ta-classic."""
    found = []
    with _Timed() as timed:
        for name, call in _parity().items():
            before = timed.calls
            call(frame)
            if timed.calls > before:
                found.append(name)
    return found


def _frames(bars: Path, symbols: int) -> Iterator[Any]:
    """Yield the first symbols' bars as pandas-ta-classic takes them."""
    for symbol in symbol_names(symbols):
        rows = pl.scan_parquet(bars).filter(pl.col("symbol") == symbol).sort("bar_end").collect()
        # Without a time zone: its session vwap groups by days and warns of losing one.
        start = pl.col("bar_start").dt.replace_time_zone(None)
        frame = rows.select(start, *PRICES).to_pandas().set_index("bar_start")
        yield frame.astype(np.float64)


def _parity() -> dict[str, Callable[[Any], Any]]:
    from tests.oracles.pandas_ta_reference import PARITY

    return PARITY


# ------------------------------------------------------------------ ours


def _names(bars: Path) -> Path:
    """Where the timed features are listed: our process need not import the peer for that."""
    return bars.with_name("features.json")


def _compute(bars: Path, names: list[str], symbols: int = SYMBOLS) -> pl.DataFrame:
    from features.compute import compute_features
    from features.registry import select_features

    table = pl.read_parquet(bars)
    if symbols < SYMBOLS:
        table = table.filter(pl.col("symbol").is_in(symbol_names(symbols)))
    return compute_features(table, select_features(names))


def _ours(bars: Path) -> dict[str, Any]:
    frame = _compute(bars, json.loads(_names(bars).read_text()))
    return {"rows": frame.height, "columns": frame.width - 4, "peak_bytes": peak_bytes()}


def _again(bars: Path) -> dict[str, Any]:
    names = json.loads(_names(bars).read_text())
    _compute(bars, names)
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        frame = _compute(bars, names)
        taken.append(time.perf_counter() - began)
        del frame
    return {"seconds": taken}


def _agree(bars: Path) -> dict[str, Any]:
    """Compare values symbol by symbol; raise ``SystemExit`` where a feature disagrees."""
    ours = _compute(bars, list(_parity()), MEASURED).partition_by("symbol", maintain_order=True)
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
            f"{cells:,} cells of {len(worst)} features agree within {RELATIVE:g} + {ABSOLUTE:g}, "
            f"from row {SETTLED_ROW:,} on; {least} the least ({worst[least]:.2%} of that)"
        ]
    }


def _child(what: str, bars: str, *more: str) -> dict[str, Any]:
    path = Path(bars)
    if what == "write":
        intraday_bars(SYMBOLS, SESSIONS, MINUTES).write_parquet(path)
        _names(path).write_text(json.dumps(_given_by_peer(next(_frames(path, 1)))))
        return {}
    if what == "peer":
        return _peer(path, talib=more == ("talib",))
    if what == "agree":
        return _agree(path)
    return _again(path) if what == "again" else _ours(path)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_child(*sys.argv[1:])))
    else:
        wanted = Wanted()
        print("\n".join(measure(wanted)))
        wanted.end()
