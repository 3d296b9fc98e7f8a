"""What a vendor can do wrong, on purpose and repeatably: the fault mode of the replay server.

A draw depends on the seed, the address and how often that address was asked for, never on the
order in which threads or processes ask: the same plan misbehaves the same way every time.
"""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import format_datetime
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, urlencode

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from market.errors import MarketError


class FaultKind(StrEnum):
    """One way of misbehaving."""

    THROTTLED = "throttled"
    THROTTLED_RETRY_AFTER = "throttled_retry_after"
    SERVER_ERROR = "server_error"
    RESET = "reset"
    TRUNCATED = "truncated"
    DUPLICATED_PAGE = "duplicated_page"
    REORDERED_PAGES = "reordered_pages"
    NEXT_URL_LOOP = "next_url_loop"
    NAN_PRICE = "nan_price"
    NEGATIVE_PRICE = "negative_price"
    ZERO_PRICE = "zero_price"
    TEXT_NUMBER = "text_number"
    HIGH_BELOW_LOW = "high_below_low"
    UNKNOWN_FIELDS = "unknown_fields"
    CLOCK_SKEW = "clock_skew"


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """How the replay server misbehaves.

    Parameters
    ----------
    kind : FaultKind
        In which way.
    seed : int, default 0
        Of every draw.
    rate : float, default 0.5
        Which part of the answers is affected, from 0 to 1.
    in_a_row : int, default 2
        At most so many times in a row for one address; then it is answered well once.
    page_bars : int, optional
        Cut pages of bars, or of news, to so many, so that there are several.
    """

    kind: FaultKind
    seed: int = 0
    rate: float = 0.5
    in_a_row: int = 2
    page_bars: int | None = None

    def __post_init__(self) -> None:
        sizes = self.in_a_row, 1 if self.page_bars is None else self.page_bars
        if not 0 <= self.rate <= 1 or min(sizes) < 1:
            raise MarketError(
                "this fault plan is impossible",
                got=f"rate={self.rate}, in_a_row={self.in_a_row}, page_bars={self.page_bars}",
                allowed="a rate from 0 to 1; one or more in a row; one or more bars a page",
                remedy="correct the plan",
            )


