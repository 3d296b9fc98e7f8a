"""Scoreboard, weights and agreement: what the screen, the JSON and the notebook say is one."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from isobar.workspace import Workspace
from market.horizons import Run, find_horizon, scheduled_for
from market.ledger_tables import engine_weights
from tests.commands import isobar
from tests.families import engines_of
from tests.pipelines.installation import HORIZONS, TODAY, YESTERDAY, Installation

pytestmark = pytest.mark.xdist_group("installation")

EOD = scheduled_for(Run.EOD, TODAY)


@pytest.fixture
def workspace(installation: Installation) -> Workspace:
    return Workspace(installation.home)


def test_the_scoreboard_has_both_sides_of_every_engine(workspace: Workspace) -> None:
    board = workspace.scoreboard(regime="all")
    for name in HORIZONS:
        rows = board.filter(pl.col("horizon") == name)
        assert set(rows["engine"]) == {*engines_of(find_horizon(name)), "ensemble"}
        assert (rows["signals"] > 0).all()
        assert (rows["promised_signals"] > rows["signals"]).all()
        assert rows["rank_ic"].is_finite().all()
        # One or two live sessions: figures, and no interval.
        assert rows["rank_ic_low"].null_count() == rows.height
    day = board.filter(pl.col("horizon") == "1d")
    # Three runs of two days forecast one session's return: six symbols, once each.
    assert day["signals"].to_list() == [6] * day.height
    assert workspace.scoreboard(horizon="1d", engine="ensemble", regime="all").height == 1
    none = workspace.scoreboard(since=EOD + dt.timedelta(days=1), regime="all")
    assert none["signals"].null_count() == none.height > 0


def test_the_scoreboard_s_document_is_the_frame(
    installation: Installation, workspace: Workspace
) -> None:
    asked = ("--horizon", "1d", "--regime", "every", "--json")
    shown = isobar("scoreboard", *asked, environment=installation.environment)
    assert shown.status == 0
    frame = workspace.scoreboard(horizon="1d")
    assert [tuple(r[k] for k in ("horizon", "regime", "engine")) for r in shown.document] == (
        frame.select("horizon", "regime", "engine").rows()
    )
    assert [r["rank_ic"] for r in shown.document] == frame["rank_ic"].to_list()
    table = isobar("scoreboard", environment=installation.environment)
    assert table.status == 0
    for word in ("live", "backtest", "rank IC"):
        assert word in table.out


def test_weights_are_those_in_force_then(installation: Installation, workspace: Workspace) -> None:
    with workspace.ledger as ledger:
        kept = ledger.read(engine_weights.select())
    for moment in (scheduled_for(Run.EOD, YESTERDAY), EOD):
        found = workspace.weights(horizon="1d", as_of=moment)
        assert found["as_of"].unique().to_list() == [moment]
        wanted = kept.filter((pl.col("as_of") == moment) & (pl.col("horizon") == "1d"))
        keys = ["regime", "engine"]
        assert found.sort(keys)["weight"].equals(wanted.sort(keys)["weight"])
    assert workspace.weights(as_of=scheduled_for(Run.EOD, YESTERDAY) - dt.timedelta(1)).is_empty()
    asked = ("--horizon", "1d", "--regime", "bear", "--as-of", EOD.isoformat(), "--json")
    shown = isobar("weights", *asked, environment=installation.environment)
    bear = workspace.weights(horizon="1d", regime="bear", as_of=EOD)
    assert [r["weight"] for r in shown.document] == bear["weight"].to_list()
    assert sum(r["weight"] for r in shown.document) == pytest.approx(1.0)
    assert "bear" in isobar("weights", environment=installation.environment).out


def test_agreement_is_of_the_newest_batch(installation: Installation, workspace: Workspace) -> None:
    found = workspace.agreement()
    assert found.columns == ["symbol", "disagrees", "1d"]
    newest = workspace.signals(since=EOD, engine="ensemble")
    assert dict(found.select("symbol", "1d").rows()) == dict(
        newest.select("symbol", "direction").rows()
    )
    shown = isobar("agreement", "--json", environment=installation.environment)
    assert shown.document == found.to_dicts()
    assert "symbols disagree" in isobar("agreement", environment=installation.environment).out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("scoreboard", "--regime", "sideways"), "unknown regime"),
        (("scoreboard", "--horizon", "2d"), "unknown horizon"),
        (("scoreboard", "--since", "soon"), "no time"),
        (("weights", "--regime", "all"), "unknown regime"),
        (("weights", "--horizon", "1M"), "switched off"),
        (("weights", "--as-of", "then"), "no time"),
    ],
)
def test_a_wrong_question_is_refused(installation: Installation, arguments, said) -> None:
    shown = isobar(*arguments, environment=installation.environment)
    assert shown.status == 2
    assert said in shown.message


def test_an_empty_installation_says_so(installation: Installation, tmp_path) -> None:
    empty = installation.environment | {"ISOBAR_HOME": str(tmp_path / "none")}
    for command, said in (
        ("scoreboard", "Nothing to judge"),
        ("weights", "No weights"),
        ("agreement", "No signals"),
    ):
        shown = isobar(command, environment=empty)
        assert (shown.status, said in shown.out) == (0, True)
        assert isobar(command, "--json", environment=empty).document == []
