"""A REST server that speaks Polygon's (Massive's) protocol over stored bars.

The vendor's own client works against it unchanged, so ingestion can be tried, tested and
demonstrated without a key. What an answer holds is in :mod:`market.replay_bars` and
:mod:`market.replay_reference`; this file is the door: routes, key, rate limit, cursors.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import secrets
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import orjson
from fastapi import Depends, FastAPI, Request, Response
from pydantic import SecretStr
from starlette.exceptions import HTTPException

from market import calendar
from market import replay_macro as macro
from market import replay_plans as plans
from market import replay_reference as reference
from market.errors import MarketError
from market.replay_bars import TIMESPANS, BarShelf, Query
from market.replay_data import ServedMarket, load_bars_file
from market.replay_faults import FaultMiddleware, FaultPlan
from market.replay_reference import BadQueryError
from market.request_limiter import Plan

__all__ = ["ServedMarket", "create_app", "load_bars_file"]

_MAX_BASE_BARS = 50_000
_DEFAULT_BASE_BARS = 5_000
_LAST_MS = 4_102_444_800_000
_WINDOW_SECONDS = 60.0
_TOO_MANY = (
    "You've exceeded the maximum requests per minute, please wait or upgrade your subscription "
    "to continue. https://massive.com/pricing"
)


def create_app(
    market: ServedMarket,
    *,
    api_key: SecretStr | str,
    requests_per_minute: int | None = None,
    now: Callable[[], dt.datetime] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    faults: FaultPlan | None = None,
    plan: Plan | None = None,
    adjusted: bool = False,
) -> FastAPI:
    """Return the application that serves ``market`` in the vendor's protocol.

    Parameters
    ----------
    market : ServedMarket
        What to serve.
    api_key : SecretStr or str
        The key that callers must send, as a bearer token or as ``apiKey``. It is never logged.
    requests_per_minute : int, optional
        Answer 429 above this many requests in any minute; by default those of the plan.
    now : callable, optional
        The replay's clock (aware datetimes): bars that end later are not served, nor corporate
        actions known later. Without it everything is served.
    monotonic : callable, default time.monotonic
        Clock of the rate limit, in seconds.
    faults : FaultPlan, optional
        Misbehave in this way, to try what stands on the other end.
    plan : Plan, optional
        Answer as to a key of this plan: what it does not cover with 403, delayed data as such.
        Without it everything is allowed.
    adjusted : bool, default False
        Whatever is asked for, serve bars adjusted for splits, and say so: a source that has
        nothing else.

    Returns
    -------
    FastAPI
        Run it with :func:`market.serving.serve` or :class:`market.serving.BackgroundServer`.

    Notes
    -----
    ``adjusted=true`` adjusts for splits only, back from the newest served day, as the vendor
    does. A request for windows shorter than the stored bars has no results. Windows are aligned
    to the New York clock and are served whole.
    """
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    if not key or (requests_per_minute is not None and requests_per_minute < 1):
        raise MarketError(
            "the replay server's key is empty or its rate limit below one",
            allowed="any key; one request per minute or more",
            remedy="give a key, such as 'demo', and leave the rate limit out",
        )
    if requests_per_minute is None and plan is not None:
        requests_per_minute = plan.requests_per_minute
    guard = _Guard(key, requests_per_minute, monotonic)
    app = FastAPI(
        title="Isobar replay",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(guard.check)],
    )
    _add_routes(app, _Routes(market, now, plan, adjusted))
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(BadQueryError, _malformed)
    app.add_exception_handler(plans.NotCoveredError, _not_covered)
    if faults is not None:
        app.add_middleware(FaultMiddleware, plan=faults)
    return app


class _Guard:
    """The key and the rate limit."""

    def __init__(
        self, key: str, requests_per_minute: int | None, monotonic: Callable[[], float]
    ) -> None:
        self._key = key.encode()
        self._limit = requests_per_minute
        self._monotonic = monotonic
        self._times: deque[float] = deque()

    async def check(self, request: Request) -> None:
        """Refuse a request without the key, or one too many."""
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        given = bearer if scheme.lower() == "bearer" else request.query_params.get("apiKey", "")
        if not secrets.compare_digest(given.encode(), self._key):
            raise HTTPException(401, "Unknown API Key")
        if self._limit is None:
            return
        moment = self._monotonic()
        while self._times and self._times[0] <= moment - _WINDOW_SECONDS:
            self._times.popleft()
        if len(self._times) >= self._limit:
            raise HTTPException(429, _TOO_MANY)
        self._times.append(moment)


class _Routes:
    """One method per endpoint."""

    def __init__(
        self,
        market: ServedMarket,
        now: Callable[[], dt.datetime] | None,
        plan: Plan | None,
        adjusted: bool,
    ) -> None:
        self._now = now
        self._plan = plan
        self._adjusted = adjusted
        self._shelf = BarShelf(market)
        self._reference = macro.ReferenceShelf(market)
        self._splits = reference.split_rows(market.splits)
        self._dividends = reference.dividend_rows(market.dividends)

    async def aggregates(
        self, request: Request, ticker: str, multiplier: str, timespan: str, start: str, end: str
    ) -> Response:
        """Custom bars of one symbol."""
        query = _aggregates_query(
            _parameters(request), ticker, multiplier, timespan, _moment(start), _moment(end, True)
        )
        if ticker.startswith(macro.INDEX_PREFIX):
            return self._index(request, query)
        query = replace(query, adjusted=query.adjusted or self._adjusted)
        now = self._moment()
        plans.check_history(self._plan, query.end_ms, now)
        page = self._shelf.page(query, now)
        body: dict[str, Any] = {
            "ticker": ticker,
            "queryCount": page.base_count,
            "resultsCount": page.count,
            "adjusted": query.adjusted,
        }
        if page.count:
            body["results"] = orjson.Fragment(page.rows)
        following = None if page.following is None else _position(page.following)
        return self._bars(request, body, page.count, following)

    async def grouped(self, request: Request, date: str) -> Response:
        """Daily bars of all symbols on one date."""
        adjusted = _flag(_parameters(request), "adjusted", True) or self._adjusted
        now = self._moment()
        plans.check_history(self._plan, _moment(date), now)
        rows, count = self._shelf.session(_date(date), adjusted, now)
        body: dict[str, Any] = {"queryCount": count, "resultsCount": count, "adjusted": adjusted}
        if count:
            body["results"] = orjson.Fragment(rows)
        return self._bars(request, body, count)

    async def snapshot(self, request: Request, ticker: str) -> Response:
        """Return the newest bars of one symbol."""
        plans.check_covers(self._plan, Plan.STARTER)
        now = self._moment()
        newest = {
            name: self._shelf.page(Query(ticker, 1, span, 0, _LAST_MS, True, True, 1), now)
            for name, span in (("day", "day"), ("min", "minute"))
        }
        if not newest["day"].count:
            return _not_found("Ticker not found.")
        bars = {k: orjson.loads(p.rows)[0] for k, p in newest.items() if p.count}
        return self._bars(request, {"ticker": {"ticker": ticker, **bars}})

    async def trades(self, request: Request, ticker: str) -> Response:
        """Answer without a trade, where the plan has trades: a replay holds bars only."""
        plans.check_covers(self._plan, Plan.DEVELOPER)
        return self._bars(request, {"results": []})

    async def quotes(self, request: Request, ticker: str) -> Response:
        """Answer without a quote, where the plan has quotes: a replay holds bars only."""
        plans.check_covers(self._plan, Plan.ADVANCED)
        return self._bars(request, {"results": []})

    async def tickers(self, request: Request) -> Response:
        """List the reference table of symbols."""
        query = _parameters(request)
        active = _flag(query, "active", True)
        rows = [r for r in self._reference.tickers(self._moment()) if r["active"] is active]
        if query.get("market", "stocks") != "stocks" or query.get("type", "CS") != "CS":
            rows = []
        if search := query.get("search", "").lower():
            rows = [r for r in rows if search in r["ticker"].lower() or search in r["name"].lower()]
        return _table(request, rows, query, reference.TICKERS)

    async def ticker(self, request: Request, ticker: str) -> Response:
        """Return one symbol of the reference table."""
        rows = [r for r in self._reference.tickers(self._moment()) if r["ticker"] == ticker]
        if not rows:
            return _not_found("Ticker not found.")
        return _answer(request, {"results": max(rows, key=lambda r: r["active"])})

    async def ticker_events(self, request: Request, name: str) -> Response:
        """Ticker changes of a company, by composite FIGI or by the ticker that it bears."""
        found = self._reference.events(name, self._moment())
        return _not_found("No events.") if found is None else _answer(request, {"results": found})

    async def news(self, request: Request) -> Response:
        """Articles with the labels given to each ticker."""
        query = _parameters(request)
        rows = self._reference.news(query.get("ticker"), self._moment())
        return _table(request, rows, query, macro.NEWS)

    async def treasury_yields(self, request: Request) -> Response:
        """Par yields by date, in percent."""
        rows = self._reference.yields(self._moment())
        return _table(request, rows, _parameters(request), macro.YIELDS)

    async def splits(self, request: Request) -> Response:
        """Splits, in the v3 and in the v1 form."""
        return self._events(request, self._splits, reference.SPLITS)

    async def dividends(self, request: Request) -> Response:
        """Cash dividends, in the v3 and in the v1 form."""
        return self._events(request, self._dividends, reference.DIVIDENDS)

    async def status(self, request: Request) -> Response:
        """Whether the market is open, at the replay's clock or after its newest bar."""
        return _respond(200, reference.market_status(self._clock()))

    async def upcoming(self, request: Request) -> Response:
        """Coming holidays and half-days; a bare list, as the vendor's."""
        return _respond(200, reference.upcoming_closures(self._clock()))

    def _index(self, request: Request, query: Query) -> Response:
        page, rows = self._reference.index_page(query, self._moment())
        body: dict[str, Any] = {
            "ticker": query.symbol,
            "queryCount": page.base_count,
            "resultsCount": page.count,
            "results": rows,
        }
        following = None if page.following is None else _position(page.following)
        return _answer(request, body, page.count, following)

    def _events(
        self,
        request: Request,
        events: list[tuple[dt.datetime, dict[str, Any]]],
        table: reference.Table,
    ) -> Response:
        now = self._moment()
        rows = [row for known, row in events if now is None or known <= now]
        return _table(request, rows, _parameters(request), table)

    def _bars(
        self,
        request: Request,
        body: dict[str, Any],
        count: int | None = None,
        following: Mapping[str, str] | None = None,
    ) -> Response:
        """Answer with market data, which a plan may have late."""
        return _answer(request, body, count, following, plans.status_of(self._plan))

    def _moment(self) -> dt.datetime | None:
        return None if self._now is None else self._now()

    def _clock(self) -> dt.datetime:
        moment = self._moment() or self._shelf.newest
        return moment or calendar.session_close(calendar.FIRST_DATE)


