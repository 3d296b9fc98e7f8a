"""Tests of mean differences against matrices, scipy and naive loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, t, ttest_1samp, ttest_rel

from market.errors import ModelError
from models.comparison import (
    Alternative,
    automatic_lags,
    diebold_mariano,
    newey_west_t,
    newey_west_variance,
)

series = st.lists(st.floats(-5.0, 5.0), min_size=12, max_size=40).filter(lambda v: np.ptp(v) > 0.1)


@given(series, st.integers(0, 8))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_the_variance_is_a_quadratic_form_in_bartlett_weights(values, lags) -> None:
    x = np.array(values)
    apart = np.abs(np.arange(len(x))[:, None] - np.arange(len(x)))
    weights = np.maximum(0.0, 1.0 - apart / (lags + 1.0))
    away = x - x.mean()
    wanted = away @ weights @ away / len(x) ** 2
    assert newey_west_variance(x, lags) == pytest.approx(wanted, rel=1e-9)
    assert newey_west_variance(x, lags) > 0.0


@pytest.mark.parametrize("alternative", list(Alternative))
def test_without_lags_it_is_the_t_test_but_for_one_degree_of_freedom(alternative) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0.1, 1.0, 80)
    side = {"two-sided": "two-sided", "b better": "greater", "a better": "less"}[alternative]
    wanted = ttest_1samp(x, 0.0, alternative=side)
    got = newey_west_t(x, 0, alternative=alternative)
    # Variances are divided by n here, and by n - 1 there.
    statistic = got.statistic * math.sqrt(79 / 80)
    assert statistic == pytest.approx(wanted.statistic)
    tails = {"two-sided": 2 * t.sf(abs(statistic), 79), "greater": t.sf(statistic, 79)}
    assert tails.get(side, t.cdf(statistic, 79)) == pytest.approx(wanted.pvalue)
    raw = {"two-sided": 2 * t.sf(abs(got.statistic), 79), "greater": t.sf(got.statistic, 79)}
    assert got.p_value == pytest.approx(raw.get(side, t.cdf(got.statistic, 79)))


def test_diebold_and_mariano_for_one_step_is_the_paired_t_test() -> None:
    """The correction for h = 1 is (n - 1) / n: exactly what the variance lacks."""
    rng = np.random.default_rng(1)
    a, b = rng.exponential(1.0, (2, 60))
    wanted = ttest_rel(a, b)
    got = diebold_mariano(a, b, lags=0)
    assert (got.statistic, got.p_value) == pytest.approx((wanted.statistic, wanted.pvalue))
    assert got.mean == pytest.approx(a.mean() - b.mean())


@given(series, st.integers(0, 5))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_the_small_sample_factor_is_that_of_harvey_leybourne_and_newbold(values, lags) -> None:
    x = np.array(values)
    n, h = len(x), lags + 1
    plain = newey_west_t(x, lags).statistic
    factor = math.sqrt((n + 1 - 2 * h + h * (h - 1) / n) / n)
    got = diebold_mariano(x, np.zeros(n), lags=lags)
    assert got.statistic == pytest.approx(plain * factor)
    assert got.p_value == pytest.approx(2 * t.sf(abs(got.statistic), n - 1))
    assert abs(got.statistic) <= abs(plain)


@given(series)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_sides_add_up_and_exchange(values) -> None:
    a, b = np.array(values), np.roll(values, 3)
    better = diebold_mariano(a, b, alternative="b better")
    worse = diebold_mariano(a, b, alternative="a better")
    other = diebold_mariano(b, a, alternative="a better")
    both = diebold_mariano(a, b)
    assert both.sessions == len(values)
    assert both.lags == automatic_lags(len(values))
    if both.standard_error > 0.0:
        assert better.p_value + worse.p_value == pytest.approx(1.0)
        assert better.p_value == pytest.approx(other.p_value)
        assert both.p_value == pytest.approx(2 * min(better.p_value, worse.p_value))


@pytest.mark.parametrize("memory", [0.0, 0.4])
def test_equal_forecasters_differ_as_often_as_declared(memory: float) -> None:
    """400 samples of 250 sessions at 5 percent: binomial, within one in a thousand; a series
    that remembers is granted three points, the known shortfall of Bartlett weights."""
    rng = np.random.default_rng(0)
    shocks = rng.standard_normal((400, 300))
    d = np.zeros_like(shocks)
    for k in range(1, 300):
        d[:, k] = memory * d[:, k - 1] + shocks[:, k]
    found = [diebold_mariano(row, np.zeros(250), lags=8).p_value < 0.05 for row in d[:, 50:]]
    assert sum(found) <= binom.ppf(0.999, 400, 0.05 + 0.03 * (memory > 0.0))
    assert sum(found) >= binom.ppf(0.001, 400, 0.04)


def test_lags_matter_for_a_series_that_remembers() -> None:
    values = np.convolve(np.random.default_rng(0).standard_normal(300), np.ones(10), "valid")
    assert newey_west_t(values, 20).standard_error > 2.0 * newey_west_t(values, 0).standard_error


def test_equal_losses_say_nothing_and_constant_ones_everything() -> None:
    loss = np.random.default_rng(0).random(50)
    same = diebold_mariano(loss, loss)
    assert (same.mean, same.statistic, same.p_value) == (0.0, 0.0, 1.0)
    assert diebold_mariano(loss, loss, alternative="b better").p_value == 1.0
    ones = np.ones(50)
    assert diebold_mariano(2 * ones, ones).statistic == math.inf
    assert diebold_mariano(2 * ones, ones, alternative="b better").p_value == 0.0
    assert diebold_mariano(2 * ones, ones, alternative="a better").p_value == 1.0


@pytest.mark.parametrize(("n", "lags"), [(0, None), (1, None), (2, 0), (6, 5), (5, 9)])
def test_too_few_sessions_say_nothing(n: int, lags: int | None) -> None:
    rng = np.random.default_rng(0)
    found = diebold_mariano(rng.random(n), rng.random(n), lags=lags)
    assert math.isnan(found.statistic)
    assert math.isnan(found.standard_error)
    assert found.p_value == 1.0
    assert found.sessions == n


def test_senseless_input_is_refused() -> None:
    ones = np.ones(20)
    with pytest.raises(ModelError, match="do not fit together"):
        diebold_mariano(ones, np.ones(19))
    with pytest.raises(ModelError, match="not usable"):
        diebold_mariano(ones, np.full(20, np.nan))
    with pytest.raises(ModelError, match="not usable"):
        newey_west_t(np.ones((4, 5)), 1)
    with pytest.raises(ModelError, match="lags or alternative"):
        newey_west_t(ones, -1)
    with pytest.raises(ModelError, match="lags or alternative"):
        newey_west_t(ones, 1, alternative="greater")
