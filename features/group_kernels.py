"""Kernels across the rows of a moment, by sector; see :mod:`features.kernels` for their form."""

from __future__ import annotations

import numpy as np

from features.kernels import NAN, Offsets, Values, compiled


@compiled
def sector_moments(
    x: Values, sector: Offsets, offsets: Offsets, mean: Values, deviation: Values
) -> None:
    """Write, per row, mean and standard deviation (ddof 1) of its sector in its group.

    NaN where the sector is unknown (negative), or the symbol is the only one of it with a value.
    """
    sectors = 0
    for i in range(len(sector)):
        sectors = max(sectors, sector[i] + 1)
    count, total, square = np.zeros(sectors), np.zeros(sectors), np.zeros(sectors)
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        count[:] = total[:] = square[:] = 0.0
        for i in range(a, b):
            if sector[i] >= 0 and x[i] - x[i] == 0.0:
                count[sector[i]] += 1.0
                total[sector[i]] += x[i]
        for i in range(a, b):
            if sector[i] >= 0 and x[i] - x[i] == 0.0:
                square[sector[i]] += (x[i] - total[sector[i]] / count[sector[i]]) ** 2
        for i in range(a, b):
            s = sector[i]
            alone = s < 0 or count[s] < 2.0
            mean[i] = NAN if alone else total[s] / count[s]
            deviation[i] = NAN if alone else np.sqrt(square[s] / (count[s] - 1.0))
