"""Scores against scikit-learn and naive loops; only what is known counts."""

from __future__ import annotations

import datetime as dt
from functools import partial

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from market.errors import ModelError
from models.judged import equal_bins, judge
from models.outcomes import join_outcomes, probability_matrix
from models.scores import brier, expected_calibration_error, log_loss, session_losses
from tests.forecasts import LATER, forecasts

HONEST = {"skill": 0.4, "boldness": 0.4}
BOLD = {"skill": 0.1, "boldness": 0.9}
OPTIONS = {"as_of": LATER, "seed": 1, "block": 1.0}
MEASURES = (brier, log_loss, expected_calibration_error)


def known(predictions: pl.DataFrame, outcomes: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    joined = join_outcomes(predictions, outcomes).drop_nulls("outcome")
    return joined["outcome"].to_numpy(), probability_matrix(joined)


def test_scores_are_those_of_scikit_learn() -> None:
    predictions, outcomes = forecasts(**HONEST)
    happened, raw = known(predictions, outcomes)
    got = log_loss(predictions, outcomes, **OPTIONS)
    assert got.mean == pytest.approx(sklearn_log_loss(happened, raw, labels=[-1, 0, 1]))
    wanted = brier_score_loss(happened, raw, labels=[-1, 0, 1], scale_by_half=False)
    got = brier(predictions, outcomes, **OPTIONS)
    assert got.mean == pytest.approx(wanted)
    assert got.periods == predictions["session"].n_unique()
    assert got.low < got.mean < got.high


def test_losses_of_sessions_are_means_of_their_rows() -> None:
    predictions, outcomes = forecasts(**HONEST)
    some = outcomes.sample(fraction=0.3, seed=1)
    table = session_losses(predictions, some, as_of=LATER)
    assert table["session"].is_sorted()
    for row in table.sample(5, seed=2).iter_rows(named=True):
        happened, raw = known(predictions.filter(pl.col("session") == row["session"]), some)
        assert row["rows"] == len(happened)
        assert row["log_loss"] == pytest.approx(
            sklearn_log_loss(happened, raw, labels=[-1, 0, 1]), abs=1e-9
        )
        assert row["brier"] == pytest.approx(
            np.mean(
                [
                    (p - (np.arange(-1, 2) == y)) @ (p - (np.arange(-1, 2) == y))
                    for p, y in zip(raw, happened, strict=True)
                ]
            )
        )
    whole = (table["log_loss"] * table["rows"]).sum() / table["rows"].sum()
    assert log_loss(predictions, some, **OPTIONS).mean == pytest.approx(whole)


def test_a_certain_error_costs_a_bounded_loss() -> None:
    predictions, outcomes = forecasts(sessions=60, symbols=2)
    certain = predictions.with_columns(
        p_short=pl.lit(0.0), p_neutral=pl.lit(0.0), p_long=pl.lit(1.0)
    )
    wrong = outcomes.with_columns(pl.lit(-1, pl.Int8).alias("outcome"))
    assert log_loss(certain, wrong, **OPTIONS).mean == pytest.approx(np.log(1e6))
    assert brier(certain, wrong, **OPTIONS).mean == pytest.approx(2.0)


def test_the_calibration_error_is_that_of_a_naive_loop() -> None:
    predictions, outcomes = forecasts(**BOLD)
    happened, raw = known(predictions, outcomes)
    total = 0.0
    for k in range(3):
        order = np.argsort(raw[:, k])
        for part in np.array_split(order, 10):
            share = (happened[part] == k - 1).mean()
            total += len(part) / len(raw) * abs(raw[part, k].mean() - share) / 3.0
    got = expected_calibration_error(predictions, outcomes, **OPTIONS)
    assert got.mean == pytest.approx(total, abs=1e-4)
    assert got.low < got.mean < got.high


def test_the_calibration_error_tells_bold_from_honest() -> None:
    bold = expected_calibration_error(*forecasts(**BOLD), **OPTIONS)
    honest = expected_calibration_error(*forecasts(**HONEST), **OPTIONS)
    assert honest.mean < 0.02
    assert bold.low > 0.05
    assert honest.low == 0.0


def test_the_calibration_error_of_an_honest_forecaster_may_be_zero() -> None:
    zero = 0
    for seed in range(40):
        data = forecasts(sessions=80, symbols=8, seed=seed, **HONEST)
        got = expected_calibration_error(*data, as_of=LATER, seed=seed, block=1.0, draws=200)
        zero += int(got.low == 0.0)
    assert zero >= binom.ppf(0.001, 40, 0.95)


def test_the_interval_of_a_score_covers_as_often_as_it_says() -> None:
    """Honest forecasts: the expected Brier score of a sample is known from its forecasts."""
    inside = 0
    for seed in range(60):
        predictions, outcomes = forecasts(sessions=80, symbols=8, seed=seed, **HONEST)
        raw = probability_matrix(predictions)
        truth = float((1.0 - (raw**2).sum(axis=1)).mean())
        got = brier(predictions, outcomes, as_of=LATER, seed=seed, block=1.0, draws=200)
        inside += int(got.low <= truth <= got.high)
    assert inside >= binom.ppf(0.001, 60, 0.94)


@pytest.mark.parametrize("measure", [*MEASURES, session_losses])
def test_outcomes_known_later_are_not_looked_at(measure) -> None:
    predictions, outcomes = forecasts(**HONEST)
    as_of = outcomes["label_known_at"].unique().sort()[150]
    options = {} if measure is session_losses else {"seed": 1, "block": 1.0}
    later = pl.col("label_known_at") > as_of
    spoiled = outcomes.with_columns(
        pl.when(later).then(-pl.col("outcome")).otherwise(pl.col("outcome")).alias("outcome")
    )
    of = partial(measure, predictions, as_of=as_of, **options)
    whole = partial(measure, predictions, as_of=LATER, **options)
    same = (lambda a, b: a.equals(b)) if measure is session_losses else (lambda a, b: a == b)
    assert same(of(outcomes), of(spoiled))
    assert same(of(outcomes), of(outcomes.filter(~later)))
    assert not same(whole(outcomes), whole(spoiled))


def test_engines_and_horizons_are_not_mixed() -> None:
    predictions, outcomes = forecasts(**HONEST)
    other, _ = forecasts(**HONEST, engine="xgboost")
    with pytest.raises(ModelError, match="judged together"):
        brier(pl.concat([predictions, other]), outcomes, **OPTIONS)


def test_nothing_known_is_said() -> None:
    predictions, outcomes = forecasts(**HONEST)
    with pytest.raises(ModelError, match="no outcome is known"):
        brier(predictions, outcomes, **OPTIONS | {"as_of": dt.datetime(2010, 1, 1, tzinfo=dt.UTC)})
    with pytest.raises(ModelError, match="no outcome has an excess return"):
        judge(predictions, outcomes.drop("excess_return"), as_of=LATER, with_returns=True)


def test_bins_are_equal_and_ties_stay_together() -> None:
    group, of = equal_bins(np.arange(100) / 100, 10)
    assert np.bincount(group).tolist() == [10] * 10
    group, of = equal_bins(np.array([0.2] * 50 + [0.7] * 3), 10)
    assert of == 2
    assert group.tolist() == [0] * 50 + [1] * 3
    with pytest.raises(ModelError, match="number of bins"):
        equal_bins(np.ones(3), 0)


def test_the_same_seed_gives_the_same_interval() -> None:
    data = forecasts(**HONEST)
    assert brier(*data, **OPTIONS) == brier(*data, **OPTIONS)
    assert brier(*data, **OPTIONS | {"seed": 2}) != brier(*data, **OPTIONS)
