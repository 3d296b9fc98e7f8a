"""Score the newest bar of every symbol, all horizons in one call, with what was loaded before."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
import polars as pl
from threadpoolctl import ThreadpoolController

from features.spec import PANEL_KEYS
from market.errors import SignalError
from market.frame_hash import frame_hash
from market.horizons import Horizon, last_complete_bar
from market.schema import Bar
from market.timeframes import Timeframe
from models.calibration import Calibrator, calibrate
from models.dataset import VOLATILITY, Dataset, assemble, reach_of
from models.ensemble import stack
from models.fit import FittedModel, predict_engines
from models.forecast import Prediction, keep_raw
from models.normal_scores import source_of, sources_of
from models.recipe import challenger_engine
from models.spec import Indices, window_of
from signals.levels import Residuals
from signals.scale import scale_returns
from signals.weighting import Weight, blend

Datasets = Mapping[tuple[str, ...], tuple[Dataset, Indices]]


@dataclass(frozen=True)
class Ensemble:
    """All that one horizon is scored with, as known at one moment; loaded once.

    Attributes
    ----------
    horizon : Horizon
        A row of the horizons table.
    champions : tuple of FittedModel
        One per family; these make the ensemble.
    weights : pl.DataFrame
        From :func:`signals.weighting.regime_weights`.
    regimes : pl.DataFrame
        ``as_of``, ``regime``.
    challengers : tuple of FittedModel
        Scored beside the champions; they weigh nothing.
    stacked : pl.DataFrame, optional
        From :func:`models.ensemble.stack_weights`, where a meta-learner is one of the engines.
    calibrators : mapping
        Engine to its map (:func:`models.calibration.fit_latest`); one without stays raw.
    residuals : mapping
        Engine to how far outcomes were off (:func:`signals.levels.fit_residuals`).
    scale : float
        Of the ensemble's expected return (:func:`signals.scale.return_scale`).
    """

    horizon: Horizon
    champions: tuple[FittedModel, ...]
    weights: pl.DataFrame
    regimes: pl.DataFrame
    challengers: tuple[FittedModel, ...] = ()
    stacked: pl.DataFrame | None = None
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict[str, Calibrator])
    residuals: Mapping[str, Residuals] = field(default_factory=dict[str, Residuals])
    scale: float = 1.0

    def __post_init__(self) -> None:
        others = sorted({m.horizon for _, m in self.engines()} - {self.horizon.name})
        if not self.champions or others:
            raise SignalError(
                f"an ensemble for {self.horizon.name}",
                got=f"models for {', '.join(others)}" if others else "no champion",
                allowed="one champion or more, all of this horizon",
                remedy="load the champions of the horizon",
            )

    def engines(self) -> Iterator[tuple[str, FittedModel]]:
        """Yield the models with the names of their engines."""
        yield from ((m.family.name, m) for m in self.champions)
        yield from ((challenger_engine(m.family.name), m) for m in self.challengers)

    @cached_property
    def named_weights(self) -> pl.DataFrame:
        """The weights with the name of the horizon."""
        return self.weights.select(
            Weight.ENGINE,
            Weight.REGIME,
            Weight.WEIGHT,
            pl.lit(self.horizon.name).alias(Prediction.HORIZON),
        )


@dataclass(frozen=True)
class Scores:
    """What an ensemble made of the newest bar.

    Attributes
    ----------
    ensemble : Ensemble
        What scored.
    predictions : pl.DataFrame
        ``STORED_SCHEMA``: every engine, the ensemble last; calibrated, the raw ones beside.
    features : pl.DataFrame
        The newest rows, and those before them that windows reach, of all that was scored from
        bars of this length.
    seen : mapping
        Feature names to the rows as this horizon's models read them.
    """

    ensemble: Ensemble
    predictions: pl.DataFrame
    features: pl.DataFrame = field(repr=False)
    seen: Datasets = field(repr=False)

    @cached_property
    def data_hash(self) -> str:
        """Digest of the features that this horizon's models looked at, and of nothing else."""
        read = {name for names in self.seen for name in names}
        sources = {VOLATILITY, *map(source_of, read)} - set(PANEL_KEYS)
        looked_at = self.features.select(*PANEL_KEYS, *sorted(sources))
        if read == set(map(source_of, read)):
            bars = max(window_of(m.params) for _, m in self.ensemble.engines())
            by_symbol = looked_at.sort(Bar.SYMBOL, Bar.BAR_END).group_by(Bar.SYMBOL)
            looked_at = by_symbol.tail(bars)
        return frame_hash(looked_at.sort(Bar.BAR_END, Bar.SYMBOL))


