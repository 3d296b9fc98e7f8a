"""`isobar explain` and `isobar parity`: screen, document and exit status."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from isobar.workspace import Workspace
from market.horizons import Run, scheduled_for
from market.ledger_tables import parity_checks
from tests.commands import isobar
from tests.pipelines.installation import TODAY, Installation

pytestmark = pytest.mark.xdist_group("installation")


def a_signal(installation: Installation) -> dict[str, object]:
    rows = Workspace(installation.home).signals(horizon="1d", engine="ensemble")
    return rows.row(-1, named=True)


def test_explain_says_where_a_signal_came_from(installation: Installation) -> None:
    signal = a_signal(installation)
    asked = ("explain", str(signal["id"])[:14])
    found = isobar(*asked, "--json", environment=installation.environment)
    assert found.status == 0
    told = found.document
    assert told["signal"]["hash"] == signal["hash"]
    assert told["again"]["equal"] is True
    assert {f["engine"] for f in told["forecasts"]} >= {"ensemble", "meta", "linear"}
    shown = isobar(*asked, environment=installation.environment)
    assert shown.status == 0
    for words in ("made again", "the same", "What moved it most", "Versions of tables", "bars_1d"):
        assert words in shown.out


def test_explain_of_nothing_says_what_to_do(installation: Installation) -> None:
    done = isobar("explain", "feedbeef", environment=installation.environment)
    assert (done.status, done.out) == (1, "")
    assert "there is no such signal" in done.message
    assert "Remedy" in done.message


def test_parity_lists_checks_and_makes_one(installation: Installation, tmp_path: Path) -> None:
    made = installation.copy(tmp_path)
    before = isobar("parity", "--json", environment=made.environment)
    assert before.status == 0
    assert {c["run"] for c in before.document} == {"eod"}
    again = isobar("parity", "eod", "--json", environment=made.environment)
    assert again.status == 0
    assert len(again.document) == len(before.document) + 1
    assert again.document[0]["equal"] is True
    assert "the same" in isobar("parity", environment=made.environment).out


def test_a_finding_ends_with_1_until_it_is_accepted(
    installation: Installation, tmp_path: Path
) -> None:
    made = installation.copy(tmp_path)
    batch = str(a_signal(installation)["batch_id"])
    late = scheduled_for(Run.EOD, TODAY) + dt.timedelta(days=1)
    row = {"batch_id": batch, "checked_at": late, "equal": False, "findings": ["1d: features"]}
    with made.stores.ledger as ledger, ledger.transaction() as connection:
        connection.execute(parity_checks.insert(), row)
    shown = isobar("parity", environment=made.environment)
    assert shown.status == 1
    assert "1d: features" in shown.out
    accepted = isobar("parity", "--accept", "seen", "--json", environment=made.environment)
    assert accepted.status == 0
    assert accepted.document[0]["findings"] == ["accepted by hand: seen"]
    twice = isobar("parity", "--accept", "seen", environment=made.environment)
    assert twice.status == 1
    assert "nothing to accept" in twice.message


def test_an_unknown_run_is_a_wrong_use(installation: Installation) -> None:
    assert isobar("parity", "noon", environment=installation.environment).status == 2
