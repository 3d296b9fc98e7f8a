"""Backtest: the decision loop through the live code over ten years of 500 symbols.

It must be linear in symbols and in sessions: a fifth of the symbols, and a fifth of the sessions,
are measured beside it, each in a process of its own.
"""

import json
import sys
import time
from decimal import Decimal

import polars as pl

from backtest.simulate import simulate
from backtest.simulation import Simulation
from benchmarks.processes import peak_bytes, run_module
from benchmarks.wanted import Wanted
from execution.risk import RiskLimits
from execution.targets import TargetRules
from features.regime import classify_regimes
from market.actions import forward_adjust, session_factors
from market.costs import CostModel
from market.horizons import find_horizon
from market.synthetic import SyntheticMarket, SyntheticSpec, generate
from models.forecast import PREDICTION_SCHEMA

SYMBOLS, SESSIONS = 500, 2_520
MOST_SECONDS, MOST_GB = 120, 4
# Of a fifth's share: 1 is linear, more is what does not grow.
LEAST_SHARE = 0.67
# What would end the trading is off, so that all ten years are work.
LIMITS = RiskLimits(drawdown_share=Decimal(1), daily_loss_share=Decimal(1))
MODULE = "benchmarks.simulate_backtest"


def synthetic(symbols: int, sessions: int) -> tuple[SyntheticMarket, pl.DataFrame]:
    """Return a market and its planted forecasts as predictions for the horizon of a day."""
    market = generate(SyntheticSpec(symbols=symbols, sessions=sessions, minute_sessions=0))
    predictions = (
        market.truth.rename({"as_of": "bar_end"})
        .with_columns(
            as_of=pl.col("bar_end"),
            engine=pl.lit("ensemble"),
            model_version=pl.lit("truth"),
            p_short=pl.lit(0.3),
            p_neutral=pl.lit(0.1),
            p_long=pl.lit(0.6),
            volatility_bps=pl.lit(150.0),
        )
        .filter(pl.col("horizon") == "1d")
        .select(PREDICTION_SCHEMA.names())
        .cast(PREDICTION_SCHEMA)
        .sort("bar_end", "symbol")
    )
    return market, predictions


def simulated(market: SyntheticMarket, predictions: pl.DataFrame) -> Simulation:
    """Return the simulation under the live defaults, but for the two limits that end it."""
    factors = session_factors(market.daily, market.splits, market.dividends)
    return simulate(
        predictions,
        market.daily,
        horizons=[find_horizon("1d")],
        regimes=classify_regimes(forward_adjust(market.daily, factors)),
        rules=TargetRules(),
        limits=LIMITS,
        costs=CostModel(),
        band_bps=6.0,
        starting_cash_usd=1_000_000.0,
        splits=market.splits,
        dividends=market.dividends,
    )


def _once(symbols: int, sessions: int) -> dict[str, float]:
    market, predictions = synthetic(symbols, sessions)
    began = time.perf_counter()
    simulation = simulated(market, predictions)
    return {
        "seconds": time.perf_counter() - began,
        "peak_bytes": peak_bytes(),
        "orders": simulation.orders.height,
        "denials": simulation.denials.height,
    }


def measure(wanted: Wanted) -> list[str]:
    """Return what the loop takes, whole and in fifths."""
    sizes = {
        "whole": (SYMBOLS, SESSIONS),
        "a fifth of the symbols": (SYMBOLS // 5, SESSIONS),
        "a fifth of the sessions": (SYMBOLS, SESSIONS // 5),
    }
    found = {name: run_module(MODULE, "once", *map(str, size)) for name, size in sizes.items()}
    whole = found["whole"]
    seconds, peak = whole["seconds"], whole["peak_bytes"] / 1e9
    lines = [
        f"{SYMBOLS} symbols x {SESSIONS:,} sessions: {whole['orders']:,} orders, "
        f"{whole['denials']:,} denials",
        f"decision loop, all checks  {seconds:8.1f} s   {wanted.at_most(seconds, MOST_SECONDS)}",
        f"peak memory                {peak:8.2f} GB  {wanted.at_most(peak, MOST_GB)}",
    ]
    for name in list(sizes)[1:]:
        share = 5.0 * found[name]["seconds"] / seconds
        lines.append(
            f"{name:<26} {found[name]['seconds']:8.1f} s   {share:.2f} of its share of the whole "
            f"{wanted.at_least(share, LEAST_SHARE)}"
        )
    return lines


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_once(*map(int, sys.argv[2:]))))
    else:
        wanted = Wanted()
        print("\n".join(measure(wanted)))
        wanted.end()
