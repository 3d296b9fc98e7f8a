"""Markets with planted alpha, each traded by forecasts out of sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from evidence.backtest_synthetic import backtest_synthetic
from evidence.part import Run
from evidence.seeds import over_seeds

NAME = "backtest_planted_alpha"
CONFIG: dict[str, Any] = {
    "seeds": 10,
    "symbols": 60,
    "sessions": 1008,
    "alpha": {"1d": 0.05},
    "horizon": "1d",
    "features": ["core"],
    "families": ["linear", "gradient_boosting"],
    "params": {"gradient_boosting": {"max_iter": 100}},
    "min_train_sessions": 504,
    "test_sessions": 252,
}
_MEANS = (
    "annual_return_before_costs",
    "annual_return",
    "annual_volatility",
    "max_drawdown",
    "annual_turnover",
    "average_gross_exposure",
    "average_net_exposure",
    "rank_ic",
    "beta",
)
_OVERFITTING = (
    "probabilistic_sharpe_ratio",
    "deflated_sharpe_ratio",
    "probability_of_overfitting",
)


def measure(run: Run) -> dict[str, Any]:
    """Return the report of every seed, and what they say together."""
    return measure_with(CONFIG, run)


def measure_with(config: dict[str, Any], run: Run) -> dict[str, Any]:
    """Return the result of another configuration: a smaller one is for tests."""
    made = run.each_seed(
        config["seeds"],
        partial(backtest_synthetic, config),
        NAME,
        shown=lambda f: f["sharpe_interval_before_costs"],
    )
    found = [{"seed": seed, **one} for seed, one in enumerate(made)]
    return {"seeds": found, **together(found)}


def together(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means over seeds: ratios, what each line of costs takes, other costs, capacity."""
    before = [f["sharpe_interval_before_costs"] for f in found]
    return {
        "above_zero_before_costs": sum(low is not None and low > 0.0 for low, _ in before),
        "above_zero_after_costs": sum(
            low is not None and low > 0.0 for low, _ in (f["sharpe_interval"] for f in found)
        ),
        "sharpe_ratio_before_costs": over_seeds([f["sharpe_ratio_before_costs"] for f in found]),
        "sharpe_ratio": over_seeds([f["sharpe_ratio"] for f in found]),
        "means": {name: over_seeds([f[name] for f in found]) for name in _MEANS},
        "lines": _lines(found),
        "sensitivity": _sensitivity(found),
        "capacity": _capacities(found),
        "overfitting": {
            name: float(np.median([f["overfitting"][name] for f in found])) for name in _OVERFITTING
        },
        "deflated_above": sum(f["overfitting"]["deflated_sharpe_ratio"] > 0.95 for f in found),
        "trials": found[0]["overfitting"]["trials"]["total"],
    }


def _lines(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what each line took a year, as a share of the capital at the start."""
    return {
        line: over_seeds(
            [f["cost_lines"][line] / f["starting_equity_usd"] * 252 / f["sessions"] for f in found]
        )
        for line in found[0]["cost_lines"]
    }


def _sensitivity(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "multiple": rows[0]["multiple"],
            "sharpe_ratio": over_seeds([r["sharpe_ratio"] for r in rows]),
            "total_return": over_seeds([r["total_return"] for r in rows]),
        }
        for rows in zip(*(f["cost_sensitivity"] for f in found), strict=True)
    ]


def _capacities(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the middle and the ends of the capacities that were found."""
    known = sorted(
        f["capacity"]["capacity_usd"] for f in found if f["capacity"]["capacity_usd"] is not None
    )
    return {
        "found": len(known),
        "least_usd": known[0] if known else None,
        "median_usd": float(np.median(known)) if known else None,
        "most_usd": known[-1] if known else None,
        "statements": [f["capacity"]["statement"] for f in found],
    }
