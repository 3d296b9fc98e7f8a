"""Each limit to the second, the share and the cent: what reaches it passes, what exceeds it not."""

from __future__ import annotations

import datetime as dt
from dataclasses import fields, replace
from decimal import Decimal

import pytest

from execution.broker import OrderStatus, OrderType, Side, TimeInForce
from execution.day_trading import DayTrading
from execution.intents import LastPrice
from execution.risk import RiskLimits, check_plan
from execution.risk_context import CLOCK_TOLERANCE
from market.errors import ExecutionError
from tests.execution.memory_broker import NOW
from tests.execution.test_risk import (
    BATCH,
    DAY,
    FINE,
    LIMITS,
    MINUTE,
    NOW_2026,
    PRICE,
    C,
    account,
    codes,
    in_2026,
    intent,
    limits,
    position,
    resting,
    shut,
)

SECOND = dt.timedelta(seconds=1)
D = Decimal
LATE = dt.timedelta(seconds=LIMITS.batch_late_seconds)
OLD = dt.timedelta(seconds=LIMITS.batch_age_seconds)
OWN = {"positions": (position(10),), "own_quantities": {"A": D(10)}}
SHORT = {"positions": (position(-10),), "own_quantities": {"A": D(-10)}}
ACCOUNT_OF_25K = account(equity_usd=D(25_000), last_equity_usd=D(25_000))
BELOW_25K = account(equity_usd=D(24_999), last_equity_usd=D(24_999))


def batch(**changes):
    return {"batch": replace(BATCH, **changes)}


def of_price(at: dt.datetime, price: Decimal = PRICE):
    return {"prices": {s: LastPrice(price, at) for s in "ABC"}}


def day_trading(trades: int, opened: int, **more):
    return {"day_trading": DayTrading(trades, {"A": D(opened)}), **more}


