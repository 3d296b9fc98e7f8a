"""One process at a time works on a study."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

from filelock import FileLock, Timeout
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from market.errors import ModelError


@contextmanager
def held(storage: str, study: str) -> Generator[None]:
    """Hold a study while the block runs.

    Parameters
    ----------
    storage : str
        ``sqlite:///FILE``; the lock is a file beside it, one per study.
    study : str
        Name of the study.

    Raises
    ------
    ModelError
        When another process holds it, or the storage is not a file that can be written to.

    Notes
    -----
    The kernel lets go of the lock even when the process is killed: who holds it may take every
    trial that is marked as running for one that died.
    """
    try:
        url = make_url(storage)
    except ArgumentError as error:
        raise not_stored(storage, error) from error
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        raise not_stored(storage, None)
    name = hashlib.sha256(study.encode()).hexdigest()[:8]
    lock = FileLock(f"{url.database}.{name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ModelError(
            f"the study {study} is being tuned by another process",
            allowed="one process per study",
            remedy="wait for it, or choose another study name",
        ) from None
    except OSError as error:
        raise not_stored(storage, error) from error
    try:
        yield
    finally:
        lock.release()


def not_stored(storage: str, error: Exception | None) -> ModelError:
    """Return the error of a storage that cannot be used; a URL may hold a password."""
    return ModelError(
        "a study cannot be stored here" + (f" ({type(error).__name__})" if error else ""),
        got=storage.partition(":")[0],
        allowed="sqlite:///FILE in a folder that can be written to",
        remedy="correct the storage",
    )
