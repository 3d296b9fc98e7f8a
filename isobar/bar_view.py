"""Bars of companies in any timeframe and price view, as they were known at a moment."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import polars as pl

from market import calendar
from market.actions import Adjustment, adjust_lazily, session_factors
from market.errors import MarketError
from market.identity import follow, of_companies
from market.ingest_log import ingested_symbols
from market.lake import Lake
from market.near_names import did_you_mean, near_names
from market.schema import IDENTITY_SCHEMA, Bar, Identity, Split, empty
from market.source import EVERY
from market.timeframes import Timeframe, parse_timeframe, resample


def read_view(
    lake: Lake,
    symbols: Sequence[str],
    timeframe: str,
    first: dt.date | None,
    last: dt.date | None,
    *,
    adjusted: str,
    as_of: dt.datetime | None,
    identity: bool,
) -> pl.LazyFrame:
    """Return a scan of bars; see :meth:`isobar.workspace.Workspace.bars`."""
    frame, view = parse_timeframe(timeframe), _view(adjusted)
    if first and last and last < first:
        calendar.sessions_between(first, last)
    moment = as_of or end_of_time()
    spells = _spells(lake, symbols, moment, identity)
    if frame.is_intraday:
        _require(lake, spells, ingested_symbols(lake, Timeframe.M1), Timeframe.M1)
    names = spells[Identity.SYMBOL].unique().to_list()

    def scan(table: str, begin: dt.date | None, end: dt.date | None) -> pl.LazyFrame:
        # Named here, although filtered again below: the lake chooses its layout by them.
        rows = lake.scan_bars(table, start=begin, end=end, symbols=names)
        return of_companies(rows, spells, date=Bar.SESSION)

    known = pl.col(Bar.KNOWN_AT) <= moment
    order = [Bar.SYMBOL, Bar.BAR_START]
    # All of it: factors depend on the actions up to as_of, whatever period is asked for.
    daily = scan("bars_1d", None, None).sort(order).collect()
    if not frame.is_intraday:
        _require(lake, spells, set(daily[Bar.SYMBOL].unique()), Timeframe.D1)
    daily = daily.filter(known)
    if frame in (Timeframe.D1, Timeframe.M1):
        found = scan(f"bars_{frame.value}", first, last)
    elif frame.is_intraday:
        minutes = scan("bars_1m", first, last).filter(known).sort(order).collect()
        found = resample(minutes, frame).lazy()
    else:
        found = resample(daily, frame).lazy()
    if first:
        found = found.filter(pl.col(Bar.SESSION) >= first)
    if last:
        found = found.filter(pl.col(Bar.SESSION) <= last)
    return adjust_lazily(found, _factors(lake, daily, spells), view, moment).sort(order)


def end_of_time() -> dt.datetime:
    """Return a moment by which everything is known: the last close of the calendar but one."""
    return calendar.session_close(calendar.previous_session(calendar.LAST_DATE))


def _spells(lake: Lake, wanted: Sequence[str], as_of: dt.datetime, identity: bool) -> pl.DataFrame:
    identities = empty(IDENTITY_SCHEMA)
    if identity and lake.exists("identities"):
        identities = lake.scan("identities").collect()
    return follow(identities, wanted, as_of)


def _factors(lake: Lake, daily: pl.DataFrame, spells: pl.DataFrame) -> pl.DataFrame:
    splits, dividends = (
        of_companies(lake.scan(table), spells, date=Split.EX_DATE).collect()
        for table in ("splits", "dividends")
    )
    return session_factors(daily, splits, dividends)


def _require(lake: Lake, spells: pl.DataFrame, there: set[str], timeframe: Timeframe) -> None:
    table = f"bars_{timeframe.value}"
    found = pl.col(Identity.SYMBOL).is_in(there) | pl.col("name").is_in(there)
    missing = sorted(set(spells["name"]) - set(spells.filter(found)["name"]))
    if not missing or EVERY in there:
        return
    ingested = ingested_symbols(lake, timeframe)
    near = near_names(missing[0], ingested)
    remedy = f"run `isobar ingest --symbols {','.join(missing[:10])} ...`"
    if near:
        remedy = f"did you mean {', '.join(near)}? Otherwise {remedy}"
    raise MarketError(
        "symbols without bars in the lake",
        got=missing[:10],
        allowed=f"{len(ingested)} symbols in {table}",
        remedy=remedy,
    )


def _view(name: str) -> Adjustment:
    try:
        return Adjustment(name)
    except ValueError:
        raise MarketError(
            "unknown price view",
            got=name,
            allowed=", ".join(Adjustment),
            remedy=did_you_mean(name, Adjustment, "choose one of these"),
        ) from None
