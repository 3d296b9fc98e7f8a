"""What moved each forecast most, feature by feature."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from models.ensemble import META_ENGINE
from models.forecast import Prediction
from models.spec import Vector
from signals.schema import ENSEMBLE_ENGINE
from signals.score import Scores
from signals.weighting import Weight, attach_regime

Reasons = dict[tuple[str, str], list[dict[str, Any]]]

STRONGEST = 3


def strongest_symbols(predictions: pl.DataFrame, count: int) -> list[str]:
    """Return the symbols of which the ensemble expects most, up or down.

    Parameters
    ----------
    predictions : pl.DataFrame
        Of one horizon.
    count : int
        How many at most. Of equal ones the first by name.
    """
    blended = predictions.filter(pl.col(Prediction.ENGINE) == ENSEMBLE_ENGINE)
    size = pl.col(Prediction.EXPECTED_RETURN_BPS).abs()
    order = blended.sort(size, Prediction.SYMBOL, descending=[True, False])
    return order[Prediction.SYMBOL].head(count).to_list()


def strongest_reasons(
    scores: Scores, symbols: Collection[str] | None = None, count: int = STRONGEST
) -> Reasons:
    """Return the strongest signed contributions of features to each forecast.

    Parameters
    ----------
    scores : Scores
        From :func:`signals.score.score_horizons`.
    symbols : collection of str, optional
        For these alone; for all when absent.
    count : int
        How many of each.

    Returns
    -------
    dict
        (symbol, engine) to ``feature`` and ``contribution`` in bps of expected return, the
        largest first. The ensemble's and the meta-learner's are the weighted sums of the
        champions' (:meth:`models.spec.Forecaster.contributions`), the ensemble's scaled as its
        expected return is.
    """
    ensemble = scores.ensemble
    names = list(dict.fromkeys(n for m in ensemble.champions for n in m.feature_names))
    place = {name: k for k, name in enumerate(names)}
    dataset, rows = next(iter(scores.seen.values()))
    scored = dataset.keys["symbol"][rows]
    wanted = np.ones(len(rows), bool)
    if symbols is not None:
        wanted = scored.is_in(list(symbols)).to_numpy()
    there = scored.filter(pl.Series(wanted)).to_list()
    unit_bps = dataset.unit[rows[wanted]][:, None] * 1e4
    total, meta = np.zeros((2, len(there), len(names)))
    share, stacked = _shares(scores), _stacked(ensemble.stacked)
    found: Reasons = {}
    for engine, model in ensemble.engines():
        of_model, at = scores.seen[model.feature_names]
        moved = model.forecaster.contributions(of_model.sample(at[wanted])) * unit_bps
        columns = [place.get(n, -1) for n in model.feature_names]
        if engine in share:
            total[:, columns] += moved * share[engine]
        if engine in stacked:
            meta[:, columns] += moved * stacked[engine]
        found |= _strongest(there, engine, moved, model.feature_names, count)
    if stacked:
        total += meta * share.get(META_ENGINE, 0.0)
        found |= _strongest(there, META_ENGINE, meta, names, count)
    return found | _strongest(there, ENSEMBLE_ENGINE, total * ensemble.scale, names, count)


def _shares(scores: Scores) -> Mapping[str, float]:
    """Return each engine's part in the blend of these rows, which are of one time."""
    core = [m.family.name for m in scores.ensemble.champions]
    engines = core if scores.ensemble.stacked is None else [*core, META_ENGINE]
    now = attach_regime(scores.predictions.head(1), scores.ensemble.regimes)[Weight.REGIME][0]
    used = scores.ensemble.weights.filter(
        (pl.col(Weight.REGIME) == now) & pl.col(Weight.ENGINE).is_in(engines)
    )
    share = pl.col(Weight.WEIGHT) / pl.col(Weight.WEIGHT).sum()
    return dict(used.select(Weight.ENGINE, share).iter_rows())


def _stacked(weights: pl.DataFrame | None) -> Mapping[str, float]:
    return {} if weights is None else dict(weights.select("engine", "weight").iter_rows())


def _strongest(
    symbols: Sequence[str], engine: str, moved: Vector, names: Sequence[str], count: int
) -> Reasons:
    order = np.argsort(-np.abs(moved), axis=1)[:, :count]
    return {
        (symbol, engine): [
            {"feature": names[k], "contribution": round(float(moved[i, k]), 6)} for k in order[i]
        ]
        for i, symbol in enumerate(symbols)
    }
