"""The stationary bootstrap of many resamples at once (Politis and Romano, 1994)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.evaluation import Vector


def stationary_rows(
    n: int, *, block: float, rng: np.random.Generator, length: int | None = None, draws: int = 2000
) -> npt.NDArray[np.int64]:
    """Return which periods each resample is made of, in its own order.

    Parameters
    ----------
    n, block, rng, length, draws
        As for :func:`stationary_counts`.

    Returns
    -------
    (draws, length) int64
        Row numbers of the series: what depends on the order, such as a drawdown, is taken from
        ``values[rows]``.

    Examples
    --------
    >>> stationary_rows(4, block=1e9, rng=np.random.default_rng(0), draws=1).tolist()
    [[0, 1, 2, 3]]
    """
    wanted = n if length is None else length
    fresh = rng.random((draws, wanted)) < 1.0 / max(block, 1.0)
    fresh[:, 0] = True
    starts = rng.integers(0, n, (draws, wanted))
    position = np.arange(wanted)
    last = np.maximum.accumulate(np.where(fresh, position, 0), axis=1)
    return (np.take_along_axis(starts, last, axis=1) + position - last) % n


def stationary_counts(
    n: int, *, block: float, rng: np.random.Generator, length: int | None = None, draws: int = 2000
) -> Vector:
    """Return how often each period is in each resample.

    Parameters
    ----------
    n : int
        Periods of the series, in order of time.
    block : float
        Mean length of the wrapped blocks, at least 1.
    rng : numpy.random.Generator
        Where chance comes from.
    length : int, optional
        Periods of a resample; ``n`` by default.
    draws : int
        Number of resamples.

    Returns
    -------
    (draws, n) float64
        Whole numbers; each row adds up to ``length``. ``counts @ values / length`` are the means.

    Examples
    --------
    >>> counts = stationary_counts(5, block=2.0, rng=np.random.default_rng(0), draws=3)
    >>> counts.sum(axis=1).tolist()
    [5.0, 5.0, 5.0]
    """
    rows = stationary_rows(n, block=block, rng=rng, length=length, draws=draws)
    flat = rows + n * np.arange(draws)[:, None]
    return np.bincount(flat.ravel(), minlength=n * draws).reshape(draws, n).astype(np.float64)
