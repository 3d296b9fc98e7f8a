"""Two roads to one vendor: the same bars by either, the cheaper one taken, each session named."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from market import calendar
from market.errors import SourceError
from market.polygon import PolygonSource
from market.replay import ServedMarket, create_app
from market.schema import BAR_SCHEMA, Bar
from market.serving import BackgroundServer
from market.source import RemoteSource
from market.timeframes import Timeframe
from market.vendor import VendorSource
from tests.effort import repeats
from tests.flat_server import FlatServer, flat_server
from tests.markets import bits, market

KEY = "key"
DELAY = dt.timedelta(minutes=15)
MADE = market(symbols=6, sessions=8, minute_sessions=3)
SYMBOLS = MADE.tickers["symbol"].to_list()
DAYS = sorted(MADE.daily[Bar.SESSION].unique())
MINUTE_DAYS = sorted(MADE.minute[Bar.SESSION].unique())
NO_VWAP = pl.lit(None, pl.Float64).alias(Bar.VWAP)
M1, D1 = Timeframe.M1, Timeframe.D1


@dataclass
class Vendor:
    """Both services of one vendor."""

    rest_url: str
    files: FlatServer

    def rest(self, **options: Any) -> PolygonSource:
        return PolygonSource(SecretStr(KEY), self.rest_url, known_delay=DELAY, **options)

    def flat(self) -> Any:
        return self.files.source(known_delay=DELAY)

    def source(self, now: dt.datetime | None = None, **options: Any) -> VendorSource:
        moment = now or calendar.session_close(DAYS[-1]) + dt.timedelta(days=5)
        return VendorSource(self.rest(), self.flat(), clock=lambda: moment, **options)


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    served = ServedMarket(MADE.daily, MADE.minute, MADE.splits, MADE.dividends, MADE.tickers)
    app = create_app(served, api_key=KEY)
    with BackgroundServer(app) as server, flat_server() as files:
        files.put_bars(D1, MADE.daily)
        files.put_bars(M1, MADE.minute)
        yield Vendor(server.url, files)


def _stored(timeframe: Timeframe, first: dt.date, last: dt.date) -> pl.DataFrame:
    bars = MADE.daily if timeframe is D1 else MADE.minute
    return (
        bars.filter(pl.col(Bar.SESSION).is_between(first, last))
        .with_columns(NO_VWAP, pl.col(Bar.BAR_END) + DELAY)
        .with_columns((pl.col(Bar.BAR_END)).alias(Bar.KNOWN_AT), pl.col(Bar.BAR_END) - DELAY)
    )


def test_it_is_a_remote_source(vendor: Vendor) -> None:
    for source in (vendor.source(), vendor.rest(), vendor.flat()):
        assert isinstance(source, RemoteSource)


@settings(
    deadline=None,
    max_examples=repeats(25, 15),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    timeframe=st.sampled_from([M1, D1]),
    ends=st.tuples(st.sampled_from(DAYS), st.sampled_from(DAYS)).map(sorted),
    symbols=st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=6, unique=True),
    today=st.sampled_from(DAYS),
    hour=st.integers(0, 23),
)
def test_a_bar_is_the_same_by_either_road(
    vendor: Vendor,
    timeframe: Timeframe,
    ends: list[dt.date],
    symbols: list[str],
    today: dt.date,
    hour: int,
) -> None:
    days = DAYS if timeframe is D1 else MINUTE_DAYS
    first, last = max(ends[0], days[0]), max(ends[1], days[0])
    now = dt.datetime.combine(today, dt.time(hour), calendar.NEW_YORK)
    source = vendor.source(now)
    found = source.bars(symbols, timeframe, first, last)
    by_rest = vendor.rest().bars(symbols, timeframe, first, last).with_columns(NO_VWAP)
    by_file = vendor.flat().bars(symbols, timeframe, first, last)
    assert found.schema == BAR_SCHEMA
    assert bits(found) == bits(by_rest) == bits(by_file)
    assert bits(found) == bits(
        _stored(timeframe, first, last).filter(pl.col(Bar.SYMBOL).is_in(symbols))
    )
    for session in calendar.sessions_between(first, last):
        filed = dt.datetime.combine(session + dt.timedelta(days=1), dt.time(11), calendar.NEW_YORK)
        origin = source.origin(timeframe, session)
        assert origin in {"polygon", "polygon-flat-files"}
        assert now >= filed or origin == "polygon"


@pytest.mark.parametrize(
    ("timeframe", "symbols", "sessions", "files"),
    [
        (D1, 6, 5, 5),  # REST would take a page for each of six symbols, or of five days.
        (D1, 5, 5, 0),
        (D1, 1, 1, 0),
        (M1, 6, 3, 3),
        (M1, 3, 3, 0),
        (M1, 2, 1, 1),
    ],
)
def test_the_cheaper_road_is_taken(
    vendor: Vendor, timeframe: Timeframe, symbols: int, sessions: int, files: int
) -> None:
    source = vendor.source()
    days = (DAYS if timeframe is D1 else MINUTE_DAYS)[-sessions:]
    flat, rest = source._flat, source._rest
    source.bars(SYMBOLS[:symbols], timeframe, days[0], days[-1])
    assert flat.metrics.requests == files
    assert (rest.metrics.requests == 0) == bool(files)
    assert source.metrics.requests == flat.metrics.requests + rest.metrics.requests
    assert source.metrics.bytes > 0


def test_what_is_not_filed_yet_comes_over_rest_and_each_session_says_so(vendor: Vendor) -> None:
    before, after = DAYS[-2], DAYS[-1]
    day_after = dt.datetime.combine(
        before + dt.timedelta(days=1), dt.time(10, 59), calendar.NEW_YORK
    )
    for now, filed in (
        (day_after, DAYS[-4:-2]),
        (day_after + dt.timedelta(minutes=1), DAYS[-4:-1]),
    ):
        source = vendor.source(now)
        found = source.bars(SYMBOLS, D1, DAYS[-4], after)
        assert bits(found) == bits(_stored(D1, DAYS[-4], after))
        flat = [d for d in DAYS[-4:] if source.origin(D1, d) == "polygon-flat-files"]
        assert flat == filed
        assert source.origin(D1, after) == "polygon"
    assert source.origin(M1, after) == source.name == "polygon-flat-files+rest"


def test_a_file_that_is_not_there_is_made_up_for_over_rest(vendor: Vendor) -> None:
    gone = [DAYS[2], DAYS[4]]
    with flat_server() as files:
        files.put_bars(D1, MADE.daily.filter(~pl.col(Bar.SESSION).is_in(gone)))
        told: list[tuple[int, int]] = []
        source = Vendor(vendor.rest_url, files).source(on_progress=lambda *n: told.append(n))
        found = source.bars(SYMBOLS, D1, DAYS[1], DAYS[5])
    assert bits(found) == bits(_stored(D1, DAYS[1], DAYS[5]))
    assert [d for d in DAYS[1:6] if source.origin(D1, d) == "polygon"] == gone
    assert told == [(n, 5) for n in range(6)]


def test_a_file_that_the_plan_does_not_cover_is_an_error(vendor: Vendor) -> None:
    with flat_server() as files:
        files.put_bars(D1, MADE.daily)
        with files.checking_keys() as (access, secret):
            other = files.source(access, secret, known_delay=DELAY, bucket="other")
            source = VendorSource(vendor.rest(), other)
            with pytest.raises(SourceError, match=r"AccessDenied.*over REST alone"):
                source.bars(SYMBOLS, D1, DAYS[0], DAYS[3])
    assert source.origin(D1, DAYS[0]) == source.name


def test_a_broken_file_is_an_error_and_not_another_road(vendor: Vendor) -> None:
    with flat_server() as files:
        files.put(D1, DAYS[0], b"not gzip")
        source = Vendor(vendor.rest_url, files).source()
        with pytest.raises(SourceError, match="not intact gzip"):
            source.bars(SYMBOLS, D1, DAYS[0], DAYS[0])


def test_a_symbol_that_nobody_knows_is_named_by_either_road(vendor: Vendor) -> None:
    for first in (DAYS[0], DAYS[-1]):
        with pytest.raises(SourceError, match="NOPE"):
            vendor.source().bars([*SYMBOLS, "NOPE"], D1, first, DAYS[-1])


def test_two_roads_that_would_disagree_are_refused(vendor: Vendor) -> None:
    with pytest.raises(SourceError, match=r"0:15:00 and 0:00:00"):
        VendorSource(vendor.rest(), vendor.files.source())
    with pytest.raises(SourceError, match="adjusted REST prices"):
        VendorSource(vendor.rest(adjusted=True), vendor.flat())


def test_the_actions_come_over_rest(vendor: Vendor) -> None:
    source, rest = vendor.source(), vendor.rest()
    span = (SYMBOLS, DAYS[0], DAYS[-1])
    assert source.splits(*span).equals(rest.splits(*span))
    assert source.dividends(*span).equals(rest.dividends(*span))
    assert source.tickers().equals(rest.tickers())
    assert source.afresh().origin(D1, DAYS[0]) == source.name


@pytest.mark.parametrize("timeframe", [M1, D1])
def test_the_whole_market_comes_from_files_where_there_are_any(
    vendor: Vendor, timeframe: Timeframe
) -> None:
    days = (DAYS if timeframe is D1 else MINUTE_DAYS)[-2:]
    source = vendor.source()
    for symbols in (["*"], [SYMBOLS[0], "*"]):
        found = source.bars(symbols, timeframe, days[0], days[-1])
        assert bits(found) == bits(_stored(timeframe, days[0], days[-1]))
        assert {source.origin(timeframe, d) for d in days} == {"polygon-flat-files"}
    assert source._rest.metrics.requests == 0
    assert bits(vendor.flat().bars(["*"], timeframe, days[0], days[-1])) == bits(found)


def test_the_whole_market_over_rest_comes_by_day_only(vendor: Vendor) -> None:
    rest = vendor.rest()
    found = rest.bars(["*"], D1, DAYS[0], DAYS[-1]).with_columns(NO_VWAP)
    assert bits(found) == bits(_stored(D1, DAYS[0], DAYS[-1]))
    assert rest.metrics.requests == len(DAYS)
    unfiled = vendor.source(calendar.session_close(DAYS[-1]))
    assert unfiled.bars(["*"], D1, DAYS[-2], DAYS[-1]).equals(_stored(D1, DAYS[-2], DAYS[-1]))
    for source in (rest, unfiled):
        with pytest.raises(SourceError, match=r"minutes of the whole market.*flat file"):
            source.bars(["*"], M1, DAYS[-1], DAYS[-1])


def test_the_actions_of_the_whole_market_take_one_query(vendor: Vendor) -> None:
    rest = vendor.rest()
    span = (DAYS[0] - dt.timedelta(days=400), DAYS[-1])
    for ask, made in ((rest.splits, MADE.splits), (rest.dividends, MADE.dividends)):
        named = ask(SYMBOLS, *span)
        before = rest.metrics.requests
        assert ask(["*"], *span).equals(named)
        assert rest.metrics.requests == before + 1
        assert named.height == made.filter(pl.col("ex_date").is_between(*span)).height
