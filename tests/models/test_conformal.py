"""Prediction sets: coverage where it is promised, abstention, and no look ahead."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from market.errors import ModelError
from models.calibration import calibrate_walk_forward
from models.conformal import ConformalSets, SetColumn, conformal_walk_forward, fit_conformal
from models.outcomes import join_outcomes, probability_matrix
from tests.forecasts import forecasts
from tests.markets import bits

SURE = {"sessions": 200, "symbols": 20, "skill": 1.5, "boldness": 1.5}


def draw(n: int, seed: int, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Exchangeable rows; the forecasts are wrong by a power, which coverage must not mind."""
    rng = np.random.default_rng(seed)
    truth = rng.dirichlet([0.5, 0.5, 0.5], n)
    raw = truth**sharpness + 1e-9
    outcomes = (rng.random((n, 1)) > truth.cumsum(axis=1)).sum(axis=1).clip(0, 2) - 1
    return raw / raw.sum(axis=1, keepdims=True), outcomes


@pytest.mark.parametrize("coverage", [0.6, 0.8, 0.9])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_exchangeable_rows_are_covered_as_declared(coverage: float, sharpness: float) -> None:
    """Over 400 fits on 99 rows with one new row each, hits are binomial with at least the
    declared coverage and at most 0.01 more: both bounds at one in ten thousand."""
    hits = 0
    for seed in range(400):
        raw, outcomes = draw(100, seed, sharpness)
        fitted = fit_conformal(raw[:99], outcomes[:99], coverage=coverage)
        hits += int(fitted.sets(raw[99:])[0, outcomes[99] + 1])
    assert hits >= binom.ppf(1e-4, 400, coverage)
    assert hits <= binom.ppf(1 - 1e-4, 400, coverage + 0.01)


@given(st.integers(0, 60), st.floats(0.05, 0.95), st.integers(0, 50))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_the_threshold_is_the_smallest_that_covers_enough_past_rows(n, coverage, seed) -> None:
    raw, outcomes = draw(n, seed)
    fitted = fit_conformal(raw, outcomes, coverage=coverage)
    scores = sorted(1.0 - raw[k, outcomes[k] + 1] for k in range(n))
    needed = math.ceil((n + 1) * coverage)
    if needed > n:
        assert fitted.sets(np.eye(3)).all()
    else:
        assert fitted.threshold == scores[needed - 1]
        inside = fitted.sets(raw)[np.arange(n), outcomes + 1]
        assert inside.sum() >= needed


@given(st.floats(0.0, 1.0), st.integers(0, 50))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_direction_is_given_only_by_a_set_of_that_class_alone(threshold, seed) -> None:
    raw, _ = draw(30, seed)
    fitted = ConformalSets(coverage=0.8, threshold=threshold, rows=10)
    for row, direction in zip(fitted.sets(raw).tolist(), fitted.directions(raw), strict=True):
        wanted = {(True, False, False): -1, (False, False, True): 1}.get(tuple(row), 0)
        assert direction == wanted


def test_more_coverage_never_makes_a_set_smaller() -> None:
    raw, outcomes = draw(500, 1)
    smaller = np.zeros(raw.shape, dtype=bool)
    for coverage in (0.1, 0.5, 0.7, 0.9, 0.99):
        sets = fit_conformal(raw, outcomes, coverage=coverage).sets(raw)
        assert (sets >= smaller).all()
        smaller = sets


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, float("nan")])
def test_a_coverage_out_of_range_is_refused(coverage: float) -> None:
    with pytest.raises(ModelError, match="coverage"):
        fit_conformal(*draw(50, 0), coverage=coverage)


def test_sets_of_a_walk_are_those_of_what_was_known() -> None:
    predictions, outcomes = forecasts(**SURE)
    out = conformal_walk_forward(predictions, outcomes, coverage=0.7)
    assert out.columns == list(SetColumn)
    month = out["session"].dt.truncate("1mo") == out["session"].max().replace(day=1)
    first = out.filter(month)["as_of"].min()
    known = join_outcomes(predictions, outcomes).filter(pl.col("label_known_at") <= first)
    fitted = fit_conformal(probability_matrix(known), known["outcome"].to_numpy(), coverage=0.7)
    rows = probability_matrix(predictions.filter(month))
    got = out.filter(month)
    assert got.select("has_short", "has_neutral", "has_long").to_numpy().tolist() == (
        fitted.sets(rows).tolist()
    )
    assert got["direction"].to_list() == fitted.directions(rows).tolist()
    assert got["evidence_rows"].unique().to_list() == [known.height]
    assert set(got["direction"].unique()) == {-1, 0, 1}


def test_before_anything_is_known_every_class_is_possible() -> None:
    predictions, outcomes = forecasts(**SURE)
    out = conformal_walk_forward(predictions, outcomes, coverage=0.7)
    first = out.filter(pl.col("evidence_rows") == 0)
    assert first["session"].n_unique() > 15
    assert first.select(pl.all_horizontal("has_short", "has_neutral", "has_long").all()).item()
    assert (first["direction"] == 0).all()


def test_later_outcomes_change_no_earlier_set() -> None:
    predictions, outcomes = forecasts(**SURE)
    out = conformal_walk_forward(predictions, outcomes, coverage=0.7)
    sessions = predictions["session"].unique().sort()
    moment = out.filter(pl.col("session").dt.month() == 5)["as_of"].min()
    later = pl.col("label_known_at") > moment
    changed = outcomes.with_columns(
        pl.when(later).then(-pl.col("outcome")).otherwise(pl.col("outcome")).alias("outcome")
    )
    other = conformal_walk_forward(predictions, changed, coverage=0.7)
    upto = pl.col("session").dt.month() <= 5
    assert sessions[-1].month > 6
    assert bits(other.filter(upto)) == bits(out.filter(upto))
    assert bits(other.filter(~upto)) != bits(out.filter(~upto))


def test_forecasts_without_skill_abstain() -> None:
    predictions, outcomes = forecasts(sessions=200, symbols=20, skill=0.0, boldness=0.5)
    calibrated, _ = calibrate_walk_forward(predictions, outcomes, min_sessions=60)
    out = conformal_walk_forward(calibrated, outcomes, coverage=0.8)
    late = out.filter(pl.col("evidence_rows") > 2000)
    assert (late["direction"] != 0).mean() < 0.01
