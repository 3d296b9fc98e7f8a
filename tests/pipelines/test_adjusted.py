"""`serve polygon` with its options, and adjusted bars through the command line."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi import FastAPI

from isobar import server_commands
from market.lake import Lake
from market.replay_faults import FaultKind
from market.request_limiter import Plan
from market.schema import Bar
from market.serving import BackgroundServer
from market.synthetic import SyntheticSpec, generate
from tests.commands import isobar
from tests.pipelines.installation import environment, environment_of

SPEC = SyntheticSpec(symbols=2, sessions=6, minute_sessions=0, alpha={})


@pytest.fixture
def app_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """What `serve polygon` with these options would serve."""

    def make(**options: Any) -> FastAPI:
        served: list[FastAPI] = []
        monkeypatch.setattr(server_commands, "serve", lambda app, port: served.append(app))
        monkeypatch.setattr(server_commands, "SyntheticSpec", lambda seed: SPEC)
        with environment_of(environment(tmp_path), tmp_path):
            server_commands.serve_polygon(1024, synthetic=True, **options)
        return served[0]

    return make


def _ingest(home: Path, url: str, **more: str) -> Any:
    days = sorted(generate(SPEC).daily[Bar.SESSION].unique())
    home.mkdir(exist_ok=True)
    (home / "isobar.toml").write_text(f"[history]\nend = {days[-1]}\nstart = {days[0]}\n")
    command = f"ingest --start {days[0]} --end {days[-1]} --timeframe 1d"
    return isobar(*command.split(), environment={**environment(home, url), **more})


def test_an_adjusted_vendor_fills_a_lake_of_its_own_and_nothing_is_learned_from_it(
    app_of: Any, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    adjusted = {"ISOBAR_POLYGON__ADJUSTED": "true"}
    with BackgroundServer(app_of(adjusted=True)) as server:
        refused = _ingest(home, server.url)
        assert refused.status == 1
        assert "asked for raw prices, got adjusted ones" in refused.message
        done = _ingest(home, server.url, **adjusted)
        assert done.status == 0, done.err
        trained = isobar(
            "train", "--horizon", "1d", environment={**environment(home, server.url), **adjusted}
        )
    lake = Lake(home / "lake_adjusted")
    assert lake.read_bars("bars_1d").height == generate(SPEC).daily.height
    log = lake.scan("ingest_log").collect()
    assert set(log["source"]) == {"polygon-adjusted"}
    assert not Lake(home / "lake").exists("bars_1d")
    assert trained.status == 1
    assert "nothing is learned from adjusted bars" in trained.message


def test_a_plan_and_a_fault_can_be_served(app_of: Any, tmp_path: Path) -> None:
    app = app_of(plan=Plan.DEVELOPER, fault=FaultKind.TRUNCATED, seed=3)
    home = tmp_path / "home"
    with BackgroundServer(app) as server:
        undelayed = _ingest(home, server.url)
        done = _ingest(home, server.url, ISOBAR_POLYGON__DELAY_MINUTES="15")
    assert (undelayed.status, done.status) == (1, 0), done.err
    stored = Lake(home / "lake").read_bars("bars_1d")
    later = pl.col(Bar.KNOWN_AT) + dt.timedelta(minutes=15)
    assert stored.equals(generate(SPEC).daily.select(pl.col(stored.columns)).with_columns(later))
    (plan,) = (home / "vendor").glob("*/plan.json")
    assert '"developer"' in plan.read_text()
