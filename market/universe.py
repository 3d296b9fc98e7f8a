"""Point-in-time universes: who belonged on a date, from what was known before it.

A universe is a frame of ``session`` and ``symbol``: one row per symbol that belongs. It is made
from an index membership file, or by liquidity in the past.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from market.errors import MarketError
from market.schema import Bar

UNIVERSE_SCHEMA = pl.Schema({"session": pl.Date(), "symbol": pl.String()})


def read_membership(path: Path) -> pl.DataFrame:
    """Read an index membership file.

    Parameters
    ----------
    path : Path
        CSV with ``ticker, start_date, end_date``; an empty ``end_date`` means still a member. A
        ticker may have several spells.

    Returns
    -------
    pl.DataFrame
        ``symbol``, ``start_date``, ``end_date`` (null for still a member).

    Raises
    ------
    MarketError
        When the file cannot be read, lacks a column, or has a spell that ends before it starts.
    """
    try:
        frame = pl.read_csv(path, schema_overrides={"ticker": pl.String()})
    except (OSError, pl.exceptions.PolarsError) as error:
        raise MarketError(
            f"the membership file cannot be read ({error})",
            got=str(path),
            allowed="CSV with ticker, start_date, end_date",
            remedy="correct the path or the file",
        ) from error
    missing = [c for c in ("ticker", "start_date", "end_date") if c not in frame.columns]
    if missing:
        raise MarketError(
            "the membership file lacks columns",
            got=missing,
            allowed="ticker, start_date, end_date",
            remedy="add them",
        )
    try:
        spells = frame.select(
            pl.col("ticker").alias("symbol"),
            pl.col("start_date").cast(pl.String).str.to_date("%Y-%m-%d"),
            pl.col("end_date").cast(pl.String).replace("", None).str.to_date("%Y-%m-%d"),
        )
    except pl.exceptions.PolarsError as error:
        raise MarketError(
            f"the membership file has a date that is none ({error})",
            allowed="YYYY-MM-DD",
            remedy="correct the file",
        ) from error
    wrong = spells.filter(pl.col("end_date") < pl.col("start_date"))
    if wrong.height or spells["symbol"].null_count() or spells["start_date"].null_count():
        raise MarketError(
            "the membership file has an impossible spell",
            got=str(wrong.row(0)) if wrong.height else "a row without ticker or start",
            allowed="a ticker, and a start on or before the end",
            remedy="correct the file",
        )
    return spells


def membership_universe(membership: pl.DataFrame, sessions: Sequence[dt.date]) -> pl.DataFrame:
    """Return the members of an index on every session.

    Parameters
    ----------
    membership : pl.DataFrame
        From :func:`read_membership`. A member belongs from its start date up to, and without,
        its end date: on the day it leaves it is no member any more.
    sessions : sequence of date
        The sessions wanted.
    """
    days = pl.DataFrame({"session": list(sessions)}, schema={"session": pl.Date()})
    inside = (pl.col("start_date") <= pl.col("session")) & (
        pl.col("end_date").is_null() | (pl.col("session") < pl.col("end_date"))
    )
    return (
        days.join(membership, how="cross")
        .filter(inside)
        .select(UNIVERSE_SCHEMA.names())
        .unique()
        .sort("session", "symbol")
    )


def liquid_universe(
    daily: pl.DataFrame, sessions: Sequence[dt.date], *, count: int, lookback_sessions: int = 63
) -> pl.DataFrame:
    """Return the most liquid symbols of every session, by what was traded before it.

    Parameters
    ----------
    daily : pl.DataFrame
        Raw daily bars; dollar volume needs no adjustment.
    sessions : sequence of date
        The sessions wanted.
    count : int
        How many symbols.
    lookback_sessions : int
        The median dollar volume is taken over this many sessions that end with the one *before*.

    Returns
    -------
    pl.DataFrame
        ``session``, ``symbol``. A symbol with bars on fewer than half of those sessions has no
        median and does not belong; ties go to the earlier name.

    Raises
    ------
    MarketError
        When ``count`` or the lookback is not positive.
    """
    if count < 1 or lookback_sessions < 1:
        raise MarketError(
            "liquidity universe",
            got=f"count {count}, lookback {lookback_sessions}",
            allowed="1 or more of each",
            remedy="correct the settings",
        )
    dollars = pl.col(Bar.VWAP).fill_null(pl.col(Bar.CLOSE)) * pl.col(Bar.VOLUME)
    every = daily.select(pl.col(Bar.SESSION).unique().sort()).with_row_index("_day")
    traded = (
        daily.select(Bar.SYMBOL, Bar.SESSION, dollars.alias("_dollars"))
        .join(every, on=Bar.SESSION)
        .sort(Bar.SYMBOL, "_day")
    )
    # Holes stay holes: the window counts sessions, not bars, so a halt does not stretch it back.
    median = traded.rolling("_day", period=f"{lookback_sessions}i", group_by=Bar.SYMBOL).agg(
        pl.col("_dollars").median().alias("_median"), pl.len().alias("_bars")
    )
    enough = median.filter(pl.col("_bars") * 2 >= lookback_sessions)
    known = enough.with_columns(pl.col("_day") + 1)
    wanted = (
        pl.DataFrame({"session": list(sessions)}, schema={"session": pl.Date()})
        .sort("session")
        .join_asof(
            every.rename({"_day": "_before"}).with_columns(at=pl.col(Bar.SESSION)),
            on="session",
            strategy="backward",
            allow_exact_matches=False,
        )
        .drop_nulls("_before")
        .with_columns((pl.col("_before") + 1).alias("_day"))
    )
    return (
        wanted.join(known, on="_day")
        .sort("session", "_median", Bar.SYMBOL, descending=[False, True, False])
        .group_by("session", maintain_order=True)
        .head(count)
        .select(UNIVERSE_SCHEMA.names())
        .sort("session", "symbol")
    )
