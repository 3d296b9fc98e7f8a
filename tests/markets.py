"""Small generated markets and frames that several test files share."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import polars as pl

from features.compute import compute_features
from features.labels import forward_returns
from features.regime import classify_regimes
from features.registry import feature_names
from market import calendar
from market.actions import forward_adjust, session_factors
from market.horizons import find_horizon
from market.schema import BAR_SCHEMA, Bar
from market.synthetic import SyntheticMarket, SyntheticSpec, generate
from market.timeframes import resample
from models.dataset import Dataset, assemble

HALF_DAY = dt.date(2024, 7, 3)


@lru_cache(maxsize=16)
def market(
    seed: int = 3,
    symbols: int = 5,
    sessions: int = 110,
    minute_sessions: int = 0,
    alpha: tuple[tuple[str, float], ...] = (),
    end: dt.date = dt.date(2024, 7, 12),
) -> SyntheticMarket:
    return generate(
        SyntheticSpec(
            symbols=symbols,
            sessions=sessions,
            minute_sessions=minute_sessions,
            seed=seed,
            alpha=dict(alpha),
            end=end,
        )
    )


def adjusted_daily(of: SyntheticMarket) -> pl.DataFrame:
    return forward_adjust(of.daily, session_factors(of.daily, of.splits, of.dividends))


def adjusted_bars(of: SyntheticMarket, horizon: str) -> pl.DataFrame:
    timeframe = find_horizon(horizon).timeframe
    raw = resample(of.minute, timeframe) if timeframe.is_intraday else of.daily
    return forward_adjust(raw, session_factors(of.daily, of.splits, of.dividends))


def dataset_of(
    of: SyntheticMarket, horizon: str = "1d", names: Sequence[str] | None = None
) -> Dataset:
    bars = adjusted_bars(of, horizon)
    labels = forward_returns(bars, find_horizon(horizon))
    return assemble(
        compute_features(bars),
        labels,
        names or feature_names(family="core"),
        steps=find_horizon(horizon).steps,
    )


def labels_of(of: SyntheticMarket, horizon: str = "1d") -> pl.DataFrame:
    return forward_returns(adjusted_bars(of, horizon), find_horizon(horizon))


def regimes_of(of: SyntheticMarket) -> pl.DataFrame:
    return classify_regimes(adjusted_daily(of))


def daily_bars(closes: dict[str, list[float]], start: dt.date, volume: float = 100.0):
    """Daily bars with these closes from ``start`` on; NaN leaves the session without a bar."""
    rows = []
    for symbol, values in closes.items():
        day = start
        for n, close in enumerate(values):
            day = start if n == 0 else calendar.next_session(day)
            if np.isnan(close):
                continue
            end = calendar.session_close(day)
            rows.append(
                {
                    Bar.SYMBOL: symbol,
                    Bar.SESSION: day,
                    Bar.BAR_START: calendar.session_open(day),
                    Bar.BAR_END: end,
                    Bar.KNOWN_AT: end,
                    Bar.OPEN: close,
                    Bar.HIGH: close,
                    Bar.LOW: close,
                    Bar.CLOSE: close,
                    Bar.VOLUME: volume,
                    Bar.VWAP: close,
                    Bar.TRADES: 1,
                }
            )
    return pl.DataFrame(rows, schema=BAR_SCHEMA).sort(Bar.SYMBOL, Bar.BAR_START)


def minute_bars(symbol: str, starts: list[dt.datetime], closes: list[float], session: dt.date):
    """One-minute bars at these UTC starts."""
    minute = dt.timedelta(minutes=1)
    return pl.DataFrame(
        {
            Bar.SYMBOL: symbol,
            Bar.SESSION: session,
            Bar.BAR_START: starts,
            Bar.BAR_END: [s + minute for s in starts],
            Bar.KNOWN_AT: [s + minute for s in starts],
            Bar.OPEN: [c - 0.25 for c in closes],
            Bar.HIGH: [c + 0.5 for c in closes],
            Bar.LOW: [c - 0.5 for c in closes],
            Bar.CLOSE: closes,
            Bar.VOLUME: [10.0 + n for n in range(len(closes))],
            Bar.VWAP: closes,
            Bar.TRADES: 2,
        },
    ).select(pl.col(n).cast(t) for n, t in BAR_SCHEMA.items())


def bits(frame: pl.DataFrame) -> bytes:
    """Every value of a frame as bytes, so that equality means to the bit."""
    out = []
    for column in frame.get_columns():
        if column.dtype.is_float():
            out.append(column.is_null().to_numpy().tobytes())
            out.append(column.fill_null(float("nan")).to_numpy().tobytes())
        else:
            out.append(repr(column.to_list()).encode())
    return b"|".join(out)
