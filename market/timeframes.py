"""Bar lengths, and resampling inside the session grid.

The grid of a session starts at its open; the last bar of a session ends at its close, also
where the close comes early, so no bar ever spans a close.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

import polars as pl

from market import calendar
from market.errors import MarketError
from market.near_names import did_you_mean
from market.schema import BAR_SCHEMA, Bar

_MINUTES = {
    "1m": 1,
    "5m": 5,
    "15m": 15,
    "30m": 30,
    "1h": 60,
    "4h": 240,
    "1d": 390,
    "1w": 390 * 5,
    "1M": 390 * 21,
}


class Timeframe(StrEnum):
    """The bar lengths that Isobar knows."""

    M1 = "1m"
    M5 = "5m"
    M15 = "15m"
    M30 = "30m"
    H1 = "1h"
    H4 = "4h"
    D1 = "1d"
    W1 = "1w"
    MO1 = "1M"

    @property
    def minutes(self) -> int:
        """Length in trading minutes (a month counts as 21 sessions)."""
        return _MINUTES[self.value]

    @property
    def is_intraday(self) -> bool:
        """Whether several bars fit into one session."""
        return self.minutes < calendar.REGULAR_MINUTES


def parse_timeframe(name: str) -> Timeframe:
    """Return the timeframe of this name, or say which there are.

    Examples
    --------
    >>> parse_timeframe("15m").minutes
    15
    """
    try:
        return Timeframe(name)
    except ValueError:
        raise MarketError(
            "unknown timeframe",
            got=name,
            allowed=", ".join(Timeframe),
            remedy=did_you_mean(name, Timeframe, "choose one of these"),
        ) from None


def resample(bars: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
    """Aggregate finer bars into bars of ``timeframe`` inside the session grid.

    Parameters
    ----------
    bars : pl.DataFrame
        ``BAR_SCHEMA``; minutes for intraday timeframes, daily bars for ``1w`` and ``1M``. Bars
        outside the regular session are left out.
    timeframe : Timeframe
        The wanted length.

    Returns
    -------
    pl.DataFrame
        ``BAR_SCHEMA``, sorted by symbol and time. A bucket without a source bar has no row:
        a halt stays a hole at its true time. ``known_at`` is the bucket's end plus the longest
        delay seen in its source bars; ``bar_end`` is the end of the bucket, not of its last trade.

    Raises
    ------
    MarketError
        When asked to build daily bars from minutes: those come from the vendor.
    """
    if timeframe is Timeframe.D1:
        raise MarketError(
            "daily bars are not resampled",
            got="1d",
            allowed="intraday timeframes from 1m bars; 1w and 1M from 1d bars",
            remedy="read the official daily bars",
        )
    if timeframe.is_intraday:
        return _aggregate(_intraday_buckets(bars, timeframe))
    return _aggregate(_calendar_buckets(bars, timeframe))


def regular_hours(minutes: pl.DataFrame) -> pl.DataFrame:
    """Return the minutes of regular sessions: neither before the open nor from the close on.

    Parameters
    ----------
    minutes : pl.DataFrame
        ``BAR_SCHEMA`` of 1-minute bars, in any order; the order is kept.
    """
    inside = (pl.col(Bar.BAR_START) >= pl.col("session_open")) & (
        pl.col(Bar.BAR_START) < pl.col("session_close")
    )
    return _of_sessions(minutes, inside)


def before_open(minutes: pl.DataFrame) -> pl.DataFrame:
    """Return the minutes of each session's date that are over by its open, as they are ordered."""
    return _of_sessions(minutes, pl.col(Bar.BAR_END) <= pl.col("session_open"))


def _of_sessions(minutes: pl.DataFrame, wanted: pl.Expr) -> pl.DataFrame:
    times = calendar.schedule().select("session", "session_open", "session_close")
    return (
        minutes.join(times, on=Bar.SESSION, how="inner", maintain_order="left")
        .filter(wanted)
        .select(minutes.columns)
    )


def _intraday_buckets(bars: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
    length = dt.timedelta(minutes=timeframe.minutes)
    offset = (pl.col(Bar.BAR_START) - pl.col("session_open")).dt.total_minutes()
    whole = offset // timeframe.minutes * timeframe.minutes
    start = pl.col("session_open") + pl.duration(minutes=whole)
    return (
        bars.join(
            calendar.schedule().select("session", "session_open", "session_close"),
            left_on=Bar.SESSION,
            right_on="session",
            how="inner",
        )
        .filter(
            pl.col(Bar.BAR_START) >= pl.col("session_open"),
            pl.col(Bar.BAR_START) < pl.col("session_close"),
        )
        .with_columns(bucket_start=start)
        .with_columns(
            bucket_end=pl.min_horizontal(pl.col("bucket_start") + length, pl.col("session_close")),
            bucket_session=pl.col(Bar.SESSION),
        )
    )


def _calendar_buckets(bars: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
    every = "1w" if timeframe is Timeframe.W1 else "1mo"
    grid = (
        calendar.schedule()
        .with_columns(period=pl.col("session").dt.truncate(every))
        .with_columns(
            bucket_start=pl.col("session_open").first().over("period"),
            bucket_end=pl.col("session_close").last().over("period"),
            bucket_session=pl.col("session").last().over("period"),
        )
        .select("session", "bucket_start", "bucket_end", "bucket_session")
    )
    return bars.join(grid, left_on=Bar.SESSION, right_on="session", how="inner")


def values_of_finer() -> list[pl.Expr]:
    """Return prices, volume, vwap and trades of a bar, as aggregations of finer bars in order.

    Where a finer bar has no vwap, its typical price, (high + low + close) / 3, stands in.
    """
    volume = pl.col(Bar.VOLUME)
    typical = pl.col(Bar.VWAP).fill_null(
        (pl.col(Bar.HIGH) + pl.col(Bar.LOW) + pl.col(Bar.CLOSE)) / 3
    )
    return [
        pl.col(Bar.OPEN).first(),
        pl.col(Bar.HIGH).max(),
        pl.col(Bar.LOW).min(),
        pl.col(Bar.CLOSE).last(),
        volume.sum(),
        pl.when(volume.sum() > 0)
        .then((typical * volume).sum() / volume.sum())
        .otherwise(typical.mean())
        .alias(Bar.VWAP),
        # Not counted is unknown, not none.
        pl.when(pl.col(Bar.TRADES).count() > 0).then(pl.col(Bar.TRADES).sum()),
    ]


def _aggregate(bars: pl.DataFrame) -> pl.DataFrame:
    delay = (pl.col(Bar.KNOWN_AT) - pl.col(Bar.BAR_END)).max()
    return (
        bars.sort(Bar.SYMBOL, Bar.BAR_START)
        .group_by(Bar.SYMBOL, "bucket_session", "bucket_start", "bucket_end", maintain_order=True)
        .agg(
            *values_of_finer(),
            delay=delay,
        )
        .with_columns((pl.col("bucket_end") + pl.col("delay")).alias(Bar.KNOWN_AT))
        .rename(
            {
                "bucket_session": Bar.SESSION,
                "bucket_start": Bar.BAR_START,
                "bucket_end": Bar.BAR_END,
            }
        )
        .select(BAR_SCHEMA.names())
    )
