"""The figures that README gives stand on the measured page that it names for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTION = re.compile(r"## Five numbers that matter\n(.*?)\n## ", re.S)
ROW = re.compile(
    r"^\| (?P<question>[^|]+\?) \| (?P<seen>[^|]+) \| \[\w+\]\((?P<page>[^)]+)\) \|$", re.M
)
NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?")


def rows() -> list[tuple[str, str, str]]:
    section = SECTION.search((ROOT / "README.md").read_text())
    assert section
    return [(m["question"], m["seen"], m["page"]) for m in ROW.finditer(section[1])]


def test_there_are_five() -> None:
    assert len(rows()) == 5


@pytest.mark.parametrize(("question", "seen", "page"), rows())
def test_each_figure_stands_on_its_page(question: str, seen: str, page: str) -> None:
    measured = set(NUMBER.findall((ROOT / page).read_text()))
    figures = NUMBER.findall(re.sub(r"`[^`]*`", "", seen))
    assert figures, question
    assert [f for f in figures if f not in measured] == [], question
