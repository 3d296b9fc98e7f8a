"""A broker that answers wrongly, late, or not at all: nothing sent twice, every state known.

``ISOBAR_RELIABILITY=1`` (``make reliability``) goes through many days instead of a sample.
"""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest
from fastapi import FastAPI

from execution.journal import JournalState
from execution.paper_conditions import PaperConditions
from execution.trade import attend, trade
from market import calendar
from market.errors import BrokerError
from market.ledger import open_ledger
from market.ledger_tables import orders
from tests.execution.scenes import publish
from tests.faults.faulty_broker import KINDS, FaultyBroker
from tests.faults.trading_day import (
    MINUTE,
    OPEN,
    RULES,
    SESSION,
    Counter,
    Day,
    a_day,
    instrumented,
    live_through,
    outcome,
)

FULL = os.environ.get("ISOBAR_RELIABILITY") == "1"
SEEDS = range(8 if FULL else 1)
_IMPATIENT_SECONDS = 0.3


class Served:
    """Keeps hold of the broker that was put before the paper server."""

    def __init__(self, seed: int, kinds: tuple[str, ...] = KINDS) -> None:
        self.seed, self.kinds = seed, kinds

    def __call__(self, app: FastAPI) -> FaultyBroker:
        self.broker = FaultyBroker(app, self.seed, kinds=self.kinds)
        return self.broker


def settle(day: Day) -> None:
    """Look after the account until nothing is open that the journal does not know for sure."""
    day.clock.advance_to(day.clock.now() + MINUTE)
    for _ in range(2):
        with open_ledger(f"sqlite:///{day.folder}/ledger.db") as ledger:
            attend(ledger, day.broker, market=day.market(), rules=RULES, now=day.clock.now())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["every", *KINDS])
def test_whatever_the_broker_answers_no_order_is_doubled_or_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, kind: str
):
    served = Served(seed, KINDS if kind == "every" else (kind,))
    with a_day(seed, tmp_path, served, timeout_seconds=_IMPATIENT_SECONDS) as day:
        # Often enough that an order's look-up fails with it, three times over.
        served.broker.chance = 0.2 if kind in ("late", "every") else 0.5
        live_through(day, Counter(), monkeypatch, attempts=200)
        served.broker.chance = 0.0
        settle(day)
        found = outcome(day)
    assert served.broker.made
    assert found["problems"] == []
    assert found["orders"]


@pytest.mark.parametrize("seed", SEEDS)
def test_an_order_that_nobody_can_tell_of_for_long_is_known_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
):
    served = Served(seed, ("504 after accepting",))
    with a_day(seed, tmp_path, served) as day:
        served.broker.only_orders, served.broker.chance = True, 0.8
        live_through(day, Counter(), monkeypatch, attempts=200)
        unclear = sum("POST" in made for made in served.broker.made)
        served.broker.chance = 0.0
        settle(day)
        found = outcome(day)
    assert unclear
    assert found["problems"] == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("participation", [Decimal("0.0001"), Decimal("0.0004")])
def test_orders_that_fill_in_parts_and_are_rejected_late_tie_to_the_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, participation: Decimal
):
    conditions = PaperConditions(participation=participation, late_rejects={"A": "no route"})
    with a_day(seed, tmp_path, conditions=conditions) as day:
        live_through(day, Counter(), monkeypatch)
        settle(day)
        found = outcome(day)
    assert found["problems"] == []
    assert "A" not in found["held"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_broker_that_is_down_all_session_gets_nothing_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
):
    served = Served(seed)
    with a_day(seed, tmp_path, served) as day:
        day.clock.advance_to(OPEN + 30 * MINUTE)
        at = day.clock.now() - MINUTE

        def dying(step: str) -> None:
            """The broker goes away when the first order is about to leave."""
            if step == "before POST":
                served.broker.is_down = True

        with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
            publish(ledger, tmp_path, *day.rows(0), as_of=at, scheduled_for=at, ts_emit=at)
        with (
            instrumented(monkeypatch, dying),
            open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger,
            pytest.raises(BrokerError),
        ):
            trade(ledger, day.broker, market=day.market(), rules=RULES, now=day.clock.now())
        served.broker.is_down = False
        day.clock.advance_to(calendar.session_close(SESSION) + MINUTE)
        settle(day)
        found = outcome(day)
        with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
            states = {JournalState(r["state"]) for r in ledger.rows(orders.select())}
    assert found == {"problems": [], "held": {}, "orders": []}
    assert states <= {JournalState.LAPSED, JournalState.DENIED}
