"""The asset graph as a document, so that a change of lineage is seen in review.

``python -m tests.pipelines.snapshot`` writes it anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg

from pipelines.definitions import build_definitions
from pipelines.settings import Settings

SNAPSHOT = Path(__file__).parent / "asset_graph.json"


def describe(settings: Settings | None = None) -> dict[str, Any]:
    """Return what an installation with default settings tells Dagster."""
    definitions = build_definitions(settings or Settings())
    graph = definitions.resolve_asset_graph()
    jobs = {
        job.name: sorted(k.to_user_string() for k in job.asset_layer.executable_asset_keys)
        for job in definitions.resolve_all_job_defs()
        if not job.name.startswith("__")
    }
    checks = sorted(graph.asset_check_keys)
    return {
        "assets": {
            key.to_user_string(): {
                "group": graph.get(key).group_name,
                "deps": sorted(k.to_user_string() for k in graph.get(key).parent_keys),
                "partitions": _partitions(graph.get(key).partitions_def),
                "kinds": sorted(graph.get(key).kinds),
                "jobs": sorted(
                    name for name, members in jobs.items() if key.to_user_string() in members
                ),
                "checks": [c.name for c in checks if c.asset_key == key],
            }
            for key in sorted(graph.get_all_asset_keys())
        },
        "schedules": {
            s.name: {
                "job": s.job_name,
                "crons": _crons(s.cron_schedule),
                "timezone": s.execution_timezone,
            }
            for s in sorted(definitions.schedules or [], key=lambda s: s.name)
        },
        "sensors": {s.name: s.job_name if s.targets else None for s in definitions.sensors or []},
    }


def _partitions(found: dg.PartitionsDefinition | None) -> str:
    if found is None:
        return "none"
    return "horizons" if isinstance(found, dg.StaticPartitionsDefinition) else "sessions"


def _crons(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def render(document: dict[str, Any]) -> str:
    """Return the document as it is committed."""
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    SNAPSHOT.write_text(render(describe()))
