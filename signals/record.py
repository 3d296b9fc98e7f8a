"""History of weights, engines, regimes and outcomes in the ledger. Each row is written once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import sqlalchemy as sa

from market.horizons import HORIZONS
from market.ledger import Ledger
from market.ledger_tables import (
    engine_weights,
    engines,
    regimes,
    signal_outcomes,
    signals_current,
)
from market.schema import UTC_MICROSECONDS
from models.recipe import is_challenger
from signals.outcomes import SIGNAL_OUTCOME_SCHEMA
from signals.publish import decode_signals
from signals.score import Ensemble
from signals.weighting import Weight

WEIGHTS_SCHEMA = pl.Schema(
    {
        "horizon": pl.String(),
        Weight.REGIME: pl.String(),
        Weight.ENGINE: pl.String(),
        Weight.WEIGHT: pl.Float64(),
        "rank_ic": pl.Float64(),
        Weight.SESSIONS: pl.Int64(),
        "as_of": UTC_MICROSECONDS,
    }
)
"""Weights with the evidence that they rest on."""


def record_weights(
    ledger: Ledger, weights: pl.DataFrame, *, horizon: str, as_of: dt.datetime
) -> int:
    """Keep the weights that a run used; return how many rows were new."""
    rows = [
        {
            "engine": row[Weight.ENGINE],
            "regime": row[Weight.REGIME],
            "horizon": horizon,
            "as_of": as_of,
            "weight": row[Weight.WEIGHT],
            "evidence": {"rank_ic": row[Weight.SKILL], "sessions": row[Weight.SESSIONS]},
        }
        for row in weights.to_dicts()
    ]
    return insert_new(ledger, engine_weights, rows)


def record_engines(
    ledger: Ledger,
    ensemble: Ensemble,
    data_hash: str,
    config_hash: str,
    *,
    recorded_at: dt.datetime,
) -> int:
    """Keep the models that a run used; return how many rows were new."""
    rows = [
        {
            "engine": engine,
            "horizon": model.horizon,
            "model_version": model.version,
            "kind": "background" if is_challenger(engine) else "core",
            "family": model.family.name,
            "as_of": dt.datetime.fromisoformat(model.known_at),
            "recorded_at": recorded_at,
            "data_hash": data_hash,
            "config_hash": config_hash,
            "metrics": {"rows": model.rows, "spread": model.spread},
        }
        for engine, model in ensemble.engines()
    ]
    return insert_new(ledger, engines, rows)


def record_regime(
    ledger: Ledger, regime: str, *, as_of: dt.datetime, recorded_at: dt.datetime
) -> int:
    """Keep the regime that a run saw; return how many rows were new."""
    row = {
        "as_of": as_of,
        "regime": regime,
        "probabilities": {},
        "model_version": "trend-63",
        "recorded_at": recorded_at,
    }
    return insert_new(ledger, regimes, [row])


def record_outcomes(ledger: Ledger, outcomes: pl.DataFrame, *, recorded_at: dt.datetime) -> int:
    """Keep what became of signals; return how many rows were new.

    Parameters
    ----------
    ledger : Ledger
        With the signals.
    outcomes : pl.DataFrame
        ``signals.outcomes.SIGNAL_OUTCOME_SCHEMA``. A signal that has an outcome keeps it.
    recorded_at : datetime
        Aware.

    Raises
    ------
    LedgerError
        When a signal is not there or the database fails; nothing is written then.
    """
    rows = [row | {"recorded_at": recorded_at} for row in outcomes.to_dicts()]
    return insert_new(ledger, signal_outcomes, rows)


def unsettled_signals(ledger: Ledger, *, until: dt.datetime) -> pl.DataFrame:
    """Return current signals that end by ``until`` and have no outcome yet (``SIGNAL_SCHEMA``)."""
    view, outcome = signals_current.c, signal_outcomes.c
    query = (
        sa.select(signals_current)
        .outerjoin(signal_outcomes, view.id == outcome.signal_id)
        .where(view.valid_until <= until, outcome.signal_id.is_(None))
        .order_by(view.seq)
    )
    return decode_signals(ledger.read(query))


def read_outcomes(ledger: Ledger, *, since: dt.datetime | None = None) -> pl.DataFrame:
    """Return the outcomes of current signals published from ``since`` on.

    Returns
    -------
    pl.DataFrame
        ``signals.outcomes.SIGNAL_OUTCOME_SCHEMA``, in the order of the signals.
    """
    view, outcome = signals_current.c, signal_outcomes.c
    query = (
        sa.select(*(outcome[name] for name in SIGNAL_OUTCOME_SCHEMA))
        .join(signals_current, view.id == outcome.signal_id)
        .order_by(view.seq)
    )
    if since is not None:
        query = query.where(view.as_of >= since)
    return ledger.read(query)


def read_weights(ledger: Ledger, *, as_of: dt.datetime) -> pl.DataFrame:
    """Return the weights in force at a moment: of each horizon the newest by then.

    Parameters
    ----------
    ledger : Ledger
        Where from.
    as_of : datetime
        Aware.

    Returns
    -------
    pl.DataFrame
        ``WEIGHTS_SCHEMA``, by horizon as in their table, regime and engine. ``rank_ic`` is the
        shrunk skill that the weight rests on, ``sessions`` the evidence in that regime, ``as_of``
        since when it holds.
    """
    table = engine_weights.c
    newest = (
        sa.select(table.horizon, sa.func.max(table.as_of).label("newest"))
        .where(table.as_of <= as_of)
        .group_by(table.horizon)
        .subquery()
    )
    query = sa.select(engine_weights).join(
        newest, sa.and_(table.horizon == newest.c.horizon, table.as_of == newest.c.newest)
    )
    rows = [row | row.pop("evidence") for row in ledger.rows(query)]
    places = {h.name: k for k, h in enumerate(HORIZONS)}
    order = (pl.col("horizon").replace_strict(places), Weight.REGIME, Weight.ENGINE)
    return pl.DataFrame(rows, schema=WEIGHTS_SCHEMA).sort(*order)


def insert_new(ledger: Ledger, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert the rows whose primary key is not there yet; return how many those were."""
    keys = [c.name for c in table.primary_key.columns]
    added = 0
    with ledger.transaction() as connection:
        for row in rows:
            same = sa.and_(*(table.c[k] == row[k] for k in keys))
            if connection.execute(sa.select(sa.literal(1)).where(same)).first() is None:
                connection.execute(sa.insert(table).values(**row))
                added += 1
    return added
