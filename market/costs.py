"""What trading costs, in basis points of the traded notional."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from market.errors import MarketError


@dataclass(frozen=True, slots=True)
class CostModel:
    """Costs of one side of a trade; a round trip pays them twice.

    Attributes
    ----------
    commission_bps : float
        Broker commission and fees. Default 0 (commission-free US equities).
    half_spread_bps : float
        Half of the quoted spread, paid by an order that takes liquidity.
    slippage_bps : float
        Everything else between the decision price and the fill.

    Raises
    ------
    MarketError
        When a part is negative or not finite.

    Examples
    --------
    >>> CostModel(commission_bps=0.5, half_spread_bps=1.0, slippage_bps=2.0).one_way_bps
    3.5
    """

    commission_bps: float = 0.0
    half_spread_bps: float = 1.0
    slippage_bps: float = 2.0

    def __post_init__(self) -> None:
        """Refuse costs that would pay the trader."""
        for part in fields(self):
            value = getattr(self, part.name)
            if not math.isfinite(value) or value < 0:
                raise MarketError(
                    f"cost {part.name!r} is out of range",
                    got=value,
                    allowed="a finite number of basis points, 0 or more",
                    remedy="correct the cost setting",
                )

    @property
    def one_way_bps(self) -> float:
        """Cost of one side of a trade."""
        return self.commission_bps + self.half_spread_bps + self.slippage_bps
