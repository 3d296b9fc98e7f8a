"""Reliability and accuracy against coverage: naive loops, no skill, planted skill, honesty."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from market.errors import ModelError
from models.confidence import (
    COVERAGES,
    Accuracy,
    Reached,
    Reliability,
    accuracy_against_coverage,
    coverage_at_accuracy,
    reliability_table,
)
from models.outcomes import join_outcomes
from tests.forecasts import LATER, forecasts

HONEST = {"skill": 0.4, "boldness": 0.4}
BOLD = {"skill": 0.1, "boldness": 0.9}
OPTIONS = {"as_of": LATER, "seed": 1, "block": 1.0}


def test_reliability_is_that_of_a_naive_loop() -> None:
    predictions, outcomes = forecasts(**HONEST)
    table = reliability_table(predictions, outcomes, **OPTIONS, bins=5)
    assert table.columns == list(Reliability)
    joined = join_outcomes(predictions, outcomes)
    for name, outcome in (("p_short", -1), ("p_neutral", 0), ("p_long", 1)):
        rows = table.filter(pl.col("outcome") == outcome)
        assert rows.height == 5
        assert rows["rows"].sum() == joined.height
        assert (rows["forecast_high"][:-1] < rows["forecast_low"][1:]).all()
        for row in rows.iter_rows(named=True):
            own = joined.filter(pl.col(name).is_between(row["forecast_low"], row["forecast_high"]))
            assert own.height == row["rows"]
            assert own["session"].n_unique() == row["sessions"]
            assert row["forecast"] == pytest.approx(own[name].mean())
            assert row["observed"] == pytest.approx((own["outcome"] == outcome).mean())
            assert 0.0 <= row["low"] < row["observed"] < row["high"] <= 1.0


def test_honest_forecasts_lie_in_their_intervals_and_bold_ones_do_not() -> None:
    inside = rows = 0
    for seed in range(8):
        table = reliability_table(*forecasts(**HONEST, seed=seed), **OPTIONS)
        inside += table.filter(pl.col("forecast").is_between("low", "high")).height
        rows += table.height
    assert inside >= binom.ppf(0.001, rows, 0.94)
    bold = reliability_table(*forecasts(**BOLD), **OPTIONS)
    assert bold.filter(pl.col("forecast").is_between("low", "high")).height < 0.5 * bold.height


@pytest.mark.parametrize("conditional", [True, False])
def test_accuracy_is_that_of_a_naive_loop(conditional: bool) -> None:
    predictions, outcomes = forecasts(sessions=60, symbols=7, skill=0.3, boldness=0.5)
    # Ties of every kind: no direction, no excess return, equal confidence.
    row = pl.int_range(pl.len())
    predictions = predictions.with_columns(
        pl.when(row % 11 == 0)
        .then((pl.col("p_long") + pl.col("p_short")) / 2)
        .otherwise(pl.col(c))
        .alias(c)
        for c in ("p_short", "p_long")
    )
    outcomes = outcomes.with_columns(
        pl.when(row % 7 == 0).then(0.0).otherwise(pl.col("excess_return")).alias("excess_return")
    )
    grid = (0.05, 0.33, 0.95, 1.0)
    table = accuracy_against_coverage(
        predictions, outcomes, **OPTIONS, coverages=grid, conditional=conditional
    )
    assert table.columns == list(Accuracy)
    rows = []
    for r in join_outcomes(predictions, outcomes).iter_rows(named=True):
        larger = max(r["p_long"], r["p_short"])
        confidence = larger / (r["p_long"] + r["p_short"]) if conditional else larger
        way = (r["p_long"] > r["p_short"]) - (r["p_long"] < r["p_short"])
        came = (r["excess_return"] > 0) - (r["excess_return"] < 0)
        rows.append((confidence, {0: 0.5, 1: 1.0, -1: 0.0}[way * came], r["session"]))
    rows.sort(key=lambda r: -r[0])
    for coverage, got in zip(grid, table.iter_rows(named=True), strict=True):
        threshold = rows[int(np.ceil(coverage * len(rows))) - 1][0]
        used = [r for r in rows if r[0] >= threshold]
        assert got["confidence"] == threshold
        assert got["rows"] == len(used)
        assert got["share"] == pytest.approx(len(used) / len(rows))
        assert got["share"] >= coverage - 1e-12
        assert got["sessions"] == len({r[2] for r in used})
        assert got["accuracy"] == pytest.approx(np.mean([r[1] for r in used]))


def test_honest_confidence_is_the_accuracy_it_promises() -> None:
    """A normal return: the direction is right with Phi(|mean|), whatever the volatility."""
    predictions, outcomes = forecasts(400, 40, **HONEST)
    table = accuracy_against_coverage(predictions, outcomes, **OPTIONS)
    mean = (predictions["expected_return_bps"] / predictions["volatility_bps"]).abs().to_numpy()
    truth = norm.cdf(mean)
    joined = join_outcomes(predictions, outcomes)
    larger = pl.max_horizontal("p_long", "p_short") / (pl.col("p_long") + pl.col("p_short"))
    confidence = joined.select(larger).to_series().to_numpy()
    for row in table.iter_rows(named=True):
        expected = truth[confidence >= row["confidence"]].mean()
        assert row["band_low"] <= expected <= row["band_high"]
    assert table["accuracy"][0] > 0.75
    assert table["accuracy"].is_sorted(descending=True)


@pytest.mark.parametrize(("shared", "block"), [(0.0, 1.0), (0.3, 2.0)])
def test_without_skill_the_band_holds_one_half(shared: float, block: float) -> None:
    """120 samples: the whole band holds 0.5 in 95 percent of them, within one in a thousand.

    Half of the noise of a session being shared makes whole sessions right or wrong.
    """
    inside = never = 0
    for seed in range(120):
        data = forecasts(120, 10, seed, skill=0.0, boldness=0.4, shared=shared)
        table = accuracy_against_coverage(*data, as_of=LATER, seed=seed, block=block, draws=300)
        band = table.filter(pl.col("band_low").is_finite())
        assert band.height > len(COVERAGES) / 2
        inside += int(((band["band_low"] <= 0.5) & (band["band_high"] >= 0.5)).all())
        reached = coverage_at_accuracy(table, (0.55,))
        never += int(reached["verdict"].item() == "never")
    assert binom.ppf(0.001, 120, 0.95) <= inside
    assert never >= binom.ppf(0.001, 120, 0.975)
    if shared == 0.0:
        assert inside <= binom.ppf(0.999, 120, 0.95)


def test_outcomes_known_later_are_not_looked_at() -> None:
    predictions, outcomes = forecasts(**HONEST)
    as_of = outcomes["label_known_at"].unique().sort()[150]
    later = pl.col("label_known_at") > as_of
    spoiled = outcomes.with_columns(
        pl.when(later).then(-pl.col(c)).otherwise(pl.col(c)).alias(c)
        for c in ("outcome", "excess_return")
    )
    for measure in (accuracy_against_coverage, reliability_table):
        first = measure(predictions, outcomes, as_of=as_of, seed=1, block=1.0)
        assert first.equals(measure(predictions, spoiled, as_of=as_of, seed=1, block=1.0))
        assert not first.equals(measure(predictions, spoiled, **OPTIONS))


def table_of(*rows: tuple[float, float, float]) -> pl.DataFrame:
    """Accuracy tables from (share, accuracy, half width)."""
    return pl.DataFrame(
        {
            Accuracy.COVERAGE: share,
            Accuracy.CONFIDENCE: 1.0 - share / 2.0,
            Accuracy.SHARE: share,
            Accuracy.SHARE_LOW: share * 0.9,
            Accuracy.SHARE_HIGH: share * 1.1,
            Accuracy.ACCURACY: accuracy,
            Accuracy.BAND_LOW: accuracy - half,
            Accuracy.BAND_HIGH: accuracy + half,
        }
        for share, accuracy, half in rows
    )


def test_the_widest_coverage_that_the_band_supports_is_named() -> None:
    nan = float("nan")
    table = table_of((0.01, 0.9, nan), (0.1, 0.72, 0.04), (0.3, 0.67, 0.02), (1.0, 0.6, 0.001))
    found = coverage_at_accuracy(table)
    assert found.columns == list(Reached)
    assert found["level"].to_list() == [0.60, 0.65, 0.70]
    assert found["verdict"].to_list() == ["supported", "supported", "never"]
    assert found["share"].to_list() == [0.3, 0.3, None]
    assert found["confidence"].to_list() == [0.85, 0.85, None]
    assert found["share_low"].to_list() == [pytest.approx(0.27), pytest.approx(0.27), None]
    assert (
        found.filter(pl.col("verdict") == "never").select(list(Reached)[2:]).null_count().row(0)
        == (1,) * 7
    )


@given(
    st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.4, 0.9), st.floats(0.0, 0.3)), max_size=9)
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_no_level_is_claimed_that_the_band_does_not_hold(rows) -> None:
    table = table_of(*rows) if rows else table_of((1.0, 0.5, 0.1)).clear()
    for found in coverage_at_accuracy(table, (0.5, 0.6)).iter_rows(named=True):
        wide = [r[0] for r in rows if r[1] - r[2] >= found["level"]]
        assert found["verdict"] == ("supported" if wide else "never")
        assert found["share"] == (max(wide) if wide else None)
        if wide:
            assert found["band_low"] >= found["level"]


@pytest.mark.parametrize("grid", [(), (0.0, 1.0), (0.5, 0.1), (0.5, 0.5), (0.5, 1.1)])
def test_senseless_coverages_are_refused(grid: tuple[float, ...]) -> None:
    with pytest.raises(ModelError, match="coverages"):
        accuracy_against_coverage(*forecasts(**HONEST), **OPTIONS, coverages=grid)


def test_forecasts_without_any_direction_are_a_coin() -> None:
    predictions, outcomes = forecasts(sessions=60, symbols=3)
    flat = predictions.with_columns(p_short=pl.lit(0.0), p_neutral=pl.lit(1.0), p_long=pl.lit(0.0))
    table = accuracy_against_coverage(flat, outcomes, **OPTIONS)
    assert (table["accuracy"] == 0.5).all()
    assert (table["share"] == 1.0).all()
    assert (table["confidence"] == 0.5).all()
