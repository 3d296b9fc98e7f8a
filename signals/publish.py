"""Publication: a batch of signals reaches its readers whole, once, or not at all.

Rows are never changed. The same batch again is the same rows; a correction is a new revision
that takes the old one's place in the view ``signals_current``. Every row is hashed over the
row before it, and the head after each batch is also kept outside the database.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import sqlalchemy as sa

from market.errors import SignalError
from market.hash_chain import GENESIS_HASH, canonical_json, chain_hash
from market.ledger import Ledger
from market.ledger_notices import announce
from market.ledger_tables import batch_inputs, signal_batches, signals_current
from market.ledger_tables import signals as signals_table
from signals.head_file import BatchHead, append_heads, read_heads
from signals.schema import SIGNAL_SCHEMA, SignalColumn
from signals.validate import validate_batch

CHANNEL = "isobar_signals"
"""The PostgreSQL channel on which each batch is announced by its id, as it becomes visible."""

_CHUNK_ROWS = 5_000
_HASHED = [n for n in SIGNAL_SCHEMA.names() if n not in (SignalColumn.PREV_HASH, SignalColumn.HASH)]


@dataclass(frozen=True, slots=True)
class PublishedBatch:
    """What publication did.

    Attributes
    ----------
    batch_id : str
        Identity of the batch: a function of run, as_of and revision.
    rows : int
        Number of signals in it.
    head_hash : str
        Hash of its last row.
    already_published : bool
        True when the ledger held this content already and nothing was written.
    """

    batch_id: str
    rows: int
    head_hash: str
    already_published: bool


def publish_batch(
    ledger: Ledger,
    signals: pl.DataFrame,
    *,
    run: str,
    as_of: dt.datetime,
    scheduled_for: dt.datetime,
    ts_emit: dt.datetime,
    late: bool,
    head_file: Path,
    inputs: Mapping[str, Any] | None = None,
    universe: Collection[str] | None = None,
) -> PublishedBatch:
    """Publish a batch in one transaction.

    Parameters
    ----------
    ledger : Ledger
    signals : pl.DataFrame
        ``signals.schema.CONTENT_SCHEMA``; one row per symbol, horizon and engine.
    run : str
        ``premarket``, ``midday``, ``eod`` or ``intraday``.
    as_of, scheduled_for, ts_emit : datetime
        What the signals knew, when the run was due, when it is published.
    late : bool
        Whether it is published past the run's limit; risk checks deny every order of such a batch.
    head_file : Path
        Remembers heads outside the database; what a crash kept out, the next call appends.
    inputs : mapping, optional
        JSON: what the signals were made from (:class:`signals.inputs.BatchInputs`); kept beside
        the batch, in the same transaction.
    universe : collection of str, optional
        The only symbols that may be in the batch.

    Returns
    -------
    PublishedBatch
        With ``already_published`` when the newest revision of this (run, as_of) has the same
        content; ``ts_emit`` and ``late`` do not count as content.

    Raises
    ------
    SignalError
        When a row breaks a rule, or the ledger lacks batches that the head file remembers.
    LedgerError
        When the database fails. In both cases nothing is written.
    """
    _refuse_naive(as_of=as_of, scheduled_for=scheduled_for, ts_emit=ts_emit)
    frame = validate_batch(signals, run=run, as_of=as_of, universe=universe)
    content = frame.to_dicts()
    wanted = {
        "run": run,
        "as_of": as_of,
        "scheduled_for": scheduled_for,
        "ts_emit": ts_emit,
        "late": late,
        "complete": True,
        "content_hash": hashlib.sha256(canonical_json([run, as_of, content])).hexdigest(),
    }
    remembered = read_heads(head_file)
    with ledger.transaction() as connection:
        heads = _heads_of(connection)
        if list(remembered) != heads[: len(remembered)]:
            raise _diverged(remembered, heads)
        batch = _newest_revision(connection, run, as_of)
        published = batch is not None and batch["content_hash"] == wanted["content_hash"]
        if batch is None or not published:
            batch = _insert(connection, wanted, content)
            heads += _heads_of(connection, batch["batch_id"])
            if inputs is not None:
                kept = {"batch_id": batch["batch_id"], "inputs": dict(inputs)}
                connection.execute(batch_inputs.insert(), kept)
            announce(connection, CHANNEL, batch["batch_id"])
    sync_head_file(ledger, head_file, heads)
    return PublishedBatch(batch["batch_id"], batch["rows"], batch["head_hash"], published)


def sync_head_file(
    ledger: Ledger, head_file: Path, heads: Sequence[BatchHead] | None = None
) -> int:
    """Append the heads that the file lacks and return how many there were.

    Parameters
    ----------
    ledger : Ledger
        What to remember.
    head_file : Path
        Where.
    heads : sequence of BatchHead, optional
        All of the ledger, as a caller has just read them; read where absent.

    Raises
    ------
    SignalError
        When the file remembers batches that the ledger does not have.
    """

    def missing(known: Sequence[BatchHead]) -> list[BatchHead]:
        there = heads
        # Another writer may have been here since they were read.
        if there is None or len(known) > len(there):
            with ledger.snapshot() as connection:
                there = _heads_of(connection)
        if list(known) != list(there[: len(known)]):
            raise _diverged(known, there)
        return list(there[len(known) :])

    return len(append_heads(head_file, missing))


def read_signals(
    ledger: Ledger,
    *,
    batch: str | None = None,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    horizon: str | None = None,
    symbol: str | None = None,
    engine: str | None = None,
) -> pl.DataFrame:
    """Return current signals, in the order of their publication.

    Parameters
    ----------
    ledger : Ledger
        Where from.
    batch : str, optional
        Only what this batch holds and no correction has replaced; :func:`newest_batch` names one.
    since, until : datetime, optional
        Bounds on ``as_of``: from ``since`` (included) to ``until`` (included).
    horizon, symbol, engine : str, optional
        Keep only these.

    Returns
    -------
    pl.DataFrame
        ``SIGNAL_SCHEMA``.
    """
    view = signals_current.c
    query = sa.select(signals_current)
    if since is not None:
        query = query.where(view.as_of >= since)
    if until is not None:
        query = query.where(view.as_of <= until)
    equal = (
        (view.batch_id, batch),
        (view.horizon, horizon),
        (view.symbol, symbol),
        (view.engine, engine),
    )
    for column, wanted in equal:
        if wanted is not None:
            query = query.where(column == wanted)
    # Sorted here: asked for an order, SQLite walks along it through all rows, whatever the filter.
    return decode_signals(ledger.read(query).sort("seq"))


def newest_batch(ledger: Ledger, *, run: str | None = None) -> str | None:
    """Return the id of the batch that was published last, or None where there is none.

    Parameters
    ----------
    ledger : Ledger
        Where from.
    run : str, optional
        Of this run only.
    """
    query = sa.select(signal_batches.c.batch_id).where(signal_batches.c.complete)
    if run is not None:
        query = query.where(signal_batches.c.run == run)
    found = ledger.rows(query.order_by(signal_batches.c.seq.desc()).limit(1))
    return found[0]["batch_id"] if found else None


def decode_signals(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows that ``Ledger.read`` gave for the signals table as ``SIGNAL_SCHEMA``."""
    lists = (SignalColumn.TARGETS, SignalColumn.STOPS, SignalColumn.FEATURES)
    decoded = rows.with_columns(pl.col(c).str.json_decode(SIGNAL_SCHEMA[c]) for c in lists)
    return decoded.select(SIGNAL_SCHEMA.names())


