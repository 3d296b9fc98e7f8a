"""The ledger: signals, orders and everything else that must not be lost.

SQLite in WAL mode by default, PostgreSQL by URL, through SQLAlchemy Core. Opening migrates
to the newest version. Readers never block the writer; there is one writer at a time, so that
hash chains have one order.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from market.errors import LedgerError
from market.hash_chain import utc_text
from market.ledger_tables import VERSION_TABLE, DecimalText, JsonText, UtcTime
from market.schema import UTC_MICROSECONDS

BUSY_TIMEOUT_SECONDS = 30
_WRITES = "isobar_writes"
_WRITER_LOCK = 0x150BA4
_LAKE_LOCK = 0x150BA5
_FILE = "isobar_file"
_MIGRATIONS = Path(__file__).parent / "migrations"
_FAILURES = (SQLAlchemyError, sqlite3.Error)
_STORED_TIME = "%Y-%m-%dT%H:%M:%S%.fZ"


class Ledger:
    """An open, migrated ledger. Made by :func:`open_ledger`.

    Attributes
    ----------
    engine : sqlalchemy.Engine
        For SQLAlchemy code that needs more than :meth:`read` and :meth:`transaction`.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def __repr__(self) -> str:
        return f"Ledger({_shown(self.engine.url)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @property
    def version(self) -> str:
        """Version of the tables: that of the newest migration, since opening migrates."""
        return str(self.read(f"SELECT version_num FROM {VERSION_TABLE}").item())

    def read(
        self, query: str | sa.Select[*tuple[Any, ...]], params: Mapping[str, object] | None = None
    ) -> pl.DataFrame:
        """Return the rows of a query, from one consistent snapshot.

        Parameters
        ----------
        query : str or Select
            SQL with ``:name`` parameters, or a SQLAlchemy select.
        params : Mapping, optional
            Parameters by name. Datetimes and decimals are spelled as the ledger stores them.

        Returns
        -------
        pl.DataFrame
            For a select over :mod:`market.ledger_tables`: typed columns (times in UTC, decimals
            with 12 places, JSON as text), also where there are no rows. For SQL text: values as
            stored, so times are fixed-width UTC text, which compares and sorts as time does.

        Raises
        ------
        LedgerError
            When the database refuses the query.

        Examples
        --------
        >>> import tempfile
        >>> ledger = open_ledger(f"sqlite:///{tempfile.mkdtemp()}/ledger.db")
        >>> ledger.read("SELECT count(*) AS n FROM signals").item()
        0
        >>> ledger.close()
        """
        schema = (
            None
            if isinstance(query, str)
            else {c.name: _polars_type(c.type) for c in query.selected_columns}
        )
        names, rows = self._fetch(query, params, as_stored=True)
        try:
            return _frame(names, rows, schema)
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise LedgerError(
                f"the ledger holds a value that cannot be read ({str(error).splitlines()[0]})",
                got=_shown(self.engine.url),
                allowed="values as Isobar writes them",
                remedy="run `isobar audit signals`; restore a backup where it finds anything",
            ) from error

    def rows(
        self, query: str | sa.Select[*tuple[Any, ...]], params: Mapping[str, object] | None = None
    ) -> list[dict[str, Any]]:
        """Return the rows of a query as dictionaries.

        Like :meth:`read`, but with Python values: a select gives datetimes, decimals and decoded
        JSON; SQL text gives values as stored, whatever is stored.
        """
        names, rows = self._fetch(query, params)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _fetch(
        self,
        query: str | sa.Select[*tuple[Any, ...]],
        params: Mapping[str, object] | None,
        *,
        as_stored: bool = False,
    ) -> tuple[list[str], Sequence[tuple[Any, ...]]]:
        statement: Any = sa.text(query) if isinstance(query, str) else query
        bound = dict(params or {})
        if isinstance(query, str):
            bound = {k: _stored(v) for k, v in bound.items()}
        try:
            with self.engine.connect() as connection:
                result = connection.execute(statement, bound)
                names = list(result.keys())
                # Frames convert whole columns at once: value by value takes four times as long.
                if as_stored and result.cursor is not None:
                    return names, result.cursor.fetchall()
                return names, [tuple(row) for row in result]
        except _FAILURES as error:
            raise _failure("the ledger refused a query", self.engine.url, error) from error

    @contextmanager
    def snapshot(self) -> Generator[sa.Connection]:
        """Give a connection whose queries all see the ledger as it was at the first of them.

        Yields
        ------
        sqlalchemy.Connection
            For reading only. Writers go on meanwhile.

        Raises
        ------
        LedgerError
            When the database fails.
        """
        try:
            with self.engine.connect() as connection:
                if connection.dialect.name == "postgresql":
                    connection = connection.execution_options(
                        isolation_level="REPEATABLE READ", postgresql_readonly=True
                    )
                yield connection
        except _FAILURES as error:
            raise _failure("the ledger refused a query", self.engine.url, error) from error

    @contextmanager
    def lake_lock(self) -> Generator[None]:
        """Hold the lake that belongs to this ledger against all others who have the ledger.

        Waits for them. The server lets go when this process, its machine or the connection dies.

        Raises
        ------
        LedgerError
            When the ledger is on SQLite, or the connection fails.
        """
        if self.engine.dialect.name != "postgresql":
            raise LedgerError(
                "this ledger cannot lock a lake that several machines share",
                got=_shown(self.engine.url),
                allowed="a ledger on PostgreSQL",
                remedy="set ledger_url",
            )
        try:
            with self.engine.connect() as connection, connection.begin():
                connection.execute(
                    sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LAKE_LOCK}
                )
                yield
        except _FAILURES as error:
            raise _failure("the lake could not be locked", self.engine.url, error) from error

    @contextmanager
    def transaction(self) -> Generator[sa.Connection]:
        """Give a connection inside one writing transaction: all of it is kept, or nothing.

        Yields
        ------
        sqlalchemy.Connection
            Committed at the end, rolled back when anything is raised. Writers wait for each
            other (``BEGIN IMMEDIATE`` on SQLite, an advisory lock on PostgreSQL), so what is
            read inside stays true until the commit.

        Raises
        ------
        LedgerError
            When the database fails: locked for too long, disk full, constraint broken, file gone.
        """
        try:
            with self.engine.connect() as connection:
                writing = connection.execution_options(**{_WRITES: True})
                with writing.begin():
                    _take_writer_lock(writing)
                    yield writing
                # Only now is it true that what was written lies where others look for it.
                if file := writing.info.get(_FILE):
                    file.refuse_vanished()
        except _FAILURES as error:
            raise _failure("the ledger could not be written", self.engine.url, error) from error


