"""Weights in the ledger: written once, read as they were in force."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from market.ledger import open_ledger
from signals.record import WEIGHTS_SCHEMA, read_weights, record_weights
from signals.weighting import Weight

NOW = dt.datetime(2025, 3, 4, 13, 30, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def weights(**engines: float) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                Weight.ENGINE: e,
                Weight.REGIME: r,
                Weight.WEIGHT: w,
                Weight.SKILL: w / 10,
                Weight.SESSIONS: 7,
            }
            for e, w in engines.items()
            for r in ("bull", "bear")
        ]
    )


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        record_weights(opened, weights(a=0.4, b=0.6), horizon="1d", as_of=NOW)
        record_weights(opened, weights(a=0.9, c=0.1), horizon="1d", as_of=NOW + 2 * DAY)
        record_weights(opened, weights(z=1.0), horizon="5m", as_of=NOW + DAY)
        yield opened


def in_force(ledger, at: dt.datetime) -> list[tuple]:
    rows = read_weights(ledger, as_of=at)
    assert rows.schema == WEIGHTS_SCHEMA
    bull = rows.filter(pl.col("regime") == "bull")
    return bull.select("horizon", "engine", "weight").rows()


def test_the_newest_by_then_are_in_force(ledger) -> None:
    assert in_force(ledger, NOW - DAY) == []
    assert in_force(ledger, NOW) == [("1d", "a", 0.4), ("1d", "b", 0.6)]
    assert in_force(ledger, NOW + DAY) == [("5m", "z", 1.0), ("1d", "a", 0.4), ("1d", "b", 0.6)]
    # An engine that is no longer in the ensemble weighs nothing.
    assert in_force(ledger, NOW + 9 * DAY) == [
        ("5m", "z", 1.0),
        ("1d", "a", 0.9),
        ("1d", "c", 0.1),
    ]


def test_weights_come_with_their_evidence(ledger) -> None:
    row = read_weights(ledger, as_of=NOW).row(0, named=True)
    assert (row["rank_ic"], row["sessions"], row["as_of"]) == (0.04, 7, NOW)


def test_history_is_written_once(ledger) -> None:
    assert record_weights(ledger, weights(a=0.0, b=1.0), horizon="1d", as_of=NOW) == 0
    assert in_force(ledger, NOW) == [("1d", "a", 0.4), ("1d", "b", 0.6)]
