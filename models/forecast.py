"""From a model's standardised forecast to expected return and class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import polars as pl
from scipy.special import ndtr

from market.schema import UTC_MICROSECONDS
from models.spec import Forecast, Vector


class Prediction(StrEnum):
    """Columns of the predictions table; one row per symbol, time, horizon and engine."""

    SYMBOL = "symbol"
    SESSION = "session"
    BAR_END = "bar_end"
    AS_OF = "as_of"
    HORIZON = "horizon"
    ENGINE = "engine"
    MODEL_VERSION = "model_version"
    P_SHORT = "p_short"
    P_NEUTRAL = "p_neutral"
    P_LONG = "p_long"
    EXPECTED_RETURN_BPS = "expected_return_bps"
    VOLATILITY_BPS = "volatility_bps"


PREDICTION_SCHEMA = pl.Schema(
    {
        Prediction.SYMBOL: pl.String(),
        Prediction.SESSION: pl.Date(),
        Prediction.BAR_END: UTC_MICROSECONDS,
        Prediction.AS_OF: UTC_MICROSECONDS,
        Prediction.HORIZON: pl.String(),
        Prediction.ENGINE: pl.String(),
        Prediction.MODEL_VERSION: pl.String(),
        Prediction.P_SHORT: pl.Float64(),
        Prediction.P_NEUTRAL: pl.Float64(),
        Prediction.P_LONG: pl.Float64(),
        Prediction.EXPECTED_RETURN_BPS: pl.Float64(),
        Prediction.VOLATILITY_BPS: pl.Float64(),
    }
)


RAW_COLUMNS = {
    Prediction.P_SHORT: "raw_p_short",
    Prediction.P_NEUTRAL: "raw_p_neutral",
    Prediction.P_LONG: "raw_p_long",
}
"""What probabilities were before they were calibrated: later maps are learned from these."""

STORED_SCHEMA = pl.Schema(
    {**PREDICTION_SCHEMA, **{name: pl.Float64() for name in RAW_COLUMNS.values()}}
)
"""The predictions table of the lake."""

LIVE_TABLE = "live_predictions"
LIVE_SCHEMA = pl.Schema({**STORED_SCHEMA, "run_as_of": UTC_MICROSECONDS})
"""The live predictions table: what scheduled runs forecast, and the moment of the run."""

PUBLIC_COLUMNS = (
    Prediction.SYMBOL,
    Prediction.AS_OF,
    Prediction.HORIZON,
    Prediction.ENGINE,
    Prediction.MODEL_VERSION,
    Prediction.P_SHORT,
    Prediction.P_NEUTRAL,
    Prediction.P_LONG,
    Prediction.EXPECTED_RETURN_BPS,
)
"""What a reader of predictions is given."""


def keep_raw(predictions: pl.DataFrame) -> pl.DataFrame:
    """Return predictions (``PREDICTION_SCHEMA``) with their probabilities a second time.

    The result has ``STORED_SCHEMA``; the first ones may be calibrated.
    """
    return predictions.with_columns(pl.col(c).alias(raw) for c, raw in RAW_COLUMNS.items())


def as_forecast(stored: pl.DataFrame) -> pl.DataFrame:
    """Return stored predictions (``STORED_SCHEMA``) as they were before calibration.

    Rows of an older table, which held raw ones alone, are what they are.
    """
    if not set(RAW_COLUMNS.values()) <= set(stored.columns):
        return stored.select(PREDICTION_SCHEMA.names())
    raw = (pl.coalesce(raw, c).alias(c) for c, raw in RAW_COLUMNS.items())
    return stored.with_columns(raw).select(PREDICTION_SCHEMA.names())


@dataclass(frozen=True)
class Made:
    """What one model forecast of some rows.

    Attributes
    ----------
    engine, model_version : str
        What made the forecast.
    forecast : Forecast
        In units of the horizon's volatility.
    spread : float
        Standard deviation of the outcome around a forecast that does not say its own.
    """

    engine: str
    model_version: str
    forecast: Forecast
    spread: float

    def classes(self, band: Vector) -> tuple[Vector, Vector]:
        """Return the probabilities (n,) of short and of long."""
        forecast = self.forecast
        if forecast.classes is not None:
            return forecast.classes[:, 0], forecast.classes[:, 2]
        wide = self.spread if forecast.spread is None else forecast.spread
        return ndtr((-band - forecast.mean) / wide), ndtr((forecast.mean - band) / wide)


def to_predictions(
    keys: pl.DataFrame,
    made: Sequence[Made],
    unit: Vector,
    *,
    volatility: Vector,
    band_bps: float,
    horizon: str,
) -> pl.DataFrame:
    """Turn standardised forecasts of the same rows into rows of the predictions table.

    Parameters
    ----------
    keys : pl.DataFrame
        ``symbol``, ``session``, ``bar_end``, ``as_of``.
    made : sequence of Made
        One or more.
    unit : (n,) float64
        The unit as a fraction.
    volatility : (n,) float64
        Volatility of one bar, as a fraction.
    band_bps : float
        A return inside plus or minus this band does not pay its round trip: neutral.
    horizon : str
        What was forecast.

    Returns
    -------
    pl.DataFrame
        ``PREDICTION_SCHEMA``, forecast after forecast. Where a model gives no probabilities by
        itself they are those of a normal distribution around the forecast; all are raw,
        calibration comes after.
    """
    rows, band = keys.height, band_bps / 1e4 / unit
    sides = [m.classes(band) for m in made]
    p_short = np.concatenate([short for short, _ in sides])
    p_long = np.concatenate([long for _, long in sides])

    # Column by column: a query of Polars for each of a hundred models would take longer than these.
    def every(texts: list[str]) -> pl.Series:
        each = [pl.Series([text], dtype=pl.String).new_from_index(0, rows) for text in texts]
        return each[0] if len(each) == 1 else pl.concat(each)

    again = keys if len(made) == 1 else pl.concat([keys] * len(made))
    frame = pl.DataFrame(
        {
            Prediction.SYMBOL: again[Prediction.SYMBOL],
            Prediction.SESSION: again[Prediction.SESSION],
            Prediction.BAR_END: again[Prediction.BAR_END],
            Prediction.AS_OF: again[Prediction.AS_OF],
            Prediction.HORIZON: pl.Series([horizon]).new_from_index(0, again.height),
            Prediction.ENGINE: every([m.engine for m in made]),
            Prediction.MODEL_VERSION: every([m.model_version for m in made]),
            Prediction.P_SHORT: p_short,
            Prediction.P_NEUTRAL: np.clip(1.0 - p_short - p_long, 0.0, 1.0),
            Prediction.P_LONG: p_long,
            Prediction.EXPECTED_RETURN_BPS: np.concatenate(
                [m.forecast.mean * unit * 1e4 for m in made]
            ),
            Prediction.VOLATILITY_BPS: np.tile(volatility * 1e4, len(made)),
        }
    )
    return frame if frame.schema == PREDICTION_SCHEMA else frame.cast(PREDICTION_SCHEMA)
