"""The asset graph: what is committed is what is built, and it loads with nothing set."""

from __future__ import annotations

import difflib
import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from market.horizons import HORIZONS
from pipelines.definitions import build_definitions
from pipelines.settings import Settings
from tests.pipelines.installation import clean_environment
from tests.pipelines.snapshot import SNAPSHOT, describe, render

ROOT = Path(__file__).parents[2]
GRAPH = build_definitions(Settings()).resolve_asset_graph()


def test_the_asset_graph_is_the_committed_one():
    built, committed = render(describe()), SNAPSHOT.read_text()
    change = difflib.unified_diff(
        committed.splitlines(), built.splitlines(), "committed", "built", lineterm="", n=6
    )
    assert built == committed, (
        "the asset graph changed; where that is meant, run `python -m tests.pipelines.snapshot` "
        "and commit the file\n" + "\n".join(change)
    )


@pytest.mark.parametrize("key", sorted(GRAPH.get_all_asset_keys()), ids=str)
def test_every_asset_says_what_it_is_and_whose(key: dg.AssetKey):
    node = GRAPH.get(key)
    assert node.description
    assert node.description.endswith(".")
    assert node.owners
    assert node.group_name not in (None, "default")
    assert node.kinds


def test_every_job_schedule_and_sensor_is_described():
    definitions = build_definitions(Settings())
    jobs = [j for j in definitions.resolve_all_job_defs() if not j.name.startswith("__")]
    for found in (*jobs, *(definitions.schedules or []), *(definitions.sensors or [])):
        assert found.description, found.name


@pytest.mark.parametrize("horizon", [h.name for h in HORIZONS])
def test_every_horizon_alone_makes_a_graph(horizon: str):
    made = describe(Settings.model_validate({"models": {"horizons": [horizon]}}))
    frames = [a for a in made["assets"] if a.startswith("features_")]
    assert len(frames) == 1
    assert made["assets"]["dataset_version"]["deps"] == frames


def test_no_run_of_a_day_skips_what_its_signals_need():
    graph = json.loads(SNAPSHOT.read_text())["assets"]
    for run in ("premarket", "midday", "eod"):
        assert f"{run}_job" in graph[f"signals_{run}"]["jobs"]
    assert "eod_job" in graph["bars_1d"]["jobs"]
    assert "midday_job" in graph["bars_1m"]["jobs"]
    assert "eod_job" not in graph["orders_midday"]["jobs"]


def test_definitions_load_in_an_empty_folder_with_nothing_set(tmp_path: Path):
    program = "from pipelines.code_location import defs; print(len(defs.assets))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10
    assert list(tmp_path.iterdir()) == []


def test_dagster_validates_from_the_repository_root_with_nothing_set():
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate"],
        cwd=ROOT,
        env={**clean_environment(), "DAGSTER_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Validation successful" in done.stdout + done.stderr