def score_horizons(
    features: Mapping[Timeframe, pl.DataFrame],
    ensembles: Sequence[Ensemble],
    *,
    as_of: dt.datetime,
    delay: dt.timedelta,
    band_bps: float,
    symbols: Collection[str] | None = None,
) -> dict[str, Scores]:
    """Forecast from the newest complete bar with every loaded ensemble.

    Parameters
    ----------
    features : mapping
        Timeframe to its features, the last sessions at least, of all symbols: some models learn
        from ranks among them.
    ensembles : sequence of Ensemble
        One per horizon, one or more, all of one moment: they share their regimes.
    as_of : datetime
        Aware. Rows known later are not looked at.
    delay : timedelta
        Of the data plan.
    band_bps : float
        Half-width of the neutral band.
    symbols : collection of str, optional
        Forecast these alone; their forecasts are those that they have among all.

    Returns
    -------
    dict
        Horizon name to its scores, in the order given. Symbols without the newest bar (halted) are
        left out: a missing signal closes nothing.

    Raises
    ------
    SignalError
        When no symbol has the newest bar: the data is behind.
    ModelError
        When a feature that a model learned from is not there.
    """
    by_timeframe: dict[Timeframe, list[Ensemble]] = {}
    for ensemble in ensembles:
        by_timeframe.setdefault(ensemble.horizon.timeframe, []).append(ensemble)
    seen: dict[str, tuple[pl.DataFrame, Datasets]] = {}
    for timeframe, alike in by_timeframe.items():
        rows, datasets = _read_newest(features[timeframe], alike, as_of, delay, symbols)
        seen |= {e.horizon.name: (rows, _of_horizon(datasets, e)) for e in alike}
    # The trees' libraries deal out even one row to threads that then spin beside each other's.
    families = frozenset(m.family.name for e in ensembles for _, m in e.engines())
    with _threads_of(families).limit(limits=1, user_api="openmp"):
        forecast = pl.concat(
            [made for e in ensembles for made in _forecast(e, seen[e.horizon.name][1], band_bps)]
        )
    by_horizon = _blended(forecast, ensembles)
    return {
        e.horizon.name: Scores(e, by_horizon[e.horizon.name], *seen[e.horizon.name])
        for e in ensembles
    }


@lru_cache(maxsize=16)
def _threads_of(_families: frozenset[str]) -> ThreadpoolController:
    """Return a hold on the threads of the libraries that these families have loaded.

    To look for libraries takes as long as ten models do.
    """
    return ThreadpoolController()


