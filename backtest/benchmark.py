"""What holding the universe would have brought: the line a strategy is drawn beside."""

from __future__ import annotations

import polars as pl

from market.schema import Bar


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
