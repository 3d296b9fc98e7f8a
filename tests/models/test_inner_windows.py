"""Scores of sessions against other libraries; windows that end where knowledge ends."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import log_loss

from market.errors import ModelError
from market.horizons import find_horizon
from models.inner_windows import (
    InnerWindows,
    Judge,
    Objective,
    known_by,
    session_scores,
    take_features,
)
from tests.models.planted import BAND, DAILY, Blend, blend_family, planted


def forecasts(rng: np.random.Generator, sessions: int = 7, symbols: int = 9) -> pl.DataFrame:
    """Two times a session; some outcomes are not known."""
    n = 2 * sessions * symbols
    begin = dt.datetime(2024, 7, 1, 15, tzinfo=dt.UTC)
    times = [
        begin + dt.timedelta(days=k // (2 * symbols), hours=k // symbols % 2) for k in range(n)
    ]
    p = rng.dirichlet([1.0, 1.0, 1.0], n)
    outcome = rng.standard_normal(n) * 0.01
    outcome[rng.random(n) < 0.2] = np.nan
    return pl.DataFrame(
        {
            "session": [t.date() for t in times],
            "bar_end": times,
            "expected_return_bps": rng.standard_normal(n),
            "p_short": p[:, 0],
            "p_neutral": p[:, 1],
            "p_long": p[:, 2],
            "excess_return": outcome,
        }
    ).sample(fraction=1.0, shuffle=True, seed=1)


def test_rank_ic_is_spearmans_of_each_time_averaged_in_its_session() -> None:
    frame = forecasts(np.random.default_rng(0))
    got = session_scores(frame, Objective.RANK_IC, 5.0)
    for session, score in got.iter_rows():
        each = []
        for _, part in frame.filter(pl.col("session") == session).group_by("bar_end"):
            known = part.filter(pl.col("excess_return").is_not_nan())
            each.append(spearmanr(known["expected_return_bps"], known["excess_return"]).statistic)
        assert score == pytest.approx(np.mean(each))
    assert got["session"].is_sorted()
    assert got.height == 7


def test_log_loss_is_that_of_scikit_learn() -> None:
    frame = forecasts(np.random.default_rng(1))
    for session, score in session_scores(frame, Objective.LOG_LOSS, 40.0).iter_rows():
        part = frame.filter((pl.col("session") == session) & pl.col("excess_return").is_not_nan())
        truth = np.sign(part["excess_return"]) * (np.abs(part["excess_return"]) > 0.004) + 1
        p = part.select("p_short", "p_neutral", "p_long").to_numpy()
        assert score == pytest.approx(log_loss(truth, p, labels=[0, 1, 2]))


@pytest.mark.parametrize(
    ("outcome", "right"),
    [
        (0.004, "p_neutral"),
        (0.004 + 1e-8, "p_long"),
        (-0.004, "p_neutral"),
        (-0.004 - 1e-8, "p_short"),
    ],
)
def test_an_outcome_on_the_band_is_neutral(outcome: float, right: str) -> None:
    frame = forecasts(np.random.default_rng(3)).with_columns(
        *(
            pl.lit(0.98 if p == right else 0.01).alias(p)
            for p in ("p_short", "p_neutral", "p_long")
        ),
        pl.lit(outcome).alias("excess_return"),
    )
    scores = session_scores(frame, Objective.LOG_LOSS, 40.0)["score"]
    assert scores.to_list() == pytest.approx([-np.log(0.98)] * 7)


def test_certainty_that_was_wrong_costs_much_but_not_everything() -> None:
    frame = forecasts(np.random.default_rng(2)).with_columns(
        pl.lit(0.0).alias("p_long"), pl.lit(0.01).alias("excess_return")
    )
    assert session_scores(frame, Objective.LOG_LOSS, 5.0)["score"].to_list() == pytest.approx(
        [-np.log(1e-6)] * 7
    )


def test_no_model_gains_by_abstaining() -> None:
    """Equal forecasts count as no skill; a time without different outcomes counts for nobody."""
    day = dt.datetime(2024, 7, 1, 15, tzinfo=dt.UTC)
    hour = dt.timedelta(hours=1)
    frame = pl.DataFrame(
        {
            "session": [day.date()] * 12,
            "bar_end": [day] * 3 + [day + hour] * 3 + [day + 2 * hour] * 3 + [day + 3 * hour] * 3,
            "expected_return_bps": [1.0, 2.0, 3.0, 5.0, 5.0, 5.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0],
            "excess_return": [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.2, 0.2, 0.2, 0.1, 0.2, None],
        }
    )
    assert session_scores(frame, Objective.RANK_IC, 5.0)["score"].to_list() == [0.5]


def test_a_forecast_that_is_not_finite_shows() -> None:
    frame = forecasts(np.random.default_rng(3), sessions=2).sort("bar_end").with_row_index()
    spoiled = frame.with_columns(
        pl.when(pl.col("index") == 0)
        .then(float("nan"))
        .otherwise("expected_return_bps")
        .alias("expected_return_bps"),
        pl.when(pl.col("index") == 0).then(0.01).otherwise("excess_return").alias("excess_return"),
    )
    scores = session_scores(spoiled, Objective.RANK_IC, 5.0)["score"]
    assert scores.is_nan().to_list() == [True, False]


@given(
    sessions=st.integers(1, 90),
    windows=st.integers(1, 6),
    length=st.integers(1, 15),
    embargo=st.integers(0, 3),
    name=st.sampled_from(["1h", "1d", "7d"]),
)
@settings(max_examples=80, derandomize=True)
def test_windows_are_of_one_length_and_end_with_the_last_session(
    sessions: int, windows: int, length: int, embargo: int, name: str
) -> None:
    horizon = find_horizon(name)
    cut = InnerWindows(windows=windows, test_sessions=length, embargo_sessions=embargo)
    days = np.arange(sessions)
    if sessions <= windows * length + horizon.sessions + embargo:
        with pytest.raises(ModelError, match="too little history before the inner windows"):
            cut.splitter(horizon, sessions)
        return
    found = list(cut.splitter(horizon, sessions).split(days, groups=days))
    tested = [list(test) for _, test in found]
    assert tested == [
        list(range(sessions - k * length, sessions - (k - 1) * length))
        for k in range(windows, 0, -1)
    ]
    for train, test in found:
        assert len(train) > 0
        assert test[0] - train[-1] == horizon.sessions + embargo + 1


def test_a_rolling_window_forgets() -> None:
    cut = InnerWindows(windows=2, test_sessions=5, max_train_sessions=7)
    days = np.arange(60)
    assert [len(a) for a, _ in cut.splitter(DAILY, 60).split(days, groups=days)] == [7, 7]


@pytest.mark.parametrize("given", [{"windows": 0}, {"test_sessions": 0}])
def test_no_windows_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="inner windows of a tuning"):
        InnerWindows(**given)


@pytest.mark.parametrize("session", [0, 40, 119])
def test_what_is_known_is_cut_at_the_moment(session: int) -> None:
    data = planted()
    as_of = data.keys["as_of"].unique().sort()[session]
    cut = known_by(data, as_of)
    assert cut.keys["as_of"].max() == as_of
    assert len(cut) == len(cut.x) == len(cut.y) == len(cut.unit) == 6 * (session + 1)
    late = (data.keys["label_known_at"][: len(cut)] > as_of).fill_null(value=True).to_numpy()
    assert np.array_equal(np.isnan(cut.y), late)
    assert np.array_equal(np.isnan(cut.excess_return), late)
    assert np.array_equal(np.isnan(cut.forward_return), late)
    assert np.array_equal(cut.keys["label_known_at"].is_null().to_numpy(), late)
    assert np.array_equal(cut.y[~late], data.y[: len(cut)][~late])
    assert replace(cut, x=data.x).feature_names == data.feature_names


def test_a_moment_before_everything_or_rows_out_of_order_are_refused() -> None:
    data = planted()
    with pytest.raises(ModelError, match="the dataset as it was at"):
        known_by(data, dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    backwards = replace(data, keys=data.keys.reverse())
    with pytest.raises(ModelError, match="in order of time: False"):
        known_by(backwards, data.keys["as_of"][300])


def test_one_row_out_of_order_is_refused() -> None:
    data = planted()
    order = np.arange(len(data))
    order[[100, 400]] = order[[400, 100]]
    with pytest.raises(ModelError, match="in order of time: False"):
        known_by(replace(data, keys=data.keys[order]), data.keys["as_of"][300])


def test_a_label_of_which_nobody_says_when_it_was_known_is_not_known() -> None:
    data = planted()
    told = replace(data, y=np.zeros_like(data.y))
    unknown = data.keys["label_known_at"].is_null().to_numpy()
    assert np.array_equal(np.isnan(known_by(told, data.keys["as_of"][-1]).y), unknown)


def test_more_is_better_for_one_objective_and_worse_for_the_other() -> None:
    assert (Objective.RANK_IC.sign, Objective.LOG_LOSS.sign) == (1.0, -1.0)


def test_as_installed_six_windows_of_21_sessions_end_the_history() -> None:
    sessions = np.arange(200)
    splits = list(InnerWindows().splitter(DAILY, 200).split(sessions, groups=sessions))
    assert [(test[0], test[-1]) for _, test in splits] == [
        (74 + 21 * k, 94 + 21 * k) for k in range(6)
    ]
    # One session of labels, and one of embargo.
    assert [test[0] - train[-1] for train, test in splits] == [3] * 6


def test_two_different_outcomes_of_three_are_enough_to_judge() -> None:
    day = dt.datetime(2024, 7, 1, 15, tzinfo=dt.UTC)
    frame = pl.DataFrame(
        {
            "session": [day.date()] * 3,
            "bar_end": [day] * 3,
            "expected_return_bps": [1.0, 2.0, 3.0],
            "excess_return": [0.01, 0.01, 0.02],
        }
    )
    (score,) = session_scores(frame, Objective.RANK_IC, 5.0)["score"]
    assert score == pytest.approx(spearmanr([1, 2, 3], [1, 1, 2]).statistic)


@pytest.mark.parametrize(
    ("outcome", "p"), [(0.0025, 0.3), (0.002501, 0.6), (-0.0025, 0.3), (-0.002501, 0.1)]
)
def test_an_outcome_on_the_edge_of_the_band_is_neutral(outcome: float, p: float) -> None:
    frame = pl.DataFrame(
        {
            "session": [dt.date(2024, 7, 1)],
            "excess_return": [outcome],
            "p_short": [0.1],
            "p_neutral": [0.3],
            "p_long": [0.6],
        }
    )
    (score,) = session_scores(frame, Objective.LOG_LOSS, 25.0)["score"]
    assert score == pytest.approx(-np.log(p))


def test_a_judge_scores_what_a_fit_on_the_window_forecasts() -> None:
    data = known_by(planted(), planted().keys["as_of"][-1])
    train, test = np.arange(300), np.arange(330, 390)
    made: list[Blend] = []
    judge = Judge(data, blend_family(made), DAILY, ((train, test),), Objective.RANK_IC, BAND, 1)
    got = judge.score({"mix": 1.0}, data, 0)
    each = [
        spearmanr(data.x[rows, 0], data.excess_return[rows]).statistic
        for rows in test.reshape(-1, 6)
    ]
    assert got == pytest.approx(each)
    assert made[0].fits[0].tolist() == train.tolist()


def test_a_window_without_a_known_outcome_is_refused() -> None:
    data = planted()
    last = np.arange(len(data) - 6, len(data))
    judge = Judge(
        data, blend_family([]), DAILY, ((np.arange(300), last),), Objective.RANK_IC, BAND, 1
    )
    with pytest.raises(ModelError, match="no session of inner window 1 can be judged"):
        judge.score({"mix": 1.0}, data, 0)


def test_features_are_taken_in_the_datasets_order() -> None:
    data = planted()
    taken = take_features(data, ["other", "signal"])
    assert taken.feature_names == ("signal", "other")
    assert np.array_equal(taken.x, data.x[:, [0, 2]])
    assert take_features(data, list(reversed(data.feature_names))) is data
