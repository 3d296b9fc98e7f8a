"""Many small markets in which nothing is planted, each walked forward."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import binom

from evidence.part import Run
from evidence.seeds import over_seeds
from evidence.tables import interval
from evidence.training import (
    BAND_BPS,
    FEATURE_FAMILIES,
    Prepared,
    ensemble_of,
    predict_out_of_sample,
    prepare_synthetic,
    with_params,
)
from market.horizons import find_horizon
from market.synthetic import SyntheticSpec, generate
from models.calibration import calibrate_walk_forward, windows_of
from models.confidence import accuracy_against_coverage
from models.evaluation import skill
from models.outcomes import outcomes_of
from models.session_bootstrap import share_intervals
from models.train import Rhythm
from signals.schema import ENSEMBLE_ENGINE

NAME = "no_alpha"
CONFIG: dict[str, Any] = {
    "seeds": 200,
    "symbols": 20,
    "sessions": 504,
    "horizon": "1d",
    "features": list(FEATURE_FAMILIES),
    "min_train_sessions": 252,
    "test_sessions": 126,
    "block_sessions": 5.0,
    "coverages": [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0],
    "params": {
        "lstm": {"window": 10, "hidden": 24, "epochs": 4, "rows_per_epoch": 12_000},
        "gradient_boosting": {"max_iter": 60, "learning_rate": 0.06},
    },
}
# Asked for of 200 runs; of another number the same share of a binomial's middle.
_WANTED_OF_200 = (3, 19)
_MIDDLE = 0.995
_MODEL_SEED = 7


def measure(run: Run) -> dict[str, Any]:
    """Return what every seed gave, and what that is together."""
    return measure_with(CONFIG, run)


def measure_with(config: dict[str, Any], run: Run) -> dict[str, Any]:
    """Return the result of another configuration: a smaller one is for tests."""
    found = run.each_seed(config["seeds"], partial(one_seed, config), NAME, shown=_shown)
    return {"seeds": found, **together(found, config)}


def _shown(found: dict[str, Any]) -> str:
    return interval(*(found["rank_ic"][k] for k in ("mean", "low", "high")))


def one_seed(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return what the ensemble finds in one market."""
    horizon = find_horizon(config["horizon"])
    market = generate(
        SyntheticSpec(
            symbols=config["symbols"],
            sessions=config["sessions"],
            minute_sessions=0,
            seed=seed,
            alpha={},
        )
    )
    prepared = prepare_synthetic(market, horizon, config["features"])
    engines = predict_out_of_sample(
        prepared,
        horizon,
        with_params(horizon.families, config["params"]),
        Rhythm(config["min_train_sessions"], config["test_sessions"]),
        seed=_MODEL_SEED,
    )
    blended = ensemble_of(engines, prepared, horizon.families, stacked=horizon.stacked)
    ensemble = blended.filter(pl.col("engine") == ENSEMBLE_ENGINE)
    outcome = prepared.labels.select("symbol", "bar_end", "excess_return")
    scored = ensemble.join(outcome, on=["symbol", "bar_end"], how="left")
    estimate = skill(scored, seed=1, periods_per_block=config["block_sessions"])
    return {
        "seed": seed,
        "rank_ic": {"mean": estimate.mean, "low": estimate.low, "high": estimate.high},
        "sessions": estimate.periods,
        "excludes_zero": estimate.excludes_zero,
        **_accuracy(ensemble, prepared, config),
    }


def _accuracy(ensemble: pl.DataFrame, prepared: Prepared, config: dict[str, Any]) -> dict[str, Any]:
    """Return hits and rows by coverage of the calibrated ensemble.

    The direction is that of the return less the *median* of all symbols at that time, so that
    half of the outcomes are up whatever the shape of returns.
    """
    horizon = find_horizon(config["horizon"])
    least, most = windows_of(horizon)
    known = outcomes_of(prepared.labels, horizon=horizon.name, band_bps=BAND_BPS)
    calibrated, _ = calibrate_walk_forward(ensemble, known, min_sessions=least, max_sessions=most)
    middle = pl.col("forward_return") - pl.col("forward_return").median().over("bar_end")
    centred = prepared.labels.with_columns(middle.alias("excess_return"))
    at = {
        "as_of": known["label_known_at"].max(),
        "seed": 1,
        "block": config["block_sessions"],
        "coverages": config["coverages"],
    }
    outcomes = outcomes_of(centred, horizon=horizon.name, band_bps=BAND_BPS)
    made = accuracy_against_coverage(calibrated, outcomes, **at)
    against_mean = accuracy_against_coverage(calibrated, known, **at)
    outside = (pl.col("band_low") > 0.5) | (pl.col("band_high") < 0.5)
    return {
        "rows": made["rows"].to_list(),
        "hits": (made["accuracy"] * made["rows"]).to_list(),
        "hits_against_mean": (against_mean["accuracy"] * against_mean["rows"]).to_list(),
        "band_excludes_half": bool(made.select(outside.any()).item()),
        "long_share": float((calibrated["p_long"] > calibrated["p_short"]).mean()),  # pyright: ignore[reportArgumentType]
    }


def wanted_count(seeds: int) -> tuple[int, int]:
    """Return between which counts of intervals that exclude zero lie, if all is well.

    Examples
    --------
    >>> wanted_count(200), wanted_count(40)
    ((3, 19), (0, 7))
    """
    if seeds == 200:
        return _WANTED_OF_200
    low, high = binom.interval(_MIDDLE, seeds, 0.05)
    return int(low), int(high)


def together(found: list[dict[str, Any]], config: dict[str, Any]) -> dict[str, Any]:
    """Return the count, the mean rank IC over seeds and accuracy against coverage of all seeds.

    Seeds are independent of one another: the bands draw whole seeds again.
    """
    rows = np.array([f["rows"] for f in found], dtype=np.float64)
    low, high = wanted_count(len(found))
    excluding = sum(f["excludes_zero"] for f in found)
    curve = _pooled(np.array([f["hits"] for f in found]), rows, config)
    half = [c["band_low"] is None or c["band_low"] <= 0.5 <= c["band_high"] for c in curve]
    return {
        "excluding_zero": excluding,
        "above_zero": sum(f["rank_ic"]["low"] > 0.0 for f in found),
        "wanted": [low, high],
        "within": low <= excluding <= high,
        "mean_rank_ic": over_seeds([f["rank_ic"]["mean"] for f in found]),
        "accuracy": curve,
        "half_within_band": all(half),
        "against_mean": _pooled(np.array([f["hits_against_mean"] for f in found]), rows, config),
        "bands_excluding_half": sum(f["band_excludes_half"] for f in found),
        "long_share": over_seeds([f["long_share"] for f in found]),
    }


def _pooled(
    hits: np.ndarray[Any, Any], rows: np.ndarray[Any, Any], config: dict[str, Any]
) -> list[dict[str, Any]]:
    band = share_intervals(hits, rows, seed=1, block=1.0, draws=4000)
    columns = (band.share, band.low, band.high, band.band_low, band.band_high)
    names = ("accuracy", "low", "high", "band_low", "band_high")
    return [
        {
            "coverage": coverage,
            "rows": int(rows[:, k].sum()),
            **{n: _plain(c[k]) for n, c in zip(names, columns, strict=True)},
        }
        for k, coverage in enumerate(config["coverages"])
    ]


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
