"""The notebooks run from top to bottom, define nothing and are committed without outputs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.pipelines.installation import Installation, environment_of

ROOT = Path(__file__).parents[2]
PICTURES = {
    "1_explore": 3,
    "2_is_my_feature_any_good": 3,
    "3_models": 2,
    "4_backtest": 3,
    "5_signals": 2,
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTED = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
TWO_SCREENS_LINES = 60


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def outputs(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def test_these_are_the_notebooks() -> None:
    assert [p.stem for p in NOTEBOOKS] == list(PICTURES)
    assert [p.stem for p in EXECUTED] == list(PICTURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_defines_nothing_is_short_and_keeps_no_output(path: Path) -> None:
    cells = code(path)
    for cell in cells:
        assert cell.outputs == []
        assert cell.execution_count is None
        defined = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.AsyncFunctionDef)
        assert not [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, defined)]
        assert max(map(len, cell.source.splitlines())) <= 120
        assert str(Path.home()) not in cell.source
    assert sum(len(c.source.splitlines()) for c in cells) <= TWO_SCREENS_LINES


@pytest.mark.parametrize("path", EXECUTED, ids=lambda p: p.stem)
def test_the_copy_in_the_docs_is_of_this_notebook(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text) <= 400_000
    ours = [(c.cell_type, c.source) for c in nbformat.read(path, 4).cells]
    source = nbformat.read(ROOT / "notebooks" / path.name, 4).cells
    assert ours == [(c.cell_type, c.source) for c in source], "run `make notebooks`"
    # Of the machine it ran on nothing shows.
    assert not re.search(r"(?<![\w/.])/(tmp|home|root|work|Users|mnt)/", text)
    check_outputs(nbformat.read(path, 4), PICTURES[path.stem])


@pytest.mark.xdist_group("installation")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs_on_an_installation(path: Path, installation: Installation, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    with environment_of({**installation.environment, "PYTHONPATH": str(ROOT)}):
        client = NotebookClient(
            notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
    check_outputs(notebook, PICTURES[path.stem])


def check_outputs(notebook: nbformat.NotebookNode, pictures: int) -> None:
    found = list(outputs(notebook))
    assert len([o for o in found if "image/png" in o.get("data", {})]) == pictures
    assert [o for o in found if o.output_type == "error"] == []
    assert [o.text for o in found if o.get("name") == "stderr"] == []
