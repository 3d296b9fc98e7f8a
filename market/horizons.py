"""The horizons table: one row per horizon, from which everything else follows.

Labels, purge, embargo, families, partitions, validity, the runs that publish a horizon
and its exit rule are all read from :data:`HORIZONS`. Adding a horizon is adding a row.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from market import calendar
from market.errors import MarketError
from market.near_names import did_you_mean
from market.timeframes import Timeframe


class Run(StrEnum):
    """The scheduled runs of a trading day; ``CLOSE`` publishes nothing, it closes positions."""

    PREMARKET = "premarket"
    MIDDAY = "midday"
    CLOSE = "close"
    EOD = "eod"
    INTRADAY = "intraday"


class ExitRule(StrEnum):
    """How a position that a horizon opened is closed when no opposite signal comes."""

    AT_CLOSE = "at_close"
    AT_EXPIRY = "at_expiry"


_HALF_DAY_MINUTES = 210


@dataclass(frozen=True, slots=True)
class Horizon:
    """How far ahead a forecast looks, and all that follows from it.

    Attributes
    ----------
    name : str
        As users write it: ``1h``, ``14d``.
    group : str
        The ensemble that serves it.
    timeframe : Timeframe
        The input bar.
    steps : int
        Length in input bars (for daily bars: sessions).
    families : tuple of str
        Model families of its ensemble.
    runs : tuple of Run
        The scheduled runs that publish it.
    on_by_default : bool
        Whether a fresh installation trains it.
    """

    name: str
    group: str
    timeframe: Timeframe
    steps: int
    families: tuple[str, ...]
    runs: tuple[Run, ...]
    on_by_default: bool = False

    @property
    def crosses_close(self) -> bool:
        """Whether the label may span a session close (longer than one hour)."""
        return self.minutes > 60

    @property
    def minutes(self) -> int:
        """Length in trading minutes."""
        return self.steps * self.timeframe.minutes

    @property
    def sessions(self) -> int:
        """The number of session closes that a label may span; the purge in sessions."""
        if not self.crosses_close:
            return 0
        if not self.timeframe.is_intraday:
            return self.steps
        # At worst the first two are half-days, as on 1997-12-24 and 26.
        half, full = _HALF_DAY_MINUTES, calendar.REGULAR_MINUTES
        return 1 + (self.minutes > half) + max(0, -(-(self.minutes - 2 * half) // full))

    @property
    def stacked(self) -> bool:
        """Whether a meta-learner is stacked on its engines."""
        return self.group == "daily"

    @property
    def exit_rule(self) -> ExitRule:
        """Horizons inside a session are flat at the close; longer ones leave at expiry."""
        return ExitRule.AT_EXPIRY if self.crosses_close else ExitRule.AT_CLOSE

    def end_of(self, as_of: dt.datetime) -> dt.datetime:
        """Return the moment at which a forecast made at ``as_of`` has run its course.

        Intraday horizons count trading minutes from ``as_of`` (or from the next open when the
        market is shut); horizons of one hour and less end at the latest at that session's close.
        Daily horizons end at the close of the ``steps``-th session that closes after ``as_of``.

        Examples
        --------
        >>> find_horizon("1d").end_of(dt.datetime(2024, 7, 2, 20, 0, tzinfo=dt.UTC)).isoformat()
        '2024-07-03T17:00:00+00:00'
        """
        if not self.timeframe.is_intraday:
            last_closed = calendar.latest_session(as_of)
            return calendar.session_close(calendar.offset_session(last_closed, self.steps))
        day = as_of.astimezone(calendar.NEW_YORK).date()
        if not calendar.is_session(day) or as_of >= calendar.session_close(day):
            day = calendar.next_session(day)
        moment = max(as_of, calendar.session_open(day))
        left = dt.timedelta(minutes=self.minutes)
        while moment + left > calendar.session_close(day):
            if not self.crosses_close:
                return calendar.session_close(day)
            left -= calendar.session_close(day) - moment
            day = calendar.next_session(day)
            moment = calendar.session_open(day)
        return moment + left


_INTRADAY = (Run.MIDDAY, Run.INTRADAY)
_OPEN_RUNS = (Run.PREMARKET, Run.MIDDAY)
PUBLISHING_RUNS = (Run.PREMARKET, Run.MIDDAY, Run.EOD)
"""The scheduled runs that publish signals, in the order of a day."""
_SLOW_RUNS = (Run.PREMARKET, Run.EOD)

_SCALP = ("xgboost", "lstm")
_SHORT = ("lightgbm", "cnn")
_HOURLY = ("lstm", "transformer")
_SESSION = ("transformer", "xgboost")
_DAILY = ("lstm", "gradient_boosting", "linear")
_SWING = ("transformer", "random_forest", "linear")
_MONTHLY = ("policy", "transformer", "linear")

HORIZONS: tuple[Horizon, ...] = (
    Horizon("1m", "scalp", Timeframe.M1, 1, _SCALP, _INTRADAY),
    Horizon("5m", "scalp", Timeframe.M1, 5, _SCALP, _INTRADAY, on_by_default=True),
    Horizon("10m", "short", Timeframe.M5, 2, _SHORT, _INTRADAY),
    Horizon("15m", "short", Timeframe.M5, 3, _SHORT, _INTRADAY, on_by_default=True),
    Horizon("30m", "hourly", Timeframe.M15, 2, _HOURLY, _INTRADAY),
    Horizon("1h", "hourly", Timeframe.M15, 4, _HOURLY, _INTRADAY, on_by_default=True),
    Horizon("4h", "session", Timeframe.M30, 8, _SESSION, _OPEN_RUNS, on_by_default=True),
    Horizon("10h", "session", Timeframe.M30, 20, _SESSION, _OPEN_RUNS),
    Horizon("1d", "daily", Timeframe.D1, 1, _DAILY, PUBLISHING_RUNS, on_by_default=True),
    Horizon("7d", "swing", Timeframe.D1, 5, _SWING, _SLOW_RUNS),
    Horizon("14d", "swing", Timeframe.D1, 10, _SWING, _SLOW_RUNS, on_by_default=True),
    Horizon("1M", "monthly", Timeframe.D1, 21, _MONTHLY, _SLOW_RUNS, on_by_default=True),
)

_BY_NAME = {h.name: h for h in HORIZONS}


def scheduled_for(run: Run, session: dt.date) -> dt.datetime:
    """Return when a run of a session is due (UTC): its ``as_of``, however late it starts.

    08:30, 12:15, 15 minutes before the close and 20 minutes after it, New York time; the
    intraday schedule has no single time.

    Raises
    ------
    MarketError
        When the date is no trading session, or the run is ``intraday``.

    Examples
    --------
    >>> scheduled_for(Run.EOD, dt.date(2024, 7, 3)).isoformat()
    '2024-07-03T17:20:00+00:00'
    """
    closed = calendar.session_close(session)
    if run is Run.EOD:
        return closed + dt.timedelta(minutes=20)
    if run is Run.CLOSE:
        return closed - dt.timedelta(minutes=15)
    clock = {Run.PREMARKET: dt.time(8, 30), Run.MIDDAY: dt.time(12, 15)}.get(run)
    if clock is None:
        raise MarketError(
            "this run has no scheduled time",
            got=run.value,
            allowed="premarket, midday, close, eod",
            remedy="name one of these",
        )
    return dt.datetime.combine(session, clock, calendar.NEW_YORK).astimezone(dt.UTC)


def last_complete_bar(timeframe: Timeframe, as_of: dt.datetime, delay: dt.timedelta) -> dt.datetime:
    """Return the end of the newest bar of the session grid that is known at ``as_of``.

    Examples
    --------
    >>> last_complete_bar(Timeframe.M15, dt.datetime(2024, 7, 2, 16, 15, tzinfo=dt.UTC),
    ...                   dt.timedelta(0)).isoformat()
    '2024-07-02T16:15:00+00:00'
    """
    moment = as_of - delay
    day = moment.astimezone(calendar.NEW_YORK).date()
    if timeframe.is_intraday and calendar.is_session(day):
        opened, closed = calendar.session_open(day), calendar.session_close(day)
        if moment >= closed:
            return closed
        length = dt.timedelta(minutes=timeframe.minutes)
        whole = (moment - opened) // length
        if whole >= 1:
            return opened + whole * length
    return calendar.session_close(calendar.latest_session(moment))


def combined_name(horizons: Iterable[Horizon]) -> str:
    """Return the names of several horizons as one, the shortest first.

    Examples
    --------
    >>> combined_name([find_horizon("14d"), find_horizon("1h")])
    '1h+14d'
    """
    return "+".join(h.name for h in sorted(horizons, key=lambda h: h.minutes))


def find_horizon(name: str) -> Horizon:
    """Return the horizon of this name.

    Raises
    ------
    MarketError
        When there is no such row; the message lists the rows.

    Examples
    --------
    >>> find_horizon("14d").sessions
    10
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise MarketError(
            "unknown horizon",
            got=name,
            allowed=f"{', '.join(_BY_NAME)} (minutes are 'm', months are 'M')",
            remedy=did_you_mean(name, _BY_NAME, "choose a row of the horizons table"),
        ) from None
