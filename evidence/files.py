"""Results as JSON files that are never half-written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson

from market.errors import UsageError


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write it whole or not at all.

    Raises
    ------
    UsageError
        When a number in it is not finite: JSON would make it null without a word.
    """
    _require_finite(value, path.name)
    write_bytes(path, orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return what was written.

    Raises
    ------
    UsageError
        When it is no JSON object.
    """
    try:
        found = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(found, dict):
        raise _unreadable(path, type(found).__name__)
    return found


def _unreadable(path: Path, got: str) -> UsageError:
    return UsageError(
        f"a result is unreadable: {path}",
        got=got,
        allowed="a JSON object that `make evidence` wrote",
        remedy="remove the file and run `make evidence` again",
    )


def _require_finite(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _require_finite(item, f"{where}: {name}")
    elif isinstance(value, list | tuple):
        for item in value:
            _require_finite(item, where)
    elif isinstance(value, float) and not abs(value) < float("inf"):
        raise UsageError(
            f"a result holds what is no number ({where})",
            got=value,
            allowed="finite numbers, or None where nothing can be said",
            remedy="replace it in the part that measured it",
        )
