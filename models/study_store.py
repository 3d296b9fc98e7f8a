"""Where studies are kept: a file of SQLite, or PostgreSQL, which several machines reach."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock, Timeout
from optuna.storages import RDBStorage
from psycopg.errors import LockNotAvailable
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from market.errors import ModelError

_POSTGRESQL = "postgresql"
_PATIENCE = "3s"


@contextmanager
def opened(storage: str) -> Generator[RDBStorage]:
    """Open a storage for as long as the block runs; made where it is not there.

    Parameters
    ----------
    storage : str
        ``sqlite:///FILE`` or ``postgresql+psycopg://...``, whose schema is there and is its own.

    Raises
    ------
    ModelError
        When it cannot be opened.
    """
    url = _place(storage)
    own: dict[str, Any] = {"poolclass": sa.NullPool}
    if url.get_backend_name() == "sqlite":
        own = {"creator": partial(_connect, url)}
    try:
        store = RDBStorage(storage, engine_kwargs=own)
    except SQLAlchemyError as error:
        raise not_stored(storage, error) from error
    try:
        yield store
    finally:
        store.remove_session()
        store.engine.dispose()


def is_there(storage: str) -> bool:
    """Say whether a storage may hold anything: a file that is not there holds none.

    Examples
    --------
    >>> is_there("sqlite:///nothing-here.db")
    False
    """
    url = _place(storage)
    return url.get_backend_name() == _POSTGRESQL or Path(url.database or "").is_file()


@contextmanager
def held(storage: str, study: str) -> Generator[None]:
    """Hold a study while the block runs: one process at a time works on it.

    Parameters
    ----------
    storage : str
        In SQLite the lock is a file beside the storage's, in PostgreSQL one of its own.
    study : str
        Name of the study.

    Raises
    ------
    ModelError
        When another process holds it, or the storage cannot be written to.

    Notes
    -----
    The kernel, or the server, lets go of the lock even when the process is killed: who holds it
    may take every trial that is marked as running for one that died.
    """
    url = _place(storage)
    hold = _held_on_server if url.get_backend_name() == _POSTGRESQL else _held_by_file
    with hold(url, study):
        yield


def not_stored(storage: str, error: Exception | None) -> ModelError:
    """Return the error of a storage that cannot be used; a URL may hold a password."""
    return ModelError(
        "a study cannot be stored here" + (f" ({type(error).__name__})" if error else ""),
        got=storage.partition(":")[0],
        allowed="sqlite:///FILE in a folder that can be written to, or postgresql+psycopg://...",
        remedy="correct the storage",
    )


def _place(storage: str) -> URL:
    try:
        url = make_url(storage)
    except ArgumentError as error:
        raise not_stored(storage, error) from error
    file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    if not file and url.drivername != f"{_POSTGRESQL}+psycopg":
        raise not_stored(storage, None)
    return url


def _connect(url: URL) -> sqlite3.Connection:
    """Return a connection whose commits survive the death of the process without a sync each.

    A failing machine can lose the newest of them; those trials run again.
    """
    connection = sqlite3.connect(url.database or "", timeout=60.0)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


@contextmanager
def _held_by_file(url: URL, study: str) -> Generator[None]:
    lock = FileLock(f"{url.database}.{_digest(study)[:8]}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise _taken(study) from None
    except OSError as error:
        raise not_stored(str(url), error) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _held_on_server(url: URL, study: str) -> Generator[None]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    # Locks are of the server's whole database: studies of two schemas are two.
    key = sa.text("SELECT pg_advisory_lock(hashtextextended(current_schema() || :study, 0))")
    try:
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        # The server takes a moment to see that a holder was killed.
        connection.execute(sa.text(f"SET lock_timeout = '{_PATIENCE}'"))
    except SQLAlchemyError as error:
        raise not_stored(str(url), error) from error
    with connection:
        try:
            connection.execute(key, {"study": study})
        except OperationalError as error:
            if isinstance(error.orig, LockNotAvailable):
                raise _taken(study) from None
            raise not_stored(str(url), error) from error
        yield


def _digest(study: str) -> str:
    return hashlib.sha256(study.encode()).hexdigest()


def _taken(study: str) -> ModelError:
    return ModelError(
        f"the study {study} is being tuned by another process",
        allowed="one process per study",
        remedy="wait for it, or choose another study name",
    )
