"""Calibration: what is chosen, what is promised, and that nothing sees the future."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import log_loss as sklearn_log_loss

from market.errors import ModelError
from models.calibration import (
    Calibrator,
    Method,
    calibrate,
    calibrate_walk_forward,
    fit_calibrator,
    fit_latest,
)
from models.forecast import PREDICTION_SCHEMA
from models.outcomes import PROBABILITIES, join_outcomes, probability_matrix
from tests.forecasts import forecasts
from tests.markets import bits

BOLD = {"sessions": 320, "symbols": 20, "skill": 0.15, "boldness": 0.9}
QUICK = {"min_sessions": 60}


def bent(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts whose truth is a step, which no straight line in log-odds can follow."""
    rng = np.random.default_rng(seed)
    p_long = rng.uniform(0.1, 0.8, n)
    raw = np.stack([0.5 * (1 - p_long), 0.5 * (1 - p_long), p_long], axis=1)
    true_long = np.where(p_long > 0.45, 0.9, 0.02)
    truth = np.stack([0.5 * (1 - true_long), 0.5 * (1 - true_long), true_long], axis=1)
    return raw, (rng.random((n, 1)) > truth.cumsum(axis=1)).sum(axis=1) - 1


def honest(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    raw = rng.dirichlet([1.0, 1.0, 1.0], n)
    return raw, (rng.random((n, 1)) > raw.cumsum(axis=1)).sum(axis=1) - 1


def loss(outcomes: np.ndarray, probabilities: np.ndarray) -> float:
    return sklearn_log_loss(outcomes, probabilities, labels=[-1, 0, 1])


# --- what is chosen -------------------------------------------------------------------------


def test_overconfident_forecasts_are_tamed_by_platt() -> None:
    rng = np.random.default_rng(1)
    raw, outcomes = rng.dirichlet([1.0, 1.0, 1.0], 4000), rng.integers(-1, 2, 4000)
    fitted = fit_calibrator(raw, outcomes)
    assert fitted.method is Method.PLATT
    assert fitted.apply(raw) == pytest.approx(np.full(raw.shape, 1 / 3), abs=0.06)


def test_a_step_is_followed_by_isotonic() -> None:
    raw, outcomes = bent(6000)
    fitted = fit_calibrator(raw, outcomes)
    assert fitted.method is Method.ISOTONIC
    new, after = bent(6000, seed=1)
    assert loss(after, fitted.apply(new)) < loss(after, new) - 0.1


def test_the_choice_is_the_lower_log_loss_on_the_newer_part() -> None:
    """Sessions of ten rows, a gap of five: the losses are those of the last 30 of 100."""
    raw, outcomes = bent(1000)
    raw, outcomes = np.tile(raw, (2, 1)), np.tile(outcomes, 2)
    sessions = np.arange(2000) // 20
    fitted = fit_calibrator(raw, outcomes, sessions=sessions, gap=5)
    assert fitted.losses[0][1] == pytest.approx(loss(outcomes[1400:], raw[1400:]))
    names = [name for name, _ in fitted.losses]
    assert names == ["identity", "platt", "isotonic"]
    assert fitted.method == min(fitted.losses, key=lambda pair: pair[1])[0]
    older = fit_calibrator(raw[:1500], outcomes[:1500], sessions=sessions[:1500])
    assert older.method is Method.ISOTONIC
    assert (fitted.rows, fitted.sessions) == (2000, 100)


def test_the_gap_is_learned_from_by_no_candidate() -> None:
    raw, outcomes = bent(2000)
    sessions = np.arange(2000) // 20
    spoiled = outcomes.copy()
    spoiled[1300:1400] = -1
    first = fit_calibrator(raw, outcomes, sessions=sessions, gap=5)
    other = fit_calibrator(raw, spoiled, sessions=sessions, gap=5)
    assert first.losses == other.losses
    assert fit_calibrator(raw, spoiled, sessions=sessions, gap=4).losses != first.losses
    # Once chosen, the map is fitted on all of them.
    assert first.knots != other.knots


def test_a_newer_part_that_differs_decides() -> None:
    """What calibrated the older rows would spoil the newer ones: identity."""
    raw, outcomes = bent(4000)
    new, after = honest(2500)
    both = np.concatenate([raw, new]), np.concatenate([outcomes, after])
    assert fit_calibrator(*both).method is Method.IDENTITY


@pytest.mark.parametrize("rows", [0, 1, 5, 199])
def test_few_rows_are_left_alone(rows: int) -> None:
    raw, outcomes = bent(rows)
    fitted = fit_calibrator(raw, outcomes)
    assert fitted == Calibrator(rows=rows, sessions=rows)
    assert fitted.apply(raw).tobytes() == raw.tobytes()


@pytest.mark.parametrize("rows", [200, 300, 700, 1400])
def test_some_hundred_rows_choose_between_identity_and_platt(rows: int) -> None:
    raw, outcomes = bent(rows)
    fitted = fit_calibrator(raw, outcomes)
    assert fitted.method in (Method.IDENTITY, Method.PLATT)
    assert len(fitted.losses) == 2


@pytest.mark.parametrize("outcome", [-1, 0, 1])
def test_one_class_teaches_nothing(outcome: int) -> None:
    raw, _ = bent(3000)
    assert fit_calibrator(raw, np.full(3000, outcome)).method is Method.IDENTITY


def test_a_class_that_never_happened_stays_possible() -> None:
    raw, outcomes = bent(3000)
    for gone in (-1, 0, 1):
        left = outcomes != gone
        out = fit_calibrator(raw[left], outcomes[left]).apply(raw)
        assert (out > 0.0).all()


def test_sessions_are_what_counts_and_not_rows() -> None:
    """The same rows in few sessions are less evidence: nearer to what was forecast."""
    rng = np.random.default_rng(1)
    raw, outcomes = rng.dirichlet([1.0, 1.0, 1.0], 900), rng.integers(-1, 2, 900)
    many = fit_calibrator(raw, outcomes)
    few = fit_calibrator(raw, outcomes, sessions=np.arange(900) // 45)
    assert many.method is few.method is Method.PLATT
    assert many.coefficients[0] < few.coefficients[0] < 1.0
    overlapping = fit_calibrator(raw, outcomes, sessions=np.arange(900) // 12, gap=5)
    plain = fit_calibrator(raw, outcomes, sessions=np.arange(900) // 12)
    assert plain.coefficients[0] < overlapping.coefficients[0]
    assert fit_calibrator(raw, outcomes, sessions=np.arange(900) // 90).losses == ()


def test_a_weight_of_two_is_a_row_given_twice() -> None:
    raw, outcomes = bent(1500)
    weights = 1.0 + (np.arange(1500) % 2)
    sessions = np.arange(1500) // 10
    twice = np.repeat(np.arange(1500), weights.astype(int))
    one = fit_calibrator(raw, outcomes, weights, sessions=sessions)
    other = fit_calibrator(raw[twice], outcomes[twice], sessions=sessions[twice])
    assert one.apply(raw) == pytest.approx(other.apply(raw), abs=1e-6)
    assert not np.allclose(
        one.apply(raw), fit_calibrator(raw, outcomes, sessions=sessions).apply(raw)
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"probabilities": np.ones((300, 2)) / 2}, "wrong shape"),
        ({"probabilities": np.ones((300, 3))}, "no distribution"),
        ({"outcomes": np.full(300, 2)}, "outcomes do not fit"),
        ({"outcomes": np.zeros(299)}, "outcomes do not fit"),
        ({"weights": np.zeros(300)}, "weights do not fit"),
        ({"weights": np.ones(299)}, "weights do not fit"),
        ({"weights": np.full(300, np.nan)}, "weights do not fit"),
        ({"sessions": np.arange(300)[::-1]}, "order of time"),
        ({"sessions": np.arange(299)}, "order of time"),
        ({"gap": -1}, "gap"),
    ],
)
def test_senseless_input_is_refused(changes: dict, problem: str) -> None:
    raw, outcomes = honest(300)
    with pytest.raises(ModelError, match=problem):
        fit_calibrator(**{"probabilities": raw, "outcomes": outcomes} | changes)


# --- what a calibrator promises -------------------------------------------------------------


@st.composite
def calibrators(draw: st.DrawFn) -> Calibrator:
    raw, outcomes = draw(st.sampled_from([bent, honest]))(draw(st.integers(1, 2500)))
    certain = draw(st.booleans())
    if certain and len(raw) > 10:
        raw = np.concatenate([np.eye(3), raw[3:]])
    return fit_calibrator(raw, outcomes)


@given(calibrators(), arrays(np.float64, (15, 3), elements=st.floats(0.0, 1.0)))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_rows_are_distributions_one_by_one_as_together(fitted: Calibrator, rows) -> None:
    rows = np.concatenate([(rows + 1e-9) / (rows + 1e-9).sum(axis=1, keepdims=True), np.eye(3)])
    out = fitted.apply(rows)
    assert out.sum(axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-9)
    assert (out >= 0.0).all()
    alone = np.concatenate([fitted.apply(rows[k : k + 1]) for k in range(len(rows))])
    assert alone.tobytes() == out.tobytes()
    if fitted.method is not Method.IDENTITY:
        assert (out > 0.0).all()
        assert (out < 1.0).all()


@given(calibrators())
@settings(deadline=None, derandomize=True, max_examples=40)
def test_json_brings_back_every_bit(fitted: Calibrator) -> None:
    again = Calibrator.from_json(fitted.to_json())
    assert again == fitted
    rows = np.random.default_rng(0).dirichlet([1.0, 1.0, 1.0], 200)
    assert again.apply(rows).tobytes() == fitted.apply(rows).tobytes()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        Calibrator().to_json().replace("identity", "beta"),
        Calibrator().to_json().replace("identity", "platt"),
        Calibrator().to_json().replace('"knots":[]', '"knots":[[1.0]]'),
    ],
)
def test_a_stored_calibrator_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"cannot be read|lacks its values"):
        Calibrator.from_json(text)


