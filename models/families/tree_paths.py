"""What each feature moved on the way down a tree.

The forecast of a leaf differs from that of the root by what each split on the way added: the
attribution of Saabas (2014, "Interpreting random forests"), which adds up by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from models.spec import Matrix, Vector

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree as arrays, one entry per node; node 0 is the root.

    Attributes
    ----------
    feature : (nodes,) int64
        What is asked; not looked at in a leaf.
    threshold : (nodes,) float64
        A value up to this goes left.
    missing_left : (nodes,) bool
        Whether a missing value does.
    left, right : (nodes,) int64
        Children; 0 in a leaf, which is nobody's child.
    value : (nodes,) float64
        Mean forecast of the training rows that pass.
    """

    feature: Whole
    threshold: Vector
    missing_left: npt.NDArray[np.bool_]
    left: Whole
    right: Whole
    value: Vector


def add_paths(tree: Tree, x: Matrix, out: Vector) -> None:
    """Add what each feature moved in each row's forecast to ``out``, (n, k)."""
    _walk(
        x,
        tree.feature,
        tree.threshold,
        tree.missing_left,
        tree.left,
        tree.right,
        tree.value,
        out,
    )


def fill_values(left: Whole, right: Whole, count: Vector, leaf_value: Vector) -> Vector:
    """Return the mean of the leaves below each node, weighted by their training rows.

    Children come after their parents.

    Examples
    --------
    >>> at = np.array([1, 0, 0]), np.array([2, 0, 0])
    >>> fill_values(*at, np.array([4.0, 1.0, 3.0]), np.array([0.0, 1.0, 2.0])).tolist()
    [1.75, 1.0, 2.0]
    """
    value = leaf_value.astype(np.float64).copy()
    for node in range(len(left) - 1, -1, -1):
        a, b = left[node], right[node]
        if a:
            value[node] = (count[a] * value[a] + count[b] * value[b]) / (count[a] + count[b])
    return value


@njit(cache=True, nogil=True)
def _walk(
    x: Matrix,
    feature: Whole,
    threshold: Vector,
    missing_left: npt.NDArray[np.bool_],
    left: Whole,
    right: Whole,
    value: Vector,
    out: Vector,
) -> None:
    for i in range(len(x)):
        node = 0
        while left[node] != 0:
            k = feature[node]
            asked = x[i, k]
            goes_left = missing_left[node] if asked != asked else asked <= threshold[node]
            child = left[node] if goes_left else right[node]
            out[i, k] += value[child] - value[node]
            node = child
