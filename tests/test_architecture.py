"""The map of the tree is true, and the tree keeps the sizes that CONTRIBUTING.md promises."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text()
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 500, 60
FLOORS = [
    floor.split(" | ")
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    if contract["type"] == "layers"
    for floor in reversed(contract["layers"])
]
PACKAGES = sorted(p.parent.name for p in ROOT.glob("*/__init__.py"))
SOURCES = sorted(
    p for top in [*PACKAGES, "tests"] for p in (ROOT / top).rglob("*.py") if p.is_file()
)


def paths_named(page: str) -> list[str]:
    """What stands in backquotes with a slash or a file's ending, and what is linked to."""
    quoted = re.findall(r"`([\w./-]+(?:/[\w./-]*|\.(?:py|md|toml|yaml)))`", page)
    linked = [f"docs/{link}" for link in re.findall(r"\]\(([\w./-]+)\)", page)]
    return [*quoted, *linked]


@pytest.mark.parametrize("path", sorted(set(paths_named(PAGE))))
def test_every_path_on_the_map_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_map_names_paths() -> None:
    assert len(paths_named(PAGE)) > 40
    assert paths_named("`a/b.py` [x](c.md) `isobar` `d/`") == ["a/b.py", "d/", "docs/c.md"]


def test_every_package_stands_on_the_floor_that_its_imports_are_held_to() -> None:
    on_the_map = re.findall(r"^\| (\d) \| `(\w+)` \|", PAGE, re.MULTILINE)
    held = {(str(n), name) for n, floor in enumerate(FLOORS) for name in floor}
    beside = {(n, name) for n, name in held if name in ("evidence", "benchmarks")}
    assert set(on_the_map) == held - beside
    assert {name for _, name in held} == set(PACKAGES)


@pytest.mark.parametrize("top", sorted({*PACKAGES, "notebooks", "tests", "containers"}))
def test_every_folder_of_the_tree_is_on_the_map(top: str) -> None:
    assert re.search(rf"`{top}/?`", PAGE)


def functions_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each function with its number of lines, from the first after its docstring on."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                yield node.name, (node.end_lineno or 0) - body[0].lineno + 1


def test_no_file_and_no_function_is_too_long() -> None:
    found = []
    for path in SOURCES:
        text, name = path.read_text(), path.relative_to(ROOT).as_posix()
        if (lines := text.count("\n")) > MOST_LINES:
            found.append(f"{name}: {lines} lines")
        found += [
            f"{name}: {function} has {lines} lines"
            for function, lines in functions_of(ast.parse(text))
            if lines > MOST_LINES_OF_A_FUNCTION
        ]
    assert found == []
    assert len(SOURCES) > 500
