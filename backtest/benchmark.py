"""What holding the universe, or one fund, would have brought: the line a strategy is beside."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import polars as pl

from market.errors import BacktestError
from market.schema import Bar

UNIVERSE = "Universe"
FUND = "SPY"


def universe_benchmark(daily: pl.DataFrame) -> pl.DataFrame:
    """Return the growth of one dollar in all symbols at equal weight, rebalanced each session.

    Parameters
    ----------
    daily : pl.DataFrame
        Forward-adjusted daily bars (dividends reinvested) of the universe.

    Returns
    -------
    pl.DataFrame
        ``session``, ``value``, ascending; before costs. A symbol counts on sessions for which
        it has this and an earlier close.
    """
    change = (pl.col(Bar.CLOSE) / pl.col(Bar.CLOSE).shift(1) - 1.0).over(Bar.SYMBOL)
    return (
        daily.sort(Bar.SYMBOL, Bar.BAR_END)
        .with_columns(change.alias("_change"))
        .group_by(Bar.SESSION)
        .agg(pl.col("_change").mean().fill_null(0.0))
        .sort(Bar.SESSION)
        .select(Bar.SESSION, (1.0 + pl.col("_change")).cum_prod().alias("value"))
    )


def find_benchmark(daily: pl.DataFrame, sessions: Sequence[dt.date]) -> tuple[str, pl.DataFrame]:
    """Return SPY held all along where it has a bar on every session, else the universe.

    Parameters
    ----------
    daily : pl.DataFrame
        Forward-adjusted daily bars of the universe.
    sessions : sequence of date
        Those of the backtest, with the one before the first.

    Returns
    -------
    (str, pl.DataFrame)
        Its name, and ``session``, ``value``.
    """
    fund = daily.filter(pl.col(Bar.SYMBOL) == FUND).sort(Bar.SESSION)
    if set(sessions) <= set(fund[Bar.SESSION]):
        return FUND, fund.select(Bar.SESSION, pl.col(Bar.CLOSE).alias("value"))
    return UNIVERSE, universe_benchmark(daily)


def align_benchmark(benchmark: pl.DataFrame, sessions: pl.Series) -> pl.Series:
    """Return the benchmark's value at each session, carried forward, 1 at the first.

    Raises
    ------
    BacktestError
        When it has no value at the first session.
    """
    values = pl.DataFrame({"session": sessions}).join_asof(
        benchmark.select("session", "value").sort("session"), on="session", strategy="backward"
    )["value"]
    if values[0] is None:
        raise BacktestError(
            "the benchmark has no value at the start",
            got=f"first value on {benchmark['session'].min()}",
            allowed=f"a value on or before {sessions[0]}",
            remedy="pass a benchmark that begins a session earlier, or none",
        )
    return values / values[0]
