"""Kernels across the rows of a moment, also by sector; :mod:`features.kernels` says their form."""

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


@compiled
def group_moments(x: Values, offsets: Offsets, mean: Values, deviation: Values) -> None:
    """Write each group's mean and standard deviation (ddof 1), one per group, without missing."""
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        count, total = 0, 0.0
        for i in range(a, b):
            if x[i] - x[i] == 0.0:
                count += 1
                total += x[i]
        mean[g] = total / count if count else NAN
        square = 0.0
        for i in range(a, b):
            if x[i] - x[i] == 0.0:
                square += (x[i] - mean[g]) ** 2
        deviation[g] = np.sqrt(square / (count - 1)) if count > 1 else NAN


@compiled
def group_ranks(x: Values, offsets: Offsets, out: Values) -> None:
    """Write each value's average rank in its group, from 0 for the lowest to 1; missing is NaN.

    In a group of one there is nothing to rank: NaN. Shell's sort (1959), with gaps of Ciura (2001):
    NumPy's own takes seconds to compile.
    """
    largest = 0
    for g in range(len(offsets) - 1):
        largest = max(largest, offsets[g + 1] - offsets[g])
    value, place = np.empty(largest), np.empty(largest, np.int64)
    for g in range(len(offsets) - 1):
        n = 0
        for i in range(offsets[g], offsets[g + 1]):
            out[i] = NAN
            if x[i] == x[i]:
                value[n] = x[i]
                place[n] = i
                n += 1
        for gap in (1750, 701, 301, 132, 57, 23, 10, 4, 1):
            for i in range(gap, n):
                v, p = value[i], place[i]
                k = i
                while k >= gap and value[k - gap] > v:
                    value[k] = value[k - gap]
                    place[k] = place[k - gap]
                    k -= gap
                value[k] = v
                place[k] = p
        k = 0
        while k < n and n > 1:
            last = k
            while last + 1 < n and value[last + 1] == value[k]:
                last += 1
            for m in range(k, last + 1):
                out[place[m]] = 0.5 * (k + last) / (n - 1)
            k = last + 1
