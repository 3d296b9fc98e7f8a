"""Whether the journal is what it was: the audit log's chain, its end, and orders that agree.

The log's head (how many rows, and the last one's hash) is also kept in a file outside the database,
so that a cut tail shows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import sqlalchemy as sa

from execution.state import verify_audit
from market.ledger import Ledger
from market.ledger_tables import audit_log, fills, orders


def remember_head(ledger: Ledger, head_file: Path) -> int:
    """Append the audit log's head to the file, if it moved; return its number of rows.

    The file is written to disk before this returns. Lines are only ever added.
    """
    with ledger.engine.connect() as connection:
        query = sa.select(audit_log.c.seq, audit_log.c.hash).order_by(audit_log.c.seq.desc())
        newest = connection.execute(query.limit(1)).first()
    if newest is None:
        return 0
    known = read_heads(head_file)
    if not known or known[-1]["seq"] < newest[0]:
        head_file.parent.mkdir(parents=True, exist_ok=True)
        line = orjson.dumps({"seq": newest[0], "hash": newest[1]}) + b"\n"
        with head_file.open("ab+") as file:
            file.write(_after_a_fragment(file) + line)
            file.flush()
            os.fsync(file.fileno())
    return int(newest[0])


def keep_restored_heads(ledger: Ledger, head_file: Path) -> int:
    """Give up the heads that a restored ledger's log does not have; return how many.

    A backup knows nothing of what was logged after it, and whoever restores it gives that up: a
    head that stayed would be a finding for ever. The file is replaced as a whole.
    """
    known, logged = read_heads(head_file), _logged(ledger)
    kept = [h for h in known if logged.get(h["seq"]) == h["hash"]]
    if len(kept) < len(known):
        fresh = head_file.with_name(f"{head_file.name}.fresh")
        with fresh.open("wb") as file:
            file.writelines(orjson.dumps(h) + b"\n" for h in kept)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(head_file)
    remember_head(ledger, head_file)
    return len(known) - len(kept)


def _logged(ledger: Ledger) -> dict[int, str]:
    rows = ledger.rows(sa.select(audit_log.c.seq, audit_log.c.hash))
    return {r["seq"]: r["hash"] for r in rows}


def _after_a_fragment(file: BinaryIO) -> bytes:
    """Return what separates the next line from one that a crash cut short."""
    if file.seek(0, os.SEEK_END) == 0:
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"


def read_heads(head_file: Path) -> list[dict[str, Any]]:
    """Return what was remembered, oldest first; a line that a crash cut short is left out."""
    if not head_file.exists():
        return []
    lines = head_file.read_bytes().split(b"\n")
    return [orjson.loads(line) for line in lines if line.endswith(b"}")]


def verify_orders(ledger: Ledger, head_file: Path) -> list[str]:
    """Return one finding per row of log, orders or fills that is not as it was written.

    Parameters
    ----------
    ledger : Ledger
        What to verify.
    head_file : Path
        From :func:`remember_head`.

    Returns
    -------
    list of str
        Empty when everything holds: the chain is whole up to its remembered end, every order
        stands as the log last said, and its fills add up to what it says was filled.
    """
    return [
        *verify_audit(ledger),
        *_cut_tail(ledger, head_file),
        *_other_states(ledger),
        *_other_fills(ledger),
    ]


def _cut_tail(ledger: Ledger, head_file: Path) -> list[str]:
    found: list[str] = []
    hashes = _logged(ledger)
    for head in read_heads(head_file):
        if head["seq"] not in hashes:
            found.append(f"row {head['seq']} of the audit log was removed: the head file has it")
        elif hashes[head["seq"]] != head["hash"]:
            found.append(f"row {head['seq']} of the audit log is not as the head file has it")
    return found


def _other_states(ledger: Ledger) -> list[str]:
    query = sa.select(audit_log.c.key, audit_log.c.event).where(audit_log.c.subject == "order")
    said: dict[str, str] = {}
    for row in ledger.rows(query.order_by(audit_log.c.seq)):
        event = row["event"].rsplit(" -> ", 1)[-1]
        said[row["key"]] = event
    found: list[str] = []
    for row in ledger.rows(sa.select(orders.c.client_order_id, orders.c.state)):
        key, state = row["client_order_id"], row["state"]
        if said.get(key) != state:
            found.append(f"order {key} is {state}, and the audit log says {said.get(key)}")
    return found


def _other_fills(ledger: Ledger) -> list[str]:
    totals: dict[str, Any] = {}
    for row in ledger.rows(sa.select(fills.c.client_order_id, fills.c.quantity)):
        key = row["client_order_id"]
        totals[key] = totals.get(key, 0) + row["quantity"]
    found: list[str] = []
    for row in ledger.rows(sa.select(orders.c.client_order_id, orders.c.filled_quantity)):
        key, filled = row["client_order_id"], row["filled_quantity"]
        if totals.get(key, 0) != filled:
            found.append(f"order {key} filled {filled}, and its fills add up to {totals.get(key)}")
    return found
