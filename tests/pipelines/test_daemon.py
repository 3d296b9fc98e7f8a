"""Dagster's own daemon on an installation: what is due is launched, and what it launches works."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from market import calendar
from market.layouts import BY_SYMBOL_TABLE
from pipelines.jobs import COMPACTION_JOB
from pipelines.launch import prepare_dagster_home
from tests.pipelines.installation import Installation, clean_environment, environment_of

pytestmark = pytest.mark.xdist_group("installation")

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300.0


@pytest.fixture
def home(installation: Installation, tmp_path: Path) -> Iterator[Installation]:
    """A copy with a Dagster of its own, as ``isobar ui`` would make it."""
    copy = installation.copy(tmp_path, ledger=False)
    with environment_of(copy.environment, copy.home):
        prepare_dagster_home(copy.settings)
        yield copy


def dagster_environment(home: Installation) -> dict[str, str]:
    place = {"DAGSTER_HOME": str(home.home / "dagster"), "PYTHONPATH": str(ROOT)}
    return clean_environment() | home.environment | place


def switch_on(home: Installation, kind: str, name: str) -> None:
    command = [sys.executable, "-m", "dagster", kind, "start", name, "-w", ROOT / "workspace.yaml"]
    subprocess.run(
        command, env=dagster_environment(home), cwd=home.home, check=True, timeout=PATIENCE_SECONDS
    )


def make_due(instance: dg.DagsterInstance, since: dt.datetime) -> None:
    """Let the schedules that are on have been on since then: their ticks since are missed ones."""
    for state in instance.all_instigator_state():
        data: Any = state.instigator_data
        if hasattr(data, "start_timestamp"):
            earlier = data._replace(start_timestamp=since.timestamp())
            instance.update_instigator_state(state.with_data(earlier))


def before_last_tick(now: dt.datetime) -> dt.datetime:
    """A moment from which on one Saturday's six o'clock, New York time, lies before ``now``."""
    local = now.astimezone(calendar.NEW_YORK)
    saturday = local.date() - dt.timedelta(days=(local.weekday() - 5) % 7)
    if local < dt.datetime.combine(saturday, dt.time(6), calendar.NEW_YORK):
        saturday -= dt.timedelta(days=7)
    return dt.datetime.combine(saturday, dt.time(0), calendar.NEW_YORK)


@contextmanager
def running_daemon(home: Installation) -> Iterator[subprocess.Popen[bytes]]:
    command = [Path(sys.executable).parent / "dagster-daemon", "run"]
    with (home.home / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(
            [*command, "-w", ROOT / "workspace.yaml"],
            env=dagster_environment(home),
            cwd=home.home,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield daemon
        finally:
            daemon.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(PATIENCE_SECONDS / 10)
            # Its servers of code are in its own group of processes; none outlives the test.
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()


def wait_for(
    daemon: subprocess.Popen[bytes], holds: Callable[[], bool], home: Installation
) -> None:
    """Look again and again until it holds; the daemon may neither end nor need too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(0.2)
        if daemon.poll() is not None or time.monotonic() > deadline:
            pytest.fail((home.home / "daemon.log").read_text()[-4_000:])


def test_the_daemon_launches_what_is_due_and_judges_drift(home: Installation) -> None:
    switch_on(home, "schedule", "compaction_schedule")
    switch_on(home, "sensor", "retraining_sensor")
    with dg.DagsterInstance.get() as instance:
        began = dt.datetime.now(dt.UTC)
        make_due(instance, before_last_tick(began))
        lake = home.stores.lake
        assert not lake.exists(BY_SYMBOL_TABLE)
        states = {s.instigator_name: s for s in instance.all_instigator_state()}

        def ticks(name: str) -> list[Any]:
            state = states[name]
            found = instance.get_ticks(state.instigator_origin_id, state.selector_id)
            return [t for t in found if t.status.value != "STARTED"]

        def all_done() -> bool:
            runs = instance.get_runs()
            finished = bool(runs) and all(r.is_finished for r in runs)
            return finished and all(ticks(name) for name in states)

        with running_daemon(home) as daemon:
            wait_for(daemon, all_done, home)
        run = instance.get_runs()[-1]
        assert (run.job_name, run.status) == (COMPACTION_JOB, dg.DagsterRunStatus.SUCCESS)
        assert run.tags["dagster/schedule_name"] == "compaction_schedule"
        tick = ticks("compaction_schedule")[-1]
        assert (tick.status.value, tick.run_ids) == ("SUCCESS", [run.run_id])
        assert dt.datetime.fromtimestamp(tick.timestamp, dt.UTC) < began
        assert lake.exists(BY_SYMBOL_TABLE)
        judged = ticks("retraining_sensor")[-1]
        assert (judged.status.value, judged.error) == ("SKIPPED", None)
        assert "1h: " in judged.skip_reason
        assert "1d: " in judged.skip_reason
