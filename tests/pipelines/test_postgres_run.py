"""A scheduled run end to end with the ledger on PostgreSQL, by setting alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from isobar.workspace import Workspace
from market.horizons import Run, scheduled_for
from pipelines.launch import Launcher
from pipelines.settings import load_settings
from tests.commands import isobar
from tests.pipelines.installation import TODAY, Installation, counts, environment_of
from tests.postgres import PostgresServer

pytestmark = pytest.mark.xdist_group("installation")

RUN = Run.PREMARKET
AS_OF = scheduled_for(RUN, TODAY)


@pytest.fixture
def copy(installation: Installation, tmp_path: Path) -> Installation:
    return installation.copy(tmp_path, ledger=False)


@pytest.fixture
def environment(copy: Installation, postgres: PostgresServer) -> Mapping[str, str]:
    return copy.environment | {"ISOBAR_LEDGER_URL": postgres.database()}


def launch(copy: Installation, environment: Mapping[str, str]) -> tuple[dict, dict[str, int]]:
    """Run it through Dagster; return what it told, and what is in the ledger then."""
    with environment_of(environment, copy.home):
        told = Launcher(load_settings(), now=AS_OF).scheduled_run(RUN, TODAY)
        return told, counts(copy)


def test_a_run_on_postgresql_is_like_one_on_sqlite(
    installation: Installation, copy: Installation, environment: Mapping[str, str]
) -> None:
    told, held = launch(copy, environment)
    assert not (copy.home / "ledger.db").exists()
    done = told["signals_premarket"]
    assert not done["already published"]
    rows = isobar("signals", "--engine", "all", "--json", environment=environment)
    assert rows.status == 0, rows.err
    assert len(rows.document) == done["signals"] == held["signals"] > 0
    # The same signals as the installation published on SQLite, but for what a first batch lacks.
    stored = isobar("signals", "--engine", "all", "--json", environment=installation.environment)
    mine = {(r["symbol"], r["horizon"], r["engine"]): r for r in rows.document}
    same = ("direction", "confidence", "expected_return_bps", "targets", "stops", "explain")
    theirs = [r for r in stored.document if r["as_of"] == rows.document[0]["as_of"]]
    assert len(theirs) == len(mine)
    for row in theirs:
        found = mine[row["symbol"], row["horizon"], row["engine"]]
        assert {n: found[n] for n in same} == {n: row[n] for n in same}
    audit = isobar("audit", "signals", environment=environment)
    assert audit.status == 0, audit.err
    page = Path(told["report_premarket"]["report"])
    assert page == copy.home / "reports" / str(TODAY) / "premarket.html"
    assert page.read_text().endswith("</html>")
    with environment_of(environment, copy.home):
        counted = Workspace(copy.home).sql("select count(*) as n from signals_current").item()
    assert counted == held["signals"]

    again, then = launch(copy, environment)
    assert again["signals_premarket"]["already published"]
    assert again["signals_premarket"]["batch"] == done["batch"]
    assert again["report_premarket"]["already published"]
    assert then == held
    assert (copy.home / "signal_heads.jsonl").read_text().count("\n") == 1


def test_a_row_that_was_altered_on_postgresql_is_found(
    copy: Installation, environment: Mapping[str, str], postgres: PostgresServer
) -> None:
    launch(copy, environment)
    schema = environment["ISOBAR_LEDGER_URL"].rpartition("%3D")[2]
    postgres.execute(f"UPDATE {schema}.signals SET confidence = 0.99 WHERE seq = 2")
    audit = isobar("audit", "signals", environment=environment)
    assert audit.status == 1
    assert "(row 2) was altered" in audit.out + audit.err
