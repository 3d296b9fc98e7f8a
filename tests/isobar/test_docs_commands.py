"""What the pages tell one to type exists, and the runbook knows every check."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from execution import preflight
from isobar import doctor
from isobar.cli import app
from isobar.contents import Contents
from pipelines.definitions import build_definitions
from pipelines.resources import Stores
from pipelines.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
RUNBOOK = (ROOT / "docs/runbook.md").read_text("utf-8")
_TYPED = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?isobar ([a-z-][^#|`]*)")


def commands(page: Path) -> Iterator[str]:
    """Every command on a page: lines of code blocks, and code in running text."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^ *```[a-z]*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    for line in (*lines, *(" ".join(s.split()) for s in re.findall(r"`([^`]+)`", prose))):
        if found := _TYPED.match(line):
            yield found[1].strip()


def faults(command: str) -> list[str]:
    """What of a command there is not."""
    at: Any = typer.main.get_command(app)
    words = re.sub(r'"[^"]*"|[\[\]]', " ", command).split()
    while words and hasattr(at, "commands"):
        if words[0].startswith("-"):
            break
        if words[0] not in at.commands:
            # A group may do something by itself, with options.
            return [words[0]] if at.no_args_is_help else []
        name = words.pop(0)
        at = at.whole(name) if isinstance(at, Contents) else at.commands[name]
    known = {o for p in at.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
    return [w for w in words if w.startswith("--") and w.rstrip(".,;:") not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_what_a_page_tells_one_to_type_exists(page: Path):
    assert {c: f for c in commands(page) if (f := faults(c))} == {}


def test_the_test_can_see():
    assert faults("doctor --jsn") == ["--jsn"]
    assert faults("doctr") == ["doctr"]
    assert faults("models rolback --horizon 1d") == ["rolback"]
    assert faults("models rollback --horizon 1d") == []
    assert sum(1 for page in PAGES for _ in commands(page)) > 100


def section(title: str) -> str:
    return RUNBOOK.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_runbook_has_an_entry_for_each_check_of_the_doctor():
    told = set(re.findall(r"^\| ([a-z' ]+) \|", section("A check of the doctor fails"), re.M))
    source = Path(doctor.__file__).read_text() + Path(preflight.__file__).read_text()
    asked = set(re.findall(r"(?:_ask|Finding)\(\s*\"([a-z ]+)\"", source))
    asked |= set(re.findall(r"^ {8}\(\"([a-z' ]+)\", lambda", source, re.M)) | {preflight._MODE}
    assert told - {"check"} == asked


def test_the_runbook_has_an_entry_for_each_check_in_dagster(tmp_path: Path):
    settings = Settings(home=tmp_path)
    graph = build_definitions(settings, Stores(settings)).resolve_asset_graph()
    text = section("A check in Dagster is red")
    named = re.findall(r"`([a-z_*<>0-9]+)`", text)
    first = ""
    patterns: list[str] = []
    for name in named:
        # `bars_*_schema`, `_null`: what begins with an underscore goes on from the one before.
        first = first if name.startswith("_") else name
        stem = re.sub(r"(?<=[*>0-9a-z])_[a-z_]+$", "", first.replace("<horizon>", "*"))
        stem = "bars_*" if first.startswith("bars_") and name.startswith("_") else stem
        stem = "drift_*" if first.startswith("drift_") and name.startswith("_") else stem
        whole = f"{stem}{name}" if name.startswith("_") else name
        whole = re.escape(whole.replace("<horizon>", "*")).replace(r"\*", "[0-9A-Za-z]+")
        patterns.append(f"^{whole}$")
    checks = {key.name for key in graph.asset_check_keys}
    assert {c for c in checks if not any(re.match(p, c) for p in patterns)} == set()
