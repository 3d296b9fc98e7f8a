"""How much each engine counts in each regime.

Engines are presumed alike, ten to one, until their outcomes say otherwise. What they differ by is
weighed as a Bayesian model average of two views (Hoeting, Madigan, Raftery and Volinsky 1999,
Statistical Science 14): that they are alike, and that their skills scatter, each a random effect
drawn toward the mean of all by how little evidence there is (Bühlmann 1967, ASTIN Bulletin 4).
The probability of the second view follows from how far the skills lie apart, measured by their
own noise. It is worked out twice: for skill in all regimes, and for what a regime adds to it.
Only outcomes that had arrived by ``as_of`` count, so with no evidence the weights are equal.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import warnings
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import expit

from market.calendar import NEW_YORK
from market.horizons import find_horizon
from market.regimes import RegimeLabel
from market.schema import UTC_MICROSECONDS
from models.ensemble import by_month
from models.evaluation import rank_ic
from models.forecast import PREDICTION_SCHEMA, Prediction
from models.session_moments import session_moments
from signals.scale import return_scale, scale_returns
from signals.schema import ENSEMBLE_ENGINE

REGIME_SESSIONS = 30.0
"""Sessions in a regime at which what it adds counts as much as skill in all regimes."""

EQUALITY_SESSIONS = 60.0
"""Sessions of evidence at which an engine's skill counts as much as that of all engines."""

ODDS_AGAINST_DIFFERENCES = 10.0
"""How much likelier than not engines are alike, before anything is known of them."""


_SESSIONS_A_DAY = 252 / 365.25


class Weight(StrEnum):
    """Columns of the weights table."""

    ENGINE = "engine"
    REGIME = "regime"
    WEIGHT = "weight"
    SKILL = "skill"
    SESSIONS = "sessions"


