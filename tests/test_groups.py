"""Tests of one group run in one worker: what they share is built once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_TESTS = """
import pytest


@pytest.mark.xdist_group("shared")
@pytest.mark.parametrize("number", range(8))
def test_it(number):
    pass
"""


def test_a_group_stays_on_one_worker(tmp_path: Path) -> None:
    """It is silently spread where pytest-xdist does not know how this pytest names a test."""
    for name in ("test_first.py", "test_second.py"):
        (tmp_path / name).write_text(_TESTS)
    words = ("-n", "2", "--dist", "loadgroup", "-v", "-p", "no:cacheprovider", "-c", "/dev/null")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, f"--rootdir={tmp_path}", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    workers = re.findall(r"^\[(gw\d)\].* PASSED ", done.stdout, re.MULTILINE)
    assert len(workers) == 16, done.stdout
    assert len(set(workers)) == 1
