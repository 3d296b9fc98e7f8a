"""Small markets whose outcome can be worked out by hand, and an oracle forecaster."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import polars as pl

from backtest.simulate import simulate
from backtest.simulation import Simulation
from execution.intents import PlanRules
from execution.risk import RiskLimits
from execution.targets import TargetRules
from features.regime import classify_regimes
from market import calendar
from market.costs import CostModel
from market.horizons import find_horizon
from market.schema import BAR_SCHEMA, DIVIDEND_SCHEMA, SPLIT_SCHEMA, conform, empty
from market.synthetic import SyntheticMarket, SyntheticSpec, generate
from market.timeframes import Timeframe, resample
from models.forecast import PREDICTION_SCHEMA

FIRST = dt.date(2024, 3, 4)
FREE = CostModel.flat()
# Constant costs: what hand arithmetic can follow.
FLAT = CostModel.flat(half_spread_bps=1.0, slippage_bps=2.0)
WIDE = RiskLimits(
    volume_share=None,
    drawdown_share=Decimal(1),
    order_notional_usd=Decimal(10**9),
    position_share=Decimal(10),
    gross_share=Decimal(10),
    net_share=Decimal(10),
    daily_loss_share=Decimal(1),
    allow_short=True,
)
# So large a volatility target that every position is as large as the cap.
HALVES = TargetRules(symbol_cap=0.5, symbol_volatility_target=1000.0, long_only=False)
# So coarse a threshold that a drift of weights is not traded back.
HOLD = PlanRules(min_notional_usd=Decimal(40_000))

Prices = Sequence[tuple[float, float] | None]


def sessions(count: int) -> list[dt.date]:
    return [calendar.offset_session(FIRST, n) for n in range(count)]


def daily_bars(prices: Mapping[str, Prices]) -> pl.DataFrame:
    """One (open, close) per session from ``FIRST`` on; ``None`` is a halt."""
    rows: list[dict[str, Any]] = []
    for symbol, quotes in prices.items():
        for day, quote in zip(sessions(len(quotes)), quotes, strict=True):
            if quote is None:
                continue
            opened, closed = calendar.session_open(day), calendar.session_close(day)
            rows.append(
                {
                    "symbol": symbol,
                    "session": day,
                    "bar_start": opened,
                    "bar_end": closed,
                    "known_at": closed,
                    "open": float(quote[0]),
                    "high": float(max(quote)),
                    "low": float(min(quote)),
                    "close": float(quote[1]),
                    "volume": 1e6,
                    "vwap": float(quote[1]),
                    "trades": 100,
                }
            )
    return conform(pl.DataFrame(rows), BAR_SCHEMA, "bars_1d")


Candle = tuple[float, float, float, float, float]


def candles(
    symbols: Mapping[str, Sequence[Sequence[Candle | None]]], timeframe: Timeframe = Timeframe.M30
) -> pl.DataFrame:
    """(open, high, low, close, volume) of each bar of each session; ``None`` is a halt."""
    rows: list[dict[str, Any]] = []
    length = dt.timedelta(minutes=timeframe.minutes)
    for symbol, by_session in symbols.items():
        for day, quotes in zip(sessions(len(by_session)), by_session, strict=True):
            for number, quote in enumerate(quotes):
                if quote is None:
                    continue
                start = calendar.session_open(day) + number * length
                end = start + length
                assert end <= calendar.session_close(day)
                opened, high, low, closed, volume = map(float, quote)
                rows.append(
                    {
                        "symbol": symbol,
                        "session": day,
                        "bar_start": start,
                        "bar_end": end,
                        "known_at": end,
                        "open": opened,
                        "high": high,
                        "low": low,
                        "close": closed,
                        "volume": volume,
                        "vwap": closed,
                        "trades": 100,
                    }
                )
    return conform(pl.DataFrame(rows), BAR_SCHEMA, f"bars_{timeframe}")


def intraday_forecasts(
    rows: Sequence[tuple[str, int, int, float]],
    horizon: str = "4h",
    volatility_bps: float = 30.0,
) -> pl.DataFrame:
    """(symbol, session number, bar number, expected return in bps), known at the end of the bar."""
    length = dt.timedelta(minutes=find_horizon(horizon).timeframe.minutes)
    made = forecasts([(s, day, bps) for s, day, _, bps in rows], horizon, volatility_bps)
    ends = [
        calendar.session_open(sessions(day + 1)[-1]) + (number + 1) * length
        for _, day, number, _ in rows
    ]
    at = pl.Series(ends, dtype=made.schema["as_of"])
    return made.with_columns(at.alias("bar_end"), at.alias("as_of")).unique(
        ["symbol", "as_of"], keep="last", maintain_order=True
    )


def forecasts(
    rows: Sequence[tuple[str, int, float]], horizon: str = "14d", volatility_bps: float = 2000.0
) -> pl.DataFrame:
    """(symbol, session number, expected return in bps) as ensemble predictions at the close."""
    days = sessions(max(n for _, n, _ in rows) + 1)
    return conform(
        pl.DataFrame(
            [
                {
                    "symbol": symbol,
                    "session": days[n],
                    "bar_end": calendar.session_close(days[n]),
                    "as_of": calendar.session_close(days[n]),
                    "horizon": horizon,
                    "engine": "ensemble",
                    "model_version": "hand",
                    "p_short": 0.6 if bps < 0 else 0.2,
                    "p_neutral": 0.2,
                    "p_long": 0.6 if bps > 0 else 0.2,
                    "expected_return_bps": float(bps),
                    "volatility_bps": volatility_bps,
                }
                for symbol, n, bps in rows
            ]
        ),
        PREDICTION_SCHEMA,
        "predictions",
    )


def splits_of(*rows: tuple[str, int, float]) -> pl.DataFrame:
    days = sessions(40)
    table = [(s, days[n], calendar.session_close(days[0]), r) for s, n, r in rows]
    return pl.DataFrame(table, schema=SPLIT_SCHEMA, orient="row")


def dividends_of(*rows: tuple[str, int, float]) -> pl.DataFrame:
    days = sessions(40)
    table = [(s, days[n], calendar.session_close(days[0]), a) for s, n, a in rows]
    return pl.DataFrame(table, schema=DIVIDEND_SCHEMA, orient="row")


def run(predictions: pl.DataFrame, bars: pl.DataFrame, **changes: Any) -> Simulation:
    arguments: dict[str, Any] = {
        "horizons": [find_horizon(n) for n in predictions["horizon"].unique().to_list() or ["1d"]],
        "regimes": pl.DataFrame(schema={"as_of": bars.schema["known_at"], "regime": pl.String}),
        "rules": HALVES,
        "limits": WIDE,
        "costs": FLAT,
        "band_bps": 6.0,
        "starting_cash_usd": 100_000.0,
        "splits": empty(SPLIT_SCHEMA),
        "dividends": empty(DIVIDEND_SCHEMA),
        **changes,
    }
    return simulate(predictions, bars, **arguments)


@lru_cache(maxsize=1)
def synthetic() -> SyntheticMarket:
    return generate(SyntheticSpec(symbols=6, sessions=120, minute_sessions=5, seed=1))


@lru_cache(maxsize=4)
def synthetic_bars(name: str) -> pl.DataFrame:
    """Of a horizon, or of the first of several joined by ``+``."""
    timeframe = find_horizon(name.partition("+")[0]).timeframe
    return resample(synthetic().minute, timeframe) if timeframe.is_intraday else synthetic().daily


@lru_cache(maxsize=4)
def oracle(name: str) -> pl.DataFrame:
    """The truth as predictions, larger than life so that it clears the band.

    Of several horizons joined by ``+``: over the sessions of the first.
    """
    if "+" in name:
        parts = [oracle(n) for n in name.split("+")]
        sessions_of_first = parts[0]["session"].implode()
        return pl.concat(p.filter(pl.col("session").is_in(sessions_of_first)) for p in parts)
    keys = synthetic_bars(name).select("symbol", "session", "bar_end", "known_at")
    expected = pl.col("expected_return_bps") * 4.0
    rows = (
        synthetic()
        .truth.filter(pl.col("horizon") == name)
        .join(keys, left_on=["symbol", "as_of"], right_on=["symbol", "bar_end"], suffix="_bar")
    )
    made = rows.select(
        "symbol",
        "session",
        pl.col("as_of").alias("bar_end"),
        pl.col("known_at").alias("as_of"),
        "horizon",
        pl.lit("ensemble").alias("engine"),
        pl.lit("truth").alias("model_version"),
        pl.when(expected < 0).then(0.6).otherwise(0.2).alias("p_short"),
        pl.lit(0.2).alias("p_neutral"),
        pl.when(expected > 0).then(0.6).otherwise(0.2).alias("p_long"),
        expected.alias("expected_return_bps"),
        pl.lit(150.0 if name == "1d" else 30.0).alias("volatility_bps"),
    )
    return conform(made, PREDICTION_SCHEMA, "predictions")


def run_synthetic(name: str, **changes: Any) -> Simulation:
    market = synthetic()
    arguments: dict[str, Any] = {
        "regimes": classify_regimes(market.daily),
        "splits": market.splits,
        "dividends": market.dividends,
        "rules": TargetRules(long_only=False),
        "starting_cash_usd": 1_000_000.0,
        "band_bps": 2.0,
        **changes,
    }
    bars = arguments.pop("bars", synthetic_bars(name))
    return run(arguments.pop("predictions", oracle(name)), bars, **arguments)
