"""A run that ends at any step is taken up: no order twice, none lost, every state known.

``ISOBAR_RELIABILITY=1`` (``make reliability``) ends it at every step of several random days
instead of a sample of them.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from market.errors import BrokerError
from tests.faults.trading_day import Counter, Died, a_day, live_through, outcome

FULL = os.environ.get("ISOBAR_RELIABILITY") == "1"
SEEDS = range(3 if FULL else 1)
KILLS = 90 if FULL else 6
# Ninety days, each ended and taken up again, take minutes on a machine that has more to do.
pytestmark = pytest.mark.timeout(1800 if FULL else 300)


def outage() -> BrokerError:
    return BrokerError("the connection broke", remedy="try again")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("error", [Died, outage])
def test_whatever_ends_a_run_it_is_taken_up_and_comes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, error: type[BaseException]
):
    whole = Counter()
    (tmp_path / "whole").mkdir()
    with a_day(seed, tmp_path / "whole") as day:
        live_through(day, whole, monkeypatch)
        expected = outcome(day)
    assert expected["problems"] == []
    assert len(expected["orders"]) >= 5
    chosen = random.Random(seed).sample(range(len(whole.steps)), min(KILLS, len(whole.steps)))
    for at in sorted(chosen):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        counter = Counter(at, error)
        with a_day(seed, folder) as day:
            live_through(day, counter, monkeypatch)
            found = outcome(day)
        assert len(counter.steps) > at
        assert found == expected, f"ended at step {at}, {whole.steps[at]}"
