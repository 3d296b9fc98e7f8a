"""News against a naive count of the articles that were known; where the table says nothing."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache

import polars as pl
import pytest

from features.compute import compute_features
from features.registry import select_features
from features.sentiment import BASE_DAYS, SILENCE, WINDOWS_DAYS
from features.side import SideTables
from market.schema import Bar, News
from market.synthetic_reference import generate_reference
from market.timeframes import Timeframe, resample
from tests.markets import bits, market
from tests.reference_tables import article, news

SENTIMENT = select_features(family="sentiment")


@lru_cache(maxsize=1)
def scene() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Half-hours of five symbols, of which one is in no article, and news with two silences."""
    made = market(seed=3, symbols=5, sessions=150, minute_sessions=90)
    table = generate_reference(made).news.filter(pl.col("symbol") != "ZZAD")
    at = pl.col("published_at").dt.date()
    quiet = at.is_between(dt.date(2024, 4, 20), dt.date(2024, 5, 10)) | at.is_between(
        dt.date(2024, 6, 10), dt.date(2024, 6, 19)
    )
    return resample(made.minute, Timeframe.M30), table.filter(~quiet)


def covered(times: list[dt.datetime], now: dt.datetime, days: int) -> bool:
    past = [t for t in times if t <= now]
    window = dt.timedelta(days=days)
    return bool(past) and now < past[-1] + SILENCE and now >= times[0] + window


def naive(table: pl.DataFrame, symbol: str, now: dt.datetime) -> dict[str, float | None]:
    known = table.filter(pl.col("known_at") <= now)
    times = table["known_at"].unique().sort().to_list()

    def within(days: int, own: bool) -> pl.DataFrame:
        recent = known.filter(pl.col("known_at") > now - dt.timedelta(days=days))
        return recent.filter(pl.col("symbol") == symbol) if own else recent.unique("article_id")

    base = covered(times, now, BASE_DAYS)
    out: dict[str, float | None] = {}
    for n in WINDOWS_DAYS:
        here, own = covered(times, now, n), within(n, own=True)
        out[f"news_count_{n}d"] = own.height if here else None
        for name, mine in (("news_attention", True), ("market_news", False)):
            usual = within(BASE_DAYS, own=mine).height * n / BASE_DAYS
            out[f"{name}_{n}d"] = within(n, own=mine).height / usual if base and usual else None
        labels = own["sentiment"].drop_nulls().to_list()
        tone = labels.count("positive") - labels.count("negative")
        out[f"news_sentiment_{n}d"] = tone / len(labels) if here and labels else None
    return out


def test_features_equal_a_naive_count_of_what_was_known() -> None:
    bars, table = scene()
    out = compute_features(bars, SENTIMENT, SideTables(news=table))
    filled = dict.fromkeys([f.name for f in SENTIMENT], 0)
    for row in out.gather_every(17).iter_rows(named=True):
        wanted = naive(table, row["symbol"], row["as_of"])
        for name, value in wanted.items():
            if value is None:
                assert row[name] is None, (row, name)
            else:
                assert row[name] == pytest.approx(value, rel=1e-6), (row, name)
                filled[name] += 1
    assert min(filled.values()) > 5


def test_a_symbol_in_no_article_has_none_and_not_nothing() -> None:
    bars, table = scene()
    out = compute_features(bars, SENTIMENT, SideTables(news=table))
    silent = out.filter(pl.col(Bar.SYMBOL) == "ZZAD")
    counted = silent["news_count_1d"].drop_nulls()
    assert counted.unique().to_list() == [0.0]
    # In both silences, and only there, nothing is known.
    assert 0 < silent["news_count_1d"].null_count() < silent.height / 3
    assert silent["news_sentiment_20d"].null_count() == silent.height
    assert silent["market_news_5d"].null_count() < silent.height


def test_an_article_counts_from_when_it_is_known() -> None:
    bars, _ = scene()
    symbol = bars[Bar.SYMBOL][0]
    day = dt.datetime(2024, 7, 1, 15, 0, tzinfo=dt.UTC)
    table = news(
        article("old", day - dt.timedelta(days=2), OTHER=None),
        article("new", day, **{symbol: "positive"}),
    )
    known_at = table.filter(pl.col("article_id") == "new")["known_at"].item()
    own = compute_features(bars, SENTIMENT, SideTables(news=table)).filter(
        pl.col(Bar.SYMBOL) == symbol, pl.col("session") == day.date()
    )
    before, after = own.filter(pl.col("as_of") < known_at), own.filter(pl.col("as_of") >= known_at)
    assert known_at > day
    assert before["news_count_1d"].unique().to_list() == [0.0]
    assert before["news_sentiment_1d"].null_count() == before.height > 0
    assert after["news_count_1d"].unique().to_list() == [1.0]
    assert after["news_sentiment_1d"].unique().to_list() == [1.0]


def test_a_row_given_twice_counts_once() -> None:
    bars, table = scene()
    twice = pl.concat([table, table.with_columns(pl.col(News.KNOWN_AT) + dt.timedelta(days=1))])
    a, b = (compute_features(bars, SENTIMENT, SideTables(news=t)) for t in (table, twice))
    assert bits(a) == bits(b)


def test_without_a_table_there_is_nothing() -> None:
    bars, table = scene()
    for given in (None, table.head(0)):
        out = compute_features(bars, SENTIMENT, SideTables(news=given))
        assert all(out[f.name].null_count() == out.height for f in SENTIMENT)
