"""The plan of a key, found out once a day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import orjson

from market.errors import SourceError
from market.request_limiter import Plan

# A plan that looked poor may have been bought a minute ago; a rich one is asked about tomorrow.
REMEMBERED_FOR = dict.fromkeys(Plan, dt.timedelta(days=1)) | {Plan.FREE: dt.timedelta(hours=1)}


def find_plan(folder: Path | str, probe: Callable[[], Plan], *, now: dt.datetime) -> Plan:
    """Return the plan that is remembered in a folder, or find it out and remember it.

    Parameters
    ----------
    folder : Path or str
        Of one key (:func:`market.request_limiter.folder_of_key`); made when missing.
    probe : callable
        Finds the plan out, as :meth:`market.polygon.PolygonSource.probe_plan`.
    now : datetime
        Aware.

    Raises
    ------
    SourceError
        When the folder cannot be written, and whatever ``probe`` raises: nothing is guessed.
    """
    path = Path(folder) / "plan.json"
    known = _read(path, now)
    if known is not None:
        return known
    plan = probe()
    draft = path.with_suffix(f".{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(orjson.dumps({"plan": plan.value, "found_at": now.isoformat()}))
        draft.replace(path)
    except OSError as error:
        raise SourceError(
            f"the plan of the vendor's key cannot be remembered ({error})",
            got=str(folder),
            allowed="a folder that can be written",
            remedy="make it writable, name another one, or set the plan",
        ) from error
    return plan


def _read(path: Path, now: dt.datetime) -> Plan | None:
    try:
        kept = orjson.loads(path.read_bytes())
        plan, found_at = Plan(kept["plan"]), dt.datetime.fromisoformat(kept["found_at"])
        is_fresh = dt.timedelta(0) <= now - found_at < REMEMBERED_FOR[plan]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    return plan if is_fresh else None