WEIGHT_SCHEMA = pl.Schema(
    {
        Weight.ENGINE: pl.String(),
        Weight.REGIME: pl.String(),
        Weight.WEIGHT: pl.Float64(),
        Weight.SKILL: pl.Float64(),
        Weight.SESSIONS: pl.Int64(),
    }
)
"""What :func:`regime_weights` returns."""

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
        ``engine``, ``regime``, ``weight`` (adds up to one in each regime, in proportion to the
        skill where that is positive), ``skill`` (the rank IC that is expected of it) and
        ``sessions`` of evidence.
    """
    names = sorted(engines)
    seen = skill.filter((pl.col("known_at") <= as_of) & pl.col(Weight.ENGINE).is_in(names))
    labelled = seen.join(regimes.select("session", Weight.REGIME), on="session", how="left")
    observed = _observed(labelled, names)
    words = [r.value for r in RegimeLabel]
    expected = _expected_skill(observed, [observed.regimes == w for w in words])
    useful = np.clip(expected, 0.0, None)
    total = useful.sum(axis=1, keepdims=True)
    shares = np.divide(useful, total, out=np.full_like(useful, 1.0 / len(names)), where=total > 0.0)
    there = ~np.isnan(observed.rank_ic)
    return pl.DataFrame(
        [
            {
                Weight.ENGINE: engine,
                Weight.REGIME: word,
                Weight.WEIGHT: float(shares[r, e]),
                Weight.SKILL: float(expected[r, e]),
                Weight.SESSIONS: int(there[observed.regimes == word, e].sum()),
            }
            for r, word in enumerate(words)
            for e, engine in enumerate(names)
        ],
        schema=WEIGHT_SCHEMA,
    ).sort(Weight.REGIME, Weight.ENGINE)


@dataclass(frozen=True)
class _Observed:
    """Rank ICs, (sessions, engines), NaN where an engine has none; the regime of each session.

    ``overlap`` is how many sessions in a row have outcomes in common: so many count as one.
    """

    rank_ic: npt.NDArray[np.float64]
    regimes: npt.NDArray[np.str_]
    overlap: float


def _observed(labelled: pl.DataFrame, engines: list[str]) -> _Observed:
    sessions = labelled["session"].unique().sort()
    table = np.full((len(sessions), len(engines)), np.nan)
    columns = [engines.index(e) for e in labelled[Weight.ENGINE]]
    rows = sessions.search_sorted(labelled["session"]).to_numpy()
    table[rows, columns] = labelled["rank_ic"].to_numpy()
    regimes = np.full(len(sessions), "", dtype="U16")
    regimes[rows] = labelled[Weight.REGIME].fill_null("").to_numpy()
    waited = (
        pl.col("known_at").dt.convert_time_zone(str(NEW_YORK)).dt.date() - pl.col("session")
    ).dt.total_days()
    days = labelled.select(waited.median()).item()
    return _Observed(table, regimes, max(1.0, round((days or 0.0) * _SESSIONS_A_DAY)))


def _expected_skill(
    observed: _Observed, regimes: list[npt.NDArray[np.bool_]]
) -> npt.NDArray[np.float64]:
    """Return the rank IC that is expected of each engine, (regimes, engines)."""
    sessions, engines = observed.rank_ic.shape
    if not sessions:
        return np.zeros((len(regimes), engines))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        # What engines have in common on a session, its luck above all, says nothing of them.
        apart = observed.rank_ic - np.nanmean(observed.rank_ic, axis=1, keepdims=True)
        level = np.nanmean(observed.rank_ic)
    counts, lead = _means(apart)
    noise = _noise(apart, lead)
    count = counts / observed.overlap
    added, local_counts = np.zeros((2, len(regimes), engines))
    for r, within in enumerate(regimes):
        counted, mean = _means(apart[within])
        added[r] = np.where(counted > 0, mean - lead, 0.0)
        local_counts[r] = counted / observed.overlap
    # The regimes' means are bound to add up to the whole, which takes one of them away.
    free = 1.0 - np.divide(local_counts, count, out=np.ones_like(local_counts), where=count > 0.0)
    differ = _probability(lead, count, EQUALITY_SESSIONS, noise, np.ones(engines))
    differ_by_regime = _probability(added, local_counts, REGIME_SESSIONS, noise, free)
    return (
        level
        + differ * count / (count + EQUALITY_SESSIONS) * lead
        + differ_by_regime * local_counts / (local_counts + REGIME_SESSIONS) * added
    )


def _means(apart: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return of each engine the number of its sessions, and the mean (zero where none)."""
    counts = (~np.isnan(apart)).sum(axis=0).astype(np.float64)
    return counts, np.nansum(apart, axis=0) / np.maximum(counts, 1.0)


def _noise(apart: npt.NDArray[np.float64], lead: npt.NDArray[np.float64]) -> float:
    """Return the variance of an engine's rank IC on one session, beyond what all share."""
    engines = apart.shape[1]
    freedom = float((~np.isnan(apart)).sum()) - engines
    if engines < 2 or freedom <= 0:
        return math.nan
    return float(np.nansum((apart - lead) ** 2)) / freedom * engines / (engines - 1)


def _probability(
    means: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
    prior_sessions: float,
    noise: float,
    free: npt.NDArray[np.float64],
) -> float:
    """Return how likely it is that skills differ, after means over so many sessions.

    Either all true means are zero, or they scatter with the variance of a mean over
    ``prior_sessions``; ``free`` is the part of each mean that the others do not determine.
    """
    if math.isnan(noise):
        return 0.0
    engines = means.shape[-1]
    gain = counts / prior_sessions
    squares = float((counts * means**2 * gain / (1.0 + gain)).sum())
    if noise <= 0.0:
        return float(squares > 0.0)
    freedom = free * (engines - 1) / engines
    log_odds = (
        squares / noise / 2.0
        - float((freedom * np.log1p(gain)).sum()) / 2.0
        - math.log(ODDS_AGAINST_DIFFERENCES)
    )
    return float(expit(log_odds))


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
