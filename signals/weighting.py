"""How much each engine counts in each regime.

The estimator is credibility weighting (Bühlmann, 1967), twice: an engine's skill in a regime is
drawn toward its skill in all regimes, and the weights are drawn toward equal, both by how little
evidence there is. Only outcomes that had arrived by ``as_of`` count, so with no evidence the
weights are equal.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from enum import StrEnum

import polars as pl

from market.horizons import find_horizon
from market.regimes import RegimeLabel
from market.schema import UTC_MICROSECONDS
from models.ensemble import by_month
from models.evaluation import rank_ic
from models.forecast import PREDICTION_SCHEMA, Prediction
from models.session_moments import session_moments
from signals.scale import return_scale, scale_returns
from signals.schema import ENSEMBLE_ENGINE

POOLING_SESSIONS = 60.0
"""Sessions of evidence in a regime that count as much as all other regimes together."""

EQUALITY_SESSIONS = 120.0
"""Sessions of evidence at which skill counts as much as the presumption of equality."""


class Weight(StrEnum):
    """Columns of the weights table."""

    ENGINE = "engine"
    REGIME = "regime"
    WEIGHT = "weight"
    SKILL = "skill"
    SESSIONS = "sessions"


SKILL_SCHEMA = pl.Schema(
    {
        Weight.ENGINE: pl.String(),
        "session": pl.Date(),
        "rank_ic": pl.Float64(),
        "known_at": UTC_MICROSECONDS,
    }
)
"""What :func:`session_skill` returns."""


def session_skill(scored: pl.DataFrame) -> pl.DataFrame:
    """Return each engine's mean rank IC of every session.

    Parameters
    ----------
    scored : pl.DataFrame
        Predictions joined with ``excess_return`` and ``label_known_at``.

    Returns
    -------
    pl.DataFrame
        ``engine``, ``session``, ``rank_ic``, ``known_at`` (when the session's last outcome
        was known).
    """
    # In one order, so that the last bit of a session's mean follows from its rows alone.
    known = scored.filter(pl.col("label_known_at").is_not_null()).sort(
        Prediction.ENGINE, Prediction.BAR_END, Prediction.SYMBOL
    )
    per_bar = pl.concat(
        [
            rank_ic(part, Prediction.EXPECTED_RETURN_BPS, "excess_return").with_columns(
                pl.lit(name[0]).cast(pl.String).alias(Weight.ENGINE)
            )
            for name, part in known.partition_by(Prediction.ENGINE, as_dict=True).items()
        ]
        or [
            pl.DataFrame(
                schema={
                    "bar_end": scored.schema["bar_end"],
                    "rank_ic": pl.Float64,
                    Weight.ENGINE: pl.String,
                }
            )
        ]
    )
    times = known.group_by("bar_end").agg(pl.col("session").first(), pl.col("label_known_at").max())
    return (
        per_bar.join(times, on="bar_end")
        .sort(Weight.ENGINE, "bar_end")
        .group_by(Weight.ENGINE, "session", maintain_order=True)
        .agg(pl.col("rank_ic").mean(), pl.col("label_known_at").max().alias("known_at"))
        .sort(Weight.ENGINE, "session")
    )


def regime_weights(
    skill: pl.DataFrame, regimes: pl.DataFrame, engines: list[str], as_of: dt.datetime
) -> pl.DataFrame:
    """Return the weight of every engine in every regime as known at ``as_of``.

    Parameters
    ----------
    skill : pl.DataFrame
        From :func:`session_skill`.
    regimes : pl.DataFrame
        ``session``, ``regime`` from :func:`features.regime.classify_regimes`.
    engines : list of str
        Engines of one horizon.
    as_of : datetime
        Aware; later outcomes are not looked at.

    Returns
    -------
    pl.DataFrame
        ``engine``, ``regime``, ``weight`` (adds up to one in each regime), ``skill`` (the shrunk
        rank IC) and ``sessions`` of evidence.
    """
    seen = skill.filter((pl.col("known_at") <= as_of) & pl.col(Weight.ENGINE).is_in(engines))
    pooled = seen.group_by(Weight.ENGINE).agg(
        pl.col("rank_ic").mean().alias("pooled"), pl.len().cast(pl.Float64).alias("total")
    )
    local = (
        seen.join(regimes.select("session", Weight.REGIME), on="session")
        .group_by(Weight.ENGINE, Weight.REGIME)
        .agg(pl.col("rank_ic").mean().alias("local"), pl.len().cast(pl.Float64).alias("n"))
    )
    every = pl.DataFrame({Weight.ENGINE: sorted(engines)}).join(
        pl.DataFrame({Weight.REGIME: [r.value for r in RegimeLabel]}), how="cross"
    )
    n, total = pl.col("n"), pl.col("total")
    drawn = (n * pl.col("local") + POOLING_SESSIONS * pl.col("pooled")) / (n + POOLING_SESSIONS)
    table = (
        every.join(pooled, on=Weight.ENGINE, how="left")
        .join(local, on=[Weight.ENGINE, Weight.REGIME], how="left")
        .with_columns(
            pl.col("n", "total", "local", "pooled").fill_null(0.0),
        )
        .with_columns(drawn.alias(Weight.SKILL))
    )
    useful = pl.col(Weight.SKILL).clip(lower_bound=0.0)
    equal = 1.0 / len(engines)
    share = useful / useful.sum().over(Weight.REGIME)
    trust = total.min().over(Weight.REGIME) / (total.min().over(Weight.REGIME) + EQUALITY_SESSIONS)
    weight = pl.when(useful.sum().over(Weight.REGIME) > 0.0).then(
        trust * share + (1.0 - trust) * equal
    )
    return table.select(
        Weight.ENGINE,
        Weight.REGIME,
        weight.otherwise(equal).alias(Weight.WEIGHT),
        Weight.SKILL,
        n.cast(pl.Int64).alias(Weight.SESSIONS),
    ).sort(Weight.REGIME, Weight.ENGINE)


def attach_regime(predictions: pl.DataFrame, regimes: pl.DataFrame) -> pl.DataFrame:
    """Return predictions with the regime that was known at each row's ``as_of``."""
    known = regimes.select(pl.col("as_of"), pl.col("regime")).sort("as_of")
    return (
        predictions.sort("as_of")
        .join_asof(known, on="as_of", strategy="backward")
        .with_columns(pl.col("regime").fill_null(RegimeLabel.NEUTRAL.value))
    )


