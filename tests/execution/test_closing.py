"""The exits of a session's close: what goes, what stays, when, and once."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execution.audit import verify_orders
from execution.broker import Clock, OrderStatus, OrderType, Side, TimeInForce
from execution.closing import FLAT_AT_CLOSE, closing_targets
from execution.denials import DenialCode
from execution.holdings import own_quantities
from execution.intents import PlanRules
from execution.journal import JournalState, find_closing, journal_position, pending_orders
from execution.journal_entries import record_closing
from execution.order_timing import closing_style
from execution.risk import RiskLimits
from execution.state import halt
from execution.targets import HeldPosition, TargetReason, TargetRules
from execution.trade import TradeRules, attend, trade, trade_close
from market import calendar
from market.errors import BrokerError, ExecutionError
from market.horizons import HORIZONS, Run, scheduled_for
from market.ledger import open_ledger
from tests.execution.memory_broker import NOW, Crash, FaultAt, MemoryBroker, outage
from tests.execution.scenes import a_signal, content, market_of, publish, table, watched

SESSION, HALF_DAY = NOW.date(), dt.date(2024, 7, 3)
MINUTE = dt.timedelta(minutes=1)
DUE = scheduled_for(Run.CLOSE, SESSION)
CLOSE = calendar.session_close(SESSION)
PAST_CUT_OFF = CLOSE - 10 * MINUTE
RULES = TradeRules(
    TargetRules(long_only=False, symbol_volatility_target=0.03),
    PlanRules(),
    RiskLimits(allow_short=True, volume_share=None),
)
LEVELS = {"targets": [110.0], "stops": [90.0]}


def clock_of(session, now):
    later = calendar.session_open(calendar.next_session(session))
    closes = calendar.session_close(session)
    if now >= closes:
        closes = calendar.session_close(calendar.next_session(session))
    return Clock(now, calendar.session_open(session) <= now < closes and closes.date() == session,
                 later, closes)  # fmt: skip


def close(ledger, broker, now=DUE, rules=RULES, session=SESSION, **changes):
    broker.clock_now = clock_of(session, now)
    market = market_of(broker, now - MINUTE)
    return trade_close(
        ledger, broker, session=session, market=market, rules=rules, now=now, **changes
    )


@contextlib.contextmanager
def invested(folder, rules=RULES, session=SESSION, **changes):
    """Isobar holds A (1h) and B (1d), and is short C (1h), since half an hour after the open."""
    broker = MemoryBroker({"A": 100.0, "B": 50.0, "C": 20.0})
    now = calendar.session_open(session) + 30 * MINUTE
    inside = {"horizon": "1h", "valid_until": calendar.session_close(session), **changes}
    batch = dict.fromkeys(("as_of", "scheduled_for", "ts_emit"), now - MINUTE)
    with open_ledger(f"sqlite:///{folder}/ledger.db") as ledger:
        rows = (
            content("A", **inside),
            content("B", valid_until=now + dt.timedelta(days=1)),
            content("C", direction="short", **{**inside, "targets": [], "stops": []}),
        )
        publish(ledger, folder, *rows, **batch)
        broker.clock_now = clock_of(session, now)
        market = market_of(broker, now - MINUTE)
        trade(ledger, broker, market=market, rules=rules, now=now)
        assert {s: q > 0 for s, q in broker.holdings.items()} == {"A": True, "B": True, "C": False}
        yield ledger, broker


def states(report):
    return {o.intent.symbol: o.state for o in report.journalled.orders}


def test_what_is_flat_overnight_goes_to_the_auction_and_nothing_else(tmp_path):
    with invested(tmp_path) as (ledger, broker):
        signals = ledger.read("select count(*) as n from signals").item()
        report = close(ledger, broker)
        assert report.batch_id == f"close-{SESSION}"
        intents = [o.intent for o in report.journalled.orders]
        assert [(i.symbol, i.side) for i in intents] == [("A", Side.SELL), ("C", Side.BUY)]
        for intent in intents:
            assert intent.time_in_force is TimeInForce.CLS
            assert intent.order_type is OrderType.MARKET
            assert intent.reason is TargetReason.EXIT_EXPIRED
            assert intent.valid_until == CLOSE
        assert set(states(report).values()) == {JournalState.FILLED}
        assert set(own_quantities(ledger)) == {"B"}
        assert [s["symbol"] for s in report.journalled.skipped] == ["B"]
        assert ledger.read("select count(*) as n from signals").item() == signals
        assert ledger.read("select count(*) as n from plans").item() == 1
        assert verify_orders(ledger, tmp_path / "audit.jsonl") == []


def test_a_second_run_carries_the_plan_on_whatever_the_market_says(tmp_path):
    with invested(tmp_path) as (ledger, broker):
        first = close(ledger, broker)
        placed = list(broker.placed)
        broker.prices["B"] = Decimal(1)
        again = close(ledger, broker, now=DUE + MINUTE)
        assert again.resumed
        assert broker.placed == placed
        ids = [[o.intent.client_order_id for o in r.journalled.orders] for r in (first, again)]
        assert ids[0] == ids[1]


def test_past_the_cut_off_it_leaves_at_once(tmp_path):
    with invested(tmp_path) as (ledger, broker):
        report = close(ledger, broker, now=PAST_CUT_OFF)
        kinds = {(o.intent.time_in_force, o.intent.order_type) for o in report.journalled.orders}
        assert kinds == {(TimeInForce.DAY, OrderType.MARKET)}
        assert set(own_quantities(ledger)) == {"B"}


@pytest.mark.parametrize(("minutes", "kind"), [(15, TimeInForce.CLS), (9, TimeInForce.DAY)])
def test_a_half_day_closes_at_one(tmp_path, minutes, kind):
    closes = calendar.session_close(HALF_DAY)
    assert closes.astimezone(calendar.NEW_YORK).time() == dt.time(13)
    with invested(tmp_path, session=HALF_DAY) as (ledger, broker):
        report = close(ledger, broker, now=closes - minutes * MINUTE, session=HALF_DAY)
        assert {o.intent.time_in_force for o in report.journalled.orders} == {kind}
        assert set(own_quantities(ledger)) == {"B"}


def test_an_exit_must_fill_so_it_has_no_limit(tmp_path):
    rules = replace(RULES, plan=PlanRules(limit_offset_bps=Decimal(10), extended_hours=True))
    with invested(tmp_path, rules) as (ledger, broker):
        report = close(ledger, broker, rules=rules)
        assert {o.intent.limit_price_usd for o in report.journalled.orders} == {None}
        assert {o.intent.extended_hours for o in report.journalled.orders} == {False}


@pytest.mark.parametrize(
    ("session", "now"),
    [
        (SESSION, DUE - 6 * MINUTE),
        (SESSION, CLOSE),
        (calendar.previous_session(SESSION), DUE),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_only_the_session_that_is_about_to_close_is_closed(tmp_path, session, now, dry_run):
    with invested(tmp_path) as (ledger, broker):
        placed = list(broker.placed)
        broker.clock_now = clock_of(SESSION, now)
        with pytest.raises(ExecutionError, match="cannot be closed now"):
            trade_close(
                ledger, broker, session=session, market=market_of(broker), rules=RULES, now=now,
                dry_run=dry_run,
            )  # fmt: skip
        assert broker.placed == placed


def test_a_dry_run_shows_the_exits_and_writes_nothing(tmp_path):
    with invested(tmp_path) as (ledger, broker):
        before, placed = journal_position(ledger), list(broker.placed)
        report = close(ledger, broker, dry_run=True)
        assert [(v.intent.symbol, v.accepted) for v in report.verdicts] == [
            ("A", True),
            ("C", True),
        ]
        assert (journal_position(ledger), broker.placed) == (before, placed)


def test_where_nothing_was_ever_traded_there_is_nothing_to_close(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        report = close(ledger, MemoryBroker({"A": 1.0}))
    assert report.journalled is None
    assert report.plan.intents == ()


def test_a_halt_denies_exits_too(tmp_path):
    with invested(tmp_path) as (ledger, broker):
        halt(ledger, "a storm", NOW)
        report = close(ledger, broker)
        assert {d.code for v in report.verdicts for d in v.denials} == {DenialCode.TRADING_HALTED}
        assert set(states(report).values()) == {JournalState.DENIED}
        assert {"A", "C"} < set(own_quantities(ledger))


def test_old_prices_deny_and_a_late_batch_of_signals_does_not(tmp_path):
    with invested(tmp_path) as (ledger, broker):
        at = NOW + MINUTE
        publish(ledger, tmp_path, content("B"), as_of=at, scheduled_for=at, ts_emit=at, late=True)
        broker.clock_now = clock_of(SESSION, DUE)
        market = market_of(broker, DUE - dt.timedelta(hours=2))
        call = {"session": SESSION, "rules": RULES, "now": DUE, "dry_run": True}
        stale = trade_close(ledger, broker, market=market, **call)
        codes = {d.code for v in stale.verdicts for d in v.denials}
        assert codes == {DenialCode.PRICE_TOO_OLD}
        assert all(v.accepted for v in close(ledger, broker, dry_run=True).verdicts)


def test_exits_at_the_broker_are_canceled_first(tmp_path):
    rules = replace(RULES, plan=PlanRules(brackets=True))
    with invested(tmp_path, rules, **LEVELS) as (ledger, broker):
        resting = [o for o in pending_orders(ledger) if o.parent_id]
        assert len(resting) == 2
        close(ledger, broker, rules=rules)
        assert set(own_quantities(ledger)) == {"B"}
        assert pending_orders(ledger) == []
        found = {broker.orders[o.intent.client_order_id].status for o in resting}
        assert found == {OrderStatus.CANCELED}


def test_an_exit_that_fills_meanwhile_leaves_nothing_to_close(tmp_path):
    rules = replace(RULES, plan=PlanRules(brackets=True))
    with invested(tmp_path, rules, **LEVELS) as (ledger, broker):
        target = next(o for o in pending_orders(ledger) if o.intent.limit_price_usd)

        def touched(step):
            if step == "before cancel":
                broker.touch(target.intent.client_order_id)

        broker.on_step = touched
        report = close(ledger, broker, rules=rules)
        assert states(report)["A"] is JournalState.LAPSED
        assert set(own_quantities(ledger)) == {"B"}


@pytest.mark.parametrize("error", [Crash, outage])
def test_a_fault_anywhere_closes_once(tmp_path, monkeypatch, error):
    whole = FaultAt(None, error)
    with invested(tmp_path / "whole") as (ledger, broker), watched(monkeypatch, broker, whole):
        close(ledger, broker)
    assert len(whole.steps) > 15
    for at in range(0, len(whole.steps), 2):
        folder = tmp_path / str(at)
        with invested(folder) as (ledger, broker):
            opened = len(broker.placed)
            fault = FaultAt(at, error)
            with watched(monkeypatch, broker, fault), contextlib.suppress(Crash, BrokerError):
                close(ledger, broker)
            close(ledger, broker, now=DUE + MINUTE)
            assert len(broker.placed) == opened + 2, at
            assert set(own_quantities(ledger)) == {"B"}, at
            assert pending_orders(ledger) == [], at
            assert verify_orders(ledger, folder / "audit.jsonl") == [], at


def died_before_sending(ledger, broker):
    """The exits are journalled, and the process ends."""

    def die(step):
        if step == "before submit":
            raise Crash

    broker.on_step = die
    with pytest.raises(Crash):
        close(ledger, broker)
    broker.on_step = lambda _step: None


def test_what_missed_the_auction_lapses(tmp_path):
    with invested(tmp_path) as (ledger, broker):
        died_before_sending(ledger, broker)
        placed = list(broker.placed)
        report = close(ledger, broker, now=PAST_CUT_OFF)
        assert set(states(report).values()) == {JournalState.LAPSED}
        assert broker.placed == placed
        assert {"A", "C"} < set(own_quantities(ledger))


def test_the_account_sensor_carries_exits_on_also_beside_a_plan_that_ended(tmp_path):
    """What yesterday's close missed goes with today's, though no batch came in between."""
    later = calendar.next_session(SESSION)
    with invested(tmp_path) as (ledger, broker):
        due = scheduled_for(Run.CLOSE, later)

        def die(step):
            if step == "before submit":
                raise Crash

        broker.on_step = die
        with pytest.raises(Crash):
            close(ledger, broker, now=due, session=later)
        broker.on_step = lambda _step: None
        now = due + MINUTE
        broker.clock_now = clock_of(later, now)
        attend(ledger, broker, market=market_of(broker, now), rules=RULES, now=now)
        assert set(own_quantities(ledger)) == {"B"}


def test_what_earlier_plans_did_not_send_has_lapsed(tmp_path):
    """Or it would open, after the exits were planned, what stays overnight."""
    with invested(tmp_path) as (ledger, broker):
        broker.prices |= {"D": Decimal(10), "E": Decimal(10)}
        at, inside = NOW + MINUTE, {"horizon": "1h", "valid_until": CLOSE}
        rows = content("D", **inside), content("E", **inside)
        publish(ledger, tmp_path, *rows, as_of=at, scheduled_for=at, ts_emit=at)

        def die(step):
            if step == "before submit":
                raise Crash

        broker.on_step = die
        market = market_of(broker, at)
        with pytest.raises(Crash):
            trade(ledger, broker, market=market, rules=RULES, now=at + MINUTE)
        broker.on_step = lambda _step: None
        close(ledger, broker)
        found = ledger.rows("select state from orders where symbol = 'E'")
        assert [r["state"] for r in found] == [JournalState.LAPSED]
        assert "E" not in broker.holdings


def test_a_journal_that_moved_is_planned_on_anew(tmp_path):
    with invested(tmp_path) as (ledger, broker):
        report = close(ledger, broker, dry_run=True)
        arguments = (ledger, report.plan, report.verdicts, report.targets)
        seen = journal_position(ledger)
        halt(ledger, "moves the journal", NOW)
        with pytest.raises(ExecutionError, match="the journal moved"):
            record_closing(*arguments, broker=broker.name, now=DUE, based_on=seen)
        assert find_closing(ledger, report.batch_id) is None
        first = record_closing(*arguments, broker=broker.name, now=DUE)
        second = record_closing(*arguments, broker=broker.name, now=DUE + MINUTE, based_on=seen)
        assert first == second == find_closing(ledger, report.batch_id)


def test_a_longer_horizon_that_wants_the_position_keeps_it(tmp_path):
    with invested(tmp_path) as (ledger, broker):
        at, until = NOW + MINUTE, CLOSE + dt.timedelta(days=1)
        rows = (
            content("A", horizon="14d", valid_until=until, confidence=0.1),
            content("C", horizon="14d", valid_until=until, direction="neutral"),
        )
        publish(ledger, tmp_path, *rows, run="eod", as_of=at, scheduled_for=at, ts_emit=at)
        report = close(ledger, broker)
        assert set(states(report)) == {"C"}
        assert {s["symbol"] for s in report.journalled.skipped} == {"A", "B"}


# ---------------------------------------------------------------- the pure decision

SYMBOLS = "ABC"
HELD = st.builds(
    HeldPosition,
    st.sampled_from(SYMBOLS),
    st.sampled_from([Decimal(-5), Decimal(0), Decimal(7)]),
    st.sampled_from([None, "gone", *(h.name for h in HORIZONS)]),
    st.sampled_from([None, CLOSE - MINUTE, CLOSE, CLOSE + MINUTE]),
    st.sampled_from([None, Decimal(45), Decimal(55)]),
    st.sampled_from([None, Decimal(45), Decimal(55)]),
)
PRICES = st.dictionaries(st.sampled_from(SYMBOLS), st.sampled_from([Decimal(40), Decimal(50)]))
SIGNALS = st.lists(
    st.builds(
        a_signal,
        st.sampled_from(SYMBOLS),
        horizon=st.sampled_from(["1h", "1d", "14d"]),
        direction=st.sampled_from(["long", "short", "neutral"]),
        confidence=st.sampled_from([0.5, float("nan")]),
        valid_until=st.sampled_from([CLOSE, CLOSE + MINUTE]),
    ),
    max_size=4,
)


def decided(held, prices, signals=()):
    unique = list({h.symbol: h for h in held}.values())
    made = closing_targets(
        table(*signals), unique, prices, dict.fromkeys(SYMBOLS, 0.3), 1e5, TargetRules(), DUE,
        closes_at=CLOSE,
    )  # fmt: skip
    return {h.symbol: h for h in unique if h.quantity != 0}, made


@given(st.lists(HELD), PRICES, SIGNALS)
def test_nothing_opens_and_only_what_is_flat_overnight_closes(held, prices, signals):
    holdings, made = decided(held, prices, signals)
    assert made.as_of == DUE
    assert {d.symbol for d in made.decisions} == set(holdings)
    for decision in made.decisions:
        holding = holdings[decision.symbol]
        if decision.keep_quantity is None:
            assert decision.weight == 0
            assert holding.opened_by_horizon in FLAT_AT_CLOSE
        else:
            assert decision.keep_quantity == holding.quantity


@given(st.lists(HELD), PRICES)
def test_without_signals_the_exit_rule_alone_decides(held, prices):
    holdings, made = decided(held, prices)
    for decision in made.decisions:
        holding, price = holdings[decision.symbol], prices.get(decision.symbol)
        side = 1 if holding.quantity > 0 else -1

        def beyond(level, way, price=price):
            return None not in (level, price) and way * (price - level) >= 0

        over = holding.valid_until is not None and holding.valid_until <= CLOSE
        left = over or beyond(holding.target_price, side) or beyond(holding.stop_price, -side)
        inside = holding.opened_by_horizon in {h.name for h in HORIZONS if h.minutes <= 60}
        assert (decision.keep_quantity is None) == (left and inside)


@pytest.mark.parametrize("quantity", ["10", "10.5"])
def test_fractions_trade_at_once_and_whole_shares_in_the_auction(quantity):
    style = closing_style(Decimal(quantity), clock_of(SESSION, DUE))
    whole = quantity == "10"
    assert style.time_in_force is (TimeInForce.CLS if whole else TimeInForce.DAY)
    assert style.limit is None
