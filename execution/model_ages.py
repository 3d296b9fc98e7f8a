"""How old the models are whose signals would be traded."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from market.ledger import Ledger
from market.ledger_tables import batch_inputs, engines, signal_batches
from signals.inputs import BatchInputs

_BATCHES = 50


def models_known_at(ledger: Ledger, now: dt.datetime) -> dict[str, dt.datetime]:
    """Return by horizon when the oldest of its models learned its last.

    Parameters
    ----------
    ledger : Ledger
        With what each batch was made from, and the models that were used.
    now : datetime
        Aware. Later batches are not looked at.

    Returns
    -------
    dict
        Of the models behind the newest batch of each horizon. A horizon is not there where the
        ledger does not tell of every one of its models: what cannot be dated must not count as
        fresh.
    """
    query = (
        sa.select(batch_inputs.c.inputs)
        .join_from(
            batch_inputs, signal_batches, batch_inputs.c.batch_id == signal_batches.c.batch_id
        )
        .where(signal_batches.c.as_of <= now)
        .order_by(signal_batches.c.as_of.desc(), signal_batches.c.seq.desc())
        .limit(_BATCHES)
    )
    newest: dict[str, set[str]] = {}
    for row in ledger.rows(query):
        for horizon, made in BatchInputs.from_json(row["inputs"]).horizons.items():
            newest.setdefault(horizon, set(made.champions.values()))
    wanted = {version for versions in newest.values() for version in versions}
    query = sa.select(engines.c.horizon, engines.c.model_version, engines.c.as_of).where(
        engines.c.model_version.in_(wanted)
    )
    known = {(r["horizon"], r["model_version"]): r["as_of"] for r in ledger.rows(query)}
    return {
        horizon: min(known[horizon, version] for version in versions)
        for horizon, versions in newest.items()
        if versions and all((horizon, version) in known for version in versions)
    }
