"""Runs and steps as spans of OpenTelemetry, sent to a collector where one is set.

A run's trace has the run's own id, so that steps in other processes are part of it, and a trace
is found by the id that logs and Dagster's pages show.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from market.errors import SettingsError
from pipelines.telemetry_settings import TelemetrySettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_RUN_ENDS = {"run_success", "run_failure", "run_canceled"}
_STEP_ENDS = {"step_success", "step_failure"}
_NANOSECONDS = 1_000_000_000


class Tracing:
    """Makes spans of the lines of the event log.

    Parameters
    ----------
    provider : TracerProvider
        Where finished spans go; its ids are chosen here.
    """

    def __init__(self, provider: TracerProvider, ids: Any) -> None:
        self._provider, self._ids = provider, ids
        self._tracer = provider.get_tracer("isobar")
        self._began: dict[tuple[str, str], str] = {}

    @classmethod
    @functools.cache
    def of(cls, settings: TelemetrySettings) -> Self | None:
        """Return the tracing that the settings ask for, if they do; one for this process.

        Dagster makes several handlers in a run, and what one saw begin another sees end.

        Raises
        ------
        SettingsError
            When the exporter is not installed.
        """
        if not settings.otlp_endpoint:
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise SettingsError(
                "traces need the exporter of OpenTelemetry",
                got=f"telemetry.otlp_endpoint = {settings.otlp_endpoint}",
                remedy="pip install 'isobar-quant[telemetry]', or unset telemetry.otlp_endpoint",
            ) from error
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        ids = _given_ids()
        provider = TracerProvider(
            resource=Resource.create({"service.name": settings.service_name}), id_generator=ids
        )
        endpoint = f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        return cls(provider, ids)

    def take(self, line: Mapping[str, Any]) -> None:
        """Take a line of the event log; what ends with it becomes a span."""
        run, event = line.get("run_id"), line["event"]
        if run is None:
            return
        if event == "run_start":
            self._began[run, ""] = line["at"]
        elif event == "step_start":
            self._began[run, line["step"]] = line["at"]
        elif event in _STEP_ENDS:
            self._end(run, line["step"], line["step"], line)
        elif event in _RUN_ENDS:
            self._end(run, "", line["job"], line)
            # The process of a run may end at once.
            self._provider.force_flush()

    def _end(self, run: str, step: str, name: str, line: Mapping[str, Any]) -> None:
        from opentelemetry import trace

        began = self._began.pop((run, step), None)
        if began is None:
            return  # begun in another process: that one tells it
        trace_id = uuid.UUID(run).int
        parent = None
        if step:
            sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            known = trace.SpanContext(trace_id, _span_id(run, ""), True, sampled)
            parent = trace.set_span_in_context(trace.NonRecordingSpan(known))
        self._ids.choose(trace_id, _span_id(run, step))
        words = ("run_id", "job", "step", "error")
        span = self._tracer.start_span(
            name,
            context=parent or trace.set_span_in_context(trace.INVALID_SPAN),
            start_time=_nanoseconds(began),
            attributes={f"isobar.{k}": str(line[k]) for k in words if k in line},
        )
        if not line["event"].endswith("success"):
            span.set_status(trace.StatusCode.ERROR, str(line.get("error", line["message"])))
        span.end(_nanoseconds(line["at"]))


def _given_ids() -> Any:
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    class GivenIds(IdGenerator):
        def choose(self, trace_id: int, span_id: int) -> None:
            self._trace_id, self._span_id = trace_id, span_id

        def generate_trace_id(self) -> int:
            return self._trace_id

        def generate_span_id(self) -> int:
            return self._span_id

    return GivenIds()


def _span_id(run: str, step: str) -> int:
    """Return the id of a step's span, or of the whole run's; never zero."""
    digest = hashlib.sha256(f"{run}/{step}".encode()).digest()
    return int.from_bytes(digest[:8]) | 1


def _nanoseconds(at: str) -> int:
    moment = dt.datetime.fromisoformat(at)
    return round(moment.timestamp() * 1_000) * (_NANOSECONDS // 1_000)
