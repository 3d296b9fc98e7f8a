"""A month of a small market with everything in it that fills differently: made of one seed.

Twenty-one sessions with a half-day, a split, a dividend, gaps, bars without volume and halts, and
forecasts for some of its symbols at every moment of decision.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from market import calendar
from market.horizons import Horizon, find_horizon
from market.schema import BAR_SCHEMA, DIVIDEND_SCHEMA, SPLIT_SCHEMA, conform
from models.forecast import PREDICTION_SCHEMA
from signals.schema import ENSEMBLE_ENGINE

FIRST = dt.date(2024, 11, 1)
"""The first session that is traded: 29 November, a half-day, is among the 21 from here on."""
SESSIONS, WARM_UP = 21, 3
SYMBOLS = ("AAA", "BBB", "CCC", "DDD", "EEE")
OTHER = "ZZZ"
"""A symbol that only the morning's batch of another horizon has a view on: none."""
SPLIT_SYMBOL, DIVIDEND_SYMBOL = "AAA", "BBB"
SPLIT_RATIO, DIVIDEND_USD = 2.0, 0.25
_SPLIT_AFTER, _DIVIDEND_AFTER = 9, 12
_GAP, _GAP_EVERY = 0.03, 5
# What of intraday bars is without volume, missing, or has a forecast.
_QUIET, _MISSING, _FORECAST = 0.03, 0.02, 0.35
_DAILY_VOLATILITY = 0.012
_FORECAST_FROM = dt.timedelta(hours=2)
"""Before the close: intraday forecasts begin there, so that a month takes no hour to replay."""


@dataclass(frozen=True)
class ReplayMarket:
    """What one replay runs on.

    Attributes
    ----------
    horizon : Horizon
        Whose bars and forecasts these are.
    sessions : tuple of date
        Those that are traded.
    bars : pl.DataFrame
        ``BAR_SCHEMA``, with some sessions before.
    predictions : pl.DataFrame
        ``PREDICTION_SCHEMA``, of the ensemble.
    splits, dividends : pl.DataFrame
        ``SPLIT_SCHEMA``, ``DIVIDEND_SCHEMA``.
    """

    horizon: Horizon
    sessions: tuple[dt.date, ...]
    bars: pl.DataFrame
    predictions: pl.DataFrame
    splits: pl.DataFrame
    dividends: pl.DataFrame


def make_market(horizon: str, seed: int, sessions: int = SESSIONS) -> ReplayMarket:
    """Return the market of a seed; fewer sessions are for quick looks."""
    found, rng = find_horizon(horizon), np.random.default_rng(seed)
    traded = tuple(calendar.offset_session(FIRST, n) for n in range(SESSIONS))
    days = (*(calendar.offset_session(FIRST, n) for n in range(-WARM_UP, 0)), *traded)
    rows = [row for symbol in (*SYMBOLS, OTHER) for row in _bars_of(symbol, days, found, rng)]
    announced = calendar.session_close(days[0])
    split = (SPLIT_SYMBOL, traded[_SPLIT_AFTER], announced, SPLIT_RATIO)
    paid = (DIVIDEND_SYMBOL, traded[_DIVIDEND_AFTER], announced, DIVIDEND_USD)
    bars = conform(pl.DataFrame(rows), BAR_SCHEMA, "bars")
    predictions = _predictions(found, days, rng)
    until = pl.col("session") <= traded[sessions - 1]
    return ReplayMarket(
        horizon=found,
        sessions=traded[:sessions],
        bars=bars.filter(until),
        predictions=predictions.filter(until if found.timeframe.is_intraday else True),
        splits=pl.DataFrame([split], schema=SPLIT_SCHEMA, orient="row"),
        dividends=pl.DataFrame([paid], schema=DIVIDEND_SCHEMA, orient="row"),
    )


