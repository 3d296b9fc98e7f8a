"""From predictions to rows of the signals table."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from market.errors import SignalError
from market.horizons import Horizon
from models.forecast import Prediction
from signals.levels import Residuals, price_levels
from signals.schema import CONTENT_SCHEMA, Direction, SignalColumn

Contribution = Mapping[str, Any]
_PRICES = pa.float64()
_REASONS = pa.struct([("feature", pa.string()), ("contribution", pa.float64())])


def compose_signals(
    predictions: pl.DataFrame,
    *,
    horizon: Horizon,
    prices: Mapping[str, float],
    regime: str,
    band_bps: float,
    as_of: dt.datetime,
    data_hash: str,
    config_hash: str,
    contributions: Mapping[tuple[str, str], Sequence[Contribution]],
    levels: Mapping[str, Residuals] | None = None,
) -> pl.DataFrame:
    """Turn the newest predictions of one horizon into signals.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA``, one row per symbol and engine, engines and ensemble alike.
    horizon : Horizon
        Its row of the horizons table.
    prices : mapping
        Last known raw price of each symbol, USD.
    regime : str
        The market's regime known at ``as_of``.
    band_bps : float
        A direction is given only where the expected return exceeds this, the cost of a round trip.
    as_of : datetime
        The run's moment; validity counts from it.
    data_hash, config_hash : str
        What the inputs and the settings hash to.
    contributions : mapping
        (symbol, engine) to its strongest contributions, strongest first.
    levels : mapping, optional
        Engine to its residuals (:func:`signals.levels.fit_residuals`); normal for one that is
        not there.

    Returns
    -------
    pl.DataFrame
        ``signals.schema.CONTENT_SCHEMA``. Targets and stops are quantiles of the conditional
        distribution (:func:`signals.levels.price_levels`). Neutral has neither.

    Raises
    ------
    SignalError
        When a symbol has no price.
    """
    lacking = set(predictions[Prediction.SYMBOL]) - set(prices)
    if lacking:
        raise SignalError(
            "no last price for predicted symbols",
            got=sorted(lacking)[:5],
            allowed="a price for every prediction",
            remedy="ingest their bars first",
        )
    ordered = predictions.sort(Prediction.SYMBOL, Prediction.ENGINE)
    expected = ordered[Prediction.EXPECTED_RETURN_BPS].cast(pl.Float64).to_list()
    directions = [direction_of(e, band_bps) for e in expected]
    symbols, engines = (ordered[n].to_list() for n in (Prediction.SYMBOL, Prediction.ENGINE))
    reasons = [list(contributions.get(of, ())) for of in zip(symbols, engines, strict=True)]
    targets, stops = _levels(ordered, directions, horizon, prices, levels or {})
    columns: dict[str, Any] = {
        SignalColumn.VALID_UNTIL: horizon.end_of(as_of),
        SignalColumn.SYMBOL: symbols,
        SignalColumn.ENGINE: engines,
        SignalColumn.DIRECTION: [d.value for d in directions],
        SignalColumn.CONFIDENCE: _confidences(ordered, directions),
        SignalColumn.HORIZON: horizon.name,
        SignalColumn.EXPECTED_RETURN_BPS: expected,
        SignalColumn.TARGETS: _lists(targets, _PRICES),
        SignalColumn.STOPS: _lists(stops, _PRICES),
        SignalColumn.REGIME: regime,
        SignalColumn.EXPLAIN: [
            _explain(d, e, band_bps, horizon, regime, why)
            for d, e, why in zip(directions, expected, reasons, strict=True)
        ],
        SignalColumn.FEATURES: _lists(reasons, _REASONS),
        SignalColumn.MODEL_VERSION: ordered[Prediction.MODEL_VERSION],
        SignalColumn.DATA_HASH: data_hash,
        SignalColumn.CONFIG_HASH: config_hash,
    }
    return pl.DataFrame(columns, schema=CONTENT_SCHEMA)


def _confidences(predictions: pl.DataFrame, directions: Sequence[Direction]) -> list[float]:
    """Return the probability of each row's own direction."""
    of = {
        Direction.LONG: predictions[Prediction.P_LONG].to_list(),
        Direction.SHORT: predictions[Prediction.P_SHORT].to_list(),
        Direction.NEUTRAL: predictions[Prediction.P_NEUTRAL].to_list(),
    }
    return [float(of[d][i]) for i, d in enumerate(directions)]


def direction_of(expected_bps: float, band_bps: float) -> Direction:
    """Return neutral where the expected return does not pay its costs.

    Examples
    --------
    >>> direction_of(12.0, 6.0).value, direction_of(-3.0, 6.0).value
    ('long', 'neutral')
    """
    if expected_bps > band_bps:
        return Direction.LONG
    if expected_bps < -band_bps:
        return Direction.SHORT
    return Direction.NEUTRAL


def _levels(
    predictions: pl.DataFrame,
    directions: Sequence[Direction],
    horizon: Horizon,
    prices: Mapping[str, float],
    shapes: Mapping[str, Residuals],
) -> tuple[list[list[float]], list[list[float]]]:
    """Return each row's targets and stops."""
    rows = predictions.select(
        Prediction.SYMBOL,
        Prediction.ENGINE,
        pl.col(Prediction.EXPECTED_RETURN_BPS).cast(pl.Float64),
        pl.col(Prediction.VOLATILITY_BPS).cast(pl.Float64) * horizon.steps**0.5,
    ).iter_rows()
    found = [
        price_levels(prices[symbol], direction, expected, spread, shapes.get(engine))
        for direction, (symbol, engine, expected, spread) in zip(directions, rows, strict=True)
    ]
    return [t for t, _ in found], [s for _, s in found]


def _lists(rows: Sequence[Sequence[Any]], of: pa.DataType) -> pl.Series:
    # Through Arrow: polars itself makes a series of each row first.
    return pl.Series(pa.array(rows, type=pa.list_(of)))


def _explain(
    direction: Direction,
    expected_bps: float,
    band_bps: float,
    horizon: Horizon,
    regime: str,
    reasons: Sequence[Contribution],
) -> str:
    if direction is Direction.NEUTRAL:
        return (
            f"Neutral: {expected_bps:+.1f} bps expected over {horizon.name} against the market "
            f"does not pay a round trip of {band_bps:.1f} bps ({regime} regime)."
        )
    because = ", ".join(f"{r['feature']} ({r['contribution']:+.1f} bps)" for r in reasons[:3])
    return (
        f"{direction.value.capitalize()}: {expected_bps:+.1f} bps expected over {horizon.name} "
        f"against the market in a {regime} regime" + (f", mostly {because}." if because else ".")
    )
