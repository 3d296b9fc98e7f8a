"""When macro data is known, and that no answer about the past depends on what came later."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market import calendar
from market.macro import (
    index_known_at,
    index_sessions,
    is_yield_date,
    news_known_at,
    yield_dates,
    yields_known_at,
)
from market.replay_macro import load_reference_files
from tests.reference_tables import vix, yields

SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS")
_DAYS = st.dates(dt.date(2000, 1, 3), dt.date(2029, 12, 1))


def _new_york(moment: dt.datetime) -> str:
    return f"{moment.astimezone(calendar.NEW_YORK):%Y-%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("date", "known"),
    [
        (dt.date(2024, 7, 1), "2024-07-02 18:00"),
        (dt.date(2024, 7, 3), "2024-07-05 18:00"),  # The Fourth of July.
        (dt.date(2024, 6, 28), "2024-07-01 18:00"),  # A weekend.
        (dt.date(2024, 10, 11), "2024-10-15 18:00"),  # Columbus Day: the exchange trades.
        (dt.date(2024, 11, 8), "2024-11-12 18:00"),  # Veterans Day, likewise.
        (dt.date(2024, 3, 28), "2024-03-29 18:00"),  # Good Friday: the Fed works.
        (dt.date(2024, 11, 27), "2024-11-29 18:00"),  # A half-day.
        (dt.date(2024, 12, 31), "2025-01-02 18:00"),
    ],
)
def test_yields_are_known_on_the_evening_of_the_next_business_day(
    date: dt.date, known: str
) -> None:
    assert _new_york(yields_known_at(date)) == known


@pytest.mark.parametrize(
    ("session", "known"),
    [
        (dt.date(2024, 7, 2), "2024-07-02 16:15"),
        (dt.date(2024, 7, 3), "2024-07-03 13:15"),
        (dt.date(2024, 3, 11), "2024-03-11 16:15"),  # The clock was changed the day before.
    ],
)
def test_the_vix_is_known_a_quarter_of_an_hour_after_the_close(
    session: dt.date, known: str
) -> None:
    assert _new_york(index_known_at(session)) == known
    late = index_known_at(session, dt.timedelta(minutes=15))
    assert late - index_known_at(session) == dt.timedelta(minutes=15)


def test_news_is_known_after_it_was_published() -> None:
    published = dt.datetime(2024, 7, 1, 12, 34, 56, tzinfo=dt.UTC)
    assert news_known_at(published) == published + dt.timedelta(hours=1)
    delay = dt.timedelta(minutes=15)
    assert news_known_at(published, delay) == published + dt.timedelta(hours=1) + delay


@given(date=_DAYS)
def test_yields_are_never_known_on_their_own_day(date: dt.date) -> None:
    known = yields_known_at(date)
    assert known.astimezone(calendar.NEW_YORK).date() > date
    day = known.astimezone(calendar.NEW_YORK).date()
    assert day.weekday() < 5
    # No business day in between is skipped, but for federal holidays and the weekend.
    assert (day - date).days <= 5
    assert yields_known_at(date + dt.timedelta(days=1)) >= known


@given(start=_DAYS, days=st.integers(0, 20), hour=st.integers(0, 23))
def test_what_must_be_there_is_what_is_known(start: dt.date, days: int, hour: int) -> None:
    now = dt.datetime.combine(start + dt.timedelta(days), dt.time(hour), dt.UTC)
    span = [start + dt.timedelta(n) for n in range(days + 1)]
    assert yield_dates(start, now) == [
        d for d in span if is_yield_date(d) and yields_known_at(d) <= now
    ]
    assert index_sessions(start, now) == [
        d for d in span if calendar.is_session(d) and index_known_at(d) <= now
    ]
    assert index_sessions(start + dt.timedelta(40), now) == []


def _newest_known(values: pl.DataFrame, moment: dt.datetime) -> dict[str, object]:
    return values.filter(pl.col("known_at") <= moment).row(-1, named=True)


def test_a_trader_at_the_open_sees_yesterdays_vix_and_the_yields_of_the_day_before() -> None:
    opened = calendar.session_open(dt.date(2024, 7, 3))
    assert _newest_known(vix(), opened)["session"] == dt.date(2024, 7, 2)
    assert _newest_known(yields(), opened)["date"] == dt.date(2024, 7, 1)
    # A maturity that was not published that day is not filled from another one.
    moment = yields_known_at(dt.date(2024, 6, 26))
    assert _newest_known(yields(), moment)["yield_1_month_percent"] is None


@pytest.mark.real_bars
@pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS is not set")
def test_real_files_hold_a_value_for_every_date_expected() -> None:
    folder = Path(str(SAMPLES))
    tables = load_reference_files(
        vix=folder / "daily_vix_1990_2014.parquet",
        treasury=folder / "treasury_curves_1990_2014.parquet",
    )
    now = dt.datetime(2015, 1, 5, 23, tzinfo=dt.UTC)
    days = set(tables.treasury_yields["date"])
    assert [
        d for d in yield_dates(dt.date(1990, 1, 2), now) if d <= max(days) and d not in days
    ] == []
    ten_years = tables.treasury_yields["yield_10_year_percent"]
    # Percent, not fractions: the file's own unit is another one than its description says.
    assert 1.0 < float(str(ten_years.min())) < float(str(ten_years.max())) < 15.0
    sessions = set(tables.indices["session"])
    assert all(calendar.is_session(s) for s in sessions)
    lacking = [s for s in index_sessions(dt.date(1990, 1, 2), now) if s <= max(sessions)]
    assert len(set(lacking) - sessions) == 4
