"""Plans of the vendor: what the replay answers to each; found out by asking, and remembered."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from massive import RESTClient
from massive.exceptions import BadResponse
from pydantic import SecretStr

from market import calendar
from market.errors import SourceError
from market.polygon import PolygonSource
from market.polygon_wire import NotInPlanError
from market.remembered_plan import find_plan
from market.replay import ServedMarket, create_app
from market.request_limiter import Plan
from market.schema import Bar
from market.serving import BackgroundServer
from market.timeframes import Timeframe
from tests.markets import market

KEY = "key"
DELAY = dt.timedelta(minutes=15)
MADE = market(symbols=2, sessions=4, minute_sessions=2)
SYMBOL = MADE.tickers["symbol"][0]
DAYS = sorted(MADE.daily[Bar.SESSION].unique())
NOON = calendar.session_open(DAYS[-1]) + dt.timedelta(hours=2, minutes=30)
NOW = dt.datetime(2024, 7, 15, 12, tzinfo=dt.UTC)
DELAYED = (Plan.FREE, Plan.STARTER, Plan.DEVELOPER)


@contextmanager
def _served(plan: Plan | None, **options: Any) -> Iterator[str]:
    made = ServedMarket(MADE.daily, MADE.minute, MADE.splits, MADE.dividends, MADE.tickers)
    app = create_app(made, api_key=KEY, plan=plan, **options)
    with BackgroundServer(app) as server:
        yield server.url


def _source(url: str, waits: list[float] | None = None) -> PolygonSource:
    sleep = (waits if waits is not None else []).append
    return PolygonSource(SecretStr(KEY), url, sleep=sleep, known_delay=DELAY)


@pytest.mark.parametrize("plan", Plan)
def test_a_plan_is_found_out_by_asking(plan: Plan) -> None:
    with _served(plan) as url:
        source = _source(url)
        assert source.probe_plan() is plan
        assert source.metrics.requests <= 3


def test_a_replay_without_a_plan_allows_everything() -> None:
    with _served(None) as url:
        assert _source(url).probe_plan() is Plan.ADVANCED


@pytest.mark.parametrize("plan", Plan)
def test_the_vendors_own_client_reads_what_a_plan_covers(plan: Plan) -> None:
    with _served(plan) as url:
        client = RESTClient(KEY, base=url, retries=0)
        calls = {
            Plan.STARTER: lambda: client.get_snapshot_ticker("stocks", SYMBOL),
            Plan.DEVELOPER: lambda: list(client.list_trades(SYMBOL)),
            Plan.ADVANCED: lambda: list(client.list_quotes(SYMBOL)),
        }
        order = list(Plan)
        for needed, call in calls.items():
            if order.index(plan) < order.index(needed):
                with pytest.raises(BadResponse, match="NOT_AUTHORIZED"):
                    call()
            else:
                call()
        if plan is not Plan.FREE:
            day = client.get_snapshot_ticker("stocks", SYMBOL).day
            assert day.close == MADE.daily.filter(symbol=SYMBOL)[Bar.CLOSE][-1]
            with pytest.raises(BadResponse, match="NOT_FOUND"):
                client.get_snapshot_ticker("stocks", "NOPE")


@pytest.mark.parametrize("plan", DELAYED)
def test_delayed_answers_are_read_as_others(plan: Plan) -> None:
    with _served(plan) as url, _served(None) as plain:
        for timeframe in (Timeframe.D1, Timeframe.M1):
            asked = ([SYMBOL], timeframe, DAYS[0], DAYS[-1])
            assert _source(url).bars(*asked).equals(_source(plain).bars(*asked))
        answer = RESTClient(KEY, base=url).list_aggs(SYMBOL, 1, "day", DAYS[0], DAYS[-1], raw=True)
        assert b'"status":"DELAYED"' in answer.data


@pytest.mark.parametrize("plan", DELAYED)
@pytest.mark.parametrize("timeframe", [Timeframe.D1, Timeframe.M1])
def test_delayed_answers_are_refused_without_a_delay(plan: Plan, timeframe: Timeframe) -> None:
    """Their bars would count as known before this plan can know them."""
    with _served(plan) as url:
        source = PolygonSource(SecretStr(KEY), url, sleep=lambda _: None)
        with pytest.raises(SourceError, match=r"polygon\.delay_minutes = 15"):
            source.bars([SYMBOL], timeframe, DAYS[0], DAYS[-1])


def test_the_free_plan_has_no_bars_of_today() -> None:
    with _served(Plan.FREE, now=lambda: NOON) as url:
        source = _source(url)
        assert source.bars([SYMBOL], Timeframe.D1, DAYS[0], DAYS[-2]).height == len(DAYS) - 1
        for first in (DAYS[0], DAYS[-1]):
            with pytest.raises(NotInPlanError, match="data timeframe"):
                source.bars([SYMBOL], Timeframe.D1, first, DAYS[-1])
        with pytest.raises(NotInPlanError):
            source.bars(MADE.tickers["symbol"].to_list(), Timeframe.D1, DAYS[-1], DAYS[-1])
    with _served(Plan.STARTER, now=lambda: NOON) as url:
        assert _source(url).bars([SYMBOL], Timeframe.M1, DAYS[-1], DAYS[-1]).height > 0


@pytest.mark.parametrize(("plan", "allowed"), [(Plan.FREE, 5), (Plan.STARTER, 100)])
def test_a_plan_has_so_many_requests_a_minute(plan: Plan, allowed: int) -> None:
    with _served(plan, monotonic=lambda: 0.0) as url:
        source = _source(url)
        for _ in range(allowed):
            source.check_known([SYMBOL])
        with pytest.raises(SourceError, match="rate limit was hit"):
            source.check_known([SYMBOL])


class Probe:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.count = plan, 0

    def __call__(self) -> Plan:
        self.count += 1
        return self.plan


@pytest.mark.parametrize(
    ("plan", "hours"), [(Plan.FREE, 1), (Plan.STARTER, 24), (Plan.ADVANCED, 24)]
)
def test_a_plan_is_remembered_for_a_while(tmp_path: Path, plan: Plan, hours: int) -> None:
    probe, folder = Probe(plan), tmp_path / "of" / "key"
    almost = NOW + dt.timedelta(hours=hours, seconds=-1)
    for now, asked in ((NOW, 1), (almost, 1), (NOW + dt.timedelta(hours=hours), 2), (NOW, 3)):
        assert find_plan(folder, probe, now=now) is plan
        assert probe.count == asked
    assert [p.name for p in folder.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"plan":"gold","found_at":"x"}', b'{"plan":"free"}']
)
def test_a_damaged_memory_is_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(damage)
    probe = Probe(Plan.DEVELOPER)
    assert find_plan(tmp_path, probe, now=NOW) is Plan.DEVELOPER
    assert probe.count == 1


def test_nothing_is_guessed_when_the_vendor_does_not_say(tmp_path: Path) -> None:
    with _served(None) as url:
        stranger = PolygonSource(SecretStr("wrong"), url)
        with pytest.raises(SourceError, match="POLYGON_API_KEY"):
            find_plan(tmp_path, stranger.probe_plan, now=NOW)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SourceError, match="cannot be remembered"):
        find_plan(tmp_path / "file", Probe(Plan.FREE), now=NOW)
