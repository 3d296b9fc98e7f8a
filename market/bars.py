"""Bars of any timeframe from the lake, raw or forward-adjusted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Sequence

import polars as pl

from market import calendar
from market.actions import forward_adjust, session_factors
from market.errors import MarketError
from market.identity import as_companies
from market.lake import Lake
from market.schema import BAR_SCHEMA, IDENTITY_SCHEMA, SPLIT_SCHEMA, Bar, Identity, Split, empty
from market.timeframes import Timeframe, before_open, regular_hours, resample

_SESSIONS_AT_ONCE = 21


def read_bars(
    lake: Lake,
    timeframe: Timeframe,
    start: dt.date | None = None,
    end: dt.date | None = None,
    symbols: Sequence[str] | None = None,
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
    symbols : sequence of str, optional
        Only these.

    Returns
    -------
    pl.DataFrame
        ``BAR_SCHEMA``, sorted by symbol and time.
    """
    if timeframe in (Timeframe.D1, Timeframe.M1):
        table = f"bars_{timeframe.value}"
        return lake.read_bars(table, start=start, end=end, symbols=symbols)
    if not timeframe.is_intraday:
        daily = lake.read_bars("bars_1d", start=start, end=end, symbols=symbols)
        return resample(daily, timeframe)
    # Resampling stays inside a session, so a month at a time gives the same at less memory.
    sessions = sorted(
        s
        for s in lake.sessions("bars_1m")
        if (start is None or s >= start) and (end is None or s <= end)
    )
    parts = [
        resample(
            lake.read_bars(
                "bars_1m",
                start=sessions[k],
                end=sessions[k : k + _SESSIONS_AT_ONCE][-1],
                symbols=symbols,
            ),
            timeframe,
        )
        for k in range(0, len(sessions), _SESSIONS_AT_ONCE)
    ]
    bars = pl.concat(parts) if parts else pl.DataFrame(schema=BAR_SCHEMA)
    return bars.sort("symbol", "bar_start")


def read_adjusted(
    lake: Lake,
    timeframe: Timeframe,
    start: dt.date | None = None,
    end: dt.date | None = None,
    symbols: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Return forward-adjusted bars, of all symbols or some: what features are computed on.

    Minutes outside regular hours are left out: the session grid of labels does not know them.

    The factors always come from the whole daily history up to ``end``, so that they do not depend
    on ``start``; they go on through a change of ticker.
    """
    bars = read_bars(lake, timeframe, start, end, symbols)
    if timeframe is Timeframe.M1:
        bars = regular_hours(bars)
    return _adjusted(lake, bars, end)


def read_premarket(
    lake: Lake, start: dt.date | None = None, end: dt.date | None = None
) -> pl.DataFrame:
    """Return the forward-adjusted minutes before the open of some sessions, both included."""
    sessions = sorted(
        s
        for s in lake.sessions("bars_1m")
        if (start is None or s >= start) and (end is None or s <= end)
    )
    parts = [
        before_open(lake.read_bars("bars_1m", start=some[0], end=some[-1]))
        for k in range(0, len(sessions), _SESSIONS_AT_ONCE)
        if (some := sessions[k : k + _SESSIONS_AT_ONCE])
    ]
    minutes = pl.concat(parts) if parts else empty(BAR_SCHEMA)
    return _adjusted(lake, minutes.sort(Bar.SYMBOL, Bar.BAR_START), end)


def _adjusted(lake: Lake, bars: pl.DataFrame, end: dt.date | None) -> pl.DataFrame:
    known = _identities(lake)
    daily = as_companies(lake.read_bars("bars_1d", end=end), known, date=Bar.SESSION)
    factors = session_factors(
        daily.sort(Bar.SYMBOL, Bar.BAR_START),
        as_companies(lake.scan("splits").collect(), known, date=Split.EX_DATE),
        as_companies(lake.scan("dividends").collect(), known, date=Split.EX_DATE),
    )
    return by_company(lake, bars, lambda rows: forward_adjust(rows, factors))


def by_company(
    lake: Lake, bars: pl.DataFrame, compute: Callable[[pl.DataFrame], pl.DataFrame]
) -> pl.DataFrame:
    """Compute something on the bars of companies, each one series through all its symbols.

    Parameters
    ----------
    lake : Lake
        With identities, or without.
    bars : pl.DataFrame
        ``BAR_SCHEMA``.
    compute : callable
        From bars, sorted by symbol and time, to rows with the ``symbol`` and ``bar_end`` of bars.

    Returns
    -------
    pl.DataFrame
        What ``compute`` returned, under the symbols of the time, sorted by symbol and time.
    """
    companies = as_companies(bars, _identities(lake), date=Bar.SESSION)
    if companies[Bar.SYMBOL].equals(bars[Bar.SYMBOL]):
        return compute(bars)
    keys = [Bar.SYMBOL, Bar.BAR_END]
    names = companies.select(*keys, bars[Bar.SYMBOL].alias("_name"))
    if names.select(keys).is_duplicated().any():
        raise MarketError(
            "one company has bars under two symbols at the same time",
            got=names.filter(names.select(keys).is_duplicated())["_name"].unique().to_list()[:4],
            allowed="one symbol per company and moment",
            remedy="materialise `identities` again; if it stays, leave one of the symbols out",
        )
    made = compute(companies.sort(Bar.SYMBOL, Bar.BAR_START))
    columns = made.columns
    return (
        made.join(names, on=keys, how="left")
        .with_columns(pl.col("_name").alias(Bar.SYMBOL))
        .select(columns)
        .sort(keys)
    )


def name_companies(lake: Lake, rows: pl.DataFrame, *, date: str) -> pl.DataFrame:
    """Return rows under the names that :func:`by_company` gives; ``date`` is as of when they are.

    See :func:`market.identity.as_companies`.
    """
    return as_companies(rows, _identities(lake), date=date)


def symbols_of(lake: Lake, companies: Collection[str]) -> list[str]:
    """Return every symbol that these companies, as :func:`by_company` names them, ever bore."""
    known = _identities(lake)
    borne = known.filter(pl.col(Identity.KEY).is_in(list(companies)))[Identity.SYMBOL]
    # Of a symbol on days on which nobody is known to have borne it, the name begins with it.
    return sorted({*borne, *(c.split(" ", 1)[0] for c in companies)})


def _identities(lake: Lake) -> pl.DataFrame:
    exists = lake.exists("identities")
    return lake.scan("identities").collect() if exists else empty(IDENTITY_SCHEMA)


def splits_in_force(lake: Lake, now: dt.datetime) -> pl.DataFrame:
    """Return the splits that are known at a moment and whose ex-date has begun in New York."""
    if not lake.exists("splits"):
        return empty(SPLIT_SCHEMA)
    day = now.astimezone(calendar.NEW_YORK).date()
    return (
        lake.scan("splits")
        .filter(pl.col(Split.KNOWN_AT) <= now, pl.col(Split.EX_DATE) <= day)
        .collect()
    )
