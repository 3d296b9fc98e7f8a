"""The version of the code that training runs carry."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from pipelines import code_version as module
from pipelines.code_version import code_version

RELEASED = version("isobar-quant")


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_checkout_has_its_commit_and_says_when_it_was_changed(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    assert code_version(checkout) == f"{RELEASED}+git.{commit}"
    (checkout / "notes.txt").write_text("not tracked")
    assert code_version(checkout) == f"{RELEASED}+git.{commit}"
    (checkout / "code.py").write_text("a = 2\n")
    assert code_version(checkout) == f"{RELEASED}+git.{commit}.dirty"


def test_a_folder_inside_another_repository_is_no_checkout(checkout: Path) -> None:
    inside = checkout / "site-packages"
    inside.mkdir()
    assert code_version(inside) == RELEASED


def test_without_git_or_a_commit_it_is_the_release(checkout: Path, tmp_path_factory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    git(empty, "init", "-q")
    assert code_version(empty) == RELEASED
    damaged = tmp_path_factory.mktemp("damaged")
    (damaged / ".git").write_text("gitdir: nowhere")
    assert code_version(damaged) == RELEASED


def test_a_missing_git_is_no_error(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout / "nothing"))
    assert code_version(checkout) == RELEASED


def test_a_package_that_is_not_installed_is_unknown(checkout, monkeypatch) -> None:
    monkeypatch.setattr(module, "_PACKAGE", "isobar-not-installed")
    assert code_version(checkout).startswith("0+unknown.git.")
