"""An ensemble beside its members: what is planted is said, and noise is called noise."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evidence.ensemble_gaps import Verdict, ensemble_report, mean_interval
from market.errors import ModelError
from models.evaluation import bootstrap_mean

SURE = {"seed": 1, "block": 5.0}


def daily(**series: np.ndarray) -> pl.DataFrame:
    return pl.concat(
        pl.DataFrame({"engine": name, "session": range(len(values)), "rank_ic": values})
        for name, values in series.items()
    )


def noise(seed: int, sessions: int = 300, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.1, sessions)


def test_a_worse_ensemble_is_called_worse_and_a_better_one_better() -> None:
    a, b = noise(1, mean=0.03), noise(2, mean=0.0)
    worse = ensemble_report(daily(a=a, b=b, mix=a - 0.02), "mix", ["a", "b"], **SURE)
    assert worse.hindsight.member == worse.foresight.member == "a"
    assert worse.hindsight.verdict is worse.foresight.verdict is Verdict.WORSE
    better = ensemble_report(daily(a=a, b=b, mix=a + 0.02), "mix", ["a", "b"], **SURE)
    assert better.hindsight.verdict is better.foresight.verdict is Verdict.BETTER
    assert better.hindsight.difference.mean == pytest.approx(0.02)


def test_differences_are_paired_by_session() -> None:
    """Common noise of a session cancels: it does not widen the interval."""
    shared, own = noise(3), noise(4) / 100.0
    report = ensemble_report(daily(a=shared, mix=shared + own), "mix", ["a"], **SURE)
    width = report.hindsight.difference.high - report.hindsight.difference.low
    skill = report.skill["a"]
    assert width < 0.05 * (skill.high - skill.low)


def test_the_member_of_the_first_half_is_judged_on_the_second_alone() -> None:
    early = np.concatenate([np.full(100, 0.05), np.full(100, -0.05)])
    late = np.concatenate([np.full(100, -0.05), np.full(100, 0.15)])
    mix = np.zeros(200)
    report = ensemble_report(
        daily(early=early, late=late, mix=mix), "mix", ["late", "early"], **SURE
    )
    assert report.hindsight.member == "late"
    assert report.foresight.member == "early"
    assert report.foresight.difference.mean == pytest.approx(0.05)
    assert report.foresight.difference.periods == 100
    # What the second half holds cannot change who is chosen.
    changed = early.copy()
    changed[100:] = 0.4
    again = ensemble_report(
        daily(early=changed, late=late, mix=mix), "mix", ["late", "early"], **SURE
    )
    assert again.foresight.member == "early"
    assert again.hindsight.member == "early"


@given(seed=st.integers(0, 10_000), members=st.integers(1, 4))
def test_hindsight_is_the_hardest_rival_and_order_does_not_matter(seed: int, members: int) -> None:
    names = [f"m{k}" for k in range(members)]
    series = {n: noise(seed + k, 60) for k, n in enumerate(names)}
    frame = daily(**series, mix=noise(seed + 99, 60), stranger=noise(seed + 5, 60))
    report = ensemble_report(frame, "mix", names, **SURE, draws=50)
    smallest = min(g.difference.mean for g in report.gaps)
    assert report.hindsight.difference.mean == smallest
    assert [g.member for g in report.gaps] == names
    assert set(report.skill) == {"mix", *names}
    mixed = ensemble_report(frame.sample(fraction=1.0, shuffle=True, seed=1), "mix", names[::-1],
                            **SURE, draws=50)  # fmt: skip
    assert mixed == report


def test_equal_forecasters_are_rarely_told_apart() -> None:
    verdicts = [
        ensemble_report(
            daily(a=noise(3 * k), mix=noise(3 * k + 1)), "mix", ["a"], **SURE, draws=300
        ).hindsight.verdict
        for k in range(200)
    ]
    # 95 percent intervals: 10 of 200 on average, and 20 or more with a chance of 0.3 percent.
    assert verdicts.count(Verdict.WITHIN_NOISE) > 180


def test_the_interval_is_about_that_of_the_plain_bootstrap() -> None:
    values = noise(7, 1000, mean=0.02)
    ours = mean_interval(values, seed=1, block=5.0)
    plain = bootstrap_mean(values, seed=1, block=5.0)
    assert ours.mean == pytest.approx(plain.mean)
    assert ours.low == pytest.approx(plain.low, abs=0.001)
    assert ours.high == pytest.approx(plain.high, abs=0.001)


@pytest.mark.parametrize("name", ["session", "rank_ic", "engine"])
def test_an_engine_may_be_called_like_a_column(name: str) -> None:
    a, mix = noise(1, 60), noise(2, 60)
    report = ensemble_report(daily(a=a, **{name: mix}), name, ["a"], **SURE)
    assert report.hindsight == ensemble_report(daily(a=a, mix=mix), "mix", ["a"], **SURE).hindsight


def test_too_short_halves_are_unknown_and_not_within_noise() -> None:
    report = ensemble_report(daily(a=noise(1, 20), mix=noise(2, 20)), "mix", ["a"], **SURE)
    assert report.foresight.verdict is Verdict.UNKNOWN
    assert math.isnan(report.foresight.difference.low)


def test_sessions_that_one_of_them_lacks_do_not_count() -> None:
    a, mix = noise(1, 100), noise(2, 100)
    whole = ensemble_report(daily(a=a[:80], mix=mix[:80]), "mix", ["a"], **SURE)
    holes = a.copy()
    holes[80:] = np.nan
    assert ensemble_report(daily(a=holes, mix=mix), "mix", ["a"], **SURE) == whole


@pytest.mark.parametrize(
    ("frame", "members", "message"),
    [
        (daily(a=noise(1), mix=noise(2)), [], "members"),
        (daily(a=noise(1), mix=noise(2)), ["a", "mix"], "members"),
        (daily(a=noise(1), mix=noise(2)), ["a", "a"], "members"),
        (daily(a=noise(1), mix=noise(2)), ["a", "b"], "no rank IC of"),
        (daily(a=noise(1, 19), mix=noise(2, 19)), ["a"], "19 sessions"),
        (pl.concat([daily(a=noise(1), mix=noise(2))] * 2), ["a"], "two rank ICs"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    frame: pl.DataFrame, members: list[str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        ensemble_report(frame, "mix", members, **SURE)
