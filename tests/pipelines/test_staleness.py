"""A revised session shows as stale in Dagster where it bears on features, and nowhere else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContext

from market.errors import MarketError
from market.schema import Bar
from market.timeframes import Timeframe
from pipelines import jobs
from pipelines.definitions import build_definitions
from pipelines.launch import Launcher
from pipelines.settings import load_settings
from tests.market.test_quarantine import DAYS, WALK, FrameSource
from tests.pipelines.installation import environment_of

NOW = dt.datetime(2024, 6, 3, 12, tzinfo=dt.UTC)
REVISED = DAYS[12]


class Context(LoadingContext):
    """What Dagster asks a single answer's data from."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance, self._loaders = instance, {}

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._instance

    @property
    def loaders(self) -> dict:
        return self._loaders


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    (tmp_path / "isobar.toml").write_text(
        'symbols = ["S000", "S001"]\n[models]\nhorizons = ["1d"]\n'
        "[refetch]\nevery_weeks = 1\n"
        f"[history]\nstart = {DAYS[0]}\nend = {DAYS[-1]}\n"
    )
    with environment_of({}, tmp_path):
        made = Launcher(load_settings(), now=NOW)
        made.stores.__dict__["source"] = FrameSource(WALK)
        yield made


def stale(launcher: Launcher, asset: str) -> list[str]:
    """Return the partitions of an asset that Dagster shows as stale."""
    graph = build_definitions(launcher.settings, launcher.stores).resolve_asset_graph()
    with dg.DagsterInstance.get() as instance:
        key = dg.AssetKey(asset)
        resolver = CachingStaleStatusResolver(instance, graph, Context(instance))
        made = sorted(instance.get_materialized_partitions(key)) or [None]
        return [str(p) for p in made if resolver.get_status(key, p) is StaleStatus.STALE]


def dataset_version() -> str:
    """Return the data version that Dagster knows of what models learn from."""
    with dg.DagsterInstance.get() as instance:
        record = instance.get_latest_materialization_event(dg.AssetKey("dataset_version"))
    assert record is not None
    assert record.asset_materialization is not None
    return (record.asset_materialization.tags or {})["dagster/data_version"]


def ingest(launcher: Launcher, sessions: list[dt.date]) -> dict[str, object]:
    return launcher.launch(jobs.ingest_job_name(Timeframe.D1), sessions=sessions)["bars_1d"]


def test_a_revision_makes_stale_what_rests_on_it(launcher: Launcher) -> None:
    launcher.launch(jobs.ACTIONS_JOB)
    ingest(launcher, DAYS[:18])
    launcher.prepare()
    assert stale(launcher, "features_1d") == []
    again = ingest(launcher, DAYS[:18])
    assert again["features that became stale"] == 0
    made = dataset_version()
    assert stale(launcher, "features_1d") == []

    here = (pl.col(Bar.SESSION) == REVISED) & (pl.col(Bar.SYMBOL) == "S000")
    launcher.stores.__dict__["source"] = FrameSource(
        WALK.with_columns(
            pl.when(here).then(pl.col(Bar.CLOSE) * 1.001).otherwise(Bar.CLOSE).alias(Bar.CLOSE)
        )
    )
    launcher.now = NOW + dt.timedelta(days=400)
    found = ingest(launcher, DAYS[:18])
    assert found["sessions revised"] == [REVISED.isoformat()]
    before = dataset_version()
    assert before == made
    expected = [d.isoformat() for d in DAYS[12:18]]
    assert stale(launcher, "features_1d") == expected
    done = launcher.prepare()
    assert done["features_1d"]["sessions"] == len(expected)
    assert stale(launcher, "features_1d") == []
    assert dataset_version() != before


def test_features_of_sessions_that_were_never_fetched_are_refused(launcher: Launcher) -> None:
    launcher.launch(jobs.ACTIONS_JOB)
    ingest(launcher, DAYS[:18])
    job = jobs.features_job_name(Timeframe.D1)
    with pytest.raises(
        MarketError, match=rf"1 of 19 sessions, {DAYS[18]} to {DAYS[18]}"
    ) as refused:
        launcher.launch(job, sessions=DAYS[:19])
    assert "materialise bars_1d" in str(refused.value)
    with dg.DagsterInstance.get() as instance:
        assert instance.get_materialized_partitions(dg.AssetKey("features_1d")) == set()
    assert launcher.launch(job, sessions=DAYS[:18])["features_1d"]["sessions"] == 18