def _add_routes(app: FastAPI, routes: _Routes) -> None:
    for path, handler in {
        "/v2/aggs/ticker/{ticker}/range/{multiplier}/{timespan}/{start}/{end}": routes.aggregates,
        "/v2/aggs/grouped/locale/us/market/stocks/{date}": routes.grouped,
        "/v2/snapshot/locale/us/markets/stocks/tickers/{ticker}": routes.snapshot,
        "/v3/trades/{ticker}": routes.trades,
        "/v3/quotes/{ticker}": routes.quotes,
        "/v3/reference/tickers": routes.tickers,
        "/v3/reference/tickers/{ticker}": routes.ticker,
        "/vX/reference/tickers/{name}/events": routes.ticker_events,
        "/v2/reference/news": routes.news,
        "/fed/v1/treasury-yields": routes.treasury_yields,
        "/v3/reference/splits": routes.splits,
        "/stocks/v1/splits": routes.splits,
        "/v3/reference/dividends": routes.dividends,
        "/stocks/v1/dividends": routes.dividends,
        "/v1/marketstatus/now": routes.status,
        "/v1/marketstatus/upcoming": routes.upcoming,
    }.items():
        app.add_api_route(path, handler, methods=["GET"], response_model=None)


async def _refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = str(error.detail) if isinstance(error, HTTPException) else "Internal error"
    kind = "NOT_FOUND" if status == 404 else "ERROR"
    return _respond(status, {"status": kind, "request_id": _request_id(), "error": text})


