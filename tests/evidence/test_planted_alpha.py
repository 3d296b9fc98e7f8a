"""Fractions of the attainable rank IC, at tiny size through the real code."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from evidence.planted_alpha_runs import ATTAINABLE, groups, one_seed, session_rank_ics, together
from evidence.training import prepare_synthetic
from market.horizons import HORIZONS, find_horizon
from market.synthetic import SyntheticSpec, generate
from models.evaluation import rank_ic
from models.forecast import PREDICTION_SCHEMA
from tests.evidence.small import PLANTED, result_of


def test_small_markets_go_the_whole_way() -> None:
    result = result_of("planted_alpha")
    assert set(result["horizons"]) == {"1d", "1h"}
    for found in result["horizons"].values():
        engines = found["seeds"][0]["rank_ic"]
        # Of the groups, one alone has all its families in the small configuration.
        assert set(engines) == {*PLANTED["families"], "short", ATTAINABLE}
        assert set(found["reports"]) == {"short"}
        for kinds in found["reports"].values():
            assert sum(kinds["hindsight"]["verdicts"].values()) == 2


def test_a_seed_gives_the_same_to_the_bit() -> None:
    assert one_seed(PLANTED, "1d", 1) == result_of("planted_alpha")["horizons"]["1d"]["seeds"][1]


@pytest.mark.parametrize("name", ["1d", "1h"])
def test_who_forecasts_the_truth_attains_all_of_it_and_its_opposite_loses_as_much(
    name: str,
) -> None:
    horizon = find_horizon(name)
    market = generate(
        SyntheticSpec(symbols=8, sessions=60, minute_sessions=6, seed=4, alpha={name: 0.3})
    )
    prepared = prepare_synthetic(market, horizon, ["core"])
    truth = market.truth.filter(pl.col("horizon") == name)
    rows = prepared.labels.join(
        truth.select("symbol", "expected_return_bps", bar_end="as_of"), on=["symbol", "bar_end"]
    )
    made = [
        rows.select(
            pl.col(c) if c in ("symbol", "session", "bar_end", "as_of") else
            (sign * pl.col(c)).alias(c) if c == "expected_return_bps" else
            pl.lit({"horizon": name, "engine": engine, "model_version": "x"}.get(c, 0.3)).alias(c)
            for c in PREDICTION_SCHEMA
        ).cast(dict(PREDICTION_SCHEMA))
        for engine, sign in (("contrarian", -1.0), ("oracle", 1.0))
    ]  # fmt: skip
    daily = session_rank_ics(pl.concat(made), prepared, market, horizon)
    means = dict(daily.group_by("engine").agg(pl.col("rank_ic").mean()).iter_rows())
    assert means["oracle"] == means[ATTAINABLE] > 0.1
    assert means["contrarian"] == pytest.approx(-means[ATTAINABLE])
    # The same by the product's other way: correlations at each time, averaged within sessions.
    per_bar = rank_ic(rows, "expected_return_bps", "excess_return")
    by_hand = (
        per_bar.join(rows.select("bar_end", "session").unique(), on="bar_end")
        .group_by("session")
        .agg(pl.col("rank_ic").mean())["rank_ic"]
        .mean()
    )
    assert means[ATTAINABLE] == pytest.approx(by_hand)


def test_fractions_are_means_over_seeds_of_each_seed_s_ratio() -> None:
    gap = {"member": "a", "mean": 0.01, "low": 0.0, "high": 0.02, "verdict": "within noise"}
    found = [
        {
            "rank_ic": {ATTAINABLE: attained, "a": engine},
            "reports": {"g": {"hindsight": gap, "foresight": gap}},
        }
        for attained, engine in ((0.05, 0.04), (0.04, 0.01), (0.06, 0.06))
    ]
    result = together(found)
    fraction = result["engines"]["a"]["fraction"]
    assert fraction["mean"] == pytest.approx(np.mean([0.8, 0.25, 1.0]))
    assert fraction["low"] < fraction["mean"] < fraction["high"]
    assert result["reports"]["g"]["hindsight"]["verdicts"]["within noise"] == 3
    assert result[ATTAINABLE]["mean"] == pytest.approx(0.05)


def test_every_group_of_the_horizons_table_is_an_ensemble() -> None:
    assert set(groups()) == {h.group for h in HORIZONS}
    assert groups()["daily"] == (find_horizon("1d").families, True)
