"""The event log: one line of JSON per event, whoever runs it, with the ids of run, step and batch.

Dagster hands every event of a run to :class:`EventLog`, which ``dagster.yaml`` names. What our own
code logs inside a run (loggers below ``isobar``) comes with the ids of that run.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import orjson

from pipelines.redaction import redact
from pipelines.settings import load_settings
from pipelines.tracing import Tracing

FOLDER = "logs"
_TOLD = {
    dg.DagsterEventType.RUN_START,
    dg.DagsterEventType.RUN_SUCCESS,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_CANCELED,
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_SKIPPED,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}
"""The events that say what was done; the others are about how Dagster does it."""


class EventLog(logging.Handler):
    """Appends lines to ``logs/<day>.jsonl`` beside Dagster's folder; as many days as are kept.

    Spans go to a collector of OpenTelemetry as well, where one is set.
    """

    def __init__(self, level: int | str = logging.DEBUG) -> None:
        super().__init__(level)
        settings = load_settings()
        self._keep_days, self._prints = settings.logs.keep_days, settings.logs.stdout
        self._folder = Path(os.environ["DAGSTER_HOME"]).resolve().parent / FOLDER
        self._day: dt.date | None = None
        self._tracing = Tracing.of(settings.telemetry)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line; what cannot be written is told by logging itself."""
        try:
            line = event_of(record)
            if line is None:
                return
            self._write(line)
            if self._tracing is not None:
                self._tracing.take(line)
        except Exception:  # noqa: BLE001  (a log that fails must not fail what it tells of)
            self.handleError(record)

    def _write(self, line: Mapping[str, Any]) -> None:
        today = dt.datetime.now(dt.UTC).date()
        if today != self._day:
            self._begin(today)
        body = redact(orjson.dumps(line, default=str).decode()) + "\n"
        # Appended in one call: lines of several processes do not mix.
        place = self._folder / f"{today}.jsonl"
        handle = os.open(place, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            os.write(handle, body.encode())
        finally:
            os.close(handle)
        if self._prints:
            sys.stdout.write(body)
            sys.stdout.flush()

    def _begin(self, today: dt.date) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        oldest = today - dt.timedelta(days=self._keep_days - 1)
        for file in self._folder.glob("????-??-??.jsonl"):
            if dt.date.fromisoformat(file.stem) < oldest:
                file.unlink(missing_ok=True)
        self._day = today


def silence_beta() -> None:
    """Say nothing of a part of Dagster 1.13 that works and is still marked beta: our handler."""
    warnings.filterwarnings("ignore", "Handling yaml-defined logging", dg.BetaWarning)


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Do the same for as long as a block lasts."""
    with warnings.catch_warnings():
        silence_beta()
        yield


def event_of(record: logging.LogRecord) -> dict[str, Any] | None:
    """Return what a record says as plain values; ``None`` where it is not worth a line.

    Parameters
    ----------
    record : LogRecord
        As Dagster hands it on, with ``dagster_meta``, or any other.

    Returns
    -------
    dict or None
        ``at`` (ISO, UTC), ``level``, ``event``, ``message``; of a run ``run_id``, ``job``,
        ``step``; of an asset ``asset``, ``partition`` and its numbers and texts as ``metadata``,
        with ``batch_id`` where it names one; of an end ``seconds``; of a failure ``error``.
    """
    meta: Mapping[str, Any] = getattr(record, "dagster_meta", {})
    event: dg.DagsterEvent | None = meta.get("dagster_event")
    if event is not None and event.event_type not in _TOLD:
        return None
    at = dt.datetime.fromtimestamp(record.created, dt.UTC)
    line: dict[str, Any] = {
        "at": at.isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "event": "log" if event is None else _name_of(event),
        "message": meta.get("orig_message") or record.getMessage(),
        "run_id": meta.get("run_id"),
        "job": meta.get("job_name"),
        "step": meta.get("step_key"),
    }
    if event is not None:
        line |= _of_event(event)
    return {k: v for k, v in line.items() if v is not None}


def _name_of(event: dg.DagsterEvent) -> str:
    # Dagster still stores its older word for a run.
    return event.event_type_value.lower().replace("pipeline_", "run_")


def _of_event(event: dg.DagsterEvent) -> dict[str, Any]:
    kind = event.event_type
    if kind is dg.DagsterEventType.ASSET_MATERIALIZATION:
        made = event.step_materialization_data.materialization
        metadata = {k: v.value for k, v in made.metadata.items() if _is_plain(v.value)}
        return {
            "asset": made.asset_key.to_user_string(),
            "partition": made.partition,
            "batch_id": metadata.get("batch"),
            "metadata": metadata,
        }
    if kind is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        found = event.asset_check_evaluation_data
        return {
            "asset": found.asset_key.to_user_string(),
            "check": found.check_name,
            "passed": found.passed,
        }
    if kind is dg.DagsterEventType.STEP_SUCCESS:
        return {"seconds": event.step_success_data.duration_ms / 1000.0}
    if kind is dg.DagsterEventType.STEP_FAILURE:
        error = event.step_failure_data.error
        cause = error.cause if error is not None and error.cause is not None else error
        return {"error": None if cause is None else cause.message.strip()}
    return {}


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | str) and len(str(value)) <= 200
