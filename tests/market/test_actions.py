"""Adjustment factors by hand, and that the future changes none of them."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market import calendar
from market.actions import Adjustment, adjust, forward_adjust, session_factors
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar, empty
from tests.markets import bits, daily_bars, market, minute_bars

START = dt.date(2024, 7, 1)  # 1, 2, 3 (half-day), 5, 8 July
DAYS = calendar.sessions_between(START, dt.date(2024, 7, 12))
KNOWN = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
NO_SPLITS, NO_DIVIDENDS = empty(SPLIT_SCHEMA), empty(DIVIDEND_SCHEMA)


def splits(*rows: tuple[str, dt.date, float]) -> pl.DataFrame:
    return pl.DataFrame([(s, d, KNOWN, r) for s, d, r in rows], schema=SPLIT_SCHEMA, orient="row")


def dividends(*rows: tuple[str, dt.date, float]) -> pl.DataFrame:
    data = [(s, d, KNOWN, r) for s, d, r in rows]
    return pl.DataFrame(data, schema=DIVIDEND_SCHEMA, orient="row")


def column(frame: pl.DataFrame, name: str) -> list[float]:
    return frame.sort(Bar.SYMBOL, Bar.SESSION)[name].to_list()


def test_no_actions_change_nothing() -> None:
    daily = daily_bars({"A": [100.0, 101.0], "B": [5.0, 6.0]}, START)
    factors = session_factors(daily, NO_SPLITS, NO_DIVIDENDS)
    assert factors["total_factor"].to_list() == [1.0] * 4
    assert forward_adjust(daily, factors).equals(daily)


def test_split_and_dividend_by_hand() -> None:
    daily = daily_bars({"A": [100.0, 102.0, 51.0, 50.0, 48.0]}, START)
    factors = session_factors(
        daily, splits(("A", DAYS[2], 2.0)), dividends(("A", DAYS[3], 1.02), ("B", DAYS[3], 9.0))
    ).filter(pl.col("symbol") == "A")
    growth = 1.0 / (1.0 - 1.02 / 51.0)
    assert column(factors, "split_factor") == [1.0, 1.0, 2.0, 2.0, 2.0]
    assert column(factors, "total_factor") == pytest.approx([1, 1, 2, 2 * growth, 2 * growth])
    forward = forward_adjust(daily, factors)
    assert column(forward, "close") == pytest.approx(
        [100.0, 102.0, 102.0, 100 * growth, 96 * growth]
    )
    assert column(forward, "volume") == [100.0, 100.0, 50.0, 50.0, 50.0]


def test_back_adjusted_prices_end_at_the_raw_price() -> None:
    daily = daily_bars({"A": [100.0, 102.0, 51.0, 50.0]}, START)
    factors = session_factors(daily, splits(("A", DAYS[2], 2.0)), dividends(("A", DAYS[3], 1.02)))
    evening = calendar.session_close(DAYS[3])
    total = adjust(daily, factors, Adjustment.TOTAL, evening)
    keep = 1.0 - 1.02 / 51.0
    assert column(total, "close") == pytest.approx([50 * keep, 51 * keep, 51 * keep, 50.0])
    split = adjust(daily, factors, Adjustment.SPLIT, evening)
    assert column(split, "close") == pytest.approx([50.0, 51.0, 51.0, 50.0])
    assert column(split, "volume") == pytest.approx([200.0, 200.0, 100.0, 100.0])
    assert adjust(daily, factors, Adjustment.RAW, evening).equals(daily)


def test_a_view_before_the_split_knows_nothing_of_it() -> None:
    daily = daily_bars({"A": [100.0, 102.0, 51.0]}, START)
    factors = session_factors(daily, splits(("A", DAYS[2], 2.0)), NO_DIVIDENDS)
    opened = calendar.session_open(DAYS[2])
    for view in (Adjustment.SPLIT, Adjustment.TOTAL):
        before = adjust(daily, factors, view, opened - dt.timedelta(minutes=1))
        assert column(before, "close") == [100.0, 102.0]
        during = adjust(daily, factors, view, opened)
        assert column(during, "close") == [50.0, 51.0]
        after = adjust(daily, factors, view, calendar.session_close(DAYS[2]))
        assert column(after, "close") == [50.0, 51.0, 51.0]


def test_on_the_ex_date_minutes_are_adjusted_before_the_daily_bar_exists() -> None:
    """At midday the day's own daily bar is not there yet, the split is."""
    daily = daily_bars({"A": [100.0, 102.0]}, START)
    factors = session_factors(daily, splits(("A", DAYS[2], 2.0)), dividends(("A", DAYS[2], 0.51)))
    opened = calendar.session_open(DAYS[2])
    minute = minute_bars("A", [opened], [51.0], DAYS[2])
    got = forward_adjust(minute, factors)
    assert got["close"].item() == pytest.approx(102.0 / (1 - 0.51 / 51.0))
    later = session_factors(
        daily_bars({"A": [100.0, 102.0, 51.0]}, START),
        splits(("A", DAYS[2], 2.0)),
        dividends(("A", DAYS[2], 0.51)),
    )
    assert bits(forward_adjust(minute, later)) == bits(got)


