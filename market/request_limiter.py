"""One budget of requests for every process of a machine, and what each plan of the vendor allows.

The budget is a small file in a folder that the processes share. A caller books the next free
moment under an exclusive lock and then waits for it outside the lock, so requests are served in
the order they were booked. A process that dies has used what it booked and holds nothing. When
the vendor tells one process to wait, nobody's next moment is before that.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import orjson
from pydantic import SecretStr

from market.errors import SourceError

# The vendor counts arrivals, which jitter: a minute of ours is a little longer than one of its.
WINDOW_SECONDS = 60.5
# Nobody queues for longer; a booking further ahead is from before the clock was set.
LONGEST_QUEUE_SECONDS = 3_600.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Plan(StrEnum):
    """A plan of the vendor, by how many requests a minute it allows."""

    FREE = "free"
    STARTER = "starter"
    DEVELOPER = "developer"
    ADVANCED = "advanced"

    @property
    def requests_per_minute(self) -> int | None:
        """Requests in any minute; None for no limit."""
        return REQUESTS_PER_MINUTE[self]

    @property
    def is_real_time(self) -> bool:
        """Whether bars come when they end; those of the other plans come at least 15 minutes late.

        Source: the vendor's price list for stocks; what is delayed is answered with ``DELAYED``.
        """
        return self is Plan.ADVANCED


REQUESTS_PER_MINUTE: dict[Plan, int | None] = {
    Plan.FREE: 5,
    Plan.STARTER: 100,
    Plan.DEVELOPER: 1_000,
    Plan.ADVANCED: None,
}


class RequestLimiter:
    """Let through so many requests a minute, counted over all processes of this machine.

    Parameters
    ----------
    folder : Path or str
        Where the budget is kept; made when missing. Processes that name the same folder share
        one budget, whatever their plan says.
    requests_per_minute : int or None
        The limit; None lets everything through, but for a wait that the vendor asked for.
    clock : callable, default time.monotonic
        Seconds since the machine started: one clock for all its processes, which nobody sets.
    sleep : callable, default time.sleep
        Waits; tests replace it.

    Raises
    ------
    SourceError
        When the limit is below one.

    Examples
    --------
    >>> import tempfile
    >>> seconds = [0.0]
    >>> limiter = RequestLimiter(tempfile.mkdtemp(), 2, clock=lambda: seconds[0],
    ...                          sleep=lambda s: None)
    >>> [limiter.acquire() for _ in range(3)]
    [0.0, 0.0, 60.5]
    """

    def __init__(
        self,
        folder: Path | str,
        requests_per_minute: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if requests_per_minute is not None and requests_per_minute < 1:
            raise SourceError(
                "a request limit below one lets nothing through",
                got=requests_per_minute,
                allowed="one request per minute or more, or none for no limit",
                remedy="correct the setting",
            )
        self._folder = Path(folder)
        self._limit = requests_per_minute
        self._clock = clock
        self._sleep = sleep
        self._threads = threading.Lock()

    @classmethod
    def for_plan(cls, folder: Path | str, plan: Plan) -> RequestLimiter:
        """Return the limiter of a plan of the vendor; see :func:`folder_of_key`."""
        return cls(folder, plan.requests_per_minute)

    def __repr__(self) -> str:
        return f"RequestLimiter({str(self._folder)!r}, {self._limit})"

    def acquire(self) -> float:
        """Wait until one more request may be sent.

        Returns
        -------
        float
            Seconds waited.

        Raises
        ------
        SourceError
            When the queue is longer than an hour, or the folder cannot be written.
        """
        wait = self._book()
        if wait:
            self._sleep(wait)
            # While this one slept, the vendor may have told another one to wait.
            with self._budget() as budget:
                held = budget.held_until - self._clock()
            if held > 0:
                self._sleep(held)
                wait += held
        return wait

    def hold(self, seconds: float) -> None:
        """Let nobody through for so long: the vendor said so (``Retry-After``).

        Raises
        ------
        SourceError
            When the folder cannot be written.
        """
        with self._budget() as budget:
            until = self._clock() + min(seconds, LONGEST_QUEUE_SECONDS)
            budget.held_until = max(budget.held_until, until)

    def _book(self) -> float:
        """Take the next free moment; return the seconds until then."""
        limit = self._limit
        if limit is None and not self._path.exists():
            return 0.0
        with self._budget() as budget:
            now = self._clock()
            booked, taken = max(now, budget.held_until), budget.taken
            if limit is None:
                return booked - now
            if len(taken) >= limit:
                booked = max(booked, taken[-limit] + WINDOW_SECONDS)
            if booked - now > LONGEST_QUEUE_SECONDS:
                raise _queue_too_long(booked - now, limit)
            budget.taken = [*taken[1 - limit :], booked] if limit > 1 else [booked]
            return booked - now

    @contextmanager
    def _budget(self) -> Generator[_Budget]:
        """Read the budget, let it be changed, write it; nobody else does so meanwhile."""
        try:
            with self._threads, self._locked():
                budget = self._read(self._clock())
                yield budget
                self._write(budget)
        except OSError as error:
            raise SourceError(
                f"the shared request budget cannot be kept ({error})",
                got=str(self._folder),
                allowed="a folder that can be written",
                remedy="free disk space, make it writable, or name another one",
            ) from error

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Hold the other processes off; the system lets go when a holder dies."""
        self._folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._folder / "requests.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _read(self, now: float) -> _Budget:
        """Return the booked moments that still count, ascending, and the vendor's wait."""
        try:
            kept = orjson.loads(self._path.read_bytes())
            boot, taken = str(kept["boot"]), [float(t) for t in kept["taken"]]
            held_until = float(kept["held_until"])
        except FileNotFoundError:
            return _Budget([], 0.0)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            # Damaged, so nobody knows what was used: as if all of it had been, just now.
            return _Budget([now] * (self._limit or 0), 0.0)
        if boot != _boot_id():
            return _Budget([], 0.0)
        ahead = now + LONGEST_QUEUE_SECONDS
        taken = sorted(t for t in taken if now - WINDOW_SECONDS < t <= ahead + WINDOW_SECONDS)
        return _Budget(taken, held_until if held_until <= ahead else 0.0)

    def _write(self, budget: _Budget) -> None:
        """Replace the file in one step: a process killed here leaves the old one or the new."""
        draft = self._path.with_suffix(".tmp")
        kept = {"boot": _boot_id(), "taken": budget.taken, "held_until": budget.held_until}
        draft.write_bytes(orjson.dumps(kept))
        draft.replace(self._path)

    @property
    def _path(self) -> Path:
        return self._folder / "requests.json"


@dataclass
class _Budget:
    """What is on file: the moments booked, and until when the vendor told everybody to wait."""

    taken: list[float]
    held_until: float


def folder_of_key(folder: Path | str, base_url: str, api_key: SecretStr) -> Path:
    """Return where what the holders of one key share is kept: named by a digest, not by the key.

    Examples
    --------
    >>> folder_of_key("cache", "https://api.massive.com", SecretStr("key")).name
    'e85fee351a180284'
    """
    told = f"{base_url.rstrip('/')} {api_key.get_secret_value()}"
    return Path(folder) / hashlib.sha256(told.encode()).hexdigest()[:16]


def _boot_id() -> str:
    """Return what tells one start of the machine from another, where the system says it."""
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""


def _queue_too_long(wait: float, limit: int) -> SourceError:
    return SourceError(
        "too many requests are queued for this plan",
        got=f"a wait of {wait / 60:.0f} minutes at {limit} requests a minute",
        allowed=f"up to {LONGEST_QUEUE_SECONDS / 60:.0f} minutes",
        remedy="run fewer processes at once, ask for fewer symbols, or raise the plan",
    )
