"""Live orders leave only from an account that `isobar doctor` finds well; paper asks less."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from execution.failures import failure_of
from execution.state import halt
from market import calendar
from market.errors import ExecutionError
from market.horizons import Run, scheduled_for
from market.ledger_tables import plans
from pipelines.assets import orders
from pipelines.assets.orders import (
    attend_account,
    check_trading,
    close_session,
    describe_trade,
    trade_newest,
)
from pipelines.definitions import build_definitions
from pipelines.jobs import run_job_name
from pipelines.resources import NOW_TAG, Stores
from pipelines.settings import TradingSettings
from tests.execution.memory_broker import NOW, Crash, MemoryBroker
from tests.execution.paper_rig import bar, frame
from tests.execution.scenes import content, publish
from tests.pipelines.test_trading_sensors import replace_settings, stores_at

LIVE = TradingSettings(enabled=True, mode="live", allow_live="PA1")


@pytest.fixture
def broker() -> MemoryBroker:
    made = MemoryBroker({"A": 100.0, "B": 100.0})
    made.is_paper = False
    return made


@pytest.fixture
def live(tmp_path: Path, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> Stores:
    """A live account with a batch to trade, on a machine whose clock is right."""
    monkeypatch.setattr(orders, "_machine_time", lambda: NOW)
    stores = stores_at(tmp_path, broker, trading=LIVE)
    _volatility(stores)
    with stores.ledger as ledger:
        publish(ledger, tmp_path, content("A"))
    return stores


def _volatility(stores: Stores) -> None:
    day = dt.date(2025, 3, 3)
    bars = stores.lake.read_bars("bars_1d")
    made = bars.select(
        "symbol", "session", "bar_end", pl.col("bar_end").alias("as_of"), volatility_20=0.02
    )
    stores.lake.replace("features_1d", made, [day])


def test_an_account_that_is_well_trades_live(live: Stores, broker: MemoryBroker):
    attend_account(live, now=NOW)
    trade_newest(live, now=NOW, dry_run=False)
    assert len(broker.placed) == 1


def refused(stores: Stores, broker: MemoryBroker, said: str) -> None:
    with pytest.raises(ExecutionError, match=said):
        trade_newest(stores, now=NOW, dry_run=False)
    assert broker.placed == []
    with stores.ledger as ledger:
        (batch,) = ledger.read("select batch_id from signal_batches")["batch_id"]
        assert ledger.rows(plans.select()) == []
        failure = failure_of(ledger, batch, NOW)
    assert failure is not None
    assert said in failure.problem


def test_an_account_that_was_never_reconciled_does_not(live: Stores, broker: MemoryBroker):
    refused(live, broker, "were not held against each other")
    attend_account(live, now=NOW)
    trade_newest(live, now=NOW, dry_run=False)
    assert len(broker.placed) == 1


def test_a_machine_whose_clock_is_wrong_does_not(live: Stores, broker: MemoryBroker, monkeypatch):
    attend_account(live, now=NOW)
    monkeypatch.setattr(orders, "_machine_time", lambda: NOW + dt.timedelta(minutes=6))
    refused(live, broker, "the clocks of this machine and of the broker are apart")


def test_a_halted_account_does_not_but_is_looked_after(live: Stores, broker: MemoryBroker):
    attend_account(live, now=NOW)
    with live.ledger as ledger:
        halt(ledger, "a storm", NOW)
    refused(live, broker, "trading is halted")
    assert attend_account(live, now=NOW).is_clean


def test_what_was_not_sent_yet_waits_until_the_account_is_well(
    live: Stores, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
):
    attend_account(live, now=NOW)
    stop_before_sending(broker)
    with pytest.raises(Crash):
        trade_newest(live, now=NOW, dry_run=False)
    broker.on_step = lambda _step: None
    monkeypatch.setattr(orders, "_machine_time", lambda: NOW + dt.timedelta(minutes=6))
    assert attend_account(live, now=NOW).is_clean
    assert broker.placed == []
    monkeypatch.setattr(orders, "_machine_time", lambda: NOW)
    attend_account(live, now=NOW)
    assert len(broker.placed) == 1


def stop_before_sending(broker: MemoryBroker) -> None:
    """The process ends when the plan is journalled and its first order is about to leave."""

    def die(step: str) -> None:
        if step == "before submit":
            raise Crash

    broker.on_step = die


def test_a_blocked_account_does_not(live: Stores, broker: MemoryBroker):
    attend_account(live, now=NOW)
    broker.blocked = True
    refused(live, broker, "blocked")


def test_a_dry_run_shows_the_plan_of_any_account(live: Stores, broker: MemoryBroker):
    report = trade_newest(live, now=NOW, dry_run=True)
    assert report.verdicts
    assert broker.placed == []


def test_doctor_and_live_orders_ask_the_same(live: Stores, broker: MemoryBroker):
    with live.ledger as ledger:
        told = [c for c in check_trading(live, ledger) if not c.ok]
    with pytest.raises(ExecutionError) as error:
        trade_newest(live, now=NOW, dry_run=False)
    assert [c.name for c in told] == ["reconciliation"]
    assert told[0].says in str(error.value)


CLOSE = calendar.session_close(NOW.date())
DUE = scheduled_for(Run.CLOSE, NOW.date())


@pytest.fixture
def intraday(tmp_path: Path, broker: MemoryBroker) -> Stores:
    """On paper, minutes before the close, Isobar holds shares of A that may not stay overnight."""
    broker.is_paper = True
    stores = stores_at(tmp_path, broker)
    _volatility(stores)
    with stores.ledger as ledger:
        publish(ledger, tmp_path, content("A", horizon="1h", valid_until=CLOSE))
    trade_newest(stores, now=NOW, dry_run=False)
    assert len(broker.placed) == 1
    price = (100.0, 100.0, 100.0, 100.0)
    stores.lake.replace("bars_1m", frame(bar("A", NOW.date(), 0, price, 374)), [NOW.date()])
    broker.clock_now = replace(broker.clock_now, now=DUE)
    return stores


def closed_by_dagster(stores: Stores) -> dict[str, object]:
    """Make the asset as its job does, but for the bars; return what it shows."""
    name = orders.orders_asset_name(Run.CLOSE)
    job = build_definitions(stores.settings, stores).resolve_job_def(run_job_name(Run.CLOSE))
    done = job.execute_in_process(
        asset_selection=[dg.AssetKey(name)],
        partition_key=NOW.date().isoformat(),
        tags={NOW_TAG: DUE.isoformat()},
    )
    return {k: v.value for k, v in done.asset_materializations_for_node(name)[0].metadata.items()}


def test_the_close_of_a_session_sends_its_exits_once(intraday: Stores, broker: MemoryBroker):
    assert closed_by_dagster(intraday)["orders"] == {"filled": 1}
    assert broker.holdings["A"] == 0
    again = closed_by_dagster(intraday)
    assert (again["resumed"], again["orders"]) == (True, {"filled": 1})
    assert len(broker.placed) == 2


def test_unless_trading_is_on_the_close_is_only_planned(intraday: Stores, broker: MemoryBroker):
    off = Stores(replace_settings(intraday, trading=TradingSettings()))
    off.broker = broker
    shown = closed_by_dagster(off)
    assert (shown["dry run"], shown["intents"], shown["denied"]) == (True, 1, {})
    assert len(broker.placed) == 1


def test_another_session_than_the_one_that_closes_is_refused(intraday: Stores):
    with pytest.raises(ExecutionError, match="2025-03-03 cannot be closed now"):
        close_session(intraday, dt.date(2025, 3, 3), now=DUE, dry_run=False)


def test_a_live_close_passes_the_same_gate(
    intraday: Stores, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
):
    broker.is_paper = False
    live = Stores(replace_settings(intraday, trading=LIVE))
    live.broker = broker
    monkeypatch.setattr(orders, "_machine_time", lambda: DUE + dt.timedelta(minutes=6))
    with pytest.raises(ExecutionError, match="clocks of this machine"):
        close_session(live, NOW.date(), now=DUE, dry_run=False)
    assert len(broker.placed) == 1
    monkeypatch.setattr(orders, "_machine_time", lambda: DUE)
    close_session(live, NOW.date(), now=DUE, dry_run=False)
    assert broker.holdings["A"] == 0


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_is_refused_before_there_is_an_order_is_shown_as_denied(
    tmp_path: Path, broker: MemoryBroker, dry_run: bool
):
    broker.is_paper = True
    stores = stores_at(tmp_path, broker)  # nothing says how volatile A is
    with stores.ledger as ledger:
        publish(ledger, tmp_path, content("A"))
    for _ in range(2):
        shown = describe_trade(trade_newest(stores, now=NOW, dry_run=dry_run))
        assert shown["denied"] == {"missing_data": 1}
        assert "| A | missing_data | volatility |" in str(shown["refused"])
    assert broker.placed == []


def test_paper_asks_less(tmp_path: Path, broker: MemoryBroker):
    broker.is_paper = True
    stores = stores_at(tmp_path, broker)
    _volatility(stores)
    with stores.ledger as ledger:
        publish(ledger, tmp_path, content("A"))
    trade_newest(stores, now=NOW, dry_run=False)
    assert len(broker.placed) == 1