def open_ledger(url: str) -> Ledger:
    """Open a ledger, creating or migrating it to the newest version first.

    Parameters
    ----------
    url : str
        ``sqlite:///path/to/ledger.db``, or a ``postgresql+psycopg://`` URL.

    Returns
    -------
    Ledger
        At the newest version. Opening again changes nothing; processes that open at the same
        time wait for each other.

    Raises
    ------
    LedgerError
        When the URL is malformed, the place cannot be written, or the ledger was written by a
        newer Isobar. A password in the URL is never shown.

    Examples
    --------
    >>> import tempfile
    >>> with open_ledger(f"sqlite:///{tempfile.mkdtemp()}/ledger.db") as ledger:
    ...     ledger.read("SELECT * FROM signals").height
    0
    """
    parsed = _parse(url)
    try:
        # Asked before use: a server that was started anew has forgotten its connections.
        engine = sa.create_engine(parsed, hide_parameters=True, pool_pre_ping=True)
    except (NoSuchModuleError, ImportError) as error:
        raise LedgerError(
            "no driver for this ledger",
            got=_shown(parsed),
            allowed="sqlite:///path, postgresql+psycopg://user@host/name",
            remedy="install the driver (pip install psycopg) or use SQLite",
        ) from error
    if parsed.get_backend_name() == "sqlite":
        _prepare_sqlite(engine, parsed)
    try:
        _migrate(engine)
    except _FAILURES as error:
        engine.dispose()
        raise _failure("the ledger cannot be opened", parsed, error) from error
    except LedgerError:
        engine.dispose()
        raise
    return Ledger(engine)


def migration_config(connection: sa.Connection | None = None) -> Config:
    """Return the Alembic configuration of the packaged migrations."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise LedgerError(
            "malformed ledger URL",
            allowed="sqlite:///path, postgresql+psycopg://user@host/name",
            remedy="correct the ledger setting (it is not repeated here: it may hold a password)",
        ) from None
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise LedgerError(
            "a ledger in memory would be lost",
            got=_shown(parsed),
            allowed="sqlite:///path/to/ledger.db",
            remedy="name a file",
        )
    return parsed


def _prepare_sqlite(engine: sa.Engine, url: sa.URL) -> None:
    path = Path(str(url.database))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(
            f"the ledger's folder cannot be made ({error.strerror})",
            got=str(path.parent),
            allowed="a folder that can be written",
            remedy="choose another place or correct its permissions",
        ) from error
    file = _SqliteFile(path)
    event.listen(engine, "connect", file.configure)
    event.listen(engine, "begin", _begin_sqlite)


class _SqliteFile:
    """The file under an open ledger, which somebody may remove."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, int] | None = None

    def configure(self, connection: Any, record: Any) -> None:
        """Set a new connection up; the first one tells which file was opened."""
        # Transactions are begun by _begin_sqlite: the driver would begin too late, and deferred.
        connection.isolation_level = None
        self.refuse_vanished()
        cursor = connection.cursor()
        try:
            cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}")
            if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
        finally:
            cursor.close()
        self._opened = self._opened or self._identity()
        record.info[_FILE] = self

    def refuse_vanished(self) -> None:
        """Raise when the path no longer leads to the file that was opened.

        SQLite would go on writing to a file that was removed, and report it done.
        """
        if self._opened is None or self._identity() == self._opened:
            return
        raise LedgerError(
            "the ledger's file was removed or replaced while it was open",
            got=str(self.path),
            allowed="the file that was opened",
            remedy="restore it (isobar ledger restore FILE) and run again; nothing was reported "
            "done since",
        )

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.info[_FILE].refuse_vanished()
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _take_writer_lock(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        patience = {"patience": f"{BUSY_TIMEOUT_SECONDS * 1000 or 1}ms"}
        connection.execute(sa.text("SELECT set_config('lock_timeout', :patience, true)"), patience)
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER_LOCK})


