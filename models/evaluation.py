"""Skill of forecasts, with intervals: rank information coefficient and its bootstrap.

Sources: Grinold and Kahn (2000) for the information coefficient; Politis and Romano (1994) for
the stationary bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 percent interval and the number of periods behind it."""

    mean: float
    low: float
    high: float
    periods: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies wholly on one side of zero."""
        return self.low > 0.0 or self.high < 0.0


def rank_ic(frame: pl.DataFrame, forecast: str, outcome: str, by: str = "bar_end") -> pl.DataFrame:
    """Return the rank correlation of forecast and outcome across symbols at each time.

    Parameters
    ----------
    frame : pl.DataFrame
        One row per symbol and time.
    forecast, outcome, by : str
        Columns.

    Returns
    -------
    pl.DataFrame
        ``by`` and ``rank_ic``, ascending; times with fewer than three known outcomes, or
        without any difference between symbols, are left out.
    """
    known = frame.filter(pl.col(forecast).is_finite() & pl.col(outcome).is_finite())
    return (
        known.group_by(by)
        .agg(
            pl.corr(forecast, outcome, method="spearman").alias("rank_ic"),
            pl.len().alias("symbols"),
        )
        .filter((pl.col("symbols") >= 3) & pl.col("rank_ic").is_finite())
        .sort(by)
        .select(by, "rank_ic")
    )


def bootstrap_mean(values: Vector, *, seed: int, block: float, draws: int = 2000) -> Estimate:
    """Return the mean of a time series with a stationary-bootstrap 95 percent interval.

    Parameters
    ----------
    values : (n,) float64
        In order of time.
    seed : int
        Of the resampling.
    block : float
        Mean block length; the horizon's overlap, at least 1.
    draws : int
        Number of resamples.

    Returns
    -------
    Estimate
        NaN throughout when there are fewer than two values.

    Examples
    --------
    >>> e = bootstrap_mean(np.ones(50), seed=1, block=5.0)
    >>> (e.mean, e.low, e.high)
    (1.0, 1.0, 1.0)
    """
    n = len(values)
    if n < 2:
        return Estimate(float("nan"), float("nan"), float("nan"), n)
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for k in range(draws):
        means[k] = values[stationary_indices(n, block, rng)].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high), n)


def stationary_indices(n: int, block: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return one resample's row numbers: blocks of geometric length, wrapped around."""
    fresh = rng.random(n) < 1.0 / max(block, 1.0)
    fresh[0] = True
    starts = rng.integers(0, n, n)
    position = np.arange(n)
    last = np.maximum.accumulate(np.where(fresh, position, 0))
    return (starts[last] + position - last) % n


def skill(frame: pl.DataFrame, *, seed: int, periods_per_block: float) -> Estimate:
    """Return the mean rank IC per session of ``expected_return_bps`` against ``excess_return``.

    Intraday coefficients are averaged within a session first, so that the periods of the
    bootstrap are sessions.
    """
    per_bar = rank_ic(frame, "expected_return_bps", "excess_return")
    sessions = (
        per_bar.with_columns(pl.col("bar_end").dt.date().alias("session"))
        .group_by("session")
        .agg(pl.col("rank_ic").mean())
        .sort("session")
    )
    return bootstrap_mean(sessions["rank_ic"].to_numpy(), seed=seed, block=periods_per_block)
