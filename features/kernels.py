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
def divide(numerator: Values, denominator: Values, out: Values) -> None:
    """Write the quotient; NaN where the denominator is not positive."""
    for i in range(len(out)):
        out[i] = numerator[i] / denominator[i] if denominator[i] > 0 else NAN


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
def window_moments(
    x: Values, offsets: Offsets, window: int, ddof: int, mean: Values, deviation: Values
) -> None:
    """Write each window's mean and standard deviation."""
    b1, b2 = np.zeros(window), np.zeros(window)
    share = 1.0 / window
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        full = a + window - 1
        mean[a : min(full, b)] = NAN
        deviation[a : min(full, b)] = NAN
        for seam in range(a, b, window):
            base, end = x[seam], min(seam + window, b)
            s1 = s2 = 0.0
            # b1[m] is the sum of the last m rows before the seam; there are none before the first.
            for m in range(1, window if seam > a else 0):
                d = x[seam - m] - base
                s1 += d
                s2 += d * d
                b1[m] = s1
                b2[m] = s2
            s1 = s2 = 0.0
            for i in range(seam, min(full, end)):
                d = x[i] - base
                s1 += d
                s2 += d * d
            for i in range(max(seam, full), end):
                d = x[i] - base
                s1 += d
                s2 += d * d
                left = window - 1 - (i - seam)
                t1 = s1 + b1[left]
                mean[i] = base + t1 * share
                deviation[i] = s2 + b2[left] - t1 * t1 * share
    # By itself: a loop over all rows that carries no sum is computed several rows at a time.
    for i in range(len(deviation)):
        square = deviation[i] / (window - ddof)
        # Rounding may leave a hair less than nothing; a missing value stays missing.
        deviation[i] = np.sqrt(0.0 if square < 0.0 else square)


@compiled
def window_sum(x: Values, offsets: Offsets, window: int, out: Values) -> None:
    """Write each window's sum."""
    before = np.zeros(window)
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        full = a + window - 1
        out[a : min(full, b)] = NAN
        for seam in range(a, b, window):
            end = min(seam + window, b)
            s = 0.0
            for m in range(1, window if seam > a else 0):
                s += x[seam - m]
                before[m] = s
            s = 0.0
            for i in range(seam, min(full, end)):
                s += x[i]
            for i in range(max(seam, full), end):
                s += x[i]
                out[i] = s + before[window - 1 - (i - seam)]


@compiled
def window_trend(
    x: Values,
    offsets: Offsets,
    window: int,
    mean: Values,
    slope: Values,
    explained: Values,
    residual: Values,
) -> None:
    """Write the mean of a least-squares line, its slope per row, R squared, and last residual."""
    b1, b2, b3 = np.zeros(window), np.zeros(window), np.zeros(window)
    of_time = window * (window * window - 1) / 12.0
    middle, share, per_row = 0.5 * (window - 1), 1.0 / window, 1.0 / max(of_time, 1.0)
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        full = a + window - 1
        for out in (mean, slope, explained, residual):
            out[a : min(full, b)] = NAN
        for seam in range(a, b, window):
            base, end = x[seam], min(seam + window, b)
            s1 = s2 = s3 = 0.0
            for m in range(1, window if seam > a else 0):
                d = x[seam - m] - base
                s1 += d
                s2 += d * d
                s3 -= m * d
                b1[m] = s1
                b2[m] = s2
                b3[m] = s3
            s1 = s2 = s3 = 0.0
            for i in range(seam, min(full, end)):
                d = x[i] - base
                s1 += d
                s2 += d * d
                s3 += (i - seam) * d
            for i in range(max(seam, full), end):
                d = x[i] - base
                s1 += d
                s2 += d * d
                s3 += (i - seam) * d
                left = window - 1 - (i - seam)
                t1 = s1 + b1[left]
                rise = (s3 + b3[left] - ((i - seam) - middle) * t1) * per_row
                slope[i] = rise
                explained[i] = s2 + b2[left] - t1 * t1 * share
                residual[i] = d - t1 * share - rise * middle
                mean[i] = base + t1 * share
    for i in range(len(explained)):
        square = explained[i]
        explained[i] = slope[i] * slope[i] * of_time / square if square > 0 else NAN


