"""History of weights, engines and regimes in the ledger. Each row is written once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import sqlalchemy as sa

from market.ledger import Ledger
from market.ledger_tables import engine_weights, engines, regimes
from models.recipe import is_challenger
from signals.score import Ensemble
from signals.weighting import Weight


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
