"""A meta-learner stacked on the engines, from their out-of-sample forecasts alone.

Stacked generalisation (Wolpert, 1992) with weights that may not be negative (Breiman, 1996). They
are drawn toward equal ones, and the whole toward the plain mean of the engines, by how little
evidence there is.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

from market.errors import ModelError
from models.forecast import PREDICTION_SCHEMA, Prediction
from models.session_moments import OUTCOME, Moment, session_moments
from models.spec import Vector

META_ENGINE = "meta"

PRIOR_SESSIONS = 120.0
"""Sessions of evidence that count as much as the presumption of equal weights."""

_KEYS = (
    Prediction.SYMBOL,
    Prediction.SESSION,
    Prediction.BAR_END,
    Prediction.AS_OF,
    Prediction.HORIZON,
)
_BLENDED = (
    Prediction.P_SHORT,
    Prediction.P_NEUTRAL,
    Prediction.P_LONG,
)


def stack_weights(
    moments: pl.DataFrame, engines: Sequence[str], as_of: dt.datetime
) -> pl.DataFrame:
    """Return how much of each engine's forecast the meta-learner takes.

    Parameters
    ----------
    moments : pl.DataFrame
        From :func:`models.session_moments.session_moments` of these engines or more; pairs with
        others are not looked at.
    engines : sequence of str
        Whose forecasts are stacked.
    as_of : datetime
        Aware. Sessions whose outcomes were known later are not looked at.

    Returns
    -------
    pl.DataFrame
        ``engine``, ``weight`` (not negative; their sum is how far the forecasts are stretched or
        drawn in) and ``sessions`` of evidence; sorted by engine. Without evidence: equal weights
        that add up to one.

    Raises
    ------
    ModelError
        When no engine is named.
    """
    if not engines:
        raise ModelError(
            "nothing to stack", got="no engine", allowed="one or more", remedy="name the engines"
        )
    names = sorted(engines)
    place = {name: k for k, name in enumerate(names)}
    known = moments.filter(
        (pl.col(Moment.KNOWN_AT) <= as_of)
        & pl.col(Moment.ENGINE).is_in(names)
        & pl.col(Moment.OTHER).is_in([*names, OUTCOME])
    ).sort(Moment.SESSION)
    found = np.full(len(names), 1.0 / len(names))
    # An engine that has forecast nothing yet cannot be compared: the others wait for it.
    whole = set(known[Moment.ENGINE].unique()) == set(names)
    sessions = known[Moment.SESSION].n_unique() if whole else 0
    if sessions > 1:
        gram, against = np.zeros((len(names), len(names))), np.zeros(len(names))
        pairs = known.partition_by(Moment.ENGINE, Moment.OTHER, as_dict=True)
        for (engine, other), part in pairs.items():
            total, k = float(part[Moment.PRODUCT].to_numpy().sum()), place[str(engine)]
            if other == OUTCOME:
                against[k] = total
            else:
                gram[k, place[str(other)]] = gram[place[str(other)], k] = total
        rows = int(next(iter(pairs.values()))[Moment.ROWS].sum())
        found = _solve(gram, against, rows=rows, prior_rows=PRIOR_SESSIONS * rows / sessions)
    return pl.DataFrame({"engine": names, "weight": found, "sessions": [sessions] * len(names)})


def _solve(gram: Vector, against: Vector, *, rows: int, prior_rows: float) -> Vector:
    """Return least-squares weights, drawn toward equal ones by so many rows of presumption.

    Given are the products (k, k) of the forecasts and (k,) of forecasts and outcome.
    """
    engines = len(gram)
    equal = np.full(engines, 1.0 / engines)
    pull = prior_rows * float(np.trace(gram)) / (rows * engines)
    if pull == 0.0:
        return equal
    # Its factor stands for the rows: no other matrix has these products.
    factor = np.linalg.cholesky(gram + pull * np.eye(engines))
    target = solve_triangular(factor, against + pull * equal, lower=True)
    weights, _ = nnls(factor.T, target)
    return np.asarray(weights, dtype=np.float64)


def stack(predictions: pl.DataFrame, weights: pl.DataFrame) -> pl.DataFrame:
    """Return the meta-learner's predictions.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA`` of the stacked engines, one horizon.
    weights : pl.DataFrame
        From :func:`stack_weights`.

    Returns
    -------
    pl.DataFrame
        ``PREDICTION_SCHEMA``, engine ``meta``, of the rows that every engine has. Probabilities
        are the weighted mean of the engines'.
    """
    table = weights.select(pl.col("engine").alias(Prediction.ENGINE), "weight")
    share = pl.col("weight") / pl.col("weight").sum()
    equal = pl.lit(1.0) / pl.len()
    safe = pl.when(pl.col("weight").sum() > 0.0).then(share).otherwise(equal)
    version = pl.concat_str(Prediction.MODEL_VERSION, pl.col("weight").round(6)).str.join("|")
    made = (
        predictions.join(table, on=Prediction.ENGINE)
        .sort(*_KEYS, Prediction.ENGINE)
        .group_by(_KEYS, maintain_order=True)
        .agg(
            *((pl.col(c) * safe).sum() for c in _BLENDED),
            (pl.col(Prediction.EXPECTED_RETURN_BPS) * pl.col("weight")).sum(),
            pl.col(Prediction.VOLATILITY_BPS).first(),
            version.alias("_parts"),
            pl.len().alias("_engines"),
        )
        .filter(pl.col("_engines") == weights.height)
    )
    named = made.with_columns(
        pl.lit(META_ENGINE).alias(Prediction.ENGINE),
        pl.concat_str(
            pl.lit(f"{META_ENGINE}-"),
            Prediction.HORIZON,
            pl.lit("-"),
            pl.col("_parts").map_elements(_digest, return_dtype=pl.String),
        ).alias(Prediction.MODEL_VERSION),
    )
    return named.select(PREDICTION_SCHEMA.names()).cast(PREDICTION_SCHEMA)


def stack_walk_forward(predictions: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Stack out-of-sample predictions as they would have been stacked at the time.

    The weights are worked out anew at the first prediction of each month, from outcomes known
    then.

    Parameters
    ----------
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA`` of the engines of one horizon.
    labels : pl.DataFrame
        From :func:`features.labels.forward_returns`.

    Returns
    -------
    pl.DataFrame
        ``PREDICTION_SCHEMA``, engine ``meta``.
    """
    outcome = labels.select("symbol", "bar_end", "label_known_at", "excess_return")
    scored = predictions.join(outcome, on=["symbol", "bar_end"], how="left")
    engines = sorted(predictions[Prediction.ENGINE].unique())
    moments = session_moments(scored, engines)
    parts = [
        stack(month, stack_weights(moments, engines, min(month[Prediction.AS_OF].to_list())))
        for month in by_month(predictions)
    ]
    return pl.concat(parts).sort(Prediction.BAR_END, Prediction.SYMBOL)


def by_month(predictions: pl.DataFrame) -> list[pl.DataFrame]:
    """Return the predictions of each month, in order: weights are worked out anew for each."""
    month = pl.col(Prediction.SESSION).dt.truncate("1mo").alias("_month")
    parts = predictions.with_columns(month).partition_by("_month", as_dict=True)
    return [parts[key].drop("_month") for key in sorted(parts)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
