"""Which rows a training reads where all of them would not fit into memory.

Of each week a part of the symbols is kept, with all their bars of it, drawn anew for every week
by a digest of its number and the symbol's name: by nothing that the market did. Each symbol, time
of day and week is as likely to be there as any other, so what is learned is unbiased; and inside a
week every bar has the bars before it, so windows are what they are in use.
"""

from __future__ import annotations

import datetime as dt
import hashlib

import polars as pl

from market.schema import Bar
from market.timeframes import Timeframe
from models.dataset import reach_of

WEEK_SESSIONS = reach_of(Timeframe.M1)
"""Length of a block: no shorter than windows of intraday bars reach, so that none joins two blocks
that do not follow one another."""

_FLOAT32 = 4


def symbols_per_kept(rows: int, features: int, *, matrix_bytes: int) -> int:
    """Return of how many symbols one is kept, so that a float32 matrix fits; 1: all.

    Parameters
    ----------
    rows, features : int
        Of the whole matrix.
    matrix_bytes : int
        How large it may be.

    Examples
    --------
    >>> symbols_per_kept(1_000_000, 250, matrix_bytes=1_000_000_000)
    1
    >>> symbols_per_kept(1_000_000, 251, matrix_bytes=1_000_000_000)
    2
    """
    return max(1, -(-rows * features * _FLOAT32 // matrix_bytes))


def kept_weeks(keys: pl.DataFrame, one_in: int) -> pl.DataFrame:
    """Return the symbols and sessions that are kept.

    Parameters
    ----------
    keys : pl.DataFrame
        ``symbol`` and ``session``, in any order and number.
    one_in : int
        Of how many symbols one is kept in each week; at least one is.

    Returns
    -------
    pl.DataFrame
        ``symbol``, ``session``, each pair once. A week is five sessions in a row, counted from
        the calendar's beginning as working days, so it is the same whatever history there is.

    Examples
    --------
    >>> keys = pl.DataFrame({"symbol": ["A", "B"], "session": [dt.date(2025, 6, 2)] * 2})
    >>> kept_weeks(keys, 1).height
    2
    """
    pairs = keys.select(Bar.SYMBOL, Bar.SESSION).unique().sort(Bar.SYMBOL, Bar.SESSION)
    begin = pl.lit(dt.date(1970, 1, 1))
    week = pl.business_day_count(begin, pl.col(Bar.SESSION)) // WEEK_SESSIONS
    blocks = pairs.with_columns(week.alias("_week"))
    text = pl.concat_str(Bar.SYMBOL, pl.lit("|"), "_week")
    drawn = (
        pl.col("_draw").rank("ordinal").over("_week") <= (pl.len().over("_week") / one_in).ceil()
    )
    chosen = (
        blocks.select(Bar.SYMBOL, "_week")
        .unique()
        .with_columns(text.map_elements(_number, return_dtype=pl.UInt64).alias("_draw"))
        .filter(drawn)
    )
    on = [Bar.SYMBOL, "_week"]
    return blocks.join(chosen, on=on, how="semi", maintain_order="left").drop("_week")


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
