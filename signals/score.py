"""Score the newest bar of every symbol, all horizons in one call, with what was loaded before."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl

from market.errors import SignalError
from market.frame_hash import frame_hash
from market.horizons import Horizon, last_complete_bar
from market.timeframes import Timeframe
from models.calibration import Calibrator, calibrate
from models.dataset import VOLATILITY, Dataset, assemble, reach_of
from models.ensemble import stack
from models.fit import FittedModel, predict_rows
from models.forecast import keep_raw
from models.recipe import challenger_engine
from models.spec import Indices, window_of
from signals.weighting import blend

Seen = Mapping[tuple[str, ...], tuple[Dataset, Indices]]

_NO_LABELS = pl.DataFrame(
    schema={
        "symbol": pl.String,
        "bar_end": pl.Datetime("us", "UTC"),
        "label_known_at": pl.Datetime("us", "UTC"),
        "forward_return": pl.Float64,
        "excess_return": pl.Float64,
    }
)


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
    """

    horizon: Horizon
    champions: tuple[FittedModel, ...]
    weights: pl.DataFrame
    regimes: pl.DataFrame
    challengers: tuple[FittedModel, ...] = ()
    stacked: pl.DataFrame | None = None
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict[str, Calibrator])

    def engines(self) -> Iterator[tuple[str, FittedModel]]:
        """Yield the models with the names of their engines."""
        yield from ((m.family.name, m) for m in self.champions)
        yield from ((challenger_engine(m.family.name), m) for m in self.challengers)


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
        The newest rows, and those before them that windows reach.
    seen : mapping
        Feature names to the rows as models read them.
    """

    ensemble: Ensemble
    predictions: pl.DataFrame
    features: pl.DataFrame = field(repr=False)
    seen: Seen = field(repr=False)

    @cached_property
    def data_hash(self) -> str:
        """Digest of the features that were looked at."""
        return frame_hash(self.features.sort("bar_end", "symbol"))


def score_horizons(
    features: Mapping[Timeframe, pl.DataFrame],
    ensembles: Sequence[Ensemble],
    *,
    as_of: dt.datetime,
    delay: dt.timedelta,
    band_bps: float,
) -> dict[str, Scores]:
    """Forecast from the newest complete bar with every loaded ensemble.

    Parameters
    ----------
    features : mapping
        Timeframe to its features, the last sessions at least, of one symbol or of many: no
        row's forecast depends on which other symbols are there.
    ensembles : sequence of Ensemble
        One per horizon.
    as_of, delay, band_bps
        See :func:`score_latest`.

    Returns
    -------
    dict
        Horizon name to its scores, in the order given.
    """
    return {
        e.horizon.name: score_latest(
            features[e.horizon.timeframe], e, as_of=as_of, delay=delay, band_bps=band_bps
        )
        for e in ensembles
    }


def score_latest(
    features: pl.DataFrame,
    ensemble: Ensemble,
    *,
    as_of: dt.datetime,
    delay: dt.timedelta,
    band_bps: float,
) -> Scores:
    """Forecast one horizon from the newest complete bar.

    Parameters
    ----------
    features : pl.DataFrame
        Of the horizon's timeframe, the last sessions at least.
    ensemble : Ensemble
        Its models could exist at ``as_of``.
    as_of : datetime
        Aware. Rows known later are not looked at.
    delay : timedelta
        Of the data plan.
    band_bps : float
        The neutral band.

    Returns
    -------
    Scores
        Symbols without the newest bar (halted) are left out: a missing signal closes nothing.

    Raises
    ------
    SignalError
        When no symbol has the newest bar: the data is behind.
    ModelError
        When a feature that a model learned from is not there.
    """
    horizon = ensemble.horizon
    expected = last_complete_bar(horizon.timeframe, as_of, delay)
    known = features.filter(pl.col("as_of") <= as_of)
    rows = known.filter(pl.col("bar_end") == expected)
    if rows.is_empty():
        newest = known["bar_end"].max()
        raise SignalError(
            f"features for {horizon.name} are behind",
            got=f"newest bar ends {newest}",
            allowed=f"the bar that ends {expected.isoformat()}",
            remedy="ingest the missing session and compute its features, then run again",
        )
    models = [m for _, m in ensemble.engines()]
    newest = _with_windows(known, rows, max(window_of(m.params) for m in models))
    seen = {
        names: _rows_at(newest, expected, names, horizon)
        for names in dict.fromkeys(m.feature_names for m in models)
    }
    forecasts = [
        predict_rows(model, *seen[model.feature_names], band_bps, engine=engine)
        for engine, model in ensemble.engines()
    ]
    core = pl.concat(forecasts[: len(ensemble.champions)])
    stacked = ensemble.stacked
    if stacked is not None:
        core = pl.concat([core, stack(core, stacked)])
    blended = blend(core, ensemble.weights, ensemble.regimes)
    behind = [*forecasts[len(ensemble.champions) :], blended]
    raw = keep_raw(pl.concat([core, *behind]))
    return Scores(
        ensemble,
        calibrate(raw, ensemble.calibrators),
        newest,
        seen,
    )


def _rows_at(
    features: pl.DataFrame, bar_end: dt.datetime, names: tuple[str, ...], horizon: Horizon
) -> tuple[Dataset, Indices]:
    dataset = assemble(
        features,
        _NO_LABELS,
        names,
        steps=horizon.steps,
        reach_sessions=reach_of(horizon.timeframe),
    )
    return dataset, np.flatnonzero((dataset.keys["bar_end"] == bar_end).to_numpy())


def _with_windows(known: pl.DataFrame, rows: pl.DataFrame, bars: int) -> pl.DataFrame:
    """Return the rows, and of their symbols the bars before them that windows reach."""
    if bars == 1:
        return rows
    return (
        # Only these are rows of a dataset, here as in research.
        known.filter(pl.col(VOLATILITY) > 0)
        .join(rows.select("symbol"), on="symbol", how="semi")
        .sort("symbol", "bar_end")
        .group_by("symbol", maintain_order=True)
        .tail(bars)
    )
