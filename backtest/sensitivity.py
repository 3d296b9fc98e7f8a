"""What costs take: each line, the result under other costs, and the capital that a market bears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from backtest.metrics import session_curve, sharpe_ratio
from backtest.simulation import OrderColumn, Simulation
from backtest.tape import Floats
from market.calendar import NEW_YORK

COST_MULTIPLES = (0.0, 1.0, 2.0, 3.0)
MOST_TIMES = 1_000_000.0
"""Capacity is looked for up to so many times the starting capital."""
_HALVINGS = 60

SENSITIVITY_SCHEMA = pl.Schema(
    {
        "multiple": pl.Float64(),
        "total_return": pl.Float64(),
        "sharpe_ratio": pl.Float64(),
    }
)


def cost_sensitivity(
    simulation: Simulation, multiples: Sequence[float] = COST_MULTIPLES
) -> pl.DataFrame:
    """Price the orders of a simulation at multiples of their costs, borrow among them.

    Weights stay, so what a session's costs took of its equity is taken so many times. Orders are
    not decided again: sizes in dollars follow equity, and weights hardly do.

    Parameters
    ----------
    simulation : Simulation
        At its own costs: the multiple of one.
    multiples : Sequence of float
        Of every line and of borrow. Participation stays: it is no cost but a limit.

    Returns
    -------
    pl.DataFrame
        ``SENSITIVITY_SCHEMA``, one row per multiple; a ratio is null where there is none.
    """
    curve = session_curve(simulation)
    equity = curve["equity_usd"].to_numpy()
    returns, taken = _returns(equity), np.diff(curve["costs_usd"].to_numpy()) / equity[:-1]
    rows: list[tuple[float, float, float]] = []
    for multiple in multiples:
        priced = returns - (multiple - 1.0) * taken
        # An account that costs have eaten up trades no more.
        growth = np.cumprod(np.maximum(1.0 + priced, 0.0))
        rows.append((multiple, float(growth[-1] - 1.0), sharpe_ratio(priced)))
    return pl.DataFrame(rows, schema=SENSITIVITY_SCHEMA, orient="row").with_columns(
        pl.col("sharpe_ratio").fill_nan(None)
    )


@dataclass(frozen=True)
class Capacity:
    """How much capital the forecasts bear.

    Attributes
    ----------
    starting_usd : float
        The capital that was simulated.
    sharpe_ratio : float or None
        Net, at that capital.
    capacity_usd : float or None
        The capital at which it is half of that; ``None`` where ``statement`` says why.
    statement : str
        The finding in words.
    """

    starting_usd: float
    sharpe_ratio: float | None
    capacity_usd: float | None
    statement: str


def capacity(simulation: Simulation, most_times: float = MOST_TIMES) -> Capacity:
    """Return the capital at which the net Sharpe ratio is half of what it was.

    The orders of the simulation are priced again at k times their shares: weights, and so returns,
    stay, and the impact of a square-root law grows as the root of k. They are not decided again:
    limits in dollars and shares of volume would cut the orders of a large account down, and its
    ratio would look well with hardly anything invested. Limits on volume are thus left out.

    Parameters
    ----------
    simulation : Simulation
        With impact among its costs.
    most_times : float
        Where to stop looking, in multiples of the starting capital.
    """
    start = simulation.starting_cash_usd
    curve = session_curve(simulation)
    equity = curve["equity_usd"].to_numpy()
    returns = _returns(equity)
    base = sharpe_ratio(returns)
    if not base > 0.0:
        ratio = base if np.isfinite(base) else None
        return Capacity(start, ratio, None, "none: the net Sharpe ratio is not above zero")
    shares = _impact_by_session(simulation, curve) / equity[:-1]
    if not shares.any():
        return Capacity(start, base, None, "unknown: no impact was charged")

    def ratio_at(times: float) -> float:
        return sharpe_ratio(returns - shares * (np.sqrt(times) - 1.0))

    low, high = 1.0, 2.0
    while ratio_at(high) > base / 2.0:
        low, high = high, 2.0 * high
        if high > most_times:
            return Capacity(start, base, None, f"not found below {most_times * start:,.0f} USD")
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if ratio_at(middle) > base / 2.0 else (low, middle)
    found = float(high * start)
    return Capacity(start, base, found, f"{found:,.0f} USD: Sharpe ratio {base / 2:.2f} there")


def _returns(equity: Floats) -> Floats:
    return equity[1:] / equity[:-1] - 1.0


def _impact_by_session(simulation: Simulation, curve: pl.DataFrame) -> Floats:
    """Return the USD of impact in each session of the curve but its first row."""
    c = OrderColumn
    paid = simulation.fills.group_by(
        pl.col(c.BAR_END).dt.convert_time_zone(NEW_YORK.key).dt.date().alias("session")
    ).agg(pl.col(c.IMPACT_USD).sum())
    every = curve.select("session")[1:].join(paid, on="session", how="left", maintain_order="left")
    return every[c.IMPACT_USD].fill_null(0.0).to_numpy()
