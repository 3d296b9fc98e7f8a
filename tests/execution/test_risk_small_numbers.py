"""Checks where a number is nothing, next to nothing, or not there."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from execution.broker import Side
from execution.day_trading import DayTrading
from execution.denials import DenialCode as C
from execution.intents import LastPrice
from execution.risk import check_plan
from tests.execution.memory_broker import NOW
from tests.execution.test_risk import (
    FINE,
    MINUTE,
    NOW_2026,
    account,
    codes,
    in_2026,
    intent,
    limits,
    position,
    resting,
)

D = Decimal
OWN = {"positions": (position(10),), "own_quantities": {"A": D(10)}}
BELOW_25K = {
    **account(equity_usd=D(24_999), last_equity_usd=D(24_999)),
    "peak_equity_usd": D(24_999),
}


def details(an_intent, **changes):
    (verdict,) = check_plan([an_intent], replace(FINE, **changes))
    return [d.detail for d in verdict.denials]


def priced(price: str):
    return {"prices": {s: LastPrice(D(price), NOW - MINUTE) for s in "ABC"}}


def test_a_price_below_a_dollar_is_one() -> None:
    assert codes(intent(reference_price_usd=D("0.40")), **priced("0.40")) == []


def test_what_closes_needs_no_buying_power_however_little_there_is() -> None:
    """Another order asks for more than there is."""
    other = resting(Side.BUY, symbol="B", quantity=D(100))
    short_of_cash = {**account(buying_power_usd=D(100)), "open_orders": (other,)}
    assert codes(intent(5, Side.SELL), **OWN, **short_of_cash) == []
    assert codes(intent(5, Side.BUY), **short_of_cash) == [C.BUYING_POWER]


def test_half_a_dollar_of_buying_power_is_looked_at() -> None:
    order = intent(1, reference_price_usd=D("0.50"))
    assert codes(order, **priced("0.50"), **account(buying_power_usd=D("0.50"))) == []
    assert codes(order, **priced("0.50"), **account(buying_power_usd=D("0.49"))) == [C.BUYING_POWER]


@pytest.mark.parametrize("volume", ["0", "-1", "NaN", "Infinity"])
def test_a_volume_that_is_none_denies(volume: str) -> None:
    none = {"average_volumes": {"A": D(volume)}}
    assert codes(**none) == [C.MISSING_DATA]
    assert details(intent(), **none) == ["average volume"]
    assert codes(**none, **limits(volume_share=None)) == []
    assert codes(average_volumes={}, **limits(volume_share=None)) == []


def test_less_than_a_share_a_day_is_a_volume() -> None:
    assert codes(average_volumes={"A": D("0.5")}) == [C.VOLUME_SHARE]
    told = details(intent(10), average_volumes={"A": D(40)})
    assert told == ["25.0% of an average day"]


def test_what_was_not_opened_today_is_no_day_trade_either_way() -> None:
    spent = {**BELOW_25K, "day_trading": DayTrading(3, {})}
    assert codes(intent(side=Side.SELL), **spent, **OWN) == []
    assert codes(intent(side=Side.BUY), **spent) == []


def test_one_share_that_was_opened_today_is_a_day_trade() -> None:
    spent = {**BELOW_25K, **OWN, "day_trading": DayTrading(3, {"A": D(1)})}
    assert codes(intent(1, Side.SELL), **spent) == [C.DAY_TRADES]


@pytest.mark.parametrize(
    ("opened", "passes"), [({"C": D(1)}, True), ({"A": D(1), "C": D(1)}, False)]
)
def test_one_share_of_the_plan_counts_and_what_was_not_opened_does_not(opened, passes) -> None:
    held = {
        **BELOW_25K,
        "positions": (position(1), position(1, "C")),
        "own_quantities": {"A": D(1), "C": D(1)},
        "day_trading": DayTrading(2, opened),
    }
    plan = [intent(1, Side.BUY, "B"), intent(1, Side.SELL, "A"), intent(1, Side.SELL, "C")]
    *_, last = check_plan(plan, replace(FINE, **held))
    assert last.accepted is passes


def test_an_order_against_a_short_position_needs_no_more_margin_than_it() -> None:
    order = intent(side=Side.BUY, symbol="B", valid_until=NOW_2026 + MINUTE)
    thin = {
        **in_2026(),
        **account(equity_usd=D(1_000), last_equity_usd=D(1_000), buying_power_usd=D(10**9)),
        **limits(gross_share=D(999), net_share=D(999), position_share=D(999)),
        "peak_equity_usd": D(1_000),
        "positions": (position(-100, "B"), position(100, "C")),
        "own_quantities": {"B": D(-100), "C": D(100)},
    }
    assert codes(order, **thin) == []


def test_the_first_of_the_orders_against_it_is_named() -> None:
    against = tuple(resting(Side.SELL, client_order_id=name) for name in ("first", "second"))
    assert details(intent(1, Side.BUY), open_orders=against, **OWN) == ["first"]
