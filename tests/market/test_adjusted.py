"""Bars that the vendor adjusted for splits: asked for as such, named as such, never mixed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import pytest
from pydantic import SecretStr

from market import calendar
from market.errors import SourceError
from market.polygon import PolygonSource
from market.replay import ServedMarket, create_app
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, TICKER_SCHEMA, Bar, empty
from market.serving import BackgroundServer
from market.source import BarSource, check_same_adjustment
from market.timeframes import Timeframe
from tests.markets import daily_bars, minute_bars

KEY = "key"
FIRST = dt.date(2024, 7, 1)
DAYS = calendar.sessions_between(FIRST, dt.date(2024, 7, 8))
EX_DATE, RATIO = DAYS[2], 4.0
SYMBOLS = ["AAA", "BBB", "CCC", "DDD", "EEE", "FFF"]


def _market(*, with_split: bool = True) -> ServedMarket:
    split = [["AAA"], [EX_DATE], [calendar.session_open(EX_DATE)], [RATIO]]
    minute = [
        minute_bars(s, [calendar.session_open(d)], [40.0 + n], d)
        for s in ("AAA", "BBB")
        for n, d in enumerate(DAYS)
    ]
    return ServedMarket(
        daily_bars({s: [40.0 + n for n in range(len(DAYS))] for s in SYMBOLS}, FIRST),
        pl.concat(minute),
        pl.DataFrame(split, schema=SPLIT_SCHEMA) if with_split else empty(SPLIT_SCHEMA),
        empty(DIVIDEND_SCHEMA),
        pl.DataFrame([SYMBOLS, SYMBOLS, [True] * 6, [None] * 6], schema=TICKER_SCHEMA),
    )


@contextmanager
def _served(market: ServedMarket, **options: Any) -> Iterator[str]:
    with BackgroundServer(create_app(market, api_key=KEY, **options)) as server:
        yield server.url


def _source(url: str, adjusted: bool) -> PolygonSource:
    return PolygonSource(SecretStr(KEY), url, adjusted=adjusted)


def _by_hand(raw: pl.DataFrame) -> pl.DataFrame:
    """Adjust by the one split there is: prices before it divided, volumes multiplied."""
    is_before = (pl.col(Bar.SYMBOL) == "AAA") & (pl.col(Bar.SESSION) < EX_DATE)
    factor = pl.when(is_before).then(RATIO).otherwise(1.0)
    prices = [Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VWAP]
    return raw.with_columns(*(pl.col(p) / factor for p in prices), pl.col(Bar.VOLUME) * factor)


# By symbol, by session (six symbols, four days), and by minute.
ASKED = [
    (SYMBOLS[:2], Timeframe.D1, DAYS[-1]),
    (SYMBOLS, Timeframe.D1, DAYS[3]),
    (SYMBOLS[:2], Timeframe.M1, DAYS[-1]),
]


@pytest.mark.parametrize(("symbols", "timeframe", "end"), ASKED)
@pytest.mark.parametrize("has_nothing_else", [False, True])
def test_adjusted_bars_are_the_raw_ones_adjusted_by_hand(
    symbols: list[str], timeframe: Timeframe, end: dt.date, has_nothing_else: bool
) -> None:
    market = _market()
    stored = market.daily if timeframe is Timeframe.D1 else market.minute
    assert stored is not None
    raw = stored.filter(pl.col(Bar.SYMBOL).is_in(symbols), pl.col(Bar.SESSION) <= end)
    with _served(market, adjusted=has_nothing_else) as url:
        found = _source(url, adjusted=True).bars(symbols, timeframe, FIRST, end)
    assert found.equals(_by_hand(raw))
    assert not found.equals(raw)


@pytest.mark.parametrize(("symbols", "timeframe", "end"), ASKED)
def test_a_vendor_that_has_nothing_else_is_refused_where_raw_bars_are_wanted(
    symbols: list[str], timeframe: Timeframe, end: dt.date
) -> None:
    with (
        _served(_market(), adjusted=True) as url,
        pytest.raises(SourceError, match="asked for raw prices, got adjusted ones"),
    ):
        _source(url, adjusted=False).bars(symbols, timeframe, FIRST, end)


def test_bars_that_were_adjusted_before_they_were_served_are_served_as_they_are() -> None:
    market = _market(with_split=False)
    with _served(market, adjusted=True) as url:
        found = _source(url, adjusted=True).bars(SYMBOLS, Timeframe.D1, FIRST, DAYS[-1])
    assert found.equals(market.daily)


def test_an_adjusted_source_says_so_and_has_no_split_left_to_apply() -> None:
    with _served(_market()) as url:
        raw, adjusted = _source(url, adjusted=False), _source(url, adjusted=True)
        assert (raw.adjusted, raw.name) == (False, "polygon")
        assert (adjusted.adjusted, adjusted.name) == (True, "polygon-adjusted")
        assert adjusted.afresh().adjusted
        assert raw.splits(["AAA"], FIRST, DAYS[-1]).height == 1
        assert adjusted.splits(["AAA"], FIRST, DAYS[-1]).equals(empty(SPLIT_SCHEMA))


def test_the_two_kinds_do_not_mix() -> None:
    raw: BarSource = _source("http://127.0.0.1:1", adjusted=False)
    adjusted: BarSource = _source("http://127.0.0.1:1", adjusted=True)
    for source, earlier in (
        (raw, []),
        (adjusted, []),
        (raw, ["polygon", "polygon-flat-files+rest"]),
        (adjusted, ["polygon-adjusted"]),
    ):
        check_same_adjustment(source, earlier)
    for source, earlier in (
        (raw, ["polygon", "polygon-adjusted"]),
        (adjusted, ["polygon-flat-files"]),
    ):
        with pytest.raises(SourceError, match=r"one table.*polygon.adjusted"):
            check_same_adjustment(source, earlier)
