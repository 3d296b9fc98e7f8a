"""The spread that bars betray: Abdi and Ranaldo's estimator from close, high and low.

Source: Abdi and Ranaldo (2017), "A simple estimation of bid-ask spreads from daily close, high, and
low prices", Review of Financial Studies 30(12): with c the log close and m the middle of log high
and log low, the squared spread is four times the mean of (c(t) - m(t)) x (c(t) - m(t+1)).

Its noise is the noise of the range: daily bars of a liquid stock tell a spread of some basis points
from none only by chance, and the root of a chance figure is no spread. So a mean counts only
where it lies more than two standard errors above zero; else the bars are silent, which is 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
STANDARD_ERRORS = 2.0
LEAST_PAIRS = 10


def spread_products(closes: Floats, highs: Floats, lows: Floats, follows: Floats) -> Floats:
    """Return the product behind each bar that has one before it; NaN elsewhere.

    Parameters
    ----------
    closes, highs, lows : (K, S) float64
        Prices adjusted for splits; NaN where a symbol has no bar.
    follows : (K, 1) or (K, S) float64
        1 where a bar may be paired with the one before it, else NaN.

    Returns
    -------
    (K, S) float64
        Dated at the later bar, by whose end it is known.
    """
    close = np.log(closes)
    middle = (np.log(highs) + np.log(lows)) / 2.0
    products = np.full_like(close, np.nan)
    earlier = close[:-1]
    products[1:] = (earlier - middle[:-1]) * (earlier - middle[1:])
    return products * follows


def half_spread(total: Floats, squares: Floats, count: Floats) -> Floats:
    """Return half of the spread, as a share of the price, from sums over products.

    Parameters
    ----------
    total, squares, count : float64, any one shape
        Sum of the products, sum of their squares, and their number.

    Returns
    -------
    float64, the same shape
        0 where fewer than ten products, or none distinguishable from nothing, speak for a spread.

    Examples
    --------
    >>> one = np.ones(1)
    >>> half_spread(20 * 1e-6 * one, 20 * 1e-12 * one, 20 * one).round(6).tolist()
    [0.001]
    """
    n = np.maximum(count, 1.0)
    mean = total / n
    variance = np.maximum(squares / n - mean**2, 0.0)
    heard = (count >= LEAST_PAIRS) & (mean > STANDARD_ERRORS * np.sqrt(variance / n))
    return np.where(heard, np.sqrt(np.maximum(mean, 0.0)), 0.0)
