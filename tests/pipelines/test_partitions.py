"""Session partitions are the trading days of XNYS, no more and no fewer."""

from __future__ import annotations

import datetime as dt

import pytest

from market import calendar
from pipelines.partitions import horizon_partitions, session_partitions
from pipelines.settings import Settings


def keys(now: dt.datetime, **history: object) -> list[str]:
    settings = Settings.model_validate({"history": history})
    return list(session_partitions(settings).get_partition_keys(current_time=now))


def test_partitions_are_the_sessions_of_the_exchange():
    start, end = dt.date(2023, 11, 1), dt.date(2025, 6, 30)
    found = keys(dt.datetime(2025, 12, 1, tzinfo=dt.UTC), start=start, end=end)
    assert found == [d.isoformat() for d in calendar.sessions_between(start, end)]


@pytest.mark.parametrize("day", ["2025-01-09", "2024-07-04", "2024-12-25", "2025-01-04"])
def test_a_day_without_a_session_has_no_partition(day: str):
    found = keys(dt.datetime(2025, 2, 3, tzinfo=dt.UTC), start="2024-06-03", end="2025-01-31")
    assert day not in found


@pytest.mark.parametrize("day", ["2024-07-03", "2024-11-29", "2024-12-24"])
def test_a_half_day_has_a_partition(day: str):
    found = keys(dt.datetime(2025, 2, 3, tzinfo=dt.UTC), start="2024-06-03", end="2025-01-31")
    assert day in found


@pytest.mark.parametrize(
    "local",
    [dt.time(0, 1), dt.time(8, 30), dt.time(16, 20), dt.time(23, 59)],
)
def test_today_has_a_partition_from_midnight_on_and_tomorrow_has_none(local: dt.time):
    now = dt.datetime.combine(dt.date(2025, 6, 26), local, calendar.NEW_YORK)
    found = keys(now, start="2025-06-16")
    assert found[-1] == "2025-06-26"
    assert "2025-06-19" not in found


def test_on_a_holiday_only_the_coming_session_is_added():
    # Dagster's offset counts partitions, so there is one ahead; its assets refuse a session in
    # the future.
    now = dt.datetime(2025, 6, 19, 12, tzinfo=calendar.NEW_YORK)
    assert keys(now, start="2025-06-02")[-2:] == ["2025-06-18", "2025-06-20"]


def test_history_that_ends_has_its_last_session_as_last_partition():
    now = dt.datetime(2025, 12, 1, tzinfo=dt.UTC)
    assert keys(now, start="2025-06-16", end="2025-06-30")[-1] == "2025-06-30"
    assert keys(now, start="2025-06-16", end="2025-06-29")[-1] == "2025-06-27"


def test_one_partition_per_horizon_that_is_on():
    settings = Settings.model_validate({"models": {"horizons": ["1h", "14d"]}})
    assert horizon_partitions(settings).get_partition_keys() == ["1h", "14d"]
