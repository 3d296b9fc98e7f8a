"""A vendor that misbehaves about macro data and news: the true lake, or an error and no change."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi import FastAPI, Request, Response
from pydantic import SecretStr

from market.errors import NotInPlanError, SourceError
from market.lake import Lake
from market.polygon import PolygonSource
from market.reference_ingest import (
    ingest_identities,
    ingest_index,
    ingest_news,
    ingest_treasury_yields,
)
from market.reference_source import ReferenceSource
from market.replay import ServedMarket, create_app
from market.replay_faults import FaultKind, FaultPlan
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, TICKER_SCHEMA, empty
from market.serving import BackgroundServer
from tests.reference_tables import END, START, tables

KEY = "k3y-0f-n0body"
NOW = dt.datetime(2024, 7, 16, 12, tzinfo=dt.UTC)
SYMBOLS = ["NEW", "GONE", "BARE", "PAST"]
TABLES = ("treasury_yields", "indices", "news", "identities")
EARLIER = dt.datetime(2024, 7, 2, 12, tzinfo=dt.UTC)
HARMLESS = (
    FaultKind.THROTTLED,
    FaultKind.THROTTLED_RETRY_AFTER,
    FaultKind.SERVER_ERROR,
    FaultKind.RESET,
    FaultKind.TRUNCATED,
    FaultKind.REORDERED_PAGES,
    FaultKind.UNKNOWN_FIELDS,
)


def _market() -> ServedMarket:
    nothing = empty(SPLIT_SCHEMA), empty(DIVIDEND_SCHEMA), empty(TICKER_SCHEMA)
    return ServedMarket(None, None, *nothing, tables())


def _ingest(lake: Lake, source: ReferenceSource, now: dt.datetime = NOW) -> None:
    ingest_treasury_yields(lake, source, START, now=now)
    ingest_index(lake, source, "VIX", START, now=now)
    ingest_news(lake, source, SYMBOLS, START, END)
    ingest_identities(lake, source, SYMBOLS)


def _content(lake: Lake) -> list[str]:
    return [lake.content_hash(t) for t in TABLES]


def _run(lake: Lake, faults: FaultPlan | None) -> None:
    with BackgroundServer(create_app(_market(), api_key=KEY, faults=faults)) as server:
        _ingest(lake, PolygonSource(SecretStr(KEY), server.url, sleep=lambda seconds: None))


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    lake = Lake(tmp_path_factory.mktemp("truth"))
    _run(lake, None)
    return _content(lake)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", HARMLESS)
def test_what_passes_leaves_the_true_lake(
    truth: list[str], tmp_path: Path, kind: FaultKind, seed: int
) -> None:
    _run(Lake(tmp_path), FaultPlan(kind, seed=seed, rate=0.5, page_bars=2))
    assert _content(Lake(tmp_path)) == truth


def test_a_page_of_news_that_comes_twice_counts_once(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    plan = FaultPlan(FaultKind.DUPLICATED_PAGE, rate=1.0, in_a_row=1, page_bars=2)
    with BackgroundServer(create_app(_market(), api_key=KEY, faults=plan)) as server:
        source = PolygonSource(SecretStr(KEY), server.url, sleep=lambda seconds: None)
        done = ingest_news(lake, source, SYMBOLS, START, END)
        asked = source.metrics.requests
    assert asked > 2 * len(SYMBOLS)
    assert (done.rows, done.added) == (6, 6)
    assert lake.scan("news").collect().sort("article_id", "symbol").equals(tables().news)


def test_paging_that_does_not_end_changes_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    plan = FaultPlan(FaultKind.NEXT_URL_LOOP, rate=1.0, page_bars=2)
    with BackgroundServer(create_app(_market(), api_key=KEY, faults=plan)) as server:
        source = PolygonSource(SecretStr(KEY), server.url, sleep=lambda seconds: None)
        with pytest.raises(SourceError, match="does not end"):
            ingest_news(lake, source, SYMBOLS, START, END)
    assert not lake.exists("news")


def _article(**changes: Any) -> dict[str, Any]:
    article = {
        "id": "x1",
        "published_utc": "2024-07-01T12:00:00Z",
        "title": "About it",
        "article_url": "https://example.invalid/x1",
        "publisher": {"name": "A Wire"},
        "tickers": ["NEW"],
        "insights": [{"ticker": "NEW", "sentiment": "positive", "sentiment_reasoning": "Why."}],
    }
    return {k: v for k, v in (article | changes).items() if v is not ...}


def _listing(**changes: Any) -> dict[str, Any]:
    return {"ticker": "NEW", "active": True, "composite_figi": "F1"} | changes


Fetch = Callable[[Lake, ReferenceSource], object]


def _yields(lake: Lake, source: ReferenceSource) -> object:
    return ingest_treasury_yields(lake, source, START, now=NOW)


def _index(lake: Lake, source: ReferenceSource) -> object:
    return ingest_index(lake, source, "VIX", START, now=NOW)


def _news(lake: Lake, source: ReferenceSource) -> object:
    return ingest_news(lake, source, ["NEW"], START, END)


def _identities(lake: Lake, source: ReferenceSource) -> object:
    return ingest_identities(lake, source, ["NEW"])


_DAY_MS = 1_719_806_400_000
_VIX = {"o": 12.0, "h": 13.0, "l": 11.0, "c": 12.5, "t": _DAY_MS}
_ONE, _OTHER = ({"date": "2024-07-01", "yield_10_year": y} for y in (4.4, 4.5))
UNUSABLE: list[tuple[str, Fetch, list[Any], dict[str, Any]]] = [
    ("a yield that is text", _yields, [_ONE | {"yield_10_year": "4.4"}], {}),
    ("a yield that is impossible", _yields, [_ONE | {"yield_10_year": 440.0}], {}),
    ("a date that is none", _yields, [_ONE | {"date": "2024-07-32"}], {}),
    ("a date outside the range", _yields, [_ONE | {"date": "2020-07-01"}], {}),
    ("a date told in two ways", _yields, [_ONE, _OTHER], {}),
    ("a VIX of another index", _index, [_VIX], {"ticker": "I:VXN"}),
    ("a VIX below zero", _index, [_VIX | {"l": -1.0}], {"ticker": "I:VIX"}),
    ("a VIX without close", _index, [{k: v for k, v in _VIX.items() if k != "c"}],
     {"ticker": "I:VIX"}),
    ("a VIX told in two ways", _index, [_VIX, _VIX | {"c": 12.0}], {"ticker": "I:VIX"}),
    ("an article without id", _news, [_article(id=...)], {}),
    ("an article of no hour", _news, [_article(published_utc="2024-07-01")], {}),
    ("an article out of time", _news, [_article(published_utc="2020-07-01T12:00:00Z")], {}),
    ("tickers that are no list", _news, [_article(tickers="NEW")], {}),
    ("a label that is a number", _news, [_article(insights=[{"ticker": "NEW", "sentiment": 1}])],
     {}),
    ("a publisher that is a number", _news, [_article(publisher={"name": [7]})], {}),
    ("a listing without active", _identities, [{"ticker": "NEW"}], {}),
    ("a delisting without date", _identities,
     [_listing(active=False, delisted_utc="soon")], {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fetch", "rows", "changes"), [u[1:] for u in UNUSABLE], ids=[u[0] for u in UNUSABLE]
)
def test_unusable_data_raises_and_changes_nothing(
    tmp_path: Path, fetch: Fetch, rows: list[Any], changes: dict[str, Any]
) -> None:
    body = orjson.dumps({"status": "OK", "results": rows, **changes})
    _refused(tmp_path, fetch, Response(body), SourceError)


@pytest.mark.parametrize("fetch", [_yields, _index, _news, _identities])
@pytest.mark.parametrize("body", [b"<html>", b'{"status": "OK", "results": [', b'{"status": "NO"}'])
def test_broken_answers_raise_and_change_nothing(tmp_path: Path, fetch: Fetch, body: bytes) -> None:
    _refused(tmp_path, fetch, Response(body), SourceError)


@pytest.mark.parametrize("fetch", [_yields, _index, _news, _identities])
def test_what_the_plan_lacks_is_told_apart(tmp_path: Path, fetch: Fetch) -> None:
    body = orjson.dumps({"status": "NOT_AUTHORIZED", "message": "not in your plan"})
    _refused(tmp_path, fetch, Response(body, 403), NotInPlanError)


def _refused(folder: Path, fetch: Fetch, answer: Response, kind: type[SourceError]) -> None:
    lake = Lake(folder)
    with BackgroundServer(create_app(_market(), api_key=KEY, now=lambda: EARLIER)) as server:
        # What was known two weeks earlier is there: something that could be lost.
        _ingest(lake, PolygonSource(SecretStr(KEY), server.url), EARLIER)
    before = _content(lake), [lake.version(t) for t in TABLES]
    app = FastAPI(docs_url=None, openapi_url=None)

    async def say(request: Request) -> Response:
        return answer

    app.add_api_route("/{path:path}", say, methods=["GET"])
    with BackgroundServer(app) as server:
        source = PolygonSource(SecretStr(KEY), server.url, sleep=lambda seconds: None)
        with pytest.raises(kind) as caught:
            fetch(lake, source)
    assert KEY not in str(caught.value)
    assert (_content(lake), [lake.version(t) for t in TABLES]) == before
