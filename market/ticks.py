"""The grid that prices of orders lie on, by price and by date.

Regulation NMS, rule 612 (17 CFR 242.612): nothing finer than a cent from one dollar on, and than
a hundredth of a cent below. The amendment of 2024 lets narrowly quoted stocks trade in half cents;
whole cents stay valid for them, so that they need no list of such stocks. A new rule is a new row.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from market.errors import MarketError

_WIDE = Context(prec=60)


@dataclass(frozen=True, slots=True)
class TickRule:
    """From a day on, prices at or above ``from_price_usd`` are multiples of ``tick_usd``."""

    since: dt.date
    from_price_usd: Decimal
    tick_usd: Decimal


TICK_RULES = (
    TickRule(dt.date(2005, 8, 29), Decimal(0), Decimal("0.0001")),
    TickRule(dt.date(2005, 8, 29), Decimal(1), Decimal("0.01")),
)


def tick_size(price_usd: Decimal, on: dt.date | None = None) -> Decimal:
    """Return the grid at a price.

    Parameters
    ----------
    price_usd : Decimal
        Not negative.
    on : date, optional
        Day of trading in New York; by the newest rules where it is not given.

    Raises
    ------
    MarketError
        When no rule is that old, or the price is negative.

    Examples
    --------
    >>> tick_size(Decimal("1")), tick_size(Decimal("0.99"))
    (Decimal('0.01'), Decimal('0.0001'))
    """
    rules = [
        r for r in TICK_RULES if (on is None or r.since <= on) and r.from_price_usd <= price_usd
    ]
    if not rules:
        raise MarketError(
            "no tick size is known",
            got=f"{price_usd} USD on {on}",
            allowed=f"prices from 0, days from {TICK_RULES[0].since}",
            remedy="correct the price, or add the older rule to market.ticks.TICK_RULES",
        )
    return max(rules, key=lambda r: (r.since, r.from_price_usd)).tick_usd


def to_tick(price_usd: Decimal, *, up: bool, on: dt.date | None = None) -> Decimal:
    """Return the nearest price of the grid that is not below (``up``) or not above a price.

    Examples
    --------
    >>> to_tick(Decimal("10.129"), up=False), to_tick(Decimal("0.12341"), up=True)
    (Decimal('10.12'), Decimal('0.1235'))
    """
    rounding = ROUND_CEILING if up else ROUND_FLOOR
    tick = tick_size(price_usd, on)
    steps = _WIDE.divide(price_usd, tick).to_integral_value(rounding)
    return _WIDE.multiply(steps, tick)
