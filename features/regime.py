"""The market's regime from its own past: bull, bear or neutral.

A deliberately simple rule: the market's trend against its volatility, with hysteresis. It reads
closes up to a session and nothing later, so a label never changes when tomorrow arrives.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from features.label_grid import Floats
from features.market_state import BREADTH, TREND, TREND_SESSIONS, VOLATILITY, market_state
from market.regimes import RegimeLabel
from market.schema import Bar

__all__ = ["ENTER", "LEAVE", "TREND_SESSIONS", "classify_regimes", "follow_trend"]

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
        over 63 sessions in standard deviations), ``volatility`` (of a session's return, over 21
        sessions), ``breadth`` (share of symbols above their close of 63 sessions ago) and
        ``regime``; sessions before the lookback is met are neutral.

    Notes
    -----
    The market enters bull (bear) when the trend exceeds 0.6 (-0.6) standard deviations and
    leaves when it falls back through 0.1 (-0.1). Time-series momentum after Moskowitz, Ooi and
    Pedersen (2012), scaled by volatility. ``docs/regimes.md`` compares it with other models.

    Examples
    --------
    >>> from market.synthetic import SyntheticSpec, generate
    >>> market = generate(SyntheticSpec(symbols=3, sessions=90, minute_sessions=0))
    >>> classify_regimes(market.daily)["trend"].null_count()
    62
    """
    state = market_state(daily)
    labels = follow_trend(state[TREND].to_numpy())
    return state.select(Bar.SESSION, "as_of", TREND, VOLATILITY, BREADTH).with_columns(
        pl.Series("regime", labels, dtype=pl.String)
    )


def follow_trend(trend: Floats, breadth: Floats | None = None) -> list[str]:
    """Return the regime after each value of the trend; NaN is neutral.

    Parameters
    ----------
    trend : (T,) float64
        In standard deviations.
    breadth : (T,) float64, optional
        Share of rising symbols: where given, a bull market begins only above one half and a bear
        market only below.

    Returns
    -------
    list of str
        One word per value.

    Examples
    --------
    >>> follow_trend(np.array([0.7, 0.2, 0.0, -0.7]))
    ['bull', 'bull', 'neutral', 'bear']
    """
    state = RegimeLabel.NEUTRAL
    out: list[str] = []
    lean = np.sign(trend) if breadth is None else breadth - 0.5
    for value, side in zip(trend, lean, strict=True):
        if np.isnan(value):
            state = RegimeLabel.NEUTRAL
        elif value > ENTER and side > 0.0:
            state = RegimeLabel.BULL
        elif value < -ENTER and side < 0.0:
            state = RegimeLabel.BEAR
        elif (state is RegimeLabel.BULL and value < LEAVE) or (
            state is RegimeLabel.BEAR and value > -LEAVE
        ):
            state = RegimeLabel.NEUTRAL
        out.append(state.value)
    return out
