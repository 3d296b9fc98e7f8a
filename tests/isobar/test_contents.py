"""The first help page is a table of contents that one can read, on any background."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer import rich_utils

from isobar import contents
from isobar.cli import app
from isobar.contents import CONTENTS, MODULES, Contents

PAGES = ("", "backtest", "serve alpaca", "models rollback", "bootstrap")


def page(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("isobar"), *words],
        env={**os.environ, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.fixture(scope="module")
def first() -> str:
    return page("--help")


_COLOURED = """
import sys
from isobar.cli import app

for words in sys.argv[1:]:
    app([*words.split(), "--help"], prog_name="isobar", standalone_mode=False)
    print(end="\\f", flush=True)
"""


@pytest.fixture(scope="module")
def coloured() -> dict[str, str]:
    """The pages on a terminal with colours, all by one process: each takes seconds to start."""
    terminal = {"COLUMNS": "80", "FORCE_COLOR": "1", "TERM": "xterm-256color", "NO_COLOR": ""}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _COLOURED, *PAGES],
        env={**os.environ, **terminal},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(PAGES, done.stdout.split("\f")[:-1], strict=True))


def test_contents_and_commands_are_the_same():
    listed = [name for panel in CONTENTS.values() for name in panel]
    assert len(listed) == len(set(listed))
    assert set(listed) == {name for names in MODULES.values() for name in names}
    for module, names in MODULES.items():
        alone = typer.Typer()
        importlib.import_module(f"isobar.{module}").register(alone)
        made = set(typer.main.get_group(alone).commands)
        assert made == set(names) - ({"audit"} if module != "feature_commands" else set())
    assert {f"{f.stem}" for f in Path(contents.__file__).parent.glob("*_commands.py")} == {*MODULES}


def test_a_command_that_several_modules_share_is_whole_in_any_order():
    for first in ("features", "ledger", "trade", "audit"):
        group = typer.main.get_command(app)
        assert isinstance(group, Contents)
        group.whole(first)
        assert {*group.whole("audit").commands} == {"leaks", "signals", "orders"}


def test_help_and_completion_wait_for_no_command():
    """Each takes a second or more to import what it works with."""
    heavy = [*(f"isobar.{m}" for m in MODULES), "polars", "torch", "mlflow", "dagster", "sklearn"]
    asked = f"print([m for m in {heavy} if m in sys.modules])"
    for more in ({}, {"_ISOBAR_COMPLETE": "complete_bash", "COMP_WORDS": "x s", "COMP_CWORD": "1"}):
        code = f"import atexit, sys; atexit.register(lambda: {asked})\n"
        code += "from isobar.cli import app; app(['--help'], prog_name='isobar')"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env={**os.environ, **more},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "signals" in done.stdout
        assert done.stdout.splitlines()[-1] == "[]"


def test_panels_and_commands_come_in_the_order_of_the_contents(first: str):
    titles = [t for t in re.findall(r"╭─ ([A-Z][a-z ]+) ─", first) if t != "Options"]
    assert titles == list(CONTENTS)
    names = re.findall(r"^│ ([a-z]+) +\S", first, re.MULTILINE)
    assert names == [name for panel in CONTENTS.values() for name in panel]


def test_each_command_has_one_whole_line(first: str):
    for names in CONTENTS.values():
        for name, line in names.items():
            assert re.search(rf"^│ {name} +{re.escape(line)} +│$", first, re.MULTILINE), name


@pytest.mark.parametrize("words", PAGES)
def test_no_colour_vanishes_on_a_light_or_a_dark_background(coloured: dict[str, str], words: str):
    shown = coloured[words]
    assert f"Usage: isobar {words}".strip() in re.sub(r"\x1b\[[\d;]*m", "", shown)
    codes = {c for found in re.findall(r"\x1b\[([\d;]*)m", shown) for c in found.split(";")}
    assert codes, "nothing is coloured"
    # Faint, yellow, white, black, and their bright kinds.
    assert codes & {"2", "30", "33", "37", "90", "93", "97"} == set()


def test_every_style_that_is_replaced_is_one_of_the_librarys():
    from isobar.contents import _READABLE

    assert [name for name in _READABLE if not hasattr(rich_utils, name)] == []


@pytest.mark.parametrize(
    ("words", "offered"), [("isobar do", "doctor"), ("isobar models ro", "rollback")]
)
def test_a_shell_completes_commands(words: str, offered: str):
    count = len(words.split()) - 1
    asked = {"_ISOBAR_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": f"{count}"}
    assert page(**asked).split() == [offered]


@pytest.mark.parametrize("module", ["switch_commands", "signal_commands"])
def test_who_halts_or_reads_signals_does_not_wait_for_what_trains(module: str):
    heavy = {"dagster", "lightgbm", "matplotlib", "mlflow", "sklearn", "torch", "xgboost"}
    code = f"import sys, isobar.{module}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
