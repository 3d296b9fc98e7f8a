"""Numbers on a simulation, with intervals where chance has a say, ready for JSON.

Ratios are annualised with 252 sessions and take no risk-free rate off. Intervals are 95 percent
intervals of the stationary bootstrap (:mod:`backtest.session_metrics`). What cannot be computed
is ``None``.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from backtest.benchmark import UNIVERSE, align_benchmark
from backtest.group_metrics import (
    ALL,
    known_outcomes,
    regime_of_sessions,
    session_ics,
    skill_metrics,
    trade_metrics,
)
from backtest.session_metrics import (
    DRAWS,
    SESSIONS_PER_YEAR,
    Draws,
    SessionSeries,
    Vector,
    block_of,
    draw_sessions,
    interval,
    session_metrics,
    sharpe_ratios,
)
from backtest.simulation import COST_LINES, FillStatus, FlowKind, OrderColumn, Simulation
from market import calendar
from market.errors import BacktestError
from market.horizons import Horizon, combined_name

__all__ = [
    "SESSIONS_PER_YEAR",
    "compute_metrics",
    "drawdowns",
    "session_curve",
    "sharpe_interval",
    "sharpe_ratio",
]

_FLAT = (
    "total_return",
    "annual_return",
    "annual_volatility",
    "sharpe_ratio",
    "sortino_ratio",
    "calmar_ratio",
    "max_drawdown",
    "session_hit_rate",
    "tail_ratio",
    "beta",
    "alpha",
    "benchmark_total_return",
    "annual_turnover",
    "average_gross_exposure",
    "average_net_exposure",
    "total_return_before_costs",
    "annual_return_before_costs",
    "sharpe_ratio_before_costs",
    "hit_rate",
    "profit_factor",
    "mean_trade_usd",
    "ic",
    "rank_ic",
    "forecast_hit_rate",
)
_WITH_INTERVAL = {
    "sharpe_ratio": "sharpe_interval",
    "sharpe_ratio_before_costs": "sharpe_interval_before_costs",
    "rank_ic": "rank_ic_interval",
}


def compute_metrics(
    simulation: Simulation,
    predictions_with_outcomes: pl.DataFrame,
    *,
    horizons: Sequence[Horizon],
    seed: int,
    benchmark: pl.DataFrame | None = None,
    benchmark_name: str = UNIVERSE,
    regimes: pl.DataFrame | None = None,
    sectors: pl.DataFrame | None = None,
) -> dict[str, object]:
    """Return every metric of a simulation as one JSON-ready mapping.

    Parameters
    ----------
    simulation : Simulation
        From :func:`backtest.simulate.simulate`.
    predictions_with_outcomes : pl.DataFrame
        The predictions joined with their labels: ``bar_end``, ``expected_return_bps``,
        ``excess_return``; with ``symbol``, ``horizon``, ``as_of``, ``p_long`` and ``p_short``
        also by sector, horizon and confidence. May be empty.
    horizons : sequence of Horizon
        Those that were traded.
    seed : int
        Of the bootstrap.
    benchmark : pl.DataFrame, optional
        ``session``, ``value``, from the session before the first on; for beta and alpha.
    benchmark_name : str
        What to call it.
    regimes : pl.DataFrame, optional
        ``as_of``, ``regime``.
    sectors : pl.DataFrame, optional
        ``symbol``, ``sector``.

    Returns
    -------
    dict
        Strings, integers, finite floats, lists and ``None``. Returns, volatilities, exposures,
        drawdowns and turnovers are shares (0.1 is 10%); an interval is ``[low, high]``. ``table``
        holds every metric by group as rows of :data:`backtest.session_metrics.METRIC_SCHEMA`.

    Raises
    ------
    BacktestError
        When the simulation is of other horizons or covers no session, or the benchmark has no
        value at the start.
    """
    if simulation.horizon != combined_name(horizons):
        raise BacktestError(
            "metrics of another horizon",
            got=combined_name(horizons),
            allowed=simulation.horizon,
            remedy="pass the horizons that were simulated",
        )
    curve = session_curve(simulation)
    sessions = curve["session"][1:].to_list()
    series = session_series(curve, benchmark)
    draws = draw_sessions(len(sessions), block=block_of(series.returns), seed=seed)
    skill, skill_block = skill_metrics(
        predictions_with_outcomes, horizons=horizons, seed=seed, regimes=regimes, sectors=sectors
    )
    table = pl.concat(
        [
            session_metrics(series, draws),
            trade_metrics(
                simulation,
                predictions_with_outcomes,
                sessions,
                draws,
                regimes=regimes,
                sectors=sectors,
            ),
            skill,
            _by_period(series, sessions, regimes, seed),
        ]
    )
    metrics = {
        "horizon": simulation.horizon,
        "start": sessions[0].isoformat(),
        "end": sessions[-1].isoformat(),
        "sessions": len(sessions),
        "starting_equity_usd": simulation.starting_cash_usd,
        "ending_equity_usd": float(curve["equity_usd"][-1]),
        **_flat(table),
        "max_drawdown_from": _drawdown_start(curve),
        "rank_ic_by_month": _by_month(predictions_with_outcomes),
        **_activity(simulation),
        **_costs(simulation),
        "benchmark": None if benchmark is None else benchmark_name,
        "bootstrap": _bootstrap(draws, skill_block, seed),
        "table": table.to_dicts(),
    }
    return {name: _plain(value) for name, value in metrics.items()}


def session_curve(simulation: Simulation) -> pl.DataFrame:
    """Return the account at the end of each session of the calendar.

    Returns
    -------
    pl.DataFrame
        ``session``, ``equity_usd``, ``costs_usd`` (so far), ``turnover`` (of the session),
        ``gross_exposure`` and ``net_exposure`` (mean of its bars), ascending. The first row is
        the starting cash, dated the session before the first one; a session without bars repeats
        the one before it.

    Raises
    ------
    BacktestError
        When the simulation covers no session.
    """
    rows = simulation.equity[1:].with_columns(pl.col("cost_usd").cum_sum().alias("costs_usd"))
    if rows.is_empty():
        raise BacktestError("the simulation covers no session", remedy="simulate a longer period")
    exposures = ("gross_exposure", "net_exposure")
    ends = rows.group_by("session", maintain_order=True).agg(
        pl.col("equity_usd", "costs_usd").last(), pl.col("turnover").sum(), pl.col(exposures).mean()
    )
    first: dt.date = ends["session"][0]
    days = [
        calendar.previous_session(first),
        *calendar.sessions_between(first, ends["session"][-1]),
    ]
    return (
        pl.DataFrame({"session": days})
        .join(ends, on="session", how="left", maintain_order="left")
        .with_columns(pl.col("equity_usd", "costs_usd", *exposures).forward_fill())
        .with_columns(
            pl.col("equity_usd").fill_null(simulation.starting_cash_usd),
            pl.col("costs_usd", "turnover", *exposures).fill_null(0.0),
        )
    )


def session_series(curve: pl.DataFrame, benchmark: pl.DataFrame | None = None) -> SessionSeries:
    """Return the returns and the activity of each session of a curve but the first row.

    Raises
    ------
    BacktestError
        When the benchmark has no value at the start.
    """
    equity = curve["equity_usd"].to_numpy()
    held = None
    if benchmark is not None:
        held = _returns(align_benchmark(benchmark, curve["session"]).to_numpy())
    return SessionSeries(
        returns=_returns(equity),
        before_costs=_returns(equity + curve["costs_usd"].to_numpy()),
        turnover=curve["turnover"].to_numpy()[1:],
        gross=curve["gross_exposure"].to_numpy()[1:],
        net=curve["net_exposure"].to_numpy()[1:],
        benchmark=held,
    )


def drawdowns(equity: Vector) -> Vector:
    """Return how far below its peak so far each value lies (0 or negative, as a share).

    Examples
    --------
    >>> drawdowns(np.array([100.0, 110.0, 99.0])).round(3).tolist()
    [0.0, 0.0, -0.1]
    """
    return equity / np.maximum.accumulate(equity) - 1.0


def sharpe_ratio(returns: Vector) -> float:
    """Return the annualised Sharpe ratio of session returns; NaN where they do not vary."""
    return float(sharpe_ratios(returns[None, :])[0]) if len(returns) > 1 else math.nan


def sharpe_interval(returns: Vector, *, seed: int, block: float) -> list[float]:
    """Return the 95 percent stationary-bootstrap interval of the Sharpe ratio."""
    if not math.isfinite(sharpe_ratio(returns)):
        return [math.nan, math.nan]
    draws = draw_sessions(len(returns), block=block, seed=seed)
    low, high = interval([sharpe_ratios(returns[draws.rows])], draws.tail())
    return [math.nan if v is None else v for v in (low, high)]


def _returns(equity: Vector) -> Vector:
    # Nothing is left to earn a return on once equity is gone; the record ends there.
    before = np.where(equity[:-1] > 0.0, equity[:-1], np.inf)
    return np.where(np.isinf(before), 0.0, equity[1:] / before - 1.0)


def _by_period(
    series: SessionSeries, sessions: list[dt.date], regimes: pl.DataFrame | None, seed: int
) -> pl.DataFrame:
    """Measure each year as a series of its own, and the sessions of each regime as a set."""
    labels = {"year": [str(d.year) for d in sessions]}
    if regimes is not None:
        labels["regime"] = regime_of_sessions(sessions, regimes)["regime"].to_list()
    parts: list[pl.DataFrame] = []
    for by, values in labels.items():
        for label in sorted(set(values)):
            rows = np.flatnonzero(np.array(values) == label)
            part = series.take(rows)
            draws = draw_sessions(len(rows), block=block_of(part.returns), seed=seed)
            group = f"{by}={label}"
            parts.append(session_metrics(part, draws, group=group, is_path=by == "year"))
    return pl.concat(parts)


def _flat(table: pl.DataFrame) -> dict[str, object]:
    """Return the metrics of the whole period by name, for those who want few."""
    whole = {r["metric"]: r for r in table.filter(pl.col("group") == "all").to_dicts()}
    found: dict[str, object] = {}
    for name in _FLAT:
        row = whole.get(name)
        found[name] = None if row is None else row["value"]
        if name in _WITH_INTERVAL:
            found[_WITH_INTERVAL[name]] = [None, None] if row is None else [row["low"], row["high"]]
    found["rank_ic_sessions"] = whole["rank_ic"]["n"]
    found["trades"] = whole["hit_rate"]["n"]
    found["max_drawdown_sessions"] = int(whole["max_drawdown_sessions"]["value"])
    return found


def _drawdown_start(curve: pl.DataFrame) -> str | None:
    """Return the last session at the peak before the deepest drawdown."""
    equity = curve["equity_usd"].to_numpy()
    down = drawdowns(equity)
    trough = int(down.argmin())
    if down[trough] == 0.0:
        return None
    return curve["session"][trough - int(equity[trough::-1].argmax())].isoformat()


def _activity(simulation: Simulation) -> dict[str, object]:
    orders = simulation.orders
    status = orders[OrderColumn.STATUS]
    codes = simulation.denials["code"].value_counts().sort("code")
    return {
        "orders": orders.height,
        "orders_filled": int((status == FillStatus.FILLED.value).sum()),
        "orders_by_status": dict(status.value_counts().sort("status").iter_rows()),
        "denials": simulation.denials.height,
        "denials_by_code": dict(codes.iter_rows()),
        "skips_by_reason": dict(simulation.skips.iter_rows()),
        "is_ruined": simulation.is_ruined,
    }


def cost_lines(simulation: Simulation) -> dict[str, float]:
    """Return what each line of costs took over the whole simulation, in USD.

    Returns
    -------
    dict
        ``COST_LINES`` of all fills, and ``borrow_usd``; each 0 or more.
    """
    sums = simulation.fills.select(pl.col(line).sum() for line in COST_LINES).row(0, named=True)
    flows = simulation.cash_flows.filter(pl.col("kind") == FlowKind.BORROW.value)
    lines = {str(line): float(value) for line, value in sums.items()}
    return {**lines, "borrow_usd": -float(flows["amount_usd"].sum()) + 0.0}


def _costs(simulation: Simulation) -> dict[str, object]:
    flows = simulation.cash_flows
    by_kind = dict(flows.group_by("kind").agg(pl.col("amount_usd").sum()).iter_rows())
    by_kind.pop(FlowKind.BORROW.value, None)
    return {
        "total_costs_usd": float(simulation.equity[1:]["cost_usd"].sum()),
        "cost_lines": cost_lines(simulation),
        "dividends_usd": by_kind.get(FlowKind.DIVIDEND.value, 0.0),
        "cash_flows_usd": dict(sorted(by_kind.items())),
    }


def _bootstrap(draws: Draws, skill_block: float, seed: int) -> dict[str, object]:
    return {
        "method": "stationary",
        "draws": DRAWS,
        "seed": seed,
        "block_sessions": draws.block,
        "skill_block_sessions": skill_block,
    }


def _by_month(scored: pl.DataFrame) -> list[dict[str, object]]:
    if scored.is_empty():
        return []
    sessions = session_ics(known_outcomes(scored).with_columns(pl.lit("").alias(ALL)), ALL)
    return (
        sessions.group_by(pl.col("session").dt.strftime("%Y-%m").alias("month"))
        .agg(pl.col("rank_ic").mean(), pl.len().cast(pl.Int64).alias("sessions"))
        .sort("month")
        .to_dicts()
    )


def _plain(value: Any) -> object:
    """Return a value that JSON knows; what is not finite becomes ``None``."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
