"""What trading costs: a constant part for decisions, and every line of a fill for the record.

A fill pays commission, regulatory fees, half the spread, slippage and its own impact; a short
position pays for borrowing. A decision knows the constant part alone (``one_way_bps``).
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

import numpy as np

from market.errors import MarketError
from market.regulatory_fees import regulatory_fees_usd

BASIS_POINTS = 1e4
DAYS_PER_YEAR = 360
"""Stock loans count 360 days to the year."""
_TICK_FROM_ONE_USD, _TICK_BELOW = 0.01, 0.0001


@dataclass(frozen=True, slots=True)
class Liquidity:
    """What is known of a symbol's market before a fill.

    Attributes
    ----------
    daily_volatility : float
        Standard deviation of daily returns, a share.
    daily_volume : float
        Shares of an average day; 0 where unknown.
    half_spread : float
        Half of the estimated spread as a share of the price; 0 where the bars cannot tell.
    """

    daily_volatility: float
    daily_volume: float
    half_spread: float


@dataclass(frozen=True, slots=True)
class FillCost:
    """The lines of one fill, in USD; each 0 or more."""

    commission_usd: float = 0.0
    fees_usd: float = 0.0
    spread_usd: float = 0.0
    impact_usd: float = 0.0
    slippage_usd: float = 0.0

    @property
    def total_usd(self) -> float:
        """The sum of the lines."""
        taking = self.spread_usd + self.impact_usd + self.slippage_usd
        return self.commission_usd + self.fees_usd + taking


@dataclass(frozen=True, slots=True)
class CostModel:
    """Costs of one side of a trade; a round trip pays them twice.

    Attributes
    ----------
    commission_bps : float
        Broker commission as a share of the notional. Default 0 (commission-free US equities).
    half_spread_bps : float
        The least half-spread that an order pays which takes liquidity.
    slippage_bps : float
        Everything else between the decision price and the fill.
    commission_per_share_usd : float
        Broker commission per share, beside the share of the notional.
    regulatory_fees : bool
        Whether sales pay Section 31 and trading activity fees of their day.
    estimated_spread : bool
        Whether the spread that bars show counts where it is above ``half_spread_bps``, as half a
        tick does.
    half_spread_most_bps : float
        The most that the spread estimated from bars counts for.
    impact_coefficient : float
        Impact per share is this x daily volatility x sqrt(shares / average daily volume) x price.
        Source: Toth et al. (2011), "Anomalous price impact and the critical nature of liquidity in
        financial markets", Physical Review X 1, 021006: of order one.
    participation : float or None
        The most of a bar's volume that orders of one symbol may take; without it, all.
    borrow_rate : float
        Annual rate on the value of short positions, by calendar night and years of 360 days.
    multiplier : float
        Times which every line and the borrow rate are taken.
    unborrowable : tuple of str
        Symbols that cannot be sold short.
    delisting_haircut : float
        What a position loses of its last close when its symbol stops trading. Source: Shumway
        (1997), "The delisting bias in CRSP data", Journal of Finance 52: 30 percent.

    Raises
    ------
    MarketError
        When a part is out of range.

    Examples
    --------
    >>> CostModel(commission_bps=0.5, half_spread_bps=1.0, slippage_bps=2.0).one_way_bps
    3.5
    """

    commission_bps: float = 0.0
    half_spread_bps: float = 1.0
    slippage_bps: float = 2.0
    commission_per_share_usd: float = 0.0
    regulatory_fees: bool = True
    estimated_spread: bool = True
    half_spread_most_bps: float = 100.0
    impact_coefficient: float = 1.0
    participation: float | None = 0.10
    borrow_rate: float = 0.005
    multiplier: float = 1.0
    unborrowable: tuple[str, ...] = ()
    delisting_haircut: float = 0.30

    def __post_init__(self) -> None:
        """Refuse costs that would pay the trader."""
        for part in fields(self):
            value = getattr(self, part.name)
            if not isinstance(value, int | float):
                continue
            if not math.isfinite(value) or value < 0:
                raise MarketError(
                    f"cost {part.name!r} is out of range",
                    got=value,
                    allowed="a finite number, 0 or more",
                    remedy="correct the cost setting",
                )
        if self.participation is not None and not 0 < self.participation <= 1:
            raise _not_a_share("participation", self.participation, "above 0, 1 at most, or none")
        if not self.delisting_haircut < 1:
            raise _not_a_share("delisting_haircut", self.delisting_haircut, "0 to below 1")

    @classmethod
    def flat(
        cls, commission_bps: float = 0.0, half_spread_bps: float = 0.0, slippage_bps: float = 0.0
    ) -> CostModel:
        """Return constant costs alone: basis points of the notional, and no limit on volume.

        Examples
        --------
        >>> CostModel.flat(slippage_bps=2.0).fill_cost(100, 50.0, Liquidity(0.02, 1e6, 0.01),
        ...     sells=True, takes=True, on=dt.date(2024, 6, 3)).total_usd
        1.0
        """
        return cls(
            commission_bps=commission_bps,
            half_spread_bps=half_spread_bps,
            slippage_bps=slippage_bps,
            regulatory_fees=False,
            estimated_spread=False,
            impact_coefficient=0.0,
            participation=None,
            borrow_rate=0.0,
        )

    @property
    def one_way_bps(self) -> float:
        """The constant part of one side of a trade, which a decision can know."""
        constant = self.commission_bps + self.half_spread_bps + self.slippage_bps
        return self.multiplier * constant

    def fill_cost(
        self,
        shares: float,
        price_usd: float,
        liquidity: Liquidity,
        *,
        sells: bool,
        takes: bool,
        on: dt.date,
    ) -> FillCost:
        """Return what a fill costs, line by line.

        Parameters
        ----------
        shares : float
            Above 0.
        price_usd : float
            Price of the fill.
        liquidity : Liquidity
            As known before the fill.
        sells : bool
            Whether it is a sale.
        takes : bool
            Whether it takes liquidity. What rested at its price pays no spread, slippage or impact.
        on : date
            Day of the trade in New York.
        """
        notional, times = shares * price_usd, self.multiplier
        commission = notional * self.commission_bps / BASIS_POINTS
        commission += shares * self.commission_per_share_usd
        pays_fees = sells and self.regulatory_fees
        fees = regulatory_fees_usd(shares, price_usd, on) if pays_fees else 0.0
        if not takes:
            return FillCost(times * commission, times * fees)
        return FillCost(
            commission_usd=times * commission,
            fees_usd=times * fees,
            spread_usd=times * notional * self.half_spread(price_usd, liquidity.half_spread),
            impact_usd=times * notional * self._impact(shares, liquidity),
            slippage_usd=times * notional * self.slippage_bps / BASIS_POINTS,
        )

    def half_spread(self, price_usd: float, estimate: float) -> float:
        """Return half of the spread as a share: the largest of constant, half a tick, estimate."""
        least = self.half_spread_bps / BASIS_POINTS
        if not self.estimated_spread:
            return least
        tick = _TICK_FROM_ONE_USD if price_usd >= 1.0 else _TICK_BELOW
        estimated = min(estimate, self.half_spread_most_bps / BASIS_POINTS)
        return max(least, 0.5 * tick / price_usd, estimated)

    def _impact(self, shares: float, liquidity: Liquidity) -> float:
        if self.impact_coefficient == 0.0 or liquidity.daily_volume <= 0.0:
            return 0.0
        taken = math.sqrt(shares / liquidity.daily_volume)
        return self.impact_coefficient * liquidity.daily_volatility * taken

    def most_shares(self, volume: float) -> Decimal | None:
        """Return how many shares of a bar's volume may be taken, or ``None`` for no limit.

        Examples
        --------
        >>> CostModel(participation=0.1).most_shares(1009.0)
        Decimal('100')
        """
        if self.participation is None:
            return None
        return Decimal(int(shares_of(volume, self.participation)))

    def borrow_usd(self, value_usd: float, nights: int) -> float:
        """Return what borrowing shares of a value costs over some calendar nights."""
        return self.multiplier * self.borrow_rate * value_usd * nights / DAYS_PER_YEAR


def shares_of(volume: Any, participation: float) -> Any:
    """Return the whole shares that a share of some volume comes to; of an array, each.

    Examples
    --------
    >>> int(shares_of(30.0, 0.1))
    3
    """
    return np.floor(np.round(participation * volume, 6))  # 0.1 of 30 is 3, whatever floats say


def _not_a_share(name: str, got: float, allowed: str) -> MarketError:
    return MarketError(
        f"cost {name!r} is out of range",
        got=got,
        allowed=allowed,
        remedy="correct the cost setting",
    )
