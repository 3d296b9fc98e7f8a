"""Intervals of shares over sessions, one by one and all at once.

Rows of a session share its shocks, so whole sessions are drawn again: the stationary bootstrap
of Politis and Romano (1994). A band that holds all its points at once is that of Montiel Olea
and Plagborg-Moller (2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, t

from market.errors import ModelError
from models.evaluation import Vector, stationary_indices

LEVEL = 0.95
_MIN_SESSIONS = 10
_TAIL = (1.0 - LEVEL) / 2.0


@dataclass(frozen=True)
class Shares:
    """Shares with their intervals, each (k,) float64; NaN where sessions are too few.

    Attributes
    ----------
    share : (k,) float64
        Sum of hits over sum of rows.
    low, high : (k,) float64
        95 percent interval of each share by itself.
    band_low, band_high : (k,) float64
        Band that holds all shares at once with 95 percent.
    """

    share: Vector
    low: Vector
    high: Vector
    band_low: Vector
    band_high: Vector


def draw_counts(sessions: int, *, seed: int, block: float, draws: int) -> Vector:
    """Return how often each draw holds each session, (draws, sessions).

    Raises
    ------
    ModelError
        When the block is shorter than one session, or there are no draws.
    """
    if not block >= 1.0 or draws < 1:
        raise ModelError(
            "block or draws of the bootstrap",
            got=f"{block} sessions, {draws} draws",
            allowed="1 or more",
            remedy="take twice the sessions over which labels overlap",
        )
    rng = np.random.default_rng(seed)
    counts = np.empty((draws, sessions))
    for k in range(draws):
        drawn = stationary_indices(sessions, block, rng)
        counts[k] = np.bincount(drawn, minlength=sessions)
    return counts


def share_intervals(
    hits: Vector,
    rows: Vector,
    *,
    seed: int,
    block: float,
    draws: int = 1000,
    binary: bool = True,
) -> Shares:
    """Return shares of sums over sessions with pointwise and simultaneous 95 percent intervals.

    Parameters
    ----------
    hits, rows : (s, k) float64
        Numerators and denominators of ``k`` shares in each of ``s`` sessions, in order of time.
        A session without rows for a share still takes its place in the blocks.
    seed : int
        Of the draws.
    block : float
        Mean length of a block in sessions, 1 or more; about twice the overlap of labels.
    draws : int
        Number of resamples.
    binary : bool
        Whether a row is hit or not. The interval is then never narrower than that of as many
        independent rows (Agresti and Coull 1998): ten hits of ten are no certainty.

    Returns
    -------
    Shares
        Intervals are not cut off at 0 and 1.

    Notes
    -----
    Deviations of a drawn share are those of its sessions' residuals (hits less share times
    rows), so that no draw divides by zero. Their standard deviation is too small in short
    samples, because residuals are measured from their own mean and blocks are few. It is
    divided by ``sqrt(1 - w / s)``, with ``w`` the sum of the bootstrap's implied weights of
    autocovariances, and quantiles are widened as Student's t is against the normal with
    ``s / w2 - 1`` degrees of freedom, ``w2`` the sum of their squares; ``s`` counts the
    sessions with rows. Below 10 sessions, or where ``2 * w`` reaches ``s``, there is no interval.

    Examples
    --------
    >>> hits = np.random.default_rng(1).binomial(10, 0.6, (300, 1)).astype(float)
    >>> found = share_intervals(hits, np.full((300, 1), 10.0), seed=1, block=1.0)
    >>> [round(float(v[0]), 2) for v in (found.share, found.low, found.high)]
    [0.61, 0.59, 0.62]
    """
    total = rows.sum(axis=0)
    some = total > 0.0
    divisor = np.where(some, total, 1.0)
    share = np.where(some, hits.sum(axis=0) / divisor, np.nan)
    residuals = np.where(some, (hits - np.where(some, share, 0.0) * rows) / divisor, 0.0)
    counts = draw_counts(len(rows), seed=seed, block=block, draws=draws)
    deviations = np.einsum("ds,sk->dk", counts, residuals)
    spread = deviations.std(axis=0)
    scaled = np.abs(deviations) / np.where(spread > 0.0, spread, np.inf)
    wider_error, wider_quantile, enough = _small_sample((rows > 0.0).sum(axis=0), block)
    error = np.where(enough, spread * wider_error, np.nan)
    if binary:
        expected = (np.where(some, share, 0.5) * total + 2.0) / (total + 4.0)
        error = np.maximum(error, np.sqrt(expected * (1.0 - expected) / (total + 4.0)))
    normal = float(norm.isf(_TAIL))
    alone = np.maximum(np.quantile(scaled, LEVEL, axis=0), normal) * wider_quantile * error
    largest = np.where(enough, scaled, 0.0).max(axis=1, initial=0.0)
    all_at_once = max(float(np.quantile(largest, LEVEL)), normal) * wider_quantile * error
    return Shares(
        share=share,
        low=share - alone,
        high=share + alone,
        band_low=share - all_at_once,
        band_high=share + all_at_once,
    )


def _small_sample(
    sessions: npt.NDArray[np.int64], block: float
) -> tuple[Vector, Vector, npt.NDArray[np.bool_]]:
    """Return the widening of errors and of quantiles, and where sessions are enough."""
    stay = 1.0 - 1.0 / block
    weights = (1.0 + stay) / (1.0 - stay)
    squares = (1.0 + stay * stay) / (1.0 - stay * stay)
    enough = (sessions >= _MIN_SESSIONS) & (sessions > 2.0 * weights)
    used = np.where(enough, sessions, np.inf)
    freedom = np.maximum(used / squares - 1.0, 1.0)
    return 1.0 / np.sqrt(1.0 - weights / used), t.isf(_TAIL, freedom) / norm.isf(_TAIL), enough
