"""What a foreign indicator does, found by experiment on generated bars.

Nothing that an indicator says about itself is believed: whether it looks ahead, which unit its
values have, how many bars it needs and how long it remembers all come from running it on the
same bars, cut, scaled and started later.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.spec import Memory
from market.errors import FeatureError

Values = npt.NDArray[np.float64]
Run = Callable[[pd.DataFrame], pd.DataFrame]

_BARS = 780
_PER_SESSION = 13
_PRICES = ["open", "high", "low", "close"]
# Later starts: on a session's first bar, in its middle, and far in.
_STARTS = (1, 6, 13, 29, 61, 97, 130, 211)
_FIRST_CUT, _CUT_EVERY = 40, 17
_RELATIVE = 1e-6
_POWERS = (0, 1, -1, 2, -2)


@dataclass(frozen=True)
class Foresight:
    """An output that changes when later bars become known.

    Attributes
    ----------
    bar : int
        The first bar (from 0) whose value changed.
    until : int
        The last bar that was known when it had another value.
    """

    bar: int
    until: int


@dataclass(frozen=True)
class Behaviour:
    """What was found about one output.

    Attributes
    ----------
    foresight : Foresight or None
        Where it looked ahead.
    price_power, volume_power : int or None
        How it scales: 1 is a price (a volume), 0 free of scale; None when it follows no power.
    lookback : int
        First bar with a value, counted from 1; 0 when there was none, or the same at all bars,
        which shows nothing.
    memory : Memory
        Whether it depends on its lookback only, on a fading past, or on the first bar for ever.
    """

    foresight: Foresight | None
    price_power: int | None
    volume_power: int | None
    lookback: int
    memory: Memory


@lru_cache(maxsize=1)
def trial_bars() -> pd.DataFrame:
    """Return the generated bars: half hours of sixty sessions, the same each time."""
    rng = np.random.default_rng(20240102)
    close = 50.0 * np.exp(np.cumsum(rng.normal(0.0, 0.008, _BARS)))
    opened = np.append(close[0], close[:-1]) * np.exp(rng.normal(0.0, 0.002, _BARS))
    high = np.maximum(opened, close) * (1.0 + np.abs(rng.normal(0.0, 0.003, _BARS)))
    low = np.minimum(opened, close) * (1.0 - np.abs(rng.normal(0.0, 0.003, _BARS)))
    session, within = np.divmod(np.arange(_BARS), _PER_SESSION)
    week, weekday = np.divmod(session, 5)
    minutes = (week * 7 + weekday) * 1440 + 14 * 60 + 30 + within * 30
    index = np.datetime64("2024-01-01T00:00", "us") + minutes.astype("timedelta64[m]")
    return pd.DataFrame(
        {
            **{"open": opened, "high": high, "low": low, "close": close},
            "volume": np.floor(rng.lognormal(10.0, 0.7, _BARS)),
        },
        index=pd.DatetimeIndex(index),
    )


def examine(run: Run) -> dict[str, Behaviour]:
    """Find out what each output of an indicator does.

    Parameters
    ----------
    run : callable
        From bars (a data frame of open, high, low, close, volume) to a frame of outputs with the
        same index.

    Returns
    -------
    dict
        Name of each output to its behaviour.
    """
    bars = trial_bars()
    whole = run(bars)
    needed = _rows_needed(run, [str(c) for c in whole.columns])
    cuts = {k: run(bars.iloc[: k + 1]) for k in _cuts() if k + 1 >= min(needed.values(), default=0)}
    dearer = run(bars.assign(**{c: bars[c] * 2.0 for c in _PRICES}))
    busier = run(bars.assign(volume=bars["volume"] * 2.0))
    later = {s: run(bars.iloc[s:]) for s in _STARTS}
    out: dict[str, Behaviour] = {}
    for name in whole.columns:
        values = column(whole, name).copy()
        least = needed[str(name)]
        # Below its least number of rows there is no output at all: no value is read there.
        values[: least - 1] = np.nan
        parts = {s: column(f, name) for s, f in later.items()}
        lookback, memory = _reach(values, parts, least)
        out[str(name)] = Behaviour(
            _foresight(values, {k: column(f, name) for k, f in cuts.items()}, least),
            _power(values, column(dearer, name)),
            _power(values, column(busier, name)),
            lookback,
            memory,
        )
    return out


def column(frame: pd.DataFrame, name: str) -> Values:
    """Return an output as float64, all missing where the frame lacks it."""
    if name not in frame.columns:
        return np.full(len(frame), np.nan)
    if not pd.api.types.is_numeric_dtype(frame[name]):
        raise FeatureError(
            f"the output {name} of an indicator is not a number",
            got=frame[name].dtype,
            allowed="numbers and truth values",
            remedy="leave the indicator out",
        )
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _cuts() -> list[int]:
    return [*range(_FIRST_CUT, _BARS - 3, _CUT_EVERY), _BARS - 3, _BARS - 2]


def _rows_needed(run: Run, names: list[str]) -> dict[str, int]:
    """Return how many rows an indicator wants before it has an output at all."""
    bars = trial_bars()

    @cache
    def outputs(rows: int) -> frozenset[str]:
        try:
            return frozenset(map(str, run(bars.iloc[:rows]).columns))
        except FeatureError:
            return frozenset()

    return {
        name: 1 + bisect_left(range(1, _BARS), True, key=lambda rows: name in outputs(rows))
        for name in names
    }


def _foresight(whole: Values, cuts: dict[int, Values], least: int) -> Foresight | None:
    """Return the earliest bar that a later one changed, in any bit."""
    found: Foresight | None = None
    for until, seen in cuts.items():
        if until + 1 < least:
            continue
        known = whole[: until + 1]
        changed = (seen != known) & ~(np.isnan(seen) & np.isnan(known))
        changed[: least - 1] = False
        if changed.any():
            bar = int(np.argmax(changed))
            if found is None or bar < found.bar:
                found = Foresight(bar, until)
    return found


def _power(values: Values, scaled: Values) -> int | None:
    """Return the power of two by which doubling the input multiplied the output."""
    scaled = np.where(np.isnan(values), np.nan, scaled)
    both = np.isfinite(values)
    if not (both == np.isfinite(scaled)).all():
        return None
    for power in _POWERS:
        wanted = values[both] * 2.0**power
        if np.allclose(scaled[both], wanted, rtol=1e-9, atol=1e-9 * _size(wanted)):
            return power
    return None


def _size(values: Values) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(np.median(finite)) if len(finite) else 0.0


def _reach(whole: Values, later: dict[int, Values], least: int) -> tuple[int, Memory]:
    """Return the lookback, and how long a missing beginning is felt."""
    firsts = [int(np.argmax(np.isfinite(v))) + 1 for v in (whole, *later.values()) if any_of(v)]
    finite = whole[np.isfinite(whole)]
    lookback = max(min(firsts), least) if firsts and np.ptp(finite) > 0 else 0
    tolerance = _RELATIVE * _size(whole)
    memory = Memory.WINDOW
    for start, values in later.items():
        same = _same(values, whole[start:], tolerance)
        if not same[-_PER_SESSION * 5 :].all():
            return lookback, Memory.CUMULATIVE
        if not same[max(lookback - 1, 0) :].all():
            memory = Memory.DECAYING
    return lookback, memory


def any_of(values: Values) -> bool:
    """Return whether there is any value."""
    return bool(np.isfinite(values).any())


def _same(got: Values, wanted: Values, tolerance: float) -> npt.NDArray[np.bool_]:
    both_missing = ~np.isfinite(got) & ~np.isfinite(wanted)
    return both_missing | np.isclose(got, wanted, rtol=_RELATIVE, atol=tolerance)
