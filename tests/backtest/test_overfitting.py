"""Published examples, plain second readings, and what is said where there is nothing to find."""

from __future__ import annotations

import json
import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from backtest.overfitting import (
    SharpeEstimate,
    Trials,
    backtest_overfitting,
    deflated_sharpe_ratio,
    estimate_sharpe,
    expected_maximum,
    judge_overfitting,
    minimum_track_record,
    probabilistic_sharpe_ratio,
)
from market.errors import BacktestError


def trials(total: int = 1, sharpes: tuple[float, ...] = ()) -> Trials:
    return Trials(0, 0, total - 1, 1, sharpes, "a test")


class TestPublished:
    def test_the_fund_of_the_efficient_frontier(self) -> None:
        """Bailey and López de Prado (2012): two years of months, Sharpe ratio 0.458 a month."""
        fund = SharpeEstimate(0.458, skewness=-2.448, kurtosis=10.164, periods=24)
        assert probabilistic_sharpe_ratio(fund) == pytest.approx(0.913, abs=5e-4)
        normal = SharpeEstimate(0.458, skewness=0.0, kurtosis=3.0, periods=24)
        assert probabilistic_sharpe_ratio(normal) == pytest.approx(0.982, abs=5e-4)

    @pytest.mark.parametrize(("periods", "years"), [(252, 2.73), (52, 2.83), (12, 3.24)])
    def test_the_track_record_of_a_sharpe_ratio_of_two_against_one(
        self, periods: int, years: float
    ) -> None:
        """The same paper: daily, weekly and monthly normal returns."""
        estimate = SharpeEstimate(2.0 / periods**0.5, 0.0, 3.0, periods)
        needed = minimum_track_record(estimate, 1.0 / periods**0.5)
        assert needed / periods == pytest.approx(years, abs=5e-3)

    def test_the_strategy_of_the_deflated_sharpe_ratio(self) -> None:
        """Bailey and López de Prado (2014): five years of days, 2.5 a year, 100 trials."""
        found = SharpeEstimate(2.5 / 250**0.5, skewness=-3.0, kurtosis=10.0, periods=1250)
        variance = 0.5 / 250
        assert expected_maximum(100, variance) == pytest.approx(0.1132, abs=5e-5)
        assert deflated_sharpe_ratio(found, trials=100, variance=variance) == pytest.approx(
            0.9004, abs=5e-5
        )
        assert deflated_sharpe_ratio(found, trials=46, variance=variance) == pytest.approx(
            0.9505, abs=5e-5
        )
        normal = SharpeEstimate(2.5 / 250**0.5, 0.0, 3.0, 1250)
        assert deflated_sharpe_ratio(normal, trials=88, variance=variance) >= 0.95
        assert deflated_sharpe_ratio(normal, trials=90, variance=variance) < 0.95


class TestChance:
    def test_without_skill_the_probabilistic_ratio_is_uniform(self) -> None:
        rng = np.random.default_rng(0)
        found = np.array(
            [
                probabilistic_sharpe_ratio(estimate_sharpe(rng.standard_t(6, 300)))
                for _ in range(1000)
            ]
        )
        expected = (np.arange(1000) + 0.5) / 1000
        # Kolmogorov and Smirnov: 1.63 / sqrt(n) is the 99th percentile.
        assert np.abs(np.sort(found) - expected).max() < 1.63 / 1000**0.5

    def test_the_best_of_many_without_skill_is_seldom_called_skill(self) -> None:
        """300 searches among 40: at 95 percent 15 would be, and the undeflated ratio is fooled."""
        rng = np.random.default_rng(1)
        called = fooled = 0
        for _ in range(300):
            returns = rng.standard_normal((250, 40))
            sharpes = returns.mean(axis=0) / returns.std(axis=0, ddof=1)
            best = estimate_sharpe(returns[:, sharpes.argmax()])
            variance = float(sharpes.var(ddof=1))
            called += deflated_sharpe_ratio(best, trials=40, variance=variance) > 0.95
            fooled += probabilistic_sharpe_ratio(best) > 0.95
        assert called <= 15
        assert fooled > 200

    def test_the_expected_maximum_is_that_of_a_simulation(self) -> None:
        rng = np.random.default_rng(2)
        for count in (10, 50, 400):
            seen = rng.standard_normal((4000, count)).max(axis=1).mean()
            assert expected_maximum(count, 1.0) == pytest.approx(seen, rel=0.03)

    def test_a_choice_among_equals_is_poor_half_of_the_time(self) -> None:
        rng = np.random.default_rng(3)
        names = tuple("abcde")
        found = [
            backtest_overfitting(
                rng.standard_normal((200, 5)), names, statistic=statistic, blocks=10
            ).probability
            for _ in range(60)
            for statistic in ("mean", "ratio")
        ]
        assert np.mean(found) == pytest.approx(0.5, abs=0.08)

    def test_one_that_is_better_is_chosen_and_stays_so(self) -> None:
        rng = np.random.default_rng(4)
        values = rng.standard_normal((400, 6))
        values[:, 2] += 0.5
        found = backtest_overfitting(values, tuple("abcdef"), statistic="ratio")
        assert found.probability < 0.01
        assert (found.blocks, found.splits, found.sessions) == (16, math.comb(16, 8), 400)


