"""The command of a benchmark beside pyqlib, which runs in an environment of its own."""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.wanted import Wanted

PYTHON = Path(".venv-peers/bin/python")


def measure_beside(
    measure: Callable[[Path, Path, int, int, Wanted], list[str]],
    description: str | None,
    *,
    symbols: int,
    sessions: int,
) -> None:
    """Read the command line, measure in a folder that does not stay, and print the lines."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--peer", type=Path, default=PYTHON)
    parser.add_argument("--symbols", type=int, default=symbols)
    parser.add_argument("--sessions", type=int, default=sessions)
    given = parser.parse_args()
    if not given.peer.exists():
        sys.exit(f"pyqlib's Python is not at {given.peer}: run `make bench-peers`, it builds it")
    wanted = Wanted()
    with tempfile.TemporaryDirectory() as name:
        print("\n".join(measure(given.peer, Path(name), given.symbols, given.sessions, wanted)))
    wanted.end()