# What reaches the limit, what exceeds it, and the code that says so; context and order of each.
EDGES = [
    (
        C.BATCH_LATE,
        (batch(scheduled_for=NOW - LATE, ts_emit=NOW), {}),
        (batch(scheduled_for=NOW - LATE - SECOND, ts_emit=NOW), {}),
    ),
    (C.BATCH_STALE, (batch(as_of=NOW - OLD), {}), (batch(as_of=NOW - OLD - SECOND), {})),
    (C.BATCH_STALE, (batch(as_of=NOW), {}), (batch(as_of=NOW + dt.timedelta(milliseconds=1)), {})),
    (C.SIGNAL_EXPIRED, ({}, {"valid_until": NOW + SECOND}), ({}, {"valid_until": NOW})),
    (C.MARKET_CLOSED, (shut(15), {}), (shut(15 + 1 / 60), {})),
    (C.MARKET_CLOSED, (shut(0), {}), (shut(-1 / 60), {})),
    (
        C.MARKET_CLOSED,
        (shut(15 * 60), {"time_in_force": TimeInForce.OPG}),
        (shut(15 * 60 + 1 / 60), {"time_in_force": TimeInForce.OPG}),
    ),
    (
        C.DAILY_LOSS,
        (account(equity_usd=D(97_000)), {}),
        (account(equity_usd=D("96999.99")), {}),
    ),
    (
        C.DRAWDOWN,
        ({**account(equity_usd=D(85_000), last_equity_usd=D(85_000))}, {}),
        ({**account(equity_usd=D("84999.99"), last_equity_usd=D("84999.99"))}, {}),
    ),
    (
        C.MODEL_TOO_OLD,
        ({"models_known_at": {"1d": NOW - 120 * DAY}}, {}),
        ({"models_known_at": {"1d": NOW - 120 * DAY - SECOND}}, {}),
    ),
    (
        C.PRICE_TOO_OLD,
        (of_price(NOW - 60 * MINUTE), {}),
        (of_price(NOW - 60 * MINUTE - SECOND), {}),
    ),
    (C.PRICE_TOO_OLD, (of_price(NOW), {}), (of_price(NOW + dt.timedelta(milliseconds=1)), {})),
    (
        C.PRICE_COLLAR,
        ({}, {"limit_price_usd": D("52.50")}),
        ({}, {"limit_price_usd": D("52.51")}),
    ),
    (
        C.PRICE_COLLAR,
        ({}, {"reference_price_usd": D("47.50")}),
        ({}, {"reference_price_usd": D("47.49")}),
    ),
    (
        C.ORDER_NOTIONAL,
        (limits(order_notional_usd=D(500)), {}),
        (limits(order_notional_usd=D("499.99")), {}),
    ),
    (C.POSITION_NOTIONAL, ({}, {"quantity": D(300)}), ({}, {"quantity": D(301)})),
    (
        C.GROSS_LEVERAGE,
        (limits(gross_share=D("0.005")), {}),
        (limits(gross_share=D("0.004999")), {}),
    ),
    (C.NET_LEVERAGE, (limits(net_share=D("0.005")), {}), (limits(net_share=D("0.004999")), {})),
    (
        C.BUYING_POWER,
        (account(buying_power_usd=D(500)), {}),
        (account(buying_power_usd=D("499.99")), {}),
    ),
    (
        C.VOLUME_SHARE,
        ({"average_volumes": {"A": D(200)}}, {}),
        ({"average_volumes": {"A": D("199.9")}}, {}),
    ),
    (
        C.SECTOR_SHARE,
        (
            {
                **limits(sector_share=D("0.05")),
                "sectors": {"A": "x", "B": "x", "C": "y"},
                "positions": (position(90, "B"), position(900, "C")),
            },
            {},
        ),
        (
            {
                **limits(sector_share=D("0.05")),
                "sectors": {"A": "x", "B": "x", "C": "y"},
                "positions": (position(91, "B"), position(900, "C")),
            },
            {},
        ),
    ),
    (C.ORDER_COUNT, (limits(order_count=1), {}), (limits(order_count=0), {})),
    (C.ORDER_RATE, ({"sent_last_hour": 1_999}, {}), ({"sent_last_hour": 2_000}, {})),
    (
        C.DAY_TRADES,
        (
            {**BELOW_25K, **OWN, **day_trading(2, 10, peak_equity_usd=D(24_999))},
            {"side": Side.SELL},
        ),
        (
            {**BELOW_25K, **OWN, **day_trading(3, 10, peak_equity_usd=D(24_999))},
            {"side": Side.SELL},
        ),
    ),
    (
        C.DAY_TRADES,
        (
            {**ACCOUNT_OF_25K, **OWN, **day_trading(3, 10, peak_equity_usd=D(25_000))},
            {"side": Side.SELL},
        ),
        (
            {**BELOW_25K, **OWN, **day_trading(3, 10, peak_equity_usd=D(25_000))},
            {"side": Side.SELL},
        ),
    ),
]


@pytest.mark.parametrize(("code", "reached", "exceeded"), EDGES)
def test_a_limit_may_be_reached_and_not_exceeded(code, reached, exceeded) -> None:
    assert codes(intent(**reached[1]), **reached[0]) == []
    assert codes(intent(**exceeded[1]), **exceeded[0]) == [code]


def test_only_what_closes_something_opened_today_is_a_day_trade() -> None:
    spent = {**BELOW_25K, "peak_equity_usd": D(24_999)}
    assert codes(intent(side=Side.SELL), **spent, **OWN, **day_trading(9, 0)) == []
    assert codes(intent(), **spent, **day_trading(9, 10)) == []
    assert codes(intent(), **spent, **SHORT, **day_trading(9, -10)) == [C.DAY_TRADES]
    assert codes(intent(side=Side.SELL), **spent, **OWN, **day_trading(9, -10)) == []


def test_day_trades_of_the_plan_itself_are_counted() -> None:
    held = {
        **BELOW_25K,
        "peak_equity_usd": D(24_999),
        "positions": tuple(position(10, s) for s in "ABC"),
        "own_quantities": dict.fromkeys("ABC", D(10)),
        "day_trading": DayTrading(1, dict.fromkeys("ABC", D(10))),
    }
    sales = [intent(side=Side.SELL, symbol=s) for s in "ABC"]
    verdicts = check_plan(sales, replace(FINE, **held))
    assert [v.accepted for v in verdicts] == [True, True, False]
    # One that closes nothing of today's is none.
    later = {**held, "day_trading": DayTrading(1, {"B": D(10), "C": D(10)})}
    assert all(v.accepted for v in check_plan(sales, replace(FINE, **later)))


