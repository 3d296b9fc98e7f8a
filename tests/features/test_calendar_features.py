"""Dates and the clock against a naive walk through the calendar; events once they are announced."""

from __future__ import annotations

import datetime as dt
import math

import polars as pl
import pytest

from features.compute import compute_features
from features.registry import select_features
from features.side import SideTables
from market import calendar
from market.schema import Bar
from market.timeframes import Timeframe, resample
from tests.extended import events_of
from tests.markets import HALF_DAY, bits, daily_bars, market

DATED = [
    f
    for f in select_features(family="calendar", timeframe=Timeframe.D1)
    if f.inputs[0] == "session"
]
EVENTS = select_features(["days_to_event", "days_since_event"])
DAY = dt.timedelta(days=1)


def of_sessions(start: dt.date, sessions: int) -> pl.DataFrame:
    return compute_features(daily_bars({"A": [5.0] * sessions}, start), DATED)


def planned(day: dt.date) -> bool:
    return calendar.is_session(day) or day in calendar.unplanned_closures()


def sessions_left(day: dt.date, same) -> int:
    count, other = 0, day + DAY
    while same(other):
        count += planned(other)
        other += DAY
    return count


def expiry_of(day: dt.date) -> dt.date:
    friday = day.replace(day=15)
    while friday.weekday() != 4:
        friday += DAY
    while not planned(friday):
        friday -= DAY
    return friday


def next_expiry(day: dt.date) -> dt.date:
    this = expiry_of(day)
    return this if day <= this else expiry_of(day.replace(day=1) + dt.timedelta(days=32))


def holidays_around(day: dt.date) -> tuple[bool, bool]:
    after = any(
        (before := calendar.previous_session(day) + n * DAY) < day and before.weekday() < 5
        for n in range(1, (day - calendar.previous_session(day)).days)
    )
    other, found = day + DAY, False
    while not planned(other):
        found |= other.weekday() < 5
        other += DAY
    return after, found


