"""Definitions with a cluster and without: what goes there, and what it asks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from market.errors import SettingsError
from market.horizons import Run
from pipelines.cluster_runs import job_of
from pipelines.definitions import build_definitions
from pipelines.jobs import BACKTEST_JOB, TRAINING_JOB, run_job_name
from pipelines.profiles import PROFILES
from pipelines.settings import Settings, load_settings, validate
from pipelines.settings_sources import over_profile
from pipelines.tuning_job import TUNING_JOB
from tests.pipelines.installation import clean_environment, environment_of

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:8265"
HEAVY = {TRAINING_JOB, TUNING_JOB, "ingest_1d_job", "ingest_1m_job"}


def with_cluster(**values: object) -> dg.Definitions:
    return build_definitions(validate({"cluster": {"ray_address": ADDRESS, **values}}))


def executors(definitions: dg.Definitions) -> dict[str, str]:
    jobs = [j for j in definitions.resolve_all_job_defs() if not j.name.startswith("__")]
    return {j.name: j.executor_def.name for j in jobs}


def test_without_a_cluster_no_step_leaves_the_run_and_ray_is_not_loaded(tmp_path: Path) -> None:
    assert set(executors(build_definitions(Settings())).values()) == {"in_process"}
    code = "import sys, pipelines.code_location; sys.exit('ray' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment() | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_trainings_and_backfills_go_to_the_cluster_and_nothing_else() -> None:
    found = executors(with_cluster())
    there = {name for name, executor in found.items() if executor == "ray"}
    assert there == HEAVY | {n for n in found if n.startswith("features_")}
    assert found[BACKTEST_JOB] == "in_process"
    assert not {run_job_name(r) for r in Run} & there


def test_a_step_asks_for_what_the_settings_say() -> None:
    definitions = with_cluster(
        training_cpus=4, training_gpus=1, training_memory_gb=16, bulk_cpus=3, retries=5
    )
    training = definitions.resolve_job_def(TRAINING_JOB).graph.node_dict["models"].definition
    asked = json.loads(training.tags["dagster-ray/config"])
    assert asked == {"num_cpus": 4, "num_gpus": 1, "memory": 16_000_000_000}
    assert training.retry_policy == dg.RetryPolicy(max_retries=5)
    bars = definitions.resolve_job_def("ingest_1d_job").graph.node_dict["bars_1d"].definition
    assert json.loads(bars.tags["dagster-ray/config"]) == {"num_cpus": 3}


def test_a_cluster_changes_no_number() -> None:
    assert validate({"cluster": {"ray_address": ADDRESS}}).config_hash == Settings().config_hash


def test_a_machine_whose_settings_make_other_numbers_refuses_a_step(tmp_path: Path) -> None:
    with environment_of({"ISOBAR_HOME": str(tmp_path), "ISOBAR_MODELS__SEED": "8"}, tmp_path):
        mine = load_settings().config_hash
        assert job_of(TRAINING_JOB, mine).name == TRAINING_JOB
        with pytest.raises(SettingsError, match=rf"not those of the run: got '{mine}'"):
            job_of(TRAINING_JOB, Settings().config_hash)


def test_a_cluster_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dagster_ray", None)
    with pytest.raises(SettingsError, match=r"isobar-quant\[cluster\]"):
        with_cluster()


def test_the_profile_makes_settings() -> None:
    assert set(PROFILES) >= {"cluster"}
    assert validate(over_profile("cluster", {})).cluster.training_cpus == 8.0
