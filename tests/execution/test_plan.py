"""Plans: netted, deterministic, and never touching what is not ours."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution.broker import (
    Asset,
    Clock,
    Order,
    OrderStatus,
    OrderType,
    Position,
    Side,
    TimeInForce,
)
from execution.denials import DenialCode
from execution.intents import LastPrice, PlanRules, SkipReason, client_order_id
from execution.order_timing import time_in_force_at
from execution.plan import plan_orders
from execution.targets import TargetDecision, TargetReason, Targets
from market.errors import ExecutionError
from tests.execution.memory_broker import NOW, open_clock

PRICE = Decimal(50)
SIGNAL = TargetReason.SIGNAL


def decision(weight=0.1, symbol="A", reason=SIGNAL, **changes):
    return TargetDecision(symbol, weight, reason, **changes)


def position(quantity, symbol="A"):
    q = Decimal(quantity)
    return Position(symbol, q, PRICE, PRICE, q * PRICE)


def an_order(quantity, side=Side.BUY, own=True, status=OrderStatus.ACCEPTED, symbol="A", filled=0):
    key = f"{'iso' if own else 'other'}-{symbol}-{quantity}"
    return Order(
        key, "b1", symbol, side, Decimal(quantity), Decimal(filled), None, status, NOW, NOW
    )


def plan(*decisions, account=(), orders=(), own=None, rules=None, clock=None, prices=None):
    return plan_orders(
        Targets(NOW, 10_000.0, decisions or (decision(),)),
        account,
        orders,
        {k: Decimal(v) for k, v in (own or {}).items()},
        prices if prices is not None else {s: LastPrice(PRICE, NOW) for s in "ABC"},
        {s: Asset(s, True, True, True, "active") for s in "ABC"},
        clock or open_clock(),
        rules or PlanRules(min_notional_usd=Decimal(0)),
        "batch",
        {o.client_order_id for o in orders if o.client_order_id.startswith("iso-")},
    )


def changes(made):
    return [(i.symbol, i.signed_quantity) for i in made.intents]


def skips(made):
    return [(s.symbol, s.reason) for s in made.skipped]


def test_from_nothing():
    assert changes(plan()) == [("A", 20)]


def test_whole_shares_toward_zero():
    assert changes(plan(decision(0.1049))) == [("A", 20)]
    assert changes(plan(decision(-0.1049))) == [("A", -20)]
    assert skips(plan(decision(0.004))) == [("A", SkipReason.BELOW_ONE_SHARE)]


def test_netted_with_position_and_open_orders():
    assert changes(plan(account=[position(5)], own={"A": 5})) == [("A", 15)]
    assert changes(plan(account=[position(5)], own={"A": 5}, orders=[an_order(10)])) == [("A", 5)]
    partly = an_order(10, filled=4)
    assert changes(plan(account=[position(4)], own={"A": 4}, orders=[partly])) == [("A", 10)]
    at_target = plan(account=[position(5)], own={"A": 5}, orders=[an_order(15)])
    assert skips(at_target) == [("A", SkipReason.AT_TARGET)]


def test_crossing_zero_is_two_legs_and_sells_come_first():
    made = plan(
        decision(0.1, "B"),
        decision(-0.05),
        account=[position(6)],
        own={"A": 6},
    )
    assert [(i.symbol, i.leg, i.signed_quantity) for i in made.intents] == [
        ("A", 1, -6),
        ("B", 1, 20),
        ("A", 2, -10),
    ]
    assert len({i.client_order_id for i in made.intents}) == 3


def test_a_small_change_is_not_worth_an_order_but_closing_is():
    rules = PlanRules(min_notional_usd=Decimal(100))
    held = {"account": [position(19)], "own": {"A": 19}, "rules": rules}
    assert skips(plan(**held)) == [("A", SkipReason.BELOW_MIN_NOTIONAL)]
    tiny = {"account": [position(1)], "own": {"A": 1}, "rules": rules}
    assert changes(plan(decision(0.0), **tiny)) == [("A", -1)]


def test_a_fraction_is_closed_in_the_session_only():
    half = {"account": [position("1.5")], "own": {"A": "1.5"}}
    assert changes(plan(decision(0.0), **half)) == [("A", Decimal("-1.5"))]
    shut = replace(open_clock(), is_open=False)
    assert changes(plan(decision(0.0), clock=shut, **half)) == [("A", -1)]


def test_what_is_kept_gets_no_order():
    kept = decision(0.5, reason=TargetReason.KEPT, keep_quantity=Decimal(3))
    assert skips(plan(kept)) == [("A", SkipReason.KEPT)]
    assert skips(plan(kept, prices={})) == [("A", SkipReason.KEPT)]


def refused(made):
    assert made.intents == made.skipped == ()
    return [(r.symbol, r.code, r.detail) for r in made.refused]


@pytest.mark.parametrize("kept", [None, Decimal(3)])
def test_what_cannot_be_acted_on_is_denied(kept):
    bad, none = (
        (TargetReason.KEPT_BAD_SIGNAL, TargetReason.KEPT_NO_DATA)
        if kept
        else (TargetReason.BAD_SIGNAL, TargetReason.NO_DATA)
    )
    more = {"keep_quantity": kept}
    spoilt = plan(decision(0, reason=bad, signal_ids=("s1",), **more))
    assert refused(spoilt) == [("A", DenialCode.BAD_SIGNAL, "s1")]
    unknown = plan(decision(0, reason=none, **more))
    assert refused(unknown) == [("A", DenialCode.MISSING_DATA, "volatility")]
    unpriced = plan(decision(0, reason=none, **more), prices={})
    assert refused(unpriced) == [("A", DenialCode.MISSING_DATA, "last price")]
    assert refused(plan(prices={})) == [("A", DenialCode.MISSING_DATA, "last price")]
    for price in ("NaN", "-1", "0", "Infinity"):
        made = plan(prices={"A": LastPrice(Decimal(price), NOW)})
        assert refused(made) == [("A", DenialCode.BAD_PRICE, f"{price} USD")]


DECISIONS = st.builds(
    decision,
    st.sampled_from([-0.2, 0.0, 0.001, 0.1]),
    st.sampled_from("ABC"),
    st.sampled_from(TargetReason),
    keep_quantity=st.sampled_from([None, Decimal(3)]),
)
PRICES = st.dictionaries(
    st.sampled_from("ABC"),
    st.sampled_from(["50", "-1", "0", "NaN"]).map(lambda p: LastPrice(Decimal(p), NOW)),
)


@given(
    st.lists(DECISIONS, unique_by=lambda d: d.symbol, min_size=1),
    PRICES,
    st.dictionaries(st.sampled_from("ABC"), st.integers(-5, 5)),
    st.lists(st.sampled_from("ABC").map(lambda s: an_order(7, symbol=s)), max_size=2),
)
def test_every_symbol_ends_in_an_order_a_skip_or_a_denial(decisions, prices, own, orders):
    account = [position(q, s) for s, q in own.items()]
    made = plan(*decisions, account=account, own=own, orders=orders, prices=prices)
    ends = [{i.symbol for i in made.intents}, *({x.symbol for x in xs} for xs in (
        made.skipped, made.refused,
    ))]  # fmt: skip
    assert sorted(s for end in ends for s in end) == sorted(d.symbol for d in decisions)
    assert all(i.quantity > 0 for i in made.intents)


@pytest.mark.parametrize(
    ("account", "orders", "own", "reason"),
    [
        ([position(7)], [], {}, SkipReason.FOREIGN_POSITION),
        ([position(-7)], [], {}, SkipReason.FOREIGN_POSITION),
        ([position(12)], [], {"A": 5}, SkipReason.FOREIGN_POSITION),
        ([position(3)], [], {"A": 5}, SkipReason.OWN_MISSING_AT_BROKER),
        ([], [an_order(3, own=False)], {}, SkipReason.FOREIGN_ORDER),
        ([], [an_order(3, Side.SELL)], {}, SkipReason.OPPOSING_ORDER),
        ([], [an_order(3, status=OrderStatus.UNKNOWN)], {}, SkipReason.UNRESOLVED_ORDER),
    ],
)
def test_what_stands_in_the_way(account, orders, own, reason):
    assert skips(plan(account=account, orders=orders, own=own)) == [("A", reason)]


def test_own_shares_beside_foreign_ones_may_be_sold_but_no_more():
    both = {"account": [position(12)], "own": {"A": 5}}
    assert changes(plan(decision(0.0), **both)) == [("A", -5)]
    assert skips(plan(decision(-0.1), **both)) == [("A", SkipReason.FOREIGN_POSITION)]


def test_identity_is_a_pure_function():
    first = client_order_id("b", "A", Side.BUY, 1, 1)
    assert first == client_order_id("b", "A", Side.BUY, 1, 1)
    others = {
        client_order_id(*key)
        for key in [
            ("c", "A", Side.BUY, 1, 1),
            ("b", "B", Side.BUY, 1, 1),
            ("b", "A", Side.SELL, 1, 1),
            ("b", "A", Side.BUY, 2, 1),
            ("b", "A", Side.BUY, 1, 2),
        ]
    }
    assert len(others | {first}) == 6
    assert len(first) <= 48
    assert first.startswith("iso-")
    assert plan() == plan()


@pytest.mark.parametrize(
    ("local", "is_open", "wanted"),
    [
        ("10:00", True, TimeInForce.DAY),
        ("08:30", False, TimeInForce.OPG),
        ("09:27", False, TimeInForce.OPG),
        ("09:28", False, TimeInForce.DAY),
        ("16:20", False, TimeInForce.DAY),
        ("18:59", False, TimeInForce.DAY),
        ("19:00", False, TimeInForce.OPG),
    ],
)
@pytest.mark.parametrize("month", [1, 7])
def test_orders_for_the_open_keep_out_of_the_refusal_window(local, is_open, wanted, month):
    hour, minute = map(int, local.split(":"))
    now = dt.datetime(2025, month, 8, hour, minute, tzinfo=ZoneInfo("America/New_York"))
    clock = replace(open_clock(now.astimezone(dt.UTC)), is_open=is_open)
    assert time_in_force_at(clock) is wanted


@settings(max_examples=150, deadline=None)
@given(
    weight=st.floats(-0.5, 0.5),
    own=st.integers(-30, 30),
    foreign=st.integers(-30, 30),
    pending=st.integers(-20, 20),
)
def test_targets_are_reached_or_the_reason_is_said_and_foreign_shares_stay(
    weight, own, foreign, pending
):
    orders = []
    if pending:
        orders = [an_order(abs(pending), Side.BUY if pending > 0 else Side.SELL)]
    account = [position(own + foreign)] if own + foreign else []
    made = plan(decision(weight), account=account, orders=orders, own={"A": own})
    total = sum((i.signed_quantity for i in made.intents), Decimal(0))
    wanted = int(Decimal(str(weight)) * 10_000 / 50)
    if made.intents:
        assert own + pending + total == wanted
        assert all(i.quantity > 0 for i in made.intents)
        assert len({i.side for i in made.intents}) == 1
        if foreign:
            after = own + pending
            assert after * total < 0
            assert abs(total) <= abs(after)
    else:
        (why,) = made.skipped
        assert why.reason is not SkipReason.AT_TARGET or own + pending == wanted


LEVELS = {"target_price": Decimal(55), "stop_price": Decimal(47)}
BRACKETS = PlanRules(min_notional_usd=Decimal(0), brackets=True)


def exits(made):
    return [(i.leg, i.time_in_force, i.take_profit_usd, i.stop_loss_usd) for i in made.intents]


@pytest.mark.parametrize(
    ("until", "stands"),
    [(NOW + dt.timedelta(hours=1), TimeInForce.DAY), (NOW + dt.timedelta(days=3), TimeInForce.GTC)],
)
def test_target_and_stop_are_left_with_the_broker_as_long_as_the_signal_holds(until, stands):
    made = plan(decision(valid_until=until, **LEVELS), rules=BRACKETS)
    assert exits(made) == [(1, stands, Decimal(55), Decimal(47))]
    short = plan(
        decision(-0.1, target_price=Decimal(47), stop_price=Decimal(55), valid_until=until),
        rules=BRACKETS,
    )
    assert exits(short) == [(1, stands, Decimal(47), Decimal(55))]


def test_levels_on_the_wrong_side_stay_at_home():
    made = plan(decision(target_price=Decimal(50), stop_price=Decimal(51)), rules=BRACKETS)
    assert exits(made) == [(1, TimeInForce.DAY, None, None)]
    one = plan(decision(target_price=Decimal(49), stop_price=Decimal(47)), rules=BRACKETS)
    assert exits(one) == [(1, TimeInForce.DAY, None, Decimal(47))]


def test_no_exits_before_the_open_nor_beside_what_is_held_already():
    shut = replace(open_clock(NOW - dt.timedelta(hours=3)), is_open=False)
    assert exits(plan(decision(**LEVELS), rules=BRACKETS, clock=shut)) == [
        (1, TimeInForce.OPG, None, None)
    ]
    held = {"account": [position(5)], "own": {"A": 5}}
    assert exits(plan(decision(**LEVELS), rules=BRACKETS, **held)) == [
        (1, TimeInForce.DAY, None, None)
    ]
    crossing = plan(decision(**LEVELS), rules=BRACKETS, account=[position(-5)], own={"A": -5})
    assert [(leg, profit) for leg, _, profit, _ in exits(crossing)] == [(1, None), (2, Decimal(55))]


def test_exits_at_the_broker_are_canceled_first_and_are_no_change_to_come():
    stop = replace(an_order(5, Side.SELL), parent_id="iso-entry", client_order_id="iso-stop")
    target = replace(stop, client_order_id="iso-target")
    held = {"account": [position(5)], "own": {"A": 5}, "orders": [stop, target]}
    (more,) = plan(**held).intents
    assert (more.signed_quantity, more.cancels) == (15, ("iso-stop", "iso-target"))
    assert more.planned_from == 5
    (out,) = plan(decision(0.0), **held).intents
    assert (out.signed_quantity, out.cancels) == (-5, ("iso-stop", "iso-target"))
    assert skips(plan(decision(0.025), **held)) == [("A", SkipReason.AT_TARGET)]
    first, second = plan(decision(-0.05), **held).intents
    assert (first.cancels, second.cancels) == (("iso-stop", "iso-target"), ())


def test_what_cannot_be_sent_in_time_is_left_out_from_the_end():
    near = open_clock(NOW)
    near = Clock(NOW, True, near.next_open, NOW + dt.timedelta(minutes=2))
    slow = PlanRules(min_notional_usd=Decimal(0), requests_per_minute=11)
    made = plan(decision(0.1, "A"), decision(0.1, "B"), decision(0.1, "C"), rules=slow, clock=near)
    assert [i.symbol for i in made.intents] == ["A", "B"]
    assert skips(made) == [("C", SkipReason.TOO_LATE_TO_SEND)]


def test_both_legs_are_left_out_together():
    near = Clock(NOW, True, open_clock().next_open, NOW + dt.timedelta(minutes=2))
    slow = PlanRules(min_notional_usd=Decimal(0), requests_per_minute=7)
    made = plan(decision(-0.1), account=[position(5)], own={"A": 5}, rules=slow, clock=near)
    assert not made.intents
    assert skips(made) == [("A", SkipReason.TOO_LATE_TO_SEND)]


@pytest.mark.parametrize(("weight", "limit"), [(0.1, Decimal("50.10")), (-0.1, Decimal("49.90"))])
def test_a_limit_reaches_beyond_the_last_price_and_lies_on_the_grid(weight, limit):
    rules = PlanRules(min_notional_usd=Decimal(0), limit_offset_bps=Decimal("20.2"))
    (made,) = plan(decision(weight), rules=rules).intents
    assert (made.order_type, made.limit_price_usd) == (OrderType.LIMIT, limit)
    assert made.request().limit_price_usd == limit


@pytest.mark.parametrize(("hour", "extended"), [(5, True), (19, True), (22, False), (3, False)])
def test_outside_the_session_only_limits_and_only_while_there_is_trading(hour, extended):
    local = dt.datetime(2025, 3, 4, hour, 0, tzinfo=ZoneInfo("America/New_York"))
    shut = replace(
        open_clock(local.astimezone(dt.UTC)),
        is_open=False,
        next_open=local.astimezone(dt.UTC) + dt.timedelta(hours=11),
        next_close=local.astimezone(dt.UTC) + dt.timedelta(hours=17),
    )
    rules = PlanRules(
        min_notional_usd=Decimal(0), limit_offset_bps=Decimal(20), extended_hours=True
    )
    (made,) = plan(rules=rules, clock=shut).intents
    assert made.extended_hours is extended
    assert made.order_type is OrderType.LIMIT


def test_rules_that_cannot_be_met_are_refused():
    for change in (
        {"extended_hours": True},
        {"limit_offset_bps": Decimal(-1)},
        {"limit_offset_bps": Decimal("NaN")},
        {"requests_per_minute": 0},
    ):
        with pytest.raises(ExecutionError):
            PlanRules(**change)


def test_the_closing_auction_takes_orders_until_ten_minutes_before():
    clock = open_clock()
    early = replace(clock, now=clock.next_close - dt.timedelta(minutes=11))
    late = replace(clock, now=clock.next_close - dt.timedelta(minutes=10))
    assert time_in_force_at(early, for_close=True) is TimeInForce.CLS
    assert time_in_force_at(late, for_close=True) is TimeInForce.DAY


def test_nothing_is_opened_beside_a_close_that_has_not_filled():
    """Its exits would be refused: the position is still there."""
    short = {"A": -20}
    whole = plan(own=short, account=[position(-20)], orders=[an_order(20)])
    assert skips(whole) == [("A", SkipReason.CLOSING_ORDER)]
    part = plan(own=short, account=[position(-20)], orders=[an_order(20, filled=17)])
    assert skips(part) == [("A", SkipReason.CLOSING_ORDER)]
    flat = decision(weight=0.0, reason=TargetReason.EXIT_EXPIRED)
    rest = plan(flat, own=short, account=[position(-20)], orders=[an_order(5)])
    assert changes(rest) == [("A", 15)]  # closing more is no opening


def test_the_second_leg_of_the_opening_auction_is_a_day_order():
    shut = replace(open_clock(NOW.replace(hour=12)), is_open=False)
    made = plan(decision(weight=-0.1), own={"A": 20}, account=[position(20)], clock=shut)
    assert [(i.leg, i.time_in_force) for i in made.intents] == [
        (1, TimeInForce.OPG),
        (2, TimeInForce.DAY),
    ]
