"""The contract of every ``BarSource``; a new source is one more line in ``SOURCES``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import polars as pl
import pytest
from pydantic import SecretStr

from market import calendar
from market.errors import SourceError
from market.polygon import PolygonSource
from market.replay import ServedMarket, create_app
from market.schema import (
    BAR_SCHEMA,
    DIVIDEND_SCHEMA,
    SPLIT_SCHEMA,
    TICKER_SCHEMA,
    Bar,
    Dividend,
    Split,
)
from market.serving import BackgroundServer
from market.source import BarSource
from market.timeframes import Timeframe
from market.vendor import VendorSource
from tests.flat_server import flat_server

START, END = dt.date(2024, 7, 1), dt.date(2024, 7, 12)
SESSIONS = calendar.sessions_between(START, END)
NO_BARS, UNKNOWN = "ZZZ", "NOPE"


def _row(symbol: str, start: dt.datetime, end: dt.datetime, price: float) -> dict[str, object]:
    return {
        "symbol": symbol,
        "session": start.astimezone(calendar.NEW_YORK).date(),
        "bar_start": start,
        "bar_end": end,
        "known_at": end,
        "open": price,
        "high": price + 1.25,
        "low": price - 0.75,
        "close": price + 0.5,
        "volume": 1000.0 + price,
        "vwap": price + 0.1,
        "trades": 17,
    }


def _market() -> ServedMarket:
    daily = [
        _row(symbol, calendar.session_open(s), calendar.session_close(s), base + n)
        for symbol, base in (("AAA", 100.0), ("BBB", 20.0))
        for n, s in enumerate(SESSIONS)
    ]
    minute = dt.timedelta(minutes=1)
    minutes = [
        _row(symbol, start, start + minute, base + n / 8)
        for symbol, base in (("AAA", 100.0), ("BBB", 20.0))
        for s in SESSIONS[1:3]
        for n, start in enumerate(
            calendar.session_open(s) + minute * k for k in (-90, -1, 0, 1, 2, 5, 209, 210, 300)
        )
    ]
    split_day, ex_day = dt.date(2024, 7, 9), dt.date(2024, 7, 5)
    return ServedMarket(
        daily=pl.DataFrame(daily, schema=BAR_SCHEMA),
        minute=pl.DataFrame(minutes, schema=BAR_SCHEMA),
        splits=pl.DataFrame(
            [["AAA"], [split_day], [calendar.midnight(split_day)], [2.0]], schema=SPLIT_SCHEMA
        ),
        dividends=pl.DataFrame(
            {
                "symbol": ["AAA", "BBB"],
                "ex_date": [ex_day, ex_day],
                "known_at": [
                    dt.datetime(2024, 7, 2, 4, tzinfo=dt.UTC),
                    calendar.session_open(ex_day),
                ],
                "amount_usd": [0.25, 1.5],
            },
            schema=DIVIDEND_SCHEMA,
        ),
        tickers=pl.DataFrame(
            {
                "symbol": ["AAA", "BBB", NO_BARS],
                "name": ["Aaa Inc.", "Bbb Inc.", "Zzz Inc."],
                "active": [True, True, False],
                "composite_figi": [None, "BBG000000001", None],
            },
            schema=TICKER_SCHEMA,
        ),
    )


@contextmanager
def _polygon(market: ServedMarket) -> Iterator[tuple[BarSource, ServedMarket]]:
    with BackgroundServer(create_app(market, api_key="key")) as server:
        yield PolygonSource(SecretStr("key"), server.url), market


@contextmanager
def _vendor(market: ServedMarket) -> Iterator[tuple[BarSource, ServedMarket]]:
    """REST and flat files together, which hold every session that has bars."""
    with _polygon(market) as (rest, _), flat_server() as files:
        assert isinstance(rest, PolygonSource)
        bare: list[pl.DataFrame] = []
        for timeframe, bars in ((Timeframe.D1, market.daily), (Timeframe.M1, market.minute)):
            assert bars is not None
            files.put_bars(timeframe, bars)
            bare.append(bars.with_columns(pl.lit(None, pl.Float64).alias(Bar.VWAP)))
        yield VendorSource(rest, files.source()), replace(market, daily=bare[0], minute=bare[1])


# What a source is, and the market that it must tell.
SOURCES: dict[
    str, Callable[[ServedMarket], AbstractContextManager[tuple[BarSource, ServedMarket]]]
] = {
    "polygon": _polygon,
    "polygon with flat files": _vendor,
}


@pytest.fixture(scope="module", params=SOURCES)
def served(request: pytest.FixtureRequest) -> Iterator[tuple[BarSource, ServedMarket]]:
    with SOURCES[request.param](_market()) as served:
        yield served


@pytest.fixture(scope="module")
def source(served: tuple[BarSource, ServedMarket]) -> BarSource:
    return served[0]


@pytest.fixture(scope="module")
def market(served: tuple[BarSource, ServedMarket]) -> ServedMarket:
    return served[1]


def test_it_is_a_bar_source_with_a_name(source: BarSource) -> None:
    assert isinstance(source, BarSource)
    assert source.name == source.name.lower().strip() != ""
    assert source.adjusted is False


@pytest.mark.parametrize("timeframe", [Timeframe.D1, Timeframe.M1])
def test_bars_are_the_vendors_raw_bars(
    source: BarSource, market: ServedMarket, timeframe: Timeframe
) -> None:
    stored = market.daily if timeframe is Timeframe.D1 else market.minute
    found = source.bars(["BBB", "AAA", "AAA"], timeframe, START, END)
    assert found.schema == BAR_SCHEMA
    assert found.equals(stored)


def test_both_ends_of_the_range_are_included(source: BarSource, market: ServedMarket) -> None:
    for timeframe, stored in ((Timeframe.D1, market.daily), (Timeframe.M1, market.minute)):
        for first, last in ((SESSIONS[2], SESSIONS[4]), (SESSIONS[2], SESSIONS[2])):
            found = source.bars(["AAA", "BBB"], timeframe, first, last)
            assert stored is not None
            assert found.equals(stored.filter(pl.col(Bar.SESSION).is_between(first, last)))


def test_times_follow_the_session(source: BarSource) -> None:
    half_day = dt.date(2024, 7, 3)
    day = source.bars(["AAA"], Timeframe.D1, half_day, half_day).row(0, named=True)
    assert day[Bar.BAR_START] == calendar.session_open(half_day)
    assert day[Bar.BAR_END] == day[Bar.KNOWN_AT] == calendar.session_close(half_day)
    minutes = source.bars(["AAA"], Timeframe.M1, half_day, half_day)
    assert set(minutes[Bar.SESSION]) == {half_day}
    assert (minutes[Bar.BAR_END] - minutes[Bar.BAR_START] == dt.timedelta(minutes=1)).all()
    assert (minutes[Bar.KNOWN_AT] >= minutes[Bar.BAR_END]).all()
    extended = minutes.filter(pl.col(Bar.BAR_START) < calendar.session_open(half_day))
    assert extended.height == 2


@pytest.mark.parametrize("timeframe", [Timeframe.D1, Timeframe.M1])
def test_a_known_symbol_without_bars_has_no_rows(source: BarSource, timeframe: Timeframe) -> None:
    found = source.bars([NO_BARS], timeframe, START, END)
    assert found.schema == BAR_SCHEMA
    assert found.is_empty()
    both = source.bars([NO_BARS, "AAA"], timeframe, START, END)
    assert set(both[Bar.SYMBOL]) == {"AAA"}


@pytest.mark.parametrize("timeframe", [Timeframe.D1, Timeframe.M1])
@pytest.mark.parametrize("end", [START, END])
def test_an_unknown_symbol_is_named(source: BarSource, timeframe: Timeframe, end: dt.date) -> None:
    with pytest.raises(SourceError, match=UNKNOWN):
        source.bars(["AAA", UNKNOWN], timeframe, START, end)


def test_no_symbols_and_no_sessions_give_an_empty_table(source: BarSource) -> None:
    holiday = dt.date(2024, 7, 4)
    assert source.bars([], Timeframe.D1, START, END).schema == BAR_SCHEMA
    assert source.bars(["AAA"], Timeframe.D1, holiday, holiday).is_empty()
    assert source.splits([], START, END).schema == SPLIT_SCHEMA
    assert source.dividends([], START, END).schema == DIVIDEND_SCHEMA


def test_other_timeframes_are_refused(source: BarSource) -> None:
    with pytest.raises(SourceError, match="5m"):
        source.bars(["AAA"], Timeframe.M5, START, END)


def test_splits(source: BarSource, market: ServedMarket) -> None:
    found = source.splits(["AAA", "BBB"], START, END)
    assert found.schema == SPLIT_SCHEMA
    assert found.equals(market.splits)
    ex_date = found[Split.EX_DATE][0]
    assert source.splits(["AAA"], ex_date, ex_date).equals(found)
    assert source.splits(["AAA"], START, ex_date - dt.timedelta(days=1)).is_empty()
    assert source.splits(["BBB"], START, END).is_empty()


def test_dividends_are_known_when_announced(source: BarSource, market: ServedMarket) -> None:
    found = source.dividends(["AAA", "BBB"], START, END)
    assert found.schema == DIVIDEND_SCHEMA
    assert found.equals(market.dividends)
    assert source.dividends(["BBB"], START, END)[Dividend.SYMBOL].to_list() == ["BBB"]
    assert source.dividends(["AAA"], START, dt.date(2024, 7, 4)).is_empty()


def test_tickers_include_the_delisted(source: BarSource, market: ServedMarket) -> None:
    found = source.tickers()
    assert found.schema == TICKER_SCHEMA
    assert found.equals(market.tickers)
