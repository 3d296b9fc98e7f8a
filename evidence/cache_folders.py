"""Where a part keeps what it made, and where another part finds it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from evidence.code_version import code_hash
from evidence.part import Part, Run


def cache_folder(caches: Path, name: str, code: str, config: Mapping[str, Any]) -> Path:
    """Return the folder of a part, which is there then: another one for other code or config."""
    digest = hashlib.sha256(orjson.dumps(config, option=orjson.OPT_SORT_KEYS)).hexdigest()[:8]
    folder = caches / name / f"{code}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_of(part: Part, beside: Run) -> Run:
    """Return the run of another part, by its present code and configuration.

    What that part has made is there; what it has not, it makes there.
    """
    code = code_hash(part.measure.__module__)
    return Run(cache_folder(beside.folder.parents[1], part.NAME, code, part.CONFIG), beside.bars)
