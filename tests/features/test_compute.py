"""Features against hand arithmetic and naive loops; selection; what is refused."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from features.compute import compute_features
from features.labels import LABEL_COLUMNS
from features.registry import CORE, REGISTRY, feature_names, select_features
from features.spec import Feature, Stage, from_expression
from market.errors import FeatureError
from market.schema import Bar
from tests.markets import adjusted_daily, bits, daily_bars, market

START = dt.date(2024, 1, 2)
CLOSE = pl.col("close")


def cross(expression: pl.Expr, *inputs: str, name: str = "x") -> Feature:
    compute = from_expression(expression)
    return Feature(name, compute, inputs, 1, Stage.CROSS_SECTION, "made up", "none")


def test_columns_types_and_order() -> None:
    bars = adjusted_daily(market())
    out = compute_features(bars)
    assert out.columns == ["symbol", "session", "bar_end", "as_of", *feature_names(family="core")]
    assert set(out.select(feature_names(family="core")).dtypes) == {pl.Float32()}
    assert out.height == bars.height
    assert out.select("symbol", "bar_end").equals(
        bars.sort("symbol", "bar_end").select("symbol", "bar_end")
    )


def test_time_series_features_equal_a_naive_loop() -> None:
    bars = adjusted_daily(market()).filter(pl.col(Bar.SYMBOL) == "ZZAB")
    out = compute_features(bars)
    c, v = bars[Bar.CLOSE].to_numpy(), bars[Bar.VOLUME].to_numpy()
    o, h, low = (bars[n].to_numpy() for n in (Bar.OPEN, Bar.HIGH, Bar.LOW))
    r = c[1:] / c[:-1] - 1.0
    for t in (45, 60, len(c) - 1):
        vol = np.std(r[t - 20 : t], ddof=1)
        body = c / o - 1.0
        up = np.clip(r[t - 14 : t], 0, None).mean()
        down = np.clip(-r[t - 14 : t], 0, None).mean()
        wanted = {
            "return_5": c[t] / c[t - 5] - 1,
            "sma_gap_10": (c[t] / c[t - 9 : t + 1].mean() - 1) / vol,
            "body_4": body[t - 3 : t + 1].sum() / np.std(body[t - 19 : t + 1], ddof=1),
            "gap": o[t] / c[t - 1] - 1,
            "range": h[t] / low[t] - 1,
            "close_location": (c[t] - low[t]) / (h[t] - low[t]),
            "volatility_20": vol,
            "volatility_ratio": np.std(r[t - 5 : t], ddof=1) / np.std(r[t - 40 : t], ddof=1),
            "rsi_14_cutler": up / (up + down),
            "volume_ratio": v[t] / v[t - 19 : t + 1].mean(),
            "drawdown_40": c[t] / c[t - 39 : t + 1].max() - 1,
            "efficiency_10": abs(c[t] / c[t - 10] - 1) / np.abs(r[t - 10 : t]).sum(),
        }
        for name, value in wanted.items():
            assert out[name][t] == pytest.approx(value, rel=1e-5, abs=1e-9), name


def test_cross_section_features_equal_a_naive_loop() -> None:
    out = compute_features(adjusted_daily(market()))
    part = out.filter(pl.col(Bar.BAR_END) == out[Bar.BAR_END].max())
    r = part["return_1"].to_numpy().astype(float)
    assert part["return_1_z"].to_numpy() == pytest.approx((r - r.mean()) / r.std(ddof=1), rel=1e-4)
    assert part["dispersion"].to_numpy() == pytest.approx(r.std(ddof=1), rel=1e-4)
    vol = part["volatility_20"].to_numpy()
    rank = np.argsort(np.argsort(vol)) / (len(vol) - 1) - 0.5
    assert part["volatility_rank"].to_numpy() == pytest.approx(rank)
    above = (part["sma_gap_20"].to_numpy() > 0).mean()
    assert part["breadth"].to_numpy() == pytest.approx(above)


def test_a_cross_section_feature_may_be_computed_alone() -> None:
    bars = adjusted_daily(market())
    alone = compute_features(bars, select_features(["volume_rank"]))
    assert alone.columns[4:] == ["volume_rank"]
    assert bits(alone) == bits(compute_features(bars).select(alone.columns))


def test_a_new_symbol_gets_nothing_from_the_others_before_its_own_lookback() -> None:
    closes = {"A": [1.0, 2.0, 3.0], "B": [2.0, 3.0, 3.5], "C": [float("nan"), float("nan"), 9.0]}
    out = compute_features(daily_bars(closes, START), select_features(["dispersion"]))
    assert out.filter(pl.col("symbol") == "C")["dispersion"].to_list() == [None]
    assert out.filter(pl.col("symbol") == "A")["dispersion"].null_count() == 1


def test_no_bars_give_no_rows() -> None:
    out = compute_features(daily_bars({}, START))
    assert out.shape == (0, 4 + len(CORE))


def test_cross_section_of_something_unknown_is_refused() -> None:
    with pytest.raises(FeatureError, match="not a time-series feature"):
        compute_features(daily_bars({"A": [1.0]}, START), [cross(CLOSE.mean(), "close")])


@pytest.mark.parametrize("stage", [Stage.TIME_SERIES, Stage.CROSS_SECTION])
def test_a_feature_declares_what_it_reads(stage: Stage) -> None:
    read = "close" if stage is Stage.TIME_SERIES else "return_1"
    declared = "open" if stage is Stage.TIME_SERIES else "return_2"
    sly = Feature("x", lambda p: p[read] * 2.0, (declared,), 1, stage, "", "")
    # Also where another feature has the column at hand.
    beside = Feature("y", lambda p: p[read] * 1.0, (read,), 1, stage, "", "")
    with pytest.raises(FeatureError, match=rf"does not declare.*{read}.*{declared}"):
        compute_features(daily_bars({"A": [1.0, 2.0]}, START), [beside, sly])


def test_senseless_declarations_are_refused() -> None:
    with pytest.raises(FeatureError, match="no lookback"):
        Feature("x", lambda p: p["close"], ("close",), 0, Stage.TIME_SERIES, "", "")
    bars = daily_bars({"A": [1.0, 2.0]}, START)
    sly = Feature("x", lambda p: p["cloze"], ("cloze",), 1, Stage.TIME_SERIES, "", "")
    with pytest.raises(FeatureError, match=r"reads something that bars do not have.*cloze"):
        compute_features(bars, [sly])
    short = Feature("x", lambda p: p["close"][:-1], ("close",), 1, Stage.TIME_SERIES, "", "")
    with pytest.raises(FeatureError, match="not one value per row"):
        compute_features(bars, [short])


@pytest.mark.parametrize("column", LABEL_COLUMNS)
def test_a_label_cannot_be_registered_as_a_feature(column: str) -> None:
    with pytest.raises(FeatureError, match="reads a label"):
        Feature("x", lambda p: p[column], (column,), 1, Stage.TIME_SERIES, "", "")


def test_names_are_unique_and_documented() -> None:
    names = feature_names(family="core")
    assert len(set(names)) == len(names) >= 20
    assert all(f.meaning and f.source for f in REGISTRY)


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(FeatureError, match="did you mean return_1"):
        select_features(["retrun_1"])
    assert select_features(None) == REGISTRY
