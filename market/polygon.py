"""Bars and corporate actions from Polygon (now Massive), through its official client.

The only file that knows the ``massive`` package. Pages are asked for in the client's raw mode
and turned into columns; retries, paging and errors are in :mod:`market.polygon_wire`.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, cast

import massive
import polars as pl
import urllib3
from pydantic import SecretStr

from market import calendar
from market import polygon_parse as parse
from market.errors import SourceError
from market.polygon_wire import Pool, Wire, check_base_url
from market.schema import (
    BAR_SCHEMA,
    DIVIDEND_SCHEMA,
    SPLIT_SCHEMA,
    TICKER_SCHEMA,
    Bar,
    Dividend,
    Split,
    Ticker,
    empty,
)
from market.timeframes import Timeframe

_BARS_PER_PAGE = 50_000
_ROWS_PER_PAGE = 1_000
# Rows per calendar day over the whole market, to choose between asking by symbol or by date.
_SPLITS_PER_DAY = 15
_DIVIDENDS_PER_DAY = 250
_SYMBOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:\-]{0,31}")
_TEXT = frozenset({str})
_NUMBER = frozenset({int, float})


class PolygonSource:
    """A :class:`~market.source.BarSource` on the Polygon (Massive) REST service.

    Parameters
    ----------
    api_key : SecretStr
        The key. It travels in a header only, never in an address, a message or a repr.
    base_url : str
        ``https://api.massive.com``, or a replay server on loopback.
    known_delay : timedelta, default 0
        Delay of the data plan: ``known_at`` is ``bar_end`` plus this.
    timeout_seconds : float, default 10.0
        Time limit for connecting and for each read.
    on_progress : callable, optional
        Called with (done, total) requests of a download; paging counts as one.
    sleep : callable, default time.sleep
        Waits before a retry; tests replace it.

    Raises
    ------
    SourceError
        When the key or the address cannot be used.

    Notes
    -----
    Sessions that are not over have a preliminary daily bar at the vendor; its ``known_at`` (the
    close) says that it was not yet known. Source: the service's REST documentation, "Custom
    Bars", "Daily Market Summary", "Splits", "Dividends", "All Tickers".

    Examples
    --------
    >>> source = PolygonSource(SecretStr("key"), "https://api.massive.com")
    >>> source
    PolygonSource(base_url='https://api.massive.com')
    """

    def __init__(
        self,
        api_key: SecretStr,
        base_url: str,
        *,
        known_delay: dt.timedelta = dt.timedelta(0),
        timeout_seconds: float = 10.0,
        on_progress: Callable[[int, int], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if known_delay < dt.timedelta(0) or not timeout_seconds > 0:
            raise SourceError(
                "the delay or the time limit of the source is impossible",
                got=f"known_delay={known_delay}, timeout_seconds={timeout_seconds}",
                allowed="a delay of zero or more, a time limit above zero",
                remedy="correct the setting",
            )
        key = _usable_key(api_key)
        self._base_url = check_base_url(base_url)
        self._delay = known_delay
        self._on_progress = on_progress
        self._client = massive.RESTClient(
            api_key=key,
            base=self._base_url,
            connect_timeout=timeout_seconds,
            read_timeout=timeout_seconds,
            retries=0,
            pagination=False,
        )
        self._wire = Wire(
            cast(Pool, self._client.client),
            self._base_url,
            redact=lambda text: text.replace(key, "***"),
            sleep=sleep,
        )
        self._client.client = cast(urllib3.PoolManager, self._wire)

    def __repr__(self) -> str:
        return f"PolygonSource(base_url={self._base_url!r})"

    @property
    def name(self) -> str:
        """Short name, written beside the data."""
        return "polygon"

    def bars(
        self, symbols: Sequence[str], timeframe: Timeframe, start: dt.date, end: dt.date
    ) -> pl.DataFrame:
        """Return raw ``1m`` or ``1d`` bars of the sessions from ``start`` to ``end``.

        Parameters
        ----------
        symbols : sequence of str
            What to ask for; doubles are asked for once.
        timeframe : Timeframe
            ``1m`` (extended hours included) or ``1d``.
        start, end : date
            First and last session, both included.

        Returns
        -------
        pl.DataFrame
            ``BAR_SCHEMA``, sorted by symbol and time. ``vwap`` is null where the vendor has none.

        Raises
        ------
        SourceError
            An unknown symbol, a refusal, or an answer that cannot be used; never half a frame.
        """
        if timeframe not in (Timeframe.M1, Timeframe.D1):
            raise SourceError(
                "this source has no bars of this length",
                got=timeframe.value,
                allowed="1m, 1d",
                remedy="ask for 1m bars and resample them",
            )
        wanted = _usable_symbols(symbols)
        sessions = calendar.sessions_between(start, end)
        if not wanted or not sessions:
            return empty(BAR_SCHEMA)
        if timeframe is Timeframe.D1 and len(sessions) < len(wanted):
            parts = self._by_session(wanted, sessions)
        else:
            parts = self._by_symbol(wanted, timeframe, start, end)
        bars = parse.check_range(pl.concat(parts), start, end)
        seen = set(bars[Bar.SYMBOL].unique())
        for symbol in wanted:
            if symbol not in seen:
                self._check_known(symbol)
        return bars

    def splits(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return splits with an ex-date in the range (``SPLIT_SCHEMA``).

        ``known_at`` is the open of the ex-date: the vendor does not say when a split was
        announced. A symbol without splits, known or not, has no rows.
        """
        found = self._actions(
            self._client.list_splits, "execution_date", symbols, start, end, _SPLITS_PER_DAY
        )
        ex_dates = _dates(found, "execution_date")
        to = parse.column(found, "split_to", _NUMBER)
        of = parse.column(found, "split_from", _NUMBER)
        frame = pl.DataFrame(
            {
                Split.SYMBOL: parse.column(found, "ticker", _TEXT),
                Split.EX_DATE: ex_dates,
                Split.KNOWN_AT: [_open_on_or_after(d) for d in ex_dates],
                Split.SPLIT_RATIO: [_ratio(a, b) for a, b in zip(to, of, strict=True)],
            },
            schema=SPLIT_SCHEMA,
        )
        return frame.unique().sort(Split.SYMBOL, Split.EX_DATE, Split.SPLIT_RATIO)

    def dividends(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return cash dividends with an ex-date in the range (``DIVIDEND_SCHEMA``).

        ``known_at`` is the midnight (New York) that ends the declaration date, since the hour of
        an announcement is not given, and at the latest the open of the ex-date. Dividends in
        another currency than USD are left out.
        """
        found = self._actions(
            self._client.list_dividends, "ex_dividend_date", symbols, start, end, _DIVIDENDS_PER_DAY
        )
        currency = parse.column(found, "currency", _TEXT, optional=True)
        found = [r for r, c in zip(found, currency, strict=True) if c in (None, "USD")]
        ex_dates = _dates(found, "ex_dividend_date")
        declared = parse.column(found, "declaration_date", _TEXT, optional=True)
        amounts = [float(a) for a in parse.column(found, "cash_amount", _NUMBER)]
        if any(not 0 <= a < float("inf") for a in amounts):
            raise _impossible("a dividend", min(amounts))
        frame = pl.DataFrame(
            {
                Dividend.SYMBOL: parse.column(found, "ticker", _TEXT),
                Dividend.EX_DATE: ex_dates,
                Dividend.KNOWN_AT: [
                    _announced(d, x) for d, x in zip(declared, ex_dates, strict=True)
                ],
                Dividend.AMOUNT_USD: amounts,
            },
            schema=DIVIDEND_SCHEMA,
        )
        return frame.sort(Dividend.SYMBOL, Dividend.EX_DATE, Dividend.AMOUNT_USD)

    def tickers(self) -> pl.DataFrame:
        """Return the stocks that the vendor knows, delisted ones too (``TICKER_SCHEMA``).

        A ticker that was used again appears once, as the company that uses it now.
        """
        rows: list[Any] = []
        for active in (True, False):
            rows += self._rows(
                lambda a=active: self._client.list_tickers(
                    market="stocks", active=a, limit=_ROWS_PER_PAGE, raw=True
                )
            )
        frame = pl.DataFrame(
            {
                Ticker.SYMBOL: parse.column(rows, "ticker", _TEXT),
                Ticker.NAME: parse.column(rows, "name", _TEXT, optional=True),
                Ticker.ACTIVE: parse.column(rows, "active", frozenset({bool})),
                Ticker.FIGI: parse.column(rows, "composite_figi", _TEXT, optional=True),
            },
            schema=TICKER_SCHEMA,
        )
        return frame.unique(Ticker.SYMBOL, keep="first", maintain_order=True).sort(Ticker.SYMBOL)

    def _by_symbol(
        self, symbols: list[str], timeframe: Timeframe, start: dt.date, end: dt.date
    ) -> list[pl.DataFrame]:
        daily = timeframe is Timeframe.D1
        build = parse.daily_bars if daily else parse.minute_bars
        parts: list[pl.DataFrame] = []
        for done, symbol in enumerate(symbols):
            self._report(done, len(symbols))
            pages = self._wire.pages(
                lambda s=symbol: self._client.list_aggs(
                    s,
                    1,
                    "day" if daily else "minute",
                    start,
                    end,
                    adjusted=False,
                    sort="asc",
                    limit=_BARS_PER_PAGE,
                    raw=True,
                )
            )
            parts += [parse.columns(parse.results(p, symbol, raw=True), symbol) for p in pages]
        self._report(len(symbols), len(symbols))
        return [build(pl.concat(parts), self._delay)]

    def _by_session(self, symbols: list[str], sessions: list[dt.date]) -> list[pl.DataFrame]:
        wanted = set(symbols)
        parts: list[pl.DataFrame] = []
        for done, session in enumerate(sessions):
            self._report(done, len(sessions))
            pages = self._wire.pages(
                lambda s=session: self._client.get_grouped_daily_aggs(s, adjusted=False, raw=True)
            )
            for page in pages:
                rows = parse.results(page, None, raw=True)
                names = parse.column(rows, "T", _TEXT)
                rows = [r for r, n in zip(rows, names, strict=True) if n in wanted]
                found = parse.columns(rows, [n for n in names if n in wanted])
                day = parse.daily_bars(found, self._delay)
                parts.append(parse.check_range(day, session, session))
        self._report(len(sessions), len(sessions))
        return parts

    def _actions(
        self,
        ask: Callable[..., Any],
        date_key: str,
        symbols: Sequence[str],
        start: dt.date,
        end: dt.date,
        rows_per_day: int,
    ) -> list[Any]:
        wanted = _usable_symbols(symbols)
        if end < start:
            raise SourceError(
                "reversed dates", got=f"{start} to {end}", remedy="swap start and end"
            )
        query = {f"{date_key}_gte": start, f"{date_key}_lte": end, "limit": _ROWS_PER_PAGE}
        query |= {"sort": date_key, "order": "asc", "raw": True}
        market_pages = 1 + rows_per_day * ((end - start).days + 1) // _ROWS_PER_PAGE
        if len(wanted) > market_pages:
            bounds = {"ticker_gte": min(wanted), "ticker_lte": max(wanted)}
            rows = self._rows(lambda: ask(**query, **bounds))
        else:
            rows = [r for s in wanted for r in self._rows(lambda s=s: ask(ticker=s, **query))]
        keep = set(wanted)
        names = parse.column(rows, "ticker", _TEXT)
        rows = [r for r, n in zip(rows, names, strict=True) if n in keep]
        outside = [d for d in _dates(rows, date_key) if not start <= d <= end]
        if outside:
            raise _impossible(f"an ex-date outside {start} to {end}", outside[0].isoformat())
        return rows

    def _rows(self, first: Callable[[], Any]) -> list[Any]:
        return [row for page in self._wire.pages(first) for row in parse.results(page, None)]

    def _check_known(self, symbol: str) -> None:
        for active in (True, False):
            rows = self._rows(
                lambda a=active: self._client.list_tickers(
                    ticker=symbol, active=a, limit=1, raw=True
                )
            )
            if symbol in parse.column(rows, "ticker", _TEXT):
                return
        raise SourceError(
            "the vendor does not know this symbol",
            got=symbol,
            remedy="correct the symbol, or leave it out",
        )

    def _report(self, done: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(done, total)


def _usable_key(api_key: SecretStr) -> str:
    key = api_key.get_secret_value()
    if not re.fullmatch(r"[!-~]+", key):
        raise SourceError(
            "the vendor's key is empty or has characters that no key has",
            allowed="printable ASCII without spaces",
            remedy="set POLYGON_API_KEY or MASSIVE_API_KEY to the key, without line breaks",
        )
    return key


def _usable_symbols(symbols: Sequence[str]) -> list[str]:
    for symbol in symbols:
        if not _SYMBOL.fullmatch(symbol):
            raise SourceError(
                "not a symbol",
                got=symbol,
                allowed="letters, digits, '.', '-' and ':'",
                remedy="write symbols as the vendor does, such as BRK.B",
            )
    return sorted(set(symbols))


def _dates(rows: list[Any], key: str) -> list[dt.date]:
    return [parse.parse_date(v, key) for v in parse.column(rows, key, _TEXT)]


def _ratio(to: float, of: float) -> float:
    if not (0 < to < float("inf") and 0 < of < float("inf")):
        raise _impossible("a split", f"{of} for {to}")
    return float(Fraction(to) / Fraction(of))


def _announced(declared: str | None, ex_date: dt.date) -> dt.datetime:
    at_open = _open_on_or_after(ex_date)
    if declared is None:
        return at_open
    day = parse.parse_date(declared, "declaration_date") + dt.timedelta(days=1)
    midnight = dt.datetime.combine(day, dt.time(), calendar.NEW_YORK).astimezone(dt.UTC)
    return min(midnight, at_open)


def _open_on_or_after(date: dt.date) -> dt.datetime:
    session = date if calendar.is_session(date) else calendar.next_session(date)
    return calendar.session_open(session)


def _impossible(what: str, got: object) -> SourceError:
    return SourceError(
        f"the vendor sent unusable data: {what} is impossible",
        got=got,
        remedy="run again; if it stays, report it to the vendor and leave this symbol out",
    )