async def _not_covered(request: Request, error: Exception) -> Response:
    body = {"status": "NOT_AUTHORIZED", "request_id": _request_id(), "message": str(error)}
    return _respond(403, body)


async def _malformed(request: Request, error: Exception) -> Response:
    return _respond(400, {"status": "ERROR", "request_id": _request_id(), "error": str(error)})


def _request_id() -> str:
    return uuid.uuid4().hex


def _respond(status: int, body: Any) -> Response:
    given = body.get("request_id") if isinstance(body, dict) else None
    headers = {"X-Request-Id": given or _request_id()}
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


def _not_found(message: str) -> Response:
    body = {"status": "NOT_FOUND", "message": message, "request_id": _request_id()}
    return _respond(404, body)


def _answer(
    request: Request,
    body: dict[str, Any],
    count: int | None = None,
    following: Mapping[str, str] | None = None,
    status: str = "OK",
) -> Response:
    whole = {**body, "status": status, "request_id": _request_id()}
    if count is not None:
        whole["count"] = count
    if following is not None:
        cursor = base64.urlsafe_b64encode(urlencode(following).encode()).decode().rstrip("=")
        path = quote(request.url.path)
        whole["next_url"] = f"{str(request.base_url).rstrip('/')}{path}?cursor={cursor}"
    return _respond(200, whole)


