"""The doctor: each thing that can be wrong is found, named, and said how to mend."""

from __future__ import annotations

import datetime as dt
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from isobar import doctor
from isobar.doctor import Finding, examine
from market import calendar
from market.ledger_tables import signals
from market.replay import create_app
from market.replay_data import ServedMarket
from market.request_limiter import Plan
from market.serving import BackgroundServer
from pipelines.resources import Stores
from pipelines.settings import Settings
from tests.commands import isobar
from tests.isobar.trading_desk import TradingDesk, a_desk, signal
from tests.markets import market
from tests.pipelines.installation import POLYGON_KEY, Installation, environment

NOW = dt.datetime(2026, 3, 4, 15, tzinfo=dt.UTC)
MADE = market(symbols=2, sessions=4, minute_sessions=2)
WIDTH = 80


def stores_of(home: Path, **values: Any) -> Stores:
    return Stores(Settings.model_validate({"home": home, **values}))


def found_by(stores: Stores, now: dt.datetime = NOW) -> dict[str, Finding]:
    return {f.check: f for f in examine(stores, now)}


def remedy(finding: Finding) -> str:
    assert not finding.ok, finding
    return finding.says.partition("Remedy: ")[2]


class TestMarketData:
    def served(self, home: Path, plan: Plan | None, **polygon: Any) -> dict[str, Finding]:
        made = ServedMarket(MADE.daily, MADE.minute, MADE.splits, MADE.dividends, MADE.tickers)
        app = create_app(made, api_key="key", plan=plan)
        with BackgroundServer(app) as server:
            chosen = {"api_key": "key", "base_url": server.url, **polygon}
            return found_by(stores_of(home, polygon=chosen))

    @pytest.mark.parametrize("plan", Plan)
    def test_the_plan_is_found_out_and_its_pace_is_told(self, tmp_path: Path, plan: Plan):
        found = self.served(tmp_path, plan, delay_minutes=15)["data plan"]
        assert found.ok
        limit = plan.requests_per_minute
        assert found.says.startswith(f"{plan.value}: ")
        assert (f"{limit:,} requests a minute" if limit else "without a limit") in found.says

    @pytest.mark.parametrize("plan", Plan)
    def test_late_bars_that_would_count_as_fresh_are_refused(self, tmp_path: Path, plan: Plan):
        found = self.served(tmp_path, plan)["data plan"]
        assert found.ok is (plan is Plan.ADVANCED)
        if not found.ok:
            assert "polygon.delay_minutes = 15" in remedy(found)

    def test_a_wrong_key_is_named_without_being_shown(self, tmp_path: Path):
        found = self.served(tmp_path, None, api_key="needle-of-a-key")
        assert "POLYGON_API_KEY" in remedy(found["market data"])
        assert "needle" not in str(found)
        assert "data plan" not in found

    @pytest.mark.parametrize(("seconds", "ok"), [(2, True), (-299, True), (301, False)])
    def test_clocks_apart_from_the_real_vendor_are_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, ok: bool
    ):
        there = NOW + dt.timedelta(seconds=seconds)
        monkeypatch.setattr(Stores, "vendor_time", lambda self: there)
        real = {"api_key": "key", "plan": "advanced", "base_url": "https://api.polygon.io"}
        found = found_by(stores_of(tmp_path, polygon=real))["market data"]
        assert found.ok is ok
        assert f"{abs(seconds)}" in found.says
        if not ok:
            assert "NTP" in remedy(found)


def test_without_keys_what_needs_them_is_not_asked(tmp_path: Path):
    found = found_by(stores_of(tmp_path))
    assert set(found) == {"settings", "keys", "calendar", "disk", "ledger", "models"}
    assert ".env" in remedy(found["keys"])


@pytest.mark.parametrize(
    ("day", "ok"), [(calendar.LAST_DATE - dt.timedelta(days=n), n >= 365) for n in (364, 365)]
)
def test_the_calendar_covers_the_next_year(tmp_path: Path, day: dt.date, ok: bool):
    noon = dt.datetime.combine(day, dt.time(12), calendar.NEW_YORK)
    found = found_by(stores_of(tmp_path), noon)["calendar"]
    assert found.ok is ok
    assert ok or "upgrade" in remedy(found)


