"""Between runs the account is looked after, and people hear of what stopped or failed."""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from execution.state import TradingState, current_state, newest_reason
from execution.trade import TradeRules, trade
from market.serving import BackgroundServer
from pipelines.alerts import AlertSettings
from pipelines.resources import Stores
from pipelines.settings import AlpacaSettings, Settings, TradingSettings
from pipelines.trading_sensors import (
    ACCOUNT_SENSOR,
    FAILURE_SENSOR,
    build_trading_sensors,
    look_after,
)
from tests.execution.memory_broker import NOW, MemoryBroker, outage
from tests.execution.paper_rig import bar, frame
from tests.execution.scenes import content, market_of, publish

KEY = "needle-key-8d22"
ON = TradingSettings(enabled=True)
KEYS = AlpacaSettings(api_key=SecretStr(KEY), secret_key=SecretStr(KEY))
YESTERDAY = dt.date(2025, 3, 3)


class Listener:
    """Takes webhooks."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.app = FastAPI()

        @self.app.post("/hook")
        def take(body: dict[str, Any]) -> None:
            self.heard.append(body)


def stores_at(home: Path, broker: MemoryBroker | None = None, **changes: Any) -> Stores:
    fields = {"home": home, "trading": ON, "alpaca": KEYS, **changes}
    made = Stores(Settings.model_validate(fields))
    if broker is not None:
        made.broker = broker
    price = (100.0, 100.0, 100.0, 100.0)
    rows = [bar(s, YESTERDAY, 0, price, length=390) for s in "AB"]
    rows += [bar(s, NOW.date(), 0, price, length=29) for s in "AB"]
    made.lake.replace("bars_1d", frame(*rows[:2]), [YESTERDAY])
    made.lake.replace("bars_1m", frame(*rows[2:]), [NOW.date()])
    return made


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker({"A": 100.0, "B": 100.0})


@pytest.fixture
def holding(tmp_path: Path, broker: MemoryBroker) -> Stores:
    """An account in which Isobar holds shares of A, half of an order filled."""
    stores = stores_at(tmp_path, broker)
    broker.fill_share = Decimal("0.5")
    with stores.ledger as ledger:
        publish(ledger, tmp_path, content("A"))
        trade(ledger, broker, market=market_of(broker), rules=TradeRules(), now=NOW)
    assert broker.holdings["A"] > 0
    return stores


def state_of(stores: Stores) -> tuple[TradingState, str | None]:
    with stores.ledger as ledger:
        return current_state(ledger), newest_reason(ledger)


def untouchable(_step: str) -> None:
    raise AssertionError("the broker was asked")


def test_where_trading_is_off_the_broker_is_not_asked(tmp_path: Path, broker: MemoryBroker):
    broker.on_step = untouchable
    assert look_after(stores_at(tmp_path, broker, trading=TradingSettings())) == "trading is off"


def test_without_keys_it_says_so(tmp_path: Path):
    assert look_after(stores_at(tmp_path, alpaca=AlpacaSettings())).startswith("no keys")


def test_before_the_first_bars_there_is_nothing_to_look_after(tmp_path: Path, broker: MemoryBroker):
    broker.on_step = untouchable
    fresh = Stores(Settings.model_validate({"home": tmp_path, "trading": ON, "alpaca": KEYS}))
    fresh.broker = broker
    assert look_after(fresh).startswith("there are no bars yet")


def test_a_calm_account_agrees(holding: Stores):
    assert look_after(holding) == "0 new fills; journal and account agree"
    assert state_of(holding)[0] is TradingState.ACTIVE


def test_fills_between_runs_are_written(holding: Stores, broker: MemoryBroker):
    (order,) = broker.placed
    broker.fill(order, Decimal(1))
    assert look_after(holding) == "1 new fills; journal and account agree"
    assert look_after(holding) == "0 new fills; journal and account agree"
    assert holding.audit_head_file.exists()


@pytest.mark.parametrize("step", ["clock", "positions", "account"])
def test_a_broker_that_is_down_halts_nothing(holding: Stores, broker: MemoryBroker, step: str):
    def fails(found: str) -> None:
        if found == step:
            raise outage()

    broker.on_step = fails
    assert look_after(holding).startswith("not this time: the broker did not answer")
    assert state_of(holding)[0] is TradingState.ACTIVE
    broker.on_step = lambda _step: None
    assert look_after(holding) == "0 new fills; journal and account agree"


def test_a_live_broker_under_paper_settings_is_left_alone(holding: Stores, broker: MemoryBroker):
    broker.is_paper = False
    assert look_after(holding).startswith("not this time: paper mode refuses a live broker")


def test_drift_halts_and_tells_once(holding: Stores, broker: MemoryBroker, caplog):
    listener = Listener()
    broker.holdings["A"] -= 1
    with BackgroundServer(listener.app) as server:
        alerts = AlertSettings(webhook_url=SecretStr(f"{server.url}/hook"))
        stores = Stores(replace_settings(holding, alerts=alerts))
        stores.broker = broker
        assert look_after(stores) == "0 new fills; position_drift A"
        assert look_after(stores) == "0 new fills; position_drift A"
    state, reason = state_of(holding)
    assert state is TradingState.HALTED
    assert reason is not None
    assert "position_drift A" in reason
    assert [h["subject"] for h in listener.heard] == ["trading is halted"]
    assert listener.heard[0]["detail"] == reason
    assert caplog.text.count("trading is halted") == 1


def replace_settings(stores: Stores, **changes: Any) -> Settings:
    return stores.settings.model_copy(update=changes)


def test_a_loss_allows_only_what_reduces_and_tells(holding: Stores, broker: MemoryBroker, caplog):
    account = broker.account

    def poorer():
        made = account()
        return replace(made, last_equity_usd=made.equity_usd * 2)

    broker.account = poorer
    look_after(holding)
    assert state_of(holding)[0] is TradingState.REDUCING
    assert "trading is reducing: daily loss" in caplog.text


class TestFailures:
    def fail(self, settings: Settings, **tags: str) -> None:
        @dg.op
        def breaks() -> None:
            raise ValueError("no such table: bars")

        @dg.job(tags=tags)
        def broken() -> None:
            breaks()

        sensors = {s.name: s for s in build_trading_sensors(settings)}
        with dg.DagsterInstance.ephemeral() as instance:
            done = broken.execute_in_process(instance=instance, raise_on_error=False)
            context = dg.build_run_status_sensor_context(
                sensor_name=FAILURE_SENSOR,
                dagster_instance=instance,
                dagster_run=done.dagster_run,
                dagster_event=done.get_run_failure_event(),
            )
            sensors[FAILURE_SENSOR](context.for_run_failure())

    def test_a_run_that_failed_is_told(self, caplog: pytest.LogCaptureFixture):
        listener = Listener()
        with BackgroundServer(listener.app) as server:
            alerts = AlertSettings(webhook_url=SecretStr(f"{server.url}/hook"))
            self.fail(Settings(alerts=alerts), **{"dagster/partition": "2025-03-04"})
        (heard,) = listener.heard
        assert heard["subject"] == "run broken failed for 2025-03-04"
        assert "breaks" in heard["detail"]
        told = [r for r in caplog.records if r.name == "isobar.alerts"]
        assert [r.levelno for r in told] == [logging.WARNING]

    def test_without_a_partition_none_is_named(self, caplog: pytest.LogCaptureFixture):
        self.fail(Settings())
        told = [r.getMessage() for r in caplog.records if r.name == "isobar.alerts"]
        assert len(told) == 1
        assert told[0].startswith("run broken failed: ")


@pytest.mark.parametrize("enabled", [False, True])
def test_the_account_is_looked_after_where_trading_is_on(enabled: bool):
    made = build_trading_sensors(Settings(trading=TradingSettings(enabled=enabled)))
    found = {s.name: s.default_status is dg.DefaultSensorStatus.RUNNING for s in made}
    assert found == {ACCOUNT_SENSOR: enabled, FAILURE_SENSOR: True}


def test_the_sensor_says_in_a_line_what_came_of_it(holding: Stores):
    made = next(s for s in build_trading_sensors(holding.settings) if s.name == ACCOUNT_SENSOR)
    with dg.build_sensor_context(resources={"stores": holding}) as context:
        said = made(context)
    assert isinstance(said, dg.SkipReason)
    assert said.skip_message == "0 new fills; journal and account agree"
