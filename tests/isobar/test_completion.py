"""What completes `isobar` in a shell: the script for it, and the answers that the script gets."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isobar.cli import app

SCRIPTS = {
    "bash": "complete -o default -F _isobar_completion isobar",
    "zsh": "#compdef isobar",
    "fish": "complete --command isobar",
}
ASKED = {
    "bash": {"COMP_WORDS": "isobar score", "COMP_CWORD": "1"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "isobar score"},
    "fish": {"_TYPER_COMPLETE_ARGS": "isobar score", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


def told(environment: dict[str, str], *arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, env=environment, prog_name="isobar")
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("shell", SCRIPTS)
def test_each_shell_has_its_script(shell: str, tmp_path: Path) -> None:
    script = told({"_ISOBAR_COMPLETE": f"source_{shell}"})
    assert SCRIPTS[shell] in script
    assert f"_ISOBAR_COMPLETE=complete_{shell}" in script
    if program := shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([program, "-n", tmp_path / "script"], check=True)


@pytest.mark.parametrize("shell", SCRIPTS)
def test_each_shell_is_told_the_commands_that_begin_so(shell: str) -> None:
    answer = told({"_ISOBAR_COMPLETE": f"complete_{shell}", **ASKED[shell]})
    assert "scoreboard" in answer
    assert "backtest" not in answer


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", ".bash_completions/isobar.sh"),
        ("zsh", ".zfunc/_isobar"),
        ("fish", ".config/fish/completions/isobar.fish"),
    ],
)
def test_the_script_is_put_where_the_page_says(
    shell: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer._completion_shared._get_shell_name", lambda: shell)
    told({"HOME": str(tmp_path)}, "--install-completion")
    assert SCRIPTS[shell] in (tmp_path / place).read_text()
    page = Path(__file__).parents[2] / "docs/by-hand.md"
    assert f"~/{place}" in page.read_text()
