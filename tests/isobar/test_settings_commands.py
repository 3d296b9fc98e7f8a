"""`isobar settings show`: what is set, and where; and settings that are wrong, at any command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import isobar


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "isobar.toml").write_text("[models]\nseed = 3\n")
    secret = {"ALPACA_API_KEY": "ak-77ce10", "ALPACA_SECRET_KEY": "sk-90aa31"}
    return {"ISOBAR_HOME": str(home), "ISOBAR_PROFILE": "paper", **secret}


def test_only_what_is_changed_and_from_where(environment: dict[str, str]) -> None:
    done = isobar("settings", "show", "--changed", "--json", environment=environment)
    found = {s["name"]: (s["value"], s["origin"]) for s in done.document["settings"]}
    assert found["models.seed"] == ("3", "isobar.toml")
    assert found["trading.enabled"] == ("true", "profile paper")
    assert found["profile"] == ("paper", "ISOBAR_PROFILE")
    assert found["alpaca.api_key"] == ("set, not shown", "ALPACA_API_KEY")
    assert "risk.order_count" not in found
    assert "ak-77ce10" not in done.out + done.err


def test_a_group_is_told_with_its_meanings(environment: dict[str, str]) -> None:
    done = isobar("settings", "show", "orders.br", environment=environment)
    assert done.status == 0
    assert "orders.brackets" in done.out
    assert "broker" in done.out


def test_a_name_that_begins_no_setting_is_a_wrong_use(environment: dict[str, str]) -> None:
    done = isobar("settings", "show", "modles", environment=environment)
    assert done.status == 2
    assert "no setting begins like that" in done.message


@pytest.mark.parametrize("command", [["--help"], ["status"], ["settings", "show"]])
def test_wrong_settings_are_one_message_and_never_a_traceback(
    environment: dict[str, str], command: list[str]
) -> None:
    # A process of its own: what is at stake is what happens while the program is imported.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("ISOBAR_")}
    given = {**outside, **environment, "ISOBAR_PROFILE": "papr"}
    done = subprocess.run(
        [sys.executable, "-m", "isobar.cli", *command], env=given, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    if command == ["--help"]:
        assert done.returncode == 0
    else:
        assert done.returncode == 1
        assert "did you mean paper?" in done.stderr