def test_an_ex_date_inside_a_halt_counts_at_the_next_bar() -> None:
    halted = float("nan")
    daily = daily_bars({"A": [100.0, halted, halted, 49.0]}, START)
    factors = session_factors(daily, splits(("A", DAYS[1], 2.0)), dividends(("A", DAYS[2], 1.0)))
    got = forward_adjust(daily, factors)
    assert column(got, "close") == pytest.approx([100.0, 98.0 / (1 - 1.0 / 50.0)])


def test_two_actions_on_one_day() -> None:
    daily = daily_bars({"A": [100.0, 20.0]}, START)
    both = session_factors(
        daily,
        splits(("A", DAYS[1], 2.0), ("A", DAYS[1], 2.0)),
        dividends(("A", DAYS[1], 0.5), ("A", DAYS[1], 0.25)),
    )
    assert column(both, "split_factor") == [1.0, 4.0]
    assert column(both, "total_factor") == pytest.approx([1.0, 4.0 / (1 - 0.75 / 25.0)])


def test_a_dividend_as_large_as_the_price_is_left_alone() -> None:
    daily = daily_bars({"A": [1.0, 1.0]}, START)
    factors = session_factors(daily, NO_SPLITS, dividends(("A", DAYS[1], 1.0)))
    assert column(factors, "total_factor") == [1.0, 1.0]


def test_one_symbols_actions_do_not_touch_another() -> None:
    daily = daily_bars({"A": [100.0, 50.0], "B": [7.0, 7.0]}, START)
    factors = session_factors(daily, splits(("A", DAYS[1], 2.0)), NO_DIVIDENDS)
    got = forward_adjust(daily, factors)
    assert got.filter(pl.col("symbol") == "B").equals(daily.filter(pl.col("symbol") == "B"))


@given(st.data())
@settings(deadline=None, derandomize=True, max_examples=40)
def test_later_actions_and_bars_change_no_factor(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    closes = {s: (50 + rng.normal(0, 3, len(DAYS)).cumsum()).tolist() for s in "AB"}
    for series in closes.values():
        series[int(rng.integers(1, len(DAYS)))] = float("nan")
    daily = daily_bars(closes, START)
    places = st.tuples(st.sampled_from("AB"), st.sampled_from(DAYS))
    some = data.draw(st.lists(places, unique=True, max_size=6))
    all_splits = splits(*((s, d, float(rng.choice([2.0, 3.0, 0.1]))) for s, d in some[::2]))
    all_paid = dividends(*((s, d, float(rng.uniform(0.1, 2))) for s, d in some[1::2]))
    whole = session_factors(daily, all_splits, all_paid)
    for day in DAYS[:-1]:
        seen = session_factors(
            daily.filter(pl.col("session") <= day),
            all_splits.filter(pl.col("ex_date") <= day),
            all_paid.filter(pl.col("ex_date") <= day),
        )
        assert bits(seen) == bits(whole.filter(pl.col("session") <= day))


def test_forward_returns_of_the_synthetic_market_have_no_jumps_at_actions() -> None:
    of = market(seed=1, symbols=30, sessions=1008, alpha=(("1d", 0.05),))
    assert of.splits.height > 0
    assert of.dividends.height > 0
    got = forward_adjust(of.daily, session_factors(of.daily, of.splits, of.dividends))
    change = pl.col("close") / pl.col("close").shift(1).over("symbol") - 1
    at_splits = got.with_columns(change=change).join(
        of.splits, left_on=["symbol", "session"], right_on=["symbol", "ex_date"]
    )
    assert at_splits["change"].abs().max() < 0.2
