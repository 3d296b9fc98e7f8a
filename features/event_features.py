"""Days to and from events that are announced beforehand, as days of earnings are."""

from __future__ import annotations

import datetime as dt
from functools import partial

import numpy as np
import polars as pl

from features.kernels import Values
from features.panel import Integers
from features.side import SideTables
from features.spec import Feature, Stage
from market import calendar
from market.schema import Bar

FAMILY = "calendar"
DATE = "date"
FORGOTTEN_DAYS = 200
"""An event so long ago says nothing any more."""

_UTC_US = pl.Datetime("us", "UTC")


def _moments(events: pl.DataFrame) -> pl.DataFrame:
    """Return when an answer may change: each session's open, and where an event became known.

    The opens reach so far beyond the last event that every answer has become null by then.
    """
    last = events.select(
        pl.max_horizontal(pl.col(DATE).max(), pl.col(Bar.KNOWN_AT).dt.date().max())
    ).item() + dt.timedelta(days=FORGOTTEN_DAYS + 10)
    opens = calendar.schedule().filter(
        pl.col("session_open") >= events[Bar.KNOWN_AT].min(), pl.col("session") <= last
    )
    return (
        pl.concat([opens["session_open"], events[Bar.KNOWN_AT]])
        .cast(_UTC_US)
        .unique()
        .sort()
        .alias(Bar.KNOWN_AT)
        .to_frame()
        .with_columns(
            pl.col(Bar.KNOWN_AT).dt.convert_time_zone(str(calendar.NEW_YORK)).dt.date().alias("day")
        )
    )


def _days_to(days: Integers, moments: Integers, dates: Integers, known: Integers) -> Values:
    """Return the days to the next event that is known; ``days`` and ``moments`` ascend."""
    out = np.full(len(days), np.nan)
    # The nearest is written last.
    for k in np.argsort(-dates, kind="stable"):
        span = slice(np.searchsorted(moments, known[k]), np.searchsorted(days, dates[k], "right"))
        out[span] = dates[k] - days[span]
    return out


def _days_since(days: Integers, moments: Integers, dates: Integers, known: Integers) -> Values:
    """Return the days since the last event before today, as far as it is known."""
    out = np.full(len(days), np.nan)
    for k in np.argsort(dates, kind="stable"):
        begin = max(
            np.searchsorted(moments, known[k]), np.searchsorted(days, dates[k], side="right")
        )
        end = np.searchsorted(days, dates[k] + FORGOTTEN_DAYS, side="right")
        out[begin:] = np.nan
        out[begin:end] = days[begin:end] - dates[k]
    return out


def _of_events(side: SideTables, ahead: bool) -> pl.DataFrame | None:
    if side.events is None:
        return None
    events = side.events.drop_nulls([Bar.SYMBOL, DATE, Bar.KNOWN_AT])
    if events.is_empty():
        return None
    moments = side.shared("event_moments", lambda: _moments(events))
    days = moments["day"].to_physical().cast(pl.Int64).to_numpy()
    times = moments[Bar.KNOWN_AT].dt.timestamp("us").to_numpy()
    parts: list[pl.DataFrame] = []
    for (symbol,), own in (
        events.sort(Bar.SYMBOL, DATE)
        .partition_by(Bar.SYMBOL, as_dict=True, maintain_order=True)
        .items()
    ):
        dates = own[DATE].to_physical().cast(pl.Int64).to_numpy()
        known = own[Bar.KNOWN_AT].cast(_UTC_US).dt.timestamp("us").to_numpy()
        found = (_days_to if ahead else _days_since)(days, times, dates, known)
        parts.append(
            moments.select(
                pl.lit(symbol, pl.String).alias(Bar.SYMBOL),
                Bar.KNOWN_AT,
                pl.Series("value", found, nan_to_null=True),
            )
        )
    return pl.concat(parts)


def _event(name: str, meaning: str, *, ahead: bool) -> Feature:
    return Feature(
        name,
        partial(_of_events, ahead=ahead),
        ("events",),
        1,
        Stage.AS_OF,
        meaning,
        "Frazzini and Lamont (2007), announcement premium",
        family=FAMILY,
    )


FEATURES: tuple[Feature, ...] = (
    _event(
        "days_to_event",
        "Calendar days to the next event whose date is announced, 0 on its day",
        ahead=True,
    ),
    _event(
        "days_since_event",
        f"Calendar days since the last event before today, up to {FORGOTTEN_DAYS}",
        ahead=False,
    ),
)
