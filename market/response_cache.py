"""Answers of a vendor on disk, each for as long as its kind of data stays true.

An entry is one compressed file, written aside and renamed into place: readers, other processes and
a crash see the whole of it or nothing. The name is a digest of what was asked; a key is no part of
it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from uuid import uuid4

import orjson
import pyarrow as pa

from market.errors import SourceError


class Kind(StrEnum):
    """What an answer is about, which says how long it stays true."""

    QUOTE = "quote"
    LIVE_BARS = "live_bars"
    REFERENCE = "reference"
    SETTLED = "settled"


TIME_TO_LIVE: dict[Kind, dt.timedelta | None] = {
    Kind.QUOTE: dt.timedelta(seconds=5),
    Kind.LIVE_BARS: dt.timedelta(minutes=1),
    Kind.REFERENCE: dt.timedelta(hours=1),
    Kind.SETTLED: None,
}
_CODEC = pa.Codec("zstd", compression_level=1)
_SUFFIX = ".answer"
_DRAFT = ".draft"
# The folder is measured again after so many writes: other processes write to it too.
_MEASURE_EVERY = 256
_ABANDONED_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer that lies on disk and is not served yet."""

    path: Path
    target: Path
    size: int


class ResponseCache:
    """Keep answers under a folder, up to a number of bytes.

    Parameters
    ----------
    folder : Path or str
        Made when missing; several processes may share it.
    max_bytes : int, default 2 GB
        Above it the answers used longest ago go.
    clock : callable, default time.time
        Seconds since 1970; tests replace it.

    Examples
    --------
    >>> import tempfile
    >>> cache = ResponseCache(tempfile.mkdtemp())
    >>> cache.publish([cache.draft("GET /x", b"{}", Kind.SETTLED)])
    >>> cache.get("GET /x")
    b'{}'
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        max_bytes: int = 2_000_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_bytes < 1:
            raise SourceError(
                "a response cache without room",
                got=max_bytes,
                allowed="one byte or more",
                remedy="correct the setting, or name no folder to switch the cache off",
            )
        self._folder = Path(folder)
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._size = 0
        self._until_measured = 0

    def __repr__(self) -> str:
        return f"ResponseCache({str(self._folder)!r})"

    def get(self, asked: str) -> bytes | None:
        """Return the answer to what was asked; None where there is none that is still true.

        An entry that was damaged on disk is none.
        """
        path = self._path(asked)
        try:
            entry = path.read_bytes()
        except OSError:
            return None
        now = self._clock()
        body = _unpacked(entry, now)
        if body is None:
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path, (now, now))
        return body

    def draft(self, asked: str, body: bytes, kind: Kind) -> Draft:
        """Write an answer to disk without serving it yet: it has still to be found usable.

        Raises
        ------
        SourceError
            When the folder cannot be written.
        """
        life = TIME_TO_LIVE[kind]
        expires = None if life is None else self._clock() + life.total_seconds()
        content = _packed(body, expires)
        target = self._path(asked)
        path = self._folder / f"{target.stem}.{uuid4().hex}{_DRAFT}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, (self._clock(), self._clock()))
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            raise SourceError(
                f"the response cache cannot be written ({error})",
                got=str(self._folder),
                allowed="a folder that can be written, with room",
                remedy="free disk space, name another folder, or none to switch the cache off",
            ) from error
        return Draft(path, target, len(content))

    def publish(self, drafts: Sequence[Draft]) -> None:
        """Serve these answers from now on."""
        for draft in drafts:
            # A draft may have been swept away as abandoned; then it is asked for again.
            with suppress(OSError):
                draft.path.replace(draft.target)
        with self._lock:
            self._size += sum(d.size for d in drafts)
            self._until_measured -= len(drafts)
            if self._size > self._max_bytes or self._until_measured <= 0:
                self._shrink()

    def discard(self, drafts: Sequence[Draft]) -> None:
        """Forget answers that turned out unusable."""
        for draft in drafts:
            with suppress(OSError):
                draft.path.unlink()

    def _shrink(self) -> None:
        """Measure the folder and remove what was used longest ago, down to nine tenths."""
        abandoned = self._clock() - _ABANDONED_SECONDS
        found: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            with suppress(OSError):
                state = path.stat()
                if path.suffix == _SUFFIX:
                    found.append((state.st_mtime, state.st_size, path))
                elif path.suffix == _DRAFT and state.st_mtime < abandoned:
                    path.unlink()
        self._size = sum(size for _, size, _ in found)
        self._until_measured = _MEASURE_EVERY
        if self._size <= self._max_bytes:
            return
        for _, size, path in sorted(found):
            if self._size <= self._max_bytes * 0.9:
                return
            with suppress(OSError):
                path.unlink()
            self._size -= size

    def _path(self, asked: str) -> Path:
        return self._folder / (hashlib.sha256(asked.encode()).hexdigest() + _SUFFIX)


def _packed(body: bytes, expires: float | None) -> bytes:
    """Return an entry: a digest of all that follows, when it ends and its size, the answer."""
    head = orjson.dumps({"expires": expires, "size": len(body)})
    rest = head + b"\n" + _CODEC.compress(body, asbytes=True)
    return _digest(rest) + b"\n" + rest


def _unpacked(entry: bytes, now: float) -> bytes | None:
    """Return the body of an entry; None where it is damaged or its time is over."""
    digest, _, rest = entry.partition(b"\n")
    if digest != _digest(rest):
        return None
    text, _, packed = rest.partition(b"\n")
    head = orjson.loads(text)
    if head["expires"] is not None and head["expires"] <= now:
        return None
    return _CODEC.decompress(packed, decompressed_size=head["size"], asbytes=True)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