# --- walking forward ------------------------------------------------------------------------


def test_walking_forward_makes_bold_forecasts_better() -> None:
    predictions, outcomes = forecasts(**BOLD)
    out, steps = calibrate_walk_forward(predictions, outcomes, **QUICK)
    assert out.schema == PREDICTION_SCHEMA
    assert out.drop(PROBABILITIES).equals(predictions.drop(PROBABILITIES))
    fitted = [s for s in steps if s.calibrator.method is not Method.IDENTITY]
    late = pl.col("session") >= fitted[0].first_session
    known = join_outcomes(out, outcomes).filter(late)
    raw = loss(known["outcome"].to_numpy(), probability_matrix(predictions.filter(late)))
    assert loss(known["outcome"].to_numpy(), probability_matrix(known)) < raw - 0.05
    assert 0.0 < fitted[-1].calibrator.coefficients[0] < 0.4
    assert fitted[-1].calibrator.coefficients[2] == pytest.approx(1.0, abs=0.15)


def test_before_there_is_evidence_probabilities_stay_raw() -> None:
    predictions, outcomes = forecasts(**BOLD)
    out, steps = calibrate_walk_forward(predictions, outcomes, min_sessions=100)
    first = next(s for s in steps if s.calibrator.method is not Method.IDENTITY)
    assert first.calibrator.sessions >= 100
    early = pl.col("session") < first.first_session
    assert bits(out.filter(early)) == bits(predictions.filter(early))
    assert bits(out.filter(~early)) != bits(predictions.filter(~early))
    assert all(s.calibrator.sessions < 100 for s in steps if s.as_of < first.as_of)


