"""Risk checks: every code can be met, missing data denies, and no limit is ever passed."""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution.broker import (
    Account,
    Asset,
    Clock,
    Order,
    OrderStatus,
    OrderType,
    Position,
    Side,
    TimeInForce,
)
from execution.day_trading import DayTrading
from execution.intents import LastPrice, OrderIntent
from execution.risk import (
    DENIALS,
    BatchStatus,
    DenialCode,
    RiskContext,
    RiskLimits,
    check_plan,
    denial_table,
)
from execution.state import TradingState
from execution.targets import TargetReason
from market.errors import ExecutionError
from tests.execution.memory_broker import NOW, open_clock

PRICE = Decimal(50)
MINUTE = dt.timedelta(minutes=1)
DAY = dt.timedelta(days=1)
C = DenialCode


def intent(quantity=10, side=Side.BUY, symbol="A", **changes):
    fields = {
        "client_order_id": f"iso-{symbol}-{side}-{changes.get('leg', 1)}",
        "symbol": symbol,
        "side": side,
        "quantity": Decimal(quantity),
        "order_type": OrderType.MARKET,
        "time_in_force": TimeInForce.DAY,
        "leg": 1,
        "attempt": 1,
        "reason": TargetReason.SIGNAL,
        "reference_price_usd": PRICE,
        "horizon": "1d",
        "valid_until": NOW + 60 * MINUTE,
        **changes,
    }
    return OrderIntent(**fields)


def position(quantity, symbol="A"):
    q = Decimal(quantity)
    return Position(symbol, q, PRICE, PRICE, q * PRICE)


ACCOUNT = Account(
    "PA1",
    "USD",
    Decimal(100_000),
    Decimal(100_000),
    Decimal(100_000),
    Decimal(200_000),
    False,
    True,
)
BATCH = BatchStatus("b", NOW - 5 * MINUTE, NOW - 5 * MINUTE, NOW - 4 * MINUTE, False, True)
LIMITS = RiskLimits(allow_short=True)
FINE = RiskContext(
    now=NOW,
    state=TradingState.ACTIVE,
    batch=BATCH,
    account=ACCOUNT,
    clock=open_clock(),
    positions=(),
    open_orders=(),
    own_quantities={},
    journalled=frozenset(),
    assets={s: Asset(s, True, True, True, "active") for s in "ABC"},
    prices={s: LastPrice(PRICE, NOW - MINUTE) for s in "ABC"},
    models_known_at={"1d": NOW - 10 * DAY},
    data_problems={},
    peak_equity_usd=Decimal(100_000),
    sent_last_hour=0,
    day_trading=DayTrading(0, {}),
    average_volumes={s: Decimal(100_000) for s in "ABC"},
    limits=LIMITS,
)


def codes(an_intent=None, **changes):
    (verdict,) = check_plan([an_intent or intent()], replace(FINE, **changes))
    return [d.code for d in verdict.denials]


def limits(**changes):
    return {"limits": replace(LIMITS, **changes)}


def account(**changes):
    return {"account": replace(ACCOUNT, **changes)}


def resting(side, **changes):
    order = Order(
        "o1", "b1", "A", side, Decimal(1), Decimal(0), None, OrderStatus.ACCEPTED, NOW, NOW
    )
    return replace(order, **changes)


NOW_2026 = dt.datetime(2026, 6, 4, 15, 0, tzinfo=dt.UTC)
CLOSING = {
    "positions": (position(10),),
    "own_quantities": {"A": Decimal(10)},
    "day_trading": DayTrading(3, {"A": Decimal(10)}),
    "peak_equity_usd": Decimal(24_999),
}


def in_2026():
    """The same moment after the rule on day trading changed."""
    moved = NOW_2026 - NOW
    return {
        "now": NOW_2026,
        "batch": replace(
            BATCH,
            as_of=BATCH.as_of + moved,
            scheduled_for=BATCH.scheduled_for + moved,
            ts_emit=BATCH.ts_emit + moved,
        ),
        "clock": Clock(NOW_2026, True, NOW_2026 + DAY, NOW_2026 + 6 * 60 * MINUTE),
        "prices": {s: LastPrice(PRICE, NOW_2026 - MINUTE) for s in "ABC"},
        "models_known_at": {"1d": NOW_2026 - DAY},
    }


def shut(wait_minutes):
    clock = Clock(NOW, False, NOW + wait_minutes * MINUTE, NOW + (wait_minutes + 390) * MINUTE)
    close = dt.datetime(2025, 3, 3, 21, 0, tzinfo=dt.UTC)
    prices = {s: LastPrice(PRICE, close) for s in "ABC"}
    return {"clock": clock, "prices": prices}


