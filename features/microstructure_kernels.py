"""Kernels of microstructure features; see :mod:`features.kernels` for their form."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from features.kernels import NAN, Offsets, Values, compiled

BUCKETS = 390
"""Minutes of a full session."""

_CURVE = 5
CURVE_WIDTH = _CURVE + 2 * BUCKETS
"""Of the state: session, its volume so far, last minute and length; how many sessions there were
before it; per minute a count and a mean."""


@compiled
def buyers_excess(move: Values, out: Values) -> None:
    """Write 2 Phi(move) - 1: the share of volume taken for buying less that for selling."""
    for i in range(len(out)):
        out[i] = math.erf(move[i] * 0.7071067811865476)


@compiled
def count_minutes(state: Values, until: int, sessions: float) -> None:
    """Let the session's volume so far count at the minutes after its last one, before ``until``."""
    for minute in range(int(state[2]) + 1, until):
        k = _CURVE + 2 * minute
        state[k] = min(state[k] + 1.0, sessions)
        state[k + 1] += (state[1] - state[k + 1]) / state[k]
    state[2] = max(state[2], until - 1.0)


@compiled
def volume_curve(
    volume: Values,
    minute: Values,
    day: Values,
    length: Values,
    offsets: Offsets,
    start: Offsets,
    sessions: float,
    seed_sessions: float,
    before: npt.NDArray[np.float64],
    snapshot: Offsets,
    after: npt.NDArray[np.float64],
    out: Values,
) -> None:
    """Write the session's volume so far over its mean at that minute of sessions before, less 1.

    The mean is a plain one over the first ``sessions`` of a minute, and after that each new one
    counts 1 / ``sessions``. A minute without a bar has the volume of the bar before it, up to the
    ``length`` of the session in minutes: a half-day does not count in the afternoon.
    """
    state = np.zeros(before.shape[1])
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        state[:] = before[g]
        for i in range(a, min(start[g], b)):
            out[i] = NAN
        if snapshot[g] < start[g]:
            after[g] = state
        for i in range(max(a, start[g]), b):
            out[i] = NAN
            place = minute[i]
            if place >= 0 and place < min(length[i], BUCKETS) and volume[i] - volume[i] == 0.0:
                if state[0] != day[i]:
                    if state[0] != 0:
                        count_minutes(state, int(state[3]), sessions)
                        state[4] += 1.0
                    state[0] = day[i]
                    state[1] = 0.0
                    state[2] = -1.0
                    state[3] = min(length[i], float(BUCKETS))
                m = int(place)
                count_minutes(state, m, sessions)
                state[1] += volume[i]
                mean = state[_CURVE + 1 + 2 * m]
                if state[4] >= seed_sessions and mean > 0:
                    out[i] = state[1] / mean - 1.0
                count_minutes(state, m + 1, sessions)
            if i == snapshot[g]:
                after[g] = state