def test_each_period_uses_what_was_known_at_its_first_moment() -> None:
    predictions, outcomes = forecasts(**BOLD)
    _, steps = calibrate_walk_forward(predictions, outcomes, **QUICK, max_sessions=90)
    months = predictions["session"].dt.truncate("1mo").unique()
    assert len(steps) == len(months)
    for step in steps[1:]:
        # The label of the last session before is known at the close that makes the first as_of.
        assert step.known_at == step.as_of
        assert step.calibrator.sessions <= 90
    assert steps[0].known_at is None
    assert steps[-1].calibrator.sessions == 90


def test_one_calibrator_is_that_of_its_rows() -> None:
    predictions, outcomes = forecasts(**BOLD)
    out, steps = calibrate_walk_forward(predictions, outcomes, **QUICK)
    step = steps[-1]
    known = join_outcomes(predictions, outcomes).filter(pl.col("label_known_at") <= step.as_of)
    session = known["session"].to_numpy()
    fitted = fit_calibrator(
        probability_matrix(known), known["outcome"].to_numpy(), sessions=session, gap=1
    )
    assert fitted == step.calibrator
    month = pl.col("session") >= step.first_session
    wanted = fitted.apply(probability_matrix(predictions.filter(month)))
    assert probability_matrix(out.filter(month)).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("horizon", ["15m", "1d", "14d"])