def _table(
    request: Request, rows: list[dict[str, Any]], query: dict[str, str], table: reference.Table
) -> Response:
    page, order, position, total = reference.select_rows(rows, query, table)
    following = None
    if position < total:
        following = {**query, "sort": order, "offset": str(position)}
    return _answer(request, {"results": page}, len(page), following)


def _parameters(request: Request) -> dict[str, str]:
    """Return the query without the key; a cursor stands for the whole query it continues."""
    query = {k: v for k, v in request.query_params.items() if k != "apiKey"}
    cursor = query.get("cursor")
    if cursor is None:
        return {k: v for k, v in query.items() if k != "offset"}
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
        found = dict(parse_qsl(text, strict_parsing=True))
    except (binascii.Error, UnicodeDecodeError, ValueError):
        found = {}
    if not found:
        raise BadQueryError("cursor: not one that this server gave out")
    return found


def _aggregates_query(
    query: dict[str, str], ticker: str, multiplier: str, timespan: str, start: int, end: int
) -> Query:
    times = reference.whole_number({"multiplier": multiplier}, "multiplier", 1, 1, 10_000)
    if timespan not in TIMESPANS:
        raise BadQueryError(f"timespan: must be one of {', '.join(TIMESPANS)}")
    if start > end:
        raise BadQueryError("from: must not be after to")
    sort = query.get("sort", "asc")
    if sort not in ("asc", "desc"):
        raise BadQueryError("sort: must be asc or desc")
    limit = reference.whole_number(query, "limit", _DEFAULT_BASE_BARS, 1, _MAX_BASE_BARS)
    asked = Query(
        ticker, times, timespan, start, end, _flag(query, "adjusted", True), sort == "desc", limit
    )
    return replace(
        asked,
        start_ms=reference.whole_number(query, "start_ms", start, 0, _LAST_MS),
        end_ms=reference.whole_number(query, "end_ms", end, 0, _LAST_MS),
    )


def _position(query: Query) -> dict[str, str]:
    return {
        "start_ms": str(query.start_ms),
        "end_ms": str(query.end_ms),
        "sort": "desc" if query.descending else "asc",
        "adjusted": str(query.adjusted).lower(),
        "limit": str(query.limit),
    }


def _moment(text: str, end: bool = False) -> int:
    """Return milliseconds since 1970 of a date (its first or last one) or of such a number."""
    if text.isascii() and text.isdigit():
        return reference.whole_number({"time": text}, "time", 0, 0, _LAST_MS)
    day = _date(text) + dt.timedelta(days=int(end))
    return int(calendar.midnight(day).timestamp() * 1000) - int(end)


def _date(text: str) -> dt.date:
    try:
        day = dt.datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=dt.UTC).date()
    except ValueError:
        raise BadQueryError(f"{text[:20]!r} is not a date (YYYY-MM-DD)") from None
    if not 1970 <= day.year < 2100:
        raise BadQueryError(f"{text[:20]!r} lies outside 1970 to 2099")
    return day


def _flag(query: Mapping[str, str], name: str, default: bool) -> bool:
    text = query.get(name, str(default)).lower()
    if text not in ("true", "false"):
        raise BadQueryError(f"{name}: must be true or false")
    return text == "true"
