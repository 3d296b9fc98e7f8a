"""Kernels over a panel: (values, group offsets, window) in, one value per row out.

A panel is the rows of one group (a symbol) after those of another; ``offsets`` holds where each
group begins, and the number of rows at its end. Kernels run without the interpreter's lock, so
threads compute different groups at the same time, and are compiled once and kept on disk.

Windows are summed in two parts that meet at a *seam*: the rows before it, summed backwards, and
those from it on, summed forwards. Seams lie a window apart, so each sum is made of the window's
own values and of nothing that has left it: no residue of gone history, and a missing value is
forgotten as soon as it is out of the window. Values are taken relative to the one at the seam,
which is in every window of its pair, so that a constant window has a variance of exactly zero.
The idea is that of van Herk (1992) and Gil and Werman (1993) for running extremes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Offsets = npt.NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])

NAN = np.nan


def compiled(function: F) -> F:
    """Compile a kernel on first use: kept on disk, without the interpreter's lock."""
    return cast("F", numba.njit(nogil=True, cache=True, error_model="numpy")(function))


@compiled
def lag(x: Values, offsets: Offsets, bars: int, out: Values) -> None:
    """Write the value ``bars`` rows earlier in the same group."""
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        for i in range(a, min(a + bars, b)):
            out[i] = NAN
        for i in range(a + bars, b):
            out[i] = x[i - bars]


@compiled
def window_moments(x: Values, offsets: Offsets, window: int, total: Values, square: Values) -> None:
    """Write each window's sum, and its sum of squared deviations from the mean."""
    before = np.empty((2, window))
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        for i in range(a, min(a + window - 1, b)):
            total[i] = NAN
            square[i] = NAN
        for seam in range(a, b, window):
            base = x[seam]
            s1 = s2 = 0.0
            if seam > a:
                # before[:, m] holds the last m rows before the seam.
                before[0, 0] = before[1, 0] = 0.0
                for m in range(1, window):
                    d = x[seam - m] - base
                    s1 += d
                    s2 += d * d
                    before[0, m] = s1
                    before[1, m] = s2
            s1 = s2 = 0.0
            for i in range(seam, min(seam + window, b)):
                d = x[i] - base
                s1 += d
                s2 += d * d
                left = window - 1 - (i - seam)
                if i - a >= window - 1:
                    t1, t2 = s1, s2
                    if left > 0:
                        t1 += before[0, left]
                        t2 += before[1, left]
                    total[i] = t1 + base * window
                    square[i] = max(t2 - t1 * t1 / window, 0.0) if t2 == t2 else NAN


@compiled
def window_sum(x: Values, offsets: Offsets, window: int, out: Values) -> None:
    """Write each window's sum."""
    before = np.empty(window)
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        for i in range(a, min(a + window - 1, b)):
            out[i] = NAN
        for seam in range(a, b, window):
            s = 0.0
            before[0] = 0.0
            if seam > a:
                for m in range(1, window):
                    s += x[seam - m]
                    before[m] = s
            s = 0.0
            for i in range(seam, min(seam + window, b)):
                s += x[i]
                if i - a >= window - 1:
                    left = window - 1 - (i - seam)
                    out[i] = s + before[left] if left > 0 else s


@compiled
def window_trend(
    x: Values, offsets: Offsets, window: int, total: Values, square: Values, ramp: Values
) -> None:
    """Write sum, squared deviations, and the sum of deviations times their time.

    ``ramp`` is the sum of (time minus its mean) times x, in bars: divided by the same sum of
    squares of time it is the least-squares slope.
    """
    before = np.empty((3, window))
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        for i in range(a, min(a + window - 1, b)):
            total[i] = square[i] = ramp[i] = NAN
        for seam in range(a, b, window):
            base = x[seam]
            s1 = s2 = s3 = 0.0
            before[0, 0] = before[1, 0] = before[2, 0] = 0.0
            if seam > a:
                for m in range(1, window):
                    d = x[seam - m] - base
                    s1 += d
                    s2 += d * d
                    s3 -= m * d
                    before[0, m] = s1
                    before[1, m] = s2
                    before[2, m] = s3
            s1 = s2 = s3 = 0.0
            for i in range(seam, min(seam + window, b)):
                d = x[i] - base
                s1 += d
                s2 += d * d
                s3 += (i - seam) * d
                if i - a >= window - 1:
                    left = window - 1 - (i - seam)
                    t1, t2, t3 = s1, s2, s3
                    if left > 0:
                        t1 += before[0, left]
                        t2 += before[1, left]
                        t3 += before[2, left]
                    total[i] = t1 + base * window
                    square[i] = max(t2 - t1 * t1 / window, 0.0) if t2 == t2 else NAN
                    ramp[i] = t3 - ((i - seam) - 0.5 * (window - 1)) * t1


