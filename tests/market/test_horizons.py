"""The horizons table, and its arithmetic against counting minute by minute."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from market import calendar
from market.errors import MarketError
from market.horizons import (
    HORIZONS,
    ExitRule,
    Run,
    find_horizon,
    last_complete_bar,
    scheduled_for,
)
from market.timeframes import Timeframe

MINUTE = dt.timedelta(minutes=1)
NOTHING = dt.timedelta(0)
# Around a half-day, a holiday, a weekend and the change to summer time.
FIRST, LAST = dt.date(2024, 6, 28), dt.date(2024, 7, 12)


def trading_minutes(first: dt.date, last: dt.date) -> list[dt.datetime]:
    """The end of every trading minute, by stepping through the clock."""
    out = []
    for day in calendar.sessions_between(first, last):
        moment = calendar.session_open(day)
        while moment < calendar.session_close(day):
            moment += MINUTE
            out.append(moment)
    return out


MINUTES = trading_minutes(FIRST, LAST)


def moments() -> list[dt.datetime]:
    rng = np.random.default_rng(0)
    begin = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)
    random = [begin + int(k) * MINUTE for k in rng.integers(0, 6 * 24 * 60, 60)]
    edges = [f(d) for d in calendar.sessions_between(FIRST, dt.date(2024, 7, 8))
             for f in (calendar.session_open, calendar.session_close)]  # fmt: skip
    return random + edges


@pytest.mark.parametrize("horizon", HORIZONS, ids=lambda h: h.name)
def test_the_end_of_a_horizon_by_counting(horizon) -> None:
    for as_of in moments():
        if horizon.timeframe.is_intraday:
            left = [m for m in MINUTES if m > as_of]
            wanted = left[horizon.minutes - 1]
            if not horizon.crosses_close:
                closes = {calendar.session_close(d) for d in calendar.sessions_between(FIRST, LAST)}
                wanted = min(wanted, min(c for c in closes if c > as_of))
        else:
            days = calendar.sessions_between(FIRST, dt.date(2024, 9, 1))
            closes = [c for c in map(calendar.session_close, days) if c > as_of]
            wanted = closes[horizon.steps - 1]
        assert horizon.end_of(as_of) == wanted, as_of


def test_between_two_minutes_the_horizon_ends_between_two_minutes() -> None:
    as_of = dt.datetime(2024, 7, 2, 15, 0, 30, tzinfo=dt.UTC)
    assert find_horizon("5m").end_of(as_of) == as_of + 5 * MINUTE


@pytest.mark.parametrize("name", ["4h", "10h"])
def test_the_purge_covers_every_label_there_ever_was(name: str) -> None:
    """Half-days shorten sessions, so a label may span more of them than on full days."""
    horizon = find_horizon(name)
    spans = set()
    for day in calendar.sessions_between(dt.date(1993, 1, 1), dt.date(2030, 11, 30)):
        near = any(calendar.is_half_day(calendar.offset_session(day, k)) for k in (0, 1, 2))
        if near or day.day == 1:
            end = horizon.end_of(calendar.session_close(day)).astimezone(calendar.NEW_YORK).date()
            spans.add(len(calendar.sessions_between(day, end)) - 1)
    assert max(spans) == horizon.sessions


@pytest.mark.parametrize(
    ("name", "sessions"),
    [("1m", 0), ("1h", 0), ("4h", 2), ("10h", 3), ("1d", 1), ("7d", 5), ("14d", 10), ("1M", 21)],
)
def test_purge_in_sessions(name: str, sessions: int) -> None:
    assert find_horizon(name).sessions == sessions


def test_the_table_is_that_of_the_design() -> None:
    assert [h.name for h in HORIZONS] == [
        *("1m", "5m", "10m", "15m", "30m", "1h", "4h", "10h", "1d", "7d", "14d", "1M"),
    ]
    lengths = [h.minutes for h in HORIZONS]
    assert lengths[:8] == [1, 5, 10, 15, 30, 60, 240, 600]
    assert {h.name for h in HORIZONS if h.on_by_default} == {
        *("5m", "15m", "1h", "4h", "1d", "14d", "1M"),
    }
    for h in HORIZONS:
        assert h.crosses_close == (h.minutes > 60)
        assert h.exit_rule is (ExitRule.AT_EXPIRY if h.crosses_close else ExitRule.AT_CLOSE)
        assert h.families
        assert h.runs
    assert Run.EOD in find_horizon("1d").runs
    assert Run.EOD not in find_horizon("1h").runs


def test_unknown_horizons_list_the_known() -> None:
    with pytest.raises(MarketError, match=r"2d.*1m, 5m"):
        find_horizon("2d")


def test_runs_are_due_by_new_york_time() -> None:
    winter, summer = dt.date(2024, 1, 16), dt.date(2024, 7, 16)
    assert scheduled_for(Run.PREMARKET, winter).hour == 13
    assert scheduled_for(Run.PREMARKET, summer).hour == 12
    noon = scheduled_for(Run.MIDDAY, summer)
    assert noon == dt.datetime(2024, 7, 16, 16, 15, tzinfo=dt.UTC)
    for day in (summer, dt.date(2024, 7, 3)):
        assert scheduled_for(Run.EOD, day) - calendar.session_close(day) == 20 * MINUTE
    with pytest.raises(MarketError, match="no scheduled time"):
        scheduled_for(Run.INTRADAY, summer)
    with pytest.raises(MarketError, match="not a trading session"):
        scheduled_for(Run.EOD, dt.date(2024, 7, 4))


@pytest.mark.parametrize(
    "timeframe", [t for t in Timeframe if t.minutes <= 390], ids=lambda t: t.value
)
@pytest.mark.parametrize("delay", [NOTHING, 15 * MINUTE], ids=["live", "delayed"])
def test_the_newest_bar_by_looking_at_all(timeframe: Timeframe, delay: dt.timedelta) -> None:
    ends = []
    for day in calendar.sessions_between(dt.date(2024, 6, 26), LAST):
        opened, closed = calendar.session_open(day), calendar.session_close(day)
        steps = range(timeframe.minutes, 391, timeframe.minutes) if timeframe.is_intraday else ()
        ends += [opened + k * MINUTE for k in steps if opened + k * MINUTE < closed] + [closed]
    for as_of in moments():
        wanted = max(e for e in ends if e + delay <= as_of)
        assert last_complete_bar(timeframe, as_of, delay) == wanted, as_of
