"""A feature's IC, quantiles and turnover, against scipy, pandas and loops over plain sets."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from features.labels import forward_returns
from market.errors import ModelError
from market.horizons import find_horizon
from models.feature_evaluation import (
    FeatureReport,
    evaluate_feature,
    ic_decay,
    quantile_returns,
    quantile_turnover,
    rank_autocorrelation,
    session_ic,
    with_quantile,
)
from tests.markets import market

FIRST = dt.datetime(2024, 7, 1, 20, tzinfo=dt.UTC)


def panel(values: Sequence[Sequence[float | None]], name: str = "f") -> pl.DataFrame:
    """One row of values per time, one column per symbol."""
    rows = [
        (f"S{s:02d}", FIRST + dt.timedelta(days=t), (FIRST + dt.timedelta(days=t)).date(), v)
        for t, row in enumerate(values)
        for s, v in enumerate(row)
    ]
    schema = {"symbol": pl.String, "bar_end": pl.Datetime("us", "UTC"), "session": pl.Date}
    return pl.DataFrame(rows, schema={**schema, name: pl.Float64}, orient="row")


def random_panel(times: int, symbols: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    made = panel(rng.standard_normal((times, symbols)).tolist())
    return made.with_columns(pl.Series("excess_return", rng.standard_normal(made.height) / 100))


def reports_of(strength: float, seed: int = 3) -> FeatureReport:
    """Judge a feature that knows this much of the next session's return, and no later one."""
    daily = market(symbols=12, sessions=160).daily
    labels = {n: forward_returns(daily, find_horizon(name)) for name, n in (("1d", 1), ("7d", 5))}
    noise = np.random.default_rng(seed).standard_normal(labels[1].height) * 0.01
    frame = labels[1].select(
        "symbol", "session", "bar_end",
        (pl.col("excess_return").fill_null(0.0) * strength + pl.Series(noise)).alias("mine"),
    )  # fmt: skip
    return evaluate_feature(
        frame, labels, feature="mine", horizon="1d", bars=1, seed=1, block=5.0, draws=300
    )


@given(st.integers(0, 10_000), st.integers(3, 9), st.integers(1, 6))
def test_the_ic_of_a_session_is_the_mean_of_scipys(seed: int, symbols: int, times: int) -> None:
    made = random_panel(times, symbols, seed)
    got = session_ic(made, "f")
    for day, ic in got.iter_rows():
        part = made.filter(pl.col("session") == day)
        assert ic == pytest.approx(spearmanr(part["f"], part["excess_return"]).statistic)
    assert got.height == times


@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(0, 15))
def test_quantiles_are_those_of_qcut_where_values_differ(seed: int, q: int, more: int) -> None:
    values = np.random.default_rng(seed).standard_normal(q + 1 + more)
    got = with_quantile(panel([values.tolist()]), "f", q)["quantile"].to_numpy()
    wanted = pd.qcut(values, q, labels=False) + 1
    # Where a value lies on an edge, pandas' edge is rounded and ours is exact: rank by rank.
    rank = values.argsort().argsort()
    on_edge = (rank * q) % (len(values) - 1) == 0
    np.testing.assert_array_equal(got[~on_edge], wanted[~on_edge])
    exact = [max(1, math.ceil(r * q / (len(values) - 1))) for r in rank]
    assert got.tolist() == exact


@given(st.lists(st.integers(0, 3), min_size=5, max_size=20), st.integers(2, 5))
def test_equal_values_share_a_quantile_and_higher_ones_are_never_lower(
    values: list[int], q: int
) -> None:
    got = with_quantile(panel([[float(v) for v in values]]), "f", q).sort("f")
    assert got.group_by("f").agg(pl.col("quantile").n_unique())["quantile"].to_list() == [1] * len(
        set(values)
    )
    assert got["quantile"].is_sorted()
    assert got["quantile"].is_between(1, q).all()


def test_times_with_few_symbols_have_no_quantiles() -> None:
    made = panel([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]]).filter(
        (pl.col("session") == FIRST.date()) | (pl.col("symbol") < "S03")
    )
    assert with_quantile(made, "f", 4)["session"].unique().to_list() == [FIRST.date()]


@pytest.mark.parametrize("quantiles", [1, 0, -2])
def test_one_quantile_is_none(quantiles: int) -> None:
    with pytest.raises(ModelError, match="2 or more"):
        with_quantile(panel([[1.0, 2.0, 3.0]]), "f", quantiles)


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_quantile_returns_are_means_of_their_rows(seed: int, q: int) -> None:
    ranked = with_quantile(random_panel(14, 9, seed), "f", q)
    table, spread = quantile_returns(ranked, seed=1, block=1.0, draws=50)
    for row in table.iter_rows(named=True):
        mine = ranked.filter(pl.col("quantile") == row["quantile"])["excess_return"]
        assert row["mean_return_bps"] == pytest.approx(mine.mean() * 1e4)
        assert row["rows"] == len(mine)
        assert row["low"] < row["mean_return_bps"] < row["high"]
    daily = ranked.to_pandas().groupby(["session", "quantile"])["excess_return"].mean().unstack()
    assert spread.mean == pytest.approx((daily[q] - daily[1]).mean() * 1e4)


