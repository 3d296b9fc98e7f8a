"""A training on a real Ray cluster: lake in a bucket, Dagster and ledger on PostgreSQL.

What comes out is what a training in one process makes, also where the worker is killed half way.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from market.horizons import Run, scheduled_for
from pipelines.jobs import TRAINING_JOB
from pipelines.lake_store import open_lake
from pipelines.launch import Launcher
from pipelines.resources import NOW_TAG
from pipelines.settings import load_settings
from tests.pipelines.installation import (
    TODAY,
    Installation,
    clean_environment,
    environment_of,
)
from tests.postgres import PostgresServer
from tests.ray_cluster import ray_cluster
from tests.s3_server import S3Server

pytestmark = [pytest.mark.xdist_group("installation"), pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
HORIZON = "1d"
NOW = scheduled_for(Run.EOD, TODAY)
PATIENCE_SECONDS = 600.0
PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Made:
    """What a training left."""

    predictions: str
    models: list[str]


@pytest.fixture(scope="module")
def alone(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What a training in one process on one machine leaves."""
    copy = installation.copy(tmp_path_factory.mktemp("alone"))
    with environment_of(copy.environment, copy.home):
        told = Launcher(load_settings(), now=NOW).launch(TRAINING_JOB, partition=HORIZON)
        digest = open_lake(load_settings()).content_hash("predictions")
    return Made(digest, sorted(told["models"]["models"]))


@pytest.fixture
def environment(
    installation: Installation, s3: S3Server, postgres: PostgresServer, tmp_path: Path
) -> dict[str, str]:
    """The same data on servers that several machines would share."""
    copy = installation.copy(tmp_path, ledger=False)
    bucket = s3.bucket()
    for file in (copy.home / "lake").rglob("*"):
        if file.is_file():
            s3.client.upload_file(str(file), bucket, str(file.relative_to(copy.home)))
    shutil.rmtree(copy.home / "lake")
    dagster = copy.home / "dagster"
    dagster.mkdir()
    shutil.copyfile(ROOT / "containers/dagster.yaml", dagster / "dagster.yaml")
    database = f"dagster_{uuid.uuid4().hex[:12]}"
    postgres.execute(f"CREATE DATABASE {database}")
    reached = s3.settings()
    return copy.environment | {
        "DAGSTER_HOME": str(dagster),
        "DAGSTER_POSTGRES_URL": f"postgresql+psycopg2://isobar@127.0.0.1:{postgres.port}/{database}",
        "ISOBAR_LEDGER_URL": postgres.database(),
        "ISOBAR_LAKE_URL": f"s3://{bucket}",
        "ISOBAR_S3__ENDPOINT": reached.endpoint,
        "ISOBAR_S3__ACCESS_KEY": reached.access_key.get_secret_value(),
        "ISOBAR_S3__SECRET_KEY": reached.secret_key.get_secret_value(),
        "ISOBAR_CLUSTER__TRAINING_CPUS": "1",
        "ISOBAR_CLUSTER__TRAINING_MEMORY_GB": "4",
    }


def machine(environment: Mapping[str, str]) -> dict[str, str]:
    # A step's command is `dagster`, wherever that is found there.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return clean_environment() | environment | {"PYTHONPATH": str(ROOT), "PATH": path}


def begin(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Begin the run, as Dagster's launcher would."""
    tags = {"dagster/partition": HORIZON, NOW_TAG: NOW.isoformat()}
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "pipelines.code_location"]
    home = Path(environment["ISOBAR_HOME"])
    with (home / "run.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "-j", TRAINING_JOB, "--tags", json.dumps(tags)],
            env=machine(environment),
            cwd=home,
            stdout=log,
            stderr=log,
        )


def finish(run: subprocess.Popen[bytes], environment: Mapping[str, str]) -> None:
    try:
        run.wait(PATIENCE_SECONDS)
    finally:
        run.kill()
    if run.returncode:
        pytest.fail((Path(environment["ISOBAR_HOME"]) / "run.log").read_text()[-6000:])


def kill_the_training(run: subprocess.Popen[bytes], environment: Mapping[str, str]) -> int:
    """Kill the worker of the training once it trains; return its process id."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and run.poll() is None:
        for worker in psutil.process_iter():
            with suppress(psutil.Error):
                if _trains(worker, environment["ISOBAR_HOME"]):
                    os.kill(worker.pid, signal.SIGKILL)
                    return worker.pid
        time.sleep(PAUSE_SECONDS)
    pytest.fail((Path(environment["ISOBAR_HOME"]) / "run.log").read_text()[-6000:])


def _trains(worker: psutil.Process, home: str) -> bool:
    """Say whether it is the step's process, of this test, with a training under way below it."""
    if worker.cmdline()[-2:] != ["api", "execute_step"]:
        return False
    seen = worker.environ()
    if (seen.get("ISOBAR_HOME"), seen.get("DAGSTER_RUN_STEP_KEY")) != (home, "models"):
        return False
    # The server that trainings are forked from, and the fork.
    return any(child.children() for child in worker.children())


def left(environment: Mapping[str, str]) -> tuple[Made, list[Any]]:
    """Return what the training made, and what Dagster recorded of its step."""
    home = Path(environment["ISOBAR_HOME"])
    with environment_of(environment, home), dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.SUCCESS
        logged = [e.dagster_event for e in instance.all_logs(run.run_id) if e.dagster_event]
        steps = [e for e in logged if e.step_key == "models"]
        (made,) = [e for e in steps if e.event_type_value == "ASSET_MATERIALIZATION"]
        told = made.step_materialization_data.materialization.metadata
        digest = open_lake(load_settings()).content_hash("predictions")
    return Made(digest, sorted(told["models"].value)), [e.event_type_value for e in steps]


def test_a_training_on_a_cluster_makes_what_one_machine_makes(
    environment: dict[str, str], alone: Made, tmp_path: Path
) -> None:
    with ray_cluster(machine(environment), tmp_path) as address:
        given = environment | {"ISOBAR_CLUSTER__RAY_ADDRESS": address}
        finish(begin(given), given)
    made, steps = left(given)
    assert made == alone
    assert "STEP_WORKER_STARTING" in steps


def test_a_worker_that_is_killed_half_way_is_replaced(
    environment: dict[str, str], alone: Made, tmp_path: Path
) -> None:
    with ray_cluster(machine(environment), tmp_path) as address:
        given = environment | {"ISOBAR_CLUSTER__RAY_ADDRESS": address}
        run = begin(given)
        kill_the_training(run, given)
        finish(run, given)
    made, steps = left(given)
    assert steps.count("STEP_UP_FOR_RETRY") == steps.count("STEP_RESTARTED") == 1
    assert made == alone
