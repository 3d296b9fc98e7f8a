"""Walking forward: nothing is learned from what was not known."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from features.compute import compute_features
from features.labels import forward_returns
from features.registry import feature_names
from market.errors import ModelError
from market.horizons import HORIZONS, find_horizon
from market.schema import Bar
from models.dataset import Dataset, assemble
from models.fit import fit_model, predict_rows
from models.forecast import PREDICTION_SCHEMA, Made, to_predictions
from models.registry import FAMILIES, families_of, find_family
from models.spec import Forecast
from models.splits import PurgedWalkForward
from models.walk_forward import walk_forward
from tests.families import quick
from tests.markets import adjusted_bars, adjusted_daily, bits, dataset_of, labels_of, market

DAILY = find_horizon("1d")
LINEAR = [FAMILIES["linear"]]
SPLITTER = PurgedWalkForward(DAILY, min_train_sessions=40, test_sessions=15)


def walk(data, families=LINEAR, splitter=SPLITTER, **options):
    return walk_forward(data, families, splitter, seed=1, band_bps=5.0, **options)


def test_every_test_row_is_forecast_once_by_each_engine() -> None:
    data = dataset_of(market())
    out = walk(data, families=quick(FAMILIES.values()))
    sessions = data.keys["session"].unique().sort()
    tested = data.keys.filter(pl.col("session") >= sessions[40])
    assert out.predictions.schema == PREDICTION_SCHEMA
    assert out.predictions.height == tested.height * len(FAMILIES)
    assert out.predictions.select("symbol", "bar_end", "engine").is_unique().all()
    assert out.windows == SPLITTER.get_n_splits(groups=data.keys["session"].to_numpy())
    again = walk(data, families=quick(FAMILIES.values()))
    assert bits(again.predictions) == bits(out.predictions)


@pytest.mark.parametrize("horizon", HORIZONS, ids=lambda h: h.name)
def test_labels_were_known_before_the_first_forecast_that_used_them(horizon) -> None:
    of = market(seed=5, symbols=4, sessions=80, minute_sessions=12)
    bars = adjusted_bars(of, horizon.name)
    data = assemble(
        compute_features(bars),
        forward_returns(bars, horizon),
        feature_names(family="core"),
        steps=1,
    )
    gap = horizon.sessions + 1
    first = gap + (2 if horizon.timeframe.is_intraday else 10)
    splitter = PurgedWalkForward(horizon, min_train_sessions=first, test_sessions=2)
    checked = 0
    for train, test in splitter.split(data.x, groups=data.keys["session"].to_numpy()):
        known = data.keys["label_known_at"][train].drop_nulls()
        assert known.max() <= data.keys["as_of"][test].min()
        checked += len(known)
    assert checked > 0


def test_what_comes_later_changes_no_earlier_forecast() -> None:
    of = market()
    whole = walk(dataset_of(of)).predictions
    sessions = whole["session"].unique().sort()
    cut = sessions[len(sessions) // 2]
    bars = adjusted_daily(of)
    late = pl.col(Bar.SESSION) > cut
    shuffled = pl.col(Bar.CLOSE) * (1.0 + (pl.int_range(pl.len()) % 11) * 0.02)
    spoiled = bars.with_columns(
        pl.when(late).then(shuffled).otherwise(pl.col(Bar.CLOSE)).alias(Bar.CLOSE)
    )
    data = assemble(
        compute_features(spoiled),
        forward_returns(spoiled, DAILY),
        feature_names(family="core"),
        steps=1,
    )
    other = walk(data).predictions
    upto = pl.col("session") <= cut
    assert bits(other.filter(upto)) == bits(whole.filter(upto))
    assert bits(other.filter(~upto)) != bits(whole.filter(~upto))


def test_history_that_ends_earlier_gives_the_same_forecasts() -> None:
    of = market()
    whole = walk(dataset_of(of)).predictions
    cut = whole["session"].unique().sort()[29]
    bars = adjusted_daily(of).filter(pl.col(Bar.SESSION) <= cut)
    data = assemble(
        compute_features(bars), forward_returns(bars, DAILY), feature_names(family="core"), steps=1
    )
    assert bits(walk(data).predictions) == bits(whole.filter(pl.col("session") <= cut))


def test_each_window_has_its_own_version() -> None:
    data = dataset_of(market())
    out = walk(data)
    assert out.predictions["model_version"].n_unique() == out.windows
    spans = (
        out.predictions.group_by("model_version")
        .agg(pl.col("session").min().alias("a"), pl.col("session").max().alias("b"))
        .sort("a")
    )
    assert (spans["a"][1:] > spans["b"][:-1]).all()


def test_the_version_follows_from_all_that_made_the_model() -> None:
    data = dataset_of(market())
    rows = np.arange(200)
    base = {"horizon": "1d", "seed": 1, "data_hash": "x"}
    first = fit_model(data, rows, LINEAR[0], **base).version
    assert fit_model(data, rows, LINEAR[0], **base).version == first
    others = [
        fit_model(data, rows, LINEAR[0], **base | {"seed": 2}),
        fit_model(data, rows, LINEAR[0], **base | {"data_hash": "y"}),
        fit_model(data, rows, LINEAR[0], **base | {"horizon": "7d"}),
        fit_model(data, rows, LINEAR[0], **base, params={"penalty_per_row": 0.1, "clip": 3.0}),
        fit_model(data, rows[:190], LINEAR[0], **base),
    ]
    assert len({first, *(m.version for m in others)}) == 6


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    two = [*LINEAR, *quick([FAMILIES["random_forest"]])]
    out = walk(dataset_of(market()), two, progress=lambda *a: told.append(a))
    assert told == [(k + 1, 2 * out.windows) for k in range(2 * out.windows)]


@pytest.mark.parametrize("horizon", ["7d", "1M"])
def test_a_purge_that_does_not_cover_the_labels_is_caught(horizon: str) -> None:
    """Labels of a week or a month, behind a splitter that was told of a day."""
    with pytest.raises(ModelError, match="was not known before the test window"):
        walk(dataset_of(market(), horizon))


def test_a_label_may_be_known_at_the_very_moment_of_the_first_forecast() -> None:
    data = dataset_of(market())
    splitter = replace(SPLITTER, embargo_sessions=0)
    ends = data.keys.group_by("session").agg(close=pl.col("as_of").max()).sort("session")

    def known(sessions_later: int) -> Dataset:
        then = ends.with_columns(later=pl.col("close").shift(-sessions_later)).drop("close")
        keys = data.keys.join(then, on="session", how="left", maintain_order="left")
        late = pl.when(pl.col("label_known_at").is_not_null()).then("later")
        return replace(data, keys=keys.with_columns(label_known_at=late).drop("later"))

    assert walk(known(2), splitter=splitter).windows > 1
    with pytest.raises(ModelError, match="was not known before the test window"):
        walk(known(3), splitter=splitter)


def test_the_newest_rows_weigh_as_much_as_the_oldest_where_nothing_is_said() -> None:
    data = dataset_of(market())
    bare = walk(data).predictions
    assert bits(bare) == bits(walk(data, last_weight=1.0).predictions)
    assert bits(bare) != bits(walk(data, last_weight=0.2).predictions)


def test_a_model_does_not_forecast_before_its_training_was_known() -> None:
    data = dataset_of(market())
    model = fit_model(data, np.arange(200), LINEAR[0], horizon="1d", seed=1, data_hash="")
    known = dt.datetime.fromisoformat(model.known_at)
    as_of = data.keys["as_of"]
    first = int((as_of < known).sum())
    assert predict_rows(model, data, np.array([first]), 5.0)["as_of"].item() >= known
    with pytest.raises(ModelError, match="before its training data was known"):
        predict_rows(model, data, np.array([first - 1, first]), 5.0)


def test_other_features_are_refused() -> None:
    data = dataset_of(market())
    model = fit_model(data, np.arange(200), LINEAR[0], horizon="1d", seed=1, data_hash="")
    swapped = replace(data, feature_names=data.feature_names[::-1])
    with pytest.raises(ModelError, match="trained on other features"):
        predict_rows(model, swapped, np.arange(300, 310), 5.0)


def test_a_dataset_without_any_label_is_refused() -> None:
    of = market()
    unknown = labels_of(of).with_columns(
        pl.lit(None, pl.Datetime("us", "UTC")).alias("label_known_at"),
        pl.lit(None, pl.Float64).alias("excess_return"),
    )
    data = assemble(
        compute_features(adjusted_daily(of)), unknown, feature_names(family="core"), steps=1
    )
    with pytest.raises(ModelError, match="cannot train"):
        walk(data)


def test_probabilities_follow_from_the_forecast() -> None:
    data = dataset_of(market())
    mean = np.array([0.0, 0.5, -0.5, 0.0])
    volatility = np.array([0.01, 0.01, 0.01, 0.0001])
    out = to_predictions(
        data.keys.head(4),
        [Made("e", "v", Forecast(mean), 1.0)],
        2.0 * volatility,
        volatility=volatility,
        band_bps=10.0,
        horizon="1d",
    )
    total = out["p_short"] + out["p_neutral"] + out["p_long"]
    assert total.to_list() == pytest.approx([1.0] * 4)
    assert out["p_long"][0] == pytest.approx(out["p_short"][0])
    assert out["p_long"][1] > out["p_long"][0] > out["p_long"][2]
    assert out["p_long"][1] == pytest.approx(out["p_short"][2])
    assert out["p_neutral"][3] > 0.99
    assert out["expected_return_bps"].to_list() == pytest.approx([0.0, 100.0, -100.0, 0.0])
    assert out["volatility_bps"].to_list() == pytest.approx([100.0, 100.0, 100.0, 1.0])


def test_every_horizon_has_families() -> None:
    for horizon in HORIZONS:
        names = [f.name for f in families_of(horizon)]
        assert names
        assert len(set(names)) == len(names)
    with pytest.raises(ModelError, match=r"unknown model family.*xgboost"):
        find_family("oracle")
