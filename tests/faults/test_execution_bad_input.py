"""Input that cannot be traded on: denied with its code, and nothing is sent."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest

from execution import trade as trade_module
from execution.denials import DenialCode
from execution.intents import LastPrice
from execution.reconcile import FindingKind
from execution.risk import RiskLimits
from execution.state import TradingState, current_state, verify_audit
from execution.targets import TargetReason, TargetRules
from execution.trade import TradeRules, trade
from market.errors import IsobarError
from market.ledger import open_ledger
from signals.schema import SIGNAL_SCHEMA
from tests.execution.memory_broker import NOW, MemoryBroker
from tests.execution.scenes import a_signal, content, market_of, publish, table

LONG = {"A": 100.0, "B": 50.0}
C = DenialCode


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
def broker():
    return MemoryBroker(LONG)


def run(ledger, broker, rules=None, **market):
    view = replace(market_of(broker), **market)
    return trade(ledger, broker, market=view, rules=rules or TradeRules(), now=NOW)


def codes(report):
    return set(report.denials)


def refused(ledger, broker, report):
    """What was denied before there was an order: in the report, the journal and the audit log."""
    logged = ledger.rows("SELECT key, event FROM audit_log WHERE subject = 'denial' ORDER BY seq")
    found = [(r.symbol, r.code) for r in report.refused]
    assert [(r["key"], C(r["event"])) for r in logged] == found
    assert report.journalled.refused == report.plan.refused == report.refused
    again = run(ledger, broker)
    assert again.resumed
    assert again.refused == report.refused
    assert verify_audit(ledger) == []
    return found


@pytest.mark.parametrize(
    "change",
    [
        {"confidence": float("nan")},
        {"confidence": 1.01},
        {"confidence": -0.1},
        {"targets": [float("nan")]},
        {"stops": [-5.0]},
        {"targets": [float("inf")]},
    ],
)
def test_a_signal_whose_numbers_cannot_be_is_neither_published_nor_traded(
    ledger, broker, tmp_path, monkeypatch, change
):
    """Publication refuses it; should one stand in the ledger all the same, it moves nothing."""
    with pytest.raises(IsobarError):
        publish(ledger, tmp_path, content("A", **change))
    assert ledger.read("SELECT * FROM signals").is_empty()
    publish(ledger, tmp_path, content("A"), content("B"))
    spoilt = table(a_signal("A", **change), a_signal("B"))
    assert spoilt.schema == SIGNAL_SCHEMA
    monkeypatch.setattr(trade_module, "decode_signals", lambda _rows: spoilt)
    report = run(ledger, broker)
    assert codes(report) == {C.BAD_SIGNAL}
    assert refused(ledger, broker, report) == [("A", C.BAD_SIGNAL)]
    assert set(broker.holdings) == {"B"}


def test_a_spoilt_signal_closes_nothing(ledger, broker, tmp_path, monkeypatch):
    publish(ledger, tmp_path, content("A"))
    run(ledger, broker)
    held = dict(broker.holdings)
    publish(ledger, tmp_path, content("A"), as_of=NOW - dt.timedelta(minutes=1))
    spoilt = table(a_signal("A", confidence=float("nan"), direction="short"))
    monkeypatch.setattr(trade_module, "decode_signals", lambda _rows: spoilt)
    report = run(ledger, broker)
    assert report.targets.decisions[0].reason is TargetReason.KEPT_BAD_SIGNAL
    assert codes(report) == {C.BAD_SIGNAL}
    assert refused(ledger, broker, report) == [("A", C.BAD_SIGNAL)]
    assert broker.holdings == held


def test_a_symbol_that_the_broker_does_not_know(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("ZZZ"))
    view = market_of(broker)
    prices = {**view.prices, "ZZZ": view.prices["A"]}
    more = {"ZZZ": Decimal(10**7)}
    report = run(ledger, broker, prices=prices, volatilities={"ZZZ": 0.3}, average_volumes=more)
    assert codes(report) == {C.MISSING_DATA}
    assert broker.placed == []


@pytest.mark.parametrize("price", ["-1", "0", "NaN"])
def test_a_price_that_is_none(ledger, broker, tmp_path, price):
    publish(ledger, tmp_path, content("A"))
    report = run(ledger, broker, prices={"A": LastPrice(Decimal(price), NOW)})
    assert codes(report) == {C.BAD_PRICE}
    assert refused(ledger, broker, report) == [("A", C.BAD_PRICE)]
    assert broker.placed == []


@pytest.mark.parametrize(
    ("missing", "named"), [({"prices": {}}, "last price"), ({"volatilities": {}}, "volatility")]
)
def test_a_symbol_without_data(ledger, broker, tmp_path, missing, named):
    publish(ledger, tmp_path, content("A"))
    report = run(ledger, broker, **missing)
    assert [(r.code, r.detail) for r in report.refused] == [(C.MISSING_DATA, named)]
    assert broker.placed == []


def test_a_target_above_everything(ledger, broker, tmp_path):
    publish(ledger, tmp_path, content("A"))
    bold = TargetRules(
        gross_limit=9, net_limit=9, symbol_cap=9, symbol_volatility_target=9, turnover_limit=9
    )
    rules = TradeRules(bold, limits=RiskLimits(order_notional_usd=Decimal(10**9)))
    report = run(ledger, broker, rules=rules)
    assert codes(report) == {C.POSITION_NOTIONAL}
    assert broker.placed == []


@pytest.mark.parametrize("minutes", [-60, 60])
def test_a_clock_that_jumped(ledger, broker, tmp_path, minutes):
    publish(ledger, tmp_path, content("A"))
    moved = NOW + dt.timedelta(minutes=minutes)
    broker.clock_now = replace(broker.clock_now, now=moved)
    report = run(ledger, broker)
    assert codes(report) == {C.MISSING_DATA}
    assert broker.placed == []


@pytest.mark.parametrize(
    ("change", "code"),
    [({"is_blocked": True}, C.ACCOUNT_BLOCKED), ({"currency": "EUR"}, C.ACCOUNT_CURRENCY)],
)
def test_an_account_that_may_not_trade(ledger, broker, tmp_path, change, code):
    publish(ledger, tmp_path, content("A"))
    account = broker.account()
    broker.account = lambda: replace(account, **change)
    report = run(ledger, broker)
    assert codes(report) == {code}
    assert broker.placed == []


def test_a_ledger_that_is_behind_the_broker(tmp_path, broker):
    """An old copy of the ledger comes back after orders were sent: everything stops."""
    with open_ledger(f"sqlite:///{tmp_path}/lost/ledger.db") as lost:
        publish(lost, tmp_path / "lost", content("A"))
        run(lost, broker)
    sent = list(broker.placed)
    with open_ledger(f"sqlite:///{tmp_path}/old/ledger.db") as old:
        publish(old, tmp_path / "old", content("B"))
        report = run(old, broker)
        assert codes(report) == {C.TRADING_HALTED}
        assert current_state(old) is TradingState.HALTED
        kinds = {f.kind for f in report.reconciliation.findings}
        assert FindingKind.ORDER_UNJOURNALLED in kinds
    assert broker.placed == sent
