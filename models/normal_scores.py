"""Features by their place among the symbols of the same moment, as normal scores.

A model that is to tell symbols apart learns from where each stands among the others; how large
the numbers are, and what all share, changes with the times. A column named ``return_5@rank`` is
made of the feature ``return_5``, the same way in training and in scoring.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.special import ndtri

from models.spec import Indices

SUFFIX = "@rank"


def ranked(names: Iterable[str]) -> list[str]:
    """Return the names of columns made of these features.

    Examples
    --------
    >>> ranked(["return_5"])
    ['return_5@rank']
    """
    return [f"{name}{SUFFIX}" for name in names]


def source_of(name: str) -> str:
    """Return the feature that a column is made of; itself where it is the feature.

    Examples
    --------
    >>> source_of("return_5@rank"), source_of("return_5")
    ('return_5', 'return_5')
    """
    return name.removesuffix(SUFFIX)


@lru_cache(maxsize=256)
def sources_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the feature that each of some columns is made of.

    Examples
    --------
    >>> sources_of(("return_5@rank", "return_1"))
    ('return_5', 'return_1')
    """
    return tuple(map(source_of, names))


def to_normal_scores(values: npt.NDArray[np.float32], offsets: Indices) -> npt.NDArray[np.float32]:
    """Return each value's rank within its moment, as a quantile of the normal distribution.

    Parameters
    ----------
    values : (n,) float32
        One feature, moment by moment; NaN where it is missing.
    offsets : (m + 1,) int64
        Where each moment begins; the last is n.

    Returns
    -------
    (n,) float32
        ``ndtri((rank - 0.5) / count)`` (Hazen's plotting position), ties by their mean rank,
        over the values that are there; NaN stays NaN. What all symbols share becomes zero.

    Notes
    -----
    Cross-sectional ranks as in Gu, Kelly and Xiu (2020); normal scores keep the tails apart.

    Examples
    --------
    >>> column = np.array([3.0, 1.0, np.nan, 2.0, 7.0], np.float32)
    >>> to_normal_scores(column, np.array([0, 4, 5])).astype(float).round(2).tolist()
    [0.97, -0.97, nan, 0.0, 0.0]
    """
    shares = np.array(values, dtype=np.float32)
    _to_shares(shares, np.asarray(offsets, dtype=np.int64))
    return ndtri(shares, out=shares)


@njit(cache=True)
def _to_shares(x: npt.NDArray[np.float32], offsets: Indices) -> None:
    """Put (mean rank - 0.5) / count in the place of each value."""
    for g in range(len(offsets) - 1):
        begin, end = offsets[g], offsets[g + 1]
        there = np.empty(end - begin, np.int64)
        count = 0
        for i in range(begin, end):
            if np.isfinite(x[i]):
                there[count] = i
                count += 1
            else:
                x[i] = np.nan
        there = there[:count]
        order = there[np.argsort(x[there])]
        sorted_values = x[order]
        first = 0
        while first < count:
            last = first
            while last + 1 < count and sorted_values[last + 1] == sorted_values[first]:
                last += 1
            share = ((first + last) / 2.0 + 0.5) / count
            for i in range(first, last + 1):
                x[order[i]] = share
            first = last + 1
