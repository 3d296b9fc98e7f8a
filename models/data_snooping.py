"""Whether the best of many beats a benchmark by more than the luck of having tried many."""

from __future__ import annotations

import math

import numpy as np

from market.errors import ModelError
from models.evaluation import Vector
from models.resampling import stationary_counts


def superior_skill(gains: Vector, *, seed: int, block: float, draws: int = 2000) -> float:
    """Return the p-value of Hansen's test that no candidate beats the benchmark.

    Parameters
    ----------
    gains : (n, k) float64
        What each of ``k`` candidates has over the benchmark in each of ``n`` periods, in order of
        time; positive is better.
    seed : int
        Of the resampling.
    block : float
        Mean block length of the stationary bootstrap, in periods.
    draws : int
        Number of resamples.

    Returns
    -------
    float
        Small when the best is better than the best of ``k`` equals would look by chance; 1 when
        none is ahead in the mean.

    Raises
    ------
    ModelError
        When there are fewer than three periods or no candidate.

    Notes
    -----
    The consistent version of the test for superior predictive ability (Hansen, 2005): candidates
    are studentised by their bootstrapped standard error, and those too poor to matter are not
    pulled up to the benchmark. It refines the reality check of White (2000), which it follows in
    treating the candidates as given: that a sampler chose them by looking at the same periods is
    not counted.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal((250, 20))
    >>> bool(superior_skill(noise, seed=1, block=1.0) > 0.05)
    True
    >>> bool(superior_skill(noise + 0.5, seed=1, block=1.0) < 0.01)
    True
    """
    if gains.ndim != 2 or gains.shape[0] < 3 or gains.shape[1] < 1:
        raise ModelError(
            "the test for superior skill",
            got=f"gains of shape {gains.shape}",
            allowed="three periods or more of one candidate or more",
            remedy="judge over more periods",
        )
    n = gains.shape[0]
    mean = gains.mean(axis=0)
    counts = stationary_counts(n, block=block, rng=np.random.default_rng(seed), draws=draws)
    means = counts @ gains / n
    error = np.sqrt(((means - mean) ** 2).mean(axis=0))
    # A candidate equal to the benchmark in every period has no error and no lead.
    differs = error > 0.0
    if not differs.any():
        return 1.0
    mean, means, error = mean[differs], means[:, differs], error[differs]
    statistic = float((mean / error).max())
    if statistic <= 0.0:
        return 1.0
    near = mean / error >= -math.sqrt(2.0 * math.log(math.log(n)))
    centred = (means - np.where(near, mean, 0.0)) / error
    best = np.maximum(centred.max(axis=1), 0.0)
    return float((1 + (best >= statistic).sum()) / (draws + 1))
