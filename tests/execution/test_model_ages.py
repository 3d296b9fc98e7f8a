"""The age of models is that of the oldest behind the newest batch; what has no date has no age."""

from __future__ import annotations

import datetime as dt

import pytest

from execution.model_ages import models_known_at
from market.ledger import open_ledger
from market.ledger_tables import engines
from signals.inputs import BatchInputs, HorizonInputs
from signals.record import insert_new
from tests.execution.memory_broker import NOW
from tests.execution.scenes import AS_OF, content, publish

DAY = dt.timedelta(days=1)


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


def know(ledger, *models):
    """Write down (horizon, version, engine, days before AS_OF)."""
    rows = [
        {
            "engine": engine,
            "horizon": horizon,
            "model_version": version,
            "kind": "core",
            "family": engine,
            "as_of": AS_OF - days * DAY,
            "recorded_at": AS_OF,
            "data_hash": "d",
            "config_hash": "c",
            "metrics": {},
        }
        for horizon, version, engine, days in models
    ]
    insert_new(ledger, engines, rows)


def made_with(**champions):
    made = {h: HorizonInputs(c, {}, {}) for h, c in champions.items()}
    return BatchInputs("c", {}, {}, made).to_json()


def send(ledger, folder, days=0, horizon="1d", **champions):
    at = AS_OF - days * DAY
    inputs = made_with(**champions)
    row = content("A", horizon=horizon)
    return publish(ledger, folder, row, as_of=at, scheduled_for=at, ts_emit=at, inputs=inputs)


def test_without_batches_no_age_is_known(ledger):
    know(ledger, ("1d", "v1", "linear", 5))
    assert models_known_at(ledger, NOW) == {}


def test_the_oldest_model_of_a_horizon_counts(ledger, tmp_path):
    know(ledger, ("1d", "v1", "linear", 5), ("1d", "v2", "xgboost", 40), ("1d", "v3", "cnn", 90))
    send(ledger, tmp_path, **{"1d": {"linear": "v1", "xgboost": "v2"}})
    assert models_known_at(ledger, NOW) == {"1d": AS_OF - 40 * DAY}


def test_the_newest_batch_of_each_horizon_counts(ledger, tmp_path):
    know(ledger, ("1d", "old", "linear", 80), ("1d", "new", "linear", 3), ("7d", "w", "linear", 9))
    send(ledger, tmp_path, days=2, **{"1d": {"linear": "old"}, "7d": {"linear": "w"}})
    send(ledger, tmp_path, days=1, **{"1d": {"linear": "new"}})
    assert models_known_at(ledger, NOW) == {"1d": AS_OF - 3 * DAY, "7d": AS_OF - 9 * DAY}
    before = models_known_at(ledger, AS_OF - 2 * DAY)
    assert before == {"1d": AS_OF - 80 * DAY, "7d": AS_OF - 9 * DAY}
    assert models_known_at(ledger, AS_OF - 3 * DAY) == {}


def test_a_model_that_the_ledger_does_not_know_takes_the_age_from_its_horizon(ledger, tmp_path):
    know(ledger, ("1d", "v1", "linear", 5), ("7d", "v9", "linear", 6))
    champions = {"1d": {"linear": "v1", "xgboost": "lost"}, "7d": {"linear": "v9"}}
    send(ledger, tmp_path, **champions)
    assert models_known_at(ledger, NOW) == {"7d": AS_OF - 6 * DAY}


def test_the_same_version_of_another_horizon_is_another_model(ledger, tmp_path):
    know(ledger, ("7d", "v1", "linear", 5))
    send(ledger, tmp_path, **{"1d": {"linear": "v1"}})
    assert models_known_at(ledger, NOW) == {}


def test_a_horizon_made_by_no_model_has_no_age(ledger, tmp_path):
    send(ledger, tmp_path, **{"1d": {}})
    assert models_known_at(ledger, NOW) == {}