def naive(day: dt.date) -> dict[str, float]:
    month = calendar.sessions_between(day.replace(day=1), day)
    days_of_month = ((day.replace(day=28) + 4 * DAY).replace(day=1) - DAY).day
    to_end = sessions_left(day, lambda d: d.month == day.month)
    after, before = holidays_around(day)
    friday = day.replace(day=15)
    while friday.weekday() != 4:
        friday += DAY
    target = next_expiry(day)
    return {
        "weekday_sin": math.sin(2 * math.pi * day.weekday() / 5),
        "weekday_cos": math.cos(2 * math.pi * day.weekday() / 5),
        "month_sin": math.sin(2 * math.pi * (day.month - 1) / 12),
        "month_cos": math.cos(2 * math.pi * (day.month - 1) / 12),
        "day_of_month": (day.day - 1) / (days_of_month - 1),
        "turn_of_month": float(to_end == 0 or len(month) <= 3),
        "sessions_to_month_end": to_end,
        "sessions_to_quarter_end": sessions_left(
            day, lambda d: (d.year, (d.month - 1) // 3) == (day.year, (day.month - 1) // 3)
        ),
        "half_day": float(calendar.is_half_day(day)),
        "before_holiday": float(before),
        "after_holiday": float(after),
        "option_expiry_week": float(
            (friday - day).days in range(5 - 1 - day.weekday() + 1)
            and friday.isocalendar()[:2] == day.isocalendar()[:2]
        ),
        "sessions_to_option_expiry": sum(
            planned(day + n * DAY) for n in range(1, (target - day).days + 1)
        ),
    }


@pytest.mark.parametrize(
    ("start", "sessions"),
    [
        (dt.date(2023, 12, 1), 290),
        # A Good Friday on which options would expire.
        (dt.date(2019, 4, 1), 40),
        # Closed without notice: four days of September 2001, two of October 2012.
        (dt.date(2001, 9, 4), 20),
        (dt.date(2012, 10, 19), 20),
    ],
)
def test_dates_equal_a_naive_walk(start: dt.date, sessions: int) -> None:
    out = of_sessions(start, sessions)
    assert len(DATED) == 13
    for row in out.iter_rows(named=True):
        wanted = naive(row["session"])
        assert {n: row[n] for n in wanted} == pytest.approx(wanted, abs=1e-6), row["session"]


def test_nobody_knew_of_a_closure_without_notice_on_its_eve() -> None:
    out = {r["session"]: r for r in of_sessions(dt.date(2001, 9, 4), 20).iter_rows(named=True)}
    eve, back = out[dt.date(2001, 9, 10)], out[dt.date(2001, 9, 17)]
    assert eve["before_holiday"] == 0.0
    # The 11th to the 14th, and ten more sessions.
    assert eve["sessions_to_month_end"] == 14
    assert back["after_holiday"] == 1.0


def test_the_eve_of_independence_day() -> None:
    (row,) = of_sessions(HALF_DAY, 1).iter_rows(named=True)
    assert row["half_day"] == 1.0
    assert row["before_holiday"] == 1.0
    assert row["turn_of_month"] == 1.0


def test_the_clock_of_a_session_and_of_a_half_day() -> None:
    minutes = market(seed=3, symbols=2, sessions=30, minute_sessions=10).minute
    bars = resample(minutes, Timeframe.M15)
    out = compute_features(bars, select_features(["session_elapsed", "minutes_to_close"]))
    for row in out.iter_rows(named=True):
        opened, closed = (
            f(row["session"]) for f in (calendar.session_open, calendar.session_close)
        )
        assert row["minutes_to_close"] == (closed - row["bar_end"]).total_seconds() / 60
        share = (row["bar_end"] - opened) / (closed - opened)
        assert row["session_elapsed"] == pytest.approx(share, abs=1e-7)
    half = out.filter(pl.col(Bar.SESSION) == HALF_DAY)
    assert half["minutes_to_close"].min() == 0.0
    assert half["minutes_to_close"].max() == 195.0


def test_a_day_that_is_no_session_has_nothing() -> None:
    bars = daily_bars({"A": [5.0]}, dt.date(2024, 7, 5)).with_columns(
        pl.lit(dt.date(2024, 7, 4)).alias(Bar.SESSION)
    )
    assert (
        compute_features(bars, DATED)
        .drop("symbol", "session", "bar_end", "as_of")
        .null_count()
        .row(0)
        == (1,) * 13
    )


# ---------------------------------------------------------------------- events


def test_days_to_and_from_events_equal_a_naive_loop() -> None:
    daily = market(seed=3, symbols=4, sessions=110).daily
    events = events_of(daily)
    # One was moved to a later day, one was told only after it had been.
    first = events[0]
    moved = first.with_columns(
        pl.col("date") + dt.timedelta(days=3), pl.col("known_at") + dt.timedelta(days=2, hours=3)
    )
    late = events[7].with_columns(
        pl.col("date") + dt.timedelta(days=2), pl.col("known_at") + dt.timedelta(days=25)
    )
    events = pl.concat([events, moved, late])
    out = compute_features(daily, EVENTS, SideTables(events=events))
    filled = 0
    for row in out.iter_rows(named=True):
        day = row["session"]
        own = events.filter(pl.col("symbol") == row["symbol"], pl.col("known_at") <= row["as_of"])[
            "date"
        ].to_list()
        ahead = [(d - day).days for d in own if d >= day]
        behind = [(day - d).days for d in own if 0 < (day - d).days <= 200]
        assert row["days_to_event"] == (min(ahead) if ahead else None), row
        assert row["days_since_event"] == (min(behind) if behind else None), row
        filled += bool(ahead) + bool(behind)
    assert filled > 200


def test_an_event_is_not_known_before_it_is_announced() -> None:
    day = dt.date(2024, 3, 14)
    announced = dt.datetime(2024, 3, 11, 15, 0, tzinfo=dt.UTC)
    events = pl.DataFrame({"symbol": ["A"], "date": [day], "known_at": [announced]})
    minutes = market(seed=3, symbols=2, sessions=90, minute_sessions=90).minute
    symbol = minutes[Bar.SYMBOL][0]
    events = events.with_columns(pl.lit(symbol).alias("symbol"))
    bars = resample(minutes.filter(pl.col(Bar.SYMBOL) == symbol), Timeframe.M30)
    out = compute_features(bars, EVENTS, SideTables(events=events))
    before, after = (
        out.filter(pl.col("as_of") < announced),
        out.filter(pl.col("as_of") >= announced),
    )
    assert before["days_to_event"].null_count() == before.height > 0
    assert after["days_to_event"][0] == 3.0
    assert after.filter(pl.col("session") == day)["days_to_event"].unique().to_list() == [0.0]
    assert after.filter(pl.col("session") == day)["days_since_event"].null_count() == 13
    assert after.filter(pl.col("session") == dt.date(2024, 3, 15))["days_since_event"][0] == 1.0
    last = after.filter(pl.col("session") > day)
    assert last["days_to_event"].null_count() == last.height


def test_an_event_long_ago_is_forgotten_also_when_none_follows() -> None:
    start = dt.date(2022, 1, 3)
    daily = daily_bars({"A": [5.0] * 400, "B": [5.0] * 400}, start)
    known = calendar.session_open(start)
    events = pl.DataFrame({"symbol": ["A"], "date": [dt.date(2022, 2, 1)], "known_at": [known]})
    out = compute_features(daily, EVENTS, SideTables(events=events))
    own = out.filter(pl.col("symbol") == "A").drop_nulls("days_since_event")
    # The two-hundredth day is a Saturday.
    assert own["days_since_event"].max() == 199.0
    assert own["session"].max() == dt.date(2022, 8, 19)
    assert out.filter(pl.col("symbol") == "B")["days_to_event"].null_count() == 400


def test_without_a_table_of_events_there_is_nothing() -> None:
    daily = market(seed=3, symbols=4, sessions=110).daily
    empty = events_of(daily).head(0)
    undated = events_of(daily).with_columns(pl.lit(None, pl.Date).alias("date"))
    a, b, c = (
        compute_features(daily, EVENTS, SideTables(events=e)) for e in (None, empty, undated)
    )
    assert bits(a) == bits(b) == bits(c)
    assert a["days_to_event"].null_count() == daily.height
