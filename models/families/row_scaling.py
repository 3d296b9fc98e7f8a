"""Rows of a matrix scaled for a network in one pass.

What :meth:`models.families.networks.WindowNetwork.scale` does, to the bit, in a quarter of the time
of its eight passes: panels are far larger than a processor's caches.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from models.spec import Indices, Matrix


@njit(cache=True, nogil=True, error_model="numpy")
def scale_rows(
    x: Matrix, rows: Indices, center: Matrix, inverse: Matrix, clip: np.float32, out: Matrix
) -> None:
    """Write some rows of (m, k) into the first of (n, k + 1): scaled, clipped, and the share known.

    A missing value becomes zero. Features with an ``inverse`` of zero count for no share.
    """
    features = x.shape[1]
    told = np.float32(0.0)
    for j in range(features):
        told += np.float32(inverse[j] > 0)
    for i in range(len(rows)):
        raw, scaled = x[rows[i]], out[i]
        known = np.float32(0.0)
        for j in range(features):
            known += np.float32(inverse[j] > 0 and raw[j] == raw[j])
        for j in range(features):
            value = (raw[j] - center[j]) * inverse[j]
            value = min(max(value, -clip), clip) if value == value else np.float32(0.0)
            scaled[j] = value
        scaled[features] = known / max(told, np.float32(1.0))
