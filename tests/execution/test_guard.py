"""Trading stops itself, as far as each cause asks for, and only a person resumes."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest

from execution.denials import DenialCode
from execution.guard import GuardRules
from execution.risk import RiskLimits
from execution.state import TradingState, current_state, halt, resume
from execution.trade import TradeRules, trade, watch
from market.errors import BrokerRefusal, ExecutionError
from market.ledger import open_ledger
from market.ledger_tables import trading_state
from tests.execution.memory_broker import NOW, MemoryBroker
from tests.execution.scenes import AS_OF, content, market_of, publish

RULES = TradeRules(limits=RiskLimits(drawdown_share=Decimal("0.10")))
LATER = NOW + dt.timedelta(minutes=2)


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
def broker():
    return MemoryBroker(dict.fromkeys("ABCDE", 50.0))


def look(ledger, broker, now=LATER, **changes):
    market = market_of(broker, now - dt.timedelta(minutes=1), **changes)
    watch(ledger, broker, market=market, rules=RULES, now=now)
    return current_state(ledger)


def reasons(ledger):
    return [r["reason"] for r in ledger.rows(trading_state.select().order_by(trading_state.c.seq))]


def losing(broker, last: int, now: int):
    """The account shows these equities, of the last session and of now."""
    account = MemoryBroker.account

    def shown():
        made = account(broker)
        return replace(made, equity_usd=Decimal(now), last_equity_usd=Decimal(last))

    broker.account = shown


def test_a_calm_account_trades_on(ledger, broker):
    assert look(ledger, broker) is TradingState.ACTIVE
    assert reasons(ledger) == []


def test_a_daily_loss_leaves_only_what_reduces(ledger, broker):
    losing(broker, 100_000, 96_999)
    assert look(ledger, broker) is TradingState.REDUCING
    assert "daily loss: 3.00%" in reasons(ledger)[0]
    look(ledger, broker)
    assert len(reasons(ledger)) == 1  # latched once, not at each look


def test_a_drawdown_halts_even_after_a_quiet_day(ledger, broker):
    look(ledger, broker)
    losing(broker, 90_000, 89_999)
    assert look(ledger, broker) is TradingState.HALTED
    assert "drawdown" in reasons(ledger)[0]


def test_refused_orders_halt_and_deny_the_next_plan(ledger, broker, tmp_path):
    def refuse(step: str) -> None:
        if step == "before submit":
            raise BrokerRefusal("no", remedy="none")

    publish(ledger, tmp_path, *(content(s) for s in "ABCD"))
    broker.on_step = refuse
    market = market_of(broker)
    trade(ledger, broker, market=market, rules=RULES, now=NOW)
    assert current_state(ledger) is TradingState.HALTED
    assert "4 of today's 4 orders" in reasons(ledger)[0]
    broker.on_step = lambda _step: None
    publish(ledger, tmp_path, content("E"), as_of=AS_OF + dt.timedelta(minutes=1))
    report = trade(ledger, broker, market=market, rules=RULES, now=NOW)
    assert {d.code for v in report.verdicts for d in v.denials} == {DenialCode.TRADING_HALTED}


def test_three_refusals_are_no_pattern_yet(ledger, broker, tmp_path):
    def refuse(step: str) -> None:
        if step == "before submit":
            raise BrokerRefusal("no", remedy="none")

    publish(ledger, tmp_path, *(content(s) for s in "ABC"))
    broker.on_step = refuse
    trade(ledger, broker, market=market_of(broker), rules=RULES, now=NOW)
    assert current_state(ledger) is TradingState.ACTIVE


@pytest.mark.parametrize(
    ("priced", "open_now", "state"),
    [
        ("AB", True, TradingState.ACTIVE),
        ("A", True, TradingState.REDUCING),
        ("", True, TradingState.REDUCING),
        ("", False, TradingState.ACTIVE),
    ],
)
def test_prices_that_stop_coming_leave_only_what_reduces(ledger, broker, priced, open_now, state):
    broker.holdings = {"A": Decimal(10), "B": Decimal(10)}
    broker.clock_now = replace(broker.clock_now, is_open=open_now)
    whole = market_of(broker, LATER - dt.timedelta(minutes=1)).prices
    prices = {s: p for s, p in whole.items() if s in priced}
    assert look(ledger, broker, prices=prices) is state


def test_a_halted_state_is_never_softened(ledger, broker):
    halt(ledger, "by hand", NOW)
    losing(broker, 100_000, 96_000)
    assert look(ledger, broker) is TradingState.HALTED
    assert reasons(ledger) == ["by hand"]


def test_a_cause_that_is_still_there_latches_again(ledger, broker):
    losing(broker, 100_000, 96_000)
    look(ledger, broker)
    resume(ledger, "I know", LATER)
    assert look(ledger, broker) is TradingState.REDUCING


@pytest.mark.parametrize(
    "change", [{"rejected_share": Decimal(0)}, {"blind_share": Decimal("NaN")}]
)
def test_rules_that_never_stop_are_refused(change):
    with pytest.raises(ExecutionError, match="out of range"):
        GuardRules(**change)