@given(st.integers(0, 10_000), st.integers(2, 4))
def test_turnover_is_the_share_of_new_names(seed: int, q: int) -> None:
    ranked = with_quantile(random_panel(6, 8, seed), "f", q)
    got = {(t, k): v for t, k, v in quantile_turnover(ranked).iter_rows()}
    times = sorted(set(ranked["bar_end"]))
    held = {
        (t, k): set(ranked.filter((pl.col("bar_end") == t) & (pl.col("quantile") == k))["symbol"])
        for t in times
        for k in range(1, q + 1)
    }
    wanted = {
        (t, k): len(held[t, k] - held[b, k]) / len(held[t, k])
        for b, t in pairwise(times)
        for k in range(1, q + 1)
    }
    assert got == pytest.approx(wanted)


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_autocorrelation_is_spearmans_of_a_symbols_values(seed: int, lag: int) -> None:
    made = random_panel(7, 6, seed)
    wide = made.pivot("symbol", index="bar_end", values="f").sort("bar_end")
    matrix = wide.drop("bar_end").to_numpy()
    got = rank_autocorrelation(made, "f", lag)
    wanted = [spearmanr(matrix[t], matrix[t - lag]).statistic for t in range(lag, len(matrix))]
    assert got["autocorrelation"].to_list() == pytest.approx(wanted)
    assert got["bar_end"].to_list() == wide["bar_end"].to_list()[lag:]


def test_a_feature_that_never_moves_turns_nothing_over() -> None:
    still = panel([[1.0, 2.0, 3.0, 4.0]] * 5)
    assert quantile_turnover(with_quantile(still, "f", 2))["turnover"].unique().to_list() == [0.0]
    assert rank_autocorrelation(still, "f")["autocorrelation"].to_list() == pytest.approx([1.0] * 4)


def test_what_is_planted_is_found_and_noise_is_not() -> None:
    planted, noise = reports_of(0.6), reports_of(0.0)
    assert planted.ic.low > 0.2
    assert planted.spread_bps.low > 0.0
    assert planted.quantiles["mean_return_bps"].is_sorted()
    assert "differs from zero" in planted.verdict
    assert not noise.ic.excludes_zero
    assert "may be chance" in noise.verdict
    # It knows one session only: the more sessions a return has, the less of it is foretold.
    one, five = planted.decay["rank_ic"].to_list()
    assert five < 0.7 * one


def test_the_report_names_its_parts() -> None:
    found = reports_of(0.6)
    assert found.decay["bars"].to_list() == [1, 5]
    assert found.coverage == 1.0
    assert found.turnover["quantile"].to_list() == [1, 2, 3, 4, 5]
    table = found.as_table()
    assert table["measure"][0] == "rank IC"
    assert table["value"][0] == f"{found.ic.mean:+.4f}"
    assert f"{found.ic.low:+.4f} to" in table["95%"][0]


@given(st.floats(0.1, 50.0), st.floats(-5.0, 5.0))
def test_only_the_order_counts(scale: float, shift: float) -> None:
    made = random_panel(12, 6, 4)
    other = made.with_columns((pl.col("f") * scale + shift).exp().clip(upper_bound=1e300))
    kept = other.filter(pl.len().over("bar_end", "f") == 1)
    if kept.height < made.height:
        return  # Rounded to equal values: another order.
    assert session_ic(other, "f").equals(session_ic(made, "f"))


def test_missing_values_are_left_out_and_counted() -> None:
    made = random_panel(12, 6, 5)
    labels = made.select(
        "symbol", "bar_end", "session", "excess_return",
        pl.col("bar_end").alias("label_known_at"),
    )  # fmt: skip
    holes = made.with_columns(
        pl.when(pl.col("symbol") == "S00").then(None)
        .when(pl.col("symbol") == "S01").then(float("nan")).otherwise("f").alias("f")
    ).drop("excess_return")  # fmt: skip
    found = evaluate_feature(
        holes, {1: labels}, feature="f", horizon="1d", bars=1, seed=1, block=1.0, quantiles=2
    )
    assert (found.rows, found.coverage) == (48, pytest.approx(4 / 6))
    some = made.filter(pl.col("symbol") > "S01")
    assert found.by_session.equals(session_ic(some, "f"))


def test_few_sessions_have_no_interval() -> None:
    made = random_panel(4, 6, 6)
    labels = made.with_columns(pl.col("bar_end").alias("label_known_at"))
    found = evaluate_feature(
        made.drop("excess_return"), {1: labels},
        feature="f", horizon="1d", bars=1, seed=1, block=1.0, quantiles=3,
    )  # fmt: skip
    assert math.isnan(found.ic.low)
    assert "too little to judge" in found.verdict
    assert found.as_table()["95%"][0] == "no interval"


def test_the_intervals_of_long_returns_have_long_blocks() -> None:
    made = random_panel(60, 6, 7)
    ends = {1: pl.col("bar_end"), 20: pl.col("bar_end") + pl.duration(days=20)}
    labels = {n: made.with_columns(e.alias("label_known_at")) for n, e in ends.items()}
    found = ic_decay(made.drop("excess_return"), labels, "f", seed=1, block=1.0)
    short, long = (found["high"] - found["low"]).to_list()
    assert found["rank_ic"][0] == found["rank_ic"][1]
    # Blocks of forty sessions leave too few of them in sixty for any interval.
    assert math.isfinite(short)
    assert math.isnan(long)


def test_without_anything_to_judge_it_says_so() -> None:
    made = random_panel(4, 6, 8)
    labels = made.with_columns(pl.col("bar_end").alias("label_known_at"))
    nothing = made.drop("excess_return").with_columns(pl.lit(None, pl.Float64).alias("f"))
    call = {"feature": "f", "horizon": "1d", "bars": 1, "seed": 1, "block": 1.0}
    with pytest.raises(ModelError, match="nothing to judge"):
        evaluate_feature(nothing, {1: labels}, **call)
    with pytest.raises(ModelError, match="no labels"):
        evaluate_feature(nothing, {5: labels}, **call)
