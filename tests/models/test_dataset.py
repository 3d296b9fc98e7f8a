"""Features and labels joined: order, missing values, the target's unit."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from features.compute import compute_features
from features.labels import forward_returns
from features.registry import feature_names
from market.errors import ModelError
from market.horizons import find_horizon
from models.dataset import assemble
from tests.markets import adjusted_daily, dataset_of, labels_of, market


def test_rows_are_sorted_by_time_and_carry_what_the_tables_say() -> None:
    of = market()
    data = dataset_of(of)
    assert data.keys.select("bar_end", "symbol").equals(
        data.keys.select("bar_end", "symbol").sort("bar_end", "symbol")
    )
    assert data.x.shape == (len(data), len(feature_names(family="core")))
    assert data.x.dtype == np.float32
    features = compute_features(adjusted_daily(of))
    row = len(data) // 2
    at = (pl.col("symbol") == data.keys["symbol"][row]) & (
        pl.col("bar_end") == data.keys["bar_end"][row]
    )
    wanted = features.filter(at).select(feature_names(family="core")).row(0)
    assert data.x[row].tolist() == pytest.approx(list(wanted))
    label = labels_of(of).filter(at)
    assert data.excess_return[row] == label["excess_return"].item()
    assert data.forward_return[row] == label["forward_return"].item()
    assert data.keys["label_known_at"][row] == label["label_known_at"].item()
    assert data.y[row] == pytest.approx(data.excess_return[row] / data.volatility[row])


def test_missing_features_are_nan_and_never_zero() -> None:
    of = market()
    features = compute_features(adjusted_daily(of))
    data = assemble(features, labels_of(of), ["volatility_ratio"], steps=1)
    kept = features.filter(pl.col("volatility_20") > 0).sort("bar_end", "symbol")
    missing = kept["volatility_ratio"].is_null().to_numpy()
    assert missing.any()
    assert np.array_equal(np.isnan(data.x[:, 0]), missing)


def test_targets_are_clipped_and_unknown_ones_stay_unknown() -> None:
    bars = adjusted_daily(market())
    labels = forward_returns(bars, find_horizon("1M"))
    # A month's returns in units of a day's volatility reach beyond the limit.
    data = assemble(compute_features(bars), labels, ["return_1"], steps=1)
    assert np.nanmax(np.abs(data.y)) == 4.0
    of_its_own = assemble(compute_features(bars), labels, ["return_1"], steps=21)
    inside = np.abs(data.y) < 4.0
    assert of_its_own.y[inside] == pytest.approx(data.y[inside] / 21**0.5)
    assert np.isnan(data.y).sum() >= 5 * 21
    unknown = data.keys["label_known_at"].is_null().to_numpy()
    assert np.array_equal(np.isnan(data.y), unknown)
    assert np.array_equal(np.isnan(data.excess_return), unknown)


def test_rows_without_a_label_are_kept_for_forecasting() -> None:
    of = market()
    features = compute_features(adjusted_daily(of))
    labels = forward_returns(adjusted_daily(of), find_horizon("1d"))
    few = labels.filter(pl.col("symbol") == "ZZAA")
    data = assemble(features, few, ["return_1"], steps=1)
    known = np.isfinite(data.y)
    assert set(data.keys.filter(known)["symbol"]) == {"ZZAA"}
    assert len(data) == len(assemble(features, labels, ["return_1"], steps=1))


def test_a_symbol_that_does_not_move_has_no_unit_and_is_left_out() -> None:
    of = market()
    still = adjusted_daily(of).with_columns(
        pl.when(pl.col("symbol") == "ZZAA").then(5.0).otherwise(pl.col(c)).alias(c)
        for c in ("open", "high", "low", "close", "vwap")
    )
    data = assemble(compute_features(still), labels_of(of), ["return_1"], steps=1)
    assert "ZZAA" not in data.keys["symbol"].to_list()
    assert (data.volatility > 0).all()


def test_too_short_a_history_is_refused() -> None:
    short = adjusted_daily(market(sessions=15))
    labels = forward_returns(short, find_horizon("1d"))
    with pytest.raises(ModelError, match="no row has a known volatility"):
        assemble(compute_features(short), labels, ["return_1"], steps=1)


def test_a_feature_that_is_not_kept_any_more_is_named() -> None:
    bars = adjusted_daily(market())
    features, labels = compute_features(bars), labels_of(market())
    with pytest.raises(ModelError, match=r"not there.*\['gone'\].*features.families"):
        assemble(features, labels, ["return_1", "gone"], steps=1)
    with pytest.raises(ModelError, match="volatility_20"):
        assemble(features.drop("volatility_20"), labels, ["return_1"], steps=1)
