"""The table of a reliability run: what a JUnit report says, and where it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from evidence import reliability
from evidence.marked import write_between
from market.errors import UsageError

REPORT = """<?xml version="1.0"?>
<testsuites><testsuite>
<testcase classname="tests.faults.test_execution_kills" name="test_a[0]" time="61.0"/>
<testcase classname="tests.faults.test_execution_kills" name="test_a[1]" time="59.5"/>
<testcase classname="tests.faults.test_bad_input.TestVendor" name="test_b" time="2">
  <failure message="no"/></testcase>
<testcase classname="tests.faults.test_bad_input.TestDisk" name="test_c" time="1">
  <error message="no"/></testcase>
<testcase classname="tests.signals.test_backup" name="test_d" time="0"><skipped/></testcase>
</testsuite></testsuites>
"""


def test_files_are_counted_with_their_classes(tmp_path: Path) -> None:
    (tmp_path / "r.xml").write_text(REPORT)
    rows = reliability.table(tmp_path / "r.xml", 1.5).splitlines()
    assert rows[2:6] == [
        "| `tests/faults/test_bad_input.py` | 0 | 2 | 0 | 3 |",
        "| `tests/faults/test_execution_kills.py` | 2 | 0 | 0 | 120 |",
        "| `tests/signals/test_backup.py` | 0 | 0 | 1 | 0 |",
        "| all | 2 | 2 | 1 | 90 |",
    ]
    assert "`make reliability` on 20" in rows[-1]


def test_every_test_that_is_asked_for_is_there() -> None:
    assert all((reliability.ROOT / name).exists() for name in reliability.TESTS)


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- made by x -->\nold\n<!-- end of x -->\nafter\n")
    write_between(page, "x", "new")
    write_between(page, "x", "newer")
    assert page.read_text() == "before\n<!-- made by x -->\nnewer\n<!-- end of x -->\nafter\n"
    with pytest.raises(UsageError, match="no place"):
        write_between(page, "y", "new")
