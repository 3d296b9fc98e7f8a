"""The first day, explained before it is done."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from isobar import bootstrap as first_day
from isobar import pipeline_commands
from isobar.bootstrap import Step, bootstrap, explain_bootstrap
from market.replay import ServedMarket, create_app
from market.request_limiter import Plan
from market.serving import BackgroundServer
from pipelines.launch import Launcher
from pipelines.resources import Stores
from pipelines.settings import Settings
from tests.commands import isobar
from tests.markets import market
from tests.pipelines.installation import POLYGON_KEY, environment

MADE = market(symbols=3, sessions=30, minute_sessions=4)
LAST = MADE.daily["session"].max()
NAMES = ["daily bars", "minute bars", "reference data", "features", "models and backtests"]
WIDTH = 80


class Vendor:
    """A server that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        made = ServedMarket(MADE.daily, MADE.minute, MADE.splits, MADE.dividends, MADE.tickers)
        self.app = create_app(made, api_key=POLYGON_KEY)

        @self.app.middleware("http")
        async def note(request: Request, call_next: Any) -> Any:
            self.asked.append(request.url.path)
            return await call_next(request)


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


@pytest.fixture
def url(vendor: Vendor) -> Iterator[str]:
    with BackgroundServer(vendor.app) as server:
        yield server.url


class Days:
    """A launcher that does nothing but note what it is told."""

    def __init__(self, home: Path, plan: Plan, horizons: tuple[str, ...] = ("1h", "1d")) -> None:
        self.settings = Settings.model_validate(
            {
                "home": home,
                "symbols": MADE.tickers["symbol"].to_list(),
                "polygon": {"api_key": "key", "plan": plan.value},
                "history": {"end": LAST, "daily_sessions": 20, "minute_sessions": 4},
                "models": {"horizons": horizons},
            }
        )
        self.stores = Stores(self.settings)
        self.done: list[str] = []

    def present(self) -> dt.datetime:
        return dt.datetime.combine(LAST, dt.time(23), dt.UTC)

    def __getattr__(self, name: str) -> Any:
        def work(*arguments: object) -> dict[str, dict[str, Any]]:
            self.done.append(name)
            if name == "prepare":
                return {"dataset_version": {"dataset version": "v"}}
            return {h: {} for h in self.settings.models.horizons}

        return work


def as_launcher(days: Days) -> Launcher:
    return days  # type: ignore[return-value]


def test_each_step_is_told_before_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(first_day, "is_backtested", lambda stores, horizon: False)
    days = Days(tmp_path, Plan.ADVANCED)
    told: list[tuple[str, int]] = []
    bootstrap(as_launcher(days), lambda step: told.append((step.name, len(days.done))))
    assert [name for name, _ in told] == NAMES
    begun = {name: days.done[k] for name, k in told}
    assert begun["daily bars"] == begun["minute bars"] == "ingest"
    assert begun["reference data"] == "fetch_reference"
    assert begun["features"] == "prepare"
    assert begun["models and backtests"] == "train"


def test_without_intraday_horizons_no_minute_is_fetched(tmp_path: Path):
    steps = explain_bootstrap(as_launcher(Days(tmp_path, Plan.FREE, ("1d", "14d"))))
    assert [s.name for s in steps] == [n for n in NAMES if n != "minute bars"]


def test_the_pace_is_the_plans(tmp_path: Path):
    def steps(plan: Plan) -> dict[str, Step]:
        return {s.name: s for s in explain_bootstrap(as_launcher(Days(tmp_path, plan)))}

    free, fast = steps(Plan.FREE), steps(Plan.ADVANCED)
    for name in NAMES[:3]:
        assert free[name].requests == fast[name].requests > 0
        assert free[name].minutes == free[name].requests / 5
        assert fast[name].minutes is None
        assert "minutes" in free[name].cost
        assert "minutes" not in fast[name].cost
    assert free["features"].cost == "no request"


def test_flat_files_take_the_place_of_pages_where_they_are_fewer(tmp_path: Path):
    days = Days(tmp_path, Plan.ADVANCED)
    keys = {"s3_access_key": "a", "s3_secret_key": "b", "api_key": "key", "plan": "advanced"}
    given = {**days.settings.model_dump(), "polygon": keys}
    over_rest = {s.name: s for s in explain_bootstrap(as_launcher(days))}["minute bars"]
    days.settings = Settings.model_validate(given | {"symbols": [f"S{k}" for k in range(40)]})
    days.stores = Stores(days.settings)
    filed = {s.name: s for s in explain_bootstrap(as_launcher(days))}["minute bars"]
    assert (over_rest.files, filed.files) == (0, 4)


def test_a_dry_run_asks_for_no_data_and_writes_none(tmp_path: Path, vendor: Vendor, url: str):
    home = tmp_path / "home"
    surroundings = environment(home, url)
    done = isobar("bootstrap", "--dry-run", "--json", environment=surroundings)
    assert done.status == 0, done.err
    assert [s["name"] for s in done.document["steps"]] == NAMES
    data = [p for p in vendor.asked if "/aggs/" in p or "/splits" in p or "/dividends" in p]
    assert data == []
    assert not (home / "lake").exists() or not any((home / "lake").iterdir())
    page = isobar("bootstrap", "--dry-run", environment=surroundings)
    assert "Nothing was fetched" in page.out
    assert max(map(len, page.out.splitlines())) <= WIDTH


def test_pictures_for_dagster_are_not_poured_into_the_terminal(capsys: pytest.CaptureFixture[str]):
    picture = f"![risk](data:image/png;base64,{'QUJD' * 5_000})"
    made = {
        "models 1d": {
            "rank IC": 0.02,
            "picture: risk": picture,
            "told": "first line\nsecond line",
            "newest": "| a |\n| b |",
        }
    }
    pipeline_commands._report("Trained", made, as_json=False)
    page = capsys.readouterr().out
    assert "QUJD" not in page
    assert "rank IC" in page
    assert "second line" in page
    assert "| b |" not in page, "small tables are for Dagster's page"
