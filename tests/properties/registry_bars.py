"""Bars on which every registered feature is tried."""

from __future__ import annotations

from functools import lru_cache

import polars as pl

from market.schema import Bar
from market.timeframes import Timeframe, resample
from tests.markets import adjusted_daily, market

PRICES = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VWAP)


@lru_cache(maxsize=4)
def clean_bars(sessions: int = 100) -> pl.DataFrame:
    """Every symbol has a bar in every session."""
    return _complete(adjusted_daily(market(seed=3, symbols=5, sessions=sessions)))


@lru_cache(maxsize=2)
def intraday_bars() -> pl.DataFrame:
    """Half an hour each, three symbols, no holes."""
    made = market(seed=3, symbols=3, sessions=40, minute_sessions=30)
    return _complete(resample(made.minute, Timeframe.M30))


def _complete(bars: pl.DataFrame) -> pl.DataFrame:
    symbols = bars[Bar.SYMBOL].n_unique()
    complete = bars.group_by(Bar.BAR_END).len().filter(pl.col("len") == symbols)
    return bars.join(complete, on=Bar.BAR_END, how="semi").sort(Bar.SYMBOL, Bar.BAR_END)


@lru_cache(maxsize=2)
def awkward_bars() -> pl.DataFrame:
    """Flat stretches, no volume, no vwap, holes, NaN, a late listing and a one-bar symbol."""
    bars = clean_bars().with_columns(n=pl.int_range(pl.len()).over(Bar.SYMBOL))
    a, b, c, d, e = bars[Bar.SYMBOL].unique().sort()
    symbol, n = pl.col(Bar.SYMBOL), pl.col("n")
    frozen = (symbol == a) & n.is_between(30, 84)
    level = bars.filter((symbol == a) & (n == 30))[Bar.CLOSE].item()
    return (
        bars.with_columns(
            *(pl.when(frozen).then(level).otherwise(pl.col(p)).alias(p) for p in PRICES),
            pl.when(frozen | (symbol == b) & n.is_between(40, 65))
            .then(0.0)
            .otherwise(pl.col(Bar.VOLUME))
            .alias(Bar.VOLUME),
        )
        .with_columns(
            pl.when((symbol == b) & (n % 3 == 0)).then(None).otherwise(Bar.VWAP).alias(Bar.VWAP),
            pl.when((symbol == c) & (n == 25))
            .then(float("nan"))
            .otherwise(pl.col(Bar.CLOSE))
            .alias(Bar.CLOSE),
        )
        .filter(
            ~((symbol == b) & n.is_in([10, 11, 60])),
            (symbol != d) | (n >= 35),
            (symbol != e) | (n == 70),
        )
        .drop("n")
    )
