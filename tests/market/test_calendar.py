"""The trading calendar against dates that are on record."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market import calendar
from market.errors import MarketError

DATES = st.dates(dt.date(1995, 1, 1), dt.date(2030, 6, 30))


@pytest.mark.parametrize(
    "closed",
    ["2024-01-01", "2024-07-04", "2025-01-09", "2001-09-11", "2012-10-29", "2024-11-28"],
)
def test_days_on_which_the_exchange_stayed_closed(closed: str) -> None:
    day = dt.date.fromisoformat(closed)
    assert not calendar.is_session(day)
    assert day in calendar.holidays_between(day - dt.timedelta(days=3), day + dt.timedelta(days=3))
    with pytest.raises(MarketError, match="not a trading session"):
        calendar.session_open(day)


@pytest.mark.parametrize("half", ["2024-07-03", "2024-11-29", "2024-12-24", "2023-11-24"])
def test_half_days_close_at_one(half: str) -> None:
    day = dt.date.fromisoformat(half)
    assert calendar.is_half_day(day)
    local = calendar.session_close(day).astimezone(calendar.NEW_YORK)
    assert local.time() == dt.time(13, 0)


def test_hours_follow_daylight_saving() -> None:
    assert calendar.session_open(dt.date(2024, 3, 8)).hour == 14
    assert calendar.session_open(dt.date(2024, 3, 11)).hour == 13
    assert not calendar.is_half_day(dt.date(2024, 3, 11))
    assert calendar.session_close(dt.date(2024, 3, 11)) == dt.datetime(
        2024, 3, 11, 20, 0, tzinfo=dt.UTC
    )


def test_the_schedule_is_ordered_and_whole() -> None:
    table = calendar.schedule()
    assert table["session"].is_sorted()
    assert table["session"].is_unique().all()
    assert table["session_index"].to_list() == list(range(table.height))
    assert table["session_minutes"].is_in([390, 270, 210]).all()
    assert (table["session_close"] > table["session_open"]).all()
    assert table["session"].dt.weekday().max() == 5


@given(DATES)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_neighbours_are_the_nearest_sessions(date: dt.date) -> None:
    before, after = calendar.previous_session(date), calendar.next_session(date)
    assert before < date < after
    inside = calendar.sessions_between(before, after)
    assert inside == [before, *([date] if calendar.is_session(date) else []), after]


@given(DATES, st.integers(-60, 60))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_offsets_undo_each_other(date: dt.date, steps: int) -> None:
    session = calendar.next_session(date)
    there = calendar.offset_session(session, steps)
    assert calendar.offset_session(there, -steps) == session
    low, high = min(session, there), max(session, there)
    assert len(calendar.sessions_between(low, high)) == abs(steps) + 1


def test_latest_session_changes_at_the_close() -> None:
    close = calendar.session_close(dt.date(2024, 7, 3))
    instant = dt.timedelta(microseconds=1)
    assert calendar.latest_session(close - instant) == dt.date(2024, 7, 2)
    assert calendar.latest_session(close) == dt.date(2024, 7, 3)
    assert calendar.latest_session(close + dt.timedelta(days=1)) == dt.date(2024, 7, 3)
    evening = dt.datetime(2024, 7, 9, 2, 0, tzinfo=dt.UTC)  # still the 8th in New York
    assert calendar.latest_session(evening) == dt.date(2024, 7, 8)


def test_reversed_dates_are_refused() -> None:
    with pytest.raises(MarketError, match="reversed dates"):
        calendar.sessions_between(dt.date(2024, 2, 1), dt.date(2024, 1, 1))


def test_dates_outside_the_calendar_are_refused_by_name() -> None:
    with pytest.raises(MarketError, match="calendar"):
        calendar.previous_session(calendar.FIRST_DATE)
    with pytest.raises(MarketError, match="calendar"):
        calendar.next_session(calendar.LAST_DATE)
    with pytest.raises(MarketError, match="calendar"):
        calendar.previous_session(dt.date(2040, 1, 1))
    with pytest.raises(MarketError, match="calendar"):
        calendar.offset_session(calendar.FIRST_DATE, -1)
    with pytest.raises(MarketError, match="calendar"):
        calendar.latest_session(dt.datetime(1980, 1, 1, tzinfo=dt.UTC))
