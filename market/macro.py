"""When macro values and news become known.

Every time here errs on the late side: a value that a backtest sees later than a trader could have
costs a little; one that it sees earlier makes the whole backtest worthless.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache

from market import calendar

_YIELDS_KNOWN = dt.time(18)
_INDEX_SETTLES = dt.timedelta(minutes=15)
_NEWS_REFRESH = dt.timedelta(hours=1)


def is_yield_date(date: dt.date) -> bool:
    """Say whether yields are expected for this date: a session that is no federal holiday.

    The bond market rests on Columbus Day and Veterans Day, when the exchange trades. On a Good
    Friday there are yields in some years and none in most: none are expected.
    """
    return calendar.is_session(date) and not _is_federal_holiday(date)


def yields_known_at(date: dt.date) -> dt.datetime:
    """Return when the yields of a date are known: 18:00 New York, one business day later, UTC.

    The vendor's series reaches back to 1962 and stands under ``/fed/``: it is the Federal
    Reserve's H.15, not the Treasury's own page (from 1990, by about 18:00 of the date itself).
    The H.15 of a business day is posted at 16:15 New York time and carries the yields of the
    business day before; it is not posted on federal holidays. 18:00 leaves the vendor time to
    take it over, and lies after the end-of-day run, half-days included.

    Notes
    -----
    Sources: Federal Reserve Board, "H.15 Selected Interest Rates" ("posted daily Monday through
    Friday at 4:15pm ... not posted on holidays") and its announcement of 2023-09-14 on yields
    as of the 12th in the release of the 13th; the vendor's documentation, "Treasury Yields".

    Examples
    --------
    >>> yields_known_at(dt.date(2024, 7, 3))  # The Fourth of July has no release.
    datetime.datetime(2024, 7, 5, 22, 0, tzinfo=datetime.timezone.utc)
    """
    day = date + dt.timedelta(days=1)
    while day.weekday() > 4 or _is_federal_holiday(day):
        day += dt.timedelta(days=1)
    return dt.datetime.combine(day, _YIELDS_KNOWN, calendar.NEW_YORK).astimezone(dt.UTC)


def index_known_at(session: dt.date, delay: dt.timedelta = dt.timedelta(0)) -> dt.datetime:
    """Return when the daily value of an index is known: 15 minutes after the close, plus delay.

    The VIX is computed until options on the S&P 500 stop trading, 16:15 New York time, and 13:15
    on half-days.

    Notes
    -----
    Source: Cboe, trading hours of index options (until 15:15 Chicago time).
    """
    return calendar.session_close(session) + _INDEX_SETTLES + delay


def yield_dates(start: dt.date, now: dt.datetime) -> list[dt.date]:
    """Return the dates from ``start`` on that must have yields by ``now`` (aware), ascending."""
    span = (start + dt.timedelta(n) for n in range((now.date() - start).days + 1))
    return [d for d in span if is_yield_date(d) and yields_known_at(d) <= now]


def index_sessions(start: dt.date, now: dt.datetime) -> list[dt.date]:
    """Return the sessions from ``start`` on whose index values are known by ``now``, ascending."""
    if now.date() < start:
        return []
    sessions = calendar.sessions_between(start, now.date())
    return [s for s in sessions if index_known_at(s) <= now]


def news_known_at(published_at: dt.datetime, delay: dt.timedelta = dt.timedelta(0)) -> dt.datetime:
    """Return when an article is known: an hour after publication, plus the plan's delay.

    The vendor states when an article was published, not when it took it in and labelled it; that
    this takes an hour at most is assumed here. The moment at which we first fetched an article says
    nothing in a backfill, so it is not used. What this cannot repair: older articles may have got
    their labels afterwards, or new ones; the lake keeps the label that it saw first.
    """
    return published_at + _NEWS_REFRESH + delay


def _is_federal_holiday(date: dt.date) -> bool:
    return date in _federal_holidays()


@lru_cache(maxsize=1)
def _federal_holidays() -> frozenset[dt.date]:
    from pandas.tseries.holiday import USFederalHolidayCalendar  # As late as market.calendar's.

    first = calendar.FIRST_DATE.isoformat()
    last = (calendar.LAST_DATE + dt.timedelta(days=31)).isoformat()
    days = USFederalHolidayCalendar().holidays(start=first, end=last)
    return frozenset(day.date() for day in days)
