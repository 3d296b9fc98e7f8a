"""Where a bar lies in its session, from the trading calendar."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from features.kernels import Values
from features.panel import Integers, Panel, shared
from market import calendar

MINUTE_US = 60_000_000


@lru_cache(maxsize=1)
def session_days() -> Integers:
    """Return the days since 1970 of all sessions of the calendar, ascending."""
    return calendar.schedule()["session"].to_physical().to_numpy().astype(np.int64)


@lru_cache(maxsize=1)
def session_times() -> tuple[Integers, Integers]:
    """Return the opens and the closes of all sessions, in microseconds since 1970."""
    table = calendar.schedule()
    opens, closes = (table[n].dt.timestamp("us").to_numpy() for n in ("session_open", _CLOSE))
    return opens, closes


_CLOSE = "session_close"


@shared
def session_rows(p: Panel) -> Integers:
    """Return the place of each row's session in the calendar; -1 where it is no session."""
    days, known = p["session"], session_days()
    place = np.clip(np.searchsorted(known, days), 0, len(known) - 1)
    return np.where(known[place] == days, place, -1)


def by_session(p: Panel, values: npt.NDArray[Any]) -> Values:
    """Return one value per row from one per session of the calendar; NaN where there is none."""
    place = session_rows(p)
    return np.where(place >= 0, values[place], np.nan)


@shared
def minutes_after_open(p: Panel, column: str) -> Values:
    """Return how many minutes after the open of its session a time of each row lies."""
    return (p[column] - by_session(p, session_times()[0])) / MINUTE_US


@shared
def minutes_in_session(p: Panel) -> Values:
    """Return how many minutes the session of each row has from open to close."""
    opens, closes = session_times()
    return by_session(p, (closes - opens) / MINUTE_US)


@shared
def minutes_before_close(p: Panel) -> Values:
    """Return how many minutes are left of the session when a row's bar ends."""
    return (by_session(p, session_times()[1]) - p["bar_end"]) / MINUTE_US
