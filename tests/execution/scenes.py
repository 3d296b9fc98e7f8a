"""Signals and ledgers that the execution tests start from."""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import shutil
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from execution.intents import LastPrice
from execution.trade import MarketView
from market.errors import BrokerError
from market.ledger import Ledger, open_ledger
from market.ledger_tables import engines
from signals.inputs import BatchInputs, HorizonInputs
from signals.publish import PublishedBatch, publish_batch
from signals.record import insert_new
from signals.schema import CONTENT_SCHEMA, SIGNAL_SCHEMA
from tests.execution.memory_broker import NOW, Crash, FaultAt, MemoryBroker

AS_OF = NOW - dt.timedelta(minutes=5)


def content(symbol: str, **changes: Any) -> dict[str, Any]:
    return {
        "valid_until": NOW + dt.timedelta(hours=20),
        "symbol": symbol,
        "engine": "ensemble",
        "direction": "long",
        "confidence": 0.6,
        "horizon": "1d",
        "expected_return_bps": 10.0,
        "targets": [],
        "stops": [],
        "regime": "bull",
        "explain": "",
        "features": [],
        "model_version": "1",
        "data_hash": "d",
        "config_hash": "c",
        **changes,
    }


def a_signal(symbol: str, **changes: Any) -> dict[str, Any]:
    """A row of the signals table as readers see it."""
    row = {
        **content(symbol),
        "id": f"{symbol}-{changes.get('horizon', '1d')}",
        "batch_id": "b",
        "revision": 1,
        "ts_emit": AS_OF,
        "as_of": AS_OF,
        "prev_hash": "p",
        "hash": "h",
    }
    return {**row, **changes}


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SIGNAL_SCHEMA)


def publish(ledger: Ledger, folder: Path, *rows: dict[str, Any], **changes: Any) -> PublishedBatch:
    arguments: dict[str, Any] = {
        "run": "midday",
        "as_of": AS_OF,
        "scheduled_for": AS_OF,
        "ts_emit": AS_OF,
        "late": False,
        "head_file": folder / "heads.jsonl",
        **changes,
    }
    table = pl.DataFrame(list(rows), schema=CONTENT_SCHEMA)
    horizons = table["horizon"].unique().sort().to_list()
    made = {h: HorizonInputs({"linear": f"model-{h}"}, {}, {}) for h in horizons}
    arguments.setdefault("inputs", BatchInputs("c", {}, {}, made).to_json())
    batch = publish_batch(ledger, table, **arguments)
    insert_new(ledger, engines, [_engine(h) for h in horizons])
    return batch


def _engine(horizon: str) -> dict[str, Any]:
    """A model that learned its last ten days ago."""
    return {
        "engine": "linear",
        "horizon": horizon,
        "model_version": f"model-{horizon}",
        "kind": "core",
        "family": "linear",
        "as_of": AS_OF - dt.timedelta(days=10),
        "recorded_at": AS_OF,
        "data_hash": "d",
        "config_hash": "c",
        "metrics": {},
    }


def market_of(
    broker: MemoryBroker, at: dt.datetime = AS_OF, volatility: float = 0.3, **changes: Any
) -> MarketView:
    """What is known of the market at the fake broker's prices."""
    volumes = dict.fromkeys(broker.prices, Decimal(10_000_000))
    view = MarketView(prices_of(broker, at), dict.fromkeys(broker.prices, volatility), volumes, {})
    return replace(view, **changes)


def prices_of(broker: MemoryBroker, at: dt.datetime = AS_OF) -> dict[str, LastPrice]:
    return {s: LastPrice(p, at) for s, p in broker.prices.items()}


@contextlib.contextmanager
def watched(monkeypatch, broker, fault):
    """Tell ``fault`` of every broker call and of both ends of every ledger transaction."""
    original = Ledger.transaction

    @contextlib.contextmanager
    def transaction(self):
        fault("before transaction")
        with original(self) as connection:
            yield connection
            fault("before commit")
        fault("after commit")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "transaction", transaction)
        broker.on_step = fault
        try:
            yield
        finally:
            broker.on_step = lambda _step: None


Scene = Callable[[Ledger, MemoryBroker, Path], object]


def fault_at_every_step(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], BaseException],
    *,
    broker: MemoryBroker,
    prepare: Scene,
    act: Scene,
    check: Scene,
) -> int:
    """Let ``act`` end at each of its steps in turn, and at none; return how many they are.

    ``prepare`` runs once, and each time begins with a copy of what it left. ``check`` takes up
    what ended, and judges it.
    """
    start = folder / "start"
    start.mkdir()
    with open_ledger(f"sqlite:///{start}/ledger.db") as ledger:
        prepare(ledger, broker, start)
    at = total = 0
    while at <= total:
        own, mine = folder / str(at), copy.deepcopy(broker)
        shutil.copytree(start, own)
        fault = FaultAt(at, error)
        with open_ledger(f"sqlite:///{own}/ledger.db") as ledger:
            with watched(monkeypatch, mine, fault), contextlib.suppress(Crash, BrokerError):
                act(ledger, mine, own)
            total = max(total, len(fault.steps))
            try:
                check(ledger, mine, own)
            except AssertionError as failure:
                failure.add_note(f"ended at step {at}, {fault.steps[-1]}")
                raise
        at += 1
    return total