def margin(quantity: int, equity: int, symbol: str = "B"):
    return {
        **in_2026(),
        **account(equity_usd=D(equity), last_equity_usd=D(equity), buying_power_usd=D(10**9)),
        **limits(gross_share=D(99), net_share=D(99), position_share=D(99)),
        "peak_equity_usd": D(equity),
        "positions": (position(quantity, symbol),),
        "own_quantities": {symbol: D(quantity)},
    }


@pytest.mark.parametrize(
    ("held", "side", "symbol", "equity"),
    [
        (8_000, Side.BUY, "A", 100_125),  # 25 percent of 8,010 shares at 50
        (8_000, Side.BUY, "B", 100_125),
        (-8_000, Side.SELL, "A", 120_150),  # 30 percent
        (-8_000, Side.BUY, "A", 120_125),  # 30 percent of 8,000 and 25 of 10
        (8_000, Side.SELL, "A", 100_150),
    ],
)
def test_equity_must_cover_the_margin_of_both_sides(held, side, symbol, equity) -> None:
    order = intent(side=side, symbol=symbol, valid_until=NOW_2026 + MINUTE)
    assert codes(order, **margin(held, equity)) == []
    assert codes(order, **margin(held, equity - 1)) == [C.INTRADAY_MARGIN]


def test_an_order_that_needs_no_more_margin_passes_beyond_it() -> None:
    order = intent(side=Side.SELL, symbol="B", valid_until=NOW_2026 + MINUTE)
    assert codes(order, **margin(8_000, 1_000)) == []


@pytest.mark.parametrize("closed", [True, False])
def test_a_price_may_be_as_old_as_the_last_session(closed: bool) -> None:
    """While the market is shut its age counts from the close; in the session from now."""
    close = dt.datetime(2025, 3, 3, 21, 0, tzinfo=dt.UTC)
    scene = shut(10) if closed else {}
    fine = codes(**{**scene, **of_price(close - 60 * MINUTE)})
    stale = codes(**{**scene, **of_price(close - 60 * MINUTE - SECOND)})
    assert fine == ([] if closed else [C.PRICE_TOO_OLD])
    assert stale == [C.PRICE_TOO_OLD]


def test_a_price_from_after_the_close_is_not_from_the_future() -> None:
    assert codes(**{**shut(10), **of_price(NOW - MINUTE)}) == []


def test_a_second_leg_waits_as_long_as_the_auction_does() -> None:
    legs = [
        intent(10, Side.SELL, time_in_force=TimeInForce.OPG),
        intent(5, Side.SELL, leg=2, time_in_force=TimeInForce.DAY),
    ]
    verdicts = check_plan(legs, replace(FINE, **OWN, **shut(15 * 60)))
    assert [v.accepted for v in verdicts] == [True, True]
    verdicts = check_plan(legs, replace(FINE, **OWN, **shut(15 * 60 + 1)))
    assert [[d.code for d in v.denials][:1] for v in verdicts] == [[C.MARKET_CLOSED]] * 2


def test_a_leg_follows_the_one_before_it_of_its_own_symbol() -> None:
    held = replace(FINE, **OWN)
    other = [intent(symbol="B"), intent(5, Side.BUY, leg=2)]
    assert [d.code for d in check_plan(other, held)[1].denials] == [C.LEG_DENIED]
    skipping = [intent(), intent(5, leg=3)]
    assert [d.code for d in check_plan(skipping, held)[1].denials] == [C.LEG_DENIED]


def test_orders_of_the_plan_count_towards_the_hour() -> None:
    plan = [intent(symbol=s) for s in "ABC"]
    verdicts = check_plan(plan, replace(FINE, sent_last_hour=1_998))
    assert [[d.code for d in v.denials] for v in verdicts] == [[], [], [C.ORDER_RATE]]


def test_a_denied_order_takes_up_no_room_but_its_name_is_taken() -> None:
    plan = [intent(301), intent(5), intent(5, client_order_id="iso-other")]
    verdicts = check_plan(plan, replace(FINE, **limits(order_count=1)))
    assert [[d.code for d in v.denials] for v in verdicts] == [
        [C.POSITION_NOTIONAL],
        [C.DUPLICATE],
        [],
    ]


