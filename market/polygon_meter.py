"""What a download cost: requests, bytes, waits; and what kind of data a path is about."""

from __future__ import annotations

import datetime as dt
import re
import threading
from dataclasses import dataclass, fields
from urllib.parse import unquote

from market import calendar
from market.response_cache import Kind

# A bar may still be corrected minutes after the close, and a delayed plan has it later still.
SETTLED_AFTER = dt.timedelta(minutes=30)
_RANGE = re.compile(r"/v2/aggs/ticker/[^/]+/range/\d+/\w+/[^/]+/([\d-]+)$")
_GROUPED = re.compile(r"/v2/aggs/grouped/locale/us/market/stocks/([\d-]+)$")
_REFERENCE = re.compile(r"/(v3/reference|stocks/v1|v1/marketstatus)/")
_QUOTES = re.compile(r"/(v2/snapshot|v2/last|v3/snapshot|v3/trades|v3/quotes)/")


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """What a source has asked for so far.

    Attributes
    ----------
    requests : int
        Requests sent, each attempt counted.
    bytes : int
        Bytes of the bodies received, unpacked.
    cache_hits : int
        Answers that were there already.
    retries : int
        Attempts after a failed one.
    waits_seconds : float
        Waited for the request limit, and before retries.
    """

    requests: int = 0
    bytes: int = 0
    cache_hits: int = 0
    retries: int = 0
    waits_seconds: float = 0.0

    def __add__(self, other: RequestMetrics) -> RequestMetrics:
        """Return both together."""
        return _combined(self, other, 1)

    def __sub__(self, earlier: RequestMetrics) -> RequestMetrics:
        """Return what came after an earlier snapshot.

        Examples
        --------
        >>> (RequestMetrics(requests=5, bytes=70) - RequestMetrics(requests=2)).requests
        3
        """
        return _combined(self, earlier, -1)

    def as_metadata(self) -> dict[str, int | float]:
        """Return the counts under names for people."""
        return {
            "requests": self.requests,
            "bytes received": self.bytes,
            "answers from cache": self.cache_hits,
            "retries": self.retries,
            "seconds waited": round(self.waits_seconds, 3),
        }


def _combined(one: RequestMetrics, other: RequestMetrics, sign: int) -> RequestMetrics:
    return RequestMetrics(
        *(getattr(one, f.name) + sign * getattr(other, f.name) for f in fields(RequestMetrics))
    )


class Meter:
    """Counts from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._metrics = RequestMetrics()

    @property
    def metrics(self) -> RequestMetrics:
        """The counts so far."""
        return self._metrics

    def add(
        self,
        *,
        requests: int = 0,
        bytes: int = 0,
        cache_hits: int = 0,
        retries: int = 0,
        waits_seconds: float = 0.0,
    ) -> None:
        """Count."""
        with self._lock:
            self._metrics += RequestMetrics(requests, bytes, cache_hits, retries, waits_seconds)


def kind_of(path: str, settles: bool, now: dt.datetime) -> Kind | None:
    """Return what kind of data a path of the vendor is about; None for what is never kept.

    Bars that can settle have done so when the last session of their range was over for a while.
    An answer without rows cannot: it may be a hole that the vendor fills later.

    Examples
    --------
    >>> path = "/v2/aggs/ticker/AAPL/range/1/minute/2024-07-01/2024-07-02"
    >>> kind_of(path, True, dt.datetime(2024, 7, 3, 12, tzinfo=dt.UTC)).value
    'settled'
    >>> kind_of(path, True, dt.datetime(2024, 7, 2, 15, tzinfo=dt.UTC)).value
    'live_bars'
    """
    path = unquote(path)
    if _REFERENCE.match(path):
        return Kind.REFERENCE
    if _QUOTES.match(path):
        return Kind.QUOTE
    found = _RANGE.match(path) or _GROUPED.match(path)
    last = None if found is None else _date(found[1])
    if last is None:
        return None
    settled = settles and _over_at(last) + SETTLED_AFTER <= now
    return Kind.SETTLED if settled else Kind.LIVE_BARS


def _date(text: str) -> dt.date | None:
    """Return the New York date that a path writes as a date or as milliseconds."""
    try:
        if not text.isdigit():
            return dt.date.fromisoformat(text)
        moment = dt.datetime.fromtimestamp(int(text) / 1000, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.astimezone(calendar.NEW_YORK).date()


def _over_at(date: dt.date) -> dt.datetime:
    """Return when the extended hours of a date are over."""
    return dt.datetime.combine(date, dt.time(20), calendar.NEW_YORK).astimezone(dt.UTC)
