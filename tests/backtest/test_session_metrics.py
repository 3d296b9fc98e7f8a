"""Measures against a plain second reading of their definitions; intervals against theory."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from backtest.session_metrics import (
    METRIC_SCHEMA,
    SessionSeries,
    block_of,
    deepest_drawdowns,
    draw_sessions,
    measures,
    session_metrics,
)

RETURNS = st.lists(st.integers(-250, 250).map(lambda v: v / 1000), min_size=2, max_size=40)


def series_of(returns: np.ndarray, benchmark: np.ndarray | None = None) -> SessionSeries:
    n = len(returns)
    return SessionSeries(
        returns, returns + 0.001, np.full(n, 0.1), np.full(n, 0.6), np.full(n, -0.2), benchmark
    )


def whole(series: SessionSeries) -> dict[str, float]:
    one = series.take(np.arange(len(series))[None, :])
    return {name: float(v[0]) for name, v in measures(one).items()}


def slow_drawdown(returns: list[float]) -> tuple[float, int]:
    """Walk along the equity and look at every fall from a peak."""
    equity = [1.0]
    for r in returns:
        equity.append(equity[-1] * (1.0 + r))
    deepest, length = 0.0, 0
    for peak in range(len(equity)):
        if equity[peak] < max(equity[: peak + 1]):
            continue
        for at in range(peak, len(equity)):
            fall = equity[at] / equity[peak] - 1.0
            if at > peak and equity[at] >= equity[peak]:
                break
            if fall < deepest - 1e-12:
                regained = [k for k in range(at, len(equity)) if equity[k] >= equity[peak]]
                deepest = fall
                length = (regained[0] if regained else len(equity) - 1) - peak
    return deepest, length


@given(returns=RETURNS)
@example(returns=[-0.002, 0.1, -0.002])  # equally deep, but for the last bit
@settings(max_examples=2000, derandomize=True)
def test_the_deepest_drawdown_is_the_one_a_walk_finds(returns: list[float]) -> None:
    depth, length = deepest_drawdowns(np.array([returns]))
    expected_depth, expected_length = slow_drawdown(returns)
    assert depth[0] == pytest.approx(expected_depth, abs=1e-9)
    if abs(expected_depth) > 1e-6:
        assert length[0] == expected_length


@given(returns=RETURNS, seed=st.integers(0, 99))
@settings(max_examples=100, derandomize=True)
def test_measures_are_their_definitions(returns: list[float], seed: int) -> None:
    held = np.random.default_rng(seed).normal(0.0, 0.02, len(returns))
    r = np.array(returns)
    found = whole(series_of(r, held))
    total = math.prod(1.0 + v for v in returns) - 1.0
    assert found["total_return"] == pytest.approx(total)
    assert found["session_hit_rate"] == sum(v > 0 for v in returns) / len(returns)
    assert found["annual_turnover"] == pytest.approx(25.2)
    assert found["average_net_exposure"] == pytest.approx(-0.2)
    slope = np.polyfit(held, r, 1)
    assert found["beta"] == pytest.approx(slope[0], abs=1e-6)
    assert found["alpha"] == pytest.approx(slope[1] * 252, abs=1e-5)
    if r.std() > 1e-6:
        assert found["sharpe_ratio"] == pytest.approx(r.mean() / r.std(ddof=1) * 252**0.5)
        below = math.sqrt(sum(min(v, 0.0) ** 2 for v in returns) / len(returns))
        if below > 1e-6:
            assert found["sortino_ratio"] == pytest.approx(r.mean() / below * 252**0.5)
    low, high = np.percentile(r, 5), np.percentile(r, 95)
    if low < -1e-6:
        assert found["tail_ratio"] == pytest.approx(high / -low)


def test_a_resample_is_measured_like_a_series_of_its_own() -> None:
    rng = np.random.default_rng(5)
    series = series_of(rng.normal(0.0, 0.01, 60), rng.normal(0.0, 0.01, 60))
    draws = draw_sessions(60, block=4.0, seed=2, draws=12)
    together = measures(series.take(draws.rows))
    for k, rows in enumerate(draws.rows):
        alone = whole(series.take(rows))
        for name, values in together.items():
            assert values[k] == pytest.approx(alone[name], nan_ok=True), name


def test_an_interval_misses_the_truth_as_often_as_it_says() -> None:
    """Of 200 series with a true Sharpe ratio of 1, 5 percent are 10; 3 to 19 is 99 percent."""
    rng = np.random.default_rng(11)
    true = 1.0 / 252**0.5
    missed = 0
    for k in range(200):
        returns = 0.01 * (rng.standard_normal(400) + true)
        draws = draw_sessions(400, block=block_of(returns), seed=k, draws=500)
        table = session_metrics(series_of(returns), draws, is_path=False)
        row = table.filter(pl.col("metric") == "sharpe_ratio").row(0, named=True)
        missed += not row["low"] < 1.0 < row["high"]
    assert 3 <= missed <= 19


def test_a_table_has_one_row_per_metric_and_says_what_it_rests_on() -> None:
    returns = np.random.default_rng(1).normal(0.0005, 0.01, 120)
    draws = draw_sessions(120, block=2.0, seed=1)
    table = session_metrics(series_of(returns), draws, group="year=2024")
    assert dict(table.schema) == dict(METRIC_SCHEMA)
    assert table["metric"].is_unique().all()
    assert set(table["n"]) == {120}
    assert set(table["group"]) == {"year=2024"}
    assert table.filter(pl.col("low") > pl.col("high")).is_empty()
    again = session_metrics(series_of(returns), draws, group="year=2024")
    assert again.equals(table)
    spliced = session_metrics(series_of(returns), draws, is_path=False)
    assert set(table["metric"]) - set(spliced["metric"]) == {
        "max_drawdown",
        "max_drawdown_sessions",
        "calmar_ratio",
    }


@pytest.mark.parametrize(("n", "block", "independent"), [(60, 1.0, 60), (60, 3.0, 12), (5, 9.0, 2)])
def test_an_interval_is_as_wide_as_student_s_t(n: int, block: float, independent: int) -> None:
    """Of a normal mean the expanded percentiles are the ends of the t interval, in the limit."""
    tail = draw_sessions(n, block=block, seed=1, draws=2).tail()
    bootstrapped = norm.isf(tail) * math.sqrt((independent - 1) / independent)
    assert bootstrapped == pytest.approx(t.isf(0.025, independent - 1))


def test_below_ten_sessions_there_is_no_interval() -> None:
    returns = np.random.default_rng(1).normal(0.0, 0.01, 9)
    table = session_metrics(series_of(returns), draw_sessions(9, block=1.0, seed=1))
    assert table["low"].null_count() == table.height
    assert table.filter(pl.col("metric") == "total_return")["value"].null_count() == 0


def test_all_lost_is_minus_one_a_year() -> None:
    found = whole(series_of(np.array([0.1, -1.0, 0.0])))
    assert found["total_return"] == -1.0
    assert found["annual_return"] == -1.0
    assert found["max_drawdown"] == -1.0


def test_a_drawdown_ends_where_its_peak_is_reached_again() -> None:
    depth, length = deepest_drawdowns(np.array([[-0.5, 1.0, 0.0, 0.5], [-0.5, 0.5, 0.0, 0.0]]))
    assert depth.tolist() == [-0.5, -0.5]
    assert length.tolist() == [2.0, 4.0]
