"""Where a signal came from, walked back to the bars, and made again on the way."""

from __future__ import annotations

from typing import Any

import polars as pl
import sqlalchemy as sa

from market import calendar
from market.errors import SignalError
from market.horizons import find_horizon
from market.ledger import Ledger
from market.ledger_tables import engines, signal_batches, signals, signals_current
from market.schema import Bar
from models.forecast import PUBLIC_COLUMNS, Prediction
from models.normal_scores import source_of
from pipelines.feature_run import feature_table
from pipelines.resources import Stores
from pipelines.signal_run import MadeSignals, last_prices, make_again, read_inputs
from signals.inputs import BatchInputs, changed_inputs
from signals.parity import compare_signals
from signals.publish import decode_signals
from signals.reasons import strongest_reasons
from signals.validate import validate_batch
from signals.weighting import Weight

_CONTRIBUTIONS, _BARS = 10, 5


def explain_signal(stores: Stores, signal_id: str) -> dict[str, Any]:
    """Return all that a signal was made from, and whether it comes out again.

    Parameters
    ----------
    stores : Stores
    signal_id : str
        ``id`` of a row of the signals table; the first characters are enough where no other
        begins with them.

    Returns
    -------
    dict
        JSON: ``signal``, ``batch``, ``again`` (whether it was made again as published, and what
        differs), ``regime`` and ``weights``, ``scale`` of the ensemble's expected return,
        ``models``, ``forecasts`` of every engine, ``features`` (value, and contribution in bps),
        ``bars``, ``tables`` and ``code``.

    Raises
    ------
    SignalError
        When there is no such signal, or what it was made from was not kept.
    ModelError, LakeError
        When that is there no longer.
    """
    with stores.ledger as ledger:
        row = find_signal(ledger, signal_id)
        batch = ledger.rows(
            sa.select(signal_batches).where(signal_batches.c.batch_id == row["batch_id"])
        )[0]
        inputs = read_inputs(ledger, str(row["batch_id"]))
        published = _content(ledger, str(row["id"]))
        known = _models(ledger, inputs, str(row["horizon"]))
    symbol, horizon = str(row["symbol"]), str(row["horizon"])
    made = make_again(stores, inputs, row["as_of"], horizons=[horizon], symbols=[symbol])
    (scores,) = made.scores
    own = pl.col(Prediction.SYMBOL) == symbol
    again = validate_batch(made.rows, run=batch["run"], as_of=row["as_of"]).filter(
        own & (pl.col("engine") == row["engine"])
    )
    return {
        "signal": row,
        "batch": batch,
        "again": _verdict(published, again, inputs, made),
        "regime": row["regime"],
        "weights": scores.ensemble.weights.filter(
            pl.col(Weight.REGIME) == row["regime"]
        ).to_dicts(),
        "scale": scores.ensemble.scale,
        "models": known,
        "forecasts": scores.predictions.filter(own).select(PUBLIC_COLUMNS).to_dicts(),
        "features": _features(made, symbol, str(row["engine"])),
        "bars": _bars(stores, inputs, row),
        "tables": dict(inputs.tables),
        "code": inputs.code,
    }


def find_signal(ledger: Ledger, signal_id: str) -> dict[str, Any]:
    """Return a row of the signals table by the beginning of its id, and whether it is current.

    Raises
    ------
    SignalError
        When there is none, or several.
    """
    query = sa.select(signals).where(signals.c.id.startswith(signal_id, autoescape=True))
    found = ledger.rows(query.limit(2)) if signal_id else []
    if len(found) != 1:
        raise SignalError(
            "several signals begin like this" if found else "there is no such signal",
            got=signal_id,
            allowed="an id, or enough of its beginning, as `isobar signals --json` shows it",
            remedy="copy the id of the row",
        )
    current = sa.select(signals_current.c.id).where(signals_current.c.id == found[0]["id"])
    return found[0] | {"is_current": bool(ledger.rows(current))}


def _content(ledger: Ledger, signal_id: str) -> pl.DataFrame:
    return decode_signals(ledger.read(sa.select(signals).where(signals.c.id == signal_id)))


def _models(ledger: Ledger, inputs: BatchInputs, horizon: str) -> list[dict[str, Any]]:
    of = inputs.horizons[horizon]
    versions = [*of.champions.values(), *of.challengers.values()]
    query = sa.select(engines).where(
        engines.c.horizon == horizon, engines.c.model_version.in_(versions)
    )
    return ledger.rows(query.order_by(engines.c.engine))


def _verdict(
    published: pl.DataFrame, again: pl.DataFrame, inputs: BatchInputs, made: MadeSignals
) -> dict[str, Any]:
    differences = compare_signals(published, again)
    changed = changed_inputs(inputs, made.inputs) if differences else []
    return {"equal": not differences, "differences": differences, "changed": changed}


def _features(made: MadeSignals, symbol: str, engine: str) -> list[dict[str, Any]]:
    (scores,) = made.scores
    found = strongest_reasons(scores, [symbol], _CONTRIBUTIONS).get((symbol, engine), [])
    newest = scores.features.filter(pl.col(Bar.SYMBOL) == symbol).sort(Bar.BAR_END).tail(1)
    values = newest.to_dicts()[0]
    return [reason | {"value": values[source_of(reason["feature"])]} for reason in found]


def _bars(stores: Stores, inputs: BatchInputs, row: dict[str, Any]) -> dict[str, Any]:
    """Return the newest bars that the signal's features were made of, and its price."""
    horizon, as_of = find_horizon(str(row["horizon"])), row["as_of"]
    symbol = str(row["symbol"])
    frozen = stores.reading(stores.lake.at(inputs.tables))
    table = "bars_1m" if horizon.timeframe.is_intraday else "bars_1d"
    day = calendar.previous_session(as_of.astimezone(calendar.NEW_YORK).date())
    first = calendar.offset_session(day, -(2 * _BARS))
    bars = frozen.lake.read_bars(table, start=first, symbols=[symbol], as_of=as_of)
    return {
        "table": table,
        "features": feature_table(horizon.timeframe),
        "newest": bars.tail(_BARS).to_dicts(),
        "price_usd": last_prices(frozen, horizon, as_of)[symbol],
    }
