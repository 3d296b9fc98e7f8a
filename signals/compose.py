"""From predictions to rows of the signals table."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from market.errors import SignalError
from market.horizons import Horizon
from models.forecast import Prediction
from signals.levels import Residuals, price_levels
from signals.schema import CONTENT_SCHEMA, Direction, SignalColumn

Contribution = Mapping[str, Any]


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
    shapes = levels or {}
    of_all = {
        SignalColumn.VALID_UNTIL: horizon.end_of(as_of),
        SignalColumn.HORIZON: horizon.name,
        SignalColumn.REGIME: regime,
        SignalColumn.DATA_HASH: data_hash,
        SignalColumn.CONFIG_HASH: config_hash,
    }
    rows = [
        _row(p, horizon, regime, band_bps, contributions)
        | _levels(p, horizon, prices[p[Prediction.SYMBOL]], band_bps, shapes)
        | of_all
        for p in predictions.sort(Prediction.SYMBOL, Prediction.ENGINE).to_dicts()
    ]
    return pl.DataFrame(rows, schema=CONTENT_SCHEMA).select(
        pl.col(n).cast(t) for n, t in CONTENT_SCHEMA.items()
    )


def _row(
    p: Mapping[str, Any],
    horizon: Horizon,
    regime: str,
    band_bps: float,
    contributions: Mapping[tuple[str, str], Sequence[Contribution]],
) -> dict[str, Any]:
    expected = float(p[Prediction.EXPECTED_RETURN_BPS])
    direction = direction_of(expected, band_bps)
    reasons = contributions.get((p[Prediction.SYMBOL], p[Prediction.ENGINE]), [])
    confidence = {
        Direction.LONG: p[Prediction.P_LONG],
        Direction.SHORT: p[Prediction.P_SHORT],
        Direction.NEUTRAL: p[Prediction.P_NEUTRAL],
    }[direction]
    return {
        SignalColumn.SYMBOL: p[Prediction.SYMBOL],
        SignalColumn.ENGINE: p[Prediction.ENGINE],
        SignalColumn.DIRECTION: direction.value,
        SignalColumn.CONFIDENCE: float(confidence),
        SignalColumn.EXPECTED_RETURN_BPS: expected,
        SignalColumn.EXPLAIN: _explain(direction, expected, band_bps, horizon, regime, reasons),
        SignalColumn.FEATURES: list(reasons),
        SignalColumn.MODEL_VERSION: p[Prediction.MODEL_VERSION],
    }


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
    p: Mapping[str, Any],
    horizon: Horizon,
    price: float,
    band_bps: float,
    shapes: Mapping[str, Residuals],
) -> dict[str, Any]:
    expected = float(p[Prediction.EXPECTED_RETURN_BPS])
    targets, stops = price_levels(
        price,
        direction_of(expected, band_bps),
        expected,
        float(p[Prediction.VOLATILITY_BPS]) * horizon.steps**0.5,
        shapes.get(p[Prediction.ENGINE]),
    )
    return {SignalColumn.TARGETS: targets, SignalColumn.STOPS: stops}


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
