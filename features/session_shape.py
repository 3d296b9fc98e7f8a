"""The session so far: from its open, against its vwap, its first half hour, its usual volume."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from features import kernels
from features import microstructure_kernels as own_kernels
from features.core import typical_price
from features.kernels import Values
from features.panel import Integers, Panel, empty, ratio, shared
from features.session_clock import minutes_after_open, minutes_in_session
from features.spec import Feature, Memory, Scope, Stage

FAMILY = "microstructure"
OPENING_MINUTES = 30
CURVE_SESSIONS = 20
SEED_SESSIONS = 5


@shared
def _row_of_open(p: Panel) -> Integers:
    """Return for each row the row with which its session begins."""
    starts = p.session_offsets
    return np.repeat(starts[:-1], np.diff(starts))


def _since_open(p: Panel, values: Values) -> Values:
    """Return the sum since the open; a missing value adds nothing."""
    sessions = p.session_offsets
    out = empty(p.rows)
    nothing = np.zeros((len(sessions) - 1, 1))
    kernels.running_sum(
        values, sessions, sessions[:-1], nothing, sessions[1:] - 1, nothing.copy(), out
    )
    return out


def _session_return(p: Panel) -> Values:
    return ratio(p["close"], p["open"][_row_of_open(p)]) - 1.0


def _session_gap(p: Panel) -> Values:
    first = _row_of_open(p)
    return ratio(p["open"][first], p.lag(p["close"], 1)[first]) - 1.0


def _vwap_distance(p: Panel) -> Values:
    money = typical_price(p) * p["volume"]
    # Of a bar without a price the volume does not count either.
    volume = np.where(np.isfinite(money), p["volume"], np.nan)
    vwap = ratio(_since_open(p, money), _since_open(p, volume))
    return ratio(p["close"], vwap) - 1.0


@shared
def _opening_range(p: Panel) -> tuple[Values, Values]:
    """Return low and high of the first half hour, from its end on; NaN before."""
    ended = minutes_after_open(p, "bar_end")
    inside = ended <= OPENING_MINUTES
    starts = p.session_offsets
    sizes = np.diff(starts)

    def over_session(values: Values, nothing: float, extreme: np.ufunc) -> Values:
        counted = np.where(inside & np.isfinite(values), values, nothing)
        found = extreme.reduceat(counted, starts[:-1]) if len(sizes) else counted
        known = np.isfinite(np.repeat(found, sizes)) & (ended >= OPENING_MINUTES)
        return np.where(known, np.repeat(found, sizes), np.nan)

    return (
        over_session(p["low"], np.inf, np.minimum),
        over_session(p["high"], -np.inf, np.maximum),
    )


def _opening_position(p: Panel) -> Values:
    low, high = _opening_range(p)
    return ratio(p["close"] - low, high - low)


def _opening_breakout(p: Panel) -> Values:
    low, high = _opening_range(p)
    beyond = np.maximum(p["close"] - high, 0.0) + np.minimum(p["close"] - low, 0.0)
    return ratio(beyond, high - low)


def _opening_size(p: Panel) -> Values:
    low, high = _opening_range(p)
    return ratio(high, low) - 1.0


def _volume_curve(p: Panel) -> Values:
    return p.recursive(
        "volume_curve",
        own_kernels.CURVE_WIDTH,
        own_kernels.volume_curve,
        p["volume"],
        minutes_after_open(p, "bar_start"),
        p["session"].astype(np.float64),
        minutes_in_session(p),
        arguments=(float(CURVE_SESSIONS), float(SEED_SESSIONS)),
    )


def _of_session(
    name: str,
    compute: Callable[[Panel], Values],
    inputs: tuple[str, ...],
    lookback: int,
    meaning: str,
    source: str,
    memory: Memory = Memory.SESSION,
    *,
    sessions: int = 1,
    minutes: int = 0,
) -> Feature:
    return Feature(
        name,
        compute,
        (*inputs, "session"),
        lookback,
        Stage.TIME_SERIES,
        meaning,
        source,
        family=FAMILY,
        memory=memory,
        scope=Scope.INTRADAY,
        lookback_sessions=sessions,
        session_minutes=minutes,
    )


_BREAKOUT = "Crabel (1990); Zarattini and Aziz (2023), opening range"

FEATURES: tuple[Feature, ...] = (
    _of_session(
        "session_return",
        _session_return,
        ("close", "open"),
        1,
        "Return since the session's open",
        "Lou, Polk and Skouras (2019), intraday component",
    ),
    _of_session(
        "session_gap",
        _session_gap,
        ("close", "open"),
        2,
        "Return from the last close of the session before to the session's open",
        "Lou, Polk and Skouras (2019), overnight component",
        sessions=2,
    ),
    _of_session(
        "session_vwap_distance",
        _vwap_distance,
        ("close", "high", "low", "volume", "vwap"),
        1,
        "Close over the session's vwap so far",
        "Berkowitz, Logue and Noser (1988)",
    ),
    _of_session(
        "opening_range_position",
        _opening_position,
        ("bar_end", "close", "high", "low"),
        1,
        "Where the close lies in the range of the first half hour, 0 to 1 inside it",
        _BREAKOUT,
        minutes=OPENING_MINUTES,
    ),
    _of_session(
        "opening_range_breakout",
        _opening_breakout,
        ("bar_end", "close", "high", "low"),
        1,
        "How far the close is beyond the range of the first half hour, in units of it",
        _BREAKOUT,
        minutes=OPENING_MINUTES,
    ),
    _of_session(
        "opening_range_size",
        _opening_size,
        ("bar_end", "high", "low"),
        1,
        "High over low of the first half hour",
        _BREAKOUT,
        minutes=OPENING_MINUTES,
    ),
    _of_session(
        "volume_curve_deviation",
        _volume_curve,
        ("bar_start", "volume"),
        SEED_SESSIONS + 1,
        "Volume of the session so far over its mean by then in some 20 sessions before, less 1",
        "Jain and Joh (1988), the daily pattern of volume",
        memory=Memory.DECAYING,
        sessions=SEED_SESSIONS + 1,
    ),
)
