"""A backtest of engines that walk forward through one synthetic market."""

from __future__ import annotations

from typing import Any

import polars as pl

from backtest.benchmark import universe_benchmark
from backtest.overfitting import Trials, compare_engines
from evidence.backtests import Market, calibrated, judged, simulate_live, with_outcomes
from evidence.training import (
    ensemble_of,
    predict_out_of_sample,
    prepare_synthetic,
    with_params,
)
from execution.risk import RiskLimits
from execution.targets import TargetRules
from market.actions import forward_adjust, session_factors
from market.horizons import find_horizon
from market.synthetic import SyntheticSpec, generate
from models.train import Rhythm
from signals.schema import ENSEMBLE_ENGINE

_MODEL_SEED = 7
_BOOTSTRAP_SEED = 1


def backtest_synthetic(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the report of :func:`evidence.backtests.judged` on one market.

    Engines learn and forecast walk-forward, are stacked, blended and calibrated as the models
    asset does it, and their ensemble is traded long and short with the live settings. The trials
    are the engines that were looked at, and the one backtest.

    Parameters
    ----------
    config : dict
        ``symbols``, ``sessions``, ``alpha``, ``horizon``, ``features``, ``families``, ``params``,
        ``min_train_sessions``, ``test_sessions``.
    seed : int
        Of the market.
    """
    horizon = find_horizon(config["horizon"])
    market = generate(
        SyntheticSpec(
            symbols=config["symbols"],
            sessions=config["sessions"],
            minute_sessions=0,
            seed=seed,
            alpha=config["alpha"],
        )
    )
    prepared = prepare_synthetic(market, horizon, config["features"])
    members = config["families"]
    engines = predict_out_of_sample(
        prepared,
        horizon,
        with_params(members, config["params"]),
        Rhythm(config["min_train_sessions"], config["test_sessions"]),
        seed=_MODEL_SEED,
    )
    blends = ensemble_of(engines, prepared, members, stacked=horizon.stacked)
    every = pl.concat([engines, blends])
    ensemble = calibrated(
        blends.filter(pl.col("engine") == ENSEMBLE_ENGINE), prepared.labels, horizon
    )
    simulation = simulate_live(
        ensemble,
        Market(market.daily, prepared.regimes, market.splits, market.dividends),
        horizon,
        rules=TargetRules(long_only=False),
        limits=RiskLimits(allow_short=True),
    )
    scored = with_outcomes(every, prepared.labels)
    factors = session_factors(market.daily, market.splits, market.dividends)
    looked_at = every["engine"].n_unique()
    return judged(
        simulation,
        scored,
        horizon,
        trials=Trials(1, looked_at, 0, 1, (), "engines of this market's training, one backtest"),
        splits=compare_engines(scored, [horizon]),
        seed=_BOOTSTRAP_SEED,
        benchmark=universe_benchmark(forward_adjust(market.daily, factors)),
        regimes=prepared.regimes,
    )
