"""Backups of a ledger and its head file: one portable file, proved before it is trusted.

A backup is a SQLite database with the ledger's tables, whatever database the ledger is kept in,
and the heads of its batches; so it can be restored into either, and opened with any SQLite.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import TypeDecorator

from market.errors import LedgerError
from market.hash_chain import canonical_json, utc_text
from market.ledger import Ledger, open_ledger
from market.ledger_tables import METADATA, VERSION_TABLE
from signals.head_file import BatchHead, append_heads, read_heads
from signals.publish import compare_heads, sync_head_file, verify_rows

_CHUNK_ROWS = 5_000
_TABLE = "isobar_backup"


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds.

    Attributes
    ----------
    made_at : str
        UTC.
    version : str
        Of the ledger's tables.
    rows : int
        Of all tables.
    batches : int
        Of signals.
    head_hash : str
        Hash of the last signal; empty where there is none.
    """

    made_at: str
    version: str
    rows: int
    batches: int
    head_hash: str


def backup_ledger(ledger: Ledger, head_file: Path, target: Path, *, made_at: dt.datetime) -> Backup:
    """Write a consistent backup while writers go on.

    Parameters
    ----------
    ledger : Ledger
        What to keep.
    head_file : Path
        The heads that are kept outside the ledger.
    target : Path
        A file that does not exist yet. It appears whole and proved, or not at all.
    made_at : datetime
        Aware.

    Returns
    -------
    Backup

    Raises
    ------
    LedgerError
        When the file is there already or cannot be written, or the chain does not hold.
    SignalError
        When ledger and head file tell different histories.
    """
    if target.exists():
        raise LedgerError(
            "the backup's file is there already",
            got=str(target),
            allowed="a new file",
            remedy="name another file, or remove this one",
        )
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        _copy_ledger(ledger, partial)
        # After the copy: by now the file knows of every batch in it.
        sync_head_file(ledger, head_file)
        heads = _prove(partial, read_heads(head_file))
        made = _describe(partial, heads, made_at)
        _settle(partial)
        partial.replace(target)
        _settle(target.parent)
    except (OSError, sqlite3.Error, SQLAlchemyError) as error:
        raise LedgerError(
            f"the backup could not be written ({str(error).splitlines()[0]})",
            got=str(target),
            allowed="a place that can be written, with room for the whole ledger",
            remedy="free disk space or name another place; the ledger is as it was",
        ) from error
    finally:
        for left in (partial, *(Path(f"{partial}{s}") for s in ("-wal", "-shm", "-journal"))):
            left.unlink(missing_ok=True)
    return made


def restore_ledger(
    backup: Path, ledger: Ledger, head_file: Path, *, replace: bool = False
) -> Backup:
    """Put back what a backup holds, in one transaction.

    Parameters
    ----------
    backup : Path
        Made by :func:`backup_ledger`, on either database, by this version or an older one.
    ledger : Ledger
        Where to; an empty one, unless ``replace``.
    head_file : Path
        Takes the heads of the backup.
    replace : bool
        Give up what the ledger holds.

    Returns
    -------
    Backup

    Raises
    ------
    LedgerError
        When the file is no backup, was made by a newer version or does not hold together; when
        the ledger has content, or the head file remembers batches that the backup lacks, and
        ``replace`` is not given; when the database fails. The ledger is then as it was.
    """
    told, heads = _read_backup(backup)
    remembered = read_heads(head_file)
    with _at_this_version(backup, told.version) as source:
        # Proved as it lies there, before anything is touched; and again below, as it arrived.
        _prove(source, heads)
        with tempfile.TemporaryDirectory(prefix="heads", dir=_folder(head_file)) as folder:
            fresh = Path(folder) / head_file.name
            append_heads(fresh, lambda _known: heads)
            with ledger.transaction() as connection:
                if replace:
                    for table in reversed(METADATA.sorted_tables):
                        connection.execute(sa.delete(table))
                else:
                    _refuse_loss(connection, ledger, remembered, heads)
                with _reading(source) as kept:
                    rows = _copy_rows(kept, connection)
                findings, there = verify_rows(connection)
                if rows != told.rows or findings or there != heads:
                    raise _broken(backup, findings or [f"{rows} rows arrived of {told.rows}"])
            # A crash before this line leaves a ledger on which nothing can be published, by
            # the old heads; restoring again mends it.
            fresh.replace(head_file)
    return told


def _folder(head_file: Path) -> Path:
    head_file.parent.mkdir(parents=True, exist_ok=True)
    return head_file.parent


def _copy_ledger(ledger: Ledger, partial: Path) -> None:
    if ledger.engine.dialect.name == "sqlite":
        raw = ledger.engine.raw_connection()
        try:
            with closing(sqlite3.connect(partial)) as copy:
                source: Any = raw.driver_connection
                source.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")
        finally:
            raw.close()
        return
    with (
        open_ledger(f"sqlite:///{partial}") as copy,
        ledger.snapshot() as source,
        copy.transaction() as connection,
    ):
        _copy_rows(source, connection)
    with closing(sqlite3.connect(partial)) as raw:
        raw.execute("PRAGMA journal_mode=DELETE")


