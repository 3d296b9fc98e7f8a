"""`make reliability`: every repeat of the crash and fault tests, and what came of them.

Runs them and writes the table of the last run into ``docs/reliability.md``, with its command,
machine and date. The page says in words what each of them does.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from evidence.code_version import ROOT
from evidence.marked import write_between

TESTS = (
    "tests/faults",
    "tests/pipelines/test_real_quality.py",
    "tests/pipelines/test_lake_store.py",
    "tests/pipelines/test_cluster_run.py",
    "tests/market/test_quarantine.py",
    "tests/market/test_ledger.py",
    "tests/execution/test_flatten.py",
    "tests/signals/test_backup.py",
    "tests/signals/test_consume.py",
    "tests/isobar/test_readers_and_writer.py",
)
SWITCH = "ISOBAR_RELIABILITY"
_COUNTED = ("passed", "failed", "skipped")


def main() -> int:
    """Run them, write the table, and return pytest's exit status."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        began = time.perf_counter()
        workers = ("-n", "2", "--dist", "loadgroup")
        command = [sys.executable, "-m", "pytest", *workers, f"--junitxml={report}", *TESTS]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {SWITCH: "1"})
        if not report.exists():
            return done.returncode
        minutes = (time.perf_counter() - began) / 60
        write_between(ROOT / "docs" / "reliability.md", "make reliability", table(report, minutes))
    return done.returncode


def table(report: Path, minutes: float) -> str:
    """Return a row for each file of a JUnit report, and what it was measured on."""
    found: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        file = _file_of(case.get("classname", ""))
        found.setdefault(file, Counter())[_verdict(case)] += 1
        seconds[file] += float(case.get("time", 0.0))
    lines = ["| tests | passed | failed | skipped | seconds |", "|---|---|---|---|---|"]
    for file, counts in sorted(found.items()):
        cells = (f"`{file}`", *(counts[v] for v in _COUNTED), f"{seconds[file]:,.0f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    every = sum(found.values(), Counter[str]())
    lines.append(f"| all | {' | '.join(str(every[v]) for v in _COUNTED)} | {60 * minutes:,.0f} |")
    told = (
        f"*Measured by `make reliability` on {dt.datetime.now(dt.UTC).date()}, {os.cpu_count()} "
        f"cores, {platform.system()}, CPython {platform.python_version()}. Seconds of a file are "
        "those of its tests, two at a time.*"
    )
    return "\n".join([*lines, "", told])


def _file_of(classname: str) -> str:
    """Return the file of a test, which JUnit's reports name with dots and perhaps a class."""
    parts = classname.split(".")
    while parts and not (ROOT / "/".join(parts)).with_suffix(".py").exists():
        parts.pop()
    return "/".join(parts) + ".py"


def _verdict(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


if __name__ == "__main__":
    sys.exit(main())