CASES = [
    (C.BATCH_INCOMPLETE, {"batch": replace(BATCH, complete=False)}, {}),
    (C.BATCH_LATE, {"batch": replace(BATCH, late=True)}, {}),
    (C.PARITY_BROKEN, {"batch": replace(BATCH, parity_broken=True)}, {}),
    (C.BATCH_LATE, {"batch": replace(BATCH, scheduled_for=NOW - 60 * MINUTE)}, {}),
    (C.BATCH_STALE, {"batch": replace(BATCH, as_of=NOW - 500 * MINUTE)}, {}),
    (C.BATCH_STALE, {"batch": replace(BATCH, as_of=NOW + MINUTE)}, {}),
    (C.SIGNAL_EXPIRED, {}, {"valid_until": NOW}),
    (C.MISSING_DATA, {}, {"valid_until": None}),
    (C.TRADING_HALTED, {"state": TradingState.HALTED}, {}),
    (C.TRADING_REDUCING, {"state": TradingState.REDUCING}, {}),
    (C.MARKET_CLOSED, shut(60), {}),
    (C.MARKET_CLOSED, shut(60 * 60), {"time_in_force": TimeInForce.OPG}),
    (C.ACCOUNT_BLOCKED, account(is_blocked=True), {}),
    (C.ACCOUNT_CURRENCY, account(currency="EUR"), {}),
    (C.DAILY_LOSS, account(last_equity_usd=Decimal(104_000)), {}),
    (C.RESTRICTED, limits(restricted=frozenset("A")), {}),
    (C.FOREIGN_POSITION, {"positions": (position(5),)}, {}),
    (C.MISSING_DATA, {"assets": {}}, {}),
    (C.NOT_TRADABLE, {"assets": {"A": Asset("A", False, True, True, "active")}}, {}),
    (C.NOT_TRADABLE, {"assets": {"A": Asset("A", True, True, True, "inactive")}}, {}),
    (C.NOT_SHORTABLE, limits(allow_short=False), {"side": Side.SELL}),
    (C.NOT_SHORTABLE, account(shorting_enabled=False), {"side": Side.SELL}),
    (
        C.NOT_SHORTABLE,
        {"assets": {"A": Asset("A", True, False, True, "active")}},
        {"side": Side.SELL},
    ),
    (C.BAD_QUANTITY, {}, {"quantity": Decimal(0)}),
    (C.BAD_QUANTITY, {}, {"quantity": Decimal("NaN")}),
    (C.BAD_QUANTITY, {}, {"limit_price_usd": Decimal(-1)}),
    (C.MISSING_DATA, {"prices": {}}, {}),
    (C.MISSING_DATA, {"prices": {"A": LastPrice(Decimal(0), NOW)}}, {}),
    (C.PRICE_TOO_OLD, {"prices": {"A": LastPrice(PRICE, NOW - 61 * MINUTE)}}, {}),
    (C.PRICE_TOO_OLD, {"prices": {"A": LastPrice(PRICE, NOW + MINUTE)}}, {}),
    (C.PRICE_COLLAR, {}, {"reference_price_usd": Decimal("52.51")}),
    (C.PRICE_COLLAR, {}, {"limit_price_usd": Decimal("47.49")}),
    (C.ORDER_NOTIONAL, limits(order_notional_usd=Decimal(499)), {}),
    (C.POSITION_NOTIONAL, {}, {"quantity": Decimal(301)}),
    (C.GROSS_LEVERAGE, limits(gross_share=Decimal("0.0049")), {}),
    (C.NET_LEVERAGE, limits(net_share=Decimal("0.0049")), {}),
    (C.BUYING_POWER, account(buying_power_usd=Decimal(499)), {}),
    (C.DUPLICATE, {"journalled": frozenset({"iso-A-buy-1"})}, {}),
    (C.ORDER_COUNT, limits(order_count=0), {}),
    (C.LEG_DENIED, {}, {"leg": 2}),
    (C.MODEL_TOO_OLD, {"models_known_at": {"1d": NOW - 121 * DAY}}, {}),
    (C.MISSING_DATA, {"models_known_at": {"7d": NOW}}, {}),
    (C.MISSING_DATA, {}, {"horizon": None}),
    (C.DATA_QUALITY, {"data_problems": {"A": "no bar of the last session"}}, {}),
    (C.DATA_QUALITY, {"data_problems": {"*": "the lake is behind"}}, {}),
    (C.DRAWDOWN, {"peak_equity_usd": Decimal(120_000)}, {}),
    (C.ORDER_RATE, {"sent_last_hour": 2_000}, {}),
    (C.VOLUME_SHARE, {"average_volumes": {"A": Decimal(199)}}, {}),
    (C.MISSING_DATA, {"average_volumes": {}}, {}),
    (C.MISSING_DATA, {"average_volumes": {"A": Decimal("NaN")}}, {}),
    (C.MISSING_DATA, limits(sector_share=Decimal(1)), {}),
    (C.MISSING_DATA, {**limits(sector_share=Decimal(1)), "sectors": {"B": "x"}}, {}),
    (
        C.SECTOR_SHARE,
        {
            **limits(sector_share=Decimal("0.05")),
            "sectors": {"A": "x", "B": "x", "C": "y"},
            "positions": (position(95, "B"), position(900, "C")),
        },
        {},
    ),
    (
        C.DAY_TRADES,
        {**account(equity_usd=Decimal(24_999), last_equity_usd=Decimal(24_999)), **CLOSING},
        {"side": Side.SELL},
    ),
    (
        C.INTRADAY_MARGIN,
        {
            **in_2026(),
            **account(buying_power_usd=Decimal(10**9)),
            **limits(gross_share=Decimal(9), net_share=Decimal(9), position_share=Decimal(9)),
            "positions": (position(8_000, "B"),),
            "own_quantities": {"B": Decimal(8_000)},
        },
        {"valid_until": NOW_2026 + 60 * MINUTE},
    ),
    (C.WASH_TRADE, {"open_orders": (resting(Side.SELL),)}, {}),
    (C.WASH_TRADE, {"open_orders": (resting(Side.BUY),)}, {"side": Side.SELL}),
]


