"""What a run carries of its training's report, and the card read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow.artifacts
import polars as pl
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from market.errors import ModelError
from models.run_store import RUN_SCHEMA
from models.tracking import Tracker
from models.training_report import TrainingReport
from tests.forecasts import LATER
from tests.trainings import PROVENANCE, fitted, report


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))


@pytest.fixture
def client(tracker: Tracker, tmp_path: Path) -> MlflowClient:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def train(
    tracker: Tracker, told: TrainingReport | None, *families: str, rows: int = 200, **more
) -> str:
    models = fitted(*families, rows=rows)
    return tracker.log_training(
        "1d", models, params={"seed": 3}, metrics={}, tags={}, report=told, **more
    )


def test_a_run_carries_the_whole_report(tracker: Tracker, client: MlflowClient) -> None:
    told = report(0.4)
    run_id = train(tracker, told, "linear")
    run = client.get_run(run_id)
    assert PROVENANCE.tags().items() <= run.data.tags.items()
    for name, value in told.metrics.items():
        assert run.data.metrics[name] == pytest.approx(value), name
    series = client.get_metric_history(run_id, "window/rank_ic_ensemble")
    wanted = {n: m["window/rank_ic_ensemble"] for n, m in told.window_metrics.items()}
    assert {m.step: m.value for m in series} == pytest.approx(wanted)
    for name, content in told.files().items():
        path = mlflow.artifacts.download_artifacts(artifact_uri=f"runs:/{run_id}/{name}")
        assert Path(path).read_bytes() == content, name
    windows = json.loads(told.files()["windows.json"])
    assert windows[0]["models"]["linear"] == "linear-0"
    assert tracker.is_trained_on("1d", PROVENANCE.data_hash, PROVENANCE.config_hash)
    (stored,) = tracker.stored("1d")
    assert stored.metrics["rank_ic_linear"] == pytest.approx(told.metrics["rank_ic_linear"])
    assert not [name for name in stored.metrics if "/" in name]


def test_the_card_is_that_of_the_newest_training_or_of_a_champion(tracker: Tracker) -> None:
    with pytest.raises(ModelError, match="no model card for horizon 1d"):
        tracker.card("1d")
    old, new = report(0.0), report(0.4)
    first = train(tracker, old, "linear")
    second = train(tracker, new, "linear", rows=300, as_challenger=True)
    assert (tracker.card("1d").run_id, tracker.card("1d").text) == (second, new.card)
    serving = tracker.card("1d", "linear")
    assert (serving.run_id, serving.text, serving.horizon) == (first, old.card, "1d")
    with pytest.raises(ModelError, match="no model of this family"):
        tracker.card("1d", "xgboost")


def test_a_training_without_a_report_has_no_card(tracker: Tracker) -> None:
    told = report(0.0)
    first = train(tracker, told, "linear")
    train(tracker, None, "lightgbm")
    assert tracker.card("1d").run_id == first
    with pytest.raises(ModelError, match=r"no model card.*without a card"):
        tracker.card("1d", "lightgbm")


def test_a_lost_card_is_one_clear_error(tracker: Tracker, tmp_path: Path) -> None:
    train(tracker, report(0.0), "linear")
    for file in (tmp_path / "artifacts").rglob("model_card.md"):
        file.unlink()
    with pytest.raises(ModelError, match=r"model card of run .* cannot be read"):
        tracker.card("1d")


@pytest.mark.parametrize("error", [OSError("no space left"), MlflowException("no space left")])
@pytest.mark.parametrize("broken", ["log_artifacts", "log_metrics", "set_tags"])
def test_a_report_that_cannot_be_logged_leaves_the_champion(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, broken: str, error: Exception
) -> None:
    (old,) = fitted("linear")
    train(tracker, report(0.0), "linear")

    def refuse(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(mlflow, broken, refuse)
        with pytest.raises(ModelError, match=r"no space left.*previous champions keep serving"):
            train(tracker, report(0.4), "linear", rows=300)
    assert [m.version for m in tracker.champions("1d", LATER)] == [old.version]
    assert tracker.card("1d").text == report(0.0).card
    assert len(tracker.stored("1d")) == 1


def test_runs_are_counted_with_the_engines_they_judged(
    tracker: Tracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracker.count_runs("1d") == (0, 0)
    train(tracker, report(0.4), "linear")
    # Two families and their ensemble; bounds of intervals and regimes are no further engines.
    assert tracker.count_runs("1d") == (1, 3)
    train(tracker, None, "linear", rows=220)
    # A run that judged nothing was still a look.
    assert tracker.count_runs("1d") == (2, 4)
    experiment = client.get_experiment_by_name("isobar-1d")
    client.create_run(experiment.experiment_id)
    assert tracker.count_runs("1d") == (2, 4), "one that never finished"
    monkeypatch.setattr("models.run_store._PAGE", 1)
    assert tracker.count_runs("1d") == (2, 4), "page by page"
    assert tracker.count_runs("7d") == (0, 0)


def test_a_store_that_does_not_answer_is_not_taken_for_an_empty_one(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise MlflowException("no answer")

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", silent)
    with pytest.raises(ModelError, match="how often 1d was trained"):
        tracker.count_runs("1d")


def test_what_runs_found_is_read_back_engine_by_engine(tracker: Tracker) -> None:
    assert tracker.runs("1d").is_empty()
    told = report(0.4)
    first = train(tracker, told, "linear")
    second = train(tracker, report(0.0), "linear", rows=300)
    found = tracker.runs("1d")
    assert found.schema == RUN_SCHEMA
    assert found["run_id"].unique(maintain_order=True).to_list() == [second, first]
    mine = {r["engine"]: r for r in found.filter(pl.col("run_id") == first).to_dicts()}
    bounds = [n for n in told.metrics if n.startswith("rank_ic_low_")]
    engines = {n.removeprefix("rank_ic_low_") for n in bounds}
    assert set(mine) == engines
    for engine, row in mine.items():
        for name in ("rank_ic", "rank_ic_low", "rank_ic_high", "hit_rate", "log_loss", "ece"):
            assert row[name] == pytest.approx(told.metrics[f"{name}_{engine}"])
        assert row["config_hash"] == PROVENANCE.config_hash


def test_a_store_that_refuses_is_one_clear_error(tracker: Tracker, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("gone")

    monkeypatch.setattr(MlflowClient, "search_runs", refuse)
    train(tracker, report(0.4), "linear")
    with pytest.raises(ModelError, match="did not give the trainings of 1d"):
        tracker.runs("1d")


def test_mlflow_tells_nobody_and_draws_nothing() -> None:
    """Also in a notebook and in Dagster's processes, where no command line has seen to it."""
    asked = (
        "from models.run_store import RunStore\n"
        "from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR as bar\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "print(is_telemetry_disabled(), bar.get())"
    )
    bare = {"PATH": os.environ["PATH"]}  # neither our settings nor what tells it of a test
    command = [sys.executable, "-W", "ignore", "-c", asked]
    told = subprocess.run(command, env=bare, capture_output=True, text=True, check=True).stdout
    assert told.split() == ["True", "False"]
