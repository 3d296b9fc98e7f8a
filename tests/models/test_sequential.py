"""Looking every day for a year: seldom wrong, useful, and the same after being stored."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm, t

from market.errors import ModelError
from models.comparison import diebold_mariano
from models.sequential import Decision, Look, SequentialTest

DAY = dt.date(2024, 1, 2)
YEAR = 252


def years(kind: str, count: int, seed: int = 0) -> np.ndarray:
    """Differences of losses over a year with a long-run standard deviation of about 1."""
    rng = np.random.default_rng(seed)
    shocks = rng.standard_normal((count, YEAR + 60))
    if kind == "remembers":
        made = np.zeros_like(shocks)
        for k in range(1, shocks.shape[1]):
            made[:, k] = 0.4 * made[:, k - 1] + 0.6 * shocks[:, k]
        return made[:, 60:]
    if kind == "overlaps":
        sums = np.cumsum(shocks, axis=1)
        return ((sums[:, 10:] - sums[:, :-10]) / 10.0)[:, :YEAR]
    # Better by a little on most days, and much worse on some.
    return 1.0 - rng.exponential(1.0, (count, YEAR))


def watch(difference: np.ndarray, test: SequentialTest) -> SequentialTest:
    champion, challenger = difference, np.zeros(len(difference))
    for n in range(1, len(difference) + 1):
        test = test.look(champion[:n], challenger[:n], session=DAY + dt.timedelta(days=n))
        if test.decision is not Decision.CONTINUE:
            return test
    return test


@pytest.mark.parametrize(("kind", "overlap"), [("remembers", 1), ("overlaps", 10), ("skewed", 1)])
def test_a_challenger_that_is_no_better_is_seldom_promoted(kind: str, overlap: int) -> None:
    """300 years, looked at every day: promotions are binomial with at most 5 percent, within
    one in a hundred; all that are left are kept at the end."""
    found = [watch(y, SequentialTest(overlap=overlap)).decision for y in years(kind, 300)]
    assert found.count(Decision.PROMOTE) <= binom.ppf(0.99, 300, 0.05)
    assert found.count(Decision.CONTINUE) == 0


def test_a_test_that_ignores_its_looks_would_be_wrong_far_more_often() -> None:
    wrong = 0
    for year in years("remembers", 100):
        looks = range(40, YEAR + 1, 4)
        zeros = np.zeros(YEAR)
        wrong += any(
            diebold_mariano(year[:n], zeros[:n], lags=8, alternative="b better").p_value < 0.05
            for n in looks
        )
    assert wrong > binom.ppf(0.999, 100, 0.10)


@pytest.mark.parametrize(("strength", "power"), [(3.0, 0.7), (5.0, 0.97)])
def test_a_better_challenger_is_found(strength: float, power: float) -> None:
    """``strength`` is the mean over a year in standard errors of that year."""
    found = [
        watch(y + strength / math.sqrt(YEAR), SequentialTest()) for y in years("remembers", 100)
    ]
    promoted = [f for f in found if f.decision is Decision.PROMOTE]
    assert len(promoted) >= binom.ppf(0.01, 100, power)
    if strength == 5.0:
        assert np.median([f.crossed.sessions for f in promoted]) < 170


def test_a_worse_challenger_is_never_promoted() -> None:
    found = [watch(y - 1.0 / math.sqrt(YEAR), SequentialTest()) for y in years("remembers", 60)]
    assert sum(f.decision is Decision.PROMOTE for f in found) <= 1


@pytest.mark.parametrize("n", [40, 63, 150, 252])
@pytest.mark.parametrize("overlap", [1, 5])
def test_the_limit_is_that_of_the_formulas(n: int, overlap: int) -> None:
    """Cosine transforms term by term, quantiles by scipy.stats."""
    year = years("remembers", 1, seed=n)[0][:n]
    v = min(math.floor(0.4 * n ** (2 / 3)), n // (2 * overlap))
    steps = np.arange(1, n + 1) - 0.5
    terms = [
        math.sqrt(2 / n) * np.sum(year * np.cos(math.pi * j * steps / n)) for j in range(1, v + 1)
    ]
    error = math.sqrt(np.mean(np.square(terms)) / n)
    boundary = norm.isf(0.6 * 0.05 / 2) / math.sqrt(n / YEAR)
    wanted = year.mean() - t.isf(norm.sf(boundary), v) * error
    seen = SequentialTest(overlap=overlap).look(year, np.zeros(n), session=DAY).last
    assert (seen.mean, seen.low) == pytest.approx((year.mean(), wanted))
    assert seen.sessions == n


def test_looks_do_not_depend_on_earlier_looks() -> None:
    """The boundary is spent whether or not somebody looks."""
    year = years("overlaps", 1)[0] + 0.1
    zeros = np.zeros(YEAR)
    daily = watch(year, SequentialTest(overlap=10))
    at = daily.last.sessions
    once = SequentialTest(overlap=10).look(year[:at], zeros[:at], session=daily.last.session)
    assert once.last == daily.last
    assert (once.looks, daily.looks) == (1, at)


def test_once_promoted_always_promoted() -> None:
    n = 100
    rng = np.random.default_rng(0)
    better = 1.0 + 0.1 * rng.standard_normal(n)
    first = SequentialTest().look(better, np.zeros(n), session=DAY)
    assert first.decision is Decision.PROMOTE
    assert first.crossed == first.last
    later = first.look(np.append(better, [-99.0] * 50), np.zeros(n + 50), session=DAY)
    assert later == first


def test_after_the_plan_nothing_counts() -> None:
    year = years("remembers", 1)[0]
    ended = SequentialTest().look(year, np.zeros(YEAR), session=DAY)
    assert ended.decision is Decision.KEEP
    more = np.append(year, np.full(100, 50.0))
    assert ended.look(more, np.zeros(YEAR + 100), session=DAY) == ended
    late = SequentialTest().look(more, np.zeros(YEAR + 100), session=DAY)
    assert late == ended


def test_early_looks_decide_nothing() -> None:
    huge = np.random.default_rng(0).normal(100.0, 1.0, 39)
    seen = SequentialTest().look(huge, np.zeros(39), session=DAY)
    assert seen.decision is Decision.CONTINUE
    assert seen.last.low == -math.inf
    # Labels that overlap over 21 sessions need 126 of them for three transforms.
    long = np.random.default_rng(0).normal(100.0, 1.0, 126)
    test = SequentialTest(overlap=21)
    assert test.look(long[:125], np.zeros(125), session=DAY).last.low == -math.inf
    assert test.look(long, np.zeros(126), session=DAY).decision is Decision.PROMOTE
    assert SequentialTest().look(np.array([]), np.array([]), session=DAY).looks == 1


def test_equal_losses_are_kept() -> None:
    loss = np.random.default_rng(0).random(YEAR)
    assert watch(loss - loss, SequentialTest()).decision is Decision.KEEP


floats = st.floats(allow_nan=False)
looks = st.builds(Look, st.dates(), st.integers(0, 999), floats, floats)


@given(
    st.integers(100, 500),
    st.integers(1, 10),
    st.floats(0.001, 0.4),
    st.none() | looks,
    st.none() | looks,
)
@settings(deadline=None, derandomize=True, max_examples=100)
def test_tags_bring_back_every_bit(planned, overlap, alpha, last, crossed) -> None:
    test = SequentialTest(planned, overlap, alpha, 40, 7, last, crossed)
    tags = test.to_tags()
    assert all(isinstance(v, str) and len(v) < 100 for v in tags.values())
    assert SequentialTest.from_tags(tags | {"family": "linear"}) == test


def test_a_test_goes_on_from_its_tags() -> None:
    year = years("remembers", 1, seed=5)[0] + 0.2
    zeros = np.zeros(YEAR)
    whole = stored = SequentialTest()
    for n in range(35, YEAR + 1, 7):
        whole = whole.look(year[:n], zeros[:n], session=DAY)
        stored = SequentialTest.from_tags(stored.to_tags())
        stored = stored.look(year[:n], zeros[:n], session=DAY)
    assert whole == stored


@pytest.mark.parametrize(
    "changes",
    [{"alpha": "much"}, {"looks": ""}, {"last_mean": "x"}, {"last_session": "yesterday"}],
)
def test_tags_that_are_none_are_refused(changes: dict[str, str]) -> None:
    tags = SequentialTest().look(np.ones(50), np.zeros(50), session=DAY).to_tags()
    with pytest.raises(ModelError, match="cannot be read"):
        SequentialTest.from_tags(tags | changes)
    with pytest.raises(ModelError, match="cannot be read"):
        SequentialTest.from_tags({})


@pytest.mark.parametrize(
    "changes",
    [
        {"planned_sessions": 0},
        {"min_sessions": 0},
        {"min_sessions": 300},
        {"overlap": 0},
        {"alpha": 0.0},
        {"alpha": 0.5},
        {"looks": -1},
        {"overlap": 50},
        {"planned_sessions": 20, "min_sessions": 10},
    ],
)
def test_a_senseless_plan_is_refused(changes: dict) -> None:
    with pytest.raises(ModelError, match=r"plan of a sequential test|could never decide"):
        SequentialTest(**changes)


def test_losses_that_do_not_fit_are_refused() -> None:
    test = SequentialTest(last=Look(DAY, 50, 0.0, -1.0))
    with pytest.raises(ModelError, match="lost sessions"):
        test.look(np.ones(49), np.ones(49), session=DAY)
    with pytest.raises(ModelError, match="do not fit together"):
        test.look(np.ones(60), np.ones(61), session=DAY)
    with pytest.raises(ModelError, match="not usable"):
        test.look(np.ones(60), np.full(60, np.inf), session=DAY)
