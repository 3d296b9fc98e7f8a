"""From forecasts to a judged backtest, with the functions and the settings of the live code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from backtest.metrics import compute_metrics, session_curve, session_series
from backtest.overfitting import SplitVerdict, Trials, judge_overfitting
from backtest.sensitivity import capacity, cost_sensitivity
from backtest.simulate import Simulation, simulate
from execution.intents import PlanRules
from execution.risk import RiskLimits
from execution.targets import TargetRules
from market.costs import CostModel
from market.horizons import Horizon
from models.calibration import calibrate_walk_forward, windows_of
from models.dataset import EXCESS_RETURN
from models.outcomes import outcomes_of
from signals.schema import ENSEMBLE_ENGINE

# With the defaults of rules and limits, the settings of the pipeline; a test compares them.
COSTS = CostModel()
BAND_BPS = 2.0 * COSTS.one_way_bps
PLAN_RULES = PlanRules(brackets=True)
STARTING_CASH_USD = 100_000.0
_GROUPS = ("all", "year=", "regime=")


@dataclass(frozen=True)
class Market:
    """What a backtest reads beside forecasts.

    Attributes
    ----------
    bars : pl.DataFrame
        Raw bars (``BAR_SCHEMA``).
    regimes : pl.DataFrame
        ``as_of``, ``regime``.
    splits, dividends : pl.DataFrame
        ``SPLIT_SCHEMA``, ``DIVIDEND_SCHEMA``.
    """

    bars: pl.DataFrame
    regimes: pl.DataFrame
    splits: pl.DataFrame
    dividends: pl.DataFrame


def simulate_live(
    predictions: pl.DataFrame,
    market: Market,
    horizon: Horizon,
    *,
    rules: TargetRules | None = None,
    limits: RiskLimits | None = None,
) -> Simulation:
    """Trade forecasts as an installation would that changed no setting but rules and limits."""
    return simulate(
        predictions,
        market.bars,
        horizons=[horizon],
        regimes=market.regimes,
        rules=rules or TargetRules(),
        limits=limits or RiskLimits(),
        plan_rules=PLAN_RULES,
        costs=COSTS,
        band_bps=BAND_BPS,
        starting_cash_usd=STARTING_CASH_USD,
        splits=market.splits,
        dividends=market.dividends,
    )


def calibrated(raw: pl.DataFrame, labels: pl.DataFrame, horizon: Horizon) -> pl.DataFrame:
    """Return out-of-sample predictions, each calibrated on what was known before it."""
    least, most = windows_of(horizon)
    known = outcomes_of(labels, horizon=horizon.name, band_bps=BAND_BPS)
    made, _ = calibrate_walk_forward(raw, known, min_sessions=least, max_sessions=most)
    return made


def with_outcomes(predictions: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Return predictions with the excess return that came; null where it is not known."""
    known = labels.select("symbol", "bar_end", EXCESS_RETURN)
    return predictions.join(known, on=["symbol", "bar_end"], how="left")


def judged(
    simulation: Simulation,
    scored: pl.DataFrame,
    horizon: Horizon,
    *,
    trials: Trials,
    splits: Mapping[str, SplitVerdict],
    seed: int,
    **context: Any,
) -> dict[str, Any]:
    """Return what the backtest asset keeps of a simulation; of its groups years and regimes.

    Parameters
    ----------
    simulation : Simulation
        From :func:`simulate_live`.
    scored : pl.DataFrame
        From :func:`with_outcomes`; other engines than the ensemble are not looked at.
    horizon : Horizon
        Its row of the horizons table.
    trials : Trials
        Counted, this backtest among them.
    splits : mapping
        From :func:`backtest.overfitting.compare_engines`; empty where there was no choice.
    seed : int
        Of the bootstrap.
    **context
        ``benchmark``, ``benchmark_name`` and ``regimes`` of
        :func:`backtest.metrics.compute_metrics`.
    """
    mine = scored.filter(pl.col("engine") == ENSEMBLE_ENGINE)
    metrics = compute_metrics(simulation, mine, horizons=[horizon], seed=seed, **context)
    table = metrics.pop("table")
    assert isinstance(table, list)
    metrics.pop("rank_ic_by_month")
    series, stopped = session_series(session_curve(simulation)), simulation.stopped_from
    return {
        **metrics,
        "table": [row for row in table if row["group"].startswith(_GROUPS)],
        "cost_sensitivity": cost_sensitivity(simulation).to_dicts(),
        "capacity": asdict(capacity(simulation)),
        "sessions_without_forecast": len(simulation.sessions_without_forecast),
        "overfitting": judge_overfitting(series.returns, trials, splits),
        "overfitting_before_costs": judge_overfitting(series.before_costs, trials, splits),
        "stopped_from": None if stopped is None else stopped.isoformat(),
    }


def metric(report: Mapping[str, Any], name: str, group: str = "all") -> Mapping[str, Any]:
    """Return a row of a report's table; ``value``, ``low`` and ``high`` are ``None`` without it."""
    for row in report["table"]:
        if row["metric"] == name and row["group"] == group:
            return row
    return {"metric": name, "group": group, "value": None, "low": None, "high": None, "n": 0}
