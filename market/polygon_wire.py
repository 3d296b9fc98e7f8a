"""The wire under :mod:`market.polygon`: one GET with a bounded retry, and paging that ends.

A request waits for the shared limit first; an answer that is kept costs none.

The vendor's client retries by itself inside urllib3 and hides status and headers; here that is
switched off and replaced by one visible policy. Nothing in this file logs, and no message
carries the key.
"""

from __future__ import annotations

import copy
import datetime as dt
import functools
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import orjson
import polars as pl
import tenacity
import urllib3

from market.errors import NotInPlanError, SourceError
from market.polygon_meter import Meter, kind_of
from market.response_cache import Draft, ResponseCache

MAX_ATTEMPTS = 5
MAX_BROKEN_BODIES = 3
MAX_WAIT_SECONDS = 90.0
MAX_PAGES = 10_000
VENDOR_HOSTS = frozenset({"api.massive.com", "api.polygon.io"})

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_TRANSIENT = frozenset({500, 502, 503, 504})
_THROTTLED = 429
_STATUSES = frozenset({"OK", "DELAYED"})
_WAIT_THROTTLED = tenacity.wait_exponential_jitter(multiplier=5.0, max=60.0, jitter=1.0)
_WAIT_TRANSIENT = tenacity.wait_exponential_jitter(multiplier=0.5, max=8.0, jitter=0.5)


class Pool(Protocol):
    """What is used of ``urllib3.PoolManager``."""

    def request(
        self, method: str, url: str, *, fields: Any, headers: Any, retries: Any, redirect: bool
    ) -> urllib3.BaseHTTPResponse:
        """Send one request."""
        ...


class Limiter(Protocol):
    """What is used of :class:`market.request_limiter.RequestLimiter`."""

    def acquire(self) -> float:
        """Wait until one more request may be sent; return the seconds waited."""
        ...

    def hold(self, seconds: float) -> None:
        """Let nobody's request through for so long."""
        ...


class NotFoundError(SourceError):
    """The vendor lets this be asked, and has nothing of that name."""


class BrokenBodyError(SourceError):
    """The body of an answer is no JSON: cut short, or somebody else's."""


