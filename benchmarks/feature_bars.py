"""Synthetic bars for the feature benchmarks: the same seed gives the same bars, to the bit.

Every price and volume is a double that a float32 holds exactly. A peer that stores float32 then
computes from the very numbers that we compute from, and a difference between the two is one of
arithmetic.
"""

import datetime as dt

import numpy as np
import numpy.typing as npt
import polars as pl

from market import calendar
from market.schema import BAR_SCHEMA, Bar, conform

Floats = npt.NDArray[np.float64]

LAST_SESSION = dt.date(2024, 6, 28)
PEER_COLUMNS = ("symbol", "session", "open", "high", "low", "close", "volume", "vwap")
_PULL = 0.002  # Of the log price towards its start, so that no price runs away.


def symbol_names(count: int) -> list[str]:
    """Return made-up tickers, in order."""
    return [f"ZZ{n:04d}" for n in range(count)]


def sessions_until(count: int, last: dt.date = LAST_SESSION) -> list[dt.date]:
    """Return the last ``count`` sessions up to ``last``."""
    return calendar.sessions_around(last, count - 1, 0)


def daily_table(symbols: int, sessions: int, seed: int = 7) -> pl.DataFrame:
    """Return daily bars as a peer takes them: ``PEER_COLUMNS``, sorted by symbol and session.

    Prices revert to a start of a few to a few hundred dollars with 1 to 4 percent of volatility
    a day, in whole cents; volume goes with the size of the move.
    """
    rng = np.random.default_rng(seed)
    prices = _prices(rng, symbols, sessions, rng.uniform(0.01, 0.04, (symbols, 1)))
    days = pl.Series("session", sessions_until(sessions))
    keys = pl.DataFrame({"symbol": symbol_names(symbols)}).join(days.to_frame(), how="cross")
    return keys.with_columns(
        pl.Series(name, values.ravel()) for name, values in prices.items()
    ).select(PEER_COLUMNS)


def daily_bars(table: pl.DataFrame) -> pl.DataFrame:
    """Return a peer's table as bars in ``BAR_SCHEMA``: what a user of ours has to begin with."""
    schedule = calendar.schedule().select("session", "session_open", "session_close")
    bars = table.join(schedule, on="session", how="left", maintain_order="left").select(
        pl.col(PEER_COLUMNS),
        pl.col("session_open").alias(Bar.BAR_START),
        pl.col("session_close").alias(Bar.BAR_END),
        pl.col("session_close").alias(Bar.KNOWN_AT),
        pl.lit(None, pl.Int64).alias(Bar.TRADES),
    )
    return conform(bars, BAR_SCHEMA, "bars_1d")


def intraday_bars(symbols: int, sessions: int, minutes: int, seed: int = 7) -> pl.DataFrame:
    """Return bars of ``minutes`` in ``BAR_SCHEMA``; half-days are left out."""
    rng = np.random.default_rng(seed)
    days = [d for d in sessions_until(sessions + sessions // 20 + 5) if not calendar.is_half_day(d)]
    days = days[-sessions:]
    each = calendar.REGULAR_MINUTES // minutes
    scale = 0.02 / np.sqrt(each)
    volatility = rng.uniform(0.5, 2.0, (symbols, 1)) * scale
    # Finer than cents: a short bar of a cheap share would otherwise often have no range at all.
    prices = _prices(rng, symbols, sessions * each, volatility, decimals=4)
    opens = np.array([int(calendar.session_open(d).timestamp()) for d in days]) * 1_000_000
    starts = (opens[:, None] + np.arange(each) * minutes * 60_000_000).ravel()
    rows = symbols * sessions * each
    stamp = pl.Series(np.tile(starts, symbols)).cast(pl.Datetime("us", "UTC"))
    end = stamp + dt.timedelta(minutes=minutes)
    frame = pl.DataFrame(
        {
            Bar.SYMBOL: pl.Series(symbol_names(symbols)).gather(
                np.repeat(np.arange(symbols), sessions * each)
            ),
            Bar.SESSION: pl.Series(days).gather(
                np.tile(np.repeat(np.arange(sessions), each), symbols)
            ),
            Bar.BAR_START: stamp,
            Bar.BAR_END: end,
            Bar.KNOWN_AT: end,
            **{name: values.ravel() for name, values in prices.items()},
            Bar.TRADES: rng.integers(1, 400, rows),
        }
    )
    return conform(frame, BAR_SCHEMA, f"bars_{minutes}m")


def _prices(
    rng: np.random.Generator, symbols: int, bars: int, volatility: Floats, decimals: int = 2
) -> dict[str, Floats]:
    shock = rng.standard_normal((symbols, bars)) * volatility
    log = np.empty((symbols, bars))
    level = np.zeros(symbols)
    for n in range(bars):
        level = level * (1.0 - _PULL) + shock[:, n]
        log[:, n] = level
    start = rng.lognormal(3.5, 0.8, (symbols, 1)).clip(5.0, 800.0)
    close = start * np.exp(log)
    opened = close * np.exp(rng.standard_normal(close.shape) * volatility * 0.4)
    reach = np.abs(rng.standard_normal((2, *close.shape))) * volatility * 0.4
    high = np.maximum(opened, close) * np.exp(reach[0])
    low = np.minimum(opened, close) * np.exp(-reach[1])
    busy = rng.normal(13.5, 1.0, (symbols, 1)) + 0.4 * rng.standard_normal(close.shape)
    volume = np.exp(busy + 0.3 * np.abs(shock) / volatility)
    drawn = {"open": opened, "high": high, "low": low, "close": close}
    rounded = {name: np.round(values, decimals) for name, values in drawn.items()}
    rounded["volume"] = np.round(volume)
    rounded["vwap"] = (rounded["high"] + rounded["low"] + rounded["close"]) / 3.0
    return {name: held_by_float32(values) for name, values in rounded.items()}


def held_by_float32(values: Floats) -> Floats:
    """Round to the nearest number that a float32 holds."""
    return values.astype(np.float32).astype(np.float64)
