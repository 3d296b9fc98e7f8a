"""The page is made of results alone, and shows what it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evidence import run
from evidence.files import write_json
from evidence.page import render
from evidence.parts import NAMES, find_part
from tests.evidence.small import result_of

MINE = (
    "planted_alpha",
    "no_alpha",
    "real_minute",
    "backtest_no_alpha",
    "backtest_planted_alpha",
)


def test_without_results_every_part_is_not_run_and_says_what_would() -> None:
    page = render({})
    assert page.count("**Not run.**") == len(NAMES)
    for name in NAMES:
        assert f"python -m evidence.run --part {name}`" in page
    assert page.count("with `ISOBAR_SAMPLE_BARS` set measures it") == 3


@pytest.mark.parametrize("name", MINE)
def test_a_result_is_shown_with_where_it_came_from(name: str) -> None:
    result = result_of(name)
    page = render({name: result})
    assert page.count("**Not run.**") == len(NAMES) - 1
    assert f"Measured by `{result['command']}` on 2026-01-01 (2 cores; 2 minutes" in page
    part = find_part(name)
    assert part is not None
    shown = set(re.findall(r"\]\(images/evidence/([^)]+)\)", part.sections(result)))
    made = part.pictures(result)
    assert shown == set(made)
    assert all(file.startswith(name) for file in made)
    assert all(content.startswith(b"\x89PNG") for content in made.values())
    for word in ("nan", "None", "inf"):
        assert not re.search(rf"\b{word}\b", page)


@pytest.mark.parametrize("name", MINE)
def test_every_table_is_whole(name: str) -> None:
    part = find_part(name)
    assert part is not None
    tables = re.findall(r"(?:^\|.*\|\n?)+", part.sections(result_of(name)), re.MULTILINE)
    assert tables
    for table in tables:
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1


def test_the_page_and_its_pictures_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run, "PAGE", tmp_path / "docs" / "evidence.md")
    monkeypatch.setattr(run, "PICTURES", tmp_path / "docs" / "images" / "evidence")
    write_json(tmp_path / "results" / "no_alpha.json", result_of("no_alpha"))
    run.main(["--page"])
    page = (tmp_path / "docs" / "evidence.md").read_text()
    for file in re.findall(r"\]\(([^)]+\.png)\)", page):
        assert (tmp_path / "docs" / file).exists()
    before = {p: p.read_bytes() for p in (tmp_path / "docs").rglob("*") if p.is_file()}
    assert len(before) == 3
    run.main(["--page"])
    assert {p: p.read_bytes() for p in before} == before
