"""Work on a real Ray cluster: lake in a bucket, Dagster and ledger on PostgreSQL.

What comes out is what one process on one machine makes, also where a worker is killed half way
(``ISOBAR_RELIABILITY=1``, ``make reliability``).
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import psutil
import pytest

from market.errors import IsobarError
from market.horizons import Run, find_horizon, scheduled_for
from market.timeframes import Timeframe
from models.inner_windows import Objective
from models.tuning import Budget, count_trials
from pipelines.jobs import TRAINING_JOB, features_job_name
from pipelines.launch import Launcher
from pipelines.resources import Stores
from pipelines.settings import load_settings
from pipelines.tuning import study_storage, tune_by_name
from pipelines.tuning_job import TUNING_JOB
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
PAUSE_SECONDS = 0.2
SEARCH = {"horizon": HORIZON, "family": "linear", "trials": 2, "windows": 2, "window_sessions": 10}


@dataclass(frozen=True)
class Made:
    """What a training left."""

    predictions: str
    models: list[str]


@dataclass(frozen=True)
class Cluster:
    """Machines, and the same data on servers that they share."""

    environment: dict[str, str]

    @property
    def home(self) -> Path:
        return Path(self.environment["ISOBAR_HOME"])

    @contextmanager
    def here(self) -> Iterator[Launcher]:
        with environment_of(self.environment, self.home):
            yield Launcher(load_settings(), now=NOW)


@pytest.fixture(scope="module")
def copy(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """One machine, with the data."""
    return installation.copy(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def cluster(
    installation: Installation,
    s3: S3Server,
    postgres: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    place = tmp_path_factory.mktemp("cluster")
    given = shared(installation.copy(place, ledger=False), s3, postgres)
    with ray_cluster(machine(given), place) as address:
        yield Cluster(given | {"ISOBAR_CLUSTER__RAY_ADDRESS": address})


def shared(copy: Installation, s3: S3Server, postgres: PostgresServer) -> dict[str, str]:
    """Put the data on servers; return how they are reached."""
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
        "ISOBAR_CLUSTER__RETRIES": "1",
    }


def machine(environment: Mapping[str, str]) -> dict[str, str]:
    # A step's command is `dagster`, wherever that is found there.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return clean_environment() | environment | {"PYTHONPATH": str(ROOT), "PATH": path}


class Killer(threading.Thread):
    """Kills the worker of a step once the training below it is under way; once."""

    def __init__(self, home: Path) -> None:
        super().__init__(daemon=True)
        self._home, self._over = str(home), threading.Event()
        self.killed: list[int] = []

    def run(self) -> None:
        while not self.killed and not self._over.wait(PAUSE_SECONDS):
            for worker in psutil.process_iter():
                with suppress(psutil.Error):
                    if self._trains(worker):
                        os.kill(worker.pid, signal.SIGKILL)
                        self.killed.append(worker.pid)

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def _trains(self, worker: psutil.Process) -> bool:
        if worker.cmdline()[-2:] != ["api", "execute_step"]:
            return False
        seen = worker.environ()
        if (seen.get("ISOBAR_HOME"), seen.get("DAGSTER_RUN_STEP_KEY")) != (self._home, "models"):
            return False
        # The server that trainings are forked from, and the fork.
        return any(child.children() for child in worker.children())


def events_of(job: str, step: str) -> list[str]:
    """Return what Dagster recorded of a step in all runs of a job."""
    with dg.DagsterInstance.get() as instance:
        runs = instance.get_runs(dg.RunsFilter(job_name=job))
        logged = [e.dagster_event for r in runs for e in instance.all_logs(r.run_id)]
    return [e.event_type_value for e in logged if e and e.step_key == step]


def trained(launcher: Launcher) -> Made:
    told = launcher.launch(TRAINING_JOB, partition=HORIZON)
    return Made(launcher.stores.lake.content_hash("predictions"), sorted(told["models"]["models"]))


@pytest.mark.skipif(
    os.environ.get("ISOBAR_RELIABILITY") != "1",
    reason="two trainings and a pause of Dagster's: some two minutes, in `make reliability`",
)
def test_a_worker_killed_half_way_is_replaced_and_the_training_is_that_of_one_machine(
    cluster: Cluster, copy: Installation
) -> None:
    with environment_of(copy.environment, copy.home):
        alone = trained(Launcher(load_settings(), now=NOW))
    with cluster.here() as launcher:
        with Killer(cluster.home) as killer:
            made = trained(launcher)
        steps = events_of(TRAINING_JOB, "models")
    assert made == alone
    assert len(killer.killed) == 1
    assert steps.count("STEP_UP_FOR_RETRY") == steps.count("STEP_RESTARTED") == 1


def test_features_that_are_missing_are_made_there_again(cluster: Cluster) -> None:
    with cluster.here() as launcher:
        lake = launcher.stores.lake
        whole = lake.content_hash("features_1d")
        days = sorted(lake.sessions("features_1d"))[-3:]
        lake.replace("features_1d", lake.scan("features_1d").head(0).collect(), days)
        log = lake.scan("feature_log").collect()
        gone = (pl.col("timeframe") == "1d") & pl.col("session").is_in(days)
        lake.replace("feature_log", log.filter(~gone), None)
        assert lake.content_hash("features_1d") != whole
        launcher.prepare()
        steps = events_of(features_job_name(Timeframe.D1), "features_1d")
        assert steps.count("STEP_WORKER_STARTING") == steps.count("STEP_SUCCESS") == 1
        assert lake.content_hash("features_1d") == whole


def test_a_search_there_finds_what_one_here_finds_and_goes_on_from_anywhere(
    cluster: Cluster, copy: Installation
) -> None:
    budget, asked = Budget(trials=2), {k: SEARCH[k] for k in ("windows", "window_sessions")}

    def search(stores: Stores) -> Any:
        return tune_by_name(
            stores,
            find_horizon(HORIZON),
            "linear",
            as_of=NOW,
            budget=budget,
            objective=Objective.RANK_IC,
            **asked,
        )

    with environment_of(copy.environment, copy.home):
        alone = search(Stores(load_settings()))
    with cluster.here() as launcher:
        launcher.launch(TUNING_JOB, config={"tune_family": SEARCH})
        assert "STEP_WORKER_STARTING" in events_of(TUNING_JOB, "tune_family")
        assert count_trials(study_storage(launcher.stores), HORIZON) == (1, 2)
        # All trials are done: what is left is to read them.
        there = search(launcher.stores)
    assert there.trials.drop("seconds").equals(alone.trials.drop("seconds"))
    assert there.chosen == alone.chosen


def test_what_fails_there_is_told_here(cluster: Cluster) -> None:
    with cluster.here() as launcher, pytest.raises(IsobarError, match="does not serve horizon 1d"):
        launcher.launch(TUNING_JOB, config={"tune_family": SEARCH | {"family": "policy"}})
