"""Combinatorial splits against naive loops; no training label touches a test label."""

from __future__ import annotations

import datetime as dt
from itertools import combinations
from math import comb

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
from models.combinatorial import CombinatorialPurged
from tests.markets import daily_bars

DAILY = find_horizon("1d")
DAYS = np.array(calendar.sessions_between(dt.date(2022, 1, 3), dt.date(2022, 12, 30)), "M8[D]")


@st.composite
def splitters(draw: st.DrawFn) -> CombinatorialPurged:
    horizon = draw(st.sampled_from([h for h in HORIZONS if h.sessions <= 10]))
    groups = draw(st.integers(2, 7))
    extra = draw(st.none() | st.integers(0, 3))
    return CombinatorialPurged(
        horizon,
        n_groups=groups,
        n_test_groups=draw(st.integers(1, groups - 1)),
        purge_sessions=None if extra is None else horizon.sessions + extra,
        embargo_sessions=draw(st.integers(0, 4)),
    )


def naive_blocks(sessions: int, groups: int) -> list[int]:
    """The first blocks are longer by one session where they cannot all be equal."""
    length, left = divmod(sessions, groups)
    return [g for g in range(groups) for _ in range(length + (g < left))]


def rows_of(splitter, sessions: int, symbols: int, seed: int) -> np.ndarray | None:
    """Session numbers in a random order, or None where a split would have nothing to learn."""
    number = np.repeat(np.arange(sessions), symbols)
    np.random.default_rng(seed).shuffle(number)
    try:
        list(splitter.split(number, groups=DAYS[number]))
    except ModelError:
        return None
    return number


@given(splitters(), st.integers(10, 120), st.integers(1, 3), st.integers(0, 100))
@settings(deadline=None, derandomize=True, max_examples=120)
def test_splits_are_those_of_naive_loops(splitter, sessions, symbols, seed) -> None:
    assume(sessions >= splitter.n_groups)
    number = rows_of(splitter, sessions, symbols, seed)
    assume(number is not None)
    block = naive_blocks(sessions, splitter.n_groups)
    purge = splitter.purge
    splits = list(splitter.split(number, groups=DAYS[number]))
    chosen = list(combinations(range(splitter.n_groups), splitter.n_test_groups))
    assert len(splits) == splitter.get_n_splits() == len(chosen)
    for tested, (train, test) in zip(chosen, splits, strict=True):
        wanted_test = [k for k, s in enumerate(number) if block[s] in tested]
        wanted_train = []
        for k, session in enumerate(number):
            fine = block[session] not in tested
            for other in range(sessions):
                if block[other] in tested:
                    before = 0 < other - session <= purge
                    after = 0 < session - other <= purge + splitter.embargo_sessions
                    fine = fine and not before and not after
            if fine:
                wanted_train.append(k)
        assert test.tolist() == wanted_test
        assert train.tolist() == wanted_train


@given(splitters(), st.integers(10, 120), st.integers(0, 100))
@settings(deadline=None, derandomize=True, max_examples=120)
def test_no_training_label_overlaps_a_test_label(splitter, sessions, seed) -> None:
    assume(sessions >= splitter.n_groups)
    number = rows_of(splitter, sessions, 1, seed)
    assume(number is not None)
    reach = splitter.horizon.sessions
    for train, test in splitter.split(number, groups=DAYS[number]):
        begin, end = number[train][:, None], number[train][:, None] + reach
        assert not ((begin <= number[test] + reach) & (number[test] <= end)).any()


@pytest.mark.parametrize("name", ["1d", "7d", "14d"])
def test_real_labels_end_before_the_next_begins_and_no_session_is_wasted(name: str) -> None:
    closes = {"A": list(np.linspace(10.0, 20.0, len(DAYS)))}
    labels = forward_returns(daily_bars(closes, DAYS[0].item()), find_horizon(name))
    labels = labels.drop_nulls("label_known_at")
    splitter = CombinatorialPurged(find_horizon(name), 5, 2, embargo_sessions=0)
    every = np.arange(labels.height)
    for train, test in splitter.split(labels, groups=labels["session"].to_numpy()):
        begin = labels["as_of"].to_physical().to_numpy()
        end = labels["label_known_at"].to_physical().to_numpy()
        meets = (begin[:, None] <= end[test]) & (begin[test] <= end[:, None])
        assert sorted(set(every) - set(every[meets.any(axis=1)])) == train.tolist()


