"""Reading on from where a consumer stopped: every batch, whole, in order, once.

A cursor is the hash of a row. The chain gives each row one place for ever, so a consumer that
died goes on after the last hash it saw and misses nothing: a correction is newer rows, too.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Generator
from dataclasses import dataclass

import polars as pl
import sqlalchemy as sa

from market.errors import SignalError
from market.hash_chain import GENESIS_HASH
from market.ledger import Ledger
from market.ledger_tables import signal_batches, signals
from signals.publish import decode_signals

_BATCH_COLUMNS = (
    "batch_id",
    "run",
    "as_of",
    "revision",
    "scheduled_for",
    "ts_emit",
    "late",
    "rows",
    "head_hash",
)
# What following takes in at once, of a consumer that is far behind.
_FOLLOWED_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a consumer is given at once.

    Attributes
    ----------
    rows : pl.DataFrame
        ``SIGNAL_SCHEMA``, in the order of publication; superseded rows are among them, each
        before the revision that supersedes it.
    batches : pl.DataFrame
        The batches that were read, in order: ``batch_id``, ``run``, ``as_of``, ``revision``,
        ``scheduled_for``, ``ts_emit``, ``late``, ``rows`` (of the whole batch, whatever the
        filters) and ``head_hash``. A revision takes the place of the whole batch of the same
        run and ``as_of``, also of rows that it no longer has.
    cursor : str
        Where to read on: beyond everything that was looked at, also where filters left no row.
    """

    rows: pl.DataFrame
    batches: pl.DataFrame
    cursor: str


def read_after(
    ledger: Ledger,
    cursor: str | None,
    *,
    since: dt.datetime | None = None,
    horizon: str | None = None,
    symbol: str | None = None,
    engine: str | None = None,
    limit: int | None = None,
) -> Delivery:
    """Return what was published after a row.

    Parameters
    ----------
    ledger : Ledger
        Where from.
    cursor : str or None
        The hash of the last row that was seen, be it the last of its batch or not;
        ``Delivery.cursor`` of an earlier reading; None for everything from the first row on.
    since : datetime, optional
        Only rows with an ``as_of`` from here on.
    horizon, symbol, engine : str, optional
        Only these rows.
    limit : int, optional
        Read no further than this many rows, before filters; but a batch is never cut, and at
        least one is read where there is one.

    Returns
    -------
    Delivery
        Empty, with the same cursor, when there is nothing newer.

    Raises
    ------
    SignalError
        When no row has this hash, or the limit is below 1.

    Examples
    --------
    >>> import tempfile
    >>> from market.ledger import open_ledger
    >>> with open_ledger(f"sqlite:///{tempfile.mkdtemp()}/ledger.db") as ledger:
    ...     read_after(ledger, None).rows.height
    0
    """
    if limit is not None and limit < 1:
        raise SignalError("no rows to read", got=limit, allowed="1 or more", remedy="raise it")
    start = _place(ledger, cursor)
    # Two readings, one truth: rows are only ever added, and batches become visible in order.
    batches = _batches_after(ledger, start, limit)
    if batches.is_empty():
        rows = ledger.read(sa.select(signals).where(sa.false()))
        return Delivery(decode_signals(rows), batches, cursor or GENESIS_HASH)
    table = signals.c
    batch_ids = signal_batches.c
    end = (
        sa.select(batch_ids.last_seq)
        .where(batch_ids.batch_id == batches["batch_id"][-1])
        .scalar_subquery()
    )
    query = sa.select(signals).where(table.seq > start, table.seq <= end).order_by(table.seq)
    if since is not None:
        query = query.where(table.as_of >= since)
    equal = ((table.horizon, horizon), (table.symbol, symbol), (table.engine, engine))
    for column, wanted in equal:
        if wanted is not None:
            query = query.where(column == wanted)
    return Delivery(decode_signals(ledger.read(query)), batches, batches["head_hash"][-1])


def newest_cursor(ledger: Ledger) -> str:
    """Return the cursor after which nothing has been published yet."""
    table = signal_batches.c
    query = sa.select(table.head_hash).where(table.complete).order_by(table.seq.desc()).limit(1)
    found = ledger.rows(query)
    return found[0]["head_hash"] if found else GENESIS_HASH


def follow(
    ledger: Ledger,
    cursor: str | None,
    wait: Callable[[], None],
    *,
    since: dt.datetime | None = None,
    horizon: str | None = None,
    symbol: str | None = None,
    engine: str | None = None,
) -> Generator[Delivery]:
    """Give each delivery as it comes, for ever.

    Parameters
    ----------
    ledger : Ledger
        Where from.
    cursor : str or None
        As for :func:`read_after`.
    wait : callable
        Returns when it is time to look again; see :func:`market.ledger_notices.listening`.
    since, horizon, symbol, engine
        As for :func:`read_after`. Batches of which nothing is left are not given.

    Yields
    ------
    Delivery

    Raises
    ------
    SignalError
        As :func:`read_after`.
    """
    while True:
        given = read_after(
            ledger,
            cursor,
            since=since,
            horizon=horizon,
            symbol=symbol,
            engine=engine,
            limit=_FOLLOWED_ROWS,
        )
        cursor = given.cursor
        if given.rows.height:
            yield given
        if given.batches.is_empty():
            wait()


def _place(ledger: Ledger, cursor: str | None) -> int:
    if cursor is None or cursor == GENESIS_HASH:
        return 0
    found = ledger.rows(sa.select(signals.c.seq).where(signals.c.hash == cursor))
    if not found:
        raise SignalError(
            "no signal has this cursor's hash",
            got=cursor[:80],
            allowed="the `hash` of a signal in this ledger, or none for all of them",
            remedy="take the hash of the last signal that was seen; where the ledger was restored "
            "from an older backup, read everything again",
        )
    return found[0]["seq"]


def _batches_after(ledger: Ledger, start: int, limit: int | None) -> pl.DataFrame:
    table = signal_batches.c
    query = (
        sa.select(*(table[n] for n in _BATCH_COLUMNS))
        .where(table.complete, table.last_seq > start)
        .order_by(table.seq)
    )
    if limit is None:
        return ledger.read(query)
    # No batch is empty, so no more of them than rows are needed.
    found = ledger.read(query.limit(limit))
    within = (pl.col("rows").cum_sum() <= limit) | (pl.int_range(pl.len()) == 0)
    return found.filter(within)
