"""What of this floor the leakage audit goes through: scalers and models, by their forecasts."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from features.audited import adjusted_bars, side_tables
from features.compute import compute_features
from features.labels import forward_returns
from features.leakage import Subject, Tables
from features.spec import Feature
from market.horizons import Horizon
from models.dataset import assemble, reach_of
from models.registry import find_family
from models.splits import PurgedWalkForward
from models.walk_forward import walk_forward

_BAND_BPS = 6.0


def scalers_subject(
    horizon: Horizon,
    features: Sequence[Feature],
    *,
    family: str = "linear",
    min_train_sessions: int,
    test_sessions: int,
) -> Subject:
    """Return the audit of walk-forward forecasts, and so of every scaler fitted on the way.

    The linear family imputes, scales and clips by what it learned: a scaler that had seen one row
    of the future would change its forecasts, and the audit compares them to the bit.

    Parameters
    ----------
    horizon : Horizon
        Whose labels are learned.
    features : sequence of Feature
        What is learned from; ``volatility_20`` must be among them.
    family : str
        Model family.
    min_train_sessions, test_sessions : int
        Windows of the walk-forward.
    """

    def compute(tables: Tables) -> pl.DataFrame:
        bars = adjusted_bars(tables, horizon.timeframe)
        made = compute_features(bars, features, side_tables(tables, horizon.timeframe))
        labels = forward_returns(bars, horizon)
        dataset = assemble(
            made,
            labels,
            [f.name for f in features],
            steps=horizon.steps,
            reach_sessions=reach_of(horizon.timeframe),
        )
        splitter = PurgedWalkForward(
            horizon, min_train_sessions=min_train_sessions, test_sessions=test_sessions
        )
        walked = walk_forward(dataset, [find_family(family)], splitter, seed=1, band_bps=_BAND_BPS)
        return walked.predictions

    name = f"scalers and {family} forecasts of {horizon.name}"
    return Subject(name, compute, keys=("symbol", "bar_end", "engine"))
