"""Score the newest bar of every symbol with the champions of a horizon."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from market.errors import SignalError
from market.frame_hash import frame_hash
from market.horizons import Horizon, last_complete_bar
from models.dataset import VOLATILITY, Dataset, assemble, reach_of
from models.ensemble import META_ENGINE, stack
from models.fit import FittedModel, predict_rows
from models.forecast import Prediction
from models.normal_scores import source_of
from models.spec import Indices, window_of
from signals.schema import ENSEMBLE_ENGINE
from signals.weighting import Weight, attach_regime, blend

_STRONGEST = 3
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
class Scores:
    """Predictions of every engine and the ensemble, what they saw and what moved them most."""

    predictions: pl.DataFrame
    data_hash: str
    contributions: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


def score_latest(
    features: pl.DataFrame,
    models: Sequence[FittedModel],
    *,
    horizon: Horizon,
    weights: pl.DataFrame,
    regimes: pl.DataFrame,
    as_of: dt.datetime,
    delay: dt.timedelta,
    band_bps: float,
    stacked: pl.DataFrame | None = None,
) -> Scores:
    """Forecast from the newest complete bar.

    Parameters
    ----------
    features : pl.DataFrame
        Of the horizon's timeframe, the last sessions at least.
    models : sequence of FittedModel
        Champions that could exist at ``as_of``.
    horizon : Horizon
        A row of the horizons table.
    weights, regimes : pl.DataFrame
        From :mod:`signals.weighting` and :mod:`features.regime`.
    as_of : datetime
        Rows known later are not looked at.
    delay : timedelta
        Of the data plan.
    band_bps : float
        The neutral band.
    stacked : pl.DataFrame, optional
        From :func:`models.ensemble.stack_weights`, where a meta-learner is one of the engines.

    Returns
    -------
    Scores
        Symbols without the newest bar (halted) are left out: a missing signal closes nothing.

    Raises
    ------
    SignalError
        When no symbol has the newest bar: the data is behind.
    """
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
    names = models[0].feature_names
    newest = _with_windows(known, rows, max(window_of(m.params) for m in models))
    if any(n != source_of(n) for n in names):
        # A rank is one among all symbols of its moment, also of those that have no newest bar.
        first = newest["bar_end"].min()
        newest = known.filter((pl.col(VOLATILITY) > 0) & (pl.col("bar_end") >= first))
    dataset = assemble(
        newest,
        _NO_LABELS,
        names,
        steps=horizon.steps,
        reach_sessions=reach_of(horizon.timeframe),
    )
    scored = np.flatnonzero((dataset.keys["bar_end"] == expected).to_numpy())
    engines = pl.concat([predict_rows(m, dataset, scored, band_bps) for m in models])
    if stacked is not None:
        engines = pl.concat([engines, stack(engines, stacked)])
    shares = _shares(attach_regime(engines, regimes), weights)
    return Scores(
        pl.concat([engines, blend(engines, weights, regimes)]),
        frame_hash(newest.sort("bar_end", "symbol")),
        _contributions(models, dataset, scored, shares, _weights_of(stacked)),
    )


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


def _shares(predictions: pl.DataFrame, weights: pl.DataFrame) -> dict[str, float]:
    """Return each engine's part in the blend of these rows, which are of one time."""
    regime = pl.col(Weight.REGIME) == predictions[Weight.REGIME][0]
    engines = predictions[Prediction.ENGINE].unique().to_list()
    used = weights.filter(regime & pl.col(Weight.ENGINE).is_in(engines))
    share = pl.col(Weight.WEIGHT) / pl.col(Weight.WEIGHT).sum()
    return dict(used.select(Weight.ENGINE, share).iter_rows())


def _weights_of(stacked: pl.DataFrame | None) -> dict[str, float]:
    return {} if stacked is None else dict(stacked.select("engine", "weight").iter_rows())


def _contributions(
    models: Sequence[FittedModel],
    dataset: Dataset,
    rows: Indices,
    share: Mapping[str, float],
    stacked: Mapping[str, float],
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    total, meta = np.zeros((2, len(rows), dataset.x.shape[1]))
    out: dict[tuple[str, str], list[dict[str, Any]]] = {}
    symbols = dataset.keys["symbol"][rows].to_list()
    unit_bps = dataset.unit[rows][:, None] * 1e4
    for model in models:
        moved = model.forecaster.contributions(dataset.sample(rows)) * unit_bps
        total += moved * share.get(model.family.name, 0.0)
        meta += moved * stacked.get(model.family.name, 0.0)
        out |= _strongest(symbols, model.family.name, moved, dataset.feature_names)
    if stacked:
        total += meta * share.get(META_ENGINE, 0.0)
        out |= _strongest(symbols, META_ENGINE, meta, dataset.feature_names)
    return out | _strongest(symbols, ENSEMBLE_ENGINE, total, dataset.feature_names)


def _strongest(
    symbols: Sequence[str], engine: str, moved: np.ndarray, names: Sequence[str]
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    order = np.argsort(-np.abs(moved), axis=1)[:, :_STRONGEST]
    return {
        (symbol, engine): [
            {"feature": names[k], "contribution": round(float(moved[i, k]), 6)} for k in order[i]
        ]
        for i, symbol in enumerate(symbols)
    }
