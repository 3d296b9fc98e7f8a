"""`make evidence`: measure what has not been measured yet, then write docs/evidence.md.

Results, statistics alone, are kept in the repository: the page is made from all of them. What a
measurement that was cut short goes on from lies under ``var/evidence``.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from evidence.cache_folders import cache_folder
from evidence.code_version import ROOT, code_hash
from evidence.files import read_json, write_bytes, write_json
from evidence.page import render
from evidence.part import Part, Run
from evidence.parts import NAMES, find_part

RESULTS = ROOT / "evidence" / "results"
CACHES = ROOT / "var" / "evidence"
PAGE = ROOT / "docs" / "evidence.md"
PICTURES = ROOT / "docs" / "images" / "evidence"


def main(arguments: list[str] | None = None) -> None:
    """Measure the parts that are asked for and write the page."""
    asked = _arguments(arguments)
    for name in asked.part or NAMES:
        part = find_part(name)
        if part is None:
            print(f"{name}: its module is not there", file=sys.stderr)
        elif not asked.page:
            bring_up_to_date(part, seeds=asked.seeds, again=asked.again)
    write_page()


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evidence.run", description=__doc__)
    parser.add_argument("--part", action="append", choices=NAMES, help="one part, several times")
    parser.add_argument("--seeds", type=int, help="fewer seeds than the part's own number")
    parser.add_argument("--again", action="store_true", help="measure what is measured, too")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page")
    return parser.parse_args(arguments)


def bring_up_to_date(part: Part, *, seeds: int | None = None, again: bool = False) -> None:
    """Measure a part, unless its result is there from the same code and configuration."""
    config = part.CONFIG if seeds is None else {**part.CONFIG, "seeds": seeds}
    # What the page says may live beside what measures: rewording it is no reason to measure again.
    code = code_hash(part.measure.__module__)
    path = RESULTS / f"{part.NAME}.json"
    if path.exists() and not again:
        found = read_json(path)
        if found["code"] == code and found["config"] == config:
            print(f"{part.NAME}: measured before, {found['date']}", file=sys.stderr)
            return
    bars = _real_bars()
    if part.NEEDS_REAL_BARS and bars is None:
        print(
            f"{part.NAME}: not run, ISOBAR_SAMPLE_BARS names no folder of real bars",
            file=sys.stderr,
        )
        return
    folder = cache_folder(CACHES, part.NAME, code, config)
    if again:
        for old in folder.glob("*.json"):
            old.unlink()
    began = time.perf_counter()
    result = part.measure(Run(folder, bars, seeds))
    spent = round(time.perf_counter() - began, 1)
    write_json(path, result | provenance(part, config, code, seeds) | {"seconds": spent})


def provenance(part: Part, config: dict[str, Any], code: str, seeds: int | None) -> dict[str, Any]:
    """Return what a reader needs to judge and repeat a result."""
    fewer = "" if seeds is None else f" --seeds {seeds}"
    return {
        "part": part.NAME,
        "config": config,
        "code": code,
        "command": f"python -m evidence.run --part {part.NAME}{fewer}",
        "machine": f"{os.cpu_count()} cores, CPython {platform.python_version()}, "
        f"{platform.system()}",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def write_page() -> None:
    """Write the page and the pictures of every result that is there."""
    results: dict[str, dict[str, Any] | None] = {}
    for name in NAMES:
        part, path = find_part(name), RESULTS / f"{name}.json"
        if part is None or not path.exists():
            continue
        result = results[name] = read_json(path)
        for file, content in part.pictures(result).items():
            write_bytes(PICTURES / file, content)
    write_bytes(PAGE, render(results).encode())


def _real_bars() -> Path | None:
    named = os.environ.get("ISOBAR_SAMPLE_BARS", "")
    return Path(named) if named and Path(named).is_dir() else None


if __name__ == "__main__":
    main()
