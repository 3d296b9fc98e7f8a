"""The best of many equals is not better."""

from __future__ import annotations

import math

import numpy as np
import pytest

from market.errors import ModelError
from models.data_snooping import superior_skill
from models.resampling import stationary_counts


def slow(gains: np.ndarray, seed: int, block: float, draws: int) -> float:
    """Hansen's test as the paper writes it, one loop per symbol of its sums."""
    n, k = gains.shape
    often = stationary_counts(n, block=block, rng=np.random.default_rng(seed), draws=draws)
    resampled = [[0.0] * k for _ in range(draws)]
    for b in range(draws):
        for j in range(k):
            resampled[b][j] = sum(often[b, row] * gains[row, j] for row in range(n)) / n
    mean = [sum(gains[:, j]) / n for j in range(k)]
    omega = [
        math.sqrt(n * sum((resampled[b][j] - mean[j]) ** 2 for b in range(draws)) / draws)
        for j in range(k)
    ]
    statistic = max(0.0, *(math.sqrt(n) * mean[j] / omega[j] for j in range(k)))
    limit = -math.sqrt(2 * math.log(math.log(n)))
    beyond = 0
    for b in range(draws):
        largest = 0.0
        for j in range(k):
            pulled = mean[j] if math.sqrt(n) * mean[j] / omega[j] >= limit else 0.0
            z = math.sqrt(n) * (resampled[b][j] - pulled) / omega[j]
            largest = max(largest, z)
        beyond += largest >= statistic
    return (1 + beyond) / (draws + 1)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_test_of_the_paper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gains = rng.standard_normal((40, 6)) + np.array([0.3, 0.1, 0.0, -0.1, -2.0, -4.0])
    assert superior_skill(gains, seed=seed, block=3.0, draws=60) == slow(gains, seed, 3.0, 60)


def test_luck_is_called_luck_as_often_as_it_says() -> None:
    """120 searches among 30 equals: at 5 percent, 6 come out; 14 is the 99.8th percentile."""
    rng = np.random.default_rng(0)
    found = [
        superior_skill(rng.standard_normal((120, 30)), seed=k, block=1.0, draws=150)
        for k in range(120)
    ]
    assert sum(p < 0.05 for p in found) <= 14
    assert np.mean(found) == pytest.approx(0.5, abs=0.12)


def test_one_that_is_better_is_found_among_poor_ones() -> None:
    rng = np.random.default_rng(1)
    gains = rng.standard_normal((250, 40)) - 1.0
    gains[:, 7] += 1.3
    assert superior_skill(gains, seed=1, block=1.0) < 0.01
    # What is far behind does not hide it: neither by its number nor by its noise.
    wild = np.concatenate([gains, 30.0 * rng.standard_normal((250, 40)) - 30.0], axis=1)
    assert superior_skill(wild, seed=1, block=1.0) < 0.01


def test_none_ahead_is_no_evidence() -> None:
    rng = np.random.default_rng(2)
    assert superior_skill(rng.standard_normal((100, 3)) - 1.0, seed=1, block=1.0) == 1.0
    assert superior_skill(np.zeros((100, 3)), seed=1, block=1.0) == 1.0


def test_a_copy_of_the_benchmark_changes_nothing() -> None:
    gains = np.random.default_rng(3).standard_normal((80, 4)) + 0.1
    copied = np.concatenate([gains, np.zeros((80, 1))], axis=1)
    alone = superior_skill(gains, seed=4, block=2.0)
    assert superior_skill(copied, seed=4, block=2.0) == alone


@pytest.mark.parametrize("shape", [(2, 5), (10, 0), (10,)])
def test_too_little_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="test for superior skill"):
        superior_skill(np.zeros(shape), seed=1, block=1.0)