class Wire:
    """Send GET requests to one origin: a timeout on each, a bounded retry, errors with a remedy.

    It stands where the vendor's client expects its urllib3 pool, so that every request of the
    client passes through it.

    Parameters
    ----------
    pool : Pool
        The client's own pool; it holds the authorisation header and the timeouts.
    origin : str
        Scheme, host and port; no request goes anywhere else.
    redact : callable
        Takes the key out of a text.
    sleep : callable, default time.sleep
        Waits between two attempts; tests replace it.
    limiter : Limiter, optional
        Asked before every attempt.
    cache : ResponseCache, optional
        Where answers are kept.
    clock : callable, optional
        Says what has settled; the time of day by default.
    """

    def __init__(
        self,
        pool: Pool,
        origin: str,
        *,
        redact: Callable[[str], str],
        sleep: Callable[[float], None] = time.sleep,
        limiter: Limiter | None = None,
        cache: ResponseCache | None = None,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._pool = pool
        self._origin = origin
        self._redact = redact
        self._sleep = sleep
        self._limiter = limiter
        self._cache = cache
        self._serves_kept = True
        self._clock = clock
        self.meter = Meter()

    def afresh(self) -> Wire:
        """Return the same wire that asks again for what is kept, and keeps the new answer."""
        other = copy.copy(self)
        other._serves_kept = False
        return other

    @contextmanager
    def keeping(self) -> Generator[list[Draft]]:
        """Collect answers to keep; they are served once the block has found them all usable."""
        drafts: list[Draft] = []
        try:
            yield drafts
        except BaseException:
            if self._cache is not None:
                self._cache.discard(drafts)
            raise
        if self._cache is not None and drafts:
            self._cache.publish(drafts)

    def request(
        self,
        method: str,
        url: str,
        fields: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Answer with status 200, or raise; 429, 5xx and broken connections are tried again.

        Raises
        ------
        SourceError
            Refused (401, 403), throttled or out of order after all attempts, or any other status.
        """
        if method != "GET" or not url.startswith(self._origin + "/"):
            raise SourceError(
                "a bar source only reads from its own address",
                got=f"{method} {urlsplit(url).hostname}",
                allowed=f"GET {self._origin}",
                remedy="check the base URL",
            )
        asked = _asked(url, fields)
        if self._cache is not None and self._serves_kept:
            kept = self._cache.get(self._origin + asked)
            if kept is not None:
                self.meter.add(cache_hits=1)
                return _Kept(kept, request_url=asked)
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(MAX_ATTEMPTS),
            wait=_wait,
            retry=tenacity.retry_if_exception_type(_TryAgainError),
            sleep=self._pause,
            reraise=True,
        )
        try:
            return retrying(self._once, url, fields, headers)
        except _TryAgainError as error:
            raise SourceError(
                f"{error.problem}, {MAX_ATTEMPTS} times in a row ({_path(url)})",
                remedy=error.remedy,
            ) from error.__cause__

    def pages(
        self,
        first: Callable[[], Any],
        read: Callable[[bytes], dict[str, Any]] | None = None,
        keep: list[Draft] | None = None,
        doubt: Callable[[dict[str, Any]], pl.DataFrame | None] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield decoded pages, following ``next_url`` until there is none.

        Parameters
        ----------
        first : callable
            Makes the first request through the vendor's client in raw mode.
        read : callable, default :func:`decode`
            Makes a page of a body.
        keep : list, optional
            Of :meth:`keeping`: takes the answers, each after the caller was content with it.
        doubt : callable, optional
            Says which rows of a page cannot be true. Such a page is asked for again, three times
            at most, until it has none, or the same ones twice: those are handed on, and the page
            is not kept.

        Raises
        ------
        SourceError
            When a page is unusable, or ``next_url`` loops or leads to another host.
        """
        ask = functools.partial(self._read, read=read or decode, doubt=doubt)
        answer = ask(first)
        seen = {_path_and_query(answer.response)}
        yield answer.page
        self._keep(answer, keep)
        while (following := answer.page.get("next_url")) is not None:
            path = self._next_path(following)
            if path in seen or len(seen) >= MAX_PAGES:
                raise SourceError(
                    "the vendor's paging does not end: next_url repeats itself",
                    got=path.partition("?")[0],
                    remedy="ask again later; if it stays, report it to the vendor",
                )
            seen.add(path)
            url = self._origin + path
            answer = ask(lambda u=url: self.request("GET", u))
            yield answer.page
            self._keep(answer, keep)

    def _read(
        self,
        fetch: Callable[[], Any],
        *,
        read: Callable[[bytes], dict[str, Any]],
        doubt: Callable[[dict[str, Any]], pl.DataFrame | None] | None,
    ) -> _Answer:
        """Return an answer; a body that is no JSON, or has impossible rows, is asked for again."""
        doubted: list[pl.DataFrame] = []
        attempts = itertools.count(1)

        def once() -> _Answer:
            is_last = next(attempts) == MAX_BROKEN_BODIES
            response = fetch()
            page = read(response.data)
            rows = None if doubt is None else doubt(page)
            if rows is not None and not is_last and not any(rows.equals(old) for old in doubted):
                doubted.append(rows)
                raise _DoubtError
            return _Answer(response, page, is_sound=rows is None)

        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(MAX_BROKEN_BODIES),
            wait=_WAIT_TRANSIENT,
            retry=tenacity.retry_if_exception_type((BrokenBodyError, _DoubtError)),
            sleep=self._pause,
            reraise=True,
        )(once)

    def _keep(self, answer: _Answer, keep: list[Draft] | None) -> None:
        response = answer.response
        if self._cache is None or keep is None or isinstance(response, _Kept):
            return
        rows = answer.page.get("results")
        asked = _path_and_query(response)
        # A split that is still to come changes every adjusted bar before it.
        settles = rows is not None and len(rows) > 0 and answer.page.get("adjusted") is not True
        kind = kind_of(_path(asked), settles, self._clock())
        if kind is not None and answer.is_sound:
            keep.append(self._cache.draft(self._origin + asked, response.data, kind))

    def _pause(self, seconds: float) -> None:
        self.meter.add(retries=1, waits_seconds=seconds)
        self._sleep(seconds)

    def _once(
        self, url: str, fields: Mapping[str, Any] | None, headers: Mapping[str, str] | None
    ) -> urllib3.BaseHTTPResponse:
        if self._limiter is not None:
            self.meter.add(waits_seconds=self._limiter.acquire())
        self.meter.add(requests=1)
        try:
            response = self._pool.request(
                "GET", url, fields=fields, headers=headers, retries=False, redirect=False
            )
        except urllib3.exceptions.NewConnectionError as error:
            # To urllib3 this is a timeout too, but a name or a port that is none stays so.
            raise _TryAgainError("the vendor could not be reached", _CONNECTION) from error
        except urllib3.exceptions.TimeoutError as error:
            raise _TryAgainError("the vendor did not answer in time", _LATER) from error
        except urllib3.exceptions.HTTPError as error:
            kind = type(error).__name__
            problem = f"the connection to the vendor broke ({kind})"
            raise _TryAgainError(problem, _CONNECTION) from error
        self.meter.add(bytes=len(response.data))
        if response.status == 200:
            return response
        raise self._refusal(response, url)

    def _refusal(self, response: urllib3.BaseHTTPResponse, url: str) -> Exception:
        status = response.status
        if status in (401, 403):
            error = NotInPlanError if status == 403 else SourceError
            return error(
                f"the vendor refused the key or the plan ({self._said(response)})",
                got=f"HTTP {status}",
                remedy="set POLYGON_API_KEY or MASSIVE_API_KEY to a valid key, and check that "
                "its plan covers this data",
            )
        if status == _THROTTLED:
            after = _retry_after(response)
            if after is not None and after > MAX_WAIT_SECONDS:
                return SourceError(
                    "the vendor's rate limit asks for a longer wait than a run can afford",
                    got=f"Retry-After {after:.0f} s",
                    allowed=f"up to {MAX_WAIT_SECONDS:.0f} s",
                    remedy="run again later, or ask for fewer symbols",
                )
            if after is not None and self._limiter is not None:
                self._limiter.hold(after)  # The limit is everybody's, and so is the wait.
            return _TryAgainError("the vendor's rate limit was hit", _THROTTLE, after, True)
        if status in _TRANSIENT:
            return _TryAgainError(f"the vendor failed with HTTP {status}", _LATER)
        error = NotFoundError if _says_not_found(response) else SourceError
        return error(
            f"the vendor answered with an unexpected status ({self._said(response)})",
            got=f"HTTP {status} for {_path(url)}",
            allowed="HTTP 200",
            remedy="check the base URL and the symbols",
        )

    def _said(self, response: urllib3.BaseHTTPResponse) -> str:
        try:
            body = orjson.loads(response.data)
        except orjson.JSONDecodeError:
            return "no reason given"
        reason = body.get("error") or body.get("message") if isinstance(body, dict) else None
        return self._redact(str(reason))[:200] if reason else "no reason given"

    def _next_path(self, following: object) -> str:
        parts = _split(following) if isinstance(following, str) else None
        here = urlsplit(self._origin)
        same = parts is not None and (parts.scheme, parts.netloc) == (here.scheme, here.netloc)
        vendor = parts is not None and {parts.hostname, here.hostname} <= VENDOR_HOSTS
        if parts is None or not (same or vendor):
            host = parts.hostname if parts is not None else type(following).__name__
            raise SourceError(
                "the vendor's next_url leads to another host; the key does not go there",
                got=host,
                allowed=str(here.hostname),
                remedy="check the base URL, and what stands between here and the vendor",
            )
        return _asked(f"{parts.path}?{parts.query}", None)


class _Kept(urllib3.HTTPResponse):
    """An answer from the cache, in the form in which the vendor's client takes answers."""

    def __init__(self, body: bytes, request_url: str) -> None:
        super().__init__(body, status=200, request_url=request_url)


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer, the page it holds, and whether all rows of it can be true."""

    response: urllib3.BaseHTTPResponse
    page: dict[str, Any]
    is_sound: bool


class _DoubtError(Exception):
    """A page has rows that cannot be true; asked again, it may not."""


class _TryAgainError(Exception):
    """One attempt failed in a way that another may not."""

    def __init__(
        self, problem: str, remedy: str, retry_after: float | None = None, throttled: bool = False
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.retry_after = retry_after
        self.throttled = throttled


_LATER = "run again later; the vendor's status page says whether it is known"
_CONNECTION = "check the network and the base URL, then run again"
_THROTTLE = "wait a minute, ask for fewer symbols, or raise the plan's request limit"


def check_base_url(base_url: str) -> str:
    """Return the origin of a base URL: https anywhere, http on loopback only.

    Examples
    --------
    >>> check_base_url("https://api.massive.com/")
    'https://api.massive.com'
    """
    parts = _split(base_url.rstrip("/"))
    if parts is not None and parts.hostname:
        secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        if secure and not (parts.path or parts.query or parts.fragment or "@" in parts.netloc):
            return f"{parts.scheme}://{parts.netloc}"
    raise SourceError(
        "the vendor's base URL cannot be used",
        got=None if parts is None else f"{parts.scheme}://{parts.hostname}{parts.path}",
        allowed="https://host, or http:// on loopback; no path, no credentials",
        remedy="use https://api.massive.com or the address of a replay server",
    )


def decode(body: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer, or raise when it is none or reports an error."""
    try:
        page = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BrokenBodyError(
            f"the vendor's answer is not JSON ({error.msg})",
            got=f"{len(body)} bytes",
            remedy="check the base URL and what stands between here and the vendor",
        ) from None
    if not isinstance(page, dict) or page.get("status") not in _STATUSES:
        got = page.get("status") if isinstance(page, dict) else type(page).__name__
        raise SourceError(
            "the vendor's answer does not say that it is OK",
            got=str(got)[:40],
            allowed=", ".join(sorted(_STATUSES)),
            remedy="run again later",
        )
    return page


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, _TryAgainError):
        return 0.0
    if error.retry_after is not None:
        return error.retry_after
    return (_WAIT_THROTTLED if error.throttled else _WAIT_TRANSIENT)(state)


def _retry_after(response: urllib3.BaseHTTPResponse) -> float | None:
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:  # A date counts from the vendor's own clock, which the Date header tells.
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(response.headers["Date"])
    except (KeyError, TypeError, ValueError):
        return None
    return max(0.0, wait.total_seconds())


def _says_not_found(response: urllib3.BaseHTTPResponse) -> bool:
    return response.status == 404 and b'"NOT_FOUND"' in response.data


def _split(url: str) -> SplitResult | None:
    """Return the parts of an address, None when it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # Reading a malformed port raises.
    except ValueError:
        return None
    return parts


def _asked(url: str, fields: Mapping[str, Any] | None) -> str:
    """Return path and query, in one order and without a key."""
    parts = urlsplit(url)
    query = [*parse_qsl(parts.query), *((k, str(v)) for k, v in (fields or {}).items())]
    kept = sorted((k, v) for k, v in query if k.lower() != "apikey")
    return f"{parts.path}?{urlencode(kept)}"


def _path_and_query(response: urllib3.BaseHTTPResponse) -> str:
    return _asked(response.url or "", None)


def _path(url: str) -> str:
    return urlsplit(url).path
