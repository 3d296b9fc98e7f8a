"""Estimates over independent seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean over independent seeds with its 95 percent interval (Student's t).

    Returns
    -------
    dict
        ``mean``, ``low``, ``high`` (``None`` for fewer than two seeds) and ``seeds``.

    Examples
    --------
    >>> over_seeds([1.0, 1.0, 1.0])
    {'mean': 1.0, 'low': 1.0, 'high': 1.0, 'seeds': 3}
    """
    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return {"mean": mean, "low": None, "high": None, "seeds": n}
    half = float(t.isf(0.025, n - 1) * np.std(values, ddof=1) / n**0.5)
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": n}
