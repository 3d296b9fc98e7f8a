"""Bars of any timeframe from the lake, raw or forward-adjusted."""

from __future__ import annotations

import datetime as dt

import polars as pl

from market.actions import forward_adjust, session_factors
from market.lake import Lake
from market.schema import BAR_SCHEMA
from market.timeframes import Timeframe, resample

_SESSIONS_AT_ONCE = 21


def read_bars(
    lake: Lake, timeframe: Timeframe, start: dt.date | None = None, end: dt.date | None = None
) -> pl.DataFrame:
    """Return raw bars of all symbols, resampled where the lake holds shorter ones.

    Parameters
    ----------
    lake : Lake
        Where from.
    timeframe : Timeframe
        The wanted length.
    start, end : date, optional
        Sessions, both included.

    Returns
    -------
    pl.DataFrame
        ``BAR_SCHEMA``, sorted by symbol and time.
    """
    if timeframe in (Timeframe.D1, Timeframe.M1):
        return lake.read_bars(f"bars_{timeframe.value}", start=start, end=end)
    if not timeframe.is_intraday:
        return resample(lake.read_bars("bars_1d", start=start, end=end), timeframe)
    # Resampling stays inside a session, so a month at a time gives the same at less memory.
    sessions = sorted(
        s
        for s in lake.sessions("bars_1m")
        if (start is None or s >= start) and (end is None or s <= end)
    )
    parts = [
        resample(
            lake.read_bars(
                "bars_1m", start=sessions[k], end=sessions[k : k + _SESSIONS_AT_ONCE][-1]
            ),
            timeframe,
        )
        for k in range(0, len(sessions), _SESSIONS_AT_ONCE)
    ]
    bars = pl.concat(parts) if parts else pl.DataFrame(schema=BAR_SCHEMA)
    return bars.sort("symbol", "bar_start")


def read_adjusted(
    lake: Lake, timeframe: Timeframe, start: dt.date | None = None, end: dt.date | None = None
) -> pl.DataFrame:
    """Return forward-adjusted bars of all symbols, what features and labels are computed on.

    The factors always come from the whole daily history up to ``end``, so that they do not depend
    on ``start``.
    """
    daily = lake.read_bars("bars_1d", end=end)
    factors = session_factors(
        daily, lake.scan("splits").collect(), lake.scan("dividends").collect()
    )
    return forward_adjust(read_bars(lake, timeframe, start, end), factors)