def slow_overfitting(values: np.ndarray, blocks: int, purge: int) -> float:
    """Cross-validate as the paper writes it, one split after the other."""
    parts = [list(p)[: len(p) - purge] for p in np.array_split(values, blocks)]
    poor = 0.0
    splits = list(combinations(range(blocks), blocks // 2))
    for chosen in splits:
        inside = np.array([row for b in chosen for row in parts[b]])
        outside = np.array([row for b in range(blocks) if b not in chosen for row in parts[b]])
        trained, tested = inside.mean(axis=0), outside.mean(axis=0)
        best = int(trained.argmax())
        below = sum(tested[best] > v for v in tested) + 1
        above = sum(tested[best] < v for v in tested) + 1
        poor += 1.0 if below < above else 0.5 if below == above else 0.0
    return poor / len(splits)


@pytest.mark.parametrize(("purge", "strategies"), [(0, 4), (3, 5), (2, 2)])
def test_the_splits_are_those_of_the_paper(purge: int, strategies: int) -> None:
    values = np.random.default_rng(purge).standard_normal((83, strategies))
    names = tuple(map(str, range(strategies)))
    found = backtest_overfitting(values, names, statistic="mean", purge=purge, blocks=8)
    assert found.blocks == 8
    assert found.probability == pytest.approx(slow_overfitting(values, 8, purge))


def test_purged_sessions_are_not_looked_at() -> None:
    values = np.random.default_rng(0).standard_normal((80, 3))
    changed = values.copy()
    for end in range(10, 81, 10):
        changed[end - 2 : end] = 99.0 * np.array([1.0, -1.0, 0.0])
    names = ("a", "b", "c")
    one, other = (
        backtest_overfitting(v, names, statistic="mean", purge=2, blocks=8)
        for v in (values, changed)
    )
    assert one == other


def test_too_little_is_refused() -> None:
    with pytest.raises(BacktestError, match="too little"):
        backtest_overfitting(np.zeros((15, 2)), ("a", "b"), statistic="mean")
    with pytest.raises(BacktestError, match="too little"):
        backtest_overfitting(np.zeros((400, 1)), ("a",), statistic="mean")
    with pytest.raises(BacktestError, match="statistic"):
        backtest_overfitting(np.zeros((400, 2)), ("a", "b"), statistic="median")
    with pytest.raises(BacktestError, match="trials"):
        expected_maximum(0, 1.0)
    with pytest.raises(BacktestError, match="no Sharpe ratio"):
        estimate_sharpe(np.full(50, 0.01))


class TestVerdict:
    def judged(self, **changed: Any) -> dict[str, Any]:
        rng = np.random.default_rng(8)
        returns = changed.pop("returns", 0.01 * (rng.standard_normal(500) + 0.12))
        return judge_overfitting(returns, changed.pop("trials", trials()), {})

    def test_more_looks_raise_the_hurdle(self) -> None:
        few, many = (self.judged(trials=trials(n)) for n in (2, 2000))
        assert few["deflated_sharpe_ratio"] > many["deflated_sharpe_ratio"]
        assert few["expected_maximum_sharpe"] < many["expected_maximum_sharpe"]
        assert few["probabilistic_sharpe_ratio"] == many["probabilistic_sharpe_ratio"]
        assert "2,000 trials" in many["verdict"]

    def test_trials_alike_do_not_lower_it_below_sampling_error(self) -> None:
        alike = self.judged(trials=trials(50, (0.1, 0.1, 0.1)))
        assert alike["sharpe_variance"] == pytest.approx(1 / 499)
        assert "sampling error" in alike["sharpe_variance_from"]
        apart = self.judged(trials=trials(50, (-0.3, 0.1, 0.4)))
        assert apart["sharpe_variance"] == pytest.approx(np.var((-0.3, 0.1, 0.4), ddof=1))
        assert apart["sharpe_variance_from"] == "3 earlier backtests"
        assert apart["deflated_sharpe_ratio"] < alike["deflated_sharpe_ratio"]

    def test_a_single_look_deflates_nothing(self) -> None:
        found = self.judged()
        assert found["deflated_sharpe_ratio"] == found["probabilistic_sharpe_ratio"]
        z = norm.ppf(found["deflated_sharpe_ratio"])
        needed = 1 + 499 * (norm.ppf(0.95) / z) ** 2
        assert found["minimum_track_record_sessions"] == math.ceil(needed)

    def test_it_is_json_and_says_who_counted(self) -> None:
        splits = backtest_overfitting(
            np.random.default_rng(0).standard_normal((100, 3)), ("a", "b", "c"), statistic="mean"
        )
        found = judge_overfitting(np.full(5, 0.01), trials(3), {"1d": splits})
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert found["trials"]["counted_in"] == "a test"
        assert found["trials"]["total"] == 3
        assert found["deflated_sharpe_ratio"] is None
        assert "too little" in found["verdict"]

    def test_of_several_horizons_the_worst_choice_counts(self) -> None:
        noise = np.random.default_rng(0).standard_normal((100, 3))
        splits = {
            name: backtest_overfitting(noise + lead, ("a", "b", "c"), statistic="mean")
            for name, lead in (("1d", np.array([2.0, 0.0, 0.0])), ("14d", 0.0))
        }
        found = judge_overfitting(np.full(5, 0.01), trials(3), splits)
        by_horizon = found["probability_by_horizon"]
        assert by_horizon["14d"] > by_horizon["1d"] == 0.0
        assert found["probability_of_overfitting"] == by_horizon["14d"]
        assert found["splits"]["horizon"] == "14d"

    def test_losing_needs_for_ever(self) -> None:
        losing = self.judged(returns=np.random.default_rng(0).standard_normal(300) - 0.3)
        assert losing["minimum_track_record_sessions"] is None
        assert "luck is enough" in losing["verdict"]
