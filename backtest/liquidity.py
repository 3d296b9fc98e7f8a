"""What a market can take: volatility, volume and spread by symbol, from the sessions before.

Everything is known before the session in which it is used: a fill never helps to price itself.
The one exception: where no session came before, the volume of the bar itself stands for a day's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backtest.tape import Floats, Tape, sum_before, sum_by_day
from market.costs import Liquidity
from market.spread import half_spread, spread_products

VOLATILITY_SESSIONS = 20
SPREAD_SESSIONS = 60
LEAST_RETURNS = 5
UNKNOWN_VOLATILITY = 0.03
"""Daily volatility of a symbol with fewer than five returns: higher than that of most."""


@dataclass(frozen=True)
class LiquidityTable:
    """Liquidity by session and symbol.

    Attributes
    ----------
    tape : Tape
        The bars it was worked out from.
    volatilities : (D, S) float64
        Standard deviation of the daily returns of the 20 sessions before.
    half_spreads : (D, S) float64
        From the bars of the 60 sessions before; 0 where they tell none.
    """

    tape: Tape
    volatilities: Floats
    half_spreads: Floats

    def at(self, bar: int, column: int) -> Liquidity:
        """Return what was known of a symbol before the session of a bar."""
        tape, day = self.tape, int(self.tape.days[bar])
        volume = float(tape.average_volumes[bar, column])
        return Liquidity(
            daily_volatility=float(self.volatilities[day, column]),
            daily_volume=volume if volume > 0.0 else float(tape.volumes[bar, column]),
            half_spread=float(self.half_spreads[day, column]),
        )


def measure_liquidity(tape: Tape) -> LiquidityTable:
    """Work out the liquidity of every symbol in every session, from the sessions before it."""
    return LiquidityTable(tape, _volatilities(tape), _half_spreads(tape))


def _volatilities(tape: Tape) -> Floats:
    days = tape.days
    last = np.flatnonzero(np.append(np.diff(days), 1))
    traded = sum_by_day(np.isfinite(tape.closes).astype(np.float64), days) > 0
    logs = np.log(tape.marks[last] * tape.factors[last])
    returns = np.full_like(logs, np.nan)
    returns[1:] = np.diff(logs, axis=0)
    returns[~traded] = np.nan
    known = np.isfinite(returns)
    values = np.where(known, returns, 0.0)
    count = sum_before(known.astype(np.float64), VOLATILITY_SESSIONS)
    total = sum_before(values, VOLATILITY_SESSIONS)
    squares = sum_before(values**2, VOLATILITY_SESSIONS)
    variance = (squares - total**2 / np.maximum(count, 1.0)) / np.maximum(count - 1.0, 1.0)
    enough = count >= LEAST_RETURNS
    return np.where(enough, np.sqrt(np.maximum(variance, 0.0)), UNKNOWN_VOLATILITY)


def _half_spreads(tape: Tape) -> Floats:
    days, factors = tape.days, tape.factors
    same_session = np.append(False, np.diff(days) == 0)
    intraday = bool(same_session.any())
    # Bars of one session belong together; a night between two bars of minutes is no spread.
    paired = same_session if intraday else np.ones(len(days), dtype=bool)
    follows = np.where(paired, 1.0, np.nan)[:, None]
    products = spread_products(
        tape.closes * factors, tape.highs * factors, tape.lows * factors, follows
    )
    known = np.isfinite(products)
    values = np.where(known, products, 0.0)
    total, squares, count = (
        sum_before(sum_by_day(part, days), SPREAD_SESSIONS)
        for part in (values, values**2, known.astype(np.float64))
    )
    return half_spread(total, squares, count)
