"""Bars and corporate actions from Polygon (now Massive), through its official client.

The only file that knows the ``massive`` package. Pages are asked for in the client's raw mode
and turned into columns; retries, paging and errors are in :mod:`market.polygon_wire`.
"""

from __future__ import annotations

import copy
import datetime as dt
import functools
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import massive
import polars as pl
import urllib3
from pydantic import SecretStr

from market import calendar
from market import polygon_actions as actions
from market import polygon_parse as parse
from market.errors import SourceError
from market.polygon_meter import RequestMetrics
from market.polygon_overlap import overlap
from market.polygon_reference import PolygonReference, usable_symbols
from market.polygon_wire import Limiter, NotFoundError, NotInPlanError, Pool, Wire, check_base_url
from market.request_estimate import (
    BARS_PER_PAGE,
    PAGES_OF_TICKERS,
    ROWS_PER_PAGE,
    market_pages,
)
from market.request_limiter import Plan
from market.response_cache import Draft, ResponseCache
from market.schema import BAR_SCHEMA, SPLIT_SCHEMA, Bar, empty
from market.source import ADJUSTED, EVERY
from market.timeframes import Timeframe

_PROBED = "AAPL"
_TEXT = frozenset({str})


class PolygonSource(PolygonReference):
    """A :class:`~market.source.BarSource` on the Polygon (Massive) REST service.

    And a :class:`~market.reference_source.ReferenceSource` on the same, by the inherited methods.

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
    limiter : RequestLimiter, optional
        Shared by the processes of this machine; without it nothing is held back.
    cache : ResponseCache, optional
        Where answers are kept for as long as they are true; without it every answer is new.
    clock : callable, optional
        The time of day, which says what has settled; tests replace it.
    adjusted : bool, default False
        Ask for bars that the vendor adjusted for splits: another dataset than the raw bars.

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
        limiter: Limiter | None = None,
        cache: ResponseCache | None = None,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        adjusted: bool = False,
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
        self._adjusted = adjusted
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
            limiter=limiter,
            cache=cache,
            clock=clock,
        )
        self._client.client = cast(urllib3.PoolManager, self._wire)

    def __repr__(self) -> str:
        return f"PolygonSource(base_url={self._base_url!r})"

    @property
    def name(self) -> str:
        """Short name, written beside the data."""
        return f"polygon{ADJUSTED}" if self._adjusted else "polygon"

    @property
    def adjusted(self) -> bool:
        """Whether prices and volumes are adjusted for splits."""
        return self._adjusted

    @property
    def known_delay(self) -> dt.timedelta:
        """What is added to ``bar_end`` to make ``known_at``."""
        return self._delay

    def origin(self, timeframe: Timeframe, session: dt.date) -> str:
        """Return the name of this source."""
        return self.name

    @property
    def metrics(self) -> RequestMetrics:
        """Requests, bytes, cache hits, retries and waits so far."""
        return self._wire.meter.metrics

    def afresh(self) -> PolygonSource:
        """Return this source asking the vendor even for what is kept: to look for revisions.

        Limit, metrics and cache are shared; the new answers replace the kept ones.
        """
        other = copy.copy(self)
        other._wire = self._wire.afresh()
        other._client = copy.copy(self._client)
        other._client.client = cast(urllib3.PoolManager, other._wire)
        return other

    def probe_plan(self) -> Plan:
        """Find out the plan of the key from what it may call, in at most three requests.

        Returns
        -------
        Plan
            The richest plan of which a call is answered.

        Raises
        ------
        SourceError
            When the vendor refuses the key, is out of reach, or answers with something unusable.

        Notes
        -----
        Assumed of the vendor's price list for stocks: quotes come with ``advanced``, trades with
        ``developer``, snapshots with ``starter``; ``free`` has none of them. What a plan does
        not cover is answered with 403. How many requests a minute are let through cannot be
        asked, so it is taken from the plan. A plan bought for one exchange or asset class only
        may look poorer than it is: then set it by hand.
        """
        calls: dict[Plan, Callable[[], Any]] = {
            Plan.ADVANCED: lambda: self._client.list_quotes(_PROBED, limit=1, raw=True),
            Plan.DEVELOPER: lambda: self._client.list_trades(_PROBED, limit=1, raw=True),
            Plan.STARTER: lambda: self._client.get_snapshot_ticker("stocks", _PROBED, raw=True),
        }
        for plan, call in calls.items():
            try:
                next(self._wire.pages(call))
            except NotInPlanError:
                continue
            except NotFoundError:
                return plan
            return plan
        return Plan.FREE

    def bars(
        self, symbols: Sequence[str], timeframe: Timeframe, start: dt.date, end: dt.date
    ) -> pl.DataFrame:
        """Return raw ``1m`` or ``1d`` bars of the sessions from ``start`` to ``end``.

        Parameters
        ----------
        symbols : sequence of str
            What to ask for; doubles are asked for once. ``EVERY`` is the whole market, by day.
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
        wanted = usable_symbols(symbols)
        sessions = calendar.sessions_between(start, end)
        if not wanted or not sessions:
            return empty(BAR_SCHEMA)
        if EVERY in wanted and timeframe is Timeframe.M1:
            raise SourceError(
                "minutes of the whole market do not come over REST",
                got=f"{EVERY}, {start} to {end}",
                allowed="the whole market by day, or symbols by name",
                remedy="name symbols, or set POLYGON_S3_ACCESS_KEY and POLYGON_S3_SECRET_KEY and"
                " wait for the flat file of the session",
            )
        with self._wire.keeping() as keep:
            if timeframe is Timeframe.D1 and (EVERY in wanted or len(sessions) < len(wanted)):
                parts = self._by_session(wanted, sessions, keep)
            else:
                parts = self._by_symbol(wanted, timeframe, start, end, keep)
            bars = parse.check_range(pl.concat(parts, rechunk=True), start, end)
            seen = {EVERY, *bars[Bar.SYMBOL].unique()}
            self._check_known([s for s in wanted if s not in seen], keep)
        return bars

    def check_known(self, symbols: Sequence[str]) -> None:
        """Raise :class:`SourceError` on a symbol that the vendor has never listed."""
        with self._wire.keeping() as keep:
            self._check_known(usable_symbols(symbols), keep)

    def splits(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return splits with an ex-date in the range (``SPLIT_SCHEMA``).

        ``known_at`` is the midnight (New York) that begins the ex-date: the vendor does not say
        when a split was announced, and who trades before the open has to know it. A symbol
        without splits, known or not, has no rows. Where the bars are adjusted there is none left
        to apply.
        """
        if self._adjusted:
            return empty(SPLIT_SCHEMA)
        with self._wire.keeping() as keep:
            ask = self._client.list_splits
            key = "execution_date"
            return actions.splits(self._actions(ask, key, symbols, start, end, keep))

    def dividends(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return cash dividends with an ex-date in the range (``DIVIDEND_SCHEMA``).

        ``known_at`` is the midnight (New York) that ends the declaration date, since the hour of
        an announcement is not given, and at the latest the open of the ex-date. Dividends in
        another currency than USD are left out.
        """
        with self._wire.keeping() as keep:
            ask = self._client.list_dividends
            key = "ex_dividend_date"
            return actions.dividends(self._actions(ask, key, symbols, start, end, keep))

    def tickers(self) -> pl.DataFrame:
        """Return the stocks that the vendor knows, delisted ones too (``TICKER_SCHEMA``).

        A ticker that was used again appears once, as the company that uses it now.
        """
        with self._wire.keeping() as keep:
            rows: list[Any] = []
            for active in (True, False):
                rows += self._rows(
                    lambda a=active: self._client.list_tickers(
                        market="stocks", active=a, limit=ROWS_PER_PAGE, raw=True
                    ),
                    keep,
                )
            return actions.tickers(rows)

    def _by_symbol(
        self,
        symbols: list[str],
        timeframe: Timeframe,
        start: dt.date,
        end: dt.date,
        keep: list[Draft],
    ) -> list[pl.DataFrame]:
        daily = timeframe is Timeframe.D1
        build = parse.daily_bars if daily else parse.minute_bars
        timespan = "day" if daily else "minute"

        def ask(symbol: str) -> pl.DataFrame:
            read = functools.partial(parse.bars, symbol=symbol, adjusted=self._adjusted)
            pages = self._wire.pages(
                lambda: self._client.list_aggs(
                    symbol,
                    1,
                    timespan,
                    start,
                    end,
                    adjusted=self._adjusted,
                    sort="asc",
                    limit=BARS_PER_PAGE,
                    raw=True,
                ),
                read=parse.read_page,
                keep=keep,
                doubt=lambda page: parse.impossible_bars(read(page)),
            )
            parts = [read(self._as_delayed_as_set(page)) for page in pages]
            return build(pl.concat(parts), self._delay)

        return overlap(ask, symbols, self._report)

    def _by_session(
        self, symbols: list[str], sessions: list[dt.date], keep: list[Draft]
    ) -> list[pl.DataFrame]:
        wanted, every = set(symbols), EVERY in symbols

        def read(page: dict[str, Any]) -> pl.DataFrame:
            rows = parse.rows_of(self._as_delayed_as_set(page), adjusted=self._adjusted)
            names = parse.column(rows, "T", _TEXT)
            rows = [r for r, n in zip(rows, names, strict=True) if every or n in wanted]
            return parse.columns(rows, [n for n in names if every or n in wanted])

        def ask(session: dt.date) -> pl.DataFrame:
            pages = self._wire.pages(
                lambda: self._client.get_grouped_daily_aggs(
                    session, adjusted=self._adjusted, raw=True
                ),
                keep=keep,
                doubt=lambda page: parse.impossible_bars(read(page)),
            )
            day = parse.daily_bars(pl.concat([read(page) for page in pages]), self._delay)
            return parse.check_range(day, session, session)

        return overlap(ask, sessions, self._report)

    def _as_delayed_as_set(self, page: dict[str, Any]) -> dict[str, Any]:
        """Return a page of bars; raise where the vendor delays them and the settings know of none.

        Otherwise every bar would count as known earlier than this plan can know it.
        """
        if page.get("status") == "DELAYED" and not self._delay:
            raise SourceError(
                "the vendor's answers are delayed, and no delay is set",
                got="status DELAYED, polygon.delay_minutes = 0",
                allowed="the delay of the data plan: 15 where quotes are not real-time",
                remedy="set polygon.delay_minutes = 15, or use a real-time plan",
            )
        return page

    def _actions(
        self,
        ask: Callable[..., Any],
        date_key: str,
        symbols: Sequence[str],
        start: dt.date,
        end: dt.date,
        keep: list[Draft],
    ) -> list[Any]:
        wanted = usable_symbols(symbols)
        if end < start:
            raise SourceError(
                "reversed dates", got=f"{start} to {end}", remedy="swap start and end"
            )
        query = {f"{date_key}_gte": start, f"{date_key}_lte": end, "limit": ROWS_PER_PAGE}
        query |= {"sort": date_key, "order": "asc", "raw": True}
        every = EVERY in wanted
        if every or len(wanted) > market_pages(date_key, start, end):
            bounds = {} if every else {"ticker_gte": min(wanted), "ticker_lte": max(wanted)}
            rows = self._rows(lambda: ask(**query, **bounds), keep)
        else:
            rows = [r for s in wanted for r in self._rows(lambda s=s: ask(ticker=s, **query), keep)]
        named = set(wanted)
        names = parse.column(rows, "ticker", _TEXT)
        rows = [r for r, n in zip(rows, names, strict=True) if every or n in named]
        outside = [d for d in actions.dates(rows, date_key) if not start <= d <= end]
        if outside:
            raise actions.impossible(f"an ex-date outside {start} to {end}", outside[0].isoformat())
        return rows

    def _rows(self, first: Callable[[], Any], keep: list[Draft]) -> list[Any]:
        pages = self._wire.pages(first, keep=keep)
        return [row for page in pages for row in parse.rows_of(page)]

    def _check_known(self, symbols: Sequence[str], keep: list[Draft]) -> None:
        unseen = list(symbols)
        if 2 * len(unseen) > PAGES_OF_TICKERS:
            # Most symbols without bars just did not trade, as all of a universe before the open:
            # the list of all that are in use takes fewer requests than one for each of them.
            in_use = self._listed(keep, market="stocks", active=True, limit=ROWS_PER_PAGE)
            unseen = [s for s in unseen if s not in in_use]
        for symbol in unseen:
            known = (
                symbol in self._listed(keep, ticker=symbol, active=active, limit=1)
                for active in (True, False)
            )
            if not any(known):
                raise SourceError(
                    "the vendor does not know this symbol",
                    got=symbol,
                    remedy="correct the symbol, or leave it out",
                )

    def _listed(self, keep: list[Draft], **query: Any) -> set[str]:
        rows = self._rows(lambda: self._client.list_tickers(**query, raw=True), keep)
        return set(parse.column(rows, "ticker", _TEXT))


def _usable_key(api_key: SecretStr) -> str:
    key = api_key.get_secret_value()
    if not re.fullmatch(r"[!-~]+", key):
        raise SourceError(
            "the vendor's key is empty or has characters that no key has",
            allowed="printable ASCII without spaces",
            remedy="set POLYGON_API_KEY or MASSIVE_API_KEY to the key, without line breaks",
        )
    return key
