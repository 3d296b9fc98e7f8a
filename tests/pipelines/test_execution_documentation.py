"""What docs/execution.md names is there: settings, states, findings, sensors, commands."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from execution.journal import JournalState
from execution.reconcile import FindingKind
from isobar.trading_commands import register
from pipelines.settings import known_settings
from pipelines.trading_sensors import ACCOUNT_SENSOR, FAILURE_SENSOR

PAGE = (Path(__file__).parents[2] / "docs" / "execution.md").read_text()
GROUPS = ("targets", "orders", "risk", "guard", "trading", "alerts")


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def test_every_setting_that_is_named_exists():
    named = set(re.findall(rf"`((?:{'|'.join(GROUPS)})\.\w+)", PAGE))
    assert len(named) > 15
    assert named - set(known_settings()) == set()


def test_every_setting_of_guard_and_alerts_is_named():
    wanted = {k for k in known_settings() if k.startswith(("guard.", "alerts."))}
    assert [k for k in sorted(wanted) if f"`{k}`" not in PAGE] == []


def test_every_state_and_every_finding_is_explained():
    states = set(re.findall(r"`(\w+)`", section("Exactly once")))
    assert {s.value for s in JournalState} <= states
    findings = section("Reconciliation")
    for kind in FindingKind:
        line = next(n for n in findings.splitlines() if f"`{kind.value}`" in n)
        assert f"| {'yes' if kind.is_drift else 'no'} |" in line


def test_sensors_and_commands_are_named():
    assert f"`{ACCOUNT_SENSOR}`" in PAGE
    assert f"`{FAILURE_SENSOR}`" in PAGE
    app = typer.Typer()
    register(app)
    names = {c.name for c in app.registered_commands}
    assert names
    assert [n for n in names if f"`isobar {n}" not in PAGE] == []
