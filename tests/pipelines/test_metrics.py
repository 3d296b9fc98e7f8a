"""Prometheus metrics: what a run did is told, a store that fails is told, and nothing twice."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import dagster as dg
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from execution.state import halt
from market.serving import BackgroundServer
from pipelines.metrics import create_metrics_app
from pipelines.resources import Stores
from pipelines.settings import validate

NOW = dt.datetime(2024, 6, 3, 12, tzinfo=dt.UTC)
Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(validate({"home": tmp_path / "home"}))


def ask(stores: Stores, instance: dg.DagsterInstance) -> Found:
    with BackgroundServer(create_metrics_app(stores, instance)) as server:
        answer = requests.get(f"{server.url}/metrics", timeout=30)
    assert answer.status_code == 200
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(answer.text)
        for s in family.samples
    }


@dg.asset
def bars_1d() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"bars": 20, "name": "x", "held": True})


@dg.asset
def features_1d() -> None:
    raise RuntimeError("no")


def run(instance: dg.DagsterInstance, asset: dg.AssetsDefinition) -> None:
    job = dg.define_asset_job("a_job", selection=[asset])
    whole = dg.Definitions(assets=[asset], jobs=[job]).resolve_job_def("a_job")
    whole.execute_in_process(instance=instance, raise_on_error=False)


def test_an_installation_that_did_nothing_has_stores_and_no_runs(stores: Stores) -> None:
    with dg.instance_for_test() as instance:
        found = ask(stores, instance)
    for store in ("runs", "lake", "ledger"):
        assert found["isobar_store_up", (("store", store),)] == 1.0
    assert found["isobar_trading_state", (("state", "active"),)] == 1.0
    assert not [k for k in found if k[0].startswith(("isobar_run", "isobar_signal_batches"))]


def test_runs_steps_and_what_assets_tell(stores: Stores) -> None:
    with dg.instance_for_test() as instance:
        for asset in (bars_1d, bars_1d, features_1d):
            run(instance, asset)
        found = ask(stores, instance)
        again = ask(stores, instance)
    assert found["isobar_runs_total", (("job", "a_job"), ("status", "success"))] == 2.0
    assert found["isobar_runs_total", (("job", "a_job"), ("status", "failure"))] == 1.0
    assert found["isobar_asset_value", (("asset", "bars_1d"), ("name", "bars"))] == 20.0
    names = {dict(labels)["name"] for name, labels in found if name == "isobar_asset_value"}
    assert names == {"bars"}, "numbers alone, and yes and no are none"
    assert found["isobar_step_duration_seconds", (("step", "bars_1d"),)] >= 0.0
    assert again == found, "asking changes nothing"


def test_the_trading_state_is_told(stores: Stores) -> None:
    with stores.ledger as ledger:
        halt(ledger, "a drill", now=NOW)
    with dg.instance_for_test() as instance:
        found = ask(stores, instance)
    states = {s: found["isobar_trading_state", (("state", s),)] for s in ("active", "halted")}
    assert states == {"active": 0.0, "halted": 1.0}


def test_a_store_that_fails_is_told_and_the_others_too(tmp_path: Path) -> None:
    broken = tmp_path / "ledger.db"
    broken.write_text("this is no database")
    stores = Stores(validate({"home": tmp_path, "ledger_url": f"sqlite:///{broken}"}))
    with dg.instance_for_test() as instance:
        run(instance, bars_1d)
        found = ask(stores, instance)
    assert found["isobar_store_up", (("store", "ledger"),)] == 0.0
    assert found["isobar_store_up", (("store", "runs"),)] == 1.0
    assert found["isobar_runs_total", (("job", "a_job"), ("status", "success"))] == 1.0
