"""The shared request budget: over callers, processes, crashes and damage."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from market import request_limiter
from market.errors import SourceError
from market.request_limiter import (
    LONGEST_QUEUE_SECONDS,
    REQUESTS_PER_MINUTE,
    WINDOW_SECONDS,
    Plan,
    RequestLimiter,
    folder_of_key,
)


class Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _limiter(folder: Path, limit: int | None, clock: Clock) -> RequestLimiter:
    return RequestLimiter(folder, limit, clock=clock, sleep=clock.sleep)


def test_every_plan_has_its_limit(tmp_path: Path, clock: Clock) -> None:
    assert set(REQUESTS_PER_MINUTE) == set(Plan)
    assert {p.value: p.requests_per_minute for p in Plan} == {
        "free": 5,
        "starter": 100,
        "developer": 1000,
        "advanced": None,
    }
    assert "5" in repr(RequestLimiter.for_plan(tmp_path, Plan.FREE))


def test_without_a_limit_nothing_is_written(tmp_path: Path, clock: Clock) -> None:
    limiter = _limiter(tmp_path / "none", None, clock)
    assert [limiter.acquire() for _ in range(1000)] == [0.0] * 1000
    assert not (tmp_path / "none").exists()


@given(limit=st.integers(1, 7), gaps=st.lists(st.floats(0, 90), max_size=40))
def test_no_minute_ever_holds_more_than_the_limit(
    tmp_path_factory: pytest.TempPathFactory, limit: int, gaps: list[float]
) -> None:
    clock = Clock()
    folder = tmp_path_factory.mktemp("limit")
    # Two limiters on one folder: two processes.
    limiters = [_limiter(folder, limit, clock) for _ in range(2)]
    sent: list[float] = []
    for n, gap in enumerate(gaps):
        clock.now += gap
        waited = limiters[n % 2].acquire()
        sent.append(clock.now)
        lately = [t for t in sent[:-1] if t > clock.now - waited - WINDOW_SECONDS]
        assert (waited == 0) == (len(lately) < limit) or waited < 1e-6
    for first, last in zip(sent, sent[limit:], strict=False):
        assert last - first >= WINDOW_SECONDS - 1e-6


def test_those_who_wait_are_served_in_order(tmp_path: Path) -> None:
    waits: list[float] = []
    limiters = [
        RequestLimiter(tmp_path, 2, clock=lambda: 0.0, sleep=waits.append) for _ in range(7)
    ]
    for limiter in limiters:
        limiter.acquire()
    minute = WINDOW_SECONDS
    assert waits == [minute, minute, 2 * minute, 2 * minute, 3 * minute]


def test_threads_share_it(tmp_path: Path) -> None:
    waits: list[float] = []
    limiter = RequestLimiter(tmp_path, 10, clock=lambda: 0.0, sleep=waits.append)
    threads = [threading.Thread(target=limiter.acquire) for _ in range(25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    minute = WINDOW_SECONDS
    assert sorted(waits) == [minute] * 10 + [2 * minute] * 5


_PROCESS = """
import sys
from market.request_limiter import RequestLimiter
waits = []
limiter = RequestLimiter(sys.argv[1], 10, clock=lambda: 5.0, sleep=waits.append)
for _ in range(20):
    limiter.acquire()
print(waits)
"""


def test_processes_share_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PROCESS, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    waits = sorted(w for text in said for w in orjson.loads(text))
    minute = WINDOW_SECONDS
    assert waits == [n * minute for n in range(1, 6) for _ in range(10)]


@pytest.mark.parametrize("limit", [None, 1, 100])
def test_when_the_vendor_tells_one_to_wait_all_do(
    tmp_path: Path, clock: Clock, limit: int | None
) -> None:
    first, second = (_limiter(tmp_path, limit, clock) for _ in range(2))
    first.acquire()
    clock.now += 100
    first.hold(30)
    first.hold(20)
    assert second.acquire() == pytest.approx(30)
    clock.now += WINDOW_SECONDS
    assert first.acquire() == 0.0


def test_a_wait_that_begins_while_another_one_waits_counts_for_it(tmp_path: Path) -> None:
    clock = Clock()
    other = _limiter(tmp_path, 1, clock)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if seconds == WINDOW_SECONDS:
            other.hold(7)

    waiting = RequestLimiter(tmp_path, 1, clock=clock, sleep=sleep)
    assert [waiting.acquire(), waiting.acquire()] == [0.0, pytest.approx(WINDOW_SECONDS + 7)]


def test_a_wait_from_before_a_restart_or_a_changed_clock_is_over(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = _limiter(tmp_path, 9, clock)
    clock.now += 1e6
    limiter.hold(60)
    clock.now -= 1e6
    assert limiter.acquire() == 0.0
    limiter.hold(60)
    monkeypatch.setattr(request_limiter, "_boot_id", lambda: "another start")
    assert limiter.acquire() == 0.0


def test_each_key_and_vendor_has_a_folder_that_does_not_tell_the_key(tmp_path: Path) -> None:
    asked = [
        ("https://a", "one"),
        ("https://a", "two"),
        ("https://b", "one"),
        ("https://a/", "one"),
    ]
    folders = [folder_of_key(tmp_path, url, SecretStr(key)) for url, key in asked]
    assert len(set(folders)) == 3
    assert folders[0] == folders[3]
    assert all(f.parent == tmp_path and re.fullmatch("[0-9a-f]{16}", f.name) for f in folders)


def test_a_damaged_budget_counts_as_used_up(tmp_path: Path, clock: Clock) -> None:
    _limiter(tmp_path, 3, clock).acquire()
    for damage in (b"", b"{", b"[]", b'{"boot": "x", "taken": ["soon"]}', b'{"taken": 1}'):
        (tmp_path / "requests.json").write_bytes(damage)
        assert _limiter(tmp_path, 3, clock).acquire() == pytest.approx(WINDOW_SECONDS)


def test_a_restart_of_the_machine_frees_the_budget(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = _limiter(tmp_path, 1, clock)
    limiter.acquire()
    monkeypatch.setattr(request_limiter, "_boot_id", lambda: "another start")
    clock.now = 3.0
    assert limiter.acquire() == 0.0


def test_bookings_from_a_clock_that_ran_ahead_do_not_block(tmp_path: Path, clock: Clock) -> None:
    limiter = _limiter(tmp_path, 1, clock)
    clock.now += 1e6
    limiter.acquire()
    clock.now -= 1e6
    assert limiter.acquire() == 0.0


def test_a_queue_without_end_is_refused(tmp_path: Path) -> None:
    limiter = RequestLimiter(tmp_path, 1, clock=lambda: 0.0, sleep=lambda _: None)
    for _ in range(int(LONGEST_QUEUE_SECONDS / WINDOW_SECONDS) + 1):
        limiter.acquire()
    with pytest.raises(SourceError, match="too many requests are queued"):
        limiter.acquire()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SourceError, match="budget cannot be kept"):
        _limiter(tmp_path / "file", 1, clock).acquire()


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="lets nothing through"):
        RequestLimiter(tmp_path, 0)
