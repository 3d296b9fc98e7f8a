"""The journal: one plan per batch, and no crash that duplicates or loses an order."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest

from execution.broker import OrderStatus, OrderType, Side, TimeInForce
from execution.dispatch import adopt_order, send_plan, sync_orders
from execution.holdings import held_positions, level_exits, own_quantities
from execution.intents import OrderIntent, Plan, client_order_id
from execution.journal import (
    JournalState,
    find_plan,
    journal_position,
    pending_orders,
    read_plan,
)
from execution.journal_entries import record_plan
from execution.risk import Denial, DenialCode, Verdict
from execution.state import halt, reduce_only, resume, verify_audit
from execution.targets import TargetReason, Targets
from market.errors import BrokerError, BrokerRefusal, ExecutionError
from market.ledger import open_ledger
from tests.execution.memory_broker import NOW, Crash, FaultAt, MemoryBroker, outage
from tests.execution.scenes import AS_OF, content, publish, watched

S = JournalState
END = NOW + dt.timedelta(hours=6)
PRICES = {"A": 100.0, "B": 50.0, "C": 20.0}


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
def broker():
    return MemoryBroker(PRICES)


@pytest.fixture
def batch_id(ledger, tmp_path):
    return publish(ledger, tmp_path, content("A")).batch_id


def an_intent(batch_id, symbol="A", side=Side.BUY, quantity=10, leg=1, **changes):
    return OrderIntent(
        client_order_id=client_order_id(batch_id, symbol, side, leg, 1),
        symbol=symbol,
        side=side,
        quantity=Decimal(quantity),
        order_type=OrderType.MARKET,
        time_in_force=TimeInForce.DAY,
        leg=leg,
        attempt=1,
        **{"reason": TargetReason.SIGNAL, "horizon": "1d", "valid_until": END, **changes},
    )


def record(ledger, batch_id, *intents, denied=(), **changes):
    plan = Plan(f"plan-{batch_id}", batch_id, NOW, END, tuple(intents), ())
    verdicts = [Verdict(i, ()) for i in intents]
    verdicts += [Verdict(i, (Denial(DenialCode.RESTRICTED, "listed"),)) for i in denied]
    targets = Targets(NOW, 1000.0, ())
    return record_plan(ledger, plan, verdicts, targets, broker="memory", now=NOW, **changes)


def states(ledger, plan):
    return [o.state for o in read_plan(ledger, plan.plan_id).orders]


def test_a_plan_is_read_back_as_it_was(ledger, batch_id):
    buy, no = an_intent(batch_id), an_intent(batch_id, "B", target_price_usd=Decimal("51.25"))
    plan = record(ledger, batch_id, buy, denied=[no])
    assert [o.intent for o in plan.orders] == [buy, no]
    assert [o.state for o in plan.orders] == [S.INTENDED, S.DENIED]
    assert plan.orders[1].denials == (Denial(DenialCode.RESTRICTED, "listed"),)


def test_a_batch_has_one_plan(ledger, batch_id):
    first = record(ledger, batch_id, an_intent(batch_id))
    again = record(ledger, batch_id, an_intent(batch_id, "B"), based_on=-1)
    assert again == first == find_plan(ledger, batch_id)


def test_a_plan_made_on_an_old_journal_is_refused(ledger, batch_id):
    seen = journal_position(ledger)
    halt(ledger, "meanwhile", NOW)
    with pytest.raises(ExecutionError, match="journal moved"):
        record(ledger, batch_id, an_intent(batch_id), based_on=seen)
    assert find_plan(ledger, batch_id) is None


def test_a_new_plan_lapses_what_the_old_one_did_not_send(ledger, batch_id, tmp_path):
    old = record(ledger, batch_id, an_intent(batch_id))
    later = AS_OF + dt.timedelta(minutes=1)
    other = publish(ledger, tmp_path, content("B"), as_of=later, scheduled_for=later, ts_emit=later)
    record(ledger, other.batch_id, an_intent(other.batch_id, "B"))
    assert states(ledger, old) == [S.LAPSED]


def test_sent_filled_and_owned(ledger, broker, batch_id):
    stop = Decimal("95.5")
    plan = record(
        ledger,
        batch_id,
        an_intent(batch_id, "B", Side.SELL, 4),
        an_intent(batch_id, stop_price_usd=stop),
        denied=[an_intent(batch_id, "C")],
    )
    sent = send_plan(ledger, broker, plan.plan_id, NOW)
    assert [o.state for o in sent.orders] == [S.FILLED, S.FILLED, S.DENIED]
    assert own_quantities(ledger) == {"A": 10, "B": -4}
    held = {h.symbol: h for h in held_positions(ledger)}
    assert (held["A"].opened_by_horizon, held["A"].stop_price) == ("1d", stop)
    assert held["A"].valid_until == END
    assert verify_audit(ledger) == []
    assert len(broker.placed) == 2


def test_sending_again_sends_nothing(ledger, broker, batch_id):
    plan = record(ledger, batch_id, an_intent(batch_id))
    send_plan(ledger, broker, plan.plan_id, NOW)
    at = journal_position(ledger)
    broker.on_step = FaultAt(0, Crash)
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert journal_position(ledger) == at


def test_another_broker_is_refused(ledger, broker, batch_id):
    plan = record(ledger, batch_id, an_intent(batch_id))
    broker.name = "other"
    with pytest.raises(ExecutionError, match="another broker"):
        send_plan(ledger, broker, plan.plan_id, NOW)


def test_the_intent_is_committed_before_the_request(ledger, broker, batch_id):
    plan = record(ledger, batch_id, an_intent(batch_id))
    seen = []
    broker.on_step = lambda step: seen.append((step, *states(ledger, plan)))
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert seen[0] == ("before submit", S.SENDING)


def test_fills_arrive_in_parts_and_answers_repeat(ledger, broker, batch_id):
    broker.fill_share = Decimal("0.3")
    plan = record(ledger, batch_id, an_intent(batch_id))
    send_plan(ledger, broker, plan.plan_id, NOW)
    (order_id,) = broker.placed
    early = broker.orders[order_id]
    broker.prices["A"] = Decimal(110)
    broker.fill(order_id, Decimal(1))
    average = Decimal(100) * Decimal("0.3") + Decimal(110) * Decimal("0.7")
    broker.orders[order_id] = replace(broker.orders[order_id], filled_average_price_usd=average)
    assert sync_orders(ledger, broker, NOW).fills == 1
    assert sync_orders(ledger, broker, NOW).polled == 0
    assert adopt_order(ledger, early, NOW) == 0
    assert adopt_order(ledger, broker.orders[order_id], NOW) == 0
    rows = ledger.rows("SELECT quantity, price_usd FROM fills ORDER BY recorded_at, fill_id DESC")
    assert sorted((Decimal(r["quantity"]), Decimal(r["price_usd"])) for r in rows) == [
        (3, 100),
        (7, 110),
    ]
    assert states(ledger, plan) == [S.FILLED]


def test_a_fill_without_a_price_waits(ledger, broker, batch_id):
    plan = record(ledger, batch_id, an_intent(batch_id))
    broker.fill_share = Decimal(0)
    send_plan(ledger, broker, plan.plan_id, NOW)
    found = replace(
        broker.orders[broker.placed[0]], filled_quantity=Decimal(5), status=OrderStatus.FILLED
    )
    assert adopt_order(ledger, found, NOW) == 0
    assert states(ledger, plan) == [S.ACCEPTED]


def test_a_different_order_under_our_id_raises(ledger, broker, batch_id):
    plan = record(ledger, batch_id, an_intent(batch_id))
    broker.fill_share = Decimal(0)
    send_plan(ledger, broker, plan.plan_id, NOW)
    key = broker.placed[0]
    broker.orders[key] = replace(broker.orders[key], symbol="B")
    with pytest.raises(ExecutionError, match="different order"):
        sync_orders(ledger, broker, NOW)


def test_the_second_leg_waits_for_the_first(ledger, broker, batch_id):
    broker.fill_share = Decimal(0)
    legs = [an_intent(batch_id, "A", Side.SELL, 10, leg) for leg in (1, 2)]
    plan = record(ledger, batch_id, *legs)
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert states(ledger, plan) == [S.ACCEPTED, S.INTENDED]
    broker.fill(broker.placed[0], Decimal(1))
    sync_orders(ledger, broker, NOW)
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert len(broker.placed) == 2


def test_the_second_leg_lapses_with_the_first(ledger, broker, batch_id):
    broker.fill_share = Decimal(0)
    legs = [an_intent(batch_id, "A", Side.SELL, 10, leg) for leg in (1, 2)]
    plan = record(ledger, batch_id, *legs)
    send_plan(ledger, broker, plan.plan_id, NOW)
    broker.cancel(broker.orders[broker.placed[0]].broker_order_id)
    sync_orders(ledger, broker, NOW)
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert states(ledger, plan) == [S.CANCELED, S.LAPSED]


def test_past_the_end_nothing_is_sent(ledger, broker, batch_id):
    plan = record(ledger, batch_id, an_intent(batch_id))
    send_plan(ledger, broker, plan.plan_id, END)
    assert states(ledger, plan) == [S.LAPSED]
    assert broker.placed == []


def test_a_halt_holds_orders_back_and_reducing_lets_only_exits_out(ledger, broker, batch_id):
    plan = record(ledger, batch_id, an_intent(batch_id))
    halt(ledger, "test", NOW)
    send_plan(ledger, broker, plan.plan_id, NOW)
    resume(ledger, "test", NOW)
    reduce_only(ledger, "test", NOW)
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert broker.placed == []
    resume(ledger, "test", NOW)
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert len(broker.placed) == 1


def test_an_unclear_answer_leaves_the_order_for_the_next_run(ledger, broker, batch_id):
    plan = record(ledger, batch_id, an_intent(batch_id))

    def down(_step):
        raise outage()

    broker.on_step = down
    send_plan(ledger, broker, plan.plan_id, NOW)
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert states(ledger, plan) == [S.UNCLEAR]
    with pytest.raises(BrokerError):
        sync_orders(ledger, broker, NOW)
    broker.on_step = lambda _step: None
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert states(ledger, plan) == [S.FILLED]
    assert len(broker.placed) == 1


def test_a_clear_refusal_is_final_and_is_not_tried_again(ledger, broker, batch_id):
    plan = record(ledger, batch_id, an_intent(batch_id), an_intent(batch_id, "B"))
    broker.on_step = FaultAt(0, lambda: BrokerRefusal("insufficient buying power"))
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert states(ledger, plan) == [S.REJECTED, S.FILLED]
    before = list(broker.placed)
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert states(ledger, plan) == [S.REJECTED, S.FILLED]
    assert broker.placed == before


def test_accepted_then_no_answer_is_adopted_at_once(ledger, broker, batch_id):
    plan = record(ledger, batch_id, an_intent(batch_id))
    broker.on_step = FaultAt(1, outage)
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert broker.on_step.steps == ["before submit", "after submit", "find"]
    assert states(ledger, plan) == [S.FILLED]


def test_an_order_that_never_arrived_lapses_at_the_plans_end(ledger, broker, batch_id):
    plan = record(ledger, batch_id, an_intent(batch_id))
    broker.on_step = FaultAt(0, outage)
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert states(ledger, plan) == [S.UNCLEAR]
    report = sync_orders(ledger, broker, NOW)
    assert len(report.unknown_at_broker) == 1
    assert states(ledger, plan) == [S.UNCLEAR]
    sync_orders(ledger, broker, END)
    assert states(ledger, plan) == [S.LAPSED]
    broker.submit(plan.orders[0].intent.request())
    adopt_order(ledger, broker.orders[broker.placed[0]], END)
    assert states(ledger, plan) == [S.FILLED], "what exists is believed"


def test_a_request_that_the_adapter_refuses_does_not_stop_the_others(ledger, broker, batch_id):
    plan = record(ledger, batch_id, an_intent(batch_id), an_intent(batch_id, "B"))
    broker.on_step = FaultAt(0, lambda: ExecutionError("an OPG order must be in whole shares"))
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert states(ledger, plan) == [S.LAPSED, S.FILLED]


@pytest.mark.parametrize("step", ["before submit", "after submit"])
def test_two_schedulers_at_once_place_one_order(ledger, broker, batch_id, step):
    plan = record(ledger, batch_id, an_intent(batch_id), an_intent(batch_id, "B"))
    entered = []

    def another_scheduler(seen):
        if seen == step and not entered:
            entered.append(seen)
            with open_ledger(str(ledger.engine.url)) as second:
                send_plan(second, broker, plan.plan_id, NOW)

    broker.on_step = another_scheduler
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert entered == [step]
    assert len(broker.placed) == 2
    assert own_quantities(ledger) == {"A": 10, "B": 10}
    assert states(ledger, plan) == [S.FILLED, S.FILLED]


def test_level_exits_are_remembered(ledger, broker, batch_id):
    exit_order = an_intent(batch_id, "A", Side.SELL, reason=TargetReason.EXIT_STOP)
    plan = record(ledger, batch_id, exit_order, an_intent(batch_id, "B"))
    send_plan(ledger, broker, plan.plan_id, NOW)
    assert level_exits(ledger) == {"A": NOW}


def full_run(ledger, broker, batch_id):
    """Record, send and sync a plan with a two-leg crossing, two buys and a denial."""
    plan = record(
        ledger,
        batch_id,
        an_intent(batch_id, "A", Side.SELL, 10, 1),
        an_intent(batch_id, "B", Side.BUY, 7),
        an_intent(batch_id, "C", Side.BUY, 3),
        an_intent(batch_id, "A", Side.SELL, 4, 2),
        denied=[an_intent(batch_id, "B", Side.SELL, 1, 1)],
    )
    send_plan(ledger, broker, plan.plan_id, NOW)
    sync_orders(ledger, broker, NOW)
    return plan


def count_steps(tmp_path, monkeypatch):
    with open_ledger(f"sqlite:///{tmp_path}/count.db") as ledger:
        batch_id = publish(ledger, tmp_path / "count", content("A")).batch_id
        counter, broker = FaultAt(None, Crash), MemoryBroker(PRICES)
        with watched(monkeypatch, broker, counter):
            full_run(ledger, broker, batch_id)
        return len(counter.steps)


@pytest.mark.parametrize("fill_share", [Decimal(1), Decimal("0.5")])
@pytest.mark.parametrize("error", [Crash, outage])
def test_a_fault_at_every_step_neither_duplicates_nor_loses(
    tmp_path, monkeypatch, error, fill_share
):
    total = count_steps(tmp_path, monkeypatch)
    assert total > 25
    for at in range(total + 1):
        folder = tmp_path / f"{at}"
        url = f"sqlite:///{folder}/ledger.db"
        broker = MemoryBroker(PRICES)
        broker.fill_share = fill_share
        with open_ledger(url) as ledger:
            batch_id = publish(ledger, folder, content("A")).batch_id
            with (
                watched(monkeypatch, broker, FaultAt(at, error)),
                contextlib.suppress(Crash, BrokerError),
            ):
                full_run(ledger, broker, batch_id)
        with open_ledger(url) as ledger:
            for _ in range(2):  # the second leg is sent once the first has filled
                plan = full_run(ledger, broker, batch_id)
                for key in broker.placed:
                    broker.fill(key, Decimal(1))
                sync_orders(ledger, broker, NOW)
            check_settled(ledger, broker, plan, at)


def check_settled(ledger, broker, plan, at):
    assert len(broker.placed) == len(set(broker.placed)) == 4, at
    assert broker.holdings == {"A": -14, "B": 7, "C": 3}, at
    assert own_quantities(ledger) == broker.holdings, at
    assert states(ledger, plan) == [S.FILLED] * 4 + [S.DENIED], at
    assert pending_orders(ledger) == [], at
    assert verify_audit(ledger) == [], at
