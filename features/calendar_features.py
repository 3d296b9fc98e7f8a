"""What the date and the clock say: known in advance, so that nothing here can look ahead.

Days on which the exchange stayed closed without notice count as sessions in what looks forward:
on the eve nobody knew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import polars as pl

from features import event_features
from features.kernels import Values
from features.panel import Panel, ratio
from features.session_clock import (
    by_session,
    minutes_after_open,
    minutes_before_close,
)
from features.spec import Feature, Scope, Stage
from market import calendar

FAMILY = "calendar"


@lru_cache(maxsize=1)
def _table() -> pl.DataFrame:
    """Return one row per session of the calendar with all that is known of it beforehand."""
    sessions = calendar.schedule().select("session", "session_minutes")
    closed = pl.Series("session", calendar.unplanned_closures(), dtype=pl.Date)
    planned = pl.concat([sessions["session"], closed]).sort().to_frame()
    day = pl.col("session")
    month, quarter = day.dt.truncate("1mo"), day.dt.truncate("1q")
    ahead = planned.select(
        "session",
        # The number of planned sessions that come after this one in its month, and so on.
        to_month_end=pl.len().over(month) - pl.int_range(1, pl.len() + 1).over(month),
        to_quarter_end=pl.len().over(quarter) - pl.int_range(1, pl.len() + 1).over(quarter),
        before_holiday=_weekdays_to(day.shift(-1)) > 1,
        to_expiry=_to_expiry(planned["session"]),
    )
    return sessions.join(ahead, on="session", how="left", maintain_order="left").with_columns(
        from_month_start=pl.int_range(pl.len()).over(month),
        after_holiday=-_weekdays_to(day.shift(1)) > 1,
        weekday=day.dt.weekday() - 1,
        day=day.dt.day(),
        month_days=day.dt.month_end().dt.day(),
        month=day.dt.month() - 1,
        expiry_week=_expiry(day).dt.truncate("1w") == day.dt.truncate("1w"),
    )


def _weekdays_to(other: pl.Expr) -> pl.Expr:
    """Return how many weekdays lie between a session and another day, that day included."""
    return pl.business_day_count(pl.col("session"), other)


def _expiry(day: pl.Expr) -> pl.Expr:
    """Return the third Friday of a day's month."""
    first = day.dt.month_start()
    to_friday = (5 - first.dt.weekday().cast(pl.Int64)) % 7
    return first + pl.duration(days=to_friday + 14)


def _to_expiry(planned: pl.Series) -> pl.Series:
    """Return how many planned sessions it is to the next day on which monthly options expire.

    That is the third Friday, or the session before when it is a holiday.
    """
    frame = pl.DataFrame({"session": planned, "place": pl.int_range(len(planned), eager=True)})
    month = pl.col("session").dt.truncate("1mo")
    expiry = frame.filter(pl.col("session") <= _expiry(pl.col("session")).cast(pl.Date))
    last = expiry.group_by(month.alias("month")).agg(pl.col("place").max()).sort("place")
    places = last["place"].to_numpy()
    here = np.arange(len(planned))
    found = np.searchsorted(places, here)
    at = np.append(places, -1)[found]
    return pl.Series("to_expiry", np.where(at >= 0, at - here, -1)).replace(-1, None)


@lru_cache(maxsize=32)
def _column(name: str) -> npt.NDArray[np.float64]:
    return _table()[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _of_date(p: Panel, column: str) -> Values:
    return by_session(p, _column(column))


def _circle(p: Panel, column: str, length: int, wave: Callable[[Values], Values]) -> Values:
    return wave(2.0 * np.pi * _of_date(p, column) / length)


def _day_of_month(p: Panel) -> Values:
    return (_of_date(p, "day") - 1.0) / (_of_date(p, "month_days") - 1.0)


def _turn_of_month(p: Panel) -> Values:
    last, first = _of_date(p, "to_month_end") == 0, _of_date(p, "from_month_start") < 3
    return np.where(np.isnan(_of_date(p, "to_month_end")), np.nan, last | first)


def _half_day(p: Panel) -> Values:
    minutes = _of_date(p, "session_minutes")
    return np.where(np.isnan(minutes), np.nan, minutes < calendar.REGULAR_MINUTES)


def _elapsed(p: Panel) -> Values:
    after = minutes_after_open(p, "bar_end")
    return ratio(after, after + minutes_before_close(p))


def _dated(
    name: str,
    compute: Callable[[Panel], Values],
    meaning: str,
    source: str,
    inputs: tuple[str, ...] = (),
) -> Feature:
    return Feature(
        name,
        compute,
        (*inputs, "session"),
        1,
        Stage.TIME_SERIES,
        meaning,
        source,
        family=FAMILY,
        scope=Scope.INTRADAY if inputs else Scope.ANY,
    )


_WEEKDAY = "French (1980), the day of the week"
_TURN = "Lakonishok and Smidt (1988), turn of the month"
_HOLIDAY = "Ariel (1990), the days before holidays"
_EXPIRY = "Stoll and Whaley (1987), expiration days"
_SEASON = "Heston and Sadka (2008), seasonality"
_CLOCK = "Heston, Korajczyk and Sadka (2010), intraday periodicity"

FEATURES: tuple[Feature, ...] = (
    _dated(
        "session_elapsed",
        _elapsed,
        "Share of the session that is over when the bar ends",
        _CLOCK,
        ("bar_end",),
    ),
    _dated(
        "minutes_to_close",
        minutes_before_close,
        "Minutes of the session left when the bar ends",
        _CLOCK,
        ("bar_end",),
    ),
    *(
        _dated(
            f"{name}_{wave.__name__}",
            partial(_circle, column=name, length=length, wave=wave),
            f"{meaning} on a circle, {wave.__name__}",
            source,
        )
        for name, length, meaning, source in (
            ("weekday", 5, "Day of the week", _WEEKDAY),
            ("month", 12, "Month of the year", _SEASON),
        )
        for wave in (np.sin, np.cos)
    ),
    _dated("day_of_month", _day_of_month, "Day of the month, 0 to 1", _TURN),
    _dated(
        "turn_of_month", _turn_of_month, "Whether it is a month's last or first 3 sessions", _TURN
    ),
    _dated(
        "sessions_to_month_end",
        partial(_of_date, column="to_month_end"),
        "Sessions left in the month",
        _TURN,
    ),
    _dated(
        "sessions_to_quarter_end",
        partial(_of_date, column="to_quarter_end"),
        "Sessions left in the quarter",
        "Lakonishok, Shleifer, Thaler and Vishny (1991), window dressing",
    ),
    _dated("half_day", _half_day, "Whether the session closes early", _HOLIDAY),
    _dated(
        "before_holiday",
        partial(_of_date, column="before_holiday"),
        "Whether a holiday comes before the next session",
        _HOLIDAY,
    ),
    _dated(
        "after_holiday",
        partial(_of_date, column="after_holiday"),
        "Whether the exchange was closed on a weekday since the session before",
        _HOLIDAY,
    ),
    _dated(
        "option_expiry_week",
        partial(_of_date, column="expiry_week"),
        "Whether monthly options expire in this week",
        _EXPIRY,
    ),
    _dated(
        "sessions_to_option_expiry",
        partial(_of_date, column="to_expiry"),
        "Sessions until monthly options expire",
        _EXPIRY,
    ),
    *event_features.FEATURES,
)
