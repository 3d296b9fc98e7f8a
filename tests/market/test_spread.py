"""The estimated spread against prices that were made with a known one."""

from __future__ import annotations

import numpy as np
import pytest

from market.spread import half_spread, spread_products


def bars(half: float, volatility: float, count: int, seed: int, trades: int = 60):
    """Closes, highs and lows of trades at bid or ask around a random walk, one symbol a column."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0.0, volatility / np.sqrt(trades), (count * trades, 20))
    quotes = np.exp(np.cumsum(steps, axis=0)) * 50.0
    prices = quotes * (1.0 + half * rng.choice([-1.0, 1.0], quotes.shape))
    prices = prices.reshape(count, trades, 20)
    return prices[:, -1], prices.max(axis=1), prices.min(axis=1)


def estimate(closes, highs, lows):
    products = spread_products(closes, highs, lows, np.ones((len(closes), 1)))
    known = np.isfinite(products)
    values = np.where(known, products, 0.0)
    return half_spread(values.sum(0), (values**2).sum(0), known.sum(0).astype(float))


@pytest.mark.parametrize("half", [0.001, 0.004])
def test_a_spread_that_stands_out_is_found(half):
    found = estimate(*bars(half, 0.002, 500, seed=1))
    assert np.median(found) == pytest.approx(half, rel=0.1)
    assert (np.abs(found / half - 1) < 0.3).all()


def test_noise_is_not_taken_for_a_spread():
    # A day's range of two percent and a spread of one basis point: twenty symbols, a year.
    silent = np.concatenate([estimate(*bars(0.00005, 0.02, 252, seed=s)) for s in range(10)])
    assert (silent == 0.0).mean() > 0.9  # chance alone: one in forty


def test_products_equal_a_plain_loop_and_never_cross_a_gap():
    closes, highs, lows = bars(0.002, 0.01, 30, seed=3)
    closes[10, 0] = highs[10, 0] = lows[10, 0] = np.nan
    follows = np.ones((30, 1))
    follows[20] = np.nan
    found = spread_products(closes, highs, lows, follows)
    for row in range(30):
        if row in (0, 20):
            assert np.isnan(found[row]).all()
            continue
        middle = [(np.log(highs[r, 0]) + np.log(lows[r, 0])) / 2 for r in (row - 1, row)]
        last = np.log(closes[row - 1, 0])
        expected = (last - middle[0]) * (last - middle[1])
        if row in (10, 11):
            assert np.isnan(found[row, 0])
        else:
            assert found[row, 0] == pytest.approx(expected, abs=1e-15)


def test_few_bars_are_silent():
    one = np.ones(1)
    assert half_spread(9e-6 * one, 9e-12 * one, 9 * one).tolist() == [0.0]
