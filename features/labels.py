"""What forecasts are judged against. Labels live apart from features and look forward.

A label is null before its end is known and identical ever after.
"""

from __future__ import annotations

from functools import lru_cache

import polars as pl

from market import calendar
from market.errors import FeatureError
from market.horizons import Horizon
from market.schema import Bar
from market.timeframes import Timeframe


@lru_cache(maxsize=16)
def _grid(timeframe: Timeframe) -> pl.DataFrame:
    """Return every scheduled bar end of a timeframe with its running number."""
    table = calendar.schedule().select("session", "session_open", "session_close")
    if timeframe.is_intraday:
        length = f"{timeframe.minutes}m"
        ends = pl.datetime_ranges("session_open", "session_close", length, closed="right")
        # A session that is no whole number of bars ends with a shorter one.
        ends = ends.list.concat(pl.concat_list("session_close")).list.unique(maintain_order=True)
        table = table.with_columns(ends.alias(Bar.BAR_END)).explode(Bar.BAR_END)
    else:
        table = table.with_columns(pl.col("session_close").alias(Bar.BAR_END))
    return table.select("session", Bar.BAR_END).with_columns(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("_index")
    )


def forward_returns(bars: pl.DataFrame, horizon: Horizon) -> pl.DataFrame:
    """Return the label of every bar: the return from its close over the horizon.

    Parameters
    ----------
    bars : pl.DataFrame
        ``BAR_SCHEMA`` in the horizon's timeframe, prices forward-adjusted, so that splits and
        dividends inside the horizon count as a holder would see them.
    horizon : Horizon
        A row of the horizons table.

    Returns
    -------
    pl.DataFrame
        ``symbol``, ``session``, ``bar_end``, ``as_of``, ``label_known_at`` (UTC),
        ``forward_return`` (fraction) and ``excess_return`` (less the mean of all symbols at that
        time), one row per bar. Null where the horizon's end is not in ``bars`` (not yet
        happened, or the symbol was halted then), and, for horizons of one hour and less, where
        it would cross a close.

    Raises
    ------
    FeatureError
        When a bar does not end on the session grid.

    Examples
    --------
    >>> from market.horizons import find_horizon
    >>> from market.synthetic import SyntheticSpec, generate
    >>> market = generate(SyntheticSpec(symbols=2, sessions=4, minute_sessions=0))
    >>> forward_returns(market.daily, find_horizon("1d"))["forward_return"].null_count()
    2
    """
    grid = _grid(horizon.timeframe)
    here = bars.select(
        Bar.SYMBOL, Bar.SESSION, Bar.BAR_END, pl.col(Bar.KNOWN_AT).alias("as_of"), Bar.CLOSE
    ).join(grid.drop("session"), on=Bar.BAR_END, how="left", maintain_order="left")
    off_grid = here.filter(pl.col("_index").is_null())
    if off_grid.height:
        raise FeatureError(
            "bars off the session grid",
            got=str(off_grid[Bar.BAR_END][0]),
            allowed=f"ends of {horizon.timeframe} bars inside regular sessions",
            remedy="resample the bars with market.timeframes.resample first",
        )
    end = here.select(
        Bar.SYMBOL,
        pl.col("_index"),
        pl.col(Bar.CLOSE).alias("_end_close"),
        pl.col(Bar.SESSION).alias("_end_session"),
        pl.col("as_of").alias("label_known_at"),
    )
    joined = here.with_columns(pl.col("_index") + horizon.steps).join(
        end, on=[Bar.SYMBOL, "_index"], how="left", maintain_order="left"
    )
    if not horizon.crosses_close:
        same = pl.col(Bar.SESSION) == pl.col("_end_session")
        joined = joined.with_columns(
            pl.when(same).then(pl.col("_end_close")).alias("_end_close"),
            pl.when(same).then(pl.col("label_known_at")).alias("label_known_at"),
        )
    forward = pl.col("_end_close") / pl.col(Bar.CLOSE) - 1.0
    return (
        joined.with_columns(forward_return=forward)
        .with_columns(
            excess_return=pl.col("forward_return")
            - pl.col("forward_return").mean().over(Bar.BAR_END)
        )
        .select(
            Bar.SYMBOL,
            Bar.SESSION,
            Bar.BAR_END,
            "as_of",
            "label_known_at",
            "forward_return",
            "excess_return",
        )
        .sort(Bar.SYMBOL, Bar.BAR_END)
    )
