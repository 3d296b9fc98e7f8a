"""The market's regime from its own past: bull, bear or neutral.

A deliberately simple rule: the market's trend against its volatility, with hysteresis. It reads
closes up to a session and nothing later, so a label never changes when tomorrow arrives.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from market.regimes import RegimeLabel
from market.schema import Bar

TREND_SESSIONS = 63
ENTER = 0.6
LEAVE = 0.1


def classify_regimes(daily: pl.DataFrame) -> pl.DataFrame:
    """Label every session from the equal-weighted market up to its close.

    Parameters
    ----------
    daily : pl.DataFrame
        Forward-adjusted daily bars of the universe.

    Returns
    -------
    pl.DataFrame
        ``session``, ``as_of`` (UTC, when the session's bars were known), ``trend`` (the return
        over 63 sessions in standard deviations) and ``regime``; sessions before the lookback is
        met are neutral.

    Notes
    -----
    The market enters bull (bear) when the trend exceeds 0.6 (-0.6) standard deviations and
    leaves when it falls back through 0.1 (-0.1). Time-series momentum after Moskowitz, Ooi and
    Pedersen (2012), scaled by volatility.
    """
    returns = daily.sort(Bar.SYMBOL, Bar.BAR_END).with_columns(
        (pl.col(Bar.CLOSE) / pl.col(Bar.CLOSE).shift(1) - 1.0).over(Bar.SYMBOL).alias("_return")
    )
    market = (
        returns.group_by(Bar.SESSION)
        .agg(pl.col("_return").mean(), pl.col(Bar.KNOWN_AT).max().alias("as_of"))
        .sort(Bar.SESSION)
    )
    log_return = pl.col("_return").fill_null(0.0).log1p()
    market = market.with_columns(
        trend=log_return.rolling_sum(TREND_SESSIONS)
        / (log_return.rolling_std(TREND_SESSIONS) * TREND_SESSIONS**0.5)
    )
    return market.select(
        Bar.SESSION,
        "as_of",
        "trend",
        pl.Series("regime", _with_hysteresis(market["trend"].to_numpy()), dtype=pl.String),
    )


def _with_hysteresis(trend: np.ndarray) -> list[str]:
    state = RegimeLabel.NEUTRAL
    out: list[str] = []
    for value in trend:
        if np.isnan(value):
            state = RegimeLabel.NEUTRAL
        elif value > ENTER:
            state = RegimeLabel.BULL
        elif value < -ENTER:
            state = RegimeLabel.BEAR
        elif (state is RegimeLabel.BULL and value < LEAVE) or (
            state is RegimeLabel.BEAR and value > -LEAVE
        ):
            state = RegimeLabel.NEUTRAL
        out.append(state.value)
    return out
