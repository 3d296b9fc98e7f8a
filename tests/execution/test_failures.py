"""A failed trading run is remembered until one goes well."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest

from execution.failures import TradingFailure, failure_of, record_failure, record_recovery
from execution.state import verify_audit
from market.ledger import Ledger, open_ledger
from tests.execution.memory_broker import NOW

LATER = NOW + dt.timedelta(minutes=1)
LAST = NOW + dt.timedelta(minutes=2)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with open_ledger(ledger_url) as opened:
        yield opened


def test_a_failure_stands_until_a_run_of_its_batch_goes_well(ledger: Ledger) -> None:
    assert failure_of(ledger, "a", LAST) is None
    record_failure(ledger, "a", "no answer", NOW)
    record_recovery(ledger, "b", LATER)
    assert failure_of(ledger, "a", LAST) == TradingFailure(NOW, "no answer")
    record_recovery(ledger, "a", LATER)
    assert failure_of(ledger, "a", LAST) is None
    # What a report that is made again tells is what was known then.
    assert failure_of(ledger, "a", NOW) == TradingFailure(NOW, "no answer")
    assert failure_of(ledger, "a", NOW - dt.timedelta(seconds=1)) is None
    record_failure(ledger, "a", "again", LAST)
    assert failure_of(ledger, "a", LAST) == TradingFailure(LAST, "again")
    assert verify_audit(ledger) == []


def test_what_went_well_all_along_leaves_no_row(ledger: Ledger) -> None:
    record_recovery(ledger, "a", NOW)
    assert ledger.read("SELECT * FROM audit_log").is_empty()
    record_failure(ledger, "a", "no answer", NOW)
    for _ in range(3):
        record_recovery(ledger, "a", LATER)
    assert ledger.read("SELECT count(*) AS n FROM audit_log").item() == 2