def verify_chain(ledger: Ledger, head_file: Path) -> list[str]:
    """Look for altered, removed and inserted rows, while writers go on.

    Parameters
    ----------
    ledger : Ledger
        What to verify.
    head_file : Path
        The heads kept outside the database.

    Returns
    -------
    list of str
        One finding per break; empty when everything holds.
    """
    before = read_heads(head_file)
    with ledger.snapshot() as connection:
        findings, heads = verify_rows(connection)
    # What was remembered before must be there; what is there must be remembered by now. Heads
    # of batches that came after the snapshot prove nothing about it.
    remembered = read_heads(head_file)[: max(len(before), len(heads))]
    return [*findings, *compare_heads(heads, remembered)]


def verify_rows(connection: sa.Connection) -> tuple[list[str], list[BatchHead]]:
    """Return what is wrong with the chain that a connection sees, and the heads of its batches."""
    batches = [dict(row) for row in connection.execute(_BATCHES).mappings()]
    tallies = {batch["batch_id"]: _Tally() for batch in batches}
    findings = list(_row_findings(_stored_rows(connection), tallies))
    findings.extend(_batch_findings(batches, tallies))
    return findings, [_head(batch) for batch in batches]


def compare_heads(heads: Sequence[BatchHead], remembered: Sequence[BatchHead]) -> Iterator[str]:
    """Tell where a ledger's heads differ from those remembered outside it."""
    for place, head in enumerate(remembered):
        if place >= len(heads):
            yield f"batch {head.batch_id} was removed: the head file remembers it"
        elif head != heads[place]:
            yield (
                f"batch {heads[place].batch_id} is not as the head file remembers it "
                f"(there: {head.batch_id}, {head.rows} rows, {head.head_hash[:12]})"
            )
    for head in heads[len(remembered) :]:
        yield f"batch {head.batch_id} is not in the head file"


