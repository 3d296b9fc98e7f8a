"""The vendor's own client, unmodified, against the replay of macro data, news and identities."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import massive
import orjson
import polars as pl
import pytest
from massive.exceptions import BadResponse
from pydantic import SecretStr

from market import calendar
from market.errors import MarketError
from market.macro import index_known_at, yields_known_at
from market.polygon import PolygonSource
from market.reference_source import ReferenceTables
from market.replay import ServedMarket, create_app
from market.replay_macro import load_reference_files
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, TICKER_SCHEMA, empty
from market.serving import BackgroundServer
from tests.reference_tables import END, GONE_ON, RENAMED_ON, REUSED_ON, SESSIONS, START, tables

KEY = "the-secret-key"
SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS")


def _market(given: ReferenceTables) -> ServedMarket:
    tickers = pl.DataFrame(
        [("NEW", "New Inc.", True, "BBG000NEW001"), ("SOLO", "Solo Inc.", True, None)],
        schema=TICKER_SCHEMA,
        orient="row",
    )
    nothing = empty(SPLIT_SCHEMA), empty(DIVIDEND_SCHEMA)
    return ServedMarket(None, None, *nothing, tickers, given)


@contextmanager
def _serving(
    given: ReferenceTables, now: Callable[[], dt.datetime] | None = None
) -> Iterator[massive.RESTClient]:
    with BackgroundServer(create_app(_market(given), api_key=KEY, now=now)) as server:
        client = massive.RESTClient(KEY, base=server.url, retries=0)
        yield client
        client.client.clear()


@pytest.fixture(scope="module")
def given() -> ReferenceTables:
    return tables()


@pytest.fixture(scope="module")
def client(given: ReferenceTables) -> Iterator[massive.RESTClient]:
    with _serving(given) as client:
        yield client


def test_treasury_yields(client: massive.RESTClient, given: ReferenceTables) -> None:
    found = list(client.list_treasury_yields(date_gte="2024-07-01", sort="date.asc", limit=3))
    assert [y.date for y in found][:4] == ["2024-07-01", "2024-07-02", "2024-07-03", "2024-07-05"]
    row = given.treasury_yields.filter(pl.col("date") == dt.date(2024, 7, 1)).row(0, named=True)
    assert (found[0].yield_10_year, found[0].yield_1_month) == (
        row["yield_10_year_percent"],
        row["yield_1_month_percent"],
    )
    newest_first = client.list_treasury_yields()
    assert next(iter(newest_first)).date == END.isoformat()
    one = list(client.list_treasury_yields(date="2024-06-26"))
    assert [(y.date, y.yield_1_month) for y in one] == [("2024-06-26", None)]


@pytest.mark.parametrize("limit", [2, 50_000])
@pytest.mark.parametrize("sort", ["asc", "desc"])
def test_index_values(
    client: massive.RESTClient, given: ReferenceTables, sort: str, limit: int
) -> None:
    found = list(client.list_aggs("I:VIX", 1, "day", START, END, sort=sort, limit=limit))
    stored = given.indices if sort == "asc" else given.indices.reverse()
    assert [(a.open, a.high, a.low, a.close) for a in found] == stored.select(
        "open", "high", "low", "close"
    ).rows()
    midnight = dt.datetime.combine(stored["session"][0], dt.time(), calendar.NEW_YORK)
    assert found[0].timestamp == int(midnight.timestamp() * 1000)
    assert {(a.volume, a.vwap, a.transactions) for a in found} == {(None, None, None)}


def test_an_index_is_no_stock(client: massive.RESTClient) -> None:
    body = orjson.loads(client.list_aggs("I:VIX", 1, "day", START, END, raw=True).data)
    assert "adjusted" not in body
    assert body["resultsCount"] == len(SESSIONS)
    assert client.get_grouped_daily_aggs(SESSIONS[0]) == []
    assert list(client.list_aggs("I:NOPE", 1, "day", START, END)) == []
    assert list(client.list_aggs("VIX", 1, "day", START, END)) == []


def test_news(client: massive.RESTClient) -> None:
    found = list(client.list_ticker_news(limit=1))
    assert [a.id for a in found] == ["a3", "a2", "a1"]
    first = found[-1]
    assert (first.title, first.publisher.name, first.tickers) == (
        "About a1",
        "A Wire",
        ["GONE", "NEW"],
    )
    assert first.published_utc == "2024-06-30T22:00:00Z"
    assert [(i.ticker, i.sentiment, i.sentiment_reasoning) for i in first.insights] == [
        ("NEW", "positive", "It sounds positive.")
    ]
    assert [a.id for a in client.list_ticker_news("GONE", order="asc", sort="published_utc")] == [
        "a1",
        "a3",
    ]
    later = client.list_ticker_news("NEW", published_utc_gt="2024-06-30T22:00:00Z")
    assert [a.id for a in later] == ["a3", "a2"]
    assert list(client.list_ticker_news("NOPE")) == []


def test_ticker_events(client: massive.RESTClient) -> None:
    for name in ("BBG000NEW001", "NEW"):
        found = client.get_ticker_events(name)
        assert found.composite_figi == "BBG000NEW001"
        assert found.name == "New Inc."
        assert [(e["date"], e["ticker_change"]["ticker"]) for e in found.events] == [
            (RENAMED_ON.isoformat(), "NEW"),
            ("2003-09-10", "OLD"),
        ]
    # By ticker, the company that bears it now.
    assert client.get_ticker_events("GONE").composite_figi == "BBG000GONE02"
    for name in ("BARE", "SOLO", "NOPE"):
        with pytest.raises(BadResponse, match="NOT_FOUND"):
            client.get_ticker_events(name)


def test_former_and_delisted_tickers_are_inactive(client: massive.RESTClient) -> None:
    active = list(client.list_tickers())
    assert [t.ticker for t in active] == ["BARE", "GONE", "NEW", "SOLO"]
    gone = {t.ticker: t for t in client.list_tickers(active=False)}
    assert sorted(gone) == ["GONE", "OLD", "PAST"]
    assert gone["GONE"].delisted_utc == f"{GONE_ON}T00:00:00Z"
    assert gone["OLD"].composite_figi == "BBG000NEW001"
    assert client.get_ticker_details("GONE").composite_figi == "BBG000GONE02"


def test_the_replay_clock_hides_what_is_not_known_yet(given: ReferenceTables) -> None:
    moment = [index_known_at(SESSIONS[3]) - dt.timedelta(seconds=1)]
    with _serving(given, now=lambda: moment[0]) as client:
        assert len(list(client.list_aggs("I:VIX", 1, "day", START, END))) == 3
        moment[0] += dt.timedelta(seconds=1)
        assert len(list(client.list_aggs("I:VIX", 1, "day", START, END))) == 4
        moment[0] = yields_known_at(dt.date(2024, 6, 24)) - dt.timedelta(seconds=1)
        assert list(client.list_treasury_yields()) == []
        moment[0] = dt.datetime(2024, 6, 30, 22, 59, 59, tzinfo=dt.UTC)
        assert list(client.list_ticker_news()) == []
        moment[0] += dt.timedelta(seconds=1)
        assert [a.id for a in client.list_ticker_news()] == ["a1"]
        moment[0] = calendar.session_open(RENAMED_ON) - dt.timedelta(seconds=1)
        assert [t.ticker for t in client.list_tickers()] == ["BARE", "OLD", "SOLO"]
        assert len(client.get_ticker_events("BBG000NEW001").events) == 1
        moment[0] = calendar.session_open(REUSED_ON)
        assert [t.ticker for t in client.list_tickers()] == ["BARE", "GONE", "NEW", "SOLO"]


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    pl.DataFrame({"date": [START], "close": [1.0]}).write_parquet(tmp_path / "vix.parquet")
    (tmp_path / "yields.parquet").write_text("no Parquet")
    with pytest.raises(MarketError, match=r"vix\.parquet"):
        load_reference_files(vix=tmp_path / "vix.parquet")
    with pytest.raises(MarketError, match=r"yields\.parquet"):
        load_reference_files(treasury=tmp_path / "yields.parquet")


@pytest.mark.parametrize(("factor", "percent"), [(1.0, 4.25), (0.01, 4.25)])
def test_yields_of_a_file_come_in_percent(tmp_path: Path, factor: float, percent: float) -> None:
    names = ["1month", "3month", "6month"]
    names += [f"{n}year" for n in (1, 2, 3, 5, 7, 10, 20, 30)]
    row = {"date": [START], **{n: [4.25 * factor] for n in names}}
    pl.DataFrame(row).write_parquet(tmp_path / "yields.parquet")
    found = load_reference_files(treasury=tmp_path / "yields.parquet").treasury_yields
    assert found["yield_10_year_percent"].to_list() == [percent]


@pytest.mark.real_bars
@pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS is not set")
def test_real_files_come_through_the_vendors_protocol() -> None:
    folder = Path(str(SAMPLES))
    given = load_reference_files(
        vix=folder / "daily_vix_1990_2014.parquet",
        treasury=folder / "treasury_curves_1990_2014.parquet",
    )
    start, end = dt.date(1990, 1, 2), dt.date(2014, 12, 31)
    with BackgroundServer(create_app(_market(given), api_key=KEY)) as server:
        source = PolygonSource(SecretStr(KEY), server.url)
        assert source.index_bars(["VIX"], start, end).equals(given.indices)
        assert source.treasury_yields(start, end).equals(given.treasury_yields)