@given(st.integers(2, 8), st.data())
@settings(deadline=None, derandomize=True, max_examples=40)
def test_every_tested_block_is_in_exactly_one_path(groups, data) -> None:
    tests = data.draw(st.integers(1, groups - 1))
    splitter = CombinatorialPurged(DAILY, groups, tests)
    paths = splitter.paths()
    assert paths.shape == (splitter.n_paths, groups)
    assert splitter.n_paths == comb(groups, tests) * tests // groups
    used = {(int(paths[p, g]), g) for p in range(len(paths)) for g in range(groups)}
    assert used == {(s, g) for s, tested in enumerate(splitter.tested) for g in tested}
    assert len(used) == paths.size
    assert (np.diff(paths, axis=0) > 0).all()


def test_a_path_forecasts_every_row_once_out_of_sample() -> None:
    groups = np.repeat(DAYS[:60], 3)
    splitter = CombinatorialPurged(DAILY, 6, 2)
    splits = list(splitter.split(groups, groups=groups))
    block = splitter.blocks(groups)
    for path in splitter.paths():
        rows = []
        for g, split in enumerate(path):
            train, test = splits[split]
            own = test[block[test] == g]
            assert not set(own) & set(train)
            rows += own.tolist()
        assert sorted(rows) == list(range(len(groups)))


@pytest.mark.parametrize("horizon", [h for h in HORIZONS if h.sessions], ids=lambda h: h.name)
def test_a_purge_shorter_than_the_horizon_is_refused(horizon) -> None:
    with pytest.raises(ModelError, match=f"purge shorter than the horizon {horizon.name}"):
        CombinatorialPurged(horizon, 6, 2, purge_sessions=horizon.sessions - 1)
    assert CombinatorialPurged(horizon, 6, 2, purge_sessions=horizon.sessions).purge > 0


@pytest.mark.parametrize(
    "changes",
    [{"n_groups": 1}, {"n_test_groups": 0}, {"n_test_groups": 6}, {"embargo_sessions": -1}],
)
def test_senseless_blocks_are_refused(changes: dict) -> None:
    with pytest.raises(ModelError, match="blocks of the combinatorial splits"):
        CombinatorialPurged(DAILY, **{"n_groups": 6, "n_test_groups": 2, **changes})


def test_too_little_history_is_refused() -> None:
    with pytest.raises(ModelError, match="fewer sessions than blocks"):
        list(CombinatorialPurged(DAILY, 6, 2).split(DAYS[:5], groups=DAYS[:5]))
    with pytest.raises(ModelError, match="nothing to train on"):
        list(CombinatorialPurged(find_horizon("14d"), 6, 2).split(DAYS[:30], groups=DAYS[:30]))
    with pytest.raises(ModelError, match="session of every row"):
        list(CombinatorialPurged(DAILY, 6, 2).split(DAYS))


def test_as_many_sessions_as_blocks_are_enough() -> None:
    assert CombinatorialPurged(DAILY, 6, 2).blocks(DAYS[:6]).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_session_after_what_is_purged_is_left_out_by_default() -> None:
    train, test = next(iter(CombinatorialPurged(DAILY, 4, 1).split(DAYS[:20], groups=DAYS[:20])))
    assert test.tolist() == [0, 1, 2, 3, 4]
    assert train.tolist() == list(range(7, 20))


def test_scikit_learn_can_use_it_and_so_can_polars() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(DAYS[:120], 5)
    x = rng.standard_normal((len(groups), 3))
    y = x[:, 0] + 0.1 * rng.standard_normal(len(groups))
    splitter = CombinatorialPurged(DAILY, 6, 2)
    scores = cross_val_score(Ridge(), x, y, groups=groups, cv=splitter)
    assert len(scores) == splitter.get_n_splits(x, y, groups) == 15
    assert (scores > 0.9).all()
    frame = pl.DataFrame({"session": DAYS[:60]})
    assert len(next(iter(splitter.split(frame, groups=frame["session"])))[1]) == 20
