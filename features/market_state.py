"""The market as regimes see it: its return, trend, volatility and breadth, session by session."""

from __future__ import annotations

import numpy as np
import polars as pl
from numba import njit

from features.label_grid import Floats, Integers
from market.schema import Bar

TREND_SESSIONS = 63
VOLATILITY_SESSIONS = 21

RETURN, TREND, VOLATILITY, BREADTH = "market_return", "trend", "volatility", "breadth"


def market_state(daily: pl.DataFrame) -> pl.DataFrame:
    """Return what the equal-weighted market did up to each session's close.

    Parameters
    ----------
    daily : pl.DataFrame
        Forward-adjusted daily bars of the universe.

    Returns
    -------
    pl.DataFrame
        ``session``, ``as_of`` (UTC, when the last symbol's bar was known), ``market_return`` (log
        of one plus the mean simple return), ``trend`` (its sum over 63 sessions in standard
        deviations), ``volatility`` (standard deviation of a session's return over 21 sessions)
        and ``breadth`` (share of symbols above their close of 63 sessions ago). Null before
        their lookback is met.

    Notes
    -----
    Sums run through the symbols in order, in one thread: a later bar cannot reach the rounding
    of an earlier session.
    """
    bars = daily.select(Bar.SYMBOL, Bar.SESSION, Bar.KNOWN_AT, Bar.CLOSE).sort(
        Bar.SYMBOL, Bar.SESSION
    )
    sessions = bars.group_by(Bar.SESSION).agg(pl.col(Bar.KNOWN_AT).max().alias("as_of"))
    sessions = sessions.sort(Bar.SESSION)
    day = bars[Bar.SESSION].cast(pl.Int64).to_numpy()
    mean, breadth = _across_symbols(
        bars[Bar.SYMBOL].rle_id().cast(pl.Int64).to_numpy(),
        np.searchsorted(sessions[Bar.SESSION].cast(pl.Int64).to_numpy(), day),
        bars[Bar.CLOSE].to_numpy(),
        sessions.height,
    )
    change = pl.Series(RETURN, np.log1p(mean))
    spread = change.rolling_std(TREND_SESSIONS) * TREND_SESSIONS**0.5
    return sessions.with_columns(
        change,
        (change.rolling_sum(TREND_SESSIONS) / spread).alias(TREND),
        change.rolling_std(VOLATILITY_SESSIONS).alias(VOLATILITY),
        pl.Series(BREADTH, breadth, nan_to_null=True),
    )


@njit(cache=True)
def _across_symbols(
    company: Integers, day: Integers, close: Floats, days: int
) -> tuple[Floats, Floats]:
    total, count = np.zeros(days), np.zeros(days)
    above, seen = np.zeros(days), np.zeros(days)
    for i in range(len(close)):
        if i > 0 and company[i - 1] == company[i]:
            total[day[i]] += close[i] / close[i - 1] - 1.0
            count[day[i]] += 1.0
        j = i - TREND_SESSIONS
        if j >= 0 and company[j] == company[i]:
            seen[day[i]] += 1.0
            above[day[i]] += 1.0 if close[i] > close[j] else 0.0
    breadth = np.full(days, np.nan)
    for d in range(days):
        total[d] /= max(count[d], 1.0)
        if seen[d] > 0.0:
            breadth[d] = above[d] / seen[d]
    return total, breadth