@compiled
def window_products(
    x: Values,
    y: Values,
    offsets: Offsets,
    window: int,
    square_x: Values,
    square_y: Values,
    product: Values,
) -> None:
    """Write the sums of squares and products of two series' deviations from their means."""
    before = np.empty((5, window))
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        for i in range(a, min(a + window - 1, b)):
            square_x[i] = square_y[i] = product[i] = NAN
        for seam in range(a, b, window):
            base_x, base_y = x[seam], y[seam]
            sx = sy = sxx = syy = sxy = 0.0
            before[:, 0] = 0.0
            if seam > a:
                for m in range(1, window):
                    d, e = x[seam - m] - base_x, y[seam - m] - base_y
                    sx += d
                    sy += e
                    sxx += d * d
                    syy += e * e
                    sxy += d * e
                    before[0, m] = sx
                    before[1, m] = sy
                    before[2, m] = sxx
                    before[3, m] = syy
                    before[4, m] = sxy
            sx = sy = sxx = syy = sxy = 0.0
            for i in range(seam, min(seam + window, b)):
                d, e = x[i] - base_x, y[i] - base_y
                sx += d
                sy += e
                sxx += d * d
                syy += e * e
                sxy += d * e
                if i - a >= window - 1:
                    left = window - 1 - (i - seam)
                    tx, ty, txx, tyy, txy = sx, sy, sxx, syy, sxy
                    if left > 0:
                        tx += before[0, left]
                        ty += before[1, left]
                        txx += before[2, left]
                        tyy += before[3, left]
                        txy += before[4, left]
                    if txy == txy:
                        square_x[i] = max(txx - tx * tx / window, 0.0)
                        square_y[i] = max(tyy - ty * ty / window, 0.0)
                        product[i] = txy - tx * ty / window
                    else:
                        square_x[i] = square_y[i] = product[i] = NAN


@compiled
def window_extremes(
    x: Values, offsets: Offsets, window: int, sign: float, extreme: Values, age: Values
) -> None:
    """Write each window's maximum (``sign`` 1) or minimum (-1), and how many bars ago it was.

    Of equal values the earliest counts. A missing value in the window gives NaN.
    """
    before = np.empty(window)
    where = np.empty(window, np.int64)
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        for i in range(a, min(a + window - 1, b)):
            extreme[i] = age[i] = NAN
        for seam in range(a, b, window):
            if seam > a:
                best, at = x[seam - 1] * sign, seam - 1
                for m in range(1, window):
                    value = x[seam - m] * sign
                    # A missing value is not below anything, and nothing is below it: it stays.
                    if not value < best:
                        if best == best:
                            best, at = value, seam - m
                    before[m] = best
                    where[m] = at
            best, at = x[seam] * sign, seam
            for i in range(seam, min(seam + window, b)):
                value = x[i] * sign
                if not value <= best:
                    if best == best:
                        best, at = value, i
                if i - a >= window - 1:
                    left = window - 1 - (i - seam)
                    top, place = best, at
                    if left > 0 and not before[left] < best:
                        if best == best:
                            top, place = before[left], where[left]
                    extreme[i] = top * sign
                    age[i] = i - place if top == top else NAN


@compiled
def window_sorted(
    x: Values,
    offsets: Offsets,
    window: int,
    low: float,
    high: float,
    quantile_low: Values,
    quantile_high: Values,
    rank: Values,
) -> None:
    """Write two quantiles of each window (linear between values), and its last value's rank.

    The rank is the average one of equal values, 1 to ``window``. A missing value in the window
    gives NaN.
    """
    ordered = np.empty(window)
    at_low, at_high = low * (window - 1), high * (window - 1)
    k_low, k_high = int(at_low), int(at_high)
    t_low, t_high = min(k_low + 1, window - 1), min(k_high + 1, window - 1)
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        # Missing values are kept as infinite, so that the window always has its full size.
        ordered[:] = np.inf
        missing = a - 1
        for i in range(a, b):
            gone = x[i - window] if i - a >= window else np.inf
            value = x[i]
            if gone != gone:
                gone = np.inf
            if value != value:
                value = np.inf
                missing = i
            k, end = 0, window
            while k < end:
                middle = (k + end) // 2
                if ordered[middle] < gone:
                    k = middle + 1
                else:
                    end = middle
            while k + 1 < window and ordered[k + 1] < value:
                ordered[k] = ordered[k + 1]
                k += 1
            while k > 0 and ordered[k - 1] >= value:
                ordered[k] = ordered[k - 1]
                k -= 1
            ordered[k] = value
            if i - a >= window - 1 and missing <= i - window:
                v = ordered[k_low]
                quantile_low[i] = v + (at_low - k_low) * (ordered[t_low] - v)
                v = ordered[k_high]
                quantile_high[i] = v + (at_high - k_high) * (ordered[t_high] - v)
                last = k
                while last + 1 < window and ordered[last + 1] == value:
                    last += 1
                rank[i] = 0.5 * (k + last) + 1.0
            else:
                quantile_low[i] = quantile_high[i] = rank[i] = NAN


