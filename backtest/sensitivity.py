"""What costs take: each line, the result under other costs, and the capital that a market bears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl

from backtest.metrics import session_curve, sharpe_ratio
from backtest.simulation import COST_LINES, FlowKind, OrderColumn, Simulation
from backtest.tape import Floats
from market.calendar import NEW_YORK
from market.costs import CostModel
from market.errors import BacktestError

COST_MULTIPLES = (0.0, 1.0, 2.0, 3.0)
MOST_TIMES = 1_000_000.0
"""Capacity is looked for up to so many times the starting capital."""
_HALVINGS = 60

SENSITIVITY_SCHEMA = pl.Schema(
    {
        "multiple": pl.Float64(),
        "total_return": pl.Float64(),
        "sharpe_ratio": pl.Float64(),
        "cost_usd": pl.Float64(),
        "borrow_usd": pl.Float64(),
        "orders_filled": pl.Int64(),
    }
)


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


def cost_sensitivity(
    run: partial[Simulation],
    multiples: Sequence[float] = COST_MULTIPLES,
    known: Simulation | None = None,
) -> pl.DataFrame:
    """Simulate the same forecasts under multiples of their costs.

    The whole decision loop runs anew each time, because sizes follow equity and equity follows
    costs: prices put on the orders of another run would belong to an account that never was.

    Parameters
    ----------
    run : partial of backtest.simulate.simulate
        With everything that it needs, ``costs`` as a keyword among it.
    multiples : Sequence of float
        Of every line and of borrow. Participation stays: it is no cost but a limit.
    known : Simulation, optional
        The result of ``run`` itself, which then does not run again for a multiple of one.

    Returns
    -------
    pl.DataFrame
        ``SENSITIVITY_SCHEMA``, one row per multiple.

    Raises
    ------
    BacktestError
        When ``run`` has no costs among its keywords.
    """
    costs = run.keywords.get("costs")
    if not isinstance(costs, CostModel):
        raise BacktestError(
            "the simulation to repeat has no costs",
            got=sorted(run.keywords),
            allowed="functools.partial(simulate, ..., costs=CostModel(...))",
            remedy="pass costs as a keyword",
        )
    rows: list[tuple[float, float, float, float, float, int]] = []
    for multiple in multiples:
        if multiple == 1.0 and known is not None:
            found = known
        else:
            found = run(costs=replace(costs, multiplier=multiple * costs.multiplier))
        equity = session_curve(found)["equity_usd"].to_numpy()
        lines = cost_lines(found)
        borrow = lines.pop("borrow_usd")
        rows.append(
            (
                multiple,
                float(equity[-1] / equity[0] - 1.0),
                sharpe_ratio(_returns(equity)),
                sum(lines.values()),
                borrow,
                found.fills.height,
            )
        )
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
