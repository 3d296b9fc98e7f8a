"""What regulators take of a sale of US shares, as dated data. Purchases pay neither fee.

Section 31 of the Securities Exchange Act of 1934 takes a share of the amount sold. Its rate changes
with the budget of the SEC: on the 30th (later: 60th) day after an appropriation, or at midyear.
FINRA's trading activity fee takes an amount per share sold, up to a cap per trade. A change is a
new row.

Sources: https://www.sec.gov/rules-regulations/fee-rate-advisories (Section 31),
https://www.finra.org/rules-guidance/rulebooks/corporate-organization/section-1-member-regulatory-fees
and the NASD's and FINRA's notices 04-84, 11-27, 12-06, 12-31 and 20-39 (trading activity fee).
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from dataclasses import dataclass

_MILLION = 1e6


@dataclass(frozen=True, slots=True)
class SectionThirtyOneRate:
    """From a day on: USD per million USD of sales."""

    since: dt.date
    usd_per_million: float


@dataclass(frozen=True, slots=True)
class TradingActivityRate:
    """From a day on: USD per share sold, and the most that one trade pays."""

    since: dt.date
    usd_per_share: float
    most_usd: float


# Days before the first row pay what the first row says.
SECTION_31_RATES = tuple(
    SectionThirtyOneRate(dt.date.fromisoformat(day), rate)
    for day, rate in (
        ("1997-10-01", 33.33),  # one three-hundredth of one percent
        ("2001-12-28", 15.00),
        ("2002-04-01", 30.10),
        ("2003-03-22", 25.20),
        ("2003-04-01", 46.80),
        ("2004-02-22", 39.00),
        ("2004-04-01", 23.40),
        ("2005-01-07", 32.90),
        ("2005-04-01", 41.80),
        ("2005-12-22", 30.70),
        ("2007-03-17", 15.30),
        ("2008-01-25", 11.00),
        ("2008-04-01", 5.60),
        ("2009-04-10", 25.70),
        ("2010-01-15", 12.70),
        ("2010-04-01", 16.90),
        ("2011-01-21", 19.20),
        ("2012-02-21", 18.00),
        ("2012-04-01", 22.40),
        ("2013-05-25", 17.40),
        ("2014-03-18", 22.10),
        ("2015-02-14", 18.40),
        ("2016-02-16", 21.80),
        ("2017-07-04", 23.10),
        ("2018-05-22", 13.00),
        ("2019-04-16", 20.70),
        ("2020-02-18", 22.10),
        ("2021-02-25", 5.10),
        ("2022-05-14", 22.90),
        ("2023-02-27", 8.00),
        ("2024-05-22", 27.80),
        ("2025-05-14", 0.00),
        ("2026-04-04", 20.60),
    )
)

TRADING_ACTIVITY_RATES = (
    TradingActivityRate(dt.date(1997, 10, 1), 0.0, 0.0),
    TradingActivityRate(dt.date(2002, 10, 1), 0.0001, 10.00),
    TradingActivityRate(dt.date(2004, 11, 1), 0.000075, 3.75),
    TradingActivityRate(dt.date(2011, 7, 1), 0.000090, 4.50),
    TradingActivityRate(dt.date(2012, 3, 1), 0.000095, 4.75),
    TradingActivityRate(dt.date(2012, 7, 1), 0.000119, 5.95),
    TradingActivityRate(dt.date(2022, 1, 1), 0.000130, 6.49),
    TradingActivityRate(dt.date(2023, 1, 1), 0.000145, 7.27),
    TradingActivityRate(dt.date(2024, 1, 1), 0.000166, 8.30),
    TradingActivityRate(dt.date(2026, 1, 1), 0.000195, 9.79),
)

_SECTION_31_DAYS = [r.since for r in SECTION_31_RATES]
_TRADING_ACTIVITY_DAYS = [r.since for r in TRADING_ACTIVITY_RATES]


def regulatory_fees_usd(shares: float, price_usd: float, on: dt.date) -> float:
    """Return the fees on a sale.

    Parameters
    ----------
    shares : float
        Shares sold, 0 or more.
    price_usd : float
        Price per share.
    on : date
        Day of the trade in New York.

    Returns
    -------
    float
        USD, not rounded to cents.

    Examples
    --------
    >>> round(regulatory_fees_usd(1000, 50.0, dt.date(2024, 6, 3)), 4)
    1.556
    """
    sales = SECTION_31_RATES[_row(_SECTION_31_DAYS, on)]
    activity = TRADING_ACTIVITY_RATES[_row(_TRADING_ACTIVITY_DAYS, on)]
    per_share = min(shares * activity.usd_per_share, activity.most_usd)
    return shares * price_usd * sales.usd_per_million / _MILLION + per_share


def _row(days: list[dt.date], on: dt.date) -> int:
    return max(0, bisect_right(days, on) - 1)
