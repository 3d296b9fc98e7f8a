"""Labels against an independent loop, and their independence from what comes later."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache

import numpy as np
import polars as pl
import pytest

from features.labels import forward_returns
from market import calendar
from market.errors import FeatureError
from market.horizons import HORIZONS, find_horizon
from market.schema import Bar
from market.timeframes import Timeframe, resample
from tests.markets import HALF_DAY, bits, daily_bars, market

NAMES = [h.name for h in HORIZONS]


@lru_cache(maxsize=16)
def bars_of(name: str) -> pl.DataFrame:
    """Bars with halts; the minutes run from before a half-day to after it."""
    horizon = find_horizon(name)
    if not horizon.timeframe.is_intraday:
        daily = market(seed=5, symbols=4, sessions=80).daily
        return daily.filter(pl.int_range(pl.len()) % 23 != 7)
    made = market(
        seed=5, symbols=3, sessions=5, minute_sessions=4, end=HALF_DAY + dt.timedelta(days=2)
    )
    assert HALF_DAY in made.minute[Bar.SESSION].to_list()
    symbol = made.minute[Bar.SYMBOL][0]
    halted = (pl.col(Bar.SYMBOL) == symbol) & (pl.col(Bar.BAR_START).dt.hour() == 15)
    return resample(made.minute.filter(~halted), horizon.timeframe)


def scheduled_ends(timeframe: Timeframe, first: dt.date, last: dt.date) -> list[dt.datetime]:
    """Every bar end by stepping through the clock."""
    ends = []
    for day in calendar.sessions_between(first, last):
        closed = calendar.session_close(day)
        if not timeframe.is_intraday:
            ends.append(closed)
            continue
        moment = calendar.session_open(day)
        while moment < closed:
            moment = min(moment + dt.timedelta(minutes=timeframe.minutes), closed)
            ends.append(moment)
    return ends


def naive_labels(bars: pl.DataFrame, name: str) -> dict[tuple[str, dt.datetime], tuple]:
    horizon = find_horizon(name)
    ends = scheduled_ends(horizon.timeframe, bars[Bar.SESSION].min(), bars[Bar.SESSION].max())
    place = {end: n for n, end in enumerate(ends)}
    closes = {(r["symbol"], r["bar_end"]): r for r in bars.to_dicts()}
    out = {}
    for (symbol, end), row in closes.items():
        target = place[end] + horizon.steps
        later = closes.get((symbol, ends[target])) if target < len(ends) else None
        if later is not None and not horizon.crosses_close and later["session"] != row["session"]:
            later = None
        out[symbol, end] = (
            (None, None)
            if later is None
            else (later["close"] / row["close"] - 1.0, later["known_at"])
        )
    return out


@pytest.mark.parametrize("name", NAMES)
def test_labels_equal_a_naive_loop(name: str) -> None:
    bars = bars_of(name)
    labels = forward_returns(bars, find_horizon(name))
    wanted = naive_labels(bars, name)
    assert labels.height == bars.height == len(wanted)
    for row in labels.to_dicts():
        value, known = wanted[row["symbol"], row["bar_end"]]
        assert row["label_known_at"] == known
        assert row["forward_return"] == (None if value is None else pytest.approx(value, abs=1e-14))
    assert 0 < labels["forward_return"].null_count() < labels.height


@pytest.mark.parametrize("name", NAMES)
def test_excess_is_what_is_left_after_the_mean_of_that_time(name: str) -> None:
    labels = forward_returns(bars_of(name), find_horizon(name))
    assert labels["excess_return"].is_null().equals(labels["forward_return"].is_null())
    sums = labels.group_by("bar_end").agg(pl.col("excess_return").sum())
    assert sums["excess_return"].abs().max() < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_a_label_is_known_after_its_bar_and_ends_when_the_horizon_does(name: str) -> None:
    horizon = find_horizon(name)
    labels = forward_returns(bars_of(name), horizon).drop_nulls("label_known_at")
    assert (labels["label_known_at"] > labels["as_of"]).all()
    for row in labels.sample(min(60, labels.height), seed=1).to_dicts():
        assert row["label_known_at"] == horizon.end_of(row["bar_end"])


@pytest.mark.parametrize("name", NAMES)
def test_a_label_is_null_before_it_is_known_and_the_same_ever_after(name: str) -> None:
    horizon, bars = find_horizon(name), bars_of(name)
    whole = forward_returns(bars, horizon)
    ends = bars[Bar.BAR_END].unique().sort()
    for k in np.random.default_rng(0).integers(len(ends) // 2, len(ends) - 1, 4):
        now = ends[int(k)]
        seen = forward_returns(bars.filter(pl.col(Bar.KNOWN_AT) <= now), horizon)
        then = whole.filter(pl.col("as_of") <= now)
        known = then["label_known_at"].fill_null(now + dt.timedelta(days=1)) <= now
        assert bits(seen.filter(known)) == bits(then.filter(known))
        assert seen.filter(~known)["forward_return"].null_count() == (~known).sum()
        assert seen.filter(~known)["label_known_at"].null_count() == (~known).sum()


@pytest.mark.parametrize("name", [h.name for h in HORIZONS if not h.crosses_close])
def test_labels_up_to_an_hour_end_inside_their_session(name: str) -> None:
    horizon = find_horizon(name)
    labels = forward_returns(bars_of(name), horizon)
    for session, part in labels.group_by(Bar.SESSION):
        latest = calendar.session_close(session[0]) - dt.timedelta(minutes=horizon.minutes)
        late = part.filter(pl.col(Bar.BAR_END) > latest)
        assert late.height > 0
        assert late["forward_return"].null_count() == late.height
        assert part.filter(pl.col(Bar.BAR_END) <= latest)["forward_return"].is_not_null().any()


def test_the_delay_of_the_data_plan_delays_the_label() -> None:
    late = bars_of("1d").with_columns(pl.col(Bar.KNOWN_AT) + dt.timedelta(minutes=15))
    labels = forward_returns(late, find_horizon("1d")).drop_nulls("label_known_at")
    ends = [find_horizon("1d").end_of(t) for t in labels["bar_end"]]
    assert labels["label_known_at"].to_list() == [e + dt.timedelta(minutes=15) for e in ends]


def test_hand_arithmetic() -> None:
    bars = daily_bars({"A": [100.0, 110.0, 99.0], "B": [50.0, 50.0, 60.0]}, dt.date(2024, 7, 1))
    labels = forward_returns(bars, find_horizon("1d"))
    assert labels["forward_return"].to_list() == pytest.approx([0.1, -0.1, None, 0.0, 0.2, None])
    assert labels["excess_return"].to_list() == pytest.approx(
        [0.05, -0.15, None, -0.05, 0.15, None]
    )


def test_a_halted_symbol_has_no_label_across_the_halt() -> None:
    bars = daily_bars({"A": [1.0, float("nan"), 3.0, 4.0]}, dt.date(2024, 7, 1))
    labels = forward_returns(bars, find_horizon("1d"))
    assert labels["forward_return"].to_list() == [None, pytest.approx(1 / 3), None]


def test_bars_off_the_grid_are_refused() -> None:
    bars = bars_of("1h").with_columns(pl.col(Bar.BAR_END) + dt.timedelta(minutes=3))
    with pytest.raises(FeatureError, match="off the session grid"):
        forward_returns(bars, find_horizon("1h"))
