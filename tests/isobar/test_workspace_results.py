"""The workspace's models, backtests and outcomes: the same as the stores have."""

from __future__ import annotations

import html

import polars as pl
import pytest

from isobar import charts
from isobar.results import BACKTEST_SCHEMA, MODEL_SCHEMA
from isobar.workspace import Workspace
from market.errors import BacktestError, MarketError, ModelError, UsageError
from tests.pipelines.installation import Installation

pytestmark = pytest.mark.xdist_group("installation")


@pytest.fixture
def workspace(installation: Installation) -> Workspace:
    return Workspace(installation.home)


def test_models_are_those_of_the_registry(workspace: Workspace) -> None:
    found = workspace.models("1d")
    assert found.schema == MODEL_SCHEMA
    stored = {(m.family, m.number, m.role): m for m in workspace.stores.tracker.stored("1d")}
    assert set(found.select("family", "number", "role").rows()) == set(stored)
    for row in found.iter_rows(named=True):
        model = stored[row["family"], row["number"], row["role"]]
        assert row["rank_ic"] == model.metrics[f"rank_ic_{row['family']}"]
        assert row["version"] == model.version
    assert set(workspace.models()["horizon"]) == {"1h", "1d"}


def test_runs_carry_the_scores_that_their_models_have(workspace: Workspace) -> None:
    runs = workspace.runs("1d")
    models = workspace.models("1d").filter(pl.col("role") == "champion")
    for row in models.iter_rows(named=True):
        mine = runs.filter(pl.col("engine") == row["family"])
        assert row["rank_ic"] in mine["rank_ic"].to_list()
    assert "ensemble" in runs["engine"]
    assert runs["config_hash"].unique().to_list() == [workspace.settings.config_hash]
    assert workspace.runs().height > runs.height


def test_skill_history_and_card_are_there(workspace: Workspace) -> None:
    skill = workspace.skill("1d")
    assert skill["rank_ic"].is_between(-1.0, 1.0).all()
    assert set(skill["engine"]) <= set(workspace.runs("1d")["engine"])
    assert workspace.model_history("1d").height >= workspace.models("1d").height
    card = workspace.card("1d")
    assert card._repr_markdown_().startswith("# Model card: 1d")
    with pytest.raises(ModelError, match="isobar train --horizon 14d"):
        workspace.skill("14d")
    with pytest.raises(MarketError, match="unknown horizon"):
        workspace.models("2d")


def test_a_tear_sheet_is_that_of_the_newest_backtest(workspace: Workspace) -> None:
    kept = workspace.backtests()
    assert kept.schema == BACKTEST_SCHEMA
    newest = workspace.backtests("1d").row(0, named=True)
    sheet = workspace.tear_sheet("1d")
    assert newest["sharpe_ratio"] == sheet.run.metrics["sharpe_ratio"]
    assert sheet.page.is_file()
    assert sheet.page.parent.name == newest["backtest"]
    assert sheet.sessions["equity_usd"][-1] / sheet.sessions["equity_usd"][0] - 1 == pytest.approx(
        newest["total_return"]
    )
    page = sheet._repr_html_()
    for label, value, _ in sheet.table.iter_rows():
        assert f"<td>{html.escape(label)}</td><td>{value}</td>" in page
    assert sheet.verdict in repr(sheet)
    with pytest.raises(BacktestError, match="isobar backtest --horizon 14d"):
        workspace.tear_sheet("14d")


def test_backtests_stand_side_by_side(workspace: Workspace) -> None:
    both = workspace.compare_backtests("1d", "1h")
    assert both.columns[0] == "metric"
    assert both.width == 3
    assert both["metric"][-1].startswith("Sharpe less that of 1d")
    with pytest.raises(BacktestError):
        workspace.compare_backtests("1d")


def test_outcomes_are_those_of_their_signals(workspace: Workspace) -> None:
    found = workspace.outcomes()
    assert found.height > 0
    assert found["known_at"].is_not_null().all()
    by_sql = workspace.sql(
        "select s.symbol, s.horizon, s.engine, o.realised_return_bps from signals_current s"
        " join signal_outcomes o on o.signal_id = s.id order by s.seq"
    )
    assert found.select(by_sql.columns).equals(by_sql)
    some = workspace.outcomes(horizon="1d", engine="ensemble")
    assert 0 < some.height < found.height
    assert set(some.select("horizon", "engine").rows()) == {("1d", "ensemble")}


def test_nothing_comes_after_the_cursor(workspace: Workspace) -> None:
    assert workspace.signals(after=workspace.cursor()).is_empty()
    assert workspace.signals(after="0" * 64)["hash"][-1] == workspace.cursor()
    with pytest.raises(MarketError, match="unknown horizon"):
        workspace.signals(horizon="2d")


def test_every_picture_is_drawn(workspace: Workspace) -> None:
    symbol, runs = workspace.symbols[0], workspace.runs()
    report = workspace.evaluate_feature("body", "1d", quantiles=3)
    drawn = [
        charts.candles(workspace.bars(symbol).tail(30)),
        charts.correlation(workspace.features(names=["body", "gap", "return_1"])),
        charts.feature_report(report),
        charts.compare_features([report]),
        charts.engines(runs),
        charts.engines(runs.clear()),
        charts.skill(workspace.skill("1d"), "1d"),
        charts.equity(workspace.tear_sheet("1d")),
        charts.equity(workspace.tear_sheet("1d"), workspace.tear_sheet("1h")),
        charts.sharpe_ratios(workspace.backtests()),
        charts.signals(workspace.signals(engine="ensemble")),
        charts.signals(workspace.signals(engine="nobody")),
        charts.promises(workspace.scoreboard()),
    ]
    for picture in drawn:
        data, shown = picture._repr_png_()
        assert data.startswith(b"\x89PNG")
        assert 200 < shown["width"] < 1200
        assert repr(picture) == f"Picture: {picture.title}"
    assert len({p.png for p in drawn}) == len(drawn)


def test_candles_are_of_one_symbol(workspace: Workspace) -> None:
    both = workspace.bars(list(workspace.symbols)[:2])
    with pytest.raises(UsageError, match="of one symbol"):
        charts.candles(both)
    with pytest.raises(UsageError, match="of one symbol"):
        charts.candles(both.clear())
