"""Whether one forecaster beats another by more than luck.

Losses are compared session by session, because the rows of a session share its shocks. For one
look at the end; who looks every day uses :mod:`models.sequential`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.stats import t

from market.errors import ModelError
from models.evaluation import Vector


class Alternative(StrEnum):
    """What is held against equal losses."""

    TWO_SIDED = "two-sided"
    B_BETTER = "b better"
    A_BETTER = "a better"


@dataclass(frozen=True, slots=True)
class MeanTest:
    """A mean with its standard error, t statistic and p-value.

    Attributes
    ----------
    mean, standard_error : float
        The error is NaN where there are too few values.
    statistic, p_value : float
        The p-value is 1 where nothing can be said.
    sessions, lags : int
        Values, and autocovariances counted.
    """

    mean: float
    standard_error: float
    statistic: float
    p_value: float
    sessions: int
    lags: int


def automatic_lags(sessions: int) -> int:
    """Return ``floor(4 * (n / 100) ** (2 / 9))``, the rule of Newey and West (1994).

    Examples
    --------
    >>> automatic_lags(100), automatic_lags(1000)
    (4, 6)
    """
    return math.floor(4.0 * (sessions / 100.0) ** (2.0 / 9.0))


def newey_west_variance(values: Vector, lags: int) -> float:
    """Return the variance of the mean of an autocorrelated series (Newey and West 1987).

    The sum of autocovariances up to ``lags`` with Bartlett weights, divided by the number of
    values. Autocovariances are divided by the number of values as well.

    Examples
    --------
    >>> newey_west_variance(np.array([1.0, -1.0, 1.0, -1.0]), 0)
    0.25
    """
    n = len(values)
    away = values - values.mean()
    total = float(np.einsum("i,i->", away, away))
    for lag in range(1, lags + 1):
        weight = 1.0 - lag / (lags + 1.0)
        total += 2.0 * weight * float(np.einsum("i,i->", away[lag:], away[:-lag]))
    return total / n / n


def newey_west_t(
    values: Vector,
    lags: int | None = None,
    *,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> MeanTest:
    """Test whether the mean of an autocorrelated series is zero.

    Parameters
    ----------
    values : (n,) float64
        In order of time; for instance a rank IC, or a difference of losses, per session.
    lags : int, optional
        Autocovariances that count; at least the overlap of labels less one. By
        :func:`automatic_lags` when ``None``.
    alternative : str
        ``b better``: the mean is above zero; ``a better``: it is below.

    Returns
    -------
    MeanTest
        P-values by Student's t with ``n - 1`` degrees of freedom. Fewer than three values, or
        no more than ``lags + 1``: NaN and a p-value of 1. All values alike: the statistic is 0
        where they are zero (p-value 1), else infinite with their sign.

    Raises
    ------
    ModelError
        When a value is not finite, lags are negative, or the alternative is unknown.

    Examples
    --------
    >>> found = newey_west_t(np.array([2.0, 1.0, 3.0, 2.0, 1.0, 3.0]), 1)
    >>> round(found.mean, 2), round(found.statistic, 2), found.sessions
    (2.0, 8.49, 6)
    """
    return _test(values, lags, alternative, corrected=False)


def diebold_mariano(
    loss_a: Vector,
    loss_b: Vector,
    *,
    lags: int | None = None,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> MeanTest:
    """Test whether two forecasters have the same expected loss (Diebold and Mariano 1995).

    Parameters
    ----------
    loss_a, loss_b : (n,) float64
        Mean loss of each session, the same sessions, in order of time; from
        :func:`models.scores.session_losses`.
    lags : int, optional
        As for :func:`newey_west_t`.
    alternative : str
        ``two-sided``, ``b better`` or ``a better``.

    Returns
    -------
    MeanTest
        Of ``loss_a - loss_b``: positive where ``b`` is better. Degenerate cases as for
        :func:`newey_west_t`.

    Raises
    ------
    ModelError
        When lengths differ; otherwise as for :func:`newey_west_t`.

    Notes
    -----
    Newey and West's variance, the small-sample factor of Harvey, Leybourne and Newbold (1997)
    for ``h = lags + 1`` and Student's t with ``n - 1`` degrees of freedom. The factor was
    derived for unweighted autocovariances; with Bartlett weights the variance is never
    negative, and the factor still makes the test more careful. Valid for one look.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> worse, better = rng.normal(1.0, 0.1, 250), rng.normal(0.9, 0.1, 250)
    >>> diebold_mariano(worse, better, lags=0).statistic > 5.0
    True
    >>> diebold_mariano(worse, worse).p_value
    1.0
    """
    first, second = np.asarray(loss_a, dtype=np.float64), np.asarray(loss_b, dtype=np.float64)
    if first.shape != second.shape:
        raise ModelError(
            "losses of two forecasters do not fit together",
            got=f"{first.shape} and {second.shape}",
            allowed="one loss per session of each",
            remedy="join them by session first",
        )
    return _test(first - second, lags, alternative, corrected=True)


def _test(
    values: Vector, lags: int | None, alternative: Alternative | str, *, corrected: bool
) -> MeanTest:
    series = check_series(values)
    n = len(series)
    used = automatic_lags(n) if lags is None else lags
    if used < 0 or alternative not in list(Alternative):
        raise ModelError(
            "lags or alternative of a test",
            got=f"{used} lags, {str(alternative)!r}",
            allowed=f"0 lags or more; {', '.join(Alternative)}",
            remedy="correct them",
        )
    mean = float(series.mean()) if n else math.nan
    if n < max(3, used + 2):
        return MeanTest(mean, math.nan, math.nan, 1.0, n, used)
    if np.ptp(series) == 0.0:
        statistic = math.copysign(math.inf, mean) if mean else 0.0
        error = 0.0
    else:
        factor = (n - used - 1) * (n - used) / n / n if corrected else 1.0
        error = math.sqrt(newey_west_variance(series, used) / factor)
        statistic = mean / error
    if statistic == 0.0 and error == 0.0:
        return MeanTest(mean, error, statistic, 1.0, n, used)
    return MeanTest(mean, error, statistic, _p_value(statistic, n - 1, alternative), n, used)


def _p_value(statistic: float, freedom: int, alternative: Alternative | str) -> float:
    if alternative == Alternative.TWO_SIDED:
        return float(2.0 * t.sf(abs(statistic), freedom))
    side = 1.0 if alternative == Alternative.B_BETTER else -1.0
    return float(t.sf(side * statistic, freedom))


def check_series(values: Vector) -> Vector:
    """Return one finite number per session.

    Raises
    ------
    ModelError
        When there is another shape, or a value is not finite.
    """
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or not np.isfinite(series).all():
        raise ModelError(
            "a series per session is not usable",
            got=f"shape {series.shape}, {int((~np.isfinite(series)).sum())} not finite",
            allowed="one finite number per session",
            remedy="leave sessions out that have no loss",
        )
    return series
