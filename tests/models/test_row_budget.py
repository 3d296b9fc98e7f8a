"""Rows left out for memory: by no value, whole weeks at once, and none from what is forecast."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.compute import compute_features
from features.labels import forward_returns
from market.horizons import find_horizon
from models.dataset import assemble
from models.row_budget import WEEK_SESSIONS, kept_weeks, symbols_per_kept
from models.spec import Family, Forecast, Labelled, Sample
from models.train import Rhythm, Training, train_horizon
from tests.markets import adjusted_bars, market

HORIZON = find_horizon("1h")
NAMES = ("volatility_20", "return_1", "return_5")
WINDOW = 7


class MeanOfWindow:
    """Forecasts the mean of a feature over the bars before: it learns nothing, but looks back."""

    seen: list[Labelled] = []

    def __init__(self, params, seed, native=None) -> None:
        pass

    def fit(self, train: Labelled, held: Labelled | None = None) -> None:
        self.seen.append(train)

    def predict(self, sample: Sample) -> Forecast:
        places = sample.windows(WINDOW)
        values = np.where(places >= 0, sample.x[places, 1], np.nan)
        mean = np.nanmean(np.where(np.isfinite(values), values, 0.0), axis=1) * 100
        return Forecast(mean + (places < 0).sum(axis=1))

    def contributions(self, sample: Sample):
        return np.zeros((len(sample), len(NAMES)))


FAMILY = Family("mean", "none", MeanOfWindow, {"window": WINDOW}, needs_sequences=True)


@lru_cache(maxsize=1)
def tables() -> tuple[pl.DataFrame, pl.DataFrame]:
    of = market(symbols=6, sessions=70, minute_sessions=60)
    bars = adjusted_bars(of, "1h")
    return compute_features(bars).select(
        "symbol", "session", "bar_end", "as_of", *NAMES
    ), forward_returns(bars, HORIZON)


def train(matrix_bytes: int | None) -> tuple[Training, list[Labelled]]:
    MeanOfWindow.seen = []
    features, labels = tables()
    made = train_horizon(
        features, labels, horizon=HORIZON, families=[FAMILY], feature_names=NAMES,
        rhythm=Rhythm(min_train_sessions=30, test_sessions=10), start=None, end=None,
        as_of=dt.datetime(2030, 1, 1, tzinfo=dt.UTC), seed=1, band_bps=5.0, data_hash="",
        matrix_bytes=matrix_bytes,
    )  # fmt: skip
    return made, MeanOfWindow.seen


def whole_bytes() -> int:
    return tables()[0].height * len(NAMES) * 4


@pytest.mark.parametrize("share", [2, 5])
def test_every_row_is_forecast_as_without_a_budget(share: int) -> None:
    """Windows reach over the seams between the parts that are read."""
    every, _ = train(None)
    few, seen = train(whole_bytes() // share)
    order = ["bar_end", "symbol"]
    same = ["symbol", "bar_end", "expected_return_bps"]
    assert (
        few.predictions.select(same).sort(order).equals(every.predictions.select(same).sort(order))
    )
    # The matrix is the whole table's in expectation only.
    assert all(s.sample.x.nbytes < 2 * whole_bytes() // share for s in seen)


def test_windows_of_what_is_learned_are_those_of_the_whole() -> None:
    _, whole = train(None)
    _, few = train(whole_bytes() // 3)

    def windows(of: Labelled) -> dict[bytes, int]:
        places = of.sample.windows(WINDOW)
        values = np.where((places >= 0)[..., None], of.sample.x[places], 0.0)
        return {v.tobytes(): int((p >= 0).sum()) for v, p in zip(values, places, strict=True)}

    learned, all_of_them = windows(few[-1]), windows(whole[-1])
    kept = [full for key, full in learned.items() if full == WINDOW]
    assert len(kept) > 0.6 * len(learned)
    strange = [k for k, full in learned.items() if full == WINDOW and k not in all_of_them]
    assert strange == []


def test_room_for_everything_leaves_nothing_out() -> None:
    every, _ = train(None)
    roomy, _ = train(whole_bytes())
    assert roomy.predictions.equals(every.predictions)
    assert [m.version for m in roomy.models] == [m.version for m in every.models]


@given(st.integers(1, 10**9), st.integers(1, 2000), st.integers(10**6, 10**10))
def test_the_least_share_that_fits_is_taken(rows: int, features: int, room: int) -> None:
    one_in = symbols_per_kept(rows, features, matrix_bytes=room)
    assert rows * features * 4 <= room * one_in
    assert one_in == 1 or rows * features * 4 > room * (one_in - 1)


def keys(symbols: int, sessions: int) -> pl.DataFrame:
    days = pl.date_range(dt.date(2019, 1, 1), dt.date(2024, 12, 31), eager=True)
    days = days.filter(days.dt.weekday() <= 5).tail(sessions)
    names = pl.DataFrame({"symbol": [f"S{k}" for k in range(symbols)]})
    return names.join(pl.DataFrame({"session": days}), how="cross")


@pytest.mark.parametrize("one_in", [2, 3, 7])
def test_each_symbol_and_week_is_as_likely_as_any_other(one_in: int) -> None:
    every = keys(400, 400)
    kept = kept_weeks(every, one_in)
    weeks = 400 // WEEK_SESSIONS
    per_symbol = kept.group_by("symbol").len()["len"]
    expected, spread = 400 / one_in, WEEK_SESSIONS * (weeks / one_in * (1 - 1 / one_in)) ** 0.5
    # Of so many independent draws hardly one lies five deviations off, and none here.
    assert len(per_symbol) == 400
    assert ((per_symbol - expected).abs() < 5 * spread).all()
    assert kept.group_by("session").len()["len"].unique().to_list() == [-(-400 // one_in)]
    assert kept.height / every.height == pytest.approx(1 / one_in, abs=0.01)


def test_what_is_kept_depends_on_names_and_dates_alone() -> None:
    every = keys(30, 200)
    kept = kept_weeks(every, 3)
    shuffled = pl.concat([every, every]).sample(fraction=1.0, shuffle=True, seed=2)
    assert kept_weeks(shuffled, 3).equals(kept)
    half = every.filter(pl.col("session") > every["session"].median())
    assert kept_weeks(half, 3).equals(kept.join(half, on=["symbol", "session"], how="semi"))


def test_weeks_are_whole_and_apart() -> None:
    every, kept = keys(50, 300), kept_weeks(keys(50, 300), 3)
    days = every["session"].unique().sort()
    place = pl.DataFrame({"session": days, "k": range(len(days))})
    for one in kept.join(place, on="session").partition_by("symbol"):
        k = one["k"].sort().to_numpy()
        breaks = np.flatnonzero(np.diff(k) > 1)
        inner = np.diff(np.append(-1, breaks))[1:]
        assert (inner % WEEK_SESSIONS == 0).all()
        assert (np.diff(k)[breaks] > WEEK_SESSIONS).all()


def test_ranks_are_those_among_all_symbols_whatever_is_kept() -> None:
    features, labels = tables()
    names = ("return_5@rank", "return_1")
    every = assemble(features, labels, names, steps=HORIZON.steps)
    kept = kept_weeks(features, 3)
    few = assemble(features, labels, names, steps=HORIZON.steps, kept=kept)
    mine = every.keys.with_row_index("row").join(kept, on=["symbol", "session"], how="semi")
    assert 0 < len(few) == mine.height < len(every)
    assert few.keys.equals(mine.sort("row").drop("row"))
    assert np.array_equal(few.x, every.x[mine["row"].sort().to_numpy()], equal_nan=True)
    assert np.array_equal(few.y, every.y[mine["row"].sort().to_numpy()], equal_nan=True)
