"""The contract of every ``BarSource``, held by the flat files; their companion holds the rest."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import polars as pl
import pytest

from market import calendar
from market.errors import SourceError
from market.flatfiles import FlatFileSource
from market.replay import ServedMarket
from market.schema import BAR_SCHEMA, DIVIDEND_SCHEMA, SPLIT_SCHEMA, TICKER_SCHEMA, Bar
from market.source import BarSource
from market.timeframes import Timeframe
from tests.contracts.test_bar_source import END, NO_BARS, SESSIONS, START, UNKNOWN, _market
from tests.flat_server import FlatServer, flat_server
from tests.markets import bits

HALF_DAY = dt.date(2024, 7, 3)
MINUTE_DAYS = (SESSIONS[1], SESSIONS[2])


class Actions:
    """A companion that answers from memory; its bars must never be asked for."""

    name = "memory"
    adjusted = False

    def __init__(self, market: ServedMarket) -> None:
        self.market = market
        self.asked_for_tickers = 0

    def bars(self, *_: object) -> pl.DataFrame:
        raise AssertionError("bars come from the flat files")

    def splits(self, symbols: object, start: dt.date, end: dt.date) -> pl.DataFrame:
        return self.market.splits.filter(pl.col("ex_date").is_between(start, end))

    def dividends(self, symbols: object, start: dt.date, end: dt.date) -> pl.DataFrame:
        return self.market.dividends.filter(pl.col("ex_date").is_between(start, end))

    def tickers(self) -> pl.DataFrame:
        self.asked_for_tickers += 1
        return self.market.tickers


@pytest.fixture(scope="module")
def market() -> ServedMarket:
    """What the other sources are held to, without the vwap that flat files do not have."""
    made = _market()
    assert made.daily is not None
    assert made.minute is not None
    no_vwap = pl.lit(None, pl.Float64).alias(Bar.VWAP)
    return ServedMarket(
        made.daily.with_columns(no_vwap),
        made.minute.with_columns(no_vwap),
        made.splits,
        made.dividends,
        made.tickers,
    )


@pytest.fixture(scope="module")
def server(market: ServedMarket) -> Iterator[FlatServer]:
    with flat_server() as server:
        for timeframe, bars in ((Timeframe.D1, market.daily), (Timeframe.M1, market.minute)):
            assert bars is not None
            server.put_bars(timeframe, bars)
        yield server


@pytest.fixture
def source(server: FlatServer, market: ServedMarket) -> FlatFileSource:
    return server.source(actions=Actions(market))


def _stored(market: ServedMarket, timeframe: Timeframe) -> pl.DataFrame:
    stored = market.daily if timeframe is Timeframe.D1 else market.minute
    assert stored is not None
    return stored


CASES = pytest.mark.parametrize(
    ("timeframe", "days"), [(Timeframe.D1, SESSIONS), (Timeframe.M1, MINUTE_DAYS)]
)


def test_it_is_a_bar_source_with_a_name(source: FlatFileSource) -> None:
    assert isinstance(source, BarSource)
    assert source.name == "polygon-flat-files"


@CASES
def test_bars_are_the_vendors_raw_bars(source, market, timeframe, days) -> None:
    found = source.bars(["BBB", "AAA", "AAA"], timeframe, days[0], days[-1])
    assert found.schema == BAR_SCHEMA
    assert bits(found) == bits(_stored(market, timeframe))
    only = source.bars(["BBB"], timeframe, days[0], days[-1])
    assert bits(only) == bits(_stored(market, timeframe).filter(pl.col(Bar.SYMBOL) == "BBB"))


@CASES
def test_both_ends_of_the_range_are_included(source, market, timeframe, days) -> None:
    for first, last in ((days[0], days[1]), (days[1], days[1])):
        found = source.bars(["AAA", "BBB"], timeframe, first, last)
        wanted = _stored(market, timeframe).filter(pl.col(Bar.SESSION).is_between(first, last))
        assert bits(found) == bits(wanted)


@CASES
def test_one_session_of_the_whole_market(source, market, timeframe, days) -> None:
    found = source.session_bars(timeframe, days[1], None)
    assert bits(found) == bits(_stored(market, timeframe).filter(pl.col(Bar.SESSION) == days[1]))


def test_times_follow_the_half_day_and_extended_hours_stay(source: FlatFileSource) -> None:
    day = source.session_bars(Timeframe.D1, HALF_DAY, ["AAA"]).row(0, named=True)
    assert day[Bar.BAR_START] == calendar.session_open(HALF_DAY)
    assert day[Bar.BAR_END] == day[Bar.KNOWN_AT] == calendar.session_close(HALF_DAY)
    minutes = source.session_bars(Timeframe.M1, HALF_DAY, ["AAA"])
    assert set(minutes[Bar.SESSION]) == {HALF_DAY}
    assert (minutes[Bar.BAR_END] - minutes[Bar.BAR_START] == dt.timedelta(minutes=1)).all()
    assert minutes.filter(pl.col(Bar.BAR_START) < calendar.session_open(HALF_DAY)).height == 2
    assert minutes.filter(pl.col(Bar.BAR_START) >= calendar.session_close(HALF_DAY)).height == 2


@CASES
def test_known_at_is_the_end_plus_the_delay_of_the_plan(server, timeframe, days) -> None:
    delay = dt.timedelta(minutes=15)
    bars = server.source(known_delay=delay).session_bars(timeframe, days[0])
    assert (bars[Bar.KNOWN_AT] - bars[Bar.BAR_END] == delay).all()


@CASES
def test_a_known_symbol_without_bars_has_no_rows(source, timeframe, days) -> None:
    found = source.bars([NO_BARS], timeframe, days[0], days[0])
    assert found.schema == BAR_SCHEMA
    assert found.is_empty()
    assert set(source.bars([NO_BARS, "AAA"], timeframe, days[0], days[0])[Bar.SYMBOL]) == {"AAA"}
    assert source._actions.asked_for_tickers == 1


@CASES
def test_an_unknown_symbol_is_named(source, server, timeframe, days) -> None:
    with pytest.raises(SourceError, match=f"{UNKNOWN}.*known to memory"):
        source.bars(["AAA", UNKNOWN], timeframe, days[0], days[0])
    with pytest.raises(SourceError, match=NO_BARS):  # Nobody can say whether it exists.
        server.source().bars([NO_BARS], timeframe, days[0], days[0])


def test_no_symbols_and_no_sessions_give_an_empty_table(source: FlatFileSource) -> None:
    holiday = dt.date(2024, 7, 4)
    assert source.bars([], Timeframe.D1, START, END).schema == BAR_SCHEMA
    assert source.bars(["AAA"], Timeframe.D1, holiday, holiday).is_empty()


def test_other_timeframes_are_refused(source: FlatFileSource) -> None:
    with pytest.raises(SourceError, match=r"5m.*1m, 1d"):
        source.bars(["AAA"], Timeframe.M5, START, END)
    with pytest.raises(SourceError, match="5m"):
        source.session_bars(Timeframe.M5, START)


def test_what_flat_files_do_not_hold_comes_from_the_companion(
    source: FlatFileSource, market: ServedMarket
) -> None:
    assert source.splits(["AAA"], START, END).equals(market.splits)
    assert source.dividends(["AAA", "BBB"], START, END).equals(market.dividends)
    assert source.tickers().equals(market.tickers)
    assert market.splits.schema == SPLIT_SCHEMA
    assert market.dividends.schema == DIVIDEND_SCHEMA
    assert market.tickers.schema == TICKER_SCHEMA


def test_without_a_companion_it_says_what_is_missing(server: FlatServer) -> None:
    alone = server.source()
    with pytest.raises(SourceError, match=r"no splits.*actions="):
        alone.splits(["AAA"], START, END)
    with pytest.raises(SourceError, match="no dividends"):
        alone.dividends(["AAA"], START, END)
    with pytest.raises(SourceError, match="no tickers"):
        alone.tickers()


def test_progress_is_told(server: FlatServer) -> None:
    told: list[tuple[int, int]] = []
    source = server.source(on_progress=lambda *step: told.append(step))
    source.bars(["AAA"], Timeframe.M1, *MINUTE_DAYS)
    assert told == [(0, 2), (1, 2), (2, 2)]
