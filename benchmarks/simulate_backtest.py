"""Backtest: the decision loop through the live code, against the bare vectorbt replay."""

import time

import polars as pl

from backtest.replay import replay_orders
from backtest.simulate import simulate
from execution.risk import RiskLimits
from execution.targets import TargetRules
from features.regime import classify_regimes
from market.actions import forward_adjust, session_factors
from market.costs import CostModel
from market.horizons import find_horizon
from market.synthetic import SyntheticSpec, generate
from models.forecast import PREDICTION_SCHEMA


def measure() -> list[str]:
    market = generate(SyntheticSpec(symbols=30, sessions=252, minute_sessions=0))
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
    factors = session_factors(market.daily, market.splits, market.dividends)
    began = time.perf_counter()
    simulation = simulate(
        predictions,
        market.daily,
        horizons=[find_horizon("1d")],
        regimes=classify_regimes(forward_adjust(market.daily, factors)),
        rules=TargetRules(),
        limits=RiskLimits(),
        costs=CostModel(),
        band_bps=6.0,
        starting_cash_usd=100_000.0,
        splits=market.splits,
        dividends=market.dividends,
    )
    loop = time.perf_counter() - began
    replay_orders(simulation)
    began = time.perf_counter()
    replay_orders(simulation)
    bare = time.perf_counter() - began
    decisions = predictions["as_of"].n_unique()
    return [
        f"{decisions} decisions x 30 symbols, {simulation.orders.height:,} orders",
        f"decision loop, all checks  {1e3 * loop / decisions:12.2f} ms a decision",
        f"bare vectorbt replay, warm {1e3 * bare:12.1f} ms in all",
        f"ratio                      {loop / bare:12.1f}",
    ]


if __name__ == "__main__":
    print("\n".join(measure()))
