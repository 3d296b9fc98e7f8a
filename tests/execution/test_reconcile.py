"""Journal against account: what is drift, what is foreign, and what a split does to both."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution.adjustments import CorporateActions, apply_actions, read_adjustments, split_levels
from execution.broker import Order, OrderStatus, Side
from execution.holdings import held_positions, own_quantities
from execution.reconcile import FindingKind, accept, newest_reconciliation, peak_equity, reconcile
from execution.state import TradingState, current_state, resume, verify_audit
from execution.trade import TradeRules, trade
from market.errors import ExecutionError
from market.ledger import open_ledger
from market.schema import DIVIDEND_SCHEMA, IDENTITY_SCHEMA, SPLIT_SCHEMA, empty
from tests.execution.memory_broker import NOW, MemoryBroker
from tests.execution.scenes import AS_OF, a_signal, content, market_of, publish, table

LATER = NOW + dt.timedelta(minutes=2)
NEXT_DAY = dt.date(2025, 3, 5)
MORNING = dt.datetime(2025, 3, 5, 15, 0, tzinfo=dt.UTC)
LEVELS = {"targets": [110.0], "stops": [95.0], "valid_until": NOW + dt.timedelta(days=9)}


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
def broker(ledger, tmp_path):
    """Isobar holds 33 shares of A."""
    broker = MemoryBroker({"A": 100.0, "B": 50.0})
    publish(ledger, tmp_path, content("A", **LEVELS))
    run(ledger, broker)
    assert broker.holdings == {"A": 33}
    return broker


def run(ledger, broker, now=NOW):
    broker.clock_now = replace(broker.clock_now, now=now)
    market = market_of(broker, now - dt.timedelta(minutes=1), volatility=0.36)
    return trade(ledger, broker, market=market, rules=TradeRules(), now=now)


def actions(splits=(), dividends=(), spells=()):
    known = dt.datetime(2025, 3, 1, tzinfo=dt.UTC)
    made = CorporateActions(*(empty(s) for s in (SPLIT_SCHEMA, DIVIDEND_SCHEMA, IDENTITY_SCHEMA)))
    if splits:
        rows = [(s, day, known, ratio) for s, day, ratio in splits]
        made = replace(made, splits=pl.DataFrame(rows, schema=SPLIT_SCHEMA, orient="row"))
    if dividends:
        rows = [(s, day, known, amount) for s, day, amount in dividends]
        made = replace(made, dividends=pl.DataFrame(rows, schema=DIVIDEND_SCHEMA, orient="row"))
    if spells:
        rows = [("figi", "figi", s, start, end, True, None, known) for s, start, end in spells]
        made = replace(made, identities=pl.DataFrame(rows, schema=IDENTITY_SCHEMA, orient="row"))
    return made


def kinds(found):
    return [(f.kind, f.key) for f in found.findings]


def test_journal_and_account_agree_after_a_run(ledger, broker):
    found = reconcile(ledger, broker, LATER)
    assert found.is_clean
    assert kinds(found) == []
    row = newest_reconciliation(ledger)
    assert row["clean"]
    assert [(p["symbol"], p["own"]) for p in row["positions"]] == [("A", "33")]


def test_what_somebody_else_holds_and_orders_is_foreign(ledger, broker):
    broker.holdings |= {"A": Decimal(40), "B": Decimal(-5)}
    broker.orders["mine"] = Order(
        "mine", "x1", "B", Side.SELL, Decimal(1), Decimal(0), None, OrderStatus.ACCEPTED, NOW, NOW
    )
    found = reconcile(ledger, broker, LATER)
    assert found.is_clean
    assert kinds(found) == [
        (FindingKind.FOREIGN_POSITION, "A"),
        (FindingKind.FOREIGN_POSITION, "B"),
        (FindingKind.FOREIGN_ORDER, "mine"),
    ]


@pytest.mark.parametrize("there", [32, 0, -4])
def test_less_than_ours_is_drift_and_halts_until_a_person_accepts_it(ledger, broker, there):
    broker.holdings["A"] = Decimal(there)
    run(ledger, broker, LATER)
    assert current_state(ledger) is TradingState.HALTED
    resume(ledger, "looked at it", LATER)
    run(ledger, broker, LATER)
    assert current_state(ledger) is TradingState.HALTED  # the cause is still there
    found = reconcile(ledger, broker, LATER)
    assert kinds(found) == [(FindingKind.POSITION_DRIFT, "A")]
    accept(ledger, found, "A", "sold by hand", LATER)
    assert own_quantities(ledger).get("A", 0) == there
    resume(ledger, "explained", LATER)
    run(ledger, broker, LATER)
    assert current_state(ledger) is TradingState.ACTIVE
    assert verify_audit(ledger) == []


def test_an_order_of_ours_that_no_journal_knows_halts(ledger, broker):
    stranger = Order(
        "iso-lost-1", "x1", "B", Side.BUY, Decimal(1), Decimal(1), Decimal(50),
        OrderStatus.FILLED, NOW, NOW,
    )  # fmt: skip
    broker.orders["iso-lost-1"] = stranger
    run(ledger, broker, LATER)
    assert current_state(ledger) is TradingState.HALTED
    found = reconcile(ledger, broker, LATER)
    assert kinds(found) == [(FindingKind.ORDER_UNJOURNALLED, "iso-lost-1")]
    accept(ledger, found, "iso-lost-1", "from before the backup", LATER)
    assert reconcile(ledger, broker, LATER).is_clean


def test_an_order_that_the_broker_forgot_is_drift(ledger, broker, tmp_path):
    broker.fill_share = Decimal(0)
    publish(ledger, tmp_path, content("B"), as_of=AS_OF + dt.timedelta(minutes=1))
    run(ledger, broker)
    (order_id,) = [k for k, o in broker.orders.items() if o.symbol == "B"]
    del broker.orders[order_id]
    found = reconcile(ledger, broker, LATER)
    assert kinds(found) == [(FindingKind.ORDER_MISSING, order_id)]
    accept(ledger, found, order_id, "the broker lost it", LATER)
    assert reconcile(ledger, broker, LATER).is_clean


def test_nothing_is_accepted_without_drift_or_reason(ledger, broker):
    found = reconcile(ledger, broker, LATER)
    with pytest.raises(ExecutionError, match="cannot be accepted"):
        accept(ledger, found, "A", "why not", LATER)
    broker.holdings["A"] = Decimal(0)
    found = reconcile(ledger, broker, LATER)
    with pytest.raises(ExecutionError, match="cannot be accepted"):
        accept(ledger, found, "A", " ", LATER)


def test_a_split_changes_the_position_its_levels_and_not_its_worth(ledger, broker):
    split = actions(splits=[("A", NEXT_DAY, 2.0)])
    assert reconcile(ledger, broker, LATER, actions=split).is_clean  # not its day yet
    assert own_quantities(ledger) == {"A": 33}
    broker.holdings["A"] = Decimal(66)
    for _ in range(2):
        assert reconcile(ledger, broker, MORNING, actions=split).is_clean
    assert own_quantities(ledger) == {"A": 66}
    (held,) = held_positions(ledger)
    assert (held.target_price, held.stop_price) == (55, Decimal("47.5"))


def test_a_fraction_that_was_paid_out_is_no_drift(ledger, broker):
    reverse = actions(splits=[("A", NEXT_DAY, 0.1)])
    broker.holdings["A"] = Decimal(3)
    assert reconcile(ledger, broker, MORNING, actions=reverse).is_clean
    assert own_quantities(ledger) == {"A": 3}
    assert reconcile(ledger, broker, MORNING, actions=reverse).findings == ()


def test_a_rename_moves_the_position_and_its_exit_rule(ledger, broker):
    renamed = actions(spells=[("A", None, NEXT_DAY), ("AA", NEXT_DAY, None)])
    broker.holdings = {"AA": Decimal(33)}
    broker.prices["AA"] = Decimal(100)
    assert reconcile(ledger, broker, MORNING, actions=renamed).is_clean
    assert own_quantities(ledger) == {"AA": 33}
    (held,) = held_positions(ledger)
    assert (held.symbol, held.stop_price, held.opened_by_horizon) == ("AA", 95, "1d")


def test_a_dividend_is_cash_and_no_shares(ledger, broker):
    paid = actions(dividends=[("A", NEXT_DAY, 0.25), ("B", NEXT_DAY, 1.0)])
    assert reconcile(ledger, broker, MORNING, actions=paid).is_clean
    (one,) = read_adjustments(ledger)
    assert (one.symbol, one.quantity, one.cash_usd) == ("A", 0, Decimal("8.25"))


@settings(max_examples=60, deadline=None)
@given(
    ratios=st.lists(st.sampled_from([2.0, 3.0, 0.5, 1.5, 0.1]), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_splits_are_applied_once_in_the_order_of_their_days(tmp_path_factory, ratios, order):
    folder = tmp_path_factory.mktemp("splits")
    with open_ledger(f"sqlite:///{folder}/ledger.db") as ledger:
        broker = MemoryBroker({"A": 100.0})
        publish(ledger, folder, content("A", **LEVELS))
        run(ledger, broker)
        days = [NEXT_DAY + dt.timedelta(days=k) for k in (0, 1, 5, 6)]
        every = [("A", day, ratio) for day, ratio in zip(days, ratios, strict=False)]
        order.shuffle(every)
        end = MORNING + dt.timedelta(days=9)
        for upto in sorted(order.sample(range(10), 3)):
            apply_actions(ledger, actions(splits=every), MORNING + dt.timedelta(days=upto))
        apply_actions(ledger, actions(splits=every), end)
        expected = Decimal(33)
        for ratio in ratios:
            expected = (expected * Decimal(str(ratio))).quantize(Decimal("1e-9"), "ROUND_DOWN")
        assert own_quantities(ledger) == {"A": expected}


def test_cash_that_no_fill_explains_is_named_once(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("B"), as_of=AS_OF + dt.timedelta(minutes=1))
    report = run(ledger, broker)
    assert broker.holdings["B"] > 0
    assert report.reconciliation.findings == ()
    broker.cash += Decimal(250)
    found = reconcile(ledger, broker, LATER)
    assert kinds(found) == [(FindingKind.FOREIGN_CASH, "cash")]
    assert "+250.00 USD" in found.findings[0].detail
    assert found.is_clean
    assert reconcile(ledger, broker, LATER).findings == ()


def test_the_peak_is_the_highest_equity_that_was_reconciled(ledger, broker):
    assert peak_equity(ledger, "memory") == 100_000
    broker.prices["A"] = Decimal(200)
    reconcile(ledger, broker, LATER)
    broker.prices["A"] = Decimal(90)
    reconcile(ledger, broker, LATER)
    assert peak_equity(ledger, "memory") == 103_300
    assert peak_equity(ledger, "another") is None


def test_a_split_holds_before_the_market_opens_and_levels_of_older_signals_follow(ledger, broker):
    """The premarket run trades the new shares: it must know how many it owns."""
    split = actions(splits=[("A", NEXT_DAY, 2.0)])
    premarket = MORNING - dt.timedelta(hours=2, minutes=30)
    broker.holdings["A"] = Decimal(66)
    assert reconcile(ledger, broker, premarket, actions=split).findings == ()
    assert own_quantities(ledger) == {"A": 66}
    older = a_signal("A", targets=[110.0], stops=[95.0])
    newer = a_signal("A", targets=[56.0], stops=[48.0], as_of=premarket)
    other = a_signal("B", targets=[110.0], stops=[95.0])
    rows = table(older, newer, other)
    assert split_levels(rows, split.splits, premarket)["targets"].to_list() == [
        [55.0],
        [56.0],
        [110.0],
    ]
    assert split_levels(rows, split.splits, premarket)["stops"].to_list()[0] == [47.5]
    eve = premarket - dt.timedelta(hours=12)
    assert split_levels(rows, split.splits, eve)["targets"].to_list()[0] == [110.0]
