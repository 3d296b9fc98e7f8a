"""Many small markets in which nothing is planted, each traded by forecasts out of sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from evidence.backtest_synthetic import backtest_synthetic
from evidence.backtests import metric
from evidence.no_alpha_runs import wanted_count
from evidence.part import Run
from evidence.seeds import over_seeds

NAME = "backtest_no_alpha"
CONFIG: dict[str, Any] = {
    "seeds": 200,
    "symbols": 20,
    "sessions": 504,
    "alpha": {},
    "horizon": "1d",
    "features": ["core"],
    # The daily group without its network: 200 trainings in some minutes.
    "families": ["linear", "gradient_boosting"],
    "params": {"gradient_boosting": {"max_iter": 60, "learning_rate": 0.06}},
    "min_train_sessions": 252,
    "test_sessions": 126,
}
CONFIDENCE = 0.95


def measure(run: Run) -> dict[str, Any]:
    """Return what every seed gave, and what that is together."""
    return measure_with(CONFIG, run)


def measure_with(config: dict[str, Any], run: Run) -> dict[str, Any]:
    """Return the result of another configuration: a smaller one is for tests."""
    one = partial(one_seed, config)
    found = run.each_seed(config["seeds"], one, NAME, shown=lambda f: f["before_costs"])
    return {"seeds": found, **together(found)}


def one_seed(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return what the backtest of one market says."""
    report = backtest_synthetic(config, seed)
    judged = report["overfitting"]
    return {
        "seed": seed,
        "sessions": report["sessions"],
        "fills": report["orders_filled"],
        "before_costs": _estimate(report, "sharpe_ratio_before_costs"),
        "after_costs": _estimate(report, "sharpe_ratio"),
        "return_before_costs": report["total_return_before_costs"],
        "return_after_costs": report["total_return"],
        "gross_exposure": report["average_gross_exposure"],
        "probabilistic_sharpe_ratio": judged["probabilistic_sharpe_ratio"],
        "deflated_sharpe_ratio": judged["deflated_sharpe_ratio"],
        "deflated_before_costs": report["overfitting_before_costs"]["deflated_sharpe_ratio"],
        "probability_of_overfitting": judged["probability_of_overfitting"],
        "trials": judged["trials"]["total"],
    }


def _estimate(report: dict[str, Any], name: str) -> dict[str, Any]:
    row = metric(report, name)
    return {"mean": row["value"], "low": row["low"], "high": row["high"]}


def together(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how many intervals exclude zero on either side, and what the judges of luck say."""
    counts = {k: _excluding([f[k] for f in found]) for k in ("before_costs", "after_costs")}
    low, high = wanted_count(len(found))
    excluding = counts["before_costs"]["excluding_zero"]
    return {
        **counts,
        "wanted": [low, high],
        "within": low <= excluding <= high,
        "passing": {
            name: _passing([f[name] for f in found])
            for name in (
                "probabilistic_sharpe_ratio",
                "deflated_before_costs",
                "deflated_sharpe_ratio",
            )
        },
        "probability_of_overfitting": over_seeds(
            [
                f["probability_of_overfitting"]
                for f in found
                if f["probability_of_overfitting"] is not None
            ]
        ),
        "trials": sorted({f["trials"] for f in found}),
    }


def _excluding(estimates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    known = [e for e in estimates if e["low"] is not None]
    above, below = sum(e["low"] > 0.0 for e in known), sum(e["high"] < 0.0 for e in known)
    return {
        "with_interval": len(known),
        "excluding_zero": above + below,
        "above_zero": above,
        "below_zero": below,
        "sharpe_ratio": over_seeds([e["mean"] for e in known]),
    }


def _passing(values: Sequence[float | None]) -> dict[str, Any]:
    known = [v for v in values if v is not None]
    return {
        "judged": len(known),
        "passing": sum(v > CONFIDENCE for v in known),
        "median": float(np.median(known)) if known else None,
    }
