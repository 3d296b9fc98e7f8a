from __future__ import annotations

import datetime as dt

import pytest

from market.regulatory_fees import (
    SECTION_31_RATES,
    TRADING_ACTIVITY_RATES,
    regulatory_fees_usd,
)


@pytest.mark.parametrize(
    ("day", "usd"),
    [
        # 100 shares at 100 USD: a hundredth of the rate per million, and a hundred shares' fee.
        ("1999-06-01", 0.3333),
        ("2014-03-17", 0.1740 + 0.0119),
        ("2014-03-18", 0.2210 + 0.0119),
        ("2018-05-21", 0.2310 + 0.0119),
        ("2018-05-22", 0.1300 + 0.0119),
        ("2023-02-26", 0.2290 + 0.0145),
        ("2023-02-27", 0.0800 + 0.0145),
        ("2025-05-14", 0.0166),
    ],
)
def test_a_sale_pays_the_rates_of_its_day(day, usd):
    assert regulatory_fees_usd(100, 100.0, dt.date.fromisoformat(day)) == pytest.approx(usd)


def test_the_fee_per_share_is_capped_per_trade():
    day = dt.date(2025, 6, 2)  # Section 31 took nothing
    assert regulatory_fees_usd(49_999, 1.0, day) == pytest.approx(49_999 * 0.000166)
    assert regulatory_fees_usd(1e9, 1.0, day) == 8.30


def test_rows_are_in_order_of_their_days():
    for rows in (SECTION_31_RATES, TRADING_ACTIVITY_RATES):
        days = [r.since for r in rows]
        assert days == sorted(set(days))
    # A cap is what 50,000 shares pay, but for rounding: a slip of a digit shows.
    for row in TRADING_ACTIVITY_RATES[2:]:
        assert row.most_usd == pytest.approx(50_000 * row.usd_per_share, rel=0.01)
