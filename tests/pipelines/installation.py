"""A tiny installation, built once through real servers, and what happened while it was built."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request

from execution.paper import ReplayClock
from execution.paper import create_app as create_broker
from isobar.bootstrap import bootstrap
from market.horizons import Run, scheduled_for
from market.replay import create_app as create_vendor
from market.serving import BackgroundServer
from market.synthetic import SyntheticMarket, SyntheticSpec, generate
from market.synthetic_reference import serve_synthetic
from pipelines.launch import Launcher
from pipelines.resources import Stores
from pipelines.settings import Settings, load_settings

POLYGON_KEY = "pk-needle-4f1c9ad27b"
ALPACA_KEY = "ak-needle-9b3e6c50d1"
ALPACA_SECRET = "sk-needle-c27d81f4a6"
KEYS = (POLYGON_KEY, ALPACA_KEY, ALPACA_SECRET)

TODAY = dt.date(2025, 6, 30)
YESTERDAY = dt.date(2025, 6, 27)
HORIZONS = ("1h", "1d")
# Strong alpha, low costs and models that see few features besides those of a symbol's own prices
# (there are six symbols and fifty sessions), so that there is something to trade within two days.
# The policy practises little: no test asks how well it does.
SPEC = SyntheticSpec(
    symbols=6,
    sessions=100,
    minute_sessions=13,
    seed=11,
    end=TODAY,
    alpha={"1h": 0.05, "1d": 0.4},
)
RUNS = ((Run.EOD, YESTERDAY), (Run.PREMARKET, TODAY), (Run.MIDDAY, TODAY), (Run.EOD, TODAY))

_TOML = """\
symbols = {symbols}
[history]
start = {start}
end = {end}
minute_sessions = 12
[models]
horizons = ["1h", "1d"]
families = ["core", "alpha158", "technical"]
daily_min_train_sessions = 50
daily_test_sessions = 25
intraday_min_train_sessions = 6
intraday_test_sessions = 3
[models.tuned."1h".policy.params]
steps = 3_072
[models.tuned."1d".policy.params]
steps = 3_072
[costs]
half_spread_bps = 0.1
slippage_bps = 0.2
[trading]
enabled = true
"""


@dataclass(frozen=True)
class Installation:
    """Where it is, what it was made from, and what was recorded on the way."""

    home: Path
    market: SyntheticMarket
    clock: ReplayClock
    vendor_url: str
    broker_url: str
    vendor_requests: list[str]
    broker_requests: list[tuple[str, str]]
    story: dict[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.home, self.vendor_url, self.broker_url)

    @property
    def settings(self) -> Settings:
        with environment_of(self.environment, self.home):
            return load_settings()

    @property
    def stores(self) -> Stores:
        return Stores(self.settings)

    def copy(self, place: Path, *, ledger: bool = True) -> Installation:
        """The same data in a folder of its own, for tests that write; the servers are shared."""
        home = place / "home"
        left_out = ["dagster"] if ledger else ["dagster", "ledger.db*", "signal_heads.jsonl"]
        shutil.copytree(self.home, home, ignore=shutil.ignore_patterns(*left_out))
        return Installation(
            home, self.market, self.clock, self.vendor_url, self.broker_url, [], [], self.story
        )


def environment(home: Path, vendor_url: str = "", broker_url: str = "") -> dict[str, str]:
    return {
        "ISOBAR_HOME": str(home),
        "POLYGON_API_KEY": POLYGON_KEY,
        "POLYGON_BASE_URL": vendor_url or "http://127.0.0.1:9",
        "ALPACA_API_KEY": ALPACA_KEY,
        "ALPACA_SECRET_KEY": ALPACA_SECRET,
        "ALPACA_BASE_URL": broker_url or "http://127.0.0.1:9",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "DAGSTER_DISABLE_TELEMETRY": "true",
    }


_OURS = ("ISOBAR_", "POLYGON_", "MASSIVE_", "ALPACA_", "DAGSTER_HOME")


def clean_environment() -> dict[str, str]:
    """The environment without anything that Isobar or Dagster would read."""
    return {k: v for k, v in os.environ.items() if not k.startswith(_OURS)}


@contextmanager
def environment_of(values: Mapping[str, str], folder: Path | None = None) -> Iterator[None]:
    """Run with exactly these settings in the environment; nothing set inside stays.

    In ``folder``, where one is given: the repository may hold a ``.env`` or an ``isobar.toml``.
    """
    with pytest.MonkeyPatch.context() as patch:
        if folder is not None:
            patch.chdir(folder)
        for name in os.environ:
            if name.startswith(_OURS):
                patch.delenv(name)
        # Set and removed: the undoing then also removes what prepare_dagster_home sets.
        patch.setenv("DAGSTER_HOME", "")
        patch.delenv("DAGSTER_HOME")
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@contextmanager
def build(home: Path) -> Iterator[Installation]:
    market = generate(SPEC)
    clock = ReplayClock(scheduled_for(Run.EOD, YESTERDAY))
    vendor = create_vendor(
        serve_synthetic(market),
        api_key=POLYGON_KEY,
        now=clock.now,
    )
    broker = create_broker(market.minute, api_key=ALPACA_KEY, secret_key=ALPACA_SECRET, clock=clock)
    asked: list[str] = []
    ordered: list[tuple[str, str]] = []
    _listen(vendor, lambda method, path: asked.append(path))
    _listen(broker, lambda method, path: ordered.append((method, path)))
    home.mkdir(parents=True)
    symbols = str(market.tickers["symbol"].to_list()).replace("'", '"')
    start = market.daily["session"].min()
    (home / "isobar.toml").write_text(_TOML.format(symbols=symbols, start=start, end=TODAY))
    with BackgroundServer(vendor) as first, BackgroundServer(broker) as second:
        made = Installation(home, market, clock, first.url, second.url, asked, ordered)
        with environment_of(made.environment, home):
            _live_through_two_days(made)
        yield made


def _listen(app: FastAPI, note: Any) -> None:
    @app.middleware("http")
    async def listen(request: Request, call_next: Any) -> Any:
        note(request.method, request.url.path)
        return await call_next(request)


def _live_through_two_days(made: Installation) -> None:
    story = made.story
    story["bootstrap"] = bootstrap(_launcher(made))
    story["requests of the first bootstrap"] = list(made.vendor_requests)
    made.vendor_requests.clear()
    story["hashes after bootstrap"] = hashes(made)
    story["bootstrap again"] = bootstrap(_launcher(made))
    story["requests of the second bootstrap"] = list(made.vendor_requests)
    story["hashes after bootstrap again"] = hashes(made)
    for run, session in RUNS:
        made.clock.advance_to(scheduled_for(run, session))
        name = f"{run.value} {session}"
        story[name] = _launcher(made).scheduled_run(run, session)
        story[f"orders sent by {name}"] = made.broker_requests.count(("POST", "/v2/orders"))
        story[f"ledger after {name}"] = counts(made)
        made.broker_requests.clear()
        if session == TODAY and run is not Run.MIDDAY:
            story[f"hashes after {name}"] = hashes(made)
            story[f"{name} again"] = _launcher(made).scheduled_run(run, session)
            story[f"hashes after {name} again"] = hashes(made)
            story[f"orders sent by {name} again"] = made.broker_requests.count(
                ("POST", "/v2/orders")
            )
            story[f"ledger after {name} again"] = counts(made)
            made.broker_requests.clear()


def _launcher(made: Installation) -> Launcher:
    return Launcher(load_settings(), now=made.clock.now())


def hashes(made: Installation) -> dict[str, str]:
    """Content of every table of the lake, whatever its files."""
    tables = ("bars_1d", "bars_1m", "splits", "dividends", "features_1d", "features_15m")
    lake = Stores(load_settings()).lake
    found = {t: lake.content_hash(t) for t in (*tables, "predictions", "regimes", "ingest_log")}
    reference = ("treasury_yields", "indices", "news", "identities")
    return found | {t: lake.content_hash(t) for t in reference}


def counts(made: Installation) -> dict[str, int]:
    """Rows of the ledger's tables that a repetition must not grow."""
    tables = ("signals", "signal_batches", "plans", "orders", "fills", "backtests", "engines")
    with Stores(load_settings()).ledger as ledger:
        return {t: int(ledger.read(f"select count(*) as n from {t}").item()) for t in tables}