def _read_newest(
    features: pl.DataFrame,
    ensembles: Sequence[Ensemble],
    as_of: dt.datetime,
    delay: dt.timedelta,
    symbols: Collection[str] | None,
) -> tuple[pl.DataFrame, Datasets]:
    """Return the newest rows with their windows, and the same as models read them."""
    timeframe = ensembles[0].horizon.timeframe
    expected = last_complete_bar(timeframe, as_of, delay)
    models = [m for e in ensembles for _, m in e.engines()]
    # Only rows with a volatility are rows of a dataset, here as in research.
    known = (
        features.lazy()
        .select(Bar.SYMBOL, Bar.BAR_END, "as_of", VOLATILITY)
        .with_row_index("_row")
        .filter(pl.col("as_of") <= as_of, pl.col(VOLATILITY) > 0)
        .collect()
    )
    there = known.filter(pl.col(Bar.BAR_END) == expected)
    if there.is_empty():
        seen = features.filter(pl.col("as_of") <= as_of)
        raise SignalError(
            f"features for {', '.join(e.horizon.name for e in ensembles)} are behind",
            got=f"newest bar ends {seen[Bar.BAR_END].max()}",
            allowed=f"the bar that ends {expected.isoformat()}",
            remedy="ingest the missing session and compute its features, then run again",
        )
    if symbols is not None:
        there = there.filter(pl.col(Bar.SYMBOL).is_in(list(symbols)))
    newest = _with_windows(known, there, max(window_of(m.params) for m in models))
    read = dict.fromkeys(m.feature_names for m in models)
    if any(names != sources_of(names) for names in read):
        # A rank is one among all symbols of its moment, also of those that have no newest bar.
        newest = known.filter(pl.col(Bar.BAR_END) >= newest[Bar.BAR_END].min())
    rows, wanted = features[newest["_row"]], there[Bar.SYMBOL]
    datasets: dict[tuple[str, ...], tuple[Dataset, Indices]] = {}
    for names in read:
        made = assemble(rows, None, names, steps=1, reach_sessions=reach_of(timeframe))
        scored = (made.keys[Bar.BAR_END] == expected) & made.keys[Bar.SYMBOL].is_in(
            wanted.implode()
        )
        datasets[names] = made, np.flatnonzero(scored.to_numpy())
    return rows, datasets


def _with_windows(known: pl.DataFrame, rows: pl.DataFrame, bars: int) -> pl.DataFrame:
    """Return the rows, and of their symbols the bars before them that windows reach."""
    if bars == 1:
        return rows
    return (
        known.lazy()
        .filter(pl.col(Bar.SYMBOL).is_in(rows[Bar.SYMBOL].implode()))
        .sort(Bar.SYMBOL, Bar.BAR_END)
        .group_by(Bar.SYMBOL, maintain_order=True)
        .tail(bars)
        .collect()
    )


def _of_horizon(datasets: Datasets, ensemble: Ensemble) -> Datasets:
    steps = ensemble.horizon.steps
    found: dict[tuple[str, ...], tuple[Dataset, Indices]] = {}
    for names in dict.fromkeys(m.feature_names for _, m in ensemble.engines()):
        dataset, rows = datasets[names]
        found[names] = replace(dataset, steps=steps, unit=dataset.volatility * steps**0.5), rows
    return found


def _forecast(ensemble: Ensemble, seen: Datasets, band_bps: float) -> list[pl.DataFrame]:
    """Return every engine's raw predictions, and the meta-learner's."""
    alike: dict[tuple[str, ...], dict[str, FittedModel]] = {}
    for engine, model in ensemble.engines():
        alike.setdefault(model.feature_names, {})[engine] = model
    made = [predict_engines(models, *seen[names], band_bps) for names, models in alike.items()]
    if ensemble.stacked is not None:
        champions = [m.family.name for m in ensemble.champions]
        every = pl.concat(made)
        made.append(
            stack(every.filter(pl.col(Prediction.ENGINE).is_in(champions)), ensemble.stacked)
        )
    return made


def _blended(forecast: pl.DataFrame, ensembles: Sequence[Ensemble]) -> dict[str, pl.DataFrame]:
    """Return by horizon the calibrated predictions of the engines and of the ensemble."""
    weights = pl.concat([e.named_weights for e in ensembles])
    blended = blend(forecast, weights, ensembles[0].regimes)
    scaled = scale_returns(blended, {e.horizon.name: e.scale for e in ensembles})
    whole = pl.concat([forecast, scaled])
    maps = {e.horizon.name: e.calibrators for e in ensembles}
    parts = calibrate(keep_raw(whole), maps).partition_by(Prediction.HORIZON, as_dict=True)
    return {str(name): rows for (name,), rows in parts.items()}
