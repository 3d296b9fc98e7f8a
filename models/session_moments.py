"""What sums of products of forecasts and outcomes say, kept by session.

A regression of outcomes on forecasts needs no more of a session than these sums. They add up over
sessions, so that what was known at any moment is a sum of those that were known then.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import polars as pl

from market.horizons import find_horizon
from market.schema import UTC_MICROSECONDS
from models.forecast import Prediction

OUTCOME = "outcome"
"""Stands for the excess return where another engine would be named."""

CLIP = 4.0
"""Outcomes beyond so many units of the horizon's volatility are clipped, as models learn them."""


class Moment(StrEnum):
    """Columns of the moments; one row per session and pair of what is multiplied.

    ``product`` is the sum over ``rows`` of the forecast of ``engine`` times that of ``other``, or
    times the outcome. ``known_at`` is when the session's last outcome was known.
    """

    SESSION = "session"
    ENGINE = "engine"
    OTHER = "other"
    PRODUCT = "product"
    ROWS = "rows"
    KNOWN_AT = "known_at"


MOMENT_SCHEMA = pl.Schema(
    {
        Moment.SESSION: pl.Date(),
        Moment.ENGINE: pl.String(),
        Moment.OTHER: pl.String(),
        Moment.PRODUCT: pl.Float64(),
        Moment.ROWS: pl.Int64(),
        Moment.KNOWN_AT: UTC_MICROSECONDS,
    }
)


def session_moments(scored: pl.DataFrame, engines: Sequence[str]) -> pl.DataFrame:
    """Return each session's sums of products of some engines' forecasts and the outcome.

    Parameters
    ----------
    scored : pl.DataFrame
        Out-of-sample predictions of one horizon (``PREDICTION_SCHEMA``) with ``excess_return`` and
        ``label_known_at``; other engines are not looked at.
    engines : sequence of str
        Rows count that all of these have forecast.

    Returns
    -------
    pl.DataFrame
        ``MOMENT_SCHEMA`` by session, engine and other: each pair once, ``engine <= other``, and
        each engine with the outcome. All in units of the horizon's volatility as it was known
        with the forecast. A session depends on its own rows alone, whatever their order.
    """
    names = sorted(engines)
    known = scored.filter(
        pl.col("label_known_at").is_not_null() & pl.col(Prediction.ENGINE).is_in(names)
    )
    if not names or set(known[Prediction.ENGINE].unique()) != set(names):
        return pl.DataFrame(schema=MOMENT_SCHEMA)
    steps = find_horizon(str(known[Prediction.HORIZON][0])).steps
    unit = pl.col(Prediction.VOLATILITY_BPS) * steps**0.5
    rows = [Prediction.SESSION, Prediction.BAR_END, Prediction.SYMBOL]
    wide = (
        known.select(
            *rows,
            Prediction.ENGINE,
            (pl.col(Prediction.EXPECTED_RETURN_BPS) / unit).alias("_forecast"),
            (pl.col("excess_return") * 1e4 / unit).clip(-CLIP, CLIP).alias(OUTCOME),
            pl.col("label_known_at").alias(Moment.KNOWN_AT),
        )
        .pivot(Prediction.ENGINE, index=[*rows, OUTCOME, Moment.KNOWN_AT], values="_forecast")
        .filter(pl.all_horizontal(pl.col(*names, OUTCOME).is_finite()))
        .sort(rows)
    )
    pairs = [(a, b) for k, a in enumerate(names) for b in (*names[k:], OUTCOME)]
    sums = wide.group_by(Moment.SESSION, maintain_order=True).agg(
        pl.col(Moment.KNOWN_AT).max(),
        pl.len().cast(pl.Int64).alias(Moment.ROWS),
        pl.concat_list((pl.col(a) * pl.col(b)).sum() for a, b in pairs).alias(Moment.PRODUCT),
        pl.lit([a for a, _ in pairs]).alias(Moment.ENGINE),
        pl.lit([b for _, b in pairs]).alias(Moment.OTHER),
    )
    return (
        sums.explode(Moment.PRODUCT, Moment.ENGINE, Moment.OTHER)
        .select(pl.col(n).cast(t) for n, t in MOMENT_SCHEMA.items())
        .sort(Moment.SESSION, Moment.ENGINE, Moment.OTHER)
    )