def test_each_order_is_judged_beside_all_that_were_accepted_before_it() -> None:
    plan = [intent(1, symbol="A"), intent(150, symbol="B"), intent(100, symbol="C")]
    verdicts = check_plan(plan, replace(FINE, **limits(gross_share=D("0.1"))))  # 200 shares
    assert [[d.code for d in v.denials] for v in verdicts] == [[], [], [C.GROSS_LEVERAGE]]
    again = check_plan([plan[0], plan[1], plan[1]], FINE)
    assert [[d.code for d in v.denials] for v in again] == [[], [], [C.DUPLICATE]]


def test_an_order_of_the_plan_stands_against_the_other_side() -> None:
    plan = [intent(), intent(5, Side.SELL, symbol="A"), intent(5, Side.SELL, symbol="B")]
    verdicts = check_plan(plan, FINE)
    assert [[d.code for d in v.denials] for v in verdicts] == [[], [C.WASH_TRADE], []]


def test_an_order_that_is_canceled_first_stands_against_nothing() -> None:
    open_orders = (resting(Side.SELL),)
    assert codes(intent(cancels=("o1",)), open_orders=open_orders) == []
    assert codes(intent(cancels=("o2",)), open_orders=open_orders) == [C.WASH_TRADE]
    assert codes(intent(symbol="B"), open_orders=open_orders) == []


NEITHER = {"models_known_at": {}, "data_problems": {"*": "behind"}, "average_volumes": {}}


@pytest.mark.parametrize(
    "context",
    [
        {"models_known_at": {"1d": NOW - 999 * DAY}},
        NEITHER,
        {"peak_equity_usd": D(10**6)},
        account(last_equity_usd=D(10**6)),
        limits(order_notional_usd=D(1)),
        {"average_volumes": {"A": D(1)}},
        {**limits(sector_share=D("0.001")), "sectors": {}},
        limits(sector_share=D("0.001")),
        {"positions": (position(25),)},
    ],
)
@pytest.mark.parametrize("side", [Side.SELL, Side.BUY])
def test_what_only_closes_its_own_passes(context, side) -> None:
    """And one share more does not: no check lets it through as if it closed."""
    sign = 1 if side is Side.SELL else -1
    given = dict(context)
    if "positions" in given:
        given["positions"] = (position(sign * 25),)
    held = {"positions": (position(sign * 10),), "own_quantities": {"A": D(sign * 10)}}
    assert codes(intent(10, side, valid_until=None), **{**held, **given}) == []
    assert codes(intent(11, side), **{**held, **given}) != []


def test_a_sector_beyond_its_share_may_be_traded_as_far_as_it_does_not_grow() -> None:
    full = {**limits(sector_share=D("0.001")), "sectors": {"A": "x", "B": "x"}, **OWN}
    assert codes(intent(20, Side.SELL), **full) == []  # ten long, or ten short: the same gross
    assert codes(intent(21, Side.SELL), **full) == [C.SECTOR_SHARE]
    assert codes(intent(1, symbol="B"), **full) == [C.SECTOR_SHARE]


def test_what_closes_its_own_needs_no_sector_also_where_others_sold_the_most() -> None:
    scarce = {"positions": (position(1),), "own_quantities": {"A": D(10)}}
    said = codes(intent(10, Side.SELL), **scarce, **limits(sector_share=D("0.001")), sectors={})
    assert C.MISSING_DATA not in said
    assert C.SECTOR_SHARE not in said


def test_a_position_that_is_all_foreign_is_not_touched() -> None:
    for quantity in (1, -1):
        assert codes(positions=(position(quantity),)) == [C.FOREIGN_POSITION]
    # Ours by the journal, but not there any more.
    assert C.FOREIGN_POSITION in codes(own_quantities={"A": D(5)})
    assert codes(intent(symbol="B"), positions=(position(5),)) == []


def test_an_unpriced_holding_stops_what_opens_and_nothing_else() -> None:
    lost = replace(position(5, "Z"), current_price_usd=D(0))
    assert codes(positions=(lost,)) == [C.MISSING_DATA]
    held = (lost, position(10))
    close = intent(side=Side.SELL)
    assert codes(close, positions=held, own_quantities={"A": D(10)}) == []


