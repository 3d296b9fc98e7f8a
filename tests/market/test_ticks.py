"""The grid of prices: rule 612, by price and date."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market import ticks
from market.errors import MarketError
from market.ticks import TickRule, tick_size, to_tick

PRICES = st.decimals("0.0001", "100000", places=6)


@given(PRICES, st.booleans())
def test_a_rounded_price_is_the_nearest_of_the_grid_on_its_side(price: Decimal, up: bool) -> None:
    rounded, tick = to_tick(price, up=up), tick_size(price)
    assert rounded % tick == 0
    assert 0 <= (rounded - price if up else price - rounded) < tick


def test_a_new_rule_counts_from_its_day(monkeypatch: pytest.MonkeyPatch) -> None:
    day = dt.date(2030, 1, 2)
    coarse = TickRule(day, Decimal(100), Decimal("0.05"))
    monkeypatch.setattr(ticks, "TICK_RULES", (*ticks.TICK_RULES, coarse))
    price = Decimal("101.02")
    assert to_tick(price, up=False, on=day) == Decimal("101.00")
    assert to_tick(price, up=False, on=day - dt.timedelta(days=1)) == price
    assert to_tick(price, up=False) == Decimal("101.00")
    assert tick_size(Decimal("99.99"), day) == Decimal("0.01")


@pytest.mark.parametrize(
    ("price", "on"), [(Decimal(10), dt.date(1999, 1, 4)), (Decimal("-0.01"), None)]
)
def test_what_no_rule_covers_is_refused(price: Decimal, on: dt.date | None) -> None:
    with pytest.raises(MarketError, match="no tick size"):
        tick_size(price, on)