def test_a_plain_order_passes():
    assert codes() == []
    assert codes(intent(side=Side.SELL)) == []


@pytest.mark.parametrize(("code", "context", "order"), CASES)
def test_each_check_denies_with_its_own_code_only(code, context, order):
    assert set(codes(intent(**order), **context)) == {code}


def test_every_code_is_met_by_a_case():
    of_the_planner = {C.BAD_SIGNAL, C.BAD_PRICE}  # before there is an order: see test_plan.py
    assert {code for code, _, _ in CASES} | of_the_planner == set(DenialCode)


@pytest.mark.parametrize(
    "name",
    [
        "state",
        "batch",
        "account",
        "clock",
        "positions",
        "open_orders",
        "own_quantities",
        "journalled",
        "models_known_at",
        "data_problems",
        "peak_equity_usd",
        "sent_last_hour",
        "day_trading",
    ],
)
def test_missing_data_denies(name):
    assert codes(**{name: None}) == [C.MISSING_DATA]


@pytest.mark.parametrize("field", ["equity_usd", "last_equity_usd", "buying_power_usd"])
def test_an_account_without_numbers_denies(field):
    assert codes(**account(**{field: Decimal("NaN")})) == [C.MISSING_DATA]


def test_a_held_symbol_without_any_price_denies():
    unpriced = Position("Z", Decimal(5), PRICE, Decimal(0), Decimal(0))
    assert codes(positions=(unpriced,)) == [C.MISSING_DATA]


def test_orders_for_the_open_pass_before_it():
    assert codes(intent(time_in_force=TimeInForce.OPG), **shut(30)) == []
    assert codes(**shut(2)) == []


def test_reducing_orders_pass_where_risk_falls():
    held = {"positions": (position(10),), "own_quantities": {"A": Decimal(10)}}
    close = intent(side=Side.SELL, valid_until=None)
    for context in (
        {"state": TradingState.REDUCING},
        account(last_equity_usd=Decimal(120_000)),
        account(buying_power_usd=Decimal(0)),
        limits(gross_share=Decimal(0), net_share=Decimal(0), position_share=Decimal(0)),
        limits(allow_short=False),
        {"positions": (position(25),)},
    ):
        assert codes(close, **{**held, **context}) == []
    assert codes(close, **held, state=TradingState.HALTED) == [C.TRADING_HALTED]
    more = intent(11, Side.SELL)
    assert codes(more, **held, state=TradingState.REDUCING) == [C.TRADING_REDUCING]


def test_a_sale_makes_no_room_for_a_purchase():
    held = replace(
        FINE,
        positions=(position(1000, "B"),),
        own_quantities={"B": Decimal(1000)},
        limits=replace(LIMITS, gross_share=Decimal("0.5")),
    )
    sell, buy = check_plan([intent(1000, Side.SELL, "B"), intent()], held)
    assert sell.accepted
    assert [d.code for d in buy.denials] == [C.GROSS_LEVERAGE]


