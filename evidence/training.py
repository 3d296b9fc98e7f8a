"""From bars to out-of-sample predictions and ensembles, through the product's own functions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from features.compute import compute_features
from features.labels import forward_returns
from features.regime import classify_regimes
from features.registry import select_features
from features.side import SideTables
from features.spec import Feature, Memory
from market.actions import forward_adjust, session_factors
from market.costs import CostModel
from market.horizons import Horizon
from market.synthetic import SyntheticMarket
from market.timeframes import Timeframe, resample
from models.ensemble import META_ENGINE, stack_walk_forward
from models.registry import find_family
from models.spec import Family
from models.train import Rhythm, train_horizon
from signals.schema import ENSEMBLE_ENGINE
from signals.weighting import blend_walk_forward

BAND_BPS = 2.0 * CostModel().one_way_bps
"""The neutral band: what a round trip costs by default."""

FEATURE_FAMILIES = (
    "core",
    "alpha158",
    "technical",
    "microstructure",
    "cross_section",
    "calendar",
    "longer_bars",
)
"""Feature families that need nothing but bars; macro and sentiment would be null here."""

Params = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Prepared:
    """What a training reads.

    Attributes
    ----------
    features : pl.DataFrame
        From :func:`features.compute.compute_features`.
    labels : pl.DataFrame
        From :func:`features.labels.forward_returns`.
    regimes : pl.DataFrame
        From :func:`features.regime.classify_regimes`.
    names : tuple of str
        Features that models learn from.
    """

    features: pl.DataFrame
    labels: pl.DataFrame
    regimes: pl.DataFrame
    names: tuple[str, ...]


def chosen_features(timeframe: Timeframe, families: Sequence[str]) -> tuple[Feature, ...]:
    """Return the features of bars of a length that models learn from, each once."""
    return tuple(
        f
        for name in families
        for f in select_features(family=name, timeframe=timeframe)
        if f.memory is not Memory.CUMULATIVE
    )


def prepare_bars(
    bars: pl.DataFrame,
    daily: pl.DataFrame,
    horizon: Horizon,
    families: Sequence[str] = FEATURE_FAMILIES,
    longer: Mapping[Timeframe, pl.DataFrame] | None = None,
) -> Prepared:
    """Return features, labels and regimes of adjusted bars of a horizon's input length."""
    chosen = chosen_features(horizon.timeframe, families)
    features = compute_features(bars, chosen, SideTables(longer=dict(longer or {})))
    names = tuple(f.name for f in chosen)
    return Prepared(features, forward_returns(bars, horizon), classify_regimes(daily), names)


def prepare_synthetic(
    market: SyntheticMarket, horizon: Horizon, families: Sequence[str] = FEATURE_FAMILIES
) -> Prepared:
    """Return the same of a synthetic market, adjusted by its own actions."""
    factors = session_factors(market.daily, market.splits, market.dividends)
    daily = forward_adjust(market.daily, factors)
    if not horizon.timeframe.is_intraday:
        return prepare_bars(daily, daily, horizon, families)
    minutes = forward_adjust(market.minute, factors)
    longer = {Timeframe.H1: resample(minutes, Timeframe.H1), Timeframe.D1: daily}
    bars = resample(minutes, horizon.timeframe)
    return prepare_bars(bars, daily, horizon, families, longer)


def with_params(names: Iterable[str], params: Params) -> tuple[Family, ...]:
    """Return families with parameters laid over their defaults."""
    return tuple(
        replace(f, defaults={**f.defaults, **params.get(f.name, {})})
        for f in map(find_family, names)
    )


def predict_out_of_sample(
    prepared: Prepared,
    horizon: Horizon,
    families: Sequence[Family],
    rhythm: Rhythm,
    *,
    seed: int,
) -> pl.DataFrame:
    """Return each family's out-of-sample predictions by :func:`models.train.train_horizon`."""
    newest = prepared.features["as_of"].max()
    assert isinstance(newest, dt.datetime)
    return train_horizon(
        prepared.features,
        prepared.labels,
        horizon=horizon,
        families=families,
        feature_names=prepared.names,
        rhythm=rhythm,
        start=None,
        end=None,
        as_of=newest,
        seed=seed,
        band_bps=BAND_BPS,
        data_hash="",
    ).predictions


def ensemble_of(
    predictions: pl.DataFrame,
    prepared: Prepared,
    members: Sequence[str],
    *,
    stacked: bool,
    name: str = ENSEMBLE_ENGINE,
) -> pl.DataFrame:
    """Return the ensemble of some engines, as the models asset makes it, and its meta-learner.

    Parameters
    ----------
    predictions : pl.DataFrame
        Of one horizon; other engines are not looked at.
    prepared : Prepared
        For outcomes and regimes.
    members : sequence of str
        Engines.
    stacked : bool
        Whether a meta-learner is stacked on them and becomes one more engine of the blend.
    name : str
        Name of the ensemble; that of its meta-learner has ``.meta`` behind it.
    """
    engines = predictions.filter(pl.col("engine").is_in(list(members)))
    parts: list[pl.DataFrame] = []
    if stacked:
        meta = stack_walk_forward(engines, prepared.labels)
        engines = pl.concat([engines, meta])
        parts.append(meta.with_columns(pl.lit(f"{name}.{META_ENGINE}").alias("engine")))
    blended = blend_walk_forward(engines, prepared.labels, prepared.regimes)
    return pl.concat([*parts, blended.with_columns(pl.lit(name).alias("engine"))])
