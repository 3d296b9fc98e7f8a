"""Macro data, news and identities from the vendor's REST service: the requests.

What an answer must be is in :mod:`market.polygon_reference_parse` and
:mod:`market.polygon_identities`. The vendor's client itself is known to :mod:`market.polygon` only,
whose source takes these methods over.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import polars as pl

from market import calendar
from market import polygon_identities as identity
from market import polygon_parse as parse
from market import polygon_reference_parse as reference
from market.errors import SourceError
from market.polygon_overlap import overlap
from market.polygon_wire import NotFoundError, Wire
from market.request_estimate import ARTICLES_PER_DAY, PAGES_OF_TICKERS, ROWS_PER_PAGE
from market.schema import INDEX_SCHEMA, NEWS_SCHEMA, empty
from market.source import EVERY

_MOST_ROWS = 50_000
_SYMBOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:\-]{0,31}")


class PolygonReference:
    """The methods of a :class:`~market.reference_source.ReferenceSource`.

    Notes
    -----
    Source: the service's REST documentation, "Treasury Yields", "Custom Bars" of indices, "News",
    "All Tickers", "Ticker Events",
    "Market Status".
    """

    _client: Any
    _wire: Wire
    _delay: dt.timedelta
    _on_progress: Callable[[int, int], None] | None

    def server_time(self) -> dt.datetime:
        """Return the vendor's clock, UTC: one request, which also says whether the key is good.

        Raises
        ------
        SourceError
            A refusal, or an answer without a time.
        """
        (page,) = self._wire.pages(
            lambda: self._client.get_market_status(raw=True), read=reference.market_status
        )
        return page["serverTime"]

    def treasury_yields(self, start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return par yields, in percent, of dates from ``start`` to ``end``.

        ``TREASURY_YIELD_SCHEMA``, by date. When they are known says
        :func:`market.macro.yields_known_at`.

        Raises
        ------
        SourceError
            A refusal, or an answer that cannot be used.
        """
        _check_order(start, end)
        rows = self._all(
            lambda: self._client.list_treasury_yields(
                date_gte=start.isoformat(),
                date_lte=end.isoformat(),
                limit=_MOST_ROWS,
                sort="date.asc",
                raw=True,
            )
        )
        return reference.treasury_yields(rows, start, end)

    def index_bars(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return daily values of indices, such as ``VIX``, of sessions from ``start`` to ``end``.

        ``INDEX_SCHEMA``, by symbol and session; an index without values, known or not, has no
        rows. When they are known says :func:`market.macro.index_known_at`.

        Raises
        ------
        SourceError
            A refusal, or an answer that cannot be used.
        """
        _check_order(start, end)
        parts = [empty(INDEX_SCHEMA)]
        for symbol in usable_symbols(symbols):
            pages = self._wire.pages(
                lambda s=symbol: self._client.list_aggs(
                    f"I:{s}", 1, "day", start, end, sort="asc", limit=_MOST_ROWS, raw=True
                )
            )
            parts += [reference.index_bars(page, symbol, self._delay) for page in pages]
        return reference.check_index(pl.concat(parts), start, end)

    def news(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return articles about symbols, published on New York dates from ``start`` to ``end``.

        ``NEWS_SCHEMA``, one row per article and symbol, by these. A symbol without articles, known
        or not, has no rows. When they are known says :func:`market.macro.news_known_at`.

        Raises
        ------
        SourceError
            A refusal, or an answer that cannot be used; never half a frame.
        """
        _check_order(start, end)
        wanted = usable_symbols(symbols)
        if not wanted:
            return empty(NEWS_SCHEMA)
        begin, until = calendar.midnight(start), calendar.midnight(end + dt.timedelta(days=1))

        def ask(symbol: str | None) -> list[Any]:
            return self._all(
                lambda: self._client.list_ticker_news(
                    ticker=symbol,
                    published_utc_gte=f"{begin:%Y-%m-%dT%H:%M:%SZ}",
                    published_utc_lt=f"{until:%Y-%m-%dT%H:%M:%SZ}",
                    sort="published_utc",
                    order="asc",
                    limit=ROWS_PER_PAGE,
                    raw=True,
                )
            )

        market_pages = 1 + ARTICLES_PER_DAY * ((end - start).days + 1) // ROWS_PER_PAGE
        asked: list[str | None] = [None] if len(wanted) > market_pages else [*wanted]
        rows = [row for part in overlap(ask, asked, self._report) for row in part]
        return reference.news(rows, set(wanted), begin, until, self._delay)

    def identities(self, symbols: Sequence[str]) -> pl.DataFrame:
        """Return the spells of every company that uses, or used, one of these symbols.

        ``IDENTITY_SCHEMA``. A company comes with all its symbols; see
        :func:`market.polygon_identities.spells`.

        Raises
        ------
        SourceError
            A refusal, or an answer that cannot be used.
        """
        wanted = usable_symbols(symbols)
        listed = self._listings(wanted)
        figis = sorted({x.figi for x in listed if x.figi is not None})
        found = overlap(self._changes, figis, self._report)
        histories = dict(zip(figis, found, strict=True))
        # Whether a company is alive says the listing of its last ticker, which need not be wanted.
        listed += self._listings(sorted(identity.last_symbols(histories) - set(wanted)))
        return identity.spells(listed, histories, wanted)

    def _report(self, done: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(done, total)

    def _listings(self, symbols: Sequence[str]) -> list[identity.Listing]:
        def ask(query: tuple[bool, str | None]) -> list[Any]:
            active, symbol = query
            bounds = {"ticker": symbol, "market": None if symbol else "stocks"}
            return self._all(
                lambda: self._client.list_tickers(
                    **bounds, active=active, limit=ROWS_PER_PAGE, raw=True
                )
            )

        asked: Iterable[str | None] = [None] if 2 * len(symbols) > PAGES_OF_TICKERS else symbols
        queries = [(active, symbol) for symbol in asked for active in (True, False)]
        rows = [row for part in overlap(ask, queries, self._report) for row in part]
        named = set(symbols)
        return [x for x in identity.listings(rows) if x.symbol in named]

    def _changes(self, figi: str) -> list[identity.Change]:
        try:
            (page,) = self._wire.pages(
                lambda: self._client.get_ticker_events(figi, types="ticker_change", raw=True)
            )
        except NotFoundError:
            return []
        return identity.changes(page.get("results"), figi)

    def _all(self, first: Callable[[], Any]) -> list[Any]:
        pages = self._wire.pages(first)
        return [row for page in pages for row in parse.rows_of(page)]


def usable_symbols(symbols: Sequence[str]) -> list[str]:
    """Return symbols sorted, each once, or ``EVERY`` alone; raise on what can be none."""
    for symbol in symbols:
        if symbol != EVERY and not _SYMBOL.fullmatch(symbol):
            raise SourceError(
                "not a symbol",
                got=symbol,
                allowed="letters, digits, '.', '-' and ':'",
                remedy="write symbols as the vendor does, such as BRK.B",
            )
    return [EVERY] if EVERY in symbols else sorted(set(symbols))


def _check_order(start: dt.date, end: dt.date) -> None:
    if end < start:
        raise SourceError("reversed dates", got=f"{start} to {end}", remedy="swap start and end")
