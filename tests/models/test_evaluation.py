"""Rank IC against scipy, and intervals that cover what they say."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from models.evaluation import Estimate, bootstrap_mean, rank_ic, skill, stationary_indices


@given(
    st.lists(st.integers(-3, 3), min_size=3, max_size=12),
    st.integers(0, 1000),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_rank_ic_is_that_of_scipy_ties_included(forecast: list[int], seed: int) -> None:
    outcome = np.random.default_rng(seed).integers(-2, 3, len(forecast)).astype(float)
    frame = pl.DataFrame({"t": 1, "f": np.array(forecast, float), "y": outcome})
    got = rank_ic(frame, "f", "y", by="t")
    if len(set(forecast)) == 1 or len(set(outcome)) == 1:
        assert got.is_empty()
    else:
        assert got["rank_ic"].item() == pytest.approx(spearmanr(forecast, outcome).statistic)


def test_unknown_outcomes_and_small_groups_are_left_out() -> None:
    frame = pl.DataFrame(
        {
            "t": [1] * 4 + [2] * 3 + [3] * 3,
            "f": [1.0, 2.0, 3.0, 9.0, 1.0, 2.0, 3.0, 3.0, 2.0, 1.0],
            "y": [1.0, 2.0, 3.0, None, 1.0, float("nan"), 2.0, 1.0, 2.0, 3.0],
        }
    )
    got = rank_ic(frame, "f", "y", by="t")
    assert got["t"].to_list() == [1, 3]
    assert got["rank_ic"].to_list() == pytest.approx([1.0, -1.0])


def test_skill_averages_within_a_session_first() -> None:
    day = dt.datetime(2024, 7, 1, 15, tzinfo=dt.UTC)
    times = [day] * 3 + [day + dt.timedelta(hours=1)] * 3 + [day + dt.timedelta(days=1)] * 3
    frame = pl.DataFrame(
        {
            "bar_end": times,
            "expected_return_bps": [1.0, 2.0, 3.0] * 3,
            "excess_return": [1.0, 2.0, 3.0, 3.0, 2.0, 1.0, 1.0, 2.0, 3.0],
        }
    )
    found = skill(frame, seed=1, periods_per_block=1.0)
    assert found.periods == 2
    assert found.mean == pytest.approx(0.5)
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """300 samples of 150: the share of hits lies within 4 standard errors of 95 percent,
    allowing the percentile interval its known shortfall of about one point."""
    rng = np.random.default_rng(0)
    hits = 0
    for k in range(300):
        found = bootstrap_mean(rng.standard_normal(150) + 0.3, seed=k, block=1.0, draws=300)
        hits += found.low <= 0.3 <= found.high
    assert 0.89 <= hits / 300 <= 0.99


def test_blocks_widen_the_interval_of_a_series_that_remembers() -> None:
    rng = np.random.default_rng(1)
    shocks = rng.standard_normal(600)
    series = np.convolve(shocks, np.ones(10), mode="valid")
    narrow = bootstrap_mean(series, seed=1, block=1.0, draws=400)
    wide = bootstrap_mean(series, seed=1, block=20.0, draws=400)
    assert wide.high - wide.low > 1.8 * (narrow.high - narrow.low)


@given(st.integers(2, 60), st.floats(0.0, 40.0), st.integers(0, 100))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_resample_is_made_of_wrapped_runs(n: int, block: float, seed: int) -> None:
    rows = stationary_indices(n, block, np.random.default_rng(seed))
    assert len(rows) == n
    assert rows.min() >= 0
    assert rows.max() < n


def test_blocks_have_the_length_asked_for() -> None:
    rows = stationary_indices(20_000, 10.0, np.random.default_rng(0))
    broken = (np.diff(rows) % 20_000 != 1).mean()
    assert broken == pytest.approx(0.1, abs=0.01)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).standard_normal(50)
    assert bootstrap_mean(values, seed=3, block=2.0) == bootstrap_mean(values, seed=3, block=2.0)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_too_little_gives_no_interval(values: list[float]) -> None:
    found = bootstrap_mean(np.array(values), seed=1, block=1.0)
    assert np.isnan([found.mean, found.low, found.high]).all()
    assert not found.excludes_zero


def test_an_interval_excludes_zero_on_either_side() -> None:
    assert Estimate(1.0, 0.5, 2.0, 9).excludes_zero
    assert Estimate(-1.0, -2.0, -0.5, 9).excludes_zero
    assert not Estimate(0.1, -0.5, 0.5, 9).excludes_zero
