"""Answers on disk: for how long, how many, and what a crash or damage does to them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from market.errors import SourceError
from market.response_cache import TIME_TO_LIVE, Kind, ResponseCache


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(tmp_path: Path, clock: Clock) -> ResponseCache:
    return ResponseCache(tmp_path / "cache", clock=clock)


def _put(cache: ResponseCache, asked: str, body: bytes, kind: Kind = Kind.SETTLED) -> None:
    cache.publish([cache.draft(asked, body, kind)])


def _noise(name: str) -> bytes:
    """A thousand bytes that do not get shorter when compressed."""
    return random.Random(name).randbytes(1_000)


def test_an_entry_is_smaller_than_the_answer(cache: ResponseCache, tmp_path: Path) -> None:
    body = b'{"o":10.25,"h":10.5},' * 5_000
    _put(cache, "x", body)
    (entry,) = _files(tmp_path / "cache")
    assert entry.stat().st_size < len(body) / 20
    assert cache.get("x") == body


def _files(cache_folder: Path) -> list[Path]:
    return sorted(cache_folder.iterdir())


@pytest.mark.parametrize("kind", Kind)
def test_an_answer_lives_as_long_as_its_kind(
    cache: ResponseCache, clock: Clock, kind: Kind
) -> None:
    _put(cache, "x", b"body\nwith lines", kind)
    life = TIME_TO_LIVE[kind]
    clock.now += 10 * 365 * 86_400 if life is None else life.total_seconds() - 1
    assert cache.get("x") == b"body\nwith lines"
    clock.now += 1
    assert cache.get("x") == (b"body\nwith lines" if life is None else None)


def test_kinds_are_ordered_by_how_long_they_stay_true() -> None:
    quote, bars = TIME_TO_LIVE[Kind.QUOTE], TIME_TO_LIVE[Kind.LIVE_BARS]
    assert quote is not None
    assert bars is not None
    assert 0 < quote.total_seconds() < 10 < bars.total_seconds() == 60
    assert TIME_TO_LIVE[Kind.SETTLED] is None


def test_what_was_not_asked_is_not_there(cache: ResponseCache) -> None:
    assert cache.get("x") is None
    _put(cache, "x", b"1")
    assert cache.get("y") is None


def test_a_draft_is_not_served(cache: ResponseCache, tmp_path: Path) -> None:
    draft = cache.draft("x", b"1", Kind.SETTLED)
    assert cache.get("x") is None
    cache.discard([draft])
    assert _files(tmp_path / "cache") == []
    cache.publish([draft])
    assert cache.get("x") is None


def test_a_new_answer_replaces_the_old_one(cache: ResponseCache, tmp_path: Path) -> None:
    _put(cache, "x", b"1")
    _put(cache, "x", b"2")
    assert cache.get("x") == b"2"
    assert len(_files(tmp_path / "cache")) == 1


@pytest.mark.parametrize("size", [0, 1, 30, 90])
def test_a_damaged_entry_is_none(cache: ResponseCache, tmp_path: Path, size: int) -> None:
    _put(cache, "x", b"the body of an answer")
    (entry,) = _files(tmp_path / "cache")
    entry.write_bytes(entry.read_bytes()[:size])
    assert cache.get("x") is None
    assert _files(tmp_path / "cache") == []


def test_a_changed_body_is_none(cache: ResponseCache, tmp_path: Path) -> None:
    _put(cache, "x", b"price 10")
    (entry,) = _files(tmp_path / "cache")
    whole = entry.read_bytes()
    for at in range(len(whole)):
        entry.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert cache.get("x") is None, at


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "cache"
    cache = ResponseCache(folder, max_bytes=6_000, clock=clock)
    for name in "abcde":
        clock.now += 1
        _put(cache, name, _noise(name))
        assert cache.get(name) is not None
    clock.now += 1
    assert cache.get("a") is not None
    clock.now += 1
    _put(cache, "f", _noise("f"))
    assert sum(p.stat().st_size for p in _files(folder)) <= 6_000
    assert cache.get("b") is None
    assert cache.get("a") is not None
    assert cache.get("f") is not None


def test_the_bound_holds_over_what_others_wrote(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "cache"
    for name in "abcdefgh":
        clock.now += 1
        _put(ResponseCache(folder, max_bytes=5_000, clock=clock), name, _noise(name))
        assert sum(p.stat().st_size for p in _files(folder)) <= 5_000


def test_drafts_of_a_dead_process_are_swept_away(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    dead = ResponseCache(folder).draft("x", b"1", Kind.SETTLED)
    os.utime(dead.path, (0, 0))
    alive = ResponseCache(folder).draft("y", b"1", Kind.SETTLED)
    _put(ResponseCache(folder), "z", b"1")
    assert not dead.path.exists()
    assert alive.path.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = ResponseCache(tmp_path / "file")
    assert cache.get("x") is None
    with pytest.raises(SourceError, match="cache cannot be written"):
        cache.draft("x", b"1", Kind.SETTLED)


def test_a_cache_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="without room"):
        ResponseCache(tmp_path, max_bytes=0)
