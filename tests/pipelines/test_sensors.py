"""The sensor asks for one training of what has drifted, and says why not otherwise."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import orjson
import pytest

from market.errors import ModelError
from market.horizons import find_horizon
from pipelines import sensors
from pipelines.definitions import build_definitions
from pipelines.jobs import TRAINING_JOB
from pipelines.sensors import TRIES, WAIT, _failed_at, ask_for_trainings, build_sensors
from pipelines.settings import Settings
from tests.live_record import DAYS, HORIZON, NOW, TRAINED, LiveRecord, closed

LATER = NOW + dt.timedelta(hours=1)


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


def never(_run_key: str) -> None:
    """No run that was asked for failed."""


def ask(
    record: LiveRecord,
    cursor: str | None = None,
    now: dt.datetime = NOW,
    failed_at: Callable[[str], dt.datetime | None] = never,
) -> dg.SensorResult:
    return ask_for_trainings(record.stores, (HORIZON,), now, cursor, failed_at=failed_at)


def test_the_sensor_is_off_until_switched_on_and_launches_the_training() -> None:
    (sensor,) = build_sensors(Settings())
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    assert sensor.job_name == TRAINING_JOB
    assert "features, calibration or skill" in str(sensor.description)
    assert sensor.minimum_interval_seconds == 900


def test_what_is_well_is_skipped_with_its_figures(record: LiveRecord) -> None:
    record.forecast()
    asked = ask(record)
    assert not asked.run_requests
    says = str(asked.skip_reason.skip_message)
    assert says.startswith("1d: ")
    for part in ("of the features by importance drifted", "calibration error", "rank IC changed"):
        assert part in says


def test_a_drift_asks_once_for_each_training(record: LiveRecord) -> None:
    record.forecast(skill=0.0)
    first = ask(record)
    (request,) = first.run_requests
    assert request.partition_key == "1d"
    assert "skill" in request.tags["isobar/drift"]
    assert "rank IC changed by -" in request.tags["isobar/drift_found"]
    again = ask(record, first.cursor, LATER)
    assert not again.run_requests
    assert "nothing new" in str(again.skip_reason.skip_message)
    # A lost cursor asks again under the same key, which Dagster launches once.
    assert [r.run_key for r in ask(record).run_requests] == [request.run_key]


def test_a_training_that_failed_is_asked_for_again_after_a_while_and_not_for_ever(
    record: LiveRecord,
) -> None:
    record.forecast(skill=0.0)
    failures: dict[str, dt.datetime] = {}
    asked = ask(record, failed_at=failures.get)
    keys, now, minute = [], NOW, dt.timedelta(minutes=1)
    while asked.run_requests:
        (request,) = asked.run_requests
        keys.append(request.run_key)
        assert "skill" in request.tags["isobar/drift"]
        under_way = ask(record, asked.cursor, now + 10 * WAIT, failures.get)
        assert "nothing new" in str(under_way.skip_reason.skip_message)
        failures[request.run_key] = now = now + 11 * WAIT
        early = ask(record, under_way.cursor, now + WAIT - minute, failures.get)
        said = str(early.skip_reason.skip_message)
        assert ("its training failed; asked for again from" in said) == (len(keys) < TRIES)
        asked = ask(record, early.cursor, now + WAIT, failures.get)
    assert len(keys) == len(set(keys)) == TRIES
    assert "train it by hand (isobar train --horizon 1d)" in str(asked.skip_reason.skip_message)
    # News of the market makes no further try.
    record.forecast(skill=0.1)
    for turn in range(3):
        asked = ask(record, asked.cursor, now + (10 + turn) * WAIT, failures.get)
        assert not asked.run_requests


def test_a_drift_that_is_gone_after_a_failure_is_not_asked_for(record: LiveRecord) -> None:
    record.forecast(skill=0.0)
    first = ask(record)
    (request,) = first.run_requests
    record.forecast()
    failed = {request.run_key: NOW}.get
    second = ask(record, first.cursor, NOW + WAIT, failed)
    assert not second.run_requests
    assert "rank IC changed" in str(second.skip_reason.skip_message)
    third = ask(record, second.cursor, NOW + 2 * WAIT, failed)
    assert "nothing new" in str(third.skip_reason.skip_message)


def test_a_cursor_of_an_earlier_version_is_understood(record: LiveRecord) -> None:
    record.forecast()
    first = ask(record)
    known = orjson.loads(first.cursor or "")
    for one in known.values():
        del one["asked"], one["tries"]
    again = ask(record, orjson.dumps(known).decode(), LATER)
    assert "nothing new" in str(again.skip_reason.skip_message)


@pytest.mark.parametrize("status", ["STARTED", "SUCCESS", "FAILURE", "CANCELED"])
def test_only_a_run_that_failed_counts_as_one(status: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert _failed_at(instance, "key") is None
        instance.add_run(
            dg.DagsterRun(
                TRAINING_JOB,
                status=dg.DagsterRunStatus(status),
                tags={"dagster/run_key": "key"},
            )
        )
        failed = _failed_at(instance, "key")
        assert _failed_at(instance, "another") is None
    assert (failed is not None) == (status == "FAILURE")
    if failed is not None:
        assert abs(failed - dt.datetime.now(dt.UTC)) < dt.timedelta(hours=1)


def test_after_the_training_only_later_forecasts_count(tmp_path: Path) -> None:
    record = trained_record(tmp_path / "home")
    record.forecast(skill=0.0)
    (request,) = ask(record).run_requests
    newest = len(DAYS) - 12
    record.train(newest)
    asked = ask(record)
    assert not asked.run_requests
    assert "not enough sessions yet: 10 live" in str(asked.skip_reason.skip_message)
    record.train(TRAINED + 10)
    (other,) = ask(record).run_requests
    assert other.run_key != request.run_key


def test_what_did_not_change_is_not_judged_again(
    record: LiveRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.forecast()
    first = ask(record)
    judged: list[str] = []
    judge = sensors.judge_drift

    def counting(stores, horizon, now, **how):
        judged.append(horizon.name)
        return judge(stores, horizon, now, **how)

    monkeypatch.setattr(sensors, "judge_drift", counting)
    second = ask(record, first.cursor, LATER)
    assert judged == []
    record.forecast(skill=0.0)
    assert ask(record, second.cursor, LATER).run_requests
    assert judged == ["1d"]


def test_horizons_that_changed_are_judged_one_at_a_tick_in_turn(
    record: LiveRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = record.stores.tracker.training("1d")
    monkeypatch.setattr(record.stores.tracker, "training", lambda horizon: stored)
    judged: list[str] = []

    def failing(stores, horizon, now, **how):
        judged.append(horizon.name)
        raise ModelError("broken")

    monkeypatch.setattr(sensors, "judge_drift", failing)
    rows = tuple(find_horizon(n) for n in ("1d", "7d", "14d"))
    cursor = None
    for turn in range(6):
        if turn == 3:
            record.forecast()
        now = NOW + dt.timedelta(hours=turn)
        asked = ask_for_trainings(record.stores, rows, now, cursor, failed_at=never)
        cursor = asked.cursor
        assert not asked.run_requests
        assert "cannot be judged: broken" in str(asked.skip_reason.skip_message)
    assert judged == ["1d", "7d", "14d"] * 2
    assert ask_for_trainings(record.stores, rows, LATER, cursor, failed_at=never).skip_reason
    assert len(judged) == 6


def test_without_a_training_there_is_nothing_to_train_again(tmp_path: Path) -> None:
    record = LiveRecord(tmp_path / "home")
    assert str(ask(record).skip_reason.skip_message) == "1d: no model is trained yet"


def test_one_horizon_that_cannot_be_judged_does_not_silence_the_others(tmp_path: Path) -> None:
    record = trained_record(tmp_path / "home")
    record.forecast(skill=0.0)
    for file in (record.stores.settings.home / "mlflow").rglob("trained_features.json"):
        file.write_text("{}")
    both = (HORIZON, find_horizon("14d"))
    asked = ask_for_trainings(record.stores, both, NOW, None, failed_at=never)
    says = str(asked.skip_reason.skip_message)
    assert "1d: cannot be judged: the stored features of a training cannot be read" in says
    assert "14d: no model is trained yet" in says
    shutil.rmtree(record.stores.settings.home / "mlflow")
    assert "the summary of features of run" in str(ask(record).skip_reason.skip_message)


def test_dagster_takes_what_the_sensor_says(record: LiveRecord) -> None:
    """Through Dagster's own evaluation: the clock there is later than all that is known."""
    record.forecast(skill=0.0)
    definitions = build_definitions(record.stores.settings, record.stores)
    (sensor,) = build_sensors(record.stores.settings)
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(
            instance=instance, definitions=definitions, resources={"stores": record.stores}
        )
        tick = sensor.evaluate_tick(context)
    (request,) = tick.run_requests
    assert request.partition_key == "1d"
    assert tick.cursor
    assert closed(TRAINED) < dt.datetime.now(dt.UTC)
