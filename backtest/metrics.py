"""Numbers on a simulation, with intervals where chance has a say, ready for JSON.

Ratios are annualised with 252 sessions and take no risk-free rate off. Intervals are 95 percent
stationary-bootstrap intervals (Politis and Romano, 1994). What cannot be computed is ``None``.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from backtest.simulation import FillStatus, FlowKind, OrderColumn, Simulation
from market import calendar
from market.errors import BacktestError
from market.horizons import Horizon
from models.evaluation import Estimate, rank_ic, skill, stationary_indices

Vector = npt.NDArray[np.float64]
SESSIONS_PER_YEAR = 252
_MIN_BLOCK_SESSIONS = 5.0
_DRAWS = 2000


def compute_metrics(
    simulation: Simulation,
    predictions_with_outcomes: pl.DataFrame,
    *,
    horizon: Horizon,
    seed: int,
) -> dict[str, object]:
    """Return every metric of a simulation as one JSON-ready mapping.

    Parameters
    ----------
    simulation : Simulation
        From :func:`backtest.simulate.simulate`.
    predictions_with_outcomes : pl.DataFrame
        The predictions joined with their labels: ``bar_end``, ``expected_return_bps``,
        ``excess_return``. May be empty.
    horizon : Horizon
        The horizon that was traded; its overlap sets the bootstrap's block.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        Strings, integers, finite floats, lists and ``None``. Returns, volatilities, exposures,
        drawdowns and turnovers are shares (0.1 is 10%); an interval is ``[low, high]``.

    Raises
    ------
    BacktestError
        When the simulation is of another horizon, or covers no session.
    """
    if simulation.horizon != horizon.name:
        raise BacktestError(
            "metrics of another horizon",
            got=horizon.name,
            allowed=simulation.horizon,
            remedy="pass the horizon that was simulated",
        )
    curve = session_curve(simulation)
    block = max(_MIN_BLOCK_SESSIONS, float(horizon.sessions))
    metrics = {
        "horizon": horizon.name,
        "start": curve["session"][1].isoformat(),
        "end": curve["session"][-1].isoformat(),
        "sessions": curve.height - 1,
        "starting_equity_usd": simulation.starting_cash_usd,
        "ending_equity_usd": float(curve["equity_usd"][-1]),
        **_performance(curve["equity_usd"].to_numpy(), seed, block),
        **_drawdown(curve),
        **_before_costs(curve, seed, block),
        **_activity(simulation, curve.height - 1),
        **_trades(simulation.trades),
        **_skill(predictions_with_outcomes, horizon, seed),
    }
    return {name: _plain(value) for name, value in metrics.items()}


def session_curve(simulation: Simulation) -> pl.DataFrame:
    """Return equity and accumulated costs at the end of each session of the calendar.

    Returns
    -------
    pl.DataFrame
        ``session``, ``equity_usd``, ``costs_usd`` (so far), ascending. The first row is the
        starting cash, dated the session before the first one; a session without bars repeats
        the one before it.

    Raises
    ------
    BacktestError
        When the simulation covers no session.
    """
    rows = simulation.equity[1:].with_columns(pl.col("cost_usd").cum_sum().alias("costs_usd"))
    if rows.is_empty():
        raise BacktestError("the simulation covers no session", remedy="simulate a longer period")
    ends = rows.group_by("session", maintain_order=True).agg(
        pl.col("equity_usd").last(), pl.col("costs_usd").last()
    )
    first: dt.date = ends["session"][0]
    days = [
        calendar.previous_session(first),
        *calendar.sessions_between(first, ends["session"][-1]),
    ]
    return (
        pl.DataFrame({"session": days})
        .join(ends, on="session", how="left", maintain_order="left")
        .with_columns(pl.col("equity_usd", "costs_usd").forward_fill())
        .with_columns(
            pl.col("equity_usd").fill_null(simulation.starting_cash_usd),
            pl.col("costs_usd").fill_null(0.0),
        )
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
    if len(returns) < 2:
        return math.nan
    spread = float(np.std(returns, ddof=1))
    if spread < 1e-12:
        return math.nan
    return float(np.mean(returns)) / spread * math.sqrt(SESSIONS_PER_YEAR)


def sharpe_interval(returns: Vector, *, seed: int, block: float) -> list[float]:
    """Return the 95 percent stationary-bootstrap interval of the Sharpe ratio."""
    if not math.isfinite(sharpe_ratio(returns)):
        return [math.nan, math.nan]
    rng = np.random.default_rng(seed)
    draws = np.array(
        [sharpe_ratio(returns[stationary_indices(len(returns), block, rng)]) for _ in range(_DRAWS)]
    )
    finite = draws[np.isfinite(draws)]
    return [float(q) for q in np.quantile(finite, [0.025, 0.975])]


def _returns(equity: Vector) -> Vector:
    return equity[1:] / equity[:-1] - 1.0


def _annual(total: float, sessions: int) -> float:
    return (1.0 + total) ** (SESSIONS_PER_YEAR / sessions) - 1.0 if total > -1.0 else -1.0


def _performance(equity: Vector, seed: int, block: float) -> dict[str, object]:
    returns = _returns(equity)
    total = float(equity[-1] / equity[0] - 1.0)
    annual = _annual(total, len(returns))
    downside = math.sqrt(float(np.mean(np.minimum(returns, 0.0) ** 2)))
    worst = float(drawdowns(equity).min())
    spread = float(np.std(returns, ddof=1)) if len(returns) > 1 else math.nan
    return {
        "total_return": total,
        "annual_return": annual,
        "annual_volatility": spread * math.sqrt(SESSIONS_PER_YEAR),
        "sharpe_ratio": sharpe_ratio(returns),
        "sharpe_interval": sharpe_interval(returns, seed=seed, block=block),
        "sortino_ratio": _ratio(float(np.mean(returns)), downside) * math.sqrt(SESSIONS_PER_YEAR),
        "calmar_ratio": _ratio(annual, -worst),
    }


def _drawdown(curve: pl.DataFrame) -> dict[str, object]:
    """Return the deepest drawdown and the sessions from its peak to recovery, or to the end."""
    equity = curve["equity_usd"].to_numpy()
    down = drawdowns(equity)
    trough = int(down.argmin())
    if down[trough] == 0.0:
        return {"max_drawdown": 0.0, "max_drawdown_sessions": 0, "max_drawdown_from": None}
    peak = int(equity[: trough + 1].argmax())
    healed = np.flatnonzero(equity[trough:] >= equity[peak])
    end = trough + int(healed[0]) if len(healed) else len(equity) - 1
    return {
        "max_drawdown": float(down[trough]),
        "max_drawdown_sessions": end - peak,
        "max_drawdown_from": curve["session"][peak].isoformat(),
    }


def _before_costs(curve: pl.DataFrame, seed: int, block: float) -> dict[str, object]:
    equity = (curve["equity_usd"] + curve["costs_usd"]).to_numpy()
    returns = _returns(equity)
    total = float(equity[-1] / equity[0] - 1.0)
    return {
        "total_costs_usd": float(curve["costs_usd"][-1]),
        "total_return_before_costs": total,
        "annual_return_before_costs": _annual(total, len(returns)),
        "sharpe_ratio_before_costs": sharpe_ratio(returns),
        "sharpe_interval_before_costs": sharpe_interval(returns, seed=seed, block=block),
    }


def _activity(simulation: Simulation, sessions: int) -> dict[str, object]:
    rows, orders, flows = simulation.equity[1:], simulation.orders, simulation.cash_flows
    status = orders[OrderColumn.STATUS]
    codes = simulation.denials["code"].value_counts().sort("code")
    dividend = flows.filter(pl.col("kind") == FlowKind.DIVIDEND.value)["amount_usd"].sum()
    return {
        "annual_turnover": float(rows["turnover"].sum()) / sessions * SESSIONS_PER_YEAR,
        "average_gross_exposure": rows["gross_exposure"].mean(),
        "average_net_exposure": rows["net_exposure"].mean(),
        "orders": orders.height,
        "orders_filled": int((status == FillStatus.FILLED.value).sum()),
        "orders_expired": int((status == FillStatus.EXPIRED.value).sum()),
        "denials": simulation.denials.height,
        "denials_by_code": dict(codes.iter_rows()),
        "dividends_usd": float(dividend),
    }


def _trades(trades: pl.DataFrame) -> dict[str, object]:
    pnl = trades.filter("is_closed")["pnl_usd"].to_numpy()
    gains, losses = float(pnl[pnl > 0].sum()), float(-pnl[pnl < 0].sum())
    return {
        "trades": len(pnl),
        "hit_rate": _ratio(float((pnl > 0).sum()), float(len(pnl))),
        "profit_factor": _ratio(gains, losses),
    }


def _skill(scored: pl.DataFrame, horizon: Horizon, seed: int) -> dict[str, object]:
    nothing = Estimate(math.nan, math.nan, math.nan, 0)
    block = max(1.0, float(horizon.sessions))
    estimate = nothing if scored.is_empty() else skill(scored, seed=seed, periods_per_block=block)
    return {
        "rank_ic": estimate.mean,
        "rank_ic_interval": [estimate.low, estimate.high],
        "rank_ic_sessions": estimate.periods,
        "rank_ic_by_month": [] if scored.is_empty() else _by_month(scored),
    }


def _by_month(scored: pl.DataFrame) -> list[dict[str, object]]:
    sessions = (
        rank_ic(scored, "expected_return_bps", "excess_return")
        .group_by(pl.col("bar_end").dt.date().alias("session"))
        .agg(pl.col("rank_ic").mean())
    )
    return (
        sessions.group_by(pl.col("session").dt.strftime("%Y-%m").alias("month"))
        .agg(pl.col("rank_ic").mean(), pl.len().cast(pl.Int64).alias("sessions"))
        .sort("month")
        .to_dicts()
    )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else math.nan


def _plain(value: Any) -> object:
    """Return a value that JSON knows; what is not finite becomes ``None``."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