@compiled
def window_absolute_deviation(x: Values, offsets: Offsets, window: int, out: Values) -> None:
    """Write each window's mean absolute deviation from its mean."""
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        for i in range(a, min(a + window - 1, b)):
            out[i] = NAN
        for i in range(a + window - 1, b):
            s = 0.0
            for j in range(i - window + 1, i + 1):
                s += x[j]
            mean = s / window
            s = 0.0
            for j in range(i - window + 1, i + 1):
                s += abs(x[j] - mean)
            out[i] = s / window


@compiled
def exponential(
    x: Values,
    offsets: Offsets,
    start: Offsets,
    alpha: float,
    seed_bars: int,
    before: npt.NDArray[np.float64],
    snapshot: Offsets,
    after: npt.NDArray[np.float64],
    out: Values,
) -> None:
    """Write an exponential mean that starts from the plain mean of its first ``seed_bars`` values.

    Rows before ``start`` are NaN. The state of a group (how many values were seen, and the mean,
    or the sum while the seed is incomplete) is taken from ``before`` and, as of row ``snapshot``,
    left in ``after``. A missing value gives NaN and leaves the state as it is.
    """
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        count, mean = before[g, 0], before[g, 1]
        for i in range(a, min(start[g], b)):
            out[i] = NAN
        if snapshot[g] < start[g]:
            after[g, 0] = count
            after[g, 1] = mean
        for i in range(max(a, start[g]), b):
            value = x[i]
            out[i] = NAN
            if value - value == 0.0:
                count += 1.0
                if count < seed_bars:
                    mean += value
                elif count == seed_bars:
                    mean = (mean + value) / seed_bars
                    out[i] = mean
                else:
                    mean += alpha * (value - mean)
                    out[i] = mean
            if i == snapshot[g]:
                after[g, 0] = count
                after[g, 1] = mean


@compiled
def running_sum(
    x: Values,
    offsets: Offsets,
    start: Offsets,
    before: npt.NDArray[np.float64],
    snapshot: Offsets,
    after: npt.NDArray[np.float64],
    out: Values,
) -> None:
    """Write the sum since the group's first row; a missing value gives NaN and adds nothing."""
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        total = before[g, 0]
        for i in range(a, min(start[g], b)):
            out[i] = NAN
        if snapshot[g] < start[g]:
            after[g, 0] = total
        for i in range(max(a, start[g]), b):
            value = x[i]
            out[i] = NAN
            if value - value == 0.0:
                total += value
                out[i] = total
            if i == snapshot[g]:
                after[g, 0] = total


@compiled
def keep_old_enough(
    values: npt.NDArray[Any], offsets: Offsets, lookback: int, out: npt.NDArray[np.float32]
) -> None:
    """Write values as float32; NaN where not finite or before the group's ``lookback``-th row."""
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        first = min(a + lookback - 1, b)
        out[a:first] = NAN
        for i in range(first, b):
            value = np.float32(values[i])
            out[i] = value if value - value == 0.0 else NAN


@compiled
def validity(values: npt.NDArray[np.float32], bits: npt.NDArray[np.uint8]) -> int:
    """Write Arrow's bitmap of the values that are not NaN; return how many are."""
    missing = 0
    n = len(values)
    for k in range(len(bits)):
        byte = 0
        for m in range(min(8, n - 8 * k)):
            if values[8 * k + m] == values[8 * k + m]:
                byte |= 1 << m
            else:
                missing += 1
        bits[k] = byte
    return missing


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

    In a group of one there is nothing to rank: NaN.
    """
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        order = np.argsort(x[a:b])  # Missing values come last.
        n = 0
        for i in range(a, b):
            if x[i] == x[i]:
                n += 1
        k = 0
        while k < n:
            last = k
            while last + 1 < n and x[a + order[last + 1]] == x[a + order[k]]:
                last += 1
            rank = 0.5 * (k + last) / (n - 1) if n > 1 else NAN
            for m in range(k, last + 1):
                out[a + order[m]] = rank
            k = last + 1
        for m in range(n, b - a):
            out[a + order[m]] = NAN
