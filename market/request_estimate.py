"""About how many requests a download takes over REST, told before the first one is sent.

The same rules by which :mod:`market.ingest` and :mod:`market.polygon` split a download, with the
vendor's page sizes. Pages of minutes are counted as if every symbol traded in every minute of the
extended day, so most downloads take fewer.
"""

from __future__ import annotations

import datetime as dt
from math import ceil

from market import calendar
from market.timeframes import Timeframe

BARS_PER_PAGE = 50_000
CHUNK_BARS = 1_500_000
"""Bars of this many symbol-sessions are held in memory and committed at once."""
ROWS_PER_PAGE = 1_000
# Rows per calendar day over the whole market, to choose between asking by symbol or by date.
ROWS_PER_DAY = {"execution_date": 15, "ex_dividend_date": 250}
ARTICLES_PER_DAY = 500
PAGES_OF_TICKERS = 40
_EXTENDED_MINUTES = 960
_NEWS_DAYS = 31


def chunk_sessions(timeframe: Timeframe, symbols: int) -> int:
    """Return how many sessions are fetched and committed at once.

    Examples
    --------
    >>> chunk_sessions(Timeframe.M1, 10)
    384
    """
    each = calendar.REGULAR_MINUTES if timeframe is Timeframe.M1 else 1
    return max(1, CHUNK_BARS // (symbols * each))


def bar_requests(timeframe: Timeframe, sessions: int, symbols: int) -> int:
    """Return the most requests that bars of so many sessions and symbols take.

    Parameters
    ----------
    timeframe : Timeframe
        ``1m`` or ``1d``.
    sessions, symbols : int
        How many are missing, of how many symbols.

    Examples
    --------
    Minutes of 120 sessions, three pages a symbol; daily bars of five years, one:

    >>> bar_requests(Timeframe.M1, 120, 10), bar_requests(Timeframe.D1, 1260, 10)
    (30, 10)
    """
    if not sessions or not symbols:
        return 0
    size = chunk_sessions(timeframe, symbols)
    sizes = [size] * (sessions // size) + ([sessions % size] if sessions % size else [])
    if timeframe is Timeframe.D1:
        # Asked by date where that is fewer.
        return sum(min(chunk, symbols) for chunk in sizes)
    return sum(symbols * ceil(chunk * _EXTENDED_MINUTES / BARS_PER_PAGE) for chunk in sizes)


def action_requests(start: dt.date, end: dt.date, symbols: int) -> int:
    """Return about how many requests splits and dividends of a period take, both together.

    Examples
    --------
    >>> action_requests(dt.date(2020, 1, 1), dt.date(2024, 12, 31), 10)
    20
    """
    return sum(min(symbols, market_pages(key, start, end)) for key in ROWS_PER_DAY)


def market_pages(key: str, start: dt.date, end: dt.date) -> int:
    """Return on about how many pages the whole market's splits or dividends of a period are."""
    return 1 + ROWS_PER_DAY[key] * ((end - start).days + 1) // ROWS_PER_PAGE


def reference_requests(symbols: int) -> int:
    """Return about how many requests yields, VIX, a month of news and identities take.

    Examples
    --------
    >>> reference_requests(10)
    42
    """
    news = min(symbols, 1 + ARTICLES_PER_DAY * _NEWS_DAYS // ROWS_PER_PAGE)
    return 2 + news + min(2 * symbols, PAGES_OF_TICKERS) + symbols
