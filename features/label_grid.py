"""Bars on the session grid, and where on it a horizon ends.

Labels count time in scheduled bars of the exchange's calendar, not in rows: a halt leaves a hole,
and a horizon that ends in the hole has no end.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from market import calendar
from market.errors import FeatureError
from market.horizons import Horizon
from market.schema import Bar
from market.timeframes import Timeframe

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

COMPANY = "_company"
"""Running number of the row's symbol."""
INDEX = "_index"
"""Running number of the row's bar among all scheduled bars of the calendar."""
DAY = "_day"
"""Running number of the row's session."""
LEFT = "_left"
"""Scheduled bars of the session after this one."""


def place_on_grid(bars: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
    """Sort bars by symbol and time and number them on the session grid.

    Parameters
    ----------
    bars : pl.DataFrame
        ``BAR_SCHEMA`` in this timeframe.
    timeframe : Timeframe
        Sessions that are no whole number of bars end with a shorter one; a daily bar is one
        scheduled bar.

    Returns
    -------
    pl.DataFrame
        ``symbol``, ``session``, ``bar_end``, ``as_of`` (the bar's ``known_at``), prices, and the
        grid's columns ``_company``, ``_index``, ``_day``, ``_left`` (i64).

    Raises
    ------
    FeatureError
        When a bar does not end on the grid of its session, or a symbol has two bars of one time.
    """
    grid = _sessions(timeframe)
    placed = bars.select(
        Bar.SYMBOL,
        Bar.SESSION,
        Bar.BAR_END,
        pl.col(Bar.KNOWN_AT).alias("as_of"),
        Bar.OPEN,
        Bar.HIGH,
        Bar.LOW,
        Bar.CLOSE,
    ).join(grid, on=Bar.SESSION, how="left", maintain_order="left")
    elapsed = (pl.col(Bar.BAR_END) - pl.col("_open")).dt.total_microseconds()
    length = pl.col("_length")
    at_close = pl.col(Bar.BAR_END) == pl.col("_close")
    inside = (elapsed > 0) & (pl.col(Bar.BAR_END) < pl.col("_close")) & (elapsed % length == 0)
    off_grid = placed.filter((at_close | inside).fill_null(False).not_())
    if off_grid.height:
        raise FeatureError(
            "bars off the session grid",
            got=str(off_grid[Bar.BAR_END][0]),
            allowed=f"ends of {timeframe} bars inside regular sessions",
            remedy="resample the bars with market.timeframes.resample first",
        )
    number = (elapsed + length - 1) // length - 1
    placed = (
        placed.with_columns(
            (pl.col("_first") + number).alias(INDEX),
            (pl.col("_count") - 1 - number).alias(LEFT),
        )
        .drop("_open", "_close", "_length", "_first", "_count")
        .sort(Bar.SYMBOL, Bar.BAR_END)
        .with_columns(pl.col(Bar.SYMBOL).rle_id().cast(pl.Int64).alias(COMPANY))
    )
    same = (pl.col(INDEX).diff() == 0) & (pl.col(COMPANY).diff() == 0)
    doubled = placed.filter(same)
    if doubled.height:
        raise FeatureError(
            "bars are not unique per symbol and time",
            got=str(doubled.select(Bar.SYMBOL, Bar.BAR_END).row(0)),
            allowed="one bar per symbol and bar_end",
            remedy="remove duplicates before making labels",
        )
    return placed


def _sessions(timeframe: Timeframe) -> pl.DataFrame:
    """Return each session's open, close, bar length, count of bars and number of the first."""
    whole = pl.col("session_minutes") * 60_000_000
    length = pl.lit(timeframe.minutes * 60_000_000) if timeframe.is_intraday else whole
    count = (whole + length - 1) // length
    return calendar.schedule().select(
        "session",
        pl.col("session_open").alias("_open"),
        pl.col("session_close").alias("_close"),
        pl.col("session_index").alias(DAY),
        length.alias("_length"),
        count.alias("_count"),
        (count.cum_sum() - count).alias("_first"),
    )


def find_ends(placed: pl.DataFrame, horizon: Horizon) -> Integers:
    """Return the row at which each row's horizon ends.

    Parameters
    ----------
    placed : pl.DataFrame
        From :func:`place_on_grid`.
    horizon : Horizon
        Its length, and whether it may cross a close.

    Returns
    -------
    (n,) int64
        A row of the same symbol, ``steps`` scheduled bars later; -1 where there is none, or
        where it lies beyond a close that the horizon does not cross.
    """
    return _find_ends(
        placed[COMPANY].to_numpy(),
        placed[INDEX].to_numpy(),
        placed[LEFT].to_numpy(),
        horizon.steps,
        horizon.crosses_close,
    )


@njit(cache=True)
def _find_ends(
    company: Integers, index: Integers, left: Integers, steps: int, crosses_close: bool
) -> Integers:
    n = len(index)
    ends = np.full(n, -1, dtype=np.int64)
    j = 0
    for i in range(n):
        if not crosses_close and left[i] < steps:
            continue
        j = max(j, i)
        # Both ends move forward only, so all searches together are one pass.
        while j < n and company[j] == company[i] and index[j] < index[i] + steps:
            j += 1
        if j < n and company[j] == company[i] and index[j] == index[i] + steps:
            ends[i] = j
    return ends


def overnight_gaps(placed: pl.DataFrame) -> Floats:
    """Return each row's gap from the last close, for the first row of a symbol's session.

    Returns
    -------
    (n,) float64
        The first bar's open over the symbol's last close before that session (a ratio); 1 for
        rows inside a session and for a symbol's first row.
    """
    before = pl.col(Bar.CLOSE).shift(1)
    opens = (pl.col(DAY) != pl.col(DAY).shift(1)) & (pl.col(COMPANY) == pl.col(COMPANY).shift(1))
    gap = pl.when(opens).then(pl.col(Bar.OPEN) / before).otherwise(1.0)
    return placed.select(gap.alias("gap"))["gap"].to_numpy()


@njit(cache=True)
def compound_gaps(gaps: Floats, ends: Integers) -> Floats:
    """Return the product of the gaps after each row up to its end; NaN where there is none."""
    out = np.full(len(ends), np.nan)
    for i in range(len(ends)):
        if ends[i] < 0:
            continue
        product = 1.0
        for j in range(i + 1, ends[i] + 1):
            product *= gaps[j]
        out[i] = product
    return out
