"""Counting intervals that exclude zero, and the band around one half."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import polars as pl
from scipy.stats import binom

from evidence import no_alpha_runs
from evidence.no_alpha_runs import CONFIG, one_seed, together, wanted_count
from evidence.training import prepare_synthetic
from market.horizons import find_horizon
from market.synthetic import SyntheticSpec, generate
from models.forecast import PREDICTION_SCHEMA
from tests.evidence.small import NO_ALPHA, result_of


def test_small_markets_go_the_whole_way() -> None:
    result = result_of("no_alpha")
    assert len(result["seeds"]) == 3
    for found in result["seeds"]:
        assert found["rank_ic"]["low"] <= found["rank_ic"]["mean"] <= found["rank_ic"]["high"]
        assert found["excludes_zero"] == (
            found["rank_ic"]["low"] > 0.0 or found["rank_ic"]["high"] < 0.0
        )
        assert found["sessions"] > 80
        assert found["rows"][-1] > 400
        assert all(0.0 <= h <= r for h, r in zip(found["hits"], found["rows"], strict=True))
    assert result["excluding_zero"] == sum(f["excludes_zero"] for f in result["seeds"])


def test_a_seed_gives_the_same_to_the_bit() -> None:
    assert one_seed(NO_ALPHA, 1) == result_of("no_alpha")["seeds"][1]


def test_who_is_always_long_is_right_half_of_the_time_whatever_the_shape_of_returns() -> None:
    config = {**NO_ALPHA, "coverages": [1.0]}
    market = generate(SyntheticSpec(symbols=6, sessions=80, minute_sessions=0, seed=2, alpha={}))
    prepared = prepare_synthetic(market, find_horizon("1d"), ["core"])
    whole = prepared.labels.drop_nulls("forward_return")
    # A few large gains and many small losses: most returns lie below their mean.
    skewed = whole.with_columns(
        forward_return=pl.when(pl.col("symbol") == pl.col("symbol").min())
        .then(pl.col("forward_return").abs() + 0.5)
        .otherwise(pl.col("forward_return"))
    ).filter(pl.len().over("bar_end") == 6)
    mean = pl.col("forward_return").mean().over("bar_end")
    skewed = skewed.with_columns(excess_return=pl.col("forward_return") - mean)
    long = {"p_short": 0.3, "p_neutral": 0.1, "p_long": 0.6}
    names = {"horizon": "1d", "engine": "ensemble", "model_version": "x"}
    numbers = {"expected_return_bps": 1.0, "volatility_bps": 100.0}
    forecast = skewed.select(
        "symbol",
        "session",
        "bar_end",
        "as_of",
        **{k: pl.lit(v) for k, v in (names | long | numbers).items()},
    ).cast(dict(PREDICTION_SCHEMA))
    found = no_alpha_runs._accuracy(forecast, replace(prepared, labels=skewed), config)
    assert found["hits"] == [found["rows"][0] / 2]
    assert found["hits_against_mean"][0] < 0.3 * found["rows"][0]
    assert found["long_share"] == 1.0


def coins(seeds: int, right: float, seed: int = 5) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = [int(1_000 * c) for c in CONFIG["coverages"]]
    return [
        {
            "rank_ic": {"mean": 0.0, "low": -0.1, "high": 0.1},
            "excludes_zero": False,
            "rows": rows,
            "hits": [float(v) for v in rng.binomial(rows, right)],
            "hits_against_mean": [float(v) for v in rng.binomial(rows, 0.5)],
            "band_excludes_half": False,
            "long_share": 0.5,
        }
        for _ in range(seeds)
    ]


def test_coins_stay_within_the_band_and_better_ones_leave_it() -> None:
    assert together(coins(100, 0.5), CONFIG)["half_within_band"]
    assert not together(coins(100, 0.52), CONFIG)["half_within_band"]
    assert not together(coins(100, 0.48), CONFIG)["half_within_band"]


def test_the_band_holds_as_often_as_it_says() -> None:
    held = sum(together(coins(60, 0.5, seed), CONFIG)["half_within_band"] for seed in range(40))
    # 38 of 40 on average; below 34 with a chance of 0.3 percent.
    assert held >= 34


def test_the_count_is_of_intervals_on_either_side() -> None:
    found = coins(40, 0.5)
    for k in range(9):
        changed = deepcopy(found[k])
        low = 0.01 if k < 6 else -0.2
        changed |= {
            "rank_ic": {"mean": low + 0.05, "low": low, "high": low + 0.1},
            "excludes_zero": True,
        }
        found[k] = changed
    result = together(found, CONFIG)
    assert (result["excluding_zero"], result["above_zero"]) == (9, 6)
    assert result["wanted"] == [0, 7]
    assert not result["within"]


def test_what_is_wanted_of_200_is_the_middle_of_the_binomial() -> None:
    low, high = wanted_count(200)
    assert (low, high) == (3, 19)
    assert binom.cdf(low - 1, 200, 0.05) < 0.005
    assert binom.sf(high, 200, 0.05) < 0.005
