"""Macro data, news and identities into the lake: once, completed later, never lost."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import pytest

from market.lake import Lake
from market.macro import index_known_at, yields_known_at
from market.reference_ingest import (
    ingest_identities,
    ingest_index,
    ingest_news,
    ingest_treasury_yields,
    news_start,
)
from market.reference_source import ReferenceTables
from tests.reference_tables import (
    END,
    IDENTITIES,
    SESSIONS,
    START,
    article,
    identities,
    news,
    tables,
    vix,
)

NOW = dt.datetime(2024, 7, 16, 12, tzinfo=dt.UTC)
SYMBOLS = ["NEW", "GONE", "BARE", "PAST"]


@dataclass
class Told:
    """A source that tells what it is given; a stand-in for what is behind the port."""

    tables: ReferenceTables = field(default_factory=tables)
    asked: list[tuple[object, ...]] = field(default_factory=list)

    def treasury_yields(self, start: dt.date, end: dt.date) -> pl.DataFrame:
        self.asked.append(("yields", start, end))
        rows = self.tables.treasury_yields
        return rows.filter(pl.col("date").is_between(start, end))

    def index_bars(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        self.asked.append(("index", *symbols, start, end))
        rows = self.tables.indices.filter(pl.col("symbol").is_in(list(symbols)))
        return rows.filter(pl.col("session").is_between(start, end))

    def news(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        self.asked.append(("news", *symbols, start, end))
        return self.tables.news.filter(pl.col("symbol").is_in(list(symbols)))

    def identities(self, symbols: Sequence[str]) -> pl.DataFrame:
        rows = self.tables.identities
        mine = rows.filter(pl.col("symbol").is_in(list(symbols)))["identity"]
        return rows.filter(pl.col("identity").is_in(mine.to_list()))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def _read(lake: Lake, table: str, *order: str) -> pl.DataFrame:
    return lake.scan(table).collect().sort(*order)


def test_yields_known_by_now_are_there_and_asked_for_once(lake: Lake) -> None:
    source = Told()
    now = yields_known_at(dt.date(2024, 7, 2))
    done = ingest_treasury_yields(lake, source, START, now=now)
    assert _read(lake, "treasury_yields", "date")["date"].max() == dt.date(2024, 7, 2)
    assert (done.rows, done.added, done.changed) == (7, 7, True)
    assert source.asked == [("yields", START, dt.date(2024, 7, 2))]
    again = ingest_treasury_yields(lake, source, START, now=now + dt.timedelta(hours=1))
    assert (again.rows, again.changed, len(source.asked)) == (0, False, 1)
    later = ingest_treasury_yields(lake, source, START, now=NOW)
    assert (later.added, len(source.asked)) == (7, 2)
    found = _read(lake, "treasury_yields", "date")
    assert found.equals(source.tables.treasury_yields)


def test_a_correction_comes_along_and_a_gap_at_the_source_loses_nothing(lake: Lake) -> None:
    source = Told()
    ingest_treasury_yields(lake, source, START, now=yields_known_at(dt.date(2024, 7, 2)))
    day = dt.date(2024, 6, 25)
    name = "yield_10_year_percent"
    told = source.tables.treasury_yields.filter(pl.col("date") != dt.date(2024, 6, 27))
    value = pl.when(pl.col("date") == day).then(9.9).otherwise(pl.col(name)).alias(name)
    source.tables = replace(source.tables, treasury_yields=told.with_columns(value))
    ingest_treasury_yields(lake, source, START, now=NOW)
    found = _read(lake, "treasury_yields", "date")
    assert found.filter(pl.col("date") == day)[name].to_list() == [9.9]
    assert dt.date(2024, 6, 27) in found["date"].to_list()


def test_the_value_of_a_session_under_way_is_left_for_later(lake: Lake) -> None:
    source = Told()
    today = SESSIONS[5]
    before = index_known_at(today) - dt.timedelta(minutes=1)
    # The vendor has a preliminary value of today already.
    preliminary = vix(SESSIONS[:6]).with_columns(
        close=pl.when(pl.col("session") == today).then(99.0).otherwise("close")
    )
    source.tables = replace(source.tables, indices=preliminary)
    ingest_index(lake, source, "VIX", START, now=before)
    assert _read(lake, "indices", "session")["session"].max() == SESSIONS[4]
    source.tables = replace(source.tables, indices=vix())
    ingest_index(lake, source, "VIX", START, now=index_known_at(today))
    assert _read(lake, "indices", "session").equals(vix(SESSIONS[:6]))
    assert len(source.asked) == 2


def test_a_delayed_plan_knows_a_value_later(lake: Lake) -> None:
    late = vix().with_columns(pl.col("known_at") + dt.timedelta(minutes=15))
    source = Told(replace(tables(), indices=late))
    now = index_known_at(SESSIONS[5])
    ingest_index(lake, source, "VIX", START, now=now)
    assert _read(lake, "indices", "session")["session"].max() == SESSIONS[4]
    ingest_index(lake, source, "VIX", START, now=now + dt.timedelta(minutes=15))
    assert _read(lake, "indices", "session").equals(late.head(6))


def test_a_source_that_has_nothing_leaves_what_is_there(lake: Lake) -> None:
    source = Told()
    for now in (dt.datetime(2024, 7, 5, 23, tzinfo=dt.UTC), NOW):
        ingest_treasury_yields(lake, source, START, now=now)
        ingest_index(lake, source, "VIX", START, now=now)
        ingest_news(lake, source, SYMBOLS, START, END)
        ingest_identities(lake, source, SYMBOLS)
        before = {t: lake.version(t) for t in ("treasury_yields", "indices", "news", "identities")}
        source.tables = ReferenceTables()
    assert {t: lake.version(t) for t in before} == before
    assert _read(lake, "indices", "session")["session"].max() == dt.date(2024, 7, 5)


def test_nothing_at_all_makes_no_news_table(lake: Lake) -> None:
    done = ingest_news(lake, Told(ReferenceTables()), SYMBOLS, START, END)
    assert (done.rows, done.changed, lake.exists("news")) == (0, False, False)
    early = ingest_index(lake, Told(), "VIX", START, now=dt.datetime(2024, 6, 24, tzinfo=dt.UTC))
    assert (early.changed, lake.exists("indices")) == (False, False)


def test_news_is_added_once_and_keeps_the_label_seen_first(lake: Lake) -> None:
    source = Told()
    first = ingest_news(lake, source, SYMBOLS, START, END)
    assert (first.rows, first.added, first.changed) == (6, 6, True)
    assert ingest_news(lake, source, SYMBOLS, START, END).changed is False
    assert lake.version("news") == 0
    known = source.tables.news
    relabelled = known.with_columns(sentiment=pl.lit("negative"))
    at = dt.datetime(2024, 8, 1, 12, tzinfo=dt.UTC)
    source.tables = replace(
        source.tables, news=pl.concat([relabelled, news(article("a9", at, NEW="neutral"))])
    )
    again = ingest_news(lake, source, SYMBOLS, START, END)
    assert (again.rows, again.added) == (7, 1)
    found = _read(lake, "news", "article_id", "symbol")
    assert found.filter(pl.col("article_id") != "a9").equals(known)
    assert found["month"].unique().sort().to_list() == [
        dt.date(2024, 6, 1),
        dt.date(2024, 7, 1),
        dt.date(2024, 8, 1),
    ]


def test_an_article_may_come_to_be_about_another_symbol(lake: Lake) -> None:
    source = Told()
    ingest_news(lake, source, ["GONE"], START, END)
    assert _read(lake, "news", "article_id")["symbol"].unique().to_list() == ["GONE"]
    ingest_news(lake, source, SYMBOLS, START, END)
    assert _read(lake, "news", "article_id", "symbol").equals(source.tables.news)


def test_news_is_asked_for_from_a_week_before_what_is_there(lake: Lake) -> None:
    assert news_start(lake, NOW) == dt.date(2024, 6, 16)
    ingest_news(lake, Told(), SYMBOLS, START, END)
    # The newest article is of 3 July: a run that was missed leaves no hole.
    assert news_start(lake, NOW) == dt.date(2024, 6, 26)


def test_what_is_told_of_a_company_replaces_what_was(lake: Lake) -> None:
    before = identities(
        ("BBG000NEW001", "BBG000NEW001", "OLD", None, None, True, None),
        ("BARE", None, "BARE", None, None, True, None),
        ("BBG000ELSE01", "BBG000ELSE01", "ELSE", None, None, True, None),
    )
    source = Told(replace(tables(), identities=before))
    ingest_identities(lake, source, ["OLD", "BARE", "ELSE"])
    figi = "BBG000BARE01"
    after = identities(
        *IDENTITIES.filter(pl.col("identity") == "BBG000NEW001").drop("known_at").rows(),
        (figi, figi, "BARE", None, None, True, None),
    )
    source.tables = replace(source.tables, identities=after)
    ingest_identities(lake, source, ["NEW", "BARE"])
    found = _read(lake, "identities", "identity", "symbol", "valid_from")
    others = before.filter(pl.col("symbol") == "ELSE")
    assert found.equals(pl.concat([after, others]).sort("identity", "symbol", "valid_from"))
    assert ingest_identities(lake, source, ["NEW", "BARE"]).changed is False
