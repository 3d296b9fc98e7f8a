"""The trading state: latched, kept in the ledger, and resumed only by a person."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from market.errors import ExecutionError
from market.hash_chain import GENESIS_HASH, chain_hash
from market.ledger import Ledger
from market.ledger_tables import audit_log, trading_state


class TradingState(StrEnum):
    """What orders may be sent: all, only those that reduce a position, or none."""

    ACTIVE = "active"
    REDUCING = "reducing"
    HALTED = "halted"


# Made once: to build a statement and its cache key anew takes longer than to run it.
_NEWEST_ROW = sa.select(audit_log.c.seq, audit_log.c.hash).order_by(audit_log.c.seq.desc()).limit(1)
_APPEND_ROW = audit_log.insert()
_SEVERITY = {TradingState.ACTIVE: 0, TradingState.REDUCING: 1, TradingState.HALTED: 2}


def current_state(ledger: Ledger) -> TradingState:
    """Return the state now; a ledger that never changed state is ``ACTIVE``.

    Raises
    ------
    ExecutionError
        When the newest row holds a word that this version does not know.
    """
    with ledger.engine.connect() as connection:
        return _latest(connection)


def newest_reason(ledger: Ledger) -> str:
    """Return why the state is what it is; empty where it never changed."""
    query = sa.select(trading_state.c.reason).order_by(trading_state.c.seq.desc()).limit(1)
    with ledger.engine.connect() as connection:
        return connection.scalar(query) or ""


def halt(ledger: Ledger, reason: str, now: dt.datetime) -> TradingState:
    """Stop all orders until :func:`resume`. A halted state stays halted."""
    return _move(ledger, TradingState.HALTED, reason, now, resumes=False)


def reduce_only(ledger: Ledger, reason: str, now: dt.datetime) -> TradingState:
    """Allow only orders that reduce a position. A halted state stays halted."""
    return _move(ledger, TradingState.REDUCING, reason, now, resumes=False)


def resume(ledger: Ledger, reason: str, now: dt.datetime) -> TradingState:
    """Allow all orders again; what a person does, and says why.

    Parameters
    ----------
    ledger : Ledger
        Where the state is kept.
    reason : str
        Why it is safe; not empty.
    now : datetime
        When.

    Raises
    ------
    ExecutionError
        When no reason is given.
    """
    return _move(ledger, TradingState.ACTIVE, reason, now, resumes=True)


def append_audit(
    connection: sa.Connection,
    *,
    at: dt.datetime,
    subject: str,
    key: str,
    event: str,
    detail: Mapping[str, object],
) -> None:
    """Append one hash-chained row to the audit log, inside the caller's transaction."""
    last = connection.execute(_NEWEST_ROW).first()
    seq, prev_hash = (0, GENESIS_HASH) if last is None else (last[0], last[1])
    row: dict[str, Any] = {
        "seq": seq + 1,
        "at": at,
        "subject": subject,
        "key": key,
        "event": event,
        "detail": dict(detail),
    }
    row["hash"] = chain_hash(prev_hash, row)
    connection.execute(_APPEND_ROW, {**row, "prev_hash": prev_hash})


def verify_audit(ledger: Ledger) -> list[str]:
    """Return one finding per altered, missing or inserted row of the audit log."""
    findings: list[str] = []
    seq, prev_hash = 0, GENESIS_HASH
    for row in ledger.rows(sa.select(audit_log).order_by(audit_log.c.seq)):
        seq += 1
        payload = {k: v for k, v in row.items() if k not in {"hash", "prev_hash"}}
        if row["seq"] != seq:
            findings.append(f"rows {seq} to {row['seq'] - 1} of the audit log are missing")
            seq = row["seq"]
        if row["prev_hash"] != prev_hash:
            findings.append(f"row {seq} of the audit log does not follow the row before it")
        if chain_hash(row["prev_hash"], payload) != row["hash"]:
            findings.append(f"row {seq} of the audit log was altered")
        prev_hash = row["hash"]
    return findings


def _latest(connection: sa.Connection) -> TradingState:
    newest = sa.select(trading_state.c.state).order_by(trading_state.c.seq.desc()).limit(1)
    word = connection.scalar(newest)
    try:
        return TradingState.ACTIVE if word is None else TradingState(word)
    except ValueError:
        raise ExecutionError(
            "unknown trading state in the ledger",
            got=word,
            allowed=", ".join(TradingState),
            remedy="upgrade Isobar; nothing is traded until the state is known",
        ) from None


def _move(
    ledger: Ledger, wanted: TradingState, reason: str, now: dt.datetime, *, resumes: bool
) -> TradingState:
    if not reason.strip():
        raise ExecutionError(
            "a change of the trading state needs a reason",
            got=reason,
            allowed="a sentence that a colleague understands",
            remedy="say why",
        )
    with ledger.transaction() as connection:
        present = _latest(connection)
        state = wanted if resumes or _SEVERITY[wanted] > _SEVERITY[present] else present
        top = connection.scalar(sa.select(sa.func.max(trading_state.c.seq))) or 0
        connection.execute(
            trading_state.insert(),
            {"seq": top + 1, "at": now, "state": state.value, "reason": reason},
        )
        append_audit(
            connection,
            at=now,
            subject="trading_state",
            key="account",
            event=f"{present.value} -> {state.value}",
            detail={"reason": reason, "asked": wanted.value},
        )
    return state
