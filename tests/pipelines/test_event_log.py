"""One line of JSON per event with the ids of its run, and the same as spans at a collector."""

from __future__ import annotations

import datetime as dt
import json
import logging
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from fastapi import FastAPI, Request, Response
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from market.serving import BackgroundServer
from pipelines.event_log import FOLDER, EventLog, event_of, quiet_logging
from pipelines.redaction import hide
from tests.pipelines.installation import environment_of

TEMPLATE = Path(__file__).parents[2] / "dagster.yaml"
SECRET = "pk-eventlog-5d81"


@dg.asset
def signals() -> dg.MaterializeResult:
    logging.getLogger("isobar.test").warning("the key is %s", SECRET)
    return dg.MaterializeResult(metadata={"batch": "b-1", "signals": 7, "big": "x" * 500})


@dg.asset(deps=[signals])
def orders() -> None:
    raise ValueError("the broker is away")


class Installation:
    """A data root with Dagster in it, as `isobar` sets it up."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.environment = {
            "ISOBAR_HOME": str(home),
            "DAGSTER_HOME": str(home / "dagster"),
            **environment,
        }

    def run(self) -> tuple[str, list[dict[str, Any]]]:
        """Run both assets; return the run's id and the lines that it left."""
        job = dg.define_asset_job("a_job", selection=[signals, orders])
        whole = dg.Definitions(assets=[signals, orders], jobs=[job]).resolve_job_def("a_job")
        logs = yaml.safe_load(TEMPLATE.read_text())["python_logs"]
        with (
            environment_of(self.environment),
            warnings.catch_warnings(),
            dg.instance_for_test(
                overrides={"python_logs": logs}, temp_dir=str(self.home / "dagster")
            ) as instance,
            quiet_logging(),
        ):
            done = whole.execute_in_process(instance=instance, raise_on_error=False)
        return done.run_id, self.lines()

    def lines(self) -> list[dict[str, Any]]:
        """Return every line that was written."""
        files = sorted((self.home / FOLDER).glob("*.jsonl"))
        return [json.loads(n) for f in files for n in f.read_text().splitlines()]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home/dagster").mkdir(parents=True)
    return tmp_path / "home"


def test_a_run_is_told_event_by_event_with_its_ids(home: Path) -> None:
    hide({SECRET})
    run, lines = Installation(home, {}).run()
    ours = [n for n in lines if n.get("run_id") == run]
    assert [n["event"] for n in ours if n["event"].startswith("run_")] == [
        "run_start",
        "run_failure",
    ]
    made = next(n for n in ours if n["event"] == "asset_materialization")
    assert (made["asset"], made["batch_id"], made["job"]) == ("signals", "b-1", "a_job")
    assert made["metadata"] == {"batch": "b-1", "signals": 7}
    ended = next(n for n in ours if n["event"] == "step_success")
    assert (ended["step"], ended["seconds"] >= 0.0) == ("signals", True)
    failed = next(n for n in ours if n["event"] == "step_failure")
    assert (failed["step"], failed["level"]) == ("orders", "error")
    assert "the broker is away" in failed["error"]
    assert all(dt.datetime.fromisoformat(n["at"]).tzinfo for n in ours)


def test_what_our_code_logs_comes_with_the_run_and_without_secrets(home: Path) -> None:
    hide({SECRET})
    run, lines = Installation(home, {}).run()
    said = next(n for n in lines if n["event"] == "log" and "the key is" in n["message"])
    assert (said["run_id"], said["step"], said["level"]) == (run, "signals", "warning")
    assert SECRET not in "".join(map(json.dumps, lines))


def test_old_days_are_removed_and_nothing_else(home: Path) -> None:
    folder = home / FOLDER
    folder.mkdir()
    today = dt.datetime.now(dt.UTC).date()
    names = [str(today - dt.timedelta(days=n)) for n in (1, 6, 7, 400)]
    for name in names:
        (folder / f"{name}.jsonl").touch()
    (folder / "notes.txt").touch()
    Installation(home, {"ISOBAR_LOGS__KEEP_DAYS": "7"}).run()
    left = {p.name for p in folder.iterdir()}
    assert left == {f"{today}.jsonl", f"{names[0]}.jsonl", f"{names[1]}.jsonl", "notes.txt"}


def test_a_log_that_cannot_be_written_fails_no_run(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / FOLDER).write_text("in the way")
    job = Installation(home, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Installation, "lines", lambda self: [])
        job.run()
    assert "Logging error" in capsys.readouterr().err


def test_a_record_of_nobody_has_a_line_of_its_own() -> None:
    record = logging.LogRecord("isobar.alerts", logging.ERROR, "f", 1, "stop %s", ("now",), None)
    line = event_of(record)
    assert line is not None
    assert (line["event"], line["message"]) == ("log", "stop now")
    assert "run_id" not in line


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """A collector of OpenTelemetry: takes its protocol over HTTP."""
    spans: list[Any] = []
    app = FastAPI()

    @app.post("/v1/traces")
    async def take(request: Request) -> Response:
        got = ExportTraceServiceRequest.FromString(await request.body())
        for resource in got.resource_spans:
            spans.extend(s for scope in resource.scope_spans for s in scope.spans)
        return Response(b"", media_type="application/x-protobuf")

    with BackgroundServer(app) as server:
        yield server.url, spans


def test_a_run_is_a_trace_with_a_span_for_each_step(
    home: Path, collector: tuple[str, list[Any]]
) -> None:
    url, spans = collector
    run, lines = Installation(home, {"ISOBAR_TELEMETRY__OTLP_ENDPOINT": url}).run()
    by_name = {s.name: s for s in spans}
    assert set(by_name) == {"a_job", "signals", "orders"}
    root = by_name["a_job"]
    assert {s.trace_id for s in spans} == {uuid.UUID(run).bytes}
    assert not root.parent_span_id
    assert {by_name[n].parent_span_id for n in ("signals", "orders")} == {root.span_id}
    codes = {n: s.status.code for n, s in by_name.items()}
    assert codes == {"a_job": 2, "signals": 0, "orders": 2}
    step = by_name["signals"]
    ended = next(n for n in lines if n["event"] == "step_success")
    assert (
        step.end_time_unix_nano
        == round(dt.datetime.fromisoformat(ended["at"]).timestamp() * 1000) * 10**6
    )
    assert root.start_time_unix_nano <= step.start_time_unix_nano <= step.end_time_unix_nano


def test_without_a_collector_there_is_no_tracing(home: Path) -> None:
    with environment_of({"ISOBAR_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}):
        assert EventLog()._tracing is None