class FaultMiddleware:
    """Stand before the replay application and spoil some of its answers.

    Parameters
    ----------
    app : ASGIApp
        The application.
    plan : FaultPlan
        How to misbehave.
    """

    def __init__(self, app: ASGIApp, plan: FaultPlan) -> None:
        self._app = app
        self._plan = plan
        self._asked: Counter[str] = Counter()
        self._row: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, well or not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address = f"{scope['path']}?{scope['query_string'].decode('latin-1')}"
        chance = random.Random(f"{self._plan.seed}|{address}|{self._asked[address]}")
        self._asked[address] += 1
        faulty = chance.random() < self._plan.rate and self._row[address] < self._plan.in_a_row
        self._row[address] = self._row[address] + 1 if faulty else 0
        if faulty and (refusal := self._refusal(chance)) is not None:
            await refusal(scope, receive, send)
            return
        status, headers, body = await self._answer(self._asked_for(scope), receive)
        if not faulty or status != 200:
            await Response(body, status, dict(headers))(scope, receive, send)
        elif self._plan.kind is FaultKind.RESET:
            await self._cut(body, headers, send)
        else:
            spoiled = self._spoiled(body, scope, chance)
            kept = {k: v for k, v in headers.items() if k != "content-length"}
            await Response(spoiled, status, kept)(scope, receive, send)

    def _refusal(self, chance: random.Random) -> Response | None:
        kind = self._plan.kind
        if kind is FaultKind.THROTTLED:
            return _error(429)
        if kind is FaultKind.THROTTLED_RETRY_AFTER:
            return _error(429, {"Retry-After": str(chance.randint(0, 30))})
        if kind is FaultKind.SERVER_ERROR:
            return _error(chance.choice((500, 502, 503, 504)))
        if kind is FaultKind.CLOCK_SKEW:
            hours = chance.choice((-25, -1, 1, 25))
            skewed = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
            return _error(429, {"Retry-After": format_datetime(skewed, usegmt=True)})
        return None

    def _asked_for(self, scope: Scope) -> Scope:
        """Return the request with shorter pages, or from the end, where the plan wants it."""
        if not _is_paged(scope):
            return scope
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        if "cursor" in query:
            return scope
        if self._plan.page_bars is not None and "limit" in query:
            query["limit"] = str(self._plan.page_bars)
        order = random.Random(f"{self._plan.seed}|{scope['path']}").random()
        turned = self._plan.kind is FaultKind.REORDERED_PAGES and order < self._plan.rate
        if turned and _is_bars(scope):
            query["sort"] = "desc"
        return {**scope, "query_string": urlencode(query).encode()}

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, Headers, bytes]:
        """Return what the application answers."""
        messages: list[Message] = []

        async def take(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, take)
        start = next(m for m in messages if m["type"] == "http.response.start")
        body = b"".join(m.get("body", b"") for m in messages if m["type"] == "http.response.body")
        return start["status"], Headers(raw=start["headers"]), body

    async def _cut(self, body: bytes, headers: Headers, send: Send) -> None:
        """Promise the whole body, send half of it and hang up."""
        await send({"type": "http.response.start", "status": 200, "headers": headers.raw})
        half = body[: len(body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        raise ConnectionResetError("the replay server hung up, as planned")

    def _spoiled(self, body: bytes, scope: Scope, chance: random.Random) -> bytes:
        kind = self._plan.kind
        if kind is FaultKind.TRUNCATED:
            return body[: chance.randrange(len(body))]
        page: dict[str, Any] = orjson.loads(body)
        if not page.get("results"):
            return body
        if kind in _PAGING and _is_paged(scope):
            _PAGING[kind](page, _own_url(scope))
        elif not _is_bars(scope):
            return body
        elif kind is FaultKind.REORDERED_PAGES:
            chance.shuffle(page["results"])
        elif kind is FaultKind.UNKNOWN_FIELDS:
            rows: list[dict[str, Any]] = page["results"]
            page = {"extra": {"results": [{"o": 1}]}, **page}
            for row in rows:
                row["zz"] = {"a": [1, "},{"]}
        elif kind is FaultKind.HIGH_BELOW_LOW:
            row = chance.choice(page["results"])
            row["h"], row["l"] = row["l"], row["h"]
        elif kind in _VALUES:
            row = chance.choice(page["results"])
            key = chance.choice("ohlc")
            row[key] = _VALUES[kind](row[key])
        return orjson.dumps(page).replace(_NAN, b"NaN")


_NAN = b'"a price that is not a number"'
_VALUES: dict[FaultKind, Callable[[float], Any]] = {
    FaultKind.NAN_PRICE: lambda _: orjson.loads(_NAN),
    FaultKind.NEGATIVE_PRICE: lambda price: -price,
    FaultKind.ZERO_PRICE: lambda _: 0.0,
    FaultKind.TEXT_NUMBER: str,
}


def _repeat(page: dict[str, Any], url: str) -> None:
    """Let the page be followed by itself, once."""
    if "repeat=1" not in url:
        page["next_url"] = f"{url}&repeat=1"


def _loop(page: dict[str, Any], url: str) -> None:
    page["next_url"] = url


_PAGING: dict[FaultKind, Callable[[dict[str, Any], str], None]] = {
    FaultKind.DUPLICATED_PAGE: _repeat,
    FaultKind.NEXT_URL_LOOP: _loop,
}


def _is_bars(scope: Scope) -> bool:
    return str(scope["path"]).startswith("/v2/aggs/")


def _is_paged(scope: Scope) -> bool:
    return _is_bars(scope) or scope["path"] == "/v2/reference/news"


def _own_url(scope: Scope) -> str:
    """Return the address of a request, without a key."""
    query = parse_qsl(scope["query_string"].decode("latin-1"))
    kept = urlencode([(k, v) for k, v in query if k != "apiKey"])
    host = Headers(scope=scope).get("host", "")
    return f"{scope['scheme']}://{host}{scope['path']}?{kept}"


def _error(status: int, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps({"status": "ERROR", "error": "a fault, as planned"})
    return Response(body, status, headers, media_type="application/json")
