"""`make bench`: run benchmarks, keep what each printed, and write docs/benchmarks.md.

Each runs in a process of its own. One that falls short of what is wanted is kept as well, and
the command fails at the end.
"""

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import time
import timeit
from pathlib import Path
from typing import Any

from benchmarks.page import ENTRIES, RESULTS, write_page

PEERS = ("alpha158_vs_pyqlib", "backtest_vs_pyqlib")


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for, or all that need no environment of their own; return a status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *ENTRIES], help="these alone")
    parser.add_argument("--peers", action="store_true", help="those beside pyqlib")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page")
    asked = parser.parse_args(arguments)
    usual = PEERS if asked.peers else [n for n in ENTRIES if n not in PEERS]
    short = [n for n in (asked.names or usual) if not asked.page and not run(n)]
    write_page()
    if short:
        print(f"\nshort of what is wanted: {', '.join(short)}", file=sys.stderr)
    return 1 if short else 0


def run(name: str) -> bool:
    """Run one, show and keep what it prints; say whether it reached what is wanted."""
    words = ENTRIES[name].words
    print(f"\npython -m {' '.join(words)}", flush=True)
    where = machine()
    began, lines = time.perf_counter(), list[str]()
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    kept = {
        "command": f"python -m {' '.join(words)}",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": where,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "reached": process.returncode == 0,
        "output": lines,
    }
    store(name, kept)
    return process.returncode == 0


def store(name: str, kept: dict[str, Any]) -> None:
    """Keep a result in the repository: the page is made from all of them."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def machine() -> str:
    """Return what was measured on.

    Load is that of the minute before: what else ran beside. The loop tells how fast a core was
    then, which on a shared processor changes by half.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GB, {platform.system()}, CPython"
        f" {platform.python_version()}, load {os.getloadavg()[0]:.1f} and ten million additions in"
        f" {_additions():.2f} s before it"
    )


def _additions() -> float:
    """Return the seconds of a loop in one core: the best of five."""
    return min(timeit.repeat("for i in range(10_000_000): x += i", "x = 0", number=1, repeat=5))


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    if told.exists():
        for line in told.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
