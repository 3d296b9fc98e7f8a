"""Drift checks on live records whose quality is known."""

from __future__ import annotations

import base64
from pathlib import Path

import dagster as dg
import pytest

from market.horizons import HORIZONS, find_horizon
from models.retraining import Reason
from pipelines.definitions import build_definitions
from pipelines.drift import judge_drift, least_sessions
from pipelines.jobs import DRIFT_JOB, TRAINING_JOB
from pipelines.resources import NOW_TAG
from pipelines.settings import Settings
from tests.live_record import HORIZON, NAMES, NOW, TRAINED, LiveRecord

FEATURES, CALIBRATION, SKILL = "drift_1d_features", "drift_1d_calibration", "drift_1d_skill"


def trained_record(home: Path) -> LiveRecord:
    made = LiveRecord(home)
    made.train()
    made.walk()
    return made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> LiveRecord:
    return trained_record(tmp_path_factory.mktemp("record") / "home")


@pytest.fixture
def record(shared: LiveRecord) -> LiveRecord:
    """As it was right after the training."""
    shared.forget()
    return shared


def evaluated(record: LiveRecord) -> dict[str, dg.AssetCheckEvaluation]:
    """What the job of the checks says."""
    job = build_definitions(record.stores.settings, record.stores).resolve_job_def(DRIFT_JOB)
    with dg.DagsterInstance.ephemeral() as instance:
        done = job.execute_in_process(instance=instance, tags={NOW_TAG: NOW.isoformat()})
    return {c.check_name: c for c in done.get_asset_check_evaluations()}


def told(check: dg.AssetCheckEvaluation) -> dict[str, object]:
    return {k: v.value for k, v in check.metadata.items()}


def failed(checks: dict[str, dg.AssetCheckEvaluation]) -> set[str]:
    assert set(checks) == {FEATURES, CALIBRATION, SKILL}
    assert {c.severity for c in checks.values()} == {dg.AssetCheckSeverity.WARN}
    return {name for name, check in checks.items() if not check.passed}


def test_a_record_as_good_as_the_walk_forward_passes_and_shows_itself(record: LiveRecord) -> None:
    record.forecast()
    checks = evaluated(record)
    assert failed(checks) == set()
    for check in checks.values():
        shown = told(check)
        image = str(shown["picture"]).removesuffix(")").rpartition("base64,")[2]
        assert base64.b64decode(image).startswith(b"\x89PNG")
        assert shown["sessions"] >= 20
        assert shown["MLflow run"] == record.stores.tracker.training("1d").run_id
    assert "of the features by importance drifted" in told(checks[FEATURES])["found"]
    assert told(checks[FEATURES])["sessions"] == 20
    assert told(checks[SKILL])["rank IC live"] > 0.2


def test_features_that_moved_are_named(record: LiveRecord) -> None:
    record.forecast()
    moved = [n for n in NAMES if n.startswith(("return_", "sma_gap", "body_4"))]
    record.shift(moved)
    checks = evaluated(record)
    assert failed(checks) == {FEATURES}
    shown = told(checks[FEATURES])
    assert shown["drifted share by importance"] > 0.25
    assert any(name in shown["worst features"] for name in moved)


def test_probabilities_that_are_too_sure_fail_calibration_alone(record: LiveRecord) -> None:
    record.forecast(boldness=5.0)
    checks = evaluated(record)
    assert failed(checks) == {CALIBRATION}
    assert told(checks[CALIBRATION])["calibration error worse by"] > 0.01


def test_skill_that_is_gone_fails(record: LiveRecord) -> None:
    record.forecast(skill=0.0)
    checks = evaluated(record)
    assert SKILL in failed(checks)
    assert "rank IC changed by -" in told(checks[SKILL])["found"]
    assert FEATURES not in failed(checks)


def test_too_little_passes_and_says_so(record: LiveRecord) -> None:
    record.forecast(last=TRAINED + 12)
    checks = evaluated(record)
    assert failed(checks) == set()
    for name in (CALIBRATION, SKILL):
        shown = told(checks[name])
        assert shown["found"].startswith("not enough sessions yet: 12 live and ")
        assert shown["found"].endswith("20 of each are needed")
        assert shown["sessions"] == 12
        assert "picture" not in shown


def test_without_a_live_record_or_new_features_all_pass(record: LiveRecord) -> None:
    found = judge_drift(record.stores, HORIZON, record.stores.tracker.training("1d").since)
    assert found.verdict is None
    assert found.told[Reason.SKILL].startswith("not enough sessions yet: 0 live")
    assert found.told[Reason.FEATURES].startswith("not enough sessions yet: 0 after")


def test_without_a_training_nothing_is_judged(tmp_path: Path) -> None:
    record = LiveRecord(tmp_path / "home")
    checks = evaluated(record)
    assert failed(checks) == set()
    assert {told(c)["found"] for c in checks.values()} == {"no model is trained yet"}


def test_a_training_of_before_kept_no_features(tmp_path: Path) -> None:
    record = LiveRecord(tmp_path / "home")
    record.train(with_features=False)
    record.walk()
    record.forecast(skill=0.0)
    checks = evaluated(record)
    assert SKILL in failed(checks)
    assert told(checks[FEATURES])["found"] == (
        "the training kept no summary of its features: too short, or from ranks"
    )


def test_what_is_judged_does_not_look_ahead(record: LiveRecord) -> None:
    """At a moment in the middle, what came later is as if it had not been."""
    record.forecast()
    middle = NOW - (NOW - record.stores.tracker.training("1d").since) / 3
    whole = judge_drift(record.stores, HORIZON, middle)
    assert whole.forecasts is not None
    assert whole.forecasts.live["label_known_at"].max() <= middle
    assert whole.skill is not None
    last = whole.forecasts.live["session"].max()
    record.stores.lake.replace(
        "live_predictions",
        record.stores.lake.scan("live_predictions").collect().clear(),
        [d for d in record.stores.lake.sessions("live_predictions") if d > last],
    )
    assert judge_drift(record.stores, HORIZON, middle).skill == whole.skill


@pytest.mark.parametrize("horizon", [h.name for h in HORIZONS])
def test_overlapping_labels_ask_for_more_sessions(horizon: str) -> None:
    row = find_horizon(horizon)
    assert least_sessions(row) >= max(20, 4 * row.sessions)


def test_a_training_runs_no_drift_check() -> None:
    definitions = build_definitions(Settings())
    graph = definitions.resolve_job_def(TRAINING_JOB).asset_layer.asset_graph
    assert {k.name for k in graph.asset_check_keys} == {"predictions_are_sound"}
    graph = definitions.resolve_job_def(DRIFT_JOB).asset_layer.asset_graph
    expected = {f"drift_{h}_{r}" for h in Settings().models.horizons for r in Reason}
    assert {k.name for k in graph.asset_check_keys} == expected
