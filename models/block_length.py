"""How long the blocks of the stationary bootstrap should be (Politis and White, 2004)."""

from __future__ import annotations

import math

import numpy as np

from models.evaluation import Vector

_FEWEST = 8


def automatic_block(values: Vector) -> float:
    """Return the mean block length that estimates the variance of a mean best.

    Parameters
    ----------
    values : (n,) float64
        A stationary series in order of time; finite.

    Returns
    -------
    float
        At least 1, at most ``min(3 * sqrt(n), n / 3)``; 1 where values do not vary, or there
        are fewer than eight of them.

    Notes
    -----
    The rule for the stationary bootstrap with the correction of Patton, Politis and White (2009),
    which halves the constant: ``(2 G^2 / D)^(1/3) n^(1/3)`` with ``D = 2 g(0)^2``. Lags count up
    to twice the last one that is correlated by more than chance, with flat-top weights.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal(1000)
    >>> slow = np.convolve(noise, np.ones(20))
    >>> automatic_block(noise) < 5.0 < automatic_block(slow)
    True
    """
    n = len(values)
    if n < _FEWEST or np.ptp(values) == 0.0:
        return 1.0
    away = values - values.mean()
    calm = max(5, math.ceil(math.sqrt(math.log10(n))))
    most = min(math.ceil(math.sqrt(n)) + calm, n - 1)
    covariances = np.array([float(away[k:] @ away[: n - k]) / n for k in range(most + 1)])
    last = _last_lag(covariances / covariances[0], calm, n)
    lags = np.arange(1, min(2 * last, most) + 1)
    weights = np.minimum(1.0, 2.0 * (1.0 - lags / (2.0 * last)))
    weighted = weights * covariances[lags]
    slope = 2.0 * float(np.sum(lags * weighted))
    density = float(covariances[0] + 2.0 * weighted.sum())
    if density == 0.0:
        return 1.0
    best = (slope / density) ** 2 * n
    longest = min(3.0 * math.sqrt(n), n / 3.0)
    return float(min(max(best ** (1.0 / 3.0), 1.0), longest))


def _last_lag(correlations: Vector, calm: int, n: int) -> int:
    """Return the lag after which ``calm`` ones in a row are no more than chance; at least 1."""
    small = np.abs(correlations[1:]) < 2.0 * math.sqrt(math.log10(n) / n)
    for lag in range(len(small) - calm + 1):
        if small[lag : lag + calm].all():
            return max(lag, 1)
    found = np.flatnonzero(~small)
    return int(found[-1]) + 1 if len(found) else 1
