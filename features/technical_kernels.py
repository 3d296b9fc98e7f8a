"""Kernels that the technical indicators need beside the common ones.

Recursions take and leave their state as :func:`features.kernels.exponential` does: rows before
``start`` are NaN, a missing input gives NaN and leaves the state as it is.
"""

from __future__ import annotations

import numpy as np

from features.kernels import NAN, Offsets, Values, compiled


@compiled
def window_weighted(x: Values, offsets: Offsets, weights: Values, out: Values) -> None:
    """Write the sum of a window's values times ``weights``, the oldest value first."""
    window = len(weights)
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        for i in range(a, min(a + window - 1, b)):
            out[i] = NAN
        for i in range(a + window - 1, b):
            total = 0.0
            for k in range(window):
                total += weights[k] * x[i - window + 1 + k]
            out[i] = total


@compiled
def bars_since_latest(x: Values, offsets: Offsets, window: int, sign: float, out: Values) -> None:
    """Write how many bars ago each window's maximum (``sign`` 1) or minimum (-1) was.

    Of equal values the latest counts. A missing value in the window gives NaN.
    """
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        at, missing = a, a - window
        for i in range(a, b):
            value = x[i] * sign
            if value != value:
                missing = i
            if at <= i - window:
                at = i - window + 1
                for j in range(at + 1, i + 1):
                    if not x[j] * sign < x[at] * sign:
                        at = j
            elif not value < x[at] * sign:
                at = i
            whole = i - a >= window - 1 and missing <= i - window
            out[i] = i - at if whole else NAN


@compiled
def wilder_sum(
    x: Values,
    offsets: Offsets,
    start: Offsets,
    bars: int,
    before: Values,
    snapshot: Offsets,
    after: Values,
    out: Values,
) -> None:
    """Write Wilder's running sum, from the sum of the first ``bars`` less one values on.

    The seed itself is not written: the first result is that of value number ``bars``.
    """
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        count, total = before[g, 0], before[g, 1]
        for i in range(a, min(start[g], b)):
            out[i] = NAN
        if snapshot[g] < start[g]:
            after[g, 0], after[g, 1] = count, total
        for i in range(max(a, start[g]), b):
            out[i] = NAN
            if x[i] - x[i] == 0.0:
                count += 1.0
                if count >= bars:
                    total += x[i] - total / bars
                    out[i] = total
                else:
                    total += x[i]
            if i == snapshot[g]:
                after[g, 0], after[g, 1] = count, total


@compiled
def adaptive(
    weight: Values,
    x: Values,
    seed: Values,
    offsets: Offsets,
    start: Offsets,
    before: Values,
    snapshot: Offsets,
    after: Values,
    out: Values,
) -> None:
    """Write a mean that moves to x by a weight of each row's own, from ``seed`` at its first."""
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        seeded, mean = before[g, 0], before[g, 1]
        for i in range(a, min(start[g], b)):
            out[i] = NAN
        if snapshot[g] < start[g]:
            after[g, 0], after[g, 1] = seeded, mean
        for i in range(max(a, start[g]), b):
            out[i] = NAN
            if seeded == 0.0 and seed[i] - seed[i] == 0.0 and weight[i] - weight[i] == 0.0:
                seeded, mean = 1.0, seed[i]
            if seeded and weight[i] * x[i] - weight[i] * x[i] == 0.0:
                mean += weight[i] * (x[i] - mean)
                out[i] = mean
            if i == snapshot[g]:
                after[g, 0], after[g, 1] = seeded, mean


@compiled
def two_poles(
    x: Values,
    offsets: Offsets,
    start: Offsets,
    b1: float,
    b2: float,
    before: Values,
    snapshot: Offsets,
    after: Values,
    out: Values,
) -> None:
    """Write a low-pass filter of two poles that starts from its first two values."""
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        count, y1, y2 = before[g, 0], before[g, 1], before[g, 2]
        for i in range(a, min(start[g], b)):
            out[i] = NAN
        if snapshot[g] < start[g]:
            after[g, 0], after[g, 1], after[g, 2] = count, y1, y2
        for i in range(max(a, start[g]), b):
            out[i] = NAN
            if x[i] - x[i] == 0.0:
                count += 1.0
                y = x[i]
                if count > 2.0:
                    y = (1.0 - b1 - b2) * x[i] + b1 * y1 + b2 * y2
                    out[i] = y
                y1, y2 = y, y1
            if i == snapshot[g]:
                after[g, 0], after[g, 1], after[g, 2] = count, y1, y2


