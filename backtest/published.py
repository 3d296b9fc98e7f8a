"""What was published and is in force: signals and volatilities, over all horizons traded."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from market import calendar
from market.horizons import Horizon
from market.timeframes import Timeframe
from models.forecast import Prediction
from signals.schema import SIGNAL_SCHEMA, SignalColumn

SESSIONS_PER_YEAR = 252


def annualised_volatility(volatility_bps: float, timeframe: Timeframe) -> float:
    """Return the annual volatility (a share) behind a volatility per bar in basis points.

    Examples
    --------
    >>> round(annualised_volatility(100.0, Timeframe.D1), 4)
    0.1587
    """
    bars_per_session = calendar.REGULAR_MINUTES / timeframe.minutes
    return volatility_bps / 1e4 * float(np.sqrt(SESSIONS_PER_YEAR * bars_per_session))


@dataclass
class Published:
    """Signals of each horizon as they were last published, and what they say of volatility.

    Attributes
    ----------
    volatilities : dict
        Annual volatility (a share) by symbol: the newest that came with a forecast of the longest
        bars. Where daily horizons are traded it is that of daily bars, as in live planning.
    """

    volatilities: dict[str, float] = field(default_factory=dict[str, float])
    _stated_by: dict[str, int] = field(default_factory=dict[str, int])
    _by_horizon: dict[str, pl.DataFrame] = field(default_factory=dict[str, pl.DataFrame])
    _all: pl.DataFrame | None = None

    @property
    def signals(self) -> pl.DataFrame:
        """Every signal that no newer one of its symbol and horizon superseded."""
        if self._all is None:
            parts = self._by_horizon.values()
            self._all = pl.concat(parts) if parts else pl.DataFrame(schema=SIGNAL_SCHEMA)
        return self._all

    def supersede(self, horizon: Horizon, fresh: pl.DataFrame, now: dt.datetime) -> None:
        """Take in signals of one horizon: they replace those of the same symbols and horizon."""
        c = SignalColumn
        before = self._by_horizon.get(horizon.name)
        if before is not None:
            older = set(before[c.SYMBOL].to_list()) - set(fresh[c.SYMBOL].to_list())
            if older:
                kept = before.filter(pl.col(c.SYMBOL).is_in(older), pl.col(c.VALID_UNTIL) > now)
                fresh = pl.concat([kept, fresh])
        self._by_horizon[horizon.name], self._all = fresh, None

    def learn_volatilities(self, horizon: Horizon, predictions: pl.DataFrame) -> None:
        """Take in the volatilities behind forecasts; shorter bars do not overrule longer ones."""
        timeframe = horizon.timeframe
        stated = predictions.select(Prediction.SYMBOL, Prediction.VOLATILITY_BPS)
        for symbol, volatility_bps in stated.iter_rows():
            if timeframe.minutes >= self._stated_by.get(symbol, 0):
                self._stated_by[symbol] = timeframe.minutes
                self.volatilities[symbol] = annualised_volatility(volatility_bps, timeframe)

    def split(self, symbol: str, ratio: float) -> None:
        """Divide the levels of a symbol by a split's ratio."""
        c = SignalColumn
        here = pl.col(c.SYMBOL) == symbol
        levels = [
            pl.when(here).then(pl.col(n).list.eval(pl.element() / ratio)).otherwise(pl.col(n))
            for n in (c.TARGETS, c.STOPS)
        ]
        self._by_horizon = {h: s.with_columns(levels) for h, s in self._by_horizon.items()}
        self._all = None
