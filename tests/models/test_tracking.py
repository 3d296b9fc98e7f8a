"""Champions: which model serves at which moment."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from market.errors import ModelError
from models.fit import FittedModel, fit_model
from models.registry import FAMILIES
from models.run_store import RunStore
from models.tracking import Tracker
from tests.markets import dataset_of, market
from tests.mlflow_server import mlflow_server

MOMENT = dt.timedelta(microseconds=1)


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))


def model(rows: int, family: str = "linear", horizon: str = "1d", seed: int = 1) -> FittedModel:
    data = dataset_of(market())
    return fit_model(
        data, np.arange(rows), FAMILIES[family], horizon=horizon, seed=seed, data_hash="h"
    )


def log(tracker: Tracker, *models: FittedModel) -> str:
    return tracker.log_training(
        models[0].horizon,
        models,
        params={"a": 1},
        metrics={"ic": 0.1, "gap": float("nan")},
        tags={},
    )


def known(fitted: FittedModel) -> dt.datetime:
    return dt.datetime.fromisoformat(fitted.known_at)


def test_champions_are_those_of_the_moment(tracker: Tracker) -> None:
    old, new = model(200), model(300)
    log(tracker, old)
    log(tracker, new)
    assert known(old) < known(new)
    at = {
        known(old): old.version,
        known(new) - MOMENT: old.version,
        known(new): new.version,
        known(new) + dt.timedelta(days=900): new.version,
    }
    for as_of, version in at.items():
        assert [m.version for m in tracker.champions("1d", as_of)] == [version]


def test_a_server_keeps_what_another_machine_forecasts_with(tmp_path: Path) -> None:
    """Nothing of a run lies on the machine that trained."""
    old, new = model(200), model(300)
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server") as url:
        log(Tracker(url), old, model(200, "random_forest"))
        log(Tracker(url), new)
        found = Tracker(url).champions("1d", known(new) - MOMENT)
        assert {m.version for m in found} == {old.version, model(200, "random_forest").version}
        rows = dataset_of(market())
        linear = next(m for m in found if m.version == old.version)
        wanted = old.forecaster.predict(rows.sample(np.arange(50)))
        assert np.array_equal(
            linear.forecaster.predict(rows.sample(np.arange(50))).mean, wanted.mean
        )
    assert [f.name for f in tmp_path.iterdir()] == ["server"]


def test_before_the_first_model_there_is_no_champion(tracker: Tracker) -> None:
    only = model(200)
    with pytest.raises(ModelError, match=r"no champion for horizon 1d.*no model at all"):
        tracker.champions("1d", known(only))
    log(tracker, only)
    with pytest.raises(ModelError, match=r"isobar train --horizon 1d"):
        tracker.champions("1d", known(only) - MOMENT)


def test_an_older_model_trained_again_is_the_champion_it_was_made(tracker: Tracker) -> None:
    log(tracker, model(300))
    log(tracker, model(200))
    as_of = known(model(300))
    assert [m.version for m in tracker.champions("1d", as_of)] == [model(200).version]


def test_each_family_and_horizon_has_its_own(tracker: Tracker) -> None:
    log(tracker, model(200), model(200, "lightgbm"))
    log(tracker, model(250, horizon="14d"))
    later = known(model(250))
    assert [m.family.name for m in tracker.champions("1d", later)] == ["lightgbm", "linear"]
    (other,) = tracker.champions("14d", later)
    assert (other.horizon, other.version) == ("14d", model(250, horizon="14d").version)
    with pytest.raises(ModelError, match="no champion for horizon 1h"):
        tracker.champions("1h", later)


def test_everything_needed_comes_back(tracker: Tracker) -> None:
    made = model(200, seed=7)
    log(tracker, made)
    (back,) = tracker.champions("1d", known(made))
    for name in ("spread", "params", "seed", "feature_names", "rows", "trained_from", "known_at"):
        assert getattr(back, name) == getattr(made, name), name


def test_a_lost_artifact_is_one_clear_error(tracker: Tracker, tmp_path) -> None:
    made = model(200)
    log(tracker, made)
    for file in (tmp_path / "artifacts").rglob("*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        tracker.champions("1d", known(made))


def test_when_the_store_refuses_the_champion_stays(tracker: Tracker, monkeypatch) -> None:
    from mlflow.exceptions import MlflowException

    old = model(200)
    log(tracker, old)

    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("the disk is full")

    monkeypatch.setattr(RunStore, "_store", refuse)
    with pytest.raises(ModelError, match="the previous champions keep serving"):
        log(tracker, model(300))
    monkeypatch.undo()
    assert [m.version for m in tracker.champions("1d", known(model(300)))] == [old.version]
