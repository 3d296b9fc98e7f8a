"""Kernels of microstructure features; see :mod:`features.kernels` for their form."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from features.kernels import NAN, Offsets, Values, compiled

BUCKETS = 390
"""Minutes of a full session."""

CURVE_WIDTH = 3 + 2 * BUCKETS
"""Of the state: session, its volume so far and last minute; per minute a count and a mean."""


@compiled
def buyers_excess(move: Values, out: Values) -> None:
    """Write 2 Phi(move) - 1: the share of volume taken for buying less that for selling."""
    for i in range(len(out)):
        out[i] = math.erf(move[i] * 0.7071067811865476)


@compiled
def volume_curve(
    volume: Values,
    minute: Values,
    day: Values,
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
    counts 1 / ``sessions``. A minute without a bar has the volume of the bar before it.
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
            if place >= 0 and place < (len(state) - 3) // 2 and volume[i] - volume[i] == 0.0:
                if state[0] != day[i]:
                    state[0] = day[i]
                    state[1] = 0.0
                    state[2] = -1.0
                m = int(place)
                for missed in range(int(state[2]) + 1, m + 1):
                    if missed == m:
                        state[1] += volume[i]
                        mean = state[4 + 2 * m]
                        if state[3 + 2 * m] >= seed_sessions and mean > 0:
                            out[i] = state[1] / mean - 1.0
                    k = 3 + 2 * missed
                    state[k] = min(state[k] + 1.0, sessions)
                    state[k + 1] += (state[1] - state[k + 1]) / state[k]
                state[2] = max(state[2], float(m))
            if i == snapshot[g]:
                after[g] = state
