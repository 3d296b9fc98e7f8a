"""Features by their place among the symbols of the same moment, as normal scores."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.special import ndtri

from models.spec import Indices, Matrix


def to_normal_scores(x: npt.NDArray[np.float32], offsets: Indices) -> Matrix:
    """Return each value's rank within its moment, as a quantile of the normal distribution.

    Parameters
    ----------
    x : (n, k) float32
        Features, moment by moment; NaN where one is missing.
    offsets : (m + 1,) int64
        Where each moment begins; the last is n.

    Returns
    -------
    (n, k) float32
        ``ndtri((rank - 0.5) / count)`` (Hazen's plotting position), ties by their mean rank, over the values that are there; NaN stays NaN. What all symbols share
        becomes zero: it does not tell one from another. The same at every scale, whatever
        outliers do.

    Examples
    --------
    >>> column = np.array([[3.0], [1.0], [np.nan], [2.0], [7.0]], np.float32)
    >>> scores = to_normal_scores(column, np.array([0, 4, 5]))
    >>> scores.ravel().astype(float).round(2).tolist()
    [0.97, -0.97, nan, 0.0, 0.0]
    """
    share = np.ascontiguousarray(x.T)
    _shares(share, np.asarray(offsets, dtype=np.int64))
    return np.ascontiguousarray(ndtri(share, out=share).T)


@njit(cache=True)
def _shares(x: npt.NDArray[np.float32], offsets: Indices) -> None:
    """Put (mean rank - 0.5) / count of each row's stretch in the place of its values."""
    for k in range(x.shape[0]):
        for g in range(len(offsets) - 1):
            begin, end = offsets[g], offsets[g + 1]
            there = np.empty(end - begin, np.int64)
            count = 0
            for i in range(begin, end):
                if np.isfinite(x[k, i]):
                    there[count] = i
                    count += 1
                else:
                    x[k, i] = np.nan
            values = np.empty(count, np.float32)
            for i in range(count):
                values[i] = x[k, there[i]]
            order = np.argsort(values)
            first = 0
            while first < count:
                last = first
                while last + 1 < count and values[order[last + 1]] == values[order[first]]:
                    last += 1
                share = ((first + last) / 2.0 + 0.5) / count
                for i in range(first, last + 1):
                    x[k, there[order[i]]] = share
                first = last + 1
