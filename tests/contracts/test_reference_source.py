"""The contract of every ``ReferenceSource``; a new source is one more line in ``SOURCES``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import polars as pl
import pytest
from pydantic import SecretStr

from market import calendar
from market.errors import SourceError
from market.polygon import PolygonSource
from market.reference_source import ReferenceSource, ReferenceTables
from market.replay import ServedMarket, create_app
from market.schema import (
    DIVIDEND_SCHEMA,
    IDENTITY_SCHEMA,
    INDEX_SCHEMA,
    NEWS_SCHEMA,
    SPLIT_SCHEMA,
    TICKER_SCHEMA,
    TREASURY_YIELD_SCHEMA,
    empty,
)
from market.serving import BackgroundServer
from tests.reference_tables import END, RENAMED_ON, START, tables

SYMBOLS = ["PAST", "NEW", "GONE", "NEW", "BARE"]


@contextmanager
def _polygon(given: ReferenceTables) -> Iterator[ReferenceSource]:
    market = ServedMarket(
        daily=None,
        minute=None,
        splits=empty(SPLIT_SCHEMA),
        dividends=empty(DIVIDEND_SCHEMA),
        tickers=empty(TICKER_SCHEMA),
        reference=given,
    )
    with BackgroundServer(create_app(market, api_key="key")) as server:
        yield PolygonSource(SecretStr("key"), server.url)


SOURCES: dict[str, Callable[[ReferenceTables], AbstractContextManager[ReferenceSource]]] = {
    "polygon": _polygon,
}


@pytest.fixture(scope="module")
def given() -> ReferenceTables:
    return tables()


@pytest.fixture(scope="module", params=SOURCES)
def source(request: pytest.FixtureRequest, given: ReferenceTables) -> Iterator[ReferenceSource]:
    with SOURCES[request.param](given) as source:
        yield source


def test_it_is_a_reference_source(source: ReferenceSource) -> None:
    assert isinstance(source, ReferenceSource)


def test_yields_are_the_vendors_with_the_time_they_were_known(
    source: ReferenceSource, given: ReferenceTables
) -> None:
    found = source.treasury_yields(START, END)
    assert found.equals(given.treasury_yields)
    some = source.treasury_yields(dt.date(2024, 7, 1), dt.date(2024, 7, 5))
    # The Fourth of July has no yields.
    assert [d.day for d in some["date"]] == [1, 2, 3, 5]
    published = [
        d for d, n in zip(found["date"], found["yield_1_month_percent"], strict=True) if n is None
    ]
    assert published == [dt.date(2024, 6, 26)]


def test_index_values_are_known_after_their_close(
    source: ReferenceSource, given: ReferenceTables
) -> None:
    assert source.index_bars(["VIX", "VIX"], START, END).equals(given.indices)
    half_day = dt.date(2024, 7, 3)
    row = source.index_bars(["VIX"], half_day, half_day).row(0, named=True)
    assert row["known_at"] == calendar.session_close(half_day) + dt.timedelta(minutes=15)
    assert source.index_bars(["NOPE"], START, END).equals(empty(INDEX_SCHEMA))
    assert source.index_bars(["VIX"], dt.date(2024, 7, 4), dt.date(2024, 7, 4)).is_empty()


def test_news_has_one_row_per_article_and_symbol(
    source: ReferenceSource, given: ReferenceTables
) -> None:
    assert source.news(["NEW", "GONE", "BARE"], START, END).equals(given.news)
    one = source.news(["GONE"], START, END)
    assert one.equals(given.news.filter(pl.col("symbol") == "GONE"))
    assert one["sentiment"].to_list() == [None, "neutral"]
    assert source.news(["NOPE"], START, END).equals(empty(NEWS_SCHEMA))
    # More symbols than pages: asked by date, told the same.
    many = [f"Z{n}" for n in range(40)]
    assert source.news(["GONE", *many], START, END).equals(one)


def test_news_is_asked_for_by_new_york_dates(source: ReferenceSource) -> None:
    june = source.news(["NEW"], dt.date(2024, 6, 30), dt.date(2024, 6, 30))
    # 22:00 and 03:00 UTC: the evening of one day in New York, in two months of UTC.
    assert june["article_id"].to_list() == ["a1", "a2"]
    assert june["month"].to_list() == [dt.date(2024, 6, 1), dt.date(2024, 7, 1)]


def test_a_company_comes_with_all_its_symbols(
    source: ReferenceSource, given: ReferenceTables
) -> None:
    assert source.identities(SYMBOLS).equals(given.identities)
    renamed = source.identities(["NEW"])
    assert renamed["symbol"].to_list() == ["NEW", "OLD"]
    assert source.identities(["OLD"]).equals(renamed)
    assert renamed["valid_from"].to_list() == [RENAMED_ON, None]
    # More symbols than pages of the whole list: asked for at once, told the same.
    many = [f"Z{n}" for n in range(40)]
    assert source.identities([*SYMBOLS, *many]).equals(given.identities)


def test_a_ticker_used_again_is_two_companies(source: ReferenceSource) -> None:
    found = source.identities(["GONE"])
    assert found["identity"].n_unique() == 2
    assert found["active"].to_list() == [False, True]


def test_nothing_asked_for_gives_empty_tables(source: ReferenceSource) -> None:
    assert source.index_bars([], START, END).schema == INDEX_SCHEMA
    assert source.news([], START, END).schema == NEWS_SCHEMA
    assert source.identities([]).schema == IDENTITY_SCHEMA
    assert source.identities(["NOPE"]).equals(empty(IDENTITY_SCHEMA))
    sunday = dt.date(2024, 6, 30)
    assert source.treasury_yields(sunday, sunday).schema == TREASURY_YIELD_SCHEMA


def test_reversed_dates_and_impossible_symbols_are_refused(source: ReferenceSource) -> None:
    for ask in (
        lambda: source.treasury_yields(END, START),
        lambda: source.index_bars(["VIX"], END, START),
        lambda: source.news(["NEW"], END, START),
        lambda: source.identities(["../x"]),
        lambda: source.index_bars(["a b"], START, END),
    ):
        with pytest.raises(SourceError):
            ask()