def test_later_outcomes_change_no_earlier_value(horizon: str) -> None:
    predictions, outcomes = forecasts(**BOLD | {"horizon": horizon})
    out, steps = calibrate_walk_forward(predictions, outcomes, **QUICK)
    moment, following = steps[8].as_of, steps[9].first_session
    later = pl.col("label_known_at") > moment
    flipped = outcomes.with_columns(
        pl.when(later).then(-pl.col("outcome")).otherwise(pl.col("outcome")).alias("outcome")
    )
    upto = pl.col("session") < following
    for changed in (flipped, outcomes.filter(~later)):
        other, again = calibrate_walk_forward(predictions, changed, **QUICK)
        assert bits(other.filter(upto)) == bits(out.filter(upto))
        assert again[:9] == steps[:9]
        assert bits(other.filter(~upto)) != bits(out.filter(~upto))


def test_the_newest_outcome_that_was_known_does_count() -> None:
    predictions, outcomes = forecasts(**BOLD)
    out, steps = calibrate_walk_forward(predictions, outcomes, **QUICK)
    at = pl.col("label_known_at") == steps[8].as_of
    flipped = outcomes.with_columns(
        pl.when(at).then(-pl.col("outcome")).otherwise(pl.col("outcome")).alias("outcome")
    )
    other, _ = calibrate_walk_forward(predictions, flipped, **QUICK)
    month = pl.col("session").is_between(
        steps[8].first_session, steps[9].first_session, closed="left"
    )
    before = pl.col("session") < steps[8].first_session
    assert bits(other.filter(month)) != bits(out.filter(month))
    assert bits(other.filter(before)) == bits(out.filter(before))


def test_history_that_ends_earlier_gives_the_same_values() -> None:
    predictions, outcomes = forecasts(**BOLD)
    out, _ = calibrate_walk_forward(predictions, outcomes, **QUICK)
    cut = predictions["session"].unique().sort()[250]
    upto = pl.col("session") <= cut
    short, _ = calibrate_walk_forward(predictions.filter(upto), outcomes, **QUICK)
    assert bits(short) == bits(out.filter(upto))


def test_the_order_of_rows_does_not_matter() -> None:
    predictions, outcomes = forecasts(**BOLD)
    out, _ = calibrate_walk_forward(predictions, outcomes, **QUICK)
    shuffled = predictions.with_row_index().sample(fraction=1.0, shuffle=True, seed=4)
    other, _ = calibrate_walk_forward(
        shuffled.drop("index"), outcomes.sample(fraction=1.0, shuffle=True, seed=5), **QUICK
    )
    back = other.with_columns(shuffled["index"]).sort("index").drop("index")
    assert bits(back) == bits(out)


