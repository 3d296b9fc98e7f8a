"""The splitter: nothing in the training window may touch the test window."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score

from features.labels import forward_returns
from market import calendar
from market.errors import ModelError
from market.horizons import HORIZONS, find_horizon
from models.splits import PurgedWalkForward
from tests.markets import daily_bars

DAILY = find_horizon("1d")
DAYS = np.array(calendar.sessions_between(dt.date(2022, 1, 3), dt.date(2022, 12, 30)), "M8[D]")


@st.composite
def splitters(draw: st.DrawFn) -> PurgedWalkForward:
    horizon = draw(st.sampled_from(HORIZONS))
    embargo = draw(st.integers(0, 5))
    extra = draw(st.none() | st.integers(0, 5))
    purge = None if extra is None else horizon.sessions + extra
    gap = horizon.sessions + (extra or 0) + embargo
    return PurgedWalkForward(
        horizon,
        min_train_sessions=gap + draw(st.integers(1, 40)),
        test_sessions=draw(st.integers(1, 30)),
        purge_sessions=purge,
        embargo_sessions=embargo,
        max_train_sessions=draw(st.none() | st.integers(1, 50)),
    )


@given(splitters(), st.integers(10, 150), st.integers(1, 4), st.integers(0, 100))
@settings(deadline=None, derandomize=True, max_examples=150)
def test_windows_are_apart_and_cover_the_rest(splitter, sessions, symbols, seed) -> None:
    assume(sessions > splitter.min_train_sessions)
    number = np.repeat(np.arange(sessions), symbols)
    np.random.default_rng(seed).shuffle(number)
    windows = list(splitter.split(number, groups=DAYS[number]))
    assert len(windows) == splitter.get_n_splits(groups=DAYS[number])
    tested = np.concatenate([test for _, test in windows])
    assert sorted(tested) == sorted(np.flatnonzero(number >= splitter.min_train_sessions))
    previous = -1
    for train, test in windows:
        assert len(train) > 0
        assert len(test) > 0
        assert not set(train) & set(test)
        first, last = number[test].min(), number[train].max()
        assert first - last == splitter.gap + 1
        assert first > previous
        previous = number[test].max()
        assert len(np.unique(number[test])) <= splitter.test_sessions
        if splitter.max_train_sessions is None:
            assert number[train].min() == 0
        else:
            assert len(np.unique(number[train])) <= splitter.max_train_sessions


@pytest.mark.parametrize("name", ["1d", "7d", "14d", "1M"])
def test_with_no_embargo_the_last_label_is_known_when_the_test_begins(name: str) -> None:
    closes = {"A": list(np.linspace(10.0, 20.0, len(DAYS)))}
    labels = forward_returns(daily_bars(closes, DAYS[0].item()), find_horizon(name))
    splitter = PurgedWalkForward(find_horizon(name), 60, 20, embargo_sessions=0)
    for train, test in splitter.split(labels, groups=labels["session"].to_numpy()):
        known = labels[train]["label_known_at"].max()
        assert known <= labels[test]["as_of"].min()
        longer = np.append(train, train.max() + 2)
        assert labels[longer]["label_known_at"].max() > labels[test]["as_of"].min()


@pytest.mark.parametrize("horizon", [h for h in HORIZONS if h.sessions], ids=lambda h: h.name)
def test_a_purge_shorter_than_the_horizon_is_refused(horizon) -> None:
    with pytest.raises(ModelError, match=f"purge shorter than the horizon {horizon.name}"):
        PurgedWalkForward(horizon, 100, 10, purge_sessions=horizon.sessions - 1)
    assert PurgedWalkForward(horizon, 100, 10, purge_sessions=horizon.sessions).gap > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"min_train_sessions": 0},
        {"test_sessions": 0},
        {"test_sessions": -5},
        {"max_train_sessions": 0},
        {"max_train_sessions": -1},
        {"embargo_sessions": -1},
    ],
)
def test_senseless_lengths_are_refused(changes: dict) -> None:
    with pytest.raises(ModelError, match="window lengths"):
        PurgedWalkForward(DAILY, **{"min_train_sessions": 50, "test_sessions": 10, **changes})


def test_a_first_window_that_is_purged_away_is_refused() -> None:
    with pytest.raises(ModelError, match="purged away"):
        PurgedWalkForward(find_horizon("1M"), min_train_sessions=22, test_sessions=5)


def test_too_little_history_is_refused() -> None:
    splitter = PurgedWalkForward(DAILY, 50, 10)
    with pytest.raises(ModelError, match="too little history"):
        list(splitter.split(DAYS[:50], groups=DAYS[:50]))
    assert splitter.get_n_splits(groups=DAYS[:50]) == 0
    assert splitter.get_n_splits(groups=DAYS[:3]) == 0


def test_sessions_are_required() -> None:
    with pytest.raises(ModelError, match="session of every row"):
        list(PurgedWalkForward(DAILY, 50, 10).split(DAYS))


def test_scikit_learn_can_use_it() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(DAYS[:120], 5)
    x = rng.standard_normal((len(groups), 3))
    y = x[:, 0] + 0.1 * rng.standard_normal(len(groups))
    splitter = PurgedWalkForward(DAILY, 50, 20)
    scores = cross_val_score(Ridge(), x, y, groups=groups, cv=splitter)
    assert len(scores) == splitter.get_n_splits(groups=groups) == 4
    assert (scores > 0.9).all()


def test_polars_columns_are_accepted_as_groups() -> None:
    frame = pl.DataFrame({"session": DAYS[:60]})
    (first, *_) = PurgedWalkForward(DAILY, 50, 10).split(frame, groups=frame["session"])
    assert len(first[0]) == 48


def test_the_newest_rows_are_those_of_a_training_today() -> None:
    sessions = np.repeat(np.arange("2024-01-01", "2024-01-21", dtype="datetime64[D]"), 3)
    base = {"min_train_sessions": 4, "test_sessions": 2}
    expanding = PurgedWalkForward(find_horizon("1d"), **base)
    assert expanding.newest(sessions).tolist() == list(range(60))
    rolling = PurgedWalkForward(find_horizon("1d"), **base, max_train_sessions=5)
    assert rolling.newest(sessions).tolist() == list(range(45, 60))
    longer = PurgedWalkForward(find_horizon("1d"), **base, max_train_sessions=50)
    assert longer.newest(sessions).tolist() == list(range(60))
