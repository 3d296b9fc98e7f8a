"""The XNYS trading calendar: sessions, opens, closes, half-days.

Source of the dates: ``exchange_calendars``. The wall clock plays no part: the last date
is fixed, so two machines that run on different days see the same calendar.
"""

from __future__ import annotations

import datetime as dt
import warnings
from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from market.errors import MarketError
from market.schema import UTC_MICROSECONDS

NEW_YORK = ZoneInfo("America/New_York")
FIRST_DATE = dt.date(1990, 1, 2)
LAST_DATE = dt.date(2030, 12, 31)
REGULAR_MINUTES = 390


@lru_cache(maxsize=1)
def _calendar() -> Any:
    # With pandas behind it, a quarter of a second that work without a calendar need not wait.
    import exchange_calendars

    with warnings.catch_warnings():
        # exchange_calendars 4.13 reads a pandas attribute that pandas 4 will change.
        warnings.filterwarnings("ignore", message="Series.values returning")
        return exchange_calendars.get_calendar(
            "XNYS", start=FIRST_DATE.isoformat(), end=LAST_DATE.isoformat()
        )


@lru_cache(maxsize=1)
def schedule() -> pl.DataFrame:
    """Return every session from 1990 to 2030.

    Returns
    -------
    pl.DataFrame
        Columns ``session`` (date), ``session_open``, ``session_close`` (UTC, microseconds),
        ``session_minutes`` (i64; 390, fewer on half-days), ``session_index`` (i64), ascending.

    Notes
    -----
    Source: ``exchange_calendars`` (XNYS).
    """
    table = _calendar().schedule
    frame = pl.DataFrame(
        {
            "session": [d.date() for d in table.index],
            "session_open": [t.to_pydatetime() for t in table["open"]],
            "session_close": [t.to_pydatetime() for t in table["close"]],
        }
    )
    return frame.with_columns(
        pl.col("session_open").cast(UTC_MICROSECONDS),
        pl.col("session_close").cast(UTC_MICROSECONDS),
        session_minutes=(pl.col("session_close") - pl.col("session_open")).dt.total_minutes(),
        session_index=pl.int_range(pl.len(), dtype=pl.Int64),
    )


@lru_cache(maxsize=1)
def unplanned_closures() -> list[dt.date]:
    """Return the days of no session that no rule foretold: attacks, storms, days of mourning.

    What looks ahead in the calendar must count them as sessions: nobody knew long before.

    Examples
    --------
    >>> dt.date(2012, 10, 29) in unplanned_closures()
    True
    """
    days = {day.date() for day in _calendar().adhoc_holidays}
    return sorted(d for d in days if FIRST_DATE <= d <= LAST_DATE and d not in _by_session())


@lru_cache(maxsize=1)
def _by_session() -> dict[dt.date, tuple[dt.datetime, dt.datetime, int]]:
    rows = schedule().select("session", "session_open", "session_close", "session_index").rows()
    return {r[0]: (r[1], r[2], r[3]) for r in rows}


@lru_cache(maxsize=1)
def _sessions() -> list[dt.date]:
    return schedule()["session"].to_list()


def _row(session: dt.date) -> tuple[dt.datetime, dt.datetime, int]:
    try:
        return _by_session()[session]
    except KeyError:
        raise MarketError(
            "not a trading session of XNYS",
            got=session.isoformat(),
            allowed=f"trading days from {FIRST_DATE} to {LAST_DATE}",
            remedy="choose a day on which the exchange is open",
        ) from None


def is_session(date: dt.date) -> bool:
    """Say whether the exchange trades on this date."""
    return date in _by_session()


def midnight(day: dt.date) -> dt.datetime:
    """Return when a day begins in New York, in UTC.

    Examples
    --------
    >>> midnight(dt.date(2024, 7, 4)).isoformat()
    '2024-07-04T04:00:00+00:00'
    """
    return dt.datetime.combine(day, dt.time(), NEW_YORK).astimezone(dt.UTC)


def session_open(session: dt.date) -> dt.datetime:
    """Return the regular open of a session, UTC."""
    return _row(session)[0]


def session_close(session: dt.date) -> dt.datetime:
    """Return the regular close of a session, UTC (13:00 New York on half-days)."""
    return _row(session)[1]


def is_half_day(session: dt.date) -> bool:
    """Say whether the session closes early."""
    opened, closed, _ = _row(session)
    return (closed - opened) < dt.timedelta(minutes=REGULAR_MINUTES)


def sessions_between(start: dt.date, end: dt.date) -> list[dt.date]:
    """Return the sessions from ``start`` to ``end``, both included.

    Raises
    ------
    MarketError
        When ``end`` lies before ``start``.

    Examples
    --------
    >>> sessions_between(dt.date(2025, 1, 8), dt.date(2025, 1, 10))
    [datetime.date(2025, 1, 8), datetime.date(2025, 1, 10)]
    """
    if end < start:
        raise MarketError(
            "reversed dates",
            got=f"{start} to {end}",
            allowed="start on or before end",
            remedy="swap the two",
        )
    every = _sessions()
    return every[bisect_left(every, start) : bisect_right(every, end)]


def offset_session(session: dt.date, steps: int) -> dt.date:
    """Return the session ``steps`` trading days after (negative: before) this one."""
    index = _row(session)[2] + steps
    every = _sessions()
    if not 0 <= index < len(every):
        raise MarketError(
            "session outside the calendar",
            got=f"{session} {steps:+d}",
            allowed=f"{FIRST_DATE} to {LAST_DATE}",
            remedy="choose a date inside the calendar",
        )
    return every[index]


def sessions_around(session: dt.date, before: int, after: int) -> list[dt.date]:
    """Return a session and so many before and after it, as far as the calendar goes."""
    index = _row(session)[2]
    return _sessions()[max(0, index - before) : index + after + 1]


def previous_session(date: dt.date) -> dt.date:
    """Return the last session strictly before a date (which need not be a session)."""
    return _near(date, bisect_left(_sessions(), date) - 1)


def next_session(date: dt.date) -> dt.date:
    """Return the first session strictly after a date (which need not be a session)."""
    return _near(date, bisect_right(_sessions(), date))


def _near(date: dt.date, index: int) -> dt.date:
    if FIRST_DATE <= date <= LAST_DATE and 0 <= index < len(_sessions()):
        return _sessions()[index]
    raise MarketError(
        "no session next to this date in the calendar",
        got=date.isoformat(),
        allowed=f"{FIRST_DATE} to {LAST_DATE}",
        remedy="choose a date inside the calendar",
    )


def latest_session(as_of: dt.datetime) -> dt.date:
    """Return the last session that had closed by ``as_of`` (aware datetime)."""
    day = as_of.astimezone(NEW_YORK).date()
    if is_session(day) and session_close(day) <= as_of:
        return day
    return previous_session(day)


def holidays_between(start: dt.date, end: dt.date) -> list[dt.date]:
    """Return the weekdays between two dates on which the exchange stays closed."""
    trading = set(sessions_between(start, end))
    days = ((start + dt.timedelta(days=n)) for n in range((end - start).days + 1))
    return [d for d in days if d.weekday() < 5 and d not in trading]
