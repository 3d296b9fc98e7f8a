"""Each rule of bar quality is a check of its own in Dagster, with numbers and a picture."""

from __future__ import annotations

import base64
import datetime as dt
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from market.quality_rules import REASONS, Reason, Severity
from market.schema import Bar
from market.timeframes import Timeframe
from pipelines import jobs
from pipelines.assets.bar_checks import check_name
from pipelines.launch import Launcher
from pipelines.settings import load_settings
from tests.market.test_quarantine import DAYS, WALK, FrameSource, row_of
from tests.pipelines.installation import environment_of
from tests.quality_bars import put, scaled

NOW = dt.datetime(2024, 6, 3, 12, tzinfo=dt.UTC)


@pytest.fixture
def evaluated(tmp_path: Path) -> dict[str, dg.AssetCheckEvaluation]:
    """Checks after an ingest of bars with an impossible row and a spike."""
    at = row_of(WALK, "S001", DAYS[30])
    spoiled = put(WALK, at, high=WALK[Bar.LOW][at] / 2)
    spoiled = scaled(spoiled, row_of(WALK, "S000", DAYS[40]), 1.5)
    (tmp_path / "isobar.toml").write_text('symbols = ["S000", "S001"]\n')
    with environment_of({}, tmp_path):
        launcher = Launcher(load_settings(), now=NOW)
        launcher.stores.__dict__["source"] = FrameSource(spoiled)
        found = launcher.launch(jobs.ingest_job_name(Timeframe.D1), sessions=DAYS)["bars_1d"]
        assert found["bars held in quarantine"] == 2
        with dg.DagsterInstance.get() as instance:
            judged, made = instance.get_runs()
            planned = dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED
            # Of each session, in a run of many.
            assert not instance.get_records_for_run(made.run_id, of_type=planned).records
            events = instance.get_records_for_run(
                judged.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
            ).records
    checks = [e.event_log_entry.dagster_event.event_specific_data for e in events]
    return {c.check_name: c for c in checks}


def test_every_rule_reports(evaluated: dict[str, dg.AssetCheckEvaluation]) -> None:
    of_minutes = {Reason.MISSING_MINUTES, Reason.COPIED_SESSION}
    assert set(evaluated) == {check_name(Timeframe.D1, r) for r in REASONS if r not in of_minutes}
    failed = {name for name, check in evaluated.items() if not check.passed}
    assert failed == {"bars_1d_ohlc_order", "bars_1d_spike", "bars_1d_hole"}
    for name in ("bars_1d_ohlc_order", "bars_1d_spike"):
        found = {k: v.value for k, v in evaluated[name].metadata.items()}
        assert (found["rows"], found["sessions"], found["rows served all the same"]) == (1, 1, 0)
        assert found["what follows"] == Severity.QUARANTINE.value
        image = found["picture"].removesuffix(")").rpartition("base64,")[2]
        assert base64.b64decode(image).decode().count("<rect") == 1
        assert evaluated[name].severity is dg.AssetCheckSeverity.WARN
    spike = evaluated["bars_1d_spike"].metadata["newest"].value
    assert spike == f"{DAYS[40]} (1): S000"


def test_an_impossible_bar_in_the_lake_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "isobar.toml").write_text('symbols = ["S000", "S001"]\n')
    with environment_of({}, tmp_path):
        launcher = Launcher(load_settings(), now=NOW)
        launcher.stores.__dict__["source"] = FrameSource(WALK)
        launcher.launch(jobs.ingest_job_name(Timeframe.D1), sessions=DAYS[:-1])
        bad = WALK.with_columns(pl.lit(-1.0).alias(Bar.LOW)).filter(pl.col(Bar.SESSION) == DAYS[20])
        launcher.stores.lake.replace("bars_1d", bad, [DAYS[20]])
        launcher.launch(jobs.ingest_job_name(Timeframe.D1), sessions=DAYS[-1:])
        with dg.DagsterInstance.get() as instance:
            key = dg.AssetCheckKey(
                dg.AssetKey("bars_1d"), check_name(Timeframe.D1, Reason.NOT_POSITIVE)
            )
            record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    found = record.event.dagster_event.event_specific_data
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.ERROR
    assert found.metadata["rows served all the same"].value == 2