@compiled
def fisher(
    place: Values,
    offsets: Offsets,
    start: Offsets,
    before: Values,
    snapshot: Offsets,
    after: Values,
    out: Values,
) -> None:
    """Write Ehlers' Fisher transform of a price's place in its range, -0.5 to 0.5."""
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        count, value, result = before[g, 0], before[g, 1], before[g, 2]
        for i in range(a, min(start[g], b)):
            out[i] = NAN
        if snapshot[g] < start[g]:
            after[g, 0], after[g, 1], after[g, 2] = count, value, result
        for i in range(max(a, start[g]), b):
            out[i] = NAN
            if place[i] - place[i] == 0.0:
                count += 1.0
                if count > 1.0:
                    value = 0.66 * place[i] + 0.67 * value
                    if value < -0.99:
                        value = -0.999
                    elif value > 0.99:
                        value = 0.999
                    result = 0.5 * (np.log((1.0 + value) / (1.0 - value)) + result)
                    out[i] = result
            if i == snapshot[g]:
                after[g, 0], after[g, 1], after[g, 2] = count, value, result


@compiled
def supertrend(
    close: Values,
    upper: Values,
    lower: Values,
    offsets: Offsets,
    start: Offsets,
    before: Values,
    snapshot: Offsets,
    after: Values,
    line: Values,
    direction: Values,
) -> None:
    """Write the band that trails the close, and 1 while the close is above it, -1 below."""
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        way, top, bottom = before[g, 0], before[g, 1], before[g, 2]
        for i in range(a, min(start[g], b)):
            line[i] = direction[i] = NAN
        if snapshot[g] < start[g]:
            after[g, 0], after[g, 1], after[g, 2] = way, top, bottom
        for i in range(max(a, start[g]), b):
            line[i] = direction[i] = NAN
            total = close[i] + upper[i] + lower[i]
            if total - total == 0.0:
                new_top, new_bottom = upper[i], lower[i]
                if way == 0.0 or close[i] > top:
                    way = 1.0
                elif close[i] < bottom:
                    way = -1.0
                elif way > 0.0:
                    new_bottom = max(new_bottom, bottom)
                else:
                    new_top = min(new_top, top)
                top, bottom = new_top, new_bottom
                line[i] = bottom if way > 0.0 else top
                direction[i] = way
            if i == snapshot[g]:
                after[g, 0], after[g, 1], after[g, 2] = way, top, bottom


@compiled
def parabolic(
    high: Values,
    low: Values,
    close: Values,
    offsets: Offsets,
    start: Offsets,
    step: float,
    limit: float,
    before: Values,
    snapshot: Offsets,
    after: Values,
    line: Values,
    acceleration: Values,
    reversal: Values,
) -> None:
    """Write Wilder's stop and reverse, its acceleration, and 1 on the bars where it turns."""
    state = np.empty(9)
    for g in range(len(offsets) - 1):
        a, b = offsets[g], offsets[g + 1]
        for k in range(9):
            state[k] = before[g, k]
            if snapshot[g] < start[g]:
                after[g, k] = state[k]
        count, sar, extreme, speed, falling, h1, h2, l1, l2 = state
        for i in range(a, b):
            line[i] = acceleration[i] = reversal[i] = NAN
            h, low_, total = high[i], low[i], high[i] + low[i] + close[i]
            if i >= start[g] and total - total == 0.0:
                count += 1.0
                if count == 1.0:
                    sar, h1, l1 = close[i], h, low_
                elif count == 2.0:
                    falling = 1.0 if l1 - low_ > max(h - h1, 0.0) else 0.0
                    extreme, speed, h2, l2 = low_ if falling else h, step, h1, l1
                if count > 1.0:
                    # Falling is rising upside down.
                    sign = -1.0 if falling else 1.0
                    ahead, behind = (-low_, -h) if falling else (h, low_)
                    stop = sign * (sar + speed * (extreme - sar))
                    if ahead > sign * extreme:
                        extreme, speed = sign * ahead, min(speed + step, limit)
                    stop = min(stop, min(-h1, -h2) if falling else min(l1, l2))
                    turned = behind < stop
                    sar = sign * stop
                    if turned:
                        sar, speed, falling, extreme = extreme, step, 1.0 - falling, sign * behind
                    line[i], acceleration[i] = sar, speed
                    reversal[i] = 1.0 if turned else 0.0
                    h1, h2, l1, l2 = h, h1, low_, l1
            if i == snapshot[g]:
                after[g, 0], after[g, 1], after[g, 2], after[g, 3] = count, sar, extreme, speed
                after[g, 4], after[g, 5], after[g, 6] = falling, h1, h2
                after[g, 7], after[g, 8] = l1, l2
