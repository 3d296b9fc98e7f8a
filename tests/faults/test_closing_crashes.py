"""The exits of a session's close at the paper server: through the auction, and through crashes.

``ISOBAR_RELIABILITY=1`` (``make reliability``) ends the run at twice as many steps.
"""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from pathlib import Path

import pytest

from execution.broker import Side
from execution.trade import trade_close
from market import calendar
from market.errors import BrokerError
from market.horizons import Run, scheduled_for
from market.ledger import open_ledger
from tests.effort import repeats
from tests.execution.scenes import content, publish
from tests.faults.trading_day import (
    OPEN,
    RULES,
    SESSION,
    Counter,
    Day,
    Died,
    Step,
    a_day,
    outcome,
    repeat,
)

CLOSE = calendar.session_close(SESSION)
DUE = scheduled_for(Run.CLOSE, SESSION)
MINUTE = dt.timedelta(minutes=1)
KILLS = repeats(8, 4)


def outage() -> BrokerError:
    return BrokerError("the connection broke", remedy="try again")


def signals(day: Day) -> list[dict[str, object]]:
    """Two horizons; one position leaves its exits with the broker, too far away to be touched."""
    price = float(day.prices()["A"].price_usd)
    inside = {"horizon": "1h", "valid_until": CLOSE}
    levels = {"targets": [round(price * 1.5, 2)], "stops": [round(price * 0.5, 2)]}
    return [
        content("A", **inside, **levels),
        content("B", direction="short", **inside),
        content("C", valid_until=CLOSE + dt.timedelta(days=1)),
    ]


def live_until_evening(day: Day, step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    day.clock.advance_to(OPEN + 30 * MINUTE)
    with open_ledger(f"sqlite:///{day.folder}/ledger.db") as ledger:
        at = day.clock.now() - MINUTE
        rows = signals(day)
        publish(ledger, day.folder, *rows, as_of=at, scheduled_for=at, ts_emit=at)
    repeat(day, lambda _step: None, monkeypatch, lambda ledger: day.act(0, ledger), 1)
    day.clock.advance_to(OPEN + 40 * MINUTE)
    repeat(day, lambda _step: None, monkeypatch, day.care, 1)
    day.clock.advance_to(DUE)

    def close(ledger):
        trade_close(
            ledger, day.broker, session=SESSION, market=day.market(), rules=RULES,
            now=day.clock.now(),
        )  # fmt: skip

    repeat(day, step, monkeypatch, close, 2)
    for later in (DUE + MINUTE, CLOSE + MINUTE):
        day.clock.advance_to(later)
        repeat(day, step, monkeypatch, day.care, 2)


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The steps and the outcome of a day that nothing disturbs, and the price of the auction."""
    steps = Counter()
    (tmp_path / "whole").mkdir()
    with a_day(11, tmp_path / "whole") as day:
        live_until_evening(day, steps, monkeypatch)
        placed = day.broker.orders_since(OPEN)
        prices = {s: p.price_usd for s, p in day.prices().items()}
        yield steps.steps, outcome(day), placed, prices


def test_exits_fill_in_the_auction_at_its_price(whole):
    _, found, placed, prices = whole
    assert found["problems"] == []
    assert set(found["held"]) == {"C"}
    exits = [o for o in placed if o.filled_quantity and o.updated_at >= CLOSE]
    assert {(o.symbol, o.side) for o in exits} == {("A", Side.SELL), ("B", Side.BUY)}
    for order in exits:
        assert DUE <= order.submitted_at < CLOSE
        assert order.filled_average_price_usd == prices[order.symbol].quantize(Decimal("0.0001"))


@pytest.mark.parametrize("error", [Died, outage])
def test_whatever_ends_the_run_it_is_taken_up_and_comes_to_the_same(
    whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
):
    steps, expected, _, _ = whole
    for at in sorted(random.Random(3).sample(range(len(steps)), KILLS)):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        counter = Counter(at, error)
        with a_day(11, folder) as day:
            live_until_evening(day, counter, monkeypatch)
            assert len(counter.steps) > at
            assert outcome(day) == expected, f"ended at step {at}, {steps[at]}"