@pytest.mark.parametrize("price", ["0", "-1", "NaN", "Infinity"])
def test_a_price_that_is_none_denies(price: str) -> None:
    assert C.MISSING_DATA in codes(**of_price(NOW, D(price)))


@pytest.mark.parametrize("field", ["quantity", "limit_price_usd", "reference_price_usd"])
@pytest.mark.parametrize("value", ["0", "-1", "NaN", "Infinity"])
def test_an_order_whose_numbers_are_none_is_denied_before_any_check(field, value) -> None:
    assert codes(intent(**{field: D(value)}), state=None) == [C.MISSING_DATA]
    assert codes(intent(**{field: D(value)})) == [C.BAD_QUANTITY]


@pytest.mark.parametrize("field", ["equity_usd", "last_equity_usd"])
@pytest.mark.parametrize("value", ["0", "-1", "Infinity"])
def test_an_account_that_is_worth_nothing_denies(field: str, value: str) -> None:
    assert codes(**account(**{field: D(value)})) == [C.MISSING_DATA]


def test_shares_of_an_account_worth_a_dollar_can_be_reckoned() -> None:
    assert C.MISSING_DATA not in codes(**account(equity_usd=D(1), last_equity_usd=D(1)))
    assert codes(**account(buying_power_usd=D(0))) == [C.BUYING_POWER]


@pytest.mark.parametrize("share", ["0", "0.15"])
def test_a_limit_may_be_nothing(share: str) -> None:
    assert RiskLimits(position_share=D(share)).position_share == D(share)


@pytest.mark.parametrize(
    "name", [f.name for f in fields(RiskLimits) if f.name not in ("allow_short", "restricted")]
)
@pytest.mark.parametrize("value", ["-0.01", "NaN", "Infinity"])
def test_each_limit_must_limit(name: str, value: str) -> None:
    with pytest.raises(ExecutionError, match=f"limit '{name}' is out of range"):
        RiskLimits(**{name: D(value)})


def test_what_is_documented_holds_where_nothing_is_set() -> None:
    """The defaults, as docs/settings.md states them to whoever sets none."""
    plain = RiskLimits()
    assert plain.order_notional_usd == 100_000
    assert (plain.position_share, plain.gross_share, plain.net_share) == (D("0.15"), D(2), D(2))
    assert (plain.daily_loss_share, plain.drawdown_share) == (D("0.03"), D("0.15"))
    assert (plain.volume_share, plain.price_collar_share) == (D("0.05"), D("0.05"))
    assert (plain.price_age_seconds, plain.batch_age_seconds) == (3_600, 21_600)
    assert (plain.batch_late_seconds, plain.opg_wait_seconds) == (2_700, 54_000)
    assert (plain.day_wait_seconds, plain.model_age_days) == (900, 120)
    assert (plain.order_count, plain.orders_per_hour) == (500, 2_000)
    assert (plain.allow_short, plain.sector_share, plain.restricted) == (False, None, frozenset())
    assert dt.timedelta(minutes=5) == CLOCK_TOLERANCE


def test_exits_that_rest_for_a_position_count_what_is_left_of_them() -> None:
    """A target half filled can close half; the parent's open part may still add."""
    target = resting(
        Side.SELL,
        client_order_id="t",
        parent_id="p",
        quantity=D(10),
        filled_quantity=D(4),
        order_type=OrderType.LIMIT,
        status=OrderStatus.PARTIALLY_FILLED,
    )
    tight = limits(position_share=D("0.01"))  # 20 shares
    held = {**OWN, "open_orders": (target,)}
    assert codes(intent(10, cancels=("t",)), **held, **tight) == []
    assert codes(intent(11, cancels=("t",)), **held, **tight) == [C.POSITION_NOTIONAL]
    entry = replace(target, client_order_id="p", parent_id=None, side=Side.BUY)
    assert codes(intent(4), **OWN, open_orders=(entry,), **tight) == []
    assert codes(intent(5), **OWN, open_orders=(entry,), **tight) == [C.POSITION_NOTIONAL]
