"""What must not be learned from, and champions that cannot serve: an error that says what to do.

A corrupt artifact is in tests/models/test_champions.py, a study of another search space in
tests/models/test_tuning.py, a killed training in tests/pipelines/test_training.py.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features.compute import compute_features
from market.errors import ModelError
from market.horizons import find_horizon
from models.dataset import Dataset
from models.fit import FittedModel, fit_model
from models.registry import FAMILIES
from models.spec import Family
from models.tracking import Tracker
from signals.score import Ensemble, score_horizons
from signals.weighting import regime_weights, session_skill
from tests.families import quick
from tests.markets import adjusted_daily, dataset_of, labels_of, market, regimes_of

DAILY = find_horizon("1d")
EVERY = quick(FAMILIES.values())
SEQUENCES = [f for f in EVERY if f.needs_sequences]


def fit(data: Dataset, family: Family, rows: int = 300) -> FittedModel:
    return fit_model(
        data, np.arange(rows), family, horizon="1d", seed=1, data_hash="", band_bps=5.0
    )


def known(data: Dataset, y: np.ndarray) -> Dataset:
    return replace(data, y=np.where(np.isfinite(data.y), y, np.nan))


@pytest.mark.parametrize("family", EVERY, ids=lambda f: f.name)
def test_constant_labels_are_refused(family: Family) -> None:
    with pytest.raises(ModelError, match=r"cannot train for horizon 1d.*1 distinct labels"):
        fit(known(dataset_of(market()), np.full(1, 0.3)), family)


@pytest.mark.parametrize("family", EVERY, ids=lambda f: f.name)
def test_labels_of_one_class_are_refused(family: Family) -> None:
    data = dataset_of(market())
    inside = 1e-6 * np.random.default_rng(1).standard_normal(len(data))
    with pytest.raises(ModelError, match="every label is of one class: got 'neutral'"):
        fit(known(data, inside), family)
    with pytest.raises(ModelError, match="every label is of one class: got 'long'"):
        fit(known(data, 2.0 + inside), family)


@pytest.mark.parametrize("family", EVERY, ids=lambda f: f.name)
def test_features_that_are_all_null_are_refused(family: Family) -> None:
    data = dataset_of(market())
    with pytest.raises(ModelError, match="every feature of every row is missing"):
        fit(replace(data, x=np.full_like(data.x, np.nan)), family)


@pytest.mark.parametrize("family", EVERY, ids=lambda f: f.name)
def test_one_feature_with_a_value_is_enough(family: Family) -> None:
    data = dataset_of(market())
    x = np.full_like(data.x, np.nan)
    x[:, 0] = data.x[:, 0]
    model = fit(replace(data, x=x), family)
    assert np.isfinite(model.forecaster.predict(data.sample(np.arange(300, 310))).mean).all()


@pytest.mark.parametrize("family", SEQUENCES, ids=lambda f: f.name)
def test_a_history_shorter_than_the_window_is_refused(family: Family) -> None:
    data = dataset_of(market())
    longer = replace(family, defaults={**family.defaults, "window": 400})
    with pytest.raises(ModelError, match=r"no row has as many bars.*allowed: 400 bars or more"):
        fit(data, longer)


def test_a_horizon_without_a_champion_says_what_to_run(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", (tmp_path / "runs").as_uri())
    now = dt.datetime(2025, 6, 30, tzinfo=dt.UTC)
    with pytest.raises(ModelError, match=r"no champion for horizon 1d.*isobar train --horizon 1d"):
        tracker.champions("1d", now)


def test_a_champion_whose_features_are_gone_scores_nothing() -> None:
    model = fit(dataset_of(market()), FAMILIES["linear"])
    features = compute_features(adjusted_daily(market()))
    as_of = features["as_of"].max()
    assert isinstance(as_of, dt.datetime)
    labels = labels_of(market()).clear()
    nothing = pl.DataFrame(schema={"engine": pl.String, "session": pl.Date, **labels.schema})
    none_yet = session_skill(nothing.with_columns(pl.lit(0.0).alias("expected_return_bps")))
    regimes = regimes_of(market())
    weights = regime_weights(none_yet, regimes, ["linear"], as_of)
    ensemble = Ensemble(DAILY, (model,), weights, regimes)
    gone = model.feature_names[-1]
    with pytest.raises(
        ModelError, match=f"features that a model needs are not there: got .*{gone}"
    ):
        score_horizons(
            {DAILY.timeframe: features.drop(gone)},
            [ensemble],
            as_of=as_of,
            delay=dt.timedelta(0),
            band_bps=5.0,
        )
