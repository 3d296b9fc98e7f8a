"""What Dagster remembers of asset checks, as a frame."""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
import polars as pl

from pipelines.resources import NOW_TAG
from reports.facts import CHECK_SCHEMA

_HISTORY = 25
# Metadata that says in words what was found, the most telling first.
_TELLING = ("newest", "found", "findings", "missing", "not finite", "reason")
_LONGEST = 200


def read_checks(
    instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey], known_by: dt.datetime
) -> pl.DataFrame:
    """Return the newest verdict of each check that was known by a moment.

    Parameters
    ----------
    instance : DagsterInstance
        Whose event log is read.
    keys : sequence of AssetCheckKey
        The checks of this installation.
    known_by : datetime
        Verdicts of later runs are left out. A run's present is its tag in a replay.

    Returns
    -------
    pl.DataFrame
        ``reports.facts.CHECK_SCHEMA``; a check that never ran has no row.
    """
    log = instance.event_log_storage
    newest = log.get_latest_asset_check_execution_by_key(list(keys))
    moments = _Moments(instance)
    rows: list[dict[str, Any]] = []
    for key, record in newest.items():
        found = _row(key, record, moments)
        if found is None or found["at"] > known_by:
            history = log.get_asset_check_execution_history(key, limit=_HISTORY)
            known = (_row(key, r, moments) for r in history)
            found = next((r for r in known if r is not None and r["at"] <= known_by), None)
        if found is not None:
            rows.append(found)
    return pl.DataFrame(rows, schema=CHECK_SCHEMA, orient="row").sort("asset", "check")


class _Moments:
    """When runs were: a replayed one by its tag."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._tags: dict[str, str | None] = {}

    def of(self, run_id: str, timestamp: float) -> dt.datetime:
        if run_id not in self._tags:
            run = self._instance.get_run_by_id(run_id)
            self._tags[run_id] = None if run is None else run.tags.get(NOW_TAG)
        tagged = self._tags[run_id]
        if tagged:
            return dt.datetime.fromisoformat(tagged).astimezone(dt.UTC)
        return dt.datetime.fromtimestamp(timestamp, dt.UTC)


def _row(key: dg.AssetCheckKey, record: Any, moments: _Moments) -> dict[str, Any] | None:
    event = record.event.dagster_event if record.event is not None else None
    evaluation = event.event_specific_data if event is not None else None
    at = moments.of(record.run_id, record.create_timestamp)
    common = {"asset": key.asset_key.to_user_string(), "check": key.name, "at": at}
    if not isinstance(evaluation, dg.AssetCheckEvaluation):
        # Planned and not over (this very run's), or it broke down.
        if record.status.value not in {"EXECUTION_FAILED"}:
            return None
        return {**common, "passed": None, "severity": "ERROR", "detail": "it broke down"}
    return {
        **common,
        "passed": evaluation.passed,
        "severity": evaluation.severity.value,
        "detail": " ".join(_told(evaluation)),
    }


def _told(evaluation: dg.AssetCheckEvaluation) -> Iterator[str]:
    if evaluation.description:
        yield evaluation.description[:_LONGEST]
    for name in _TELLING:
        value = getattr(evaluation.metadata.get(name), "value", None)
        text = "; ".join(map(str, value)) if isinstance(value, list) else str(value or "")
        if text and text != "none":
            yield f"{name}: {text}"[:_LONGEST]
            return
