"""The signals table: its columns, types and words."""

from __future__ import annotations

from enum import StrEnum

import polars as pl

from market.schema import UTC_MICROSECONDS

ENSEMBLE_ENGINE = "ensemble"
"""The engine whose rows are the blend; only these are traded."""


class SignalColumn(StrEnum):
    """Columns of the signals table."""

    ID = "id"
    BATCH_ID = "batch_id"
    REVISION = "revision"
    TS_EMIT = "ts_emit"
    AS_OF = "as_of"
    VALID_UNTIL = "valid_until"
    SYMBOL = "symbol"
    ENGINE = "engine"
    DIRECTION = "direction"
    CONFIDENCE = "confidence"
    HORIZON = "horizon"
    EXPECTED_RETURN_BPS = "expected_return_bps"
    TARGETS = "targets"
    STOPS = "stops"
    REGIME = "regime"
    EXPLAIN = "explain"
    FEATURES = "features"
    MODEL_VERSION = "model_version"
    DATA_HASH = "data_hash"
    CONFIG_HASH = "config_hash"
    PREV_HASH = "prev_hash"
    HASH = "hash"


class Direction(StrEnum):
    """Which way a signal points."""

    LONG = "long"
    SHORT = "short"
    NEUTRAL = "neutral"

    @property
    def sign(self) -> int:
        """Return 1, -1 or 0."""
        return {"long": 1, "short": -1, "neutral": 0}[self.value]


CONTRIBUTIONS = pl.List(pl.Struct({"feature": pl.String(), "contribution": pl.Float64()}))
"""Type of the ``features`` column: the strongest signed contributions, strongest first."""

SIGNAL_SCHEMA = pl.Schema(
    {
        SignalColumn.ID: pl.String(),
        SignalColumn.BATCH_ID: pl.String(),
        SignalColumn.REVISION: pl.Int64(),
        SignalColumn.TS_EMIT: UTC_MICROSECONDS,
        SignalColumn.AS_OF: UTC_MICROSECONDS,
        SignalColumn.VALID_UNTIL: UTC_MICROSECONDS,
        SignalColumn.SYMBOL: pl.String(),
        SignalColumn.ENGINE: pl.String(),
        SignalColumn.DIRECTION: pl.String(),
        SignalColumn.CONFIDENCE: pl.Float64(),
        SignalColumn.HORIZON: pl.String(),
        SignalColumn.EXPECTED_RETURN_BPS: pl.Float64(),
        SignalColumn.TARGETS: pl.List(pl.Float64()),
        SignalColumn.STOPS: pl.List(pl.Float64()),
        SignalColumn.REGIME: pl.String(),
        SignalColumn.EXPLAIN: pl.String(),
        SignalColumn.FEATURES: CONTRIBUTIONS,
        SignalColumn.MODEL_VERSION: pl.String(),
        SignalColumn.DATA_HASH: pl.String(),
        SignalColumn.CONFIG_HASH: pl.String(),
        SignalColumn.PREV_HASH: pl.String(),
        SignalColumn.HASH: pl.String(),
    }
)

ASSIGNED_COLUMNS = (
    SignalColumn.ID,
    SignalColumn.BATCH_ID,
    SignalColumn.REVISION,
    SignalColumn.TS_EMIT,
    SignalColumn.AS_OF,
    SignalColumn.PREV_HASH,
    SignalColumn.HASH,
)
"""Columns that publication fills in."""

CONTENT_SCHEMA = pl.Schema({n: t for n, t in SIGNAL_SCHEMA.items() if n not in ASSIGNED_COLUMNS})
"""What a caller hands to :func:`signals.publish.publish_batch`."""
