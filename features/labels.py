"""What forecasts are judged against. Labels live apart from features and look forward.

A label is null before its end is known and identical ever after.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from features.label_grid import (
    COMPANY,
    DAY,
    Integers,
    compound_gaps,
    find_ends,
    overnight_gaps,
    place_on_grid,
)
from features.triple_barrier import BARRIER_COLUMNS, touch_barriers
from market.errors import FeatureError
from market.horizons import Horizon
from market.schema import Bar

LABEL_COLUMNS: tuple[str, ...] = (
    "label_known_at",
    "forward_return",
    "excess_return",
    "overnight_return",
    "label_volatility",
    "scaled_return",
    "forward_class",
    "excess_class",
    *BARRIER_COLUMNS,
    "uniqueness",
    "time_decay",
    "sample_weight",
)
"""Every column that looks forward, or is made to judge what does: no feature may read one."""

_MIN_RETURNS = 20
_DAILY_SPAN_BARS = 100
_INTRADAY_SPAN_SESSIONS = 5


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
        ``forward_return`` (fraction), ``excess_return`` (less the mean of all symbols at that
        time) and ``overnight_return`` (what ``forward_return`` leaves out), one row per bar.
        Null where the horizon's end is not in ``bars`` (not yet happened, or the symbol was
        halted then), and, for horizons of one hour and less, where it would cross a close.

    Raises
    ------
    FeatureError
        When a bar does not end on the session grid, or a symbol has two bars of one time.

    Notes
    -----
    Horizons of intraday bars that cross a close (4h, 10h) compound only what happens inside
    sessions: the moves from a symbol's last close to its next session's first open are
    ``overnight_return``, so that ``(1 + forward_return) * (1 + overnight_return) - 1`` is the
    return of a holder. On daily bars nothing is left out, and ``overnight_return`` is 0.

    All symbols must share the delay of one data plan: the mean that ``excess_return`` is measured
    against is then known when the label is.

    Examples
    --------
    >>> from market.horizons import find_horizon
    >>> from market.synthetic import SyntheticSpec, generate
    >>> market = generate(SyntheticSpec(symbols=2, sessions=4, minute_sessions=0))
    >>> forward_returns(market.daily, find_horizon("1d"))["forward_return"].null_count()
    2
    """
    return _forward(place_on_grid(bars, horizon.timeframe), horizon)


def _forward(placed: pl.DataFrame, horizon: Horizon) -> pl.DataFrame:
    ends = find_ends(placed, horizon)
    at = _rows(ends)
    close = pl.col(Bar.CLOSE)
    plain = close.gather(at) / close
    if horizon.timeframe.is_intraday and horizon.crosses_close:
        gap = pl.Series(compound_gaps(overnight_gaps(placed), ends), nan_to_null=True)
        forward, overnight = plain / gap - 1.0, pl.lit(gap) - 1.0
    else:
        forward, overnight = plain - 1.0, pl.when(plain.is_not_null()).then(0.0)
    excess = pl.col("forward_return") - pl.col("forward_return").mean().over(Bar.BAR_END)
    return (
        placed.with_columns(
            forward.alias("forward_return"),
            overnight.alias("overnight_return"),
            pl.col("as_of").gather(at).alias("label_known_at"),
        )
        .with_columns(excess.alias("excess_return"))
        .select(
            Bar.SYMBOL,
            Bar.SESSION,
            Bar.BAR_END,
            "as_of",
            "label_known_at",
            "forward_return",
            "excess_return",
            "overnight_return",
        )
    )


def _rows(positions: Integers) -> pl.Series:
    """Return positions to gather, null where there is none."""
    rows = pl.Series(positions)
    return rows.set(rows < 0, None)


