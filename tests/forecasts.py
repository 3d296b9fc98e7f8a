"""Generated predictions with outcomes, whose true probabilities are known."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache

import numpy as np
import polars as pl

from market import calendar
from market.horizons import find_horizon
from models.forecast import Made, to_predictions
from models.outcomes import outcomes_of
from models.spec import Forecast

BAND_BPS = 60.0
LATER = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)


@lru_cache(maxsize=32)
def forecasts(
    sessions: int = 260,
    symbols: int = 20,
    seed: int = 0,
    *,
    skill: float = 0.0,
    boldness: float = 0.0,
    horizon: str = "1d",
    engine: str = "linear",
    shared: float = 0.0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return predictions and outcomes.

    A standard normal signal moves the standardised return by ``skill``; the engine believes in
    ``boldness``. Equal, its probabilities are the true ones. ``shared`` is how much of the noise
    of a session's returns is common to the half of the symbols on whose side the signal is.
    """
    rng = np.random.default_rng(seed)
    ahead = find_horizon(horizon).sessions
    days = calendar.sessions_between(dt.date(2019, 1, 2), dt.date(2024, 12, 31))
    closes = [calendar.session_close(d) for d in days[: sessions + ahead]]
    n = sessions * symbols
    signal = rng.standard_normal(n)
    common = np.repeat(rng.standard_normal(sessions), symbols) * np.sign(signal)
    noise = np.sqrt(1.0 - shared) * rng.standard_normal(n) + np.sqrt(shared) * common
    unit = 0.02 * np.exp(0.4 * rng.standard_normal(n))
    known = closes[ahead:] if ahead else [c + dt.timedelta(minutes=1) for c in closes]
    keys = pl.DataFrame(
        {
            "symbol": [f"S{k:03d}" for k in range(symbols)] * sessions,
            "session": np.repeat(np.array(days[:sessions], "M8[D]"), symbols),
            "bar_end": [c for c in closes[:sessions] for _ in range(symbols)],
            "label_known_at": [c for c in known for _ in range(symbols)],
            "excess_return": (skill * signal + noise) * unit,
        }
    ).with_columns(pl.col("bar_end", "label_known_at").cast(pl.Datetime("us", "UTC")))
    predictions = to_predictions(
        keys.with_columns(pl.col("bar_end").alias("as_of")),
        [Made(engine, "v1", Forecast(boldness * signal), 1.0)],
        unit,
        volatility=unit,
        band_bps=BAND_BPS,
        horizon=horizon,
    )
    return predictions, outcomes_of(keys, horizon=horizon, band_bps=BAND_BPS)
