"""Skill and calibration of live forecasts, and the verdict on training again."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from market.errors import ModelError
from models.decay import (
    CalibrationDrift,
    Change,
    SkillDrift,
    calibration_drift,
    difference_of_means,
    skill_drift,
)
from models.evaluation import Estimate
from models.resampling import stationary_counts
from models.retraining import DriftLimits, Reason, needs_retraining

SYMBOLS = 12
BEGIN = dt.datetime(2023, 1, 2, 21, tzinfo=dt.UTC)
BAND = 40.0


def world(
    sessions: int, *, skill: float = 0.2, sure: float = 1.0, seed: int = 0, start: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Forecasts and labels; ``skill`` is their correlation, ``sure`` sharpens probabilities.

    Outcomes follow the probabilities of ``sure = 1`` exactly.
    """
    rng = np.random.default_rng(seed)
    n = sessions * SYMBOLS
    ends = [BEGIN + dt.timedelta(days=start + k // SYMBOLS) for k in range(n)]
    honest = rng.dirichlet([3.0, 3.0, 3.0], n)
    happened = (rng.random(n)[:, None] > honest.cumsum(axis=1)[:, :2]).sum(axis=1) - 1
    outcome = happened * 0.01 + rng.uniform(-0.003, 0.003, n)
    noise = rng.standard_normal(n) * 0.01
    claimed = honest**sure / (honest**sure).sum(axis=1, keepdims=True)
    keys = pl.DataFrame(
        {
            "symbol": [f"S{k % SYMBOLS}" for k in range(n)],
            "session": [e.date() for e in ends],
            "bar_end": ends,
            "as_of": ends,
        },
        schema_overrides={k: pl.Datetime("us", "UTC") for k in ("bar_end", "as_of")},
    )
    forecasts = keys.with_columns(
        engine=pl.lit("linear"),
        horizon=pl.lit("1d"),
        expected_return_bps=pl.Series(1e4 * (skill * outcome + (1.0 - skill) * noise)),
        p_short=pl.Series(claimed[:, 0]),
        p_neutral=pl.Series(claimed[:, 1]),
        p_long=pl.Series(claimed[:, 2]),
    )
    labels = keys.select("symbol", "bar_end").with_columns(
        label_known_at=pl.col("bar_end") + dt.timedelta(days=1), excess_return=pl.Series(outcome)
    )
    return forecasts, labels


WALKED, OLD = world(250, seed=1)


def moment(forecasts: pl.DataFrame) -> dt.datetime:
    return forecasts["bar_end"].max() + dt.timedelta(days=9)  # type: ignore[operator]


def skills(live: pl.DataFrame, labels: pl.DataFrame, **changed: Any) -> SkillDrift:
    options: dict[str, Any] = {"as_of": moment(live), "seed": 1, "block": 5.0} | changed
    return skill_drift(live, WALKED, pl.concat([OLD, labels]), **options)


def calibrations(live: pl.DataFrame, labels: pl.DataFrame, **changed: Any) -> CalibrationDrift:
    options: dict[str, Any] = {"as_of": moment(live), "seed": 1, "block": 5.0} | changed
    return calibration_drift(live, WALKED, pl.concat([OLD, labels]), band_bps=BAND, **options)


def test_skill_that_was_lost_is_found() -> None:
    found = skills(*world(60, skill=0.0, seed=2, start=250))
    assert found.decayed
    assert found.difference.mean == pytest.approx(found.recent.mean - found.reference.mean)
    assert (found.recent.periods, found.reference.periods) == (60, 250)


def test_skill_that_stayed_is_not_called_lost() -> None:
    """20 lives without a change: one false alarm in forty, so 3 at the 99.8th percentile."""
    alarms = [skills(*world(40, seed=s, start=250)).decayed for s in range(10, 30)]
    assert sum(alarms) <= 3


def test_skill_that_grew_is_no_decay() -> None:
    found = skills(*world(60, skill=0.9, seed=2, start=250))
    assert found.difference.low > 0.0
    assert not found.decayed


def test_rank_ic_is_spearmans_of_each_session() -> None:
    live, labels = world(25, seed=3, start=250)
    joined = live.join(labels, on=["symbol", "bar_end"])
    each = [
        spearmanr(part["expected_return_bps"], part["excess_return"]).statistic
        for _, part in joined.group_by("session")
    ]
    assert skills(live, labels).recent.mean == pytest.approx(np.mean(each))


def test_only_the_newest_sessions_count_and_the_walk_forward_ends_before_them() -> None:
    live, labels = world(80, seed=4, start=200)
    found = skills(live, labels, recent_sessions=30)
    assert found.recent.periods == 30
    assert found.reference.periods == 250
    overlapping = skills(live, labels, recent_sessions=80)
    assert (overlapping.recent.periods, overlapping.reference.periods) == (80, 200)


def test_outcomes_known_later_change_nothing() -> None:
    live, labels = world(60, seed=5, start=250)
    as_of = BEGIN + dt.timedelta(days=291)
    spoiled = labels.with_columns(
        pl.when(pl.col("label_known_at") > as_of)
        .then(-pl.col("excess_return"))
        .otherwise("excess_return")
        .alias("excess_return")
    )
    for judge in (skills, calibrations):
        found = judge(live, labels, as_of=as_of)
        assert found == judge(live, spoiled, as_of=as_of)
        assert found != judge(live, spoiled)
    assert skills(live, labels, as_of=as_of).recent.periods == 41


@given(
    recent=st.lists(st.floats(-1, 1), min_size=2, max_size=30),
    before=st.lists(st.floats(-1, 1), min_size=2, max_size=30),
    seed=st.integers(0, 9),
)
@settings(max_examples=5, derandomize=True)
def test_the_difference_is_resampled_on_both_sides(
    recent: list[float], before: list[float], seed: int
) -> None:
    one, other = (
        stationary_counts(len(v), block=3.0, rng=np.random.default_rng([seed, side]))
        for side, v in enumerate((recent, before))
    )
    naive = []
    for a, b in zip(one, other, strict=True):
        now = sum(a[k] * recent[k] for k in range(len(recent))) / len(recent)
        naive.append(now - sum(b[k] * before[k] for k in range(len(before))) / len(before))
    got = difference_of_means(np.array(recent), np.array(before), seed=seed, block=3.0)
    assert got.mean == pytest.approx(np.mean(recent) - np.mean(before), abs=1e-12)
    assert (got.low, got.high) == pytest.approx(
        tuple(np.quantile(naive, [0.025, 0.975])), abs=1e-12
    )


def naive_calibration(frame: pl.DataFrame) -> tuple[float, float]:
    """Brier score (mean of the sessions' means) and class-wise calibration error."""
    bins: dict[tuple[int, int], list[tuple[float, float]]] = {}
    brier: dict[Any, list[float]] = {}
    for row in frame.iter_rows(named=True):
        r = row["excess_return"] * 1e4
        what = 0 if r < -BAND else 2 if r > BAND else 1
        p = [row["p_short"], row["p_neutral"], row["p_long"]]
        brier.setdefault(row["session"], []).append(
            sum((p[c] - (c == what)) ** 2 for c in range(3))
        )
        for c in range(3):
            bins.setdefault((c, min(9, int(p[c] * 10))), []).append((p[c], float(c == what)))
    rows = frame.height
    error = sum(
        abs(np.mean([p for p, _ in pairs]) - np.mean([h for _, h in pairs])) * len(pairs) / rows
        for pairs in bins.values()
    )
    return float(np.mean([np.mean(v) for v in brier.values()])), float(error / 3)


def test_brier_score_and_calibration_error_are_those_of_naive_loops() -> None:
    live, labels = world(30, sure=3.0, seed=6, start=250)
    found = calibrations(live, labels)
    for frame, brier, error in (
        (live.join(labels, on=["symbol", "bar_end"]), found.brier.recent, "recent"),
        (WALKED.join(OLD, on=["symbol", "bar_end"]), found.brier.reference, "reference"),
    ):
        wanted = naive_calibration(frame)
        assert brier == pytest.approx(wanted[0])
        assert getattr(found.calibration_error, error) == pytest.approx(wanted[1])


def test_probabilities_that_became_too_sure_are_found() -> None:
    found = calibrations(*world(60, sure=4.0, seed=7, start=250))
    assert found.worsened
    assert found.log_loss.difference.low > 0.0
    assert found.brier.difference.low > 0.0


def test_few_sessions_are_not_called_miscalibrated_for_being_few() -> None:
    """20 sessions show more error than 250 by chance alone; 20 lives, 3 alarms at most."""
    found = [calibrations(*world(20, seed=s, start=250)) for s in range(40, 60)]
    errors = [f.calibration_error for f in found]
    assert all(e.recent > e.reference for e in errors)
    assert np.mean([e.difference.mean for e in errors]) == pytest.approx(0.0, abs=0.01)
    assert sum(f.worsened for f in found) <= 3


def test_a_live_record_longer_than_the_walk_forward_is_judged() -> None:
    live, labels = world(60, seed=8, start=250)
    short = WALKED.filter(pl.col("session") >= dt.date(2023, 8, 1))
    assert short["session"].n_unique() < 60
    found = calibration_drift(
        live,
        short,
        pl.concat([OLD, labels]),
        as_of=moment(live),
        band_bps=BAND,
        seed=1,
        block=5.0,
    )
    assert not found.worsened


def test_the_same_seed_gives_the_same_answer() -> None:
    live, labels = world(40, seed=9, start=250)
    for judge in (skills, calibrations):
        assert judge(live, labels) == judge(live, labels)
        assert judge(live, labels) != judge(live, labels, seed=2)
        backwards = live.reverse()
        assert judge(live, labels) == judge(backwards, labels)


@pytest.mark.parametrize("column", ["engine", "horizon"])
def test_forecasts_of_several_engines_or_horizons_are_refused(column: str) -> None:
    live, labels = world(40, start=250)
    with pytest.raises(ModelError, match="more than one engine or horizon"):
        skills(live.with_columns(pl.lit("other").alias(column)), labels)


def test_too_few_outcomes_are_refused() -> None:
    live, labels = world(19, start=250)
    with pytest.raises(ModelError, match=r"too few sessions with outcomes .* got '19 recent, 250"):
        skills(live, labels)
    live, labels = world(40, start=250)
    with pytest.raises(ModelError, match="too few sessions with outcomes"):
        skills(live, labels, recent_sessions=10)
    with pytest.raises(ModelError, match="too few sessions with outcomes"):
        calibrations(live, labels, as_of=BEGIN)


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 50)


def skill_of(low: float, high: float) -> SkillDrift:
    return SkillDrift(estimate(0.0, 0.1), estimate(0.0, 0.1), estimate(low, high))


def calibration_of(low: float, high: float) -> CalibrationDrift:
    worse = Change(0.1, 0.2, estimate(0.05, 0.1))
    return CalibrationDrift(worse, worse, Change(0.02, 0.04, estimate(low, high)))


def features_of(drifted: int, of: int) -> pl.DataFrame:
    names = [f"f{k}" for k in range(of)]
    return pl.DataFrame({"feature": names, "drifted": [k < drifted for k in range(of)]})


@pytest.mark.parametrize(
    ("given_", "reasons"),
    [
        ({"skill": skill_of(-0.05, -0.01)}, [Reason.SKILL]),
        ({"skill": skill_of(-0.05, 0.01)}, []),
        ({"skill": skill_of(0.01, 0.05)}, []),
        ({"skill": skill_of(-0.05, -0.01), "limits": DriftLimits(rank_ic=0.04)}, []),
        ({"calibration": calibration_of(0.005, 0.03)}, [Reason.CALIBRATION]),
        ({"calibration": calibration_of(0.001, 0.003)}, []),
        ({"calibration": calibration_of(-0.01, 0.05)}, []),
        ({"features": features_of(26, 100)}, [Reason.FEATURES]),
        ({"features": features_of(25, 100)}, []),
        ({"features": features_of(1, 100), "limits": DriftLimits(drifted_share=0.0)}, ["features"]),
        ({"features": features_of(2, 4), "importance": {"f0": 1.0, "f3": 9.0}}, []),
        ({"features": features_of(2, 4), "importance": {"f0": 9.0, "f3": 1.0}}, ["features"]),
        (
            {
                "features": features_of(3, 4),
                "calibration": calibration_of(0.1, 0.3),
                "skill": skill_of(-0.5, -0.1),
            },
            [Reason.FEATURES, Reason.CALIBRATION, Reason.SKILL],
        ),
    ],
)
def test_the_verdict_follows_from_the_limits(given_: dict[str, Any], reasons: list[str]) -> None:
    verdict = needs_retraining(**given_)
    assert list(verdict.reasons) == reasons
    assert verdict.retrain == bool(reasons)
    looked_at = {"features", "calibration", "skill"} & given_.keys()
    assert len(verdict.findings) == len(looked_at)
    assert math.isnan(verdict.drifted_share) == ("features" not in given_)


def test_an_interval_that_is_not_known_supports_nothing() -> None:
    nothing = Estimate(math.nan, math.nan, math.nan, 1)
    skill = replace(skill_of(-1.0, -0.5), difference=nothing)
    assert not needs_retraining(skill=skill).retrain


def test_nothing_to_judge_by_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing to judge a model by"):
        needs_retraining()
    for importance in ({"f0": -1.0, "f1": 3.0}, {}, {"f9": 1.0}):
        with pytest.raises(ModelError, match="importance of the features"):
            needs_retraining(features=features_of(1, 3), importance=importance)
    with pytest.raises(ModelError, match="importance of the features"):
        needs_retraining(features=features_of(0, 0))


@pytest.mark.parametrize(
    "given_", [{"drifted_share": 1.1}, {"calibration_error": -0.1}, {"rank_ic": -0.1}]
)
def test_limits_make_sense(given_: dict[str, float]) -> None:
    with pytest.raises(ModelError, match="limits of drift"):
        DriftLimits(**given_)