def _copy_rows(source: sa.Connection, target: sa.Connection) -> int:
    """Copy every table as stored, and return the number of rows."""
    copied = 0
    for table in METADATA.sorted_tables:
        plain = sa.Table(table.name, sa.MetaData(), *(_as_stored(c) for c in table.columns))
        query = sa.select(plain).execution_options(yield_per=_CHUNK_ROWS)
        for part in source.execute(query).mappings().partitions():
            target.execute(sa.insert(plain), [dict(row) for row in part])
            copied += len(part)
    return copied


def _as_stored(column: sa.Column[Any]) -> sa.Column[Any]:
    kind: Any = column.type
    return sa.Column(column.name, kind.impl if isinstance(kind, TypeDecorator) else kind)


@contextmanager
def _reading(file: Path) -> Generator[sa.Connection]:
    # The name as a URI: so it can be opened for reading only.
    engine = sa.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True),
        poolclass=sa.NullPool,
    )
    with engine.connect() as connection:
        yield connection


def _prove(file: Path, remembered: Sequence[BatchHead]) -> list[BatchHead]:
    """Return the heads of the batches in a file, whose chain must hold and be remembered."""
    with _reading(file) as connection:
        findings, heads = verify_rows(connection)
    findings.extend(compare_heads(heads, remembered[: len(heads)]))
    if findings:
        raise _broken(file, findings)
    return heads


def _broken(file: Path, findings: Sequence[str]) -> LedgerError:
    return LedgerError(
        f"the chain of signals does not hold in {file.name.removesuffix('.partial')}",
        got=list(findings[:3]),
        allowed="every signal as it was published",
        remedy="run `isobar audit signals`, and restore an older backup where it finds anything",
    )


def _describe(partial: Path, heads: Sequence[BatchHead], made_at: dt.datetime) -> Backup:
    """Write into the backup what it is, and return that."""
    with closing(sqlite3.connect(partial)) as copy:
        names = [t.name for t in METADATA.sorted_tables]
        rows = sum(copy.execute(f"SELECT count(*) FROM {n}").fetchone()[0] for n in names)
        version = copy.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()[0]
        last = heads[-1].head_hash if heads else ""
        made = Backup(utc_text(made_at), version, rows, len(heads), last)
        copy.execute(f"CREATE TABLE {_TABLE} (name TEXT NOT NULL, value TEXT NOT NULL)")
        told = [("backup", asdict(made)), *(("head", asdict(h)) for h in heads)]
        lines = [(name, canonical_json(value).decode()) for name, value in told]
        copy.executemany(f"INSERT INTO {_TABLE} VALUES (?, ?)", lines)
        copy.commit()
    return made


def _read_backup(file: Path) -> tuple[Backup, list[BatchHead]]:
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as kept:
            rows = kept.execute(f"SELECT name, value FROM {_TABLE} ORDER BY rowid").fetchall()
        told = [(name, orjson.loads(value)) for name, value in rows]
        made = next(Backup(**value) for name, value in told if name == "backup")
        return made, [BatchHead(**value) for name, value in told if name == "head"]
    except (sqlite3.Error, orjson.JSONDecodeError, TypeError, StopIteration) as error:
        raise LedgerError(
            f"this is no backup of a ledger ({str(error) or 'it does not say what it is'})",
            got=str(file),
            allowed="a file that `isobar ledger backup` made",
            remedy="name another file",
        ) from error


@contextmanager
def _at_this_version(backup: Path, version: str) -> Generator[Path]:
    """Give a file with the tables of this version; the backup itself is never changed."""
    with tempfile.TemporaryDirectory(prefix="isobar-restore-") as folder:
        copy = Path(folder) / backup.name
        open_ledger(f"sqlite:///{Path(folder) / 'empty.db'}").close()
        with closing(sqlite3.connect(Path(folder) / "empty.db")) as empty:
            current = empty.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()[0]
        if version == current:
            yield backup
            return
        shutil.copyfile(backup, copy)
        open_ledger(f"sqlite:///{copy}").close()
        yield copy


def _refuse_loss(
    connection: sa.Connection,
    ledger: Ledger,
    remembered: Sequence[BatchHead],
    heads: Sequence[BatchHead],
) -> None:
    held = {
        t.name: n
        for t in METADATA.sorted_tables
        if (n := connection.scalar(sa.select(sa.func.count()).select_from(t)))
    }
    if held:
        raise LedgerError(
            "the ledger has content",
            got=f"{ledger!r} with {', '.join(f'{n} {name}' for name, n in held.items())}",
            allowed="an empty ledger",
            remedy="restore into another one, or say --replace: what it holds is then lost",
        )
    if list(remembered) != list(heads[: len(remembered)]):
        raise LedgerError(
            "the head file remembers batches that the backup does not have",
            got=f"{len(remembered)} batches remembered, {len(heads)} in the backup",
            allowed="a backup with every batch that was ever published",
            remedy="restore a newer backup, or say --replace: those batches are then given up",
        )


def _settle(place: Path) -> None:
    """Force a file or folder to the disk."""
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
