"""The parity check of each run: the batch before it, made again from what it was made from."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from polars.exceptions import PanicException, PolarsError

from market.errors import IsobarError, SignalError
from market.horizons import Run
from market.ledger import Ledger
from market.ledger_tables import batch_inputs, parity_checks, signal_batches, signals
from pipelines.resources import Stores
from pipelines.signal_run import make_again
from signals.inputs import BatchInputs, changed_inputs
from signals.parity import compare_signals
from signals.publish import decode_signals
from signals.validate import validate_batch

_SHOWN = 20


@dataclass(frozen=True)
class ParityCheck:
    """What a check found.

    Attributes
    ----------
    batch_id, run : str
        What was made again.
    as_of : datetime
        Of it.
    findings : tuple of str
        How it differs, and what of its inputs changed; empty where it is the same.
    """

    batch_id: str
    run: str
    as_of: dt.datetime
    findings: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether all that was published came out again."""
        return not self.findings


def check_parity(stores: Stores, run: Run, now: dt.datetime) -> ParityCheck | None:
    """Make the batch before a run's newest again, compare, and keep what was found.

    Parameters
    ----------
    stores : Stores
    run : Run
        Whose batches.
    now : datetime
        When this is.

    Returns
    -------
    ParityCheck or None
        ``None`` where there is no such batch whose inputs were kept. A finding denies every order
        until a later check of a batch finds nothing, or a person accepts it.
    """
    with stores.ledger as ledger:
        batch = _before_newest(ledger, run)
        if batch is None:
            return None
        check = ParityCheck(
            batch["batch_id"], batch["run"], batch["as_of"], tuple(_findings(stores, ledger, batch))
        )
        _keep(ledger, check.batch_id, now, list(check.findings), equal=check.equal)
    return check


def accept_parity(ledger: Ledger, *, reason: str, now: dt.datetime) -> str:
    """Let orders through again after a finding; return the batch that it was about.

    Raises
    ------
    SignalError
        When there is no finding, or no reason is given.
    """
    found = ledger.rows(
        sa.select(parity_checks).order_by(parity_checks.c.checked_at.desc()).limit(1)
    )
    if not found or found[0]["equal"] or not reason.strip():
        raise SignalError(
            "there is nothing to accept" if reason.strip() else "a finding without a reason",
            got="no check" if not found else f"batch {found[0]['batch_id']}",
            allowed="the newest check with a finding, and why it is harmless",
            remedy="run `isobar parity` to see the newest check",
        )
    batch_id = str(found[0]["batch_id"])
    _keep(ledger, batch_id, now, [f"accepted by hand: {reason}"], equal=True)
    return batch_id


def _before_newest(ledger: Ledger, run: Run) -> dict[str, Any] | None:
    table = signal_batches.c
    newest = sa.select(sa.func.max(table.as_of)).where(table.run == run.value, table.complete)
    query = (
        sa.select(signal_batches)
        .join(batch_inputs, batch_inputs.c.batch_id == table.batch_id)
        .where(table.run == run.value, table.as_of < newest.scalar_subquery(), table.complete)
        .order_by(table.as_of.desc(), table.revision.desc())
        .limit(1)
    )
    rows = ledger.rows(query)
    return rows[0] if rows else None


def _findings(stores: Stores, ledger: Ledger, batch: dict[str, Any]) -> list[str]:
    query = sa.select(batch_inputs).where(batch_inputs.c.batch_id == batch["batch_id"])
    as_of = batch["as_of"]
    assert isinstance(as_of, dt.datetime)
    try:
        before = BatchInputs.from_json(ledger.rows(query)[0]["inputs"])
        made = make_again(stores, before, as_of)
        again = validate_batch(made.rows, run=str(batch["run"]), as_of=as_of)
    except (IsobarError, PolarsError, PanicException, OSError) as error:
        # A file of the lake that is torn is noticed by its reader alone, which may panic.
        return [f"it cannot be made again: {str(error).splitlines()[0]}"]
    rows = ledger.read(
        sa.select(signals).where(signals.c.batch_id == batch["batch_id"]).order_by(signals.c.seq)
    )
    differences = compare_signals(decode_signals(rows), again)
    if not differences:
        return []
    changed = changed_inputs(before, made.inputs)
    return [
        *differences[:_SHOWN],
        *(f"changed since: {one}" for one in changed or ["none of its inputs: a library, then"]),
    ]


def _keep(
    ledger: Ledger, batch_id: str, now: dt.datetime, findings: list[str], *, equal: bool
) -> None:
    row = {"batch_id": batch_id, "checked_at": now, "equal": equal, "findings": findings}
    same = (parity_checks.c.batch_id == batch_id) & (parity_checks.c.checked_at == now)
    with ledger.transaction() as connection:
        # The same check again, at the same moment of a replay, has the last word.
        connection.execute(sa.delete(parity_checks).where(same))
        connection.execute(parity_checks.insert(), row)
