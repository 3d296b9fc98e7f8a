"""The workspace's research side: labels, catalogue, a feature's worth, its audit."""

from __future__ import annotations

import datetime as dt
import inspect

import polars as pl
import pytest

from features.labels import forward_returns
from features.spec import Feature, Stage, from_expression
from isobar.workspace import Workspace
from market.bars import read_adjusted
from market.errors import FeatureError, IsobarError, LakeError, MarketError, UsageError
from market.horizons import find_horizon
from market.timeframes import Timeframe
from models.evaluation import rank_ic
from tests.pipelines.installation import TODAY, Installation

pytestmark = pytest.mark.xdist_group("installation")

LATE = Feature(
    "late_selling",
    from_expression((pl.col("high") - pl.col("close")) / (pl.col("high") - pl.col("low"))),
    ("high", "low", "close"),
    1,
    Stage.TIME_SERIES,
    "Share of the range that was given back by the close",
    "own",
)
AHEAD = Feature(
    "tomorrow",
    lambda p: p["close"] / p["close"][::-1],
    ("close",),
    1,
    Stage.TIME_SERIES,
    "Reads a whole symbol backwards",
    "own",
)


@pytest.fixture
def workspace(installation: Installation) -> Workspace:
    return Workspace(installation.home)


def test_labels_are_those_that_models_learn_from(workspace: Workspace) -> None:
    bars = read_adjusted(workspace.lake, Timeframe.D1, None, None)
    wanted = forward_returns(bars, find_horizon("1d")).sort("symbol", "bar_end")
    assert workspace.labels("1d").equals(wanted)
    one = workspace.labels("1d", workspace.symbols[0], "2025-06-02", "2025-06-20")
    assert one["session"].is_between(dt.date(2025, 6, 2), dt.date(2025, 6, 20)).all()
    assert one["symbol"].unique().to_list() == [workspace.symbols[0]]
    assert workspace.labels("1d", start=TODAY)["forward_return"].null_count() == 6


def test_the_ic_is_that_of_the_values_and_the_labels(workspace: Workspace) -> None:
    found = workspace.evaluate_feature("return_5", "1d", quantiles=2)
    joined = workspace.features(names=["return_5"]).join(
        workspace.labels("1d"), on=["symbol", "session", "bar_end"]
    )
    by_hand = rank_ic(joined, "return_5", "excess_return")["rank_ic"]
    assert found.by_session["rank_ic"].to_list() == pytest.approx(by_hand.to_list())
    assert found.ic.mean == pytest.approx(by_hand.mean())
    assert found.decay["bars"].to_list() == [1, 2, 3, 5, 10, 21]


def test_a_feature_of_ones_own_is_computed_and_judged(workspace: Workspace) -> None:
    got = workspace.features(names=[LATE, "body"]).sort("symbol", "bar_end")
    bars = workspace.bars(list(workspace.symbols), "1d", adjusted="raw").sort("symbol", "bar_end")
    by_hand = bars.select((pl.col("high") - pl.col("close")) / (pl.col("high") - pl.col("low")))
    assert got["late_selling"].to_list() == pytest.approx(by_hand.to_series().to_list(), rel=1e-5)
    assert got.columns[-2:] == ["body", "late_selling"]
    assert workspace.evaluate_feature(LATE, "1d", quantiles=3).feature == "late_selling"
    intraday = workspace.evaluate_feature(LATE, "1h", quantiles=3, ahead=[1])
    assert intraday.decay["bars"].to_list() == [1, find_horizon("1h").steps]


def test_a_period_keeps_to_itself(workspace: Workspace) -> None:
    found = workspace.evaluate_feature("body", "1d", "2025-05-01", "2025-06-13", quantiles=2)
    days = found.by_session["session"]
    assert (days.min(), days.max()) == (dt.date(2025, 5, 1), dt.date(2025, 6, 13))


def test_the_audit_finds_what_looks_ahead(workspace: Workspace) -> None:
    clean = workspace.audit_feature(LATE, cuts=2, sessions=60)
    assert clean.is_clean
    assert "nothing had seen the future" in repr(clean)
    caught = workspace.audit_feature(AHEAD, cuts=2, sessions=60)
    assert not caught.is_clean
    assert "something looks ahead" in repr(caught)
    assert "tomorrow" in repr(caught)


def test_the_catalogue_is_searched_by_all_words(workspace: Workspace) -> None:
    everything = workspace.catalogue()
    assert everything.height == len(workspace.feature_names)
    found = workspace.catalogue("RSI wilder")
    assert "rsi_14" in found["name"]
    assert 0 < found.height < workspace.catalogue("rsi").height < everything.height
    assert set(workspace.catalogue(family="core")["family"]) == {"core"}
    assert workspace.catalogue("nothing is called like this").is_empty()


def test_errors_suggest_the_next_step(workspace: Workspace) -> None:
    symbol = workspace.symbols[0]
    with pytest.raises(UsageError, match=f"did you mean {symbol}"):
        workspace.features(f"{symbol}X")
    with pytest.raises(MarketError, match=f"did you mean {symbol}.*isobar ingest"):
        workspace.bars(f"{symbol}X")
    with pytest.raises(FeatureError, match="did you mean rsi_14"):
        workspace.evaluate_feature("rsi14")
    with pytest.raises(FeatureError, match="did you mean technical"):
        workspace.catalogue(family="technial")
    with pytest.raises(LakeError, match="isobar demo"):
        workspace["truth"]
    with pytest.raises(UsageError, match="run `isobar demo`, which writes truth"):
        workspace.sql("select * from truth")
    with pytest.raises(UsageError, match="did you mean features_1d"):
        workspace["feature_1d"]
    with pytest.raises(UsageError, match=r"workspace\.tables"):
        workspace.sql("select nothing from nowhere")


def test_tables_are_there_by_name(workspace: Workspace) -> None:
    assert {"bars_1d", "predictions", "signals_current", "orders"} <= set(workspace.tables)
    assert workspace["regimes"].collect().height > 0
    batches = workspace["signal_batches"].collect()
    assert batches.equals(workspace.sql("select * from signal_batches"))
    assert list(workspace.tables) == workspace._ipython_key_completions_()
    for name in workspace.tables:
        assert isinstance(workspace[name], pl.LazyFrame), name


def test_it_shows_what_there_is(workspace: Workspace, installation: Installation) -> None:
    text, page = repr(workspace), workspace._repr_html_()
    batch = workspace.sql("select * from signal_batches order by seq desc limit 1")
    for told in (
        str(installation.home),
        "6: ",
        str(TODAY),
        "1h, 1d",
        f"{batch['run'][0]} of",
        f"{batch['rows'][0]} signals",
    ):
        assert told in text, told
        assert told in page, told


def test_an_empty_one_says_how_to_begin(tmp_path) -> None:
    empty = Workspace(tmp_path)
    assert repr(empty).count("none yet: run `isobar") == 3
    assert list(empty.symbols) == []
    with pytest.raises(IsobarError, match="isobar ingest"):
        empty["bars_1d"]


def test_every_public_method_has_a_docstring_with_an_example() -> None:
    public = [
        (name, member)
        for name, member in inspect.getmembers(Workspace)
        if not name.startswith("_") and name not in ("ledger", "stores")
    ]
    assert len(public) > 20
    without = [name for name, member in public if ">>> " not in (inspect.getdoc(member) or "")]
    assert without == []
