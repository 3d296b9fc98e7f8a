"""How a waiting reader learns that the ledger has something new.

PostgreSQL announces by itself (``NOTIFY``); on SQLite, which cannot, a reader looks again after
a while. An announcement only says when to look: what there is, is read from the tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from market.errors import LedgerError
from market.ledger import Ledger

HEARTBEAT_SECONDS = 30.0
"""A listener looks at least this often, so that a connection that died is noticed."""


def announce(connection: sa.Connection, channel: str, payload: str) -> None:
    """Announce something on PostgreSQL; listeners hear it when the transaction is committed.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        Of a writing transaction; when it is rolled back, nothing is announced.
    channel, payload : str
        Where, and what.
    """
    if connection.dialect.name == "postgresql":
        told = {"channel": channel, "payload": payload}
        connection.execute(sa.text("SELECT pg_notify(:channel, :payload)"), told)


@contextmanager
def listening(
    ledger: Ledger, channel: str, *, poll_seconds: float
) -> Generator[Callable[[], None]]:
    """Give a function that returns when it is time to look again.

    Parameters
    ----------
    ledger : Ledger
        What is watched.
    channel : str
        Announcements on it wake the reader, on PostgreSQL.
    poll_seconds : float
        How long to wait on SQLite.

    Yields
    ------
    callable
        Without arguments. Whatever is announced after this block was entered, wakes it.

    Raises
    ------
    LedgerError
        When the connection is lost.
    """
    if ledger.engine.dialect.name != "postgresql":
        yield lambda: time.sleep(poll_seconds)
        return
    try:
        connection = ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(f'LISTEN "{channel}"')
    except SQLAlchemyError as error:
        raise _lost(ledger, error) from error
    driver: Any = connection.connection.driver_connection
    failures = ledger.engine.dialect.loaded_dbapi.Error

    def wait() -> None:
        try:
            for _ in driver.notifies(timeout=HEARTBEAT_SECONDS, stop_after=1):
                pass
        except failures as error:
            raise _lost(ledger, error) from error

    try:
        yield wait
    finally:
        # Given back to the pool, it would go on listening.
        connection.invalidate()
        connection.close()


def _lost(ledger: Ledger, error: Exception) -> LedgerError:
    return LedgerError(
        f"the ledger's announcements cannot be heard ({str(error).splitlines()[0]})",
        got=ledger.engine.url.render_as_string(hide_password=True),
        remedy="see that the database server runs, then resume after the last hash that was seen",
    )