def _refuse_naive(**moments: dt.datetime) -> None:
    for name, moment in moments.items():
        if moment.tzinfo is None:
            raise SignalError(
                f"{name} has no time zone",
                got=moment.isoformat(),
                allowed="aware datetimes",
                remedy="attach the zone, for example tzinfo=datetime.UTC",
            )


def _newest_revision(
    connection: sa.Connection, run: str, as_of: dt.datetime
) -> dict[str, Any] | None:
    table = signal_batches.c
    query = (
        sa.select(signal_batches)
        .where(table.run == run, table.as_of == as_of, table.complete)
        .order_by(table.revision.desc())
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    return None if row is None else dict(row)


def _next_revision(connection: sa.Connection, as_of: dt.datetime) -> int:
    # Over all runs of this moment: a row's key is (as_of, symbol, horizon, engine, revision).
    newest = sa.select(sa.func.max(signal_batches.c.revision)).where(
        signal_batches.c.as_of == as_of
    )
    return (connection.scalar(newest) or 0) + 1


def _insert(
    connection: sa.Connection, wanted: dict[str, Any], content: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    revision = _next_revision(connection, wanted["as_of"])
    batch_id = _batch_id(wanted["run"], wanted["as_of"], revision)
    batch: dict[str, Any] = {**wanted, "batch_id": batch_id, "revision": revision}
    last = sa.select(signals_table.c.seq, signals_table.c.hash).order_by(signals_table.c.seq.desc())
    found = connection.execute(last.limit(1)).first()
    seq, prev_hash = (0, GENESIS_HASH) if found is None else (found[0], found[1])
    rows: list[dict[str, Any]] = []
    for place, fields in enumerate(content, start=seq + 1):
        row = {
            **fields,
            "seq": place,
            "batch_id": batch["batch_id"],
            "revision": batch["revision"],
            "ts_emit": batch["ts_emit"],
            "as_of": batch["as_of"],
        }
        row["id"] = _signal_id(row)
        row["prev_hash"] = prev_hash
        row["hash"] = prev_hash = _row_hash(row)
        rows.append(row)
    top = connection.scalar(sa.select(sa.func.max(signal_batches.c.seq))) or 0
    batch = {
        **batch,
        "seq": top + 1,
        "rows": len(rows),
        "first_seq": rows[0]["seq"],
        "last_seq": rows[-1]["seq"],
        "head_hash": prev_hash,
    }
    connection.execute(signal_batches.insert(), batch)
    connection.execute(signals_table.insert(), rows)
    return batch


def _signal_id(row: Mapping[str, Any]) -> str:
    key = [row[k] for k in ("as_of", "symbol", "horizon", "engine", "revision")]
    return hashlib.sha256(canonical_json(key)).hexdigest()[:32]


def _batch_id(run: str, as_of: dt.datetime, revision: int) -> str:
    return hashlib.sha256(canonical_json(["batch", run, as_of, revision])).hexdigest()[:32]


def _row_hash(row: Mapping[str, Any]) -> str:
    return chain_hash(row["prev_hash"], {n: row[n] for n in ("seq", *_HASHED)})


def _head(batch: dict[Any, Any]) -> BatchHead:
    return BatchHead(
        batch_id=batch["batch_id"],
        last_seq=batch["last_seq"],
        rows=batch["rows"],
        head_hash=batch["head_hash"],
        batch_hash=hashlib.sha256(canonical_json(batch)).hexdigest(),
    )


_BATCHES = sa.select(signal_batches).order_by(signal_batches.c.seq)


def _heads_of(connection: sa.Connection, batch_id: str | None = None) -> list[BatchHead]:
    """Return the heads of all batches as they are stored, or that of one."""
    query = _BATCHES
    if batch_id is not None:
        query = query.where(signal_batches.c.batch_id == batch_id)
    return [_head(dict(row)) for row in connection.execute(query).mappings()]


def _stored_rows(connection: sa.Connection) -> Iterator[dict[str, Any]]:
    # As stored: a row that was tampered with may no longer decode, and that is a finding.
    query = sa.text("SELECT * FROM signals ORDER BY seq").execution_options(yield_per=_CHUNK_ROWS)
    for stored in connection.execute(query).mappings():
        row = dict(stored)
        for name in (SignalColumn.TARGETS, SignalColumn.STOPS, SignalColumn.FEATURES):
            try:
                row[name] = orjson.loads(row[name])
            except orjson.JSONDecodeError:
                continue
        yield row


def _diverged(remembered: Sequence[BatchHead], heads: Sequence[BatchHead]) -> SignalError:
    return SignalError(
        "the ledger and its head file tell different histories",
        got=f"{len(heads)} batches in the ledger, {len(remembered)} remembered",
        allowed="every remembered batch unchanged in the ledger",
        remedy="restore the ledger (or its own head file) from the same backup, then verify",
    )


@dataclass(slots=True)
class _Tally:
    """What was seen of a batch's rows."""

    rows: int = 0
    last_seq: int = 0
    last_hash: str = ""


def _row_findings(
    rows: Iterator[Mapping[str, Any]], tallies: Mapping[str, _Tally]
) -> Iterator[str]:
    prev_hash, seq = GENESIS_HASH, 0
    for row in rows:
        seq += 1
        if row["seq"] != seq:
            yield f"rows {seq} to {row['seq'] - 1} of the signals table are missing"
            seq = row["seq"]
        if row["prev_hash"] != prev_hash:
            yield f"signal {row['id']} (row {seq}) does not follow the row before it"
        if _row_hash(row) != row["hash"]:
            yield f"signal {row['id']} (row {seq}) was altered"
        tally = tallies.get(row["batch_id"])
        if tally is None:
            yield f"signal {row['id']} belongs to no batch"
        else:
            tally.rows, tally.last_seq, tally.last_hash = tally.rows + 1, seq, row["hash"]
        prev_hash = row["hash"]


def _batch_findings(
    batches: Sequence[Mapping[str, Any]], tallies: Mapping[str, _Tally]
) -> Iterator[str]:
    for batch in batches:
        own = tallies[batch["batch_id"]]
        if own.rows != batch["rows"] or not own.rows:
            yield f"batch {batch['batch_id']} has {own.rows} rows and says {batch['rows']}"
        elif own.last_hash != batch["head_hash"] or own.last_seq != batch["last_seq"]:
            yield f"batch {batch['batch_id']} does not end where it says"