def blend(predictions: pl.DataFrame, weights: pl.DataFrame, regimes: pl.DataFrame) -> pl.DataFrame:
    """Return the ensemble's predictions: the weighted mean of its engines.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA``, engines below the ensemble.
    weights : pl.DataFrame
        From :func:`regime_weights`; with a column ``horizon`` where there are several.
    regimes : pl.DataFrame
        ``as_of``, ``regime``.

    Returns
    -------
    pl.DataFrame
        ``PREDICTION_SCHEMA`` with ``engine == "ensemble"``. Where an engine has no row its weight
        goes to the others.
    """
    keys = [
        Prediction.SYMBOL,
        Prediction.SESSION,
        Prediction.BAR_END,
        Prediction.AS_OF,
        Prediction.HORIZON,
    ]
    blended = (
        Prediction.P_SHORT,
        Prediction.P_NEUTRAL,
        Prediction.P_LONG,
        Prediction.EXPECTED_RETURN_BPS,
    )
    of = [c for c in (Weight.ENGINE, Weight.REGIME, Prediction.HORIZON) if c in weights.columns]
    rows = attach_regime(predictions, regimes).join(weights.select(*of, Weight.WEIGHT), on=of)
    weight = pl.col(Weight.WEIGHT)
    made = (
        rows.sort(*keys, Prediction.ENGINE)
        .group_by(keys, maintain_order=True)
        .agg(
            *((pl.col(c) * weight).sum() / weight.sum() for c in blended),
            pl.col(Prediction.VOLATILITY_BPS).first(),
            pl.concat_str(Prediction.MODEL_VERSION, weight.round(6)).str.join("|").alias("_parts"),
        )
    )
    version = pl.col("_parts").map_elements(_short_hash, return_dtype=pl.String)
    return (
        made.with_columns(
            pl.lit(ENSEMBLE_ENGINE).alias(Prediction.ENGINE),
            (pl.lit("ensemble-") + pl.col(Prediction.HORIZON) + "-" + version).alias(
                Prediction.MODEL_VERSION
            ),
        )
        .select(PREDICTION_SCHEMA.names())
        .cast(PREDICTION_SCHEMA)
    )


def blend_by_month(
    predictions: pl.DataFrame, skill: pl.DataFrame, regimes: pl.DataFrame, engines: list[str]
) -> pl.DataFrame:
    """Blend whole months of one horizon, each by the weights that were known at its first moment.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA`` of one horizon, engines below the ensemble.
    skill : pl.DataFrame
        From :func:`session_skill`.
    regimes : pl.DataFrame
        From :func:`features.regime.classify_regimes`.
    engines : list of str
        All that are blended, also those that have no row here.

    Returns
    -------
    pl.DataFrame
        ``PREDICTION_SCHEMA``, engine ``ensemble``; expected returns are not scaled.
    """
    parts = [
        blend(month, regime_weights(skill, regimes, engines, first_moment(month)), regimes)
        for month in by_month(predictions)
    ]
    none = pl.DataFrame(schema=PREDICTION_SCHEMA)
    return pl.concat([none, *parts]).sort(Prediction.BAR_END, Prediction.SYMBOL)


def blend_walk_forward(
    predictions: pl.DataFrame, labels: pl.DataFrame, regimes: pl.DataFrame
) -> pl.DataFrame:
    """Blend out-of-sample predictions as they would have been blended at the time.

    Weights, and the scale of the expected return (:func:`signals.scale.return_scale`), are worked
    out anew at the first prediction of each month, from outcomes known then.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA`` of one horizon.
    labels : pl.DataFrame
        From :func:`features.labels.forward_returns`.
    regimes : pl.DataFrame
        From :func:`features.regime.classify_regimes`.

    Returns
    -------
    pl.DataFrame
        ``PREDICTION_SCHEMA``, engine ``ensemble``.
    """
    outcome = labels.select("symbol", "bar_end", "label_known_at", "excess_return")
    keys = ["symbol", "bar_end"]
    skill = session_skill(predictions.join(outcome, on=keys, how="left"))
    engines = sorted(predictions[Prediction.ENGINE].unique())
    blended = blend_by_month(predictions, skill, regimes, engines)
    moments = session_moments(blended.join(outcome, on=keys, how="left"), [ENSEMBLE_ENGINE])
    name = str(blended[Prediction.HORIZON][0])
    horizon = find_horizon(name)
    parts = [
        scale_returns(month, {name: return_scale(moments, first_moment(month), horizon)})
        for month in by_month(blended)
    ]
    return pl.concat(parts)


def first_moment(predictions: pl.DataFrame) -> dt.datetime:
    """Return the earliest ``as_of``."""
    return min(predictions[Prediction.AS_OF].unique().to_list())


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
