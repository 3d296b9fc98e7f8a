"""Where each cause begins: one step short of it nothing stops, and its words say what was seen."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest

from execution.broker import Account, Position
from execution.dispatch import SyncReport
from execution.guard import GuardRules, Stop, causes_to_stop, stop_trading
from execution.journal import JournalState
from execution.reconcile import Finding, FindingKind, Reconciliation
from execution.risk_context import RiskLimits
from execution.state import TradingState, current_state
from execution.trade import TradeRules, trade
from market.calendar import NEW_YORK
from market.errors import ExecutionError
from market.ledger import open_ledger
from market.ledger_tables import orders, reconciliations, trading_state
from tests.execution.memory_broker import NOW, MemoryBroker
from tests.execution.scenes import content, market_of, publish

LIMITS = RiskLimits(drawdown_share=Decimal("0.10"), daily_loss_share=Decimal("0.03"))
SYMBOLS = "ABCDEFGH"
HALTED, REDUCING = TradingState.HALTED, TradingState.REDUCING


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


def seen(equity="100000", last=None, findings=(), values=None) -> Reconciliation:
    """What a reconciliation found: equity now and at the last close, and holdings by value."""
    now, before = Decimal(equity), Decimal(equity if last is None else last)
    account = Account("PA1", "USD", now, now, before, now, False, True)
    held = tuple(
        Position(s, Decimal(v) / 10, Decimal(10), Decimal(10), Decimal(v))
        for s, v in (values or {}).items()
    )
    return Reconciliation(NOW, account, held, tuple(findings), SyncReport(0, 0, ()))


def causes(ledger, found, rules=None, fresh=None, broker="paper") -> list[tuple[TradingState, str]]:
    given = causes_to_stop(ledger, found, LIMITS, rules or GuardRules(), broker=broker, fresh=fresh)
    return [(s.state, s.reason) for s in given]


def peaked(ledger, equity: str, broker="paper") -> None:
    row = {"seq": 1, "at": NOW, "broker": broker, "clean": True, "equity_usd": Decimal(equity)}
    row |= {"cash_usd": Decimal(0), "own_cash_flow_usd": Decimal(0)}
    with ledger.transaction() as connection:
        connection.execute(reconciliations.insert(), {**row, "findings": [], "positions": []})


def test_nothing_speaks_for_stopping_on_a_calm_day(ledger):
    assert causes(ledger, seen(values={"A": 100}), fresh=frozenset("A")) == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_drift_halts_and_names_the_first_and_how_many_more(ledger, count):
    drift = [Finding(FindingKind.POSITION_DRIFT, s, f"{s} differs") for s in SYMBOLS[:count]]
    foreign = Finding(FindingKind.FOREIGN_ORDER, "x", "of somebody else")
    more = {1: "", 2: " and 1 more", 3: " and 2 more"}[count]
    said = f"reconciliation: position_drift A (A differs){more}"
    assert causes(ledger, seen(findings=[foreign, *drift])) == [(HALTED, said)]
    assert causes(ledger, seen(findings=[foreign])) == []


def test_a_drawdown_is_more_than_its_limit_below_the_highest_equity(ledger):
    peaked(ledger, "100000")
    assert causes(ledger, seen("90000")) == []
    said = "drawdown: equity 89999 is 10.00% below its peak 100000.000000"
    assert causes(ledger, seen("89999")) == [(HALTED, said)]
    assert causes(ledger, seen("89999"), broker="another") == []
    assert causes(ledger, seen("120000")) == []


def test_without_a_past_the_present_equity_is_the_peak(ledger):
    assert causes(ledger, seen("100000")) == []


@pytest.mark.parametrize("equity", ["0", "-5"])
def test_an_account_that_is_worth_nothing_is_wholly_lost(ledger, equity):
    assert causes(ledger, seen(equity)) == [
        (HALTED, f"drawdown: equity {equity} is 100.00% below its peak {equity}"),
        (REDUCING, f"daily loss: 100.00% of {equity} USD"),
    ]


def test_an_account_of_cents_is_judged_by_what_it_had(ledger):
    peaked(ledger, "0.50")
    assert causes(ledger, seen("0.48")) == []
    assert [s for s, _ in causes(ledger, seen("0.40", last="0.40"))] == [HALTED]


def test_a_daily_loss_is_more_than_its_limit_below_the_last_close(ledger):
    assert causes(ledger, seen("97000", last="100000")) == []
    said = "daily loss: 4.00% of 100000 USD"
    assert causes(ledger, seen("96000", last="100000")) == [(REDUCING, said)]
    assert causes(ledger, seen("0.96", last="1")) == [(REDUCING, "daily loss: 4.00% of 1 USD")]
    assert [s for s, _ in causes(ledger, seen("100", last="-1"))] == [REDUCING]


@pytest.fixture
def day(ledger, tmp_path):
    """Eight orders of today; ``become`` changes some of them in the journal."""
    broker = MemoryBroker(dict.fromkeys(SYMBOLS, 50.0))
    publish(ledger, tmp_path, *(content(s) for s in SYMBOLS))
    trade(ledger, broker, market=market_of(broker), rules=TradeRules(), now=NOW)
    become(ledger, SYMBOLS, state="filled")
    return ledger


def become(ledger, symbols, **values) -> None:
    with ledger.transaction() as connection:
        changed = orders.update().where(orders.c.symbol.in_(list(symbols))).values(**values)
        assert connection.execute(changed).rowcount == len(symbols)


def test_the_share_of_refused_orders_halts_from_its_limit_on(day):
    become(day, "ABC", state="rejected")
    assert causes(day, seen()) == []
    become(day, "D", state="rejected")
    assert causes(day, seen()) == [(HALTED, "rejects: 4 of today's 8 orders")]


def test_no_refused_order_is_no_share(day):
    assert causes(day, seen(), GuardRules(rejected_share=Decimal("0.01"))) == []
    become(day, "A", state="rejected")
    assert causes(day, seen(), GuardRules(rejected_share=Decimal("0.01"))) != []


@pytest.mark.parametrize("state", [s for s in JournalState if s is not JournalState.REJECTED])
def test_only_orders_that_the_broker_answered_are_counted(day, state):
    become(day, SYMBOLS, state=state.value)
    become(day, "ABC", state="rejected")
    answered = state in {
        JournalState.ACCEPTED,
        JournalState.PARTIALLY_FILLED,
        JournalState.FILLED,
    }
    rules = GuardRules(rejected_least=3)
    counted = [] if answered else [(HALTED, "rejects: 3 of today's 3 orders")]
    assert causes(day, seen(), rules) == counted


def test_a_handful_of_orders_is_no_pattern(day):
    become(day, "DEFGH", state="cancelled")
    become(day, "ABC", state="rejected")
    assert causes(day, seen()) == []
    become(day, "D", state="rejected")
    assert causes(day, seen()) == [(HALTED, "rejects: 4 of today's 4 orders")]


def test_orders_count_from_midnight_in_new_york_on(day):
    midnight = NOW.astimezone(NEW_YORK).replace(hour=0, minute=0, second=0, microsecond=0)
    become(day, "ABCD", state="rejected", updated_at=midnight - dt.timedelta(microseconds=1))
    assert causes(day, seen()) == []
    become(day, "ABCD", updated_at=midnight)
    assert [s for s, _ in causes(day, seen())] == [HALTED]


def test_exits_at_the_broker_are_no_orders_of_ours(day):
    become(day, "ABCD", state="rejected", parent_id="entry")
    assert causes(day, seen()) == []


@pytest.mark.parametrize(
    ("values", "fresh", "share"),
    [
        ({"A": 101, "B": 100}, "A", None),
        ({"A": 100, "B": 100}, "A", "50%"),
        ({"A": 1, "B": -3}, "A", "75%"),
        ({"A": -3, "B": 1}, "A", None),
        ({"A": 1}, "", "100%"),
        ({"A": "0.25"}, "", "100%"),
        ({"A": 1}, "A", None),
        ({"A": 0}, "", None),
        ({}, "", None),
    ],
)
def test_blindness_is_a_share_of_what_is_held_by_value(ledger, values, fresh, share):
    said = [(REDUCING, f"data loss: no fresh price for {share} of holdings")] if share else []
    assert causes(ledger, seen(values=values), fresh=frozenset(fresh)) == said
    assert causes(ledger, seen(values=values), fresh=None) == []


def test_half_of_four_orders_and_half_of_holdings_are_the_defaults():
    assert GuardRules() == GuardRules(
        rejected_share=Decimal("0.5"), rejected_least=4, blind_share=Decimal("0.5")
    )


@pytest.mark.parametrize("name", ["rejected_share", "blind_share"])
@pytest.mark.parametrize(
    ("value", "fits"),
    [("0", False), ("0.001", True), ("1", True), ("1.001", False), ("NaN", False), ("-1", False)],
)
def test_a_share_is_above_nothing_and_at_most_all(name, value, fits):
    if fits:
        assert getattr(GuardRules(**{name: Decimal(value)}), name) == Decimal(value)
        return
    with pytest.raises(ExecutionError) as told:
        GuardRules(**{name: Decimal(value)})
    assert name in str(told.value)
    assert value in str(told.value)


@pytest.mark.parametrize(
    ("before", "stops", "after", "kept"),
    [
        ("active", [], "active", []),
        ("active", ["reducing"], "reducing", ["reducing"]),
        ("active", ["reducing", "halted"], "halted", ["halted"]),
        ("active", ["halted", "reducing"], "halted", ["halted"]),
        ("reducing", ["reducing"], "reducing", []),
        ("reducing", ["halted"], "halted", ["halted"]),
        ("halted", ["reducing", "halted"], "halted", []),
    ],
)
def test_only_what_stops_more_is_latched(ledger, before, stops, after, kept):
    if before != "active":
        stop_trading(ledger, [Stop(TradingState(before), "before")], NOW)
    given = [Stop(TradingState(s), s) for s in stops]
    assert stop_trading(ledger, given, NOW) is TradingState(after)
    assert current_state(ledger) is TradingState(after)
    rows = ledger.rows(trading_state.select())
    assert [r["reason"] for r in rows if r["reason"] != "before"] == kept
