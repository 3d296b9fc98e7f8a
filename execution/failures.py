"""Trading runs that failed, in the audit log: what a report tells of them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from execution.state import append_audit
from market.ledger import Ledger
from market.ledger_tables import audit_log

_SUBJECT = "trading_run"
_FAILED, _WENT_WELL = "failed", "went well"


@dataclass(frozen=True, slots=True)
class TradingFailure:
    """Why the orders of a batch were not made, or not all of them, and since when."""

    at: dt.datetime
    problem: str


def record_failure(ledger: Ledger, batch_id: str, problem: str, at: dt.datetime) -> None:
    """Write down that a trading run of a batch failed.

    Parameters
    ----------
    ledger : Ledger
        Of the audit log.
    batch_id : str
        The batch it traded.
    problem : str
        Without a secret.
    at : datetime
        Aware.
    """
    with ledger.transaction() as connection:
        append_audit(
            connection,
            at=at,
            subject=_SUBJECT,
            key=batch_id,
            event=_FAILED,
            detail={"problem": problem},
        )


def record_recovery(ledger: Ledger, batch_id: str, at: dt.datetime) -> None:
    """Write down that a trading run of a batch went well, where one before it had failed."""
    with ledger.transaction() as connection:
        newest = _newest(batch_id, at)
        found = connection.execute(newest).mappings().first()
        if found is not None and found["event"] == _FAILED:
            append_audit(
                connection, at=at, subject=_SUBJECT, key=batch_id, event=_WENT_WELL, detail={}
            )


def failure_of(ledger: Ledger, batch_id: str, by: dt.datetime) -> TradingFailure | None:
    """Return what the newest trading run of a batch failed with, as known at a moment.

    Returns
    -------
    TradingFailure or None
        ``None`` where none failed, or a later one went well.
    """
    for row in ledger.rows(_newest(batch_id, by)):
        if row["event"] == _FAILED:
            return TradingFailure(row["at"], row["detail"]["problem"])
    return None


def _newest(batch_id: str, by: dt.datetime) -> sa.Select[*tuple[Any, ...]]:
    a = audit_log.c
    query = sa.select(a.at, a.event, a.detail)
    mine = query.where(a.subject == _SUBJECT, a.key == batch_id, a.at <= by)
    return mine.order_by(a.seq.desc()).limit(1)