def test_a_half_day_is_announced(tmp_path: Path):
    before = dt.datetime(2026, 11, 25, 23, tzinfo=dt.UTC)
    said = found_by(stores_of(tmp_path), before)["calendar"].says
    assert "next 2026-11-27, a half-day" in said


@pytest.mark.parametrize(("free", "ok"), [(2**30 - 1, False), (2**30, True)])
def test_little_disk_space_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, ok: bool
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(2**40, 0, free))
    found = found_by(stores_of(tmp_path))["disk"]
    assert found.ok is ok
    assert ok or str(tmp_path) in remedy(found)


class TestLedger:
    @pytest.fixture
    def desk(self, tmp_path: Path):
        """A desk without a vendor: nothing waits for one that does not answer."""
        with a_desk(tmp_path / "home") as made:
            made.environment["POLYGON_API_KEY"] = ""
            yield made

    def test_a_whole_one_tells_its_version(self, desk: TradingDesk):
        desk.publish(signal("A"))
        found = found_by(desk.stores)["ledger"]
        with desk.stores.ledger as ledger:
            version = ledger.version
        assert found == Finding(
            "ledger", True, f"version {version}, 1 batches of signals, chains whole"
        )

    def test_an_altered_signal_is_found(self, desk: TradingDesk):
        desk.publish(signal("A"))
        with desk.stores.ledger as ledger, ledger.transaction() as connection:
            connection.execute(sa.update(signals).values(confidence=0.99))
        assert "`isobar audit signals`" in remedy(found_by(desk.stores)["ledger"])

    def test_an_altered_order_is_found(self, desk: TradingDesk):
        desk.publish(signal("A"))
        assert desk.ask("trade").status == 0
        with desk.stores.ledger as ledger, ledger.transaction() as connection:
            connection.execute(sa.text("UPDATE orders SET state = 'canceled'"))
        assert "`isobar audit orders`" in remedy(found_by(desk.stores)["ledger"])

    def test_a_file_that_is_no_ledger_is_found(self, tmp_path: Path):
        (tmp_path / "ledger.db").write_bytes(b"not a database" * 100)
        assert not found_by(stores_of(tmp_path))["ledger"].ok

    def test_brackets_in_a_message_are_shown(self, desk: TradingDesk, monkeypatch):
        told = "no [models] in the file; allowed: some. Remedy: write [models] there."
        monkeypatch.setattr(doctor, "_disk", lambda stores: (_ for _ in ()).throw(OSError(told)))
        page = desk.ask("doctor").out
        assert page.count("[models]") == 2
        assert max(map(len, page.splitlines())) <= WIDTH


@pytest.mark.xdist_group("installation")
class TestInstallation:
    def test_models_are_judged_by_the_age_up_to_which_they_trade(self, installation: Installation):
        settings = installation.settings
        assert found_by(Stores(settings))["models"].ok
        strict = replace(settings.risk, model_age_days=0.5)
        found = found_by(Stores(settings.model_copy(update={"risk": strict})))["models"]
        assert "isobar train --horizon" in remedy(found)

    def test_it_costs_the_vendor_four_requests_and_then_one(
        self, installation: Installation, tmp_path: Path
    ):
        asked = installation.vendor_requests
        fresh = environment(tmp_path / "home", installation.vendor_url, installation.broker_url)
        for most in (4, 1):
            before = len(asked)
            done = isobar("doctor", "--json", environment=fresh)
            named = {c["check"]: c["ok"] for c in done.document["checks"]}
            assert named["market data"] is named["data plan"] is True
            assert 0 < len(asked) - before <= most

    def test_the_page_fits_a_terminal(self, installation: Installation):
        done = isobar("doctor", environment=installation.environment)
        assert done.status == 0
        assert max(map(len, done.out.splitlines())) <= WIDTH
        assert POLYGON_KEY not in done.out
