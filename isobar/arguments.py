"""Arguments that several commands share, and how their text is read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from market import calendar
from market.errors import IsobarError, UsageError
from market.horizons import PUBLISHING_RUNS, Horizon, Run, find_horizon, scheduled_for
from market.near_names import did_you_mean
from market.timeframes import Timeframe, parse_timeframe
from pipelines.settings import Settings

T = TypeVar("T")

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Horizons = Annotated[
    list[str] | None,
    typer.Option("--horizon", help="Horizon; may be repeated. All that are on by default."),
]
AsOf = Annotated[str, typer.Option("--as-of", help="ISO time; without a zone it is UTC.")]
Start = Annotated[str, typer.Option("--start", help="First session, YYYY-MM-DD.")]
End = Annotated[str, typer.Option("--end", help="Last session, YYYY-MM-DD.")]


def read_date(text: str, option: str) -> dt.date:
    """Return the date, or refuse the option's value."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} is no date",
            got=text,
            allowed="YYYY-MM-DD",
            remedy="write it like 2024-06-03",
        ) from None


def read_time(text: str, option: str) -> dt.datetime | None:
    """Return the aware UTC time, ``None`` for an empty text."""
    if not text:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} is no time",
            got=text,
            allowed="ISO 8601",
            remedy="write it like 2024-06-03T12:30:00+00:00",
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)


def read_period(start: str, end: str) -> tuple[dt.date, dt.date]:
    """Return both dates, in order."""
    first, last = read_date(start, "--start"), read_date(end, "--end")
    if last < first:
        raise UsageError(
            "reversed dates",
            got=f"{start} to {end}",
            allowed="start on or before end",
            remedy="swap the two",
        )
    return first, last


def read_horizons(names: list[str] | None, settings: Settings) -> list[Horizon]:
    """Return the horizons named, or all that are on."""
    if not names:
        return list(settings.enabled_horizons)
    on = set(settings.models.horizons)
    found = [usage(lambda n=n: find_horizon(n)) for n in names]
    off = [h.name for h in found if h.name not in on]
    if off:
        raise UsageError(
            "horizon is switched off",
            got=off,
            allowed=", ".join(settings.models.horizons),
            remedy="add it to models.horizons in isobar.toml",
        )
    return found


def read_timeframe(name: str) -> Timeframe:
    """Return the timeframe, or refuse it."""
    return usage(lambda: parse_timeframe(name))


def read_run(name: str, runs: tuple[Run, ...] = PUBLISHING_RUNS) -> Run:
    """Return the scheduled run of this name."""
    if name not in runs:
        raise UsageError(
            "unknown run",
            got=name,
            allowed=", ".join(runs),
            remedy=did_you_mean(name, runs, "name one of these"),
        )
    return Run(name)


def due_session(run: Run, now: dt.datetime) -> dt.date:
    """Return the session whose run of this kind was due last."""
    day = now.astimezone(calendar.NEW_YORK).date()
    if calendar.is_session(day) and scheduled_for(run, day) <= now:
        return day
    return calendar.previous_session(day)


def usage(parse: Callable[[], T]) -> T:
    """Return what ``parse`` returns; what it refuses is a wrong use of the command."""
    try:
        return parse()
    except IsobarError as error:
        raise UsageError(
            error.problem, got=error.got, allowed=error.allowed, remedy=error.remedy
        ) from None
