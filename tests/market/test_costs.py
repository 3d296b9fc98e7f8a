from __future__ import annotations

import datetime as dt
import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.costs import CostModel, FillCost, Liquidity
from market.errors import MarketError

DAY = dt.date(2024, 6, 3)
MARKET = Liquidity(daily_volatility=0.02, daily_volume=1_000_000.0, half_spread=0.0)
LINES = [f.name for f in fields(FillCost)]


def cost(model: CostModel, shares=10_000.0, price=50.0, market=MARKET, **how) -> FillCost:
    how = {"sells": True, "takes": True, "on": DAY, **how}
    return model.fill_cost(shares, price, market, **how)


def test_every_line_equals_hand_arithmetic():
    model = CostModel(
        commission_bps=0.5, half_spread_bps=1.0, slippage_bps=2.0, commission_per_share_usd=0.005
    )
    found = cost(model)  # 10,000 shares at 50: half a million USD
    assert found.commission_usd == pytest.approx(25.0 + 50.0)
    assert found.fees_usd == pytest.approx(0.5 * 27.80 + 1.66)
    assert found.spread_usd == pytest.approx(50.0)
    assert found.slippage_usd == pytest.approx(100.0)
    # A hundredth of a day: a tenth of the volatility of two percent.
    assert found.impact_usd == pytest.approx(500_000 * 0.1 * 0.02)
    assert found.total_usd == pytest.approx(sum(getattr(found, line) for line in LINES))


def test_purchases_pay_no_regulatory_fee_and_resting_orders_no_liquidity():
    model = CostModel(commission_bps=1.0)
    bought, rested = cost(model, sells=False), cost(model, takes=False)
    assert bought.fees_usd == 0.0
    assert bought.total_usd == pytest.approx(cost(model).total_usd - cost(model).fees_usd)
    assert rested == FillCost(cost(model).commission_usd, cost(model).fees_usd)


def test_impact_goes_with_the_root_of_the_share_of_volume():
    model = CostModel()
    one, four = cost(model, shares=1_000.0).impact_usd, cost(model, shares=4_000.0).impact_usd
    assert four == pytest.approx(8 * one)  # four times the shares at twice the price


def test_the_spread_is_the_largest_of_constant_half_a_tick_and_estimate():
    model = CostModel(half_spread_bps=1.0, half_spread_most_bps=40.0)
    assert model.half_spread(500.0, 0.0) == 1e-4
    assert model.half_spread(2.0, 0.0) == pytest.approx(0.005 / 2.0)
    assert model.half_spread(0.5, 0.0) == pytest.approx(1e-4)  # a tick of a hundredth of a cent
    assert model.half_spread(500.0, 0.002) == 0.002
    assert model.half_spread(500.0, 0.02) == 0.004  # capped
    assert CostModel(estimated_spread=False).half_spread(2.0, 0.01) == 1e-4


@given(
    times=st.floats(0, 5),
    shares=st.floats(1, 1e7),
    price=st.floats(0.01, 1e4),
    sells=st.booleans(),
    takes=st.booleans(),
)
def test_the_multiplier_is_on_every_line(times, shares, price, sells, takes):
    market = Liquidity(0.03, 5e5, 0.001)
    model = CostModel(commission_bps=0.3, commission_per_share_usd=0.002)
    one = model.fill_cost(shares, price, market, sells=sells, takes=takes, on=DAY)
    many = replace(model, multiplier=times).fill_cost(
        shares, price, market, sells=sells, takes=takes, on=DAY
    )
    for line in LINES:
        assert getattr(many, line) == pytest.approx(times * getattr(one, line))
        assert getattr(one, line) >= 0
    assert replace(model, multiplier=times).borrow_usd(1e5, 3) == pytest.approx(
        times * model.borrow_usd(1e5, 3)
    )


def test_constant_costs_know_no_market():
    flat = CostModel.flat(1.0, 2.0, 7.0)
    wild = Liquidity(0.5, 10.0, 0.1)
    assert cost(flat, market=wild).total_usd == pytest.approx(500.0)
    assert flat.one_way_bps == CostModel(1.0, 2.0, 7.0).one_way_bps == 10.0
    assert flat.most_shares(0.0) is None
    assert flat.borrow_usd(1e6, 30) == 0.0


def test_borrow_is_by_calendar_night():
    assert CostModel(borrow_rate=0.036).borrow_usd(100_000.0, 3) == pytest.approx(30.0)


def test_participation_is_whole_shares_of_the_bar():
    assert CostModel(participation=0.1).most_shares(1009.0) == 100
    assert CostModel(participation=0.3).most_shares(10.0) == 3  # 0.3 x 10 is not 2.9999
    assert CostModel(participation=0.1).most_shares(9.0) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"slippage_bps": -1.0},
        {"impact_coefficient": math.nan},
        {"participation": 0.0},
        {"participation": 1.5},
        {"delisting_haircut": 1.0},
        {"borrow_rate": math.inf},
    ],
)
def test_costs_that_would_pay_the_trader_are_refused(change):
    with pytest.raises(MarketError, match=next(iter(change))):
        CostModel(**change)