def _migrate(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        writing = connection.execution_options(**{_WRITES: True})
        with writing.begin():
            _take_writer_lock(writing)
            config = migration_config(writing)
            script = ScriptDirectory.from_config(config)
            context = MigrationContext.configure(writing, opts={"version_table": VERSION_TABLE})
            at = context.get_current_heads()
            known = {r.revision for r in script.walk_revisions()}
            if newer := sorted(set(at) - known):
                raise LedgerError(
                    "this ledger was written by a newer version of Isobar",
                    got=", ".join(newer),
                    allowed=f"versions up to {script.get_current_head()}",
                    remedy="upgrade Isobar, or open a ledger of this version",
                )
            if at == tuple(script.get_heads()):
                return
            with EnvironmentContext(
                config,
                script,
                fn=lambda revision, _context: script._upgrade_revs("head", revision),  # pyright: ignore[reportPrivateUsage]
                destination_rev="head",
            ):
                script.run_env()


def _stored(value: object) -> object:
    if isinstance(value, dt.datetime):
        return utc_text(value)
    return format(value, "f") if isinstance(value, Decimal) else value


def _polars_type(kind: sa.types.TypeEngine[Any]) -> Any:
    table: tuple[tuple[type, Any], ...] = (
        (UtcTime, UTC_MICROSECONDS),
        (DecimalText, pl.Decimal(38, 12)),
        (JsonText, pl.String()),
        (sa.Boolean, pl.Boolean()),
        (sa.Integer, pl.Int64()),
        (sa.Float, pl.Float64()),
        (sa.String, pl.String()),
    )
    return next((polars for sql, polars in table if isinstance(kind, sql)), None)


def _frame(
    names: list[str], rows: Sequence[tuple[Any, ...]], schema: dict[str, Any] | None
) -> pl.DataFrame:
    values = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    kinds = [None if schema is None else schema.get(name) for name in names]
    return pl.DataFrame({n: _series(n, v, k) for n, v, k in zip(names, values, kinds, strict=True)})


def _series(name: str, values: Sequence[Any], kind: Any) -> pl.Series:
    """Return values as stored with the type that their column has in the tables."""
    if kind == UTC_MICROSECONDS:
        text = pl.Series(name, values, dtype=pl.String())
        return text.str.to_datetime(_STORED_TIME, time_unit="us").dt.replace_time_zone("UTC")
    if isinstance(kind, pl.Decimal):
        return pl.Series(name, values, dtype=pl.String()).cast(kind)
    if kind == pl.Boolean():
        return pl.Series(name, values).cast(kind)
    return pl.Series(name, values, dtype=kind, strict=True)


def _shown(url: sa.URL) -> str:
    return url.render_as_string(hide_password=True)


def _failure(problem: str, url: sa.URL, error: Exception) -> LedgerError:
    cause = str(getattr(error, "orig", None) or error).splitlines()[0]
    if url.password is not None:
        cause = cause.replace(str(url.password), "***")
    lowered = cause.lower()
    remedy = "see the message; the transaction was rolled back, so it is safe to try again"
    if "full" in lowered or "no space left" in lowered:
        remedy = "free disk space and run again; nothing was half-written"
    elif "disk i/o error" in lowered:
        remedy = "see that the disk has room and is sound, then run again"
    elif "locked" in lowered or "lock timeout" in lowered:
        remedy = "another process holds the ledger; wait for it and run again"
    elif "connection" in lowered:
        remedy = "see that the database server runs and can be reached, then run again"
    elif "readonly" in lowered or "unable to open" in lowered:
        remedy = "choose a place that can be written, or correct its permissions"
    elif "not a database" in lowered or "malformed" in lowered:
        remedy = (
            "name another file; a damaged ledger is moved aside with its -wal and -shm, then"
            " `isobar ledger restore FILE`"
        )
    return LedgerError(f"{problem} ({cause})", got=_shown(url), remedy=remedy)
