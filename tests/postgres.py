"""A PostgreSQL server from the machine's own binaries, on a free loopback port."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

_PACKAGED = Path("/usr/lib/postgresql")
_OPTIONS = (
    "-c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off "
    "-c shared_buffers=32MB -c max_connections=40"
)


class PostgresServer:
    """A running server. Its data is thrown away at the end; nobody else can reach it."""

    def __init__(self, binaries: Path, folder: Path, user: str | None) -> None:
        self._binaries, self._folder, self._user = binaries, folder, user
        self._data = folder / "data"
        self._log = folder / "server.log"
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._run("initdb", "-D", self._data, "-U", "isobar", "-A", "trust", "-E", "UTF8", "-N")
        self.start()

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"{_OPTIONS} -p {self.port}"
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-l", self._log, "-o", options)

    def stop(self) -> None:
        """Stop at once, whoever is connected."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self._data)

    def database(self) -> str:
        """Return the URL of an empty place: a schema, which is made twenty times faster."""
        name = f"ledger_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url}?options=-csearch_path%3D{name}"

    @property
    def url(self) -> str:
        """URL of the server's one database."""
        return f"postgresql+psycopg://isobar@127.0.0.1:{self.port}/postgres"

    def execute(self, sql: str) -> None:
        """Run one statement as the owner of the server."""
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(sql)

    def folder(self, name: str) -> Path:
        """Return a new folder that the server can reach."""
        made = self._folder / name
        made.mkdir()
        return made

    def own(self, place: Path) -> None:
        """Give a folder to the user under whom the server runs."""
        if self._user is not None:
            shutil.chown(place, self._user)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._binaries / program), *map(str, arguments)]
        # A file, not a pipe: the server inherits it, and a pipe would never be read to its end.
        with tempfile.TemporaryFile() as told:
            done = subprocess.run(
                command, user=self._user, stdout=told, stderr=told, cwd="/", check=False
            )
            told.seek(0)
            said = told.read().decode()
        if done.returncode:
            log = self._log.read_text() if self._log.exists() else ""
            raise RuntimeError(f"{program} failed: {said}\n{log}")


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server for a while; skip, and say why, where it cannot be."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("PostgreSQL is not tested: psycopg is not installed")
    binaries = _find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not tested: initdb and pg_ctl are not on this machine")
    # Not under pytest's folder: only root may enter that one, and the server refuses to be root.
    folder = Path(tempfile.mkdtemp(prefix="isobar-postgres-"))
    try:
        user = _other_user() if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(folder, user)
        server = PostgresServer(binaries, folder, user)
        try:
            yield server
        finally:
            with suppress(RuntimeError):
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _find_binaries() -> Path | None:
    on_path = shutil.which("initdb")
    packaged = sorted(_PACKAGED.glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    places = [*([Path(on_path).resolve().parent] if on_path else []), *packaged]
    needed = ("initdb", "pg_ctl", "postgres")
    return next((p for p in places if all((p / n).exists() for n in needed)), None)


def _other_user() -> str:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("PostgreSQL is not tested: it refuses to run as root and there is no other user")
