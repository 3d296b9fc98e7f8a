"""Partitions: trading sessions (weekends and holidays left out) and horizons."""

import datetime as dt
from functools import lru_cache

import dagster as dg

from market import calendar
from pipelines.settings import Settings

_WEEKENDS = ("0 0 * * 6", "0 0 * * 0")


def session_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """Return one partition per XNYS session, today's included."""
    start = settings.history.start
    last = settings.history.end or calendar.LAST_DATE
    end = settings.history.end
    return dg.DailyPartitionsDefinition(
        start_date=start.isoformat(),
        end_date=None if end is None else (end + dt.timedelta(days=1)).isoformat(),
        timezone=calendar.NEW_YORK.key,
        end_offset=0 if end else 1,
        exclusions=[*_WEEKENDS, *_holidays(start, last)],
    )


@lru_cache(maxsize=4)  # Every partitioned asset asks for the same decades.
def _holidays(start: dt.date, last: dt.date) -> tuple[dt.datetime, ...]:
    # Midnights on the wall, not in UTC: Dagster drops the zone and puts its own in its place.
    return tuple(
        dt.datetime.combine(day, dt.time(), calendar.NEW_YORK)
        for day in calendar.holidays_between(start, last)
    )


def horizon_partitions(settings: Settings) -> dg.StaticPartitionsDefinition:
    """Return one partition per horizon that is on."""
    return dg.StaticPartitionsDefinition(list(settings.models.horizons))