def test_engines_do_not_touch_each_other() -> None:
    predictions, outcomes = forecasts(**BOLD)
    other, _ = forecasts(**BOLD | {"engine": "xgboost", "boldness": 0.4})
    both, steps = calibrate_walk_forward(pl.concat([other, predictions]), outcomes, **QUICK)
    alone, own = calibrate_walk_forward(predictions, outcomes, **QUICK)
    assert bits(both.filter(pl.col("engine") == "linear")) == bits(alone)
    assert [s for s in steps if s.engine == "linear"] == own


def test_unknown_outcomes_teach_nothing_and_are_calibrated() -> None:
    predictions, outcomes = forecasts(**BOLD)
    some = outcomes.with_columns(
        pl.when(pl.int_range(pl.len()) % 3 > 0).then(pl.col("outcome")).alias("outcome")
    )
    left, _ = calibrate_walk_forward(predictions, some, **QUICK)
    right, _ = calibrate_walk_forward(predictions, some.drop_nulls("outcome"), **QUICK)
    assert bits(left) == bits(right)
    assert bits(left) != bits(predictions)


def test_a_window_that_is_never_long_enough_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing would ever be calibrated"):
        calibrate_walk_forward(*forecasts(**BOLD), min_sessions=60, max_sessions=59)


def test_nothing_to_calibrate_is_nothing() -> None:
    predictions, outcomes = forecasts(**BOLD)
    out, steps = calibrate_walk_forward(predictions.clear(), outcomes)
    assert out.is_empty()
    assert steps == []


def month_of(frame: pl.DataFrame, month: str) -> pl.DataFrame:
    return frame.filter(pl.col("session").dt.strftime("%Y-%m") == month)


def test_forecasts_made_now_are_calibrated_as_those_of_a_walk() -> None:
    """On the first moment of a month both know the same."""
    predictions, outcomes = forecasts(skill=0.05, boldness=1.0)
    walked, _ = calibrate_walk_forward(predictions, outcomes)
    first = month_of(predictions, "2019-11")["as_of"].min()
    now = predictions.filter(pl.col("as_of") == first)
    past = predictions.filter(pl.col("as_of") < first)
    maps = fit_latest(past, outcomes, as_of=first)
    got = calibrate(now, {"1d": maps})
    assert maps["linear"].method is not Method.IDENTITY
    assert bits(got) == bits(walked.filter(pl.col("as_of") == first))


def test_what_is_known_later_does_not_move_forecasts_made_now() -> None:
    predictions, outcomes = forecasts(skill=0.05, boldness=1.0)
    first = month_of(predictions, "2019-11")["as_of"].min()
    now = predictions.filter(pl.col("as_of") == first)
    flipped = outcomes.with_columns(
        pl.when(pl.col("label_known_at") > first)
        .then(-pl.col("outcome"))
        .otherwise(pl.col("outcome"))
        .cast(pl.Int8)
        .alias("outcome")
    )
    got = calibrate(now, {"1d": fit_latest(predictions, outcomes, as_of=first)})
    other = calibrate(now, {"1d": fit_latest(predictions, flipped, as_of=first)})
    assert bits(other) == bits(got)


def test_an_engine_without_a_past_keeps_its_probabilities() -> None:
    predictions, outcomes = forecasts(skill=0.05, boldness=1.0)
    late = predictions["as_of"].max()
    now = predictions.filter(pl.col("as_of") == late)
    fresh = now.with_columns(pl.lit("new").alias("engine"))
    both = pl.concat([now, fresh])
    maps = fit_latest(predictions, outcomes, as_of=late)
    got = calibrate(both, {"1d": maps})
    assert set(maps) == {"linear"}
    assert bits(got.filter(pl.col("engine") == "new")) == bits(fresh)
    assert bits(got.filter(pl.col("engine") == "linear")) != bits(now)
