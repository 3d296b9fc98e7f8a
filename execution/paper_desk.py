"""The paper book behind a lock, a clock and a limit of requests; who listens is told of changes."""

from __future__ import annotations

import datetime as dt
import secrets
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

from execution import paper_wire as wire
from execution.paper_book import PaperBook
from execution.paper_orders import PaperRefusal
from market.errors import ExecutionError

_MINUTE = dt.timedelta(seconds=60)


class Desk:
    """The book, replayed up to the clock whenever it is opened.

    Parameters
    ----------
    book : PaperBook
        The account.
    clock : Callable
        Returns the present moment, aware.
    api_key, secret_key : str
        What callers must send.
    """

    def __init__(
        self,
        book: PaperBook,
        clock: Callable[[], dt.datetime],
        *,
        api_key: str,
        secret_key: str,
    ) -> None:
        self._book = book
        self._clock = clock
        self._keys = (api_key.encode(), secret_key.encode())
        self._lock = threading.Lock()
        self._asked: deque[dt.datetime] = deque()
        self._listeners: list[Callable[[], None]] = []
        self.account_number = book.account_number
        self.symbols = frozenset(book.tape.symbols)
        self._symbol_of = {wire.asset_id(symbol): symbol for symbol in book.tape.symbols}

    @contextmanager
    def open(self) -> Generator[PaperBook]:
        """Give the book, replayed up to the clock; tell the listeners when something happened."""
        listeners: list[Callable[[], None]] = []
        try:
            with self._lock:
                known = self._book.records.count
                self._book.advance(aware(self._clock()))
                try:
                    yield self._book
                finally:
                    if self._book.records.count > known:
                        listeners = list(self._listeners)
        finally:  # a refusal does not hide what the advance has done
            for listener in listeners:
                listener()

    def symbol(self, symbol_or_id: str) -> str:
        """Return the symbol of an asset's id, or the word itself."""
        return self._symbol_of.get(symbol_or_id, symbol_or_id)

    def knows(self, key: str | None, secret: str | None) -> bool:
        """Say whether these are the keys, in a time that does not depend on where they differ."""
        given = ((key or "").encode(), (secret or "").encode())
        fits = [secrets.compare_digest(*pair) for pair in zip(given, self._keys, strict=True)]
        return all(fits)

    def count_request(self) -> None:
        """Count a request.

        Raises
        ------
        PaperRefusal
            429, when there were too many in the last minute of the clock.
        """
        most = self._book.conditions.requests_per_minute
        if most is None:
            return
        with self._lock:
            now = aware(self._clock())
            while self._asked and now - self._asked[0] >= _MINUTE:
                self._asked.popleft()
            if len(self._asked) >= most:
                raise PaperRefusal(429, 42910000, "rate limit exceeded")
            self._asked.append(now)

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Generator[None]:
        """Call ``listener`` after every change, from whichever thread made it."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)


def aware(moment: dt.datetime) -> dt.datetime:
    """Return a moment in UTC.

    Raises
    ------
    ExecutionError
        When it has no time zone.
    """
    if moment.tzinfo is None:
        raise ExecutionError(
            "a moment without a time zone",
            got=moment.isoformat(),
            allowed="aware datetimes",
            remedy="add the time zone, such as +00:00",
        )
    return moment.astimezone(dt.UTC)