def test_the_second_leg_needs_the_first():
    held = {"positions": (position(10),), "own_quantities": {"A": Decimal(10)}}
    legs = [intent(10, Side.SELL), intent(5, Side.SELL, leg=2)]
    assert [v.accepted for v in check_plan(legs, replace(FINE, **held))] == [True, True]
    late = replace(FINE, **held, journalled=frozenset({"iso-A-sell-1"}))
    first, second = check_plan(legs, late)
    assert [d.code for d in first.denials] == [C.DUPLICATE]
    assert [d.code for d in second.denials] == [C.LEG_DENIED]


def test_the_documented_table_and_the_code_agree():
    assert set(DENIALS) == set(DenialCode)
    documented = Path(__file__).parents[2] / "docs" / "denials.md"
    assert documented.read_text() == denial_table()


@pytest.mark.parametrize("change", [{"gross_share": Decimal("NaN")}, {"order_count": -1}])
def test_limits_that_limit_nothing_are_refused(change):
    with pytest.raises(ExecutionError, match="out of range"):
        RiskLimits(**change)


sides = st.sampled_from(list(Side))
symbols = st.sampled_from("ABC")
quantities = st.integers(1, 900)


@settings(max_examples=150, deadline=None)
@given(
    held=st.dictionaries(symbols, st.integers(-400, 400)),
    resting=st.lists(st.tuples(symbols, sides, quantities), max_size=3),
    wanted=st.lists(st.tuples(symbols, sides, quantities), max_size=6),
    shares=st.tuples(*[st.decimals("0.01", "1.5", places=2)] * 3),
    power=st.integers(0, 150_000),
    notional=st.integers(100, 50_000),
    count=st.integers(0, 4),
    own_all=st.booleans(),
)
def test_no_accepted_plan_can_break_a_limit_whatever_fills(
    held, resting, wanted, shares, power, notional, count, own_all
):
    own = {s: Decimal(q) for s, q in held.items()} if own_all else {}
    orders = [
        Order(f"o{n}", "b", s, side, Decimal(q), Decimal(0), None, OrderStatus.ACCEPTED, NOW, NOW)
        for n, (s, side, q) in enumerate(resting)
    ]
    intents = [
        intent(q, side, s, client_order_id=f"iso-{n}") for n, (s, side, q) in enumerate(wanted)
    ]
    rules = RiskLimits(
        position_share=shares[0],
        gross_share=shares[1],
        net_share=shares[2],
        order_notional_usd=Decimal(notional),
        order_count=count,
        allow_short=True,
    )
    context = replace(
        FINE,
        positions=tuple(position(q, s) for s, q in held.items()),
        open_orders=tuple(orders),
        own_quantities=own,
        account=replace(ACCOUNT, buying_power_usd=Decimal(power)),
        limits=rules,
    )
    accepted = [v.intent for v in check_plan(intents, context) if v.accepted]
    assert len(accepted) <= count
    moves = [(o.symbol, o.quantity if o.side is Side.BUY else -o.quantity) for o in orders]
    before = worst(held, moves)
    after = worst(held, moves + [(i.symbol, i.signed_quantity) for i in accepted])
    equity = ACCOUNT.equity_usd
    for name, share in (("gross", rules.gross_share), ("net", rules.net_share)):
        assert after[name] <= max(share * equity, before[name])
    for symbol in "ABC":
        assert after[symbol] <= max(rules.position_share * equity, before[symbol])
    if any(i.client_order_id not in reducing(accepted, held, own) for i in accepted):
        opened = sum(opening(held, moves, i) for i in accepted)
        assert opened <= power
    for one in accepted:
        if one.client_order_id not in reducing(accepted, held, own):
            assert one.quantity * PRICE <= rules.order_notional_usd


def worst(held, moves):
    """The worst figures over every subset of moves that may fill: the naive way."""
    figures = dict.fromkeys(("gross", "net", *"ABC"), Decimal(0))
    for filled in itertools.product([False, True], repeat=len(moves)):
        at = {s: Decimal(held.get(s, 0)) for s in "ABC"}
        for (symbol, signed), done in zip(moves, filled, strict=True):
            at[symbol] += signed if done else 0
        values = {s: abs(q) * PRICE for s, q in at.items()}
        totals = {"gross": sum(values.values()), "net": abs(sum(at.values())) * PRICE}
        figures = {k: max(v, {**values, **totals}[k]) for k, v in figures.items()}
    return figures


def reducing(accepted, held, own):
    return {
        i.client_order_id
        for i in accepted
        if own.get(i.symbol, 0) * i.signed_quantity < 0 and i.quantity <= abs(own[i.symbol])
    }


def opening(held, moves, one):
    """What an order surely opens, if nothing else fills."""
    at = Decimal(held.get(one.symbol, 0))
    closes = abs(at) if at * one.signed_quantity < 0 else Decimal(0)
    return max(one.quantity - closes, Decimal(0)) * PRICE