def label_frame(
    bars: pl.DataFrame,
    horizon: Horizon,
    *,
    band_bps: float,
    band_volatilities: float = 0.0,
    upper: float = 1.0,
    lower: float = 1.0,
    volatility_span_bars: int | None = None,
) -> pl.DataFrame:
    """Return every label of a horizon: returns, scaled returns, classes and barriers.

    Parameters
    ----------
    bars : pl.DataFrame
        As for :func:`forward_returns`.
    horizon : Horizon
        A row of the horizons table.
    band_bps : float
        Half-width of the neutral band; a round trip's cost is
        ``2 * market.costs.CostModel().one_way_bps``.
    band_volatilities : float
        The band is at least this many standard deviations of the horizon's return; 0: the
        costs alone count.
    upper, lower : float
        Distances of the barriers, in standard deviations of the horizon's return; ``inf`` takes
        one away.
    volatility_span_bars : int, optional
        See :func:`horizon_volatility`.

    Returns
    -------
    pl.DataFrame
        The columns of :func:`forward_returns`, ``label_volatility`` (known at ``as_of``),
        ``scaled_return`` (``forward_return`` in standard deviations), ``forward_class`` and
        ``excess_class`` (i8: sign of the return outside the band, 0 inside or on its edge) and
        those of :func:`features.triple_barrier.touch_barriers`. A class is null where its
        return, or a band that asks for the volatility, is not known.

    Raises
    ------
    FeatureError
        When a bar does not end on the session grid, or a number is out of range.

    Examples
    --------
    >>> from market.horizons import find_horizon
    >>> from market.synthetic import SyntheticSpec, generate
    >>> market = generate(SyntheticSpec(symbols=2, sessions=40, minute_sessions=0))
    >>> labels = label_frame(market.daily, find_horizon("7d"), band_bps=6.0)
    >>> labels["forward_class"].drop_nulls().len(), labels["barrier_side"].drop_nulls().len()
    (70, 32)
    """
    for name, value in (("band_bps", band_bps), ("band_volatilities", band_volatilities)):
        if not (math.isfinite(value) and value >= 0.0):
            raise FeatureError(
                f"{name} is out of range",
                got=value,
                allowed="a finite number, 0 or more",
                remedy="give the half-width of the neutral band",
            )
    placed = place_on_grid(bars, horizon.timeframe)
    volatility = horizon_volatility(placed, horizon, volatility_span_bars)
    barriers = touch_barriers(placed, horizon, volatility, upper=upper, lower=lower)
    band = pl.lit(band_bps / 1e4)
    if band_volatilities > 0.0:
        scaled = band_volatilities * pl.col("label_volatility")
        band = pl.when(scaled.is_not_null()).then(pl.max_horizontal(band, scaled))
    return (
        _forward(placed, horizon)
        .with_columns(volatility.alias("label_volatility"))
        .with_columns(
            (pl.col("forward_return") / pl.col("label_volatility")).alias("scaled_return"),
            classify_returns(pl.col("forward_return"), band).alias("forward_class"),
            classify_returns(pl.col("excess_return"), band).alias("excess_class"),
        )
        .hstack(barriers)
    )


def classify_returns(returns: pl.Expr, band: pl.Expr) -> pl.Expr:
    """Return the class of a return: its sign outside the band, else 0 (i8, null as given)."""
    outside = returns.abs() > band
    return pl.when(outside).then(returns.sign()).when(~outside).then(0.0).cast(pl.Int8)


def horizon_volatility(
    placed: pl.DataFrame, horizon: Horizon, span_bars: int | None = None
) -> pl.Series:
    """Return one standard deviation of the horizon's return, from bars up to each row's own.

    Parameters
    ----------
    placed : pl.DataFrame
        From :func:`features.label_grid.place_on_grid`.
    horizon : Horizon
        One bar's volatility grows with the square root of its steps.
    span_bars : int, optional
        Span of the exponential weights (their mean age is half of it). Default 100 daily bars,
        or the bars of five sessions.

    Returns
    -------
    pl.Series
        Fractions; null before 20 returns are known, and where the price did not move.

    Raises
    ------
    FeatureError
        When the span is not positive.

    Notes
    -----
    The root of the exponentially weighted mean of squared one-bar returns (RiskMetrics 1996; a
    span of 100 days as in López de Prado 2018, ch. 3). The mean return is taken as zero: over
    spans like these its estimate is noise. The first intraday bar of a session counts from its
    open, so that nights are left out, as they are of the labels.
    """
    if span_bars is None:
        per_session = -(-390 // horizon.timeframe.minutes)
        intraday = horizon.timeframe.is_intraday
        span_bars = _INTRADAY_SPAN_SESSIONS * per_session if intraday else _DAILY_SPAN_BARS
    if span_bars < 1:
        raise FeatureError(
            "span of the volatility is out of range",
            got=span_bars,
            allowed="1 bar or more",
            remedy="leave it out for the default",
        )
    same = pl.col(COMPANY) == pl.col(COMPANY).shift(1)
    before = pl.when(same).then(pl.col(Bar.CLOSE).shift(1))
    if horizon.timeframe.is_intraday:
        inside = same & (pl.col(DAY) == pl.col(DAY).shift(1))
        before = pl.when(inside).then(pl.col(Bar.CLOSE).shift(1)).otherwise(pl.col(Bar.OPEN))
    variance = (
        (pl.col(Bar.CLOSE) / before - 1.0)
        .pow(2)
        .ewm_mean(span=span_bars, min_samples=_MIN_RETURNS, ignore_nulls=True)
        .over(COMPANY)
    )
    scale = variance.sqrt() * np.sqrt(horizon.steps)
    return placed.select(pl.when(scale > 0.0).then(scale).alias("label_volatility")).to_series()
