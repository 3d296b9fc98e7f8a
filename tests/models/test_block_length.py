"""The automatic block is the one that theory asks for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.block_length import automatic_block


def autoregression(phi: float, n: int, seed: int) -> np.ndarray:
    shocks = np.random.default_rng(seed).standard_normal(n + 200)
    values = np.zeros(n + 200)
    for t in range(1, n + 200):
        values[t] = phi * values[t - 1] + shocks[t]
    return values[200:]


@pytest.mark.parametrize("phi", [-0.5, 0.3, 0.6, 0.8])
def test_of_an_autoregression_it_is_near_its_optimum(phi: float) -> None:
    """In closed form (2 phi / (1 - phi^2))^(2/3) n^(1/3), from G and g(0) of an AR(1)."""
    n = 4000
    found = np.median([automatic_block(autoregression(phi, n, seed)) for seed in range(25)])
    # Of an alternating series the signs of lags cancel in G the same way: the square is taken.
    best = (2 * abs(phi) / (1 - phi**2)) ** (2 / 3) * n ** (1 / 3)
    assert found == pytest.approx(best, rel=0.15)


def test_of_noise_it_is_short() -> None:
    found = [automatic_block(autoregression(0.0, 2000, seed)) for seed in range(40)]
    assert np.median(found) < 3.0


@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=0, max_size=60),
    scale=st.sampled_from([2.0, -4.0, 0.5]),
)
@settings(max_examples=80, derandomize=True)
def test_it_is_a_length_and_does_not_depend_on_units(values: list[float], scale: float) -> None:
    series = np.array(values)
    found = automatic_block(series)
    assert 1.0 <= found <= max(1.0, min(3.0 * len(series) ** 0.5, len(series) / 3.0))
    assert automatic_block(scale * series) == pytest.approx(found, rel=1e-6)


def test_what_does_not_vary_has_blocks_of_one() -> None:
    assert automatic_block(np.full(50, 0.01)) == 1.0
    assert automatic_block(np.arange(7.0)) == 1.0