def bar_spans(horizon: Horizon, day: dt.date) -> Iterator[tuple[dt.datetime, dt.datetime]]:
    """Return start and end of each bar of a session."""
    start, closed = calendar.session_open(day), calendar.session_close(day)
    length = closed - start
    if horizon.timeframe.is_intraday:
        length = dt.timedelta(minutes=horizon.timeframe.minutes)
    while start < closed:
        yield start, min(start + length, closed)
        start += length


def _bars_of(
    symbol: str, days: tuple[dt.date, ...], horizon: Horizon, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    price = float(rng.uniform(40.0, 120.0))
    intraday = horizon.timeframe.is_intraday
    for number, day in enumerate(days):
        if symbol == SPLIT_SYMBOL and number == WARM_UP + _SPLIT_AFTER:
            price /= SPLIT_RATIO
        if symbol != OTHER and number % _GAP_EVERY == SYMBOLS.index(symbol):
            price *= 1.0 + float(rng.choice([-_GAP, _GAP]))
        spans = list(bar_spans(horizon, day))
        spread = _DAILY_VOLATILITY / len(spans) ** 0.5
        for start, end in spans:
            opened = price * (1.0 + rng.normal(0.0, spread / 3.0))
            price = opened * (1.0 + rng.normal(0.0, spread))
            wide = rng.exponential(spread / 2.0, 2)
            high, low = max(opened, price) * (1.0 + wide[0]), min(opened, price) * (1.0 - wide[1])
            volume, fate = int(2_000_000 / len(spans) * rng.exponential()), float(rng.random())
            if number >= WARM_UP and fate < _MISSING and intraday:
                continue
            if number >= WARM_UP and fate < _MISSING + _QUIET:
                volume = 0
            quote = [round(v, 2) for v in (opened, high, low, price)]
            yield {
                "symbol": symbol,
                "session": day,
                "bar_start": start,
                "bar_end": end,
                "known_at": end,
                **dict(zip(("open", "high", "low", "close"), quote, strict=True)),
                "volume": float(volume),
                "vwap": quote[3],
                "trades": 100,
            }


def _predictions(
    horizon: Horizon, days: tuple[dt.date, ...], rng: np.random.Generator
) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    intraday = horizon.timeframe.is_intraday
    spans = [(d, end) for d in days[WARM_UP - 1 :] for _, end in bar_spans(horizon, d)]
    volatility_bps = _DAILY_VOLATILITY * 1e4
    if intraday:
        spans = [(d, e) for d, e in spans if d != days[WARM_UP - 1]]
        volatility_bps /= (calendar.REGULAR_MINUTES / horizon.timeframe.minutes) ** 0.5
    for day, end in spans:
        left = calendar.session_close(day) - end
        if intraday and not dt.timedelta(0) < left < _FORECAST_FROM:
            continue
        if not intraday and day == days[-1]:
            continue
        for number, symbol in enumerate(SYMBOLS):
            chance = _FORECAST if intraday else 2 * _FORECAST
            # Something is published at every moment: the last symbol has always a view.
            if rng.random() > chance and number < len(SYMBOLS) - 1:
                continue
            view = float(rng.choice([-1.0, 0.0, 1.0]))
            expected = view * float(rng.uniform(0.3, 1.0)) * volatility_bps
            strength = float(rng.uniform(0.4, 0.7))
            rows.append(
                {
                    "symbol": symbol,
                    "session": day,
                    "bar_end": end,
                    "as_of": end,
                    "horizon": horizon.name,
                    "engine": ENSEMBLE_ENGINE,
                    "model_version": "replay",
                    "p_short": strength if view < 0 else (1.0 - strength) / 2,
                    "p_neutral": strength if view == 0 else (1.0 - strength) / 2,
                    "p_long": strength if view > 0 else (1.0 - strength) / 2,
                    "expected_return_bps": expected,
                    "volatility_bps": volatility_bps,
                }
            )
    return conform(pl.DataFrame(rows), PREDICTION_SCHEMA, "predictions")
