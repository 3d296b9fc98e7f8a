"""The heads of all batches, kept outside the database so that a cut tail shows.

One JSON line per batch, in order. The file only ever grows; a line that a crash tore is
dropped by the next writer, which then appends what is missing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from market.errors import SignalError
from market.hash_chain import canonical_json


@dataclass(frozen=True, slots=True)
class BatchHead:
    """What is remembered of a batch: its place, rows and the hash after its last row.

    ``batch_hash`` covers the batch row itself (run, times, lateness, revision).
    """

    batch_id: str
    last_seq: int
    rows: int
    head_hash: str
    batch_hash: str


def read_heads(path: Path) -> list[BatchHead]:
    """Return the remembered heads, oldest first; a missing file remembers nothing.

    Raises
    ------
    SignalError
        When a whole line cannot be understood.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise _unusable(path, error) from error
    return [_parse(path, line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def append_heads(
    path: Path, missing: Callable[[Sequence[BatchHead]], Sequence[BatchHead]]
) -> list[BatchHead]:
    """Append what ``missing`` says, under a lock, and force it to the disk.

    Parameters
    ----------
    path : Path
        The head file; made where it does not exist.
    missing : Callable
        Given the heads in the file, returns those to append. Called under the lock.

    Returns
    -------
    list of BatchHead
        What was appended.

    Raises
    ------
    SignalError
        When the file cannot be written or holds something else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        size = os.fstat(handle).st_size
        content = os.pread(handle, size, 0)
        whole = content.rfind(b"\n") + 1
        heads = [_parse(path, line) for line in content[:whole].splitlines()]
        added = list(missing(heads))
        if added or whole != size:
            os.ftruncate(handle, whole)
            _write_all(handle, b"".join(canonical_json(asdict(h)) + b"\n" for h in added), whole)
            os.fsync(handle)
        return added
    except OSError as error:
        raise _unusable(path, error) from error
    finally:
        os.close(handle)


def _write_all(handle: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(handle, content, offset)
        content, offset = content[written:], offset + written


def _parse(path: Path, line: bytes) -> BatchHead:
    try:
        fields: dict[str, Any] = orjson.loads(line)
        return BatchHead(**fields)
    except (orjson.JSONDecodeError, TypeError) as error:
        raise SignalError(
            "a line of the head file cannot be understood",
            got=line[:80].decode("utf-8", "replace"),
            allowed="one JSON object per batch",
            remedy=f"restore {path.name} from a backup; it is the proof that no signal was cut",
        ) from error


def _unusable(path: Path, error: OSError) -> SignalError:
    return SignalError(
        f"the head file cannot be used ({error.strerror})",
        got=str(path),
        allowed="a file that can be written",
        remedy="correct its permissions or free disk space, then publish again; it will catch up",
    )
