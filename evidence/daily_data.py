"""Real daily bars as the evidence reads them: adjusted, corrected, members of the index marked."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl

from market.actions import forward_adjust, session_factors
from market.errors import MarketError
from market.replay_data import load_bars_file
from market.universe import membership_universe, read_membership

BARS = "daily_us504_raw_1999_2014.parquet"
CORRECTIONS = "daily_us504_corrections.csv"
MEMBERSHIP = "sp500_membership.csv"
SECTORS = "sectors_2021.csv"

_PRICES = ("open", "high", "low", "close", "vwap")
_KNOWN = ("return_fixed", "history_before_dropped", "row_dropped")


def read_daily(folder: Path) -> pl.DataFrame:
    """Return forward-adjusted daily bars (``BAR_SCHEMA``) without the source's known faults."""
    raw, splits, dividends = _read_file(folder)
    adjusted = forward_adjust(raw, session_factors(raw, splits, dividends))
    return correct(adjusted, _read_corrections(folder))


def read_raw(
    folder: Path, first: dt.date, last: dt.date
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return raw bars of some sessions without the source's known faults, splits and dividends.

    Raises
    ------
    MarketError
        When the return of one of these sessions is to be fixed: only adjusted prices can be.
    """
    raw, splits, dividends = _read_file(folder)
    listed = _read_corrections(folder)
    fixed = pl.col("action") == "return_fixed"
    late = listed.filter(fixed & pl.col("date").is_between(first, last))
    if late.height:
        raise MarketError(
            "raw prices cannot be corrected by a return",
            got=f"{late['symbol'][0]} on {late['date'][0]}",
            allowed="sessions without such a correction",
            remedy="read a period without it",
        )
    kept = correct(raw, listed.filter(~fixed))
    return kept.filter(pl.col("session").is_between(first, last)), splits, dividends


def _read_file(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    made = load_bars_file(folder / BARS, as_of=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    assert made.daily is not None
    return made.daily, made.splits, made.dividends


def _read_corrections(folder: Path) -> pl.DataFrame:
    return pl.read_csv(folder / CORRECTIONS, schema_overrides={"date": pl.Date})


def correct(daily: pl.DataFrame, corrections: pl.DataFrame) -> pl.DataFrame:
    """Return adjusted bars with a list of corrections applied.

    Parameters
    ----------
    daily : pl.DataFrame
        ``BAR_SCHEMA``, forward-adjusted.
    corrections : pl.DataFrame
        ``symbol``, ``date``, ``action`` and ``fixed_return``: ``row_dropped`` takes one bar
        away, ``history_before_dropped`` all bars before a date (of another company), and
        ``return_fixed`` scales all prices from the date on so that its close-to-close return is
        ``fixed_return``.

    Raises
    ------
    MarketError
        On an action that is not known.
    """
    unknown = sorted(set(corrections["action"].unique()) - set(_KNOWN))
    if unknown:
        raise MarketError(
            "corrections ask for something unknown",
            got=unknown,
            allowed=", ".join(_KNOWN),
            remedy="correct the file",
        )
    symbol, session = pl.col("symbol"), pl.col("session")
    for row in corrections.filter(pl.col("action") != "return_fixed").iter_rows(named=True):
        out = (session == row["date"]) if row["action"] == "row_dropped" else session < row["date"]
        daily = daily.filter(~((symbol == row["symbol"]) & out))
    for row in corrections.filter(pl.col("action") == "return_fixed").iter_rows(named=True):
        own = daily.filter(symbol == row["symbol"]).sort("session")
        before = own.filter(session < row["date"])["close"]
        at = own.filter(session == row["date"])["close"]
        if before.is_empty() or at.is_empty():
            continue
        scale = before[-1] * (1.0 + row["fixed_return"]) / at[0]
        later = (symbol == row["symbol"]) & (session >= row["date"])
        daily = daily.with_columns(
            pl.when(later).then(pl.col(c) * scale).otherwise(pl.col(c)).alias(c) for c in _PRICES
        )
    return daily


def read_members(folder: Path, daily: pl.DataFrame) -> pl.DataFrame:
    """Return ``session``, ``symbol`` of the index's members, session by session."""
    sessions = daily["session"].unique().sort().to_list()
    return membership_universe(read_membership(folder / MEMBERSHIP), sessions)


def read_sectors(folder: Path) -> pl.DataFrame:
    """Return ``symbol``, ``sector``."""
    table = pl.read_csv(folder / SECTORS)
    return table.select(pl.col("Symbol").alias("symbol"), pl.col("Sector").alias("sector"))
