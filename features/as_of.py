"""Frames for the third stage: values with the time from which each is known.

What is made here for a moment never changes when later rows are added, also where a row becomes
known out of order: it is left out, for what came after it had been made without it.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import numpy.typing as npt
import polars as pl

from features.kernels import Values
from market.schema import Bar

VALUE = "value"


def in_order(table: pl.DataFrame, date: str) -> pl.DataFrame:
    """Return a series' rows in the order of their dates, each known after those before.

    Parameters
    ----------
    table : pl.DataFrame
        One series with ``known_at``.
    date : str
        The column that says what a row is about.

    Returns
    -------
    pl.DataFrame
        The rows as they came in, without those about a date at or before one already known.
    """
    ordered = table.sort(Bar.KNOWN_AT, date).unique(date, keep="first", maintain_order=True)
    about = pl.col(date).to_physical()
    return ordered.filter(about == about.cum_max())


def series(table: pl.DataFrame, values: npt.NDArray[np.float64], stale: dt.timedelta):
    """Return ``known_at`` and ``value`` of a series that is null once no new row has come.

    Parameters
    ----------
    table : pl.DataFrame
        From :func:`in_order`.
    values : (rows,) float64
        NaN where there is none.
    stale : timedelta
        How long a row's value stands when none follows.
    """
    rows = table.select(Bar.KNOWN_AT, pl.Series(VALUE, values, nan_to_null=True))
    return until_stale(rows, stale)


def until_stale(rows: pl.DataFrame, stale: dt.timedelta) -> pl.DataFrame:
    """Add a null where the next row, by symbol if there are symbols, comes only after ``stale``.

    Parameters
    ----------
    rows : pl.DataFrame
        ``known_at``, ``value`` and perhaps ``symbol``; ascending by ``known_at``.
    stale : timedelta
        How long a value stands.
    """
    following = pl.col(Bar.KNOWN_AT).shift(-1)
    if Bar.SYMBOL in rows.columns:
        following = following.over(Bar.SYMBOL)
    ends = pl.col(Bar.KNOWN_AT) + stale
    over = rows.filter((following > ends).fill_null(value=True)).with_columns(
        ends.alias(Bar.KNOWN_AT), pl.lit(None, dtype=pl.Float64).alias(VALUE)
    )
    return pl.concat([rows.cast({VALUE: pl.Float64}), over]).sort(Bar.KNOWN_AT, maintain_order=True)


def windows(values: Values, size: int) -> npt.NDArray[np.float64]:
    """Return the last ``size`` values of each place, (rows - size + 1, size)."""
    if len(values) < size:
        return np.empty((0, size))
    return np.lib.stride_tricks.sliding_window_view(values, size)


def padded(values: npt.NDArray[np.float64], rows: int) -> Values:
    """Return one value per row from those of the last rows, NaN before."""
    return np.append(np.full(rows - len(values), np.nan), values)


def before(values: Values, rows: int) -> Values:
    """Return the value so many rows earlier; NaN before there is one."""
    return padded(values[: max(len(values) - rows, 0)], len(values))