@compiled
def window_products(
    x: Values,
    y: Values,
    offsets: Offsets,
    window: int,
    covariance: Values,
    correlation: Values,
    slope: Values,
) -> None:
    """Write covariance (ddof 1), correlation, and the least-squares slope of y on x."""
    before = np.zeros((window, 5))
    share = 1.0 / window
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        full = a + window - 1
        for out in (covariance, correlation, slope):
            out[a : min(full, b)] = NAN
        for seam in range(a, b, window):
            base_x, base_y, end = x[seam], y[seam], min(seam + window, b)
            sx = sy = sxx = syy = sxy = 0.0
            for m in range(1, window if seam > a else 0):
                d, e = x[seam - m] - base_x, y[seam - m] - base_y
                sx += d
                sy += e
                sxx += d * d
                syy += e * e
                sxy += d * e
                before[m, 0] = sx
                before[m, 1] = sy
                before[m, 2] = sxx
                before[m, 3] = syy
                before[m, 4] = sxy
            sx = sy = sxx = syy = sxy = 0.0
            for i in range(seam, min(full, end)):
                d, e = x[i] - base_x, y[i] - base_y
                sx += d
                sy += e
                sxx += d * d
                syy += e * e
                sxy += d * e
            for i in range(max(seam, full), end):
                d, e = x[i] - base_x, y[i] - base_y
                sx += d
                sy += e
                sxx += d * d
                syy += e * e
                sxy += d * e
                left = window - 1 - (i - seam)
                tx, ty = sx + before[left, 0], sy + before[left, 1]
                slope[i] = sxx + before[left, 2] - tx * tx * share
                correlation[i] = syy + before[left, 3] - ty * ty * share
                covariance[i] = sxy + before[left, 4] - tx * ty * share
    for i in range(len(slope)):
        xx, yy, xy = slope[i], correlation[i], covariance[i]
        both = xx * yy
        r = xy / np.sqrt(both) if both > 0 else NAN
        r = 1.0 if r > 1.0 else r
        correlation[i] = -1.0 if r < -1.0 else r
        slope[i] = xy / xx if xx > 0 else NAN
        covariance[i] = xy / (window - 1)


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
                    if best == best and not value < best:
                        best, at = value, seam - m
                    before[m] = best
                    where[m] = at
            best, at = x[seam] * sign, seam
            for i in range(seam, min(seam + window, b)):
                value = x[i] * sign
                if best == best and not value <= best:
                    best, at = value, i
                if i - a >= window - 1:
                    left = window - 1 - (i - seam)
                    top, place = best, at
                    if left > 0 and best == best and not before[left] < best:
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
    # From 1 on; the two ends stand for all that is less or greater. Missing values are kept as
    # infinite, so that the window always has its full size.
    ordered, after = np.full(window + 2, np.inf), np.full(window + 2, np.inf)
    at_low, at_high = low * (window - 1), high * (window - 1)
    k_low, k_high = int(at_low) + 1, int(at_high) + 1
    t_low, t_high = min(k_low + 1, window), min(k_high + 1, window)
    part_low, part_high = at_low - int(at_low), at_high - int(at_high)
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        ordered[:] = after[:] = np.inf
        ordered[0] = after[0] = -np.inf
        missing = a - 1
        for i in range(a, b):
            gone = x[i - window] if i - a >= window else np.inf
            value = x[i]
            if gone != gone:
                gone = np.inf
            if value != value:
                value = np.inf
                missing = i
            # Writing the whole window anew beats a search in it: there are no branches to guess.
            less = equal = 0
            for m in range(1, window + 1):
                # The places m - 1 and m once the gone one is out, and the new one let in there.
                before = ordered[m - 1] if ordered[m - 1] < gone else ordered[m]
                here = ordered[m] if ordered[m] < gone else ordered[m + 1]
                here = here if here < value else value
                here = before if before > here else here
                after[m] = here
                less += here < value
                equal += here == value
            ordered, after = after, ordered
            if i - a >= window - 1 and missing <= i - window:
                v = ordered[k_low]
                quantile_low[i] = v + part_low * (ordered[t_low] - v)
                v = ordered[k_high]
                quantile_high[i] = v + part_high * (ordered[t_high] - v)
                rank[i] = less + 0.5 * (equal + 1)
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
    for i in range(len(out)):
        value = np.float32(values[i])
        out[i] = value if value - value == 0.0 else NAN
    for g in range(len(offsets) - 1):
        out[offsets[g] : min(offsets[g] + lookback - 1, offsets[g + 1])] = NAN


@compiled
def validity(values: npt.NDArray[np.float32], bits: npt.NDArray[np.uint8]) -> None:
    """Write Arrow's bitmap of the values that are not NaN."""
    whole = len(values) // 8
    # Eight at a time in a loop of known length become one comparison of a vector.
    for k in range(whole):
        byte = 0
        for m in range(8):
            byte |= int(values[8 * k + m] == values[8 * k + m]) << m
        bits[k] = byte
    for k in range(whole, len(bits)):
        byte = 0
        for m in range(len(values) - 8 * k):
            byte |= int(values[8 * k + m] == values[8 * k + m]) << m
        bits[k] = byte
