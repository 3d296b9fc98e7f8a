"""Ingest from a source in memory: skipped, resumed, merged, refused."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Sequence

import polars as pl
import pytest

from market import calendar, request_estimate
from market import ingest as ingest_module
from market.errors import MarketError, SourceError
from market.ingest import bars_table, ingest
from market.ingest_log import LOG_TABLE, SETTLE_DELAY, RefetchPolicy, read_log, settled_sessions
from market.lake import Lake
from market.polygon_meter import RequestMetrics
from market.schema import BAR_SCHEMA, DIVIDEND_SCHEMA, SPLIT_SCHEMA, TICKER_SCHEMA, Bar, empty
from market.source import EVERY, BarSource, RemoteSource
from market.timeframes import Timeframe
from tests.markets import bits, daily_bars, market

DAYS = calendar.sessions_between(dt.date(2024, 7, 1), dt.date(2024, 7, 12))
LATER = dt.datetime(2024, 7, 15, 12, 0, tzinfo=dt.UTC)
D1 = Timeframe.D1
BARS = daily_bars({s: [float(n + k) for n in range(1, 10)] for k, s in enumerate("ABC")}, DAYS[0])


class MemorySource:
    """Serves a frame; remembers what it was asked; fails from a chosen request on."""

    name = "memory"
    adjusted = False

    def __init__(self, bars: pl.DataFrame = BARS, fail_at: int | None = None) -> None:
        self.frame = bars
        self.asked: list[tuple[tuple[str, ...], dt.date, dt.date]] = []
        self.fail_at = fail_at

    def bars(
        self, symbols: Sequence[str], timeframe: Timeframe, start: dt.date, end: dt.date
    ) -> pl.DataFrame:
        self.asked.append((tuple(symbols), start, end))
        if self.fail_at is not None and len(self.asked) >= self.fail_at:
            raise SourceError("the line is dead")
        return self.frame.filter(
            pl.col(Bar.SYMBOL).is_in(list(symbols)), pl.col(Bar.SESSION).is_between(start, end)
        )

    def splits(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        return empty(SPLIT_SCHEMA)

    def dividends(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        return empty(DIVIDEND_SCHEMA)

    def tickers(self) -> pl.DataFrame:
        return empty(TICKER_SCHEMA)


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(tmp_path)


@pytest.fixture
def small_chunks(monkeypatch) -> None:
    monkeypatch.setattr(request_estimate, "CHUNK_BARS", 6)  # two sessions of three symbols


def test_everything_arrives_and_is_not_asked_for_twice(lake: Lake) -> None:
    source = MemorySource()
    assert isinstance(source, BarSource)
    first = ingest(lake, source, D1, DAYS, "ABC", now=LATER)
    assert (first.bars, first.fetched, first.skipped, first.empty) == (27, 9, 0, ())
    assert bits(lake.read_bars("bars_1d")) == bits(BARS)
    version = lake.version("bars_1d")
    again = ingest(lake, source, D1, DAYS, "CBA", now=LATER)
    assert (again.bars, again.fetched, again.skipped) == (0, 0, 9)
    assert len(source.asked) == 1
    assert lake.version("bars_1d") == version


def test_only_what_is_missing_is_asked_for(lake: Lake) -> None:
    source = MemorySource()
    ingest(lake, source, D1, DAYS[:4], "ABC", now=LATER)
    result = ingest(lake, source, D1, DAYS, "ABC", now=LATER)
    assert (result.fetched, result.skipped) == (5, 4)
    assert source.asked[-1] == (("A", "B", "C"), DAYS[4], DAYS[-1])


@pytest.mark.usefixtures("small_chunks")
def test_after_a_failure_it_goes_on_where_it_stopped(lake: Lake, tmp_path) -> None:
    broken = MemorySource(fail_at=3)
    with pytest.raises(SourceError, match="the line is dead"):
        ingest(lake, broken, D1, DAYS, "ABC", now=LATER)
    assert lake.sessions("bars_1d") == set(DAYS[:4])
    assert set(read_log(lake, D1)) == set(DAYS[:4])
    mended = MemorySource()
    result = ingest(lake, mended, D1, DAYS, "ABC", now=LATER)
    assert (result.fetched, result.skipped) == (5, 4)
    assert mended.asked[0][1] == DAYS[4]

    undisturbed = Lake(tmp_path / "undisturbed")
    ingest(undisturbed, MemorySource(), D1, DAYS, "ABC", now=LATER)
    for table in ("bars_1d", LOG_TABLE):
        assert lake.content_hash(table) == undisturbed.content_hash(table)


@pytest.mark.usefixtures("small_chunks")
def test_a_crash_between_bars_and_log_only_repeats_a_chunk(lake: Lake, monkeypatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ingest_module, "_remember", crash)
        with pytest.raises(KeyboardInterrupt):
            ingest(lake, MemorySource(), D1, DAYS, "ABC", now=LATER)
    assert read_log(lake, D1) == {}
    ingest(lake, MemorySource(), D1, DAYS, "ABC", now=LATER)
    assert bits(lake.read_bars("bars_1d")) == bits(BARS)


def test_a_session_that_is_not_over_is_fetched_again(lake: Lake) -> None:
    close = calendar.session_close(DAYS[-1])
    partial = BARS.with_columns(
        pl.when(pl.col(Bar.SESSION) == DAYS[-1])
        .then(0.5)
        .otherwise(pl.col(Bar.CLOSE))
        .alias("close")
    )
    midday = close - dt.timedelta(hours=2)
    assert ingest(lake, MemorySource(partial), D1, DAYS, "ABC", now=midday).fetched == 9
    too_soon = close + SETTLE_DELAY - dt.timedelta(seconds=1)
    second = ingest(lake, MemorySource(partial), D1, DAYS, "ABC", now=too_soon)
    assert (second.fetched, second.skipped) == (1, 8)
    third = ingest(lake, MemorySource(), D1, DAYS, "ABC", now=close + SETTLE_DELAY)
    assert (third.fetched, third.skipped) == (1, 8)
    assert bits(lake.read_bars("bars_1d")) == bits(BARS)
    assert ingest(lake, MemorySource(), D1, DAYS, "ABC", now=LATER).fetched == 0


def test_a_symbol_that_was_only_seen_at_midday_is_not_settled_by_another(lake: Lake) -> None:
    midday = calendar.session_close(DAYS[-1]) - dt.timedelta(hours=2)
    ingest(lake, MemorySource(), D1, DAYS[-1:], "AB", now=midday)
    ingest(lake, MemorySource(), D1, DAYS[-1:], "A", now=LATER)
    assert read_log(lake, D1)[DAYS[-1]].symbols == {"A"}
    stored = lake.read_bars("bars_1d", start=DAYS[-1])
    assert stored["symbol"].to_list() == ["A"], "what is provisional does not sit among the settled"
    assert ingest(lake, MemorySource(), D1, DAYS[-1:], "AB", now=LATER).fetched == 1


def test_other_symbols_are_kept(lake: Lake) -> None:
    source = MemorySource()
    ingest(lake, source, D1, DAYS, "AB", now=LATER)
    result = ingest(lake, source, D1, DAYS, "C", now=LATER)
    assert (result.bars, result.fetched) == (9, 9)
    assert bits(lake.read_bars("bars_1d")) == bits(BARS)
    assert read_log(lake, D1)[DAYS[0]].symbols == {"A", "B", "C"}
    assert ingest(lake, source, D1, DAYS, "ABC", now=LATER).fetched == 0


def test_the_timeframes_have_their_own_log(lake: Lake) -> None:
    of = market(symbols=2, sessions=10, minute_sessions=2)
    days = of.minute[Bar.SESSION].unique().sort().to_list()
    names = of.minute[Bar.SYMBOL].unique().to_list()
    ingest(lake, MemorySource(of.daily), D1, days, names, now=LATER)
    result = ingest(lake, MemorySource(of.minute), Timeframe.M1, days, names, now=LATER)
    assert (result.fetched, result.bars) == (2, of.minute.height)
    assert bits(lake.read_bars(bars_table(Timeframe.M1))) == bits(of.minute)


def test_holes_are_reported_and_asked_for_again(lake: Lake) -> None:
    holed = BARS.filter(pl.col(Bar.SESSION) != DAYS[3])
    assert ingest(lake, MemorySource(holed), D1, DAYS, "ABC", now=LATER).empty == (DAYS[3],)
    source = MemorySource()
    assert ingest(lake, source, D1, DAYS, "ABC", now=LATER).fetched == 1
    assert source.asked == [(("A", "B", "C"), DAYS[3], DAYS[3])]


def test_a_source_with_nothing_at_all_is_an_error(lake: Lake) -> None:
    with pytest.raises(SourceError, match="no 1d bars at all"):
        ingest(lake, MemorySource(empty(BAR_SCHEMA)), D1, DAYS, "ABC", now=LATER)
    assert not lake.exists("bars_1d")


def test_a_malformed_answer_writes_nothing(lake: Lake) -> None:
    with pytest.raises(MarketError, match="lack columns"):
        ingest(lake, MemorySource(BARS.drop(Bar.VWAP)), D1, DAYS, "ABC", now=LATER)
    assert not lake.exists("bars_1d")


def test_before_the_open_there_may_be_no_minute_yet(lake: Lake) -> None:
    """At 08:30 the premarket run goes on without bars; after the open their lack is an error."""
    opened = calendar.session_open(DAYS[-1])
    nothing = MemorySource(BARS.clear())
    early = ingest(lake, nothing, Timeframe.M1, DAYS[-1:], "A", now=opened - dt.timedelta(hours=1))
    assert early.empty == (DAYS[-1],)
    with pytest.raises(SourceError, match="no 1m bars at all"):
        ingest(lake, nothing, Timeframe.M1, DAYS[-1:], "A", now=opened)
    night = dt.datetime.combine(DAYS[-1], dt.time(3, 59), calendar.NEW_YORK)
    with pytest.raises(MarketError, match="in the future"):
        ingest(lake, nothing, Timeframe.M1, DAYS[-1:], "A", now=night)


@pytest.mark.parametrize(
    ("timeframe", "sessions", "symbols", "now", "message"),
    [
        (Timeframe.M5, DAYS, "A", LATER, "not ingested"),
        (D1, DAYS, "", LATER, "nothing to ingest"),
        (D1, [], "A", LATER, "nothing to ingest"),
        (D1, DAYS, "A", calendar.session_open(DAYS[-1]) - dt.timedelta(seconds=1), "in the future"),
    ],
)
def test_senseless_requests_are_refused(lake, timeframe, sessions, symbols, now, message) -> None:
    source = MemorySource()
    with pytest.raises(MarketError, match=message):
        ingest(lake, source, timeframe, sessions, symbols, now=now)
    assert source.asked == []


@pytest.mark.usefixtures("small_chunks")
def test_progress_is_told(lake: Lake) -> None:
    told: list[tuple[int, int]] = []
    ingest(lake, MemorySource(), D1, DAYS, "ABC", now=LATER, progress=lambda *a: told.append(a))
    assert told == [(2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]


def changed(session: dt.date, close: float) -> pl.DataFrame:
    here = pl.col(Bar.SESSION) == session
    return BARS.with_columns(
        *(pl.when(here).then(close).otherwise(pl.col(c)).alias(c) for c in ("high", "close"))
    )


def test_a_session_is_asked_for_again_the_day_after_and_a_revision_is_a_new_version(
    lake: Lake,
) -> None:
    evening = calendar.session_close(DAYS[-1]) + SETTLE_DELAY
    policy = RefetchPolicy(day_after=True, every_weeks=0)
    ingest(lake, MemorySource(), D1, DAYS, "ABC", now=evening, policy=policy)
    version = lake.version("bars_1d")
    asleep = ingest(lake, MemorySource(), D1, DAYS, "ABC", now=evening, policy=policy)
    assert asleep.fetched == 0
    morning = calendar.session_open(calendar.next_session(DAYS[-1]))
    corrected = MemorySource(changed(DAYS[-1], 777.0))
    result = ingest(lake, corrected, D1, DAYS, "ABC", now=morning, policy=policy)
    assert (result.fetched, result.revised) == (1, (DAYS[-1],))
    assert lake.read_bars("bars_1d", start=DAYS[-1])["close"].to_list() == [777.0] * 3
    old = lake.scan("bars_1d", version=version).filter(pl.col(Bar.SESSION) == DAYS[-1]).collect()
    assert 777.0 not in old["close"].to_list()
    once = ingest(lake, corrected, D1, DAYS, "ABC", now=morning, policy=policy)
    assert once.fetched == 0


def test_the_same_again_is_no_revision(lake: Lake) -> None:
    ingest(lake, MemorySource(), D1, DAYS, "ABC", now=calendar.session_close(DAYS[-1]))
    ingest(lake, MemorySource(), D1, DAYS, "ABC", now=LATER)
    version = lake.version("bars_1d")
    weekly = RefetchPolicy(day_after=False, every_weeks=1)
    later = LATER + dt.timedelta(days=8)
    result = ingest(lake, MemorySource(), D1, DAYS, "ABC", now=later, policy=weekly)
    assert (result.fetched, result.revised) == (9, ())
    assert lake.version("bars_1d") == version


def test_the_weekly_sample_rotates_through_the_whole_history() -> None:
    policy = RefetchPolicy(day_after=False, every_weeks=10)
    long_ago = dt.datetime(2024, 1, 2, tzinfo=dt.UTC)
    asked: list[dt.date] = []
    for week in range(10):
        now = LATER + dt.timedelta(weeks=week)
        due = [d for d in DAYS if policy.is_due(d, long_ago, now)]
        assert [d for d in DAYS if policy.is_due(d, now, now)] == [], "once a week at most"
        asked += due
    assert sorted(asked) == DAYS


def test_what_is_provisional_may_not_be_learned_from(lake: Lake) -> None:
    midday = calendar.session_close(DAYS[-1]) - dt.timedelta(hours=2)
    ingest(lake, MemorySource(), D1, DAYS, "ABC", now=midday)
    assert settled_sessions(lake, D1) == set(DAYS[:-1])
    ingest(lake, MemorySource(), D1, DAYS, "ABC", now=LATER)
    assert settled_sessions(lake, D1) == set(DAYS)


def test_two_ingests_of_different_symbols_at_once_keep_both(lake: Lake) -> None:
    threads = [
        threading.Thread(
            target=ingest, args=(lake, MemorySource(), D1, DAYS, s), kwargs={"now": LATER}
        )
        for s in "ABC"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bits(lake.read_bars("bars_1d")) == bits(BARS)
    assert all(entry.symbols == {"A", "B", "C"} for entry in read_log(lake, D1).values())


class WholeMarket(MemorySource):
    """Serves everything when asked for everything."""

    def bars(
        self, symbols: Sequence[str], timeframe: Timeframe, start: dt.date, end: dt.date
    ) -> pl.DataFrame:
        if EVERY in symbols:
            symbols = self.frame[Bar.SYMBOL].unique().to_list()
        return super().bars(symbols, timeframe, start, end)


def test_the_whole_market_of_a_session_takes_the_place_of_what_was_there(lake: Lake) -> None:
    stranger = daily_bars({"GONE": [1.0] * len(DAYS)}, DAYS[0])
    ingest(lake, MemorySource(stranger), D1, DAYS[:2], ["GONE"], now=LATER)
    ingest(lake, WholeMarket(), D1, DAYS, [EVERY], now=LATER)
    assert bits(lake.read_bars("bars_1d")) == bits(BARS)
    assert read_log(lake, D1)[DAYS[0]].symbols == {EVERY}
    source = MemorySource()
    assert ingest(lake, source, D1, DAYS, "AB", now=LATER).skipped == len(DAYS)
    assert source.asked == []


class Kept(MemorySource):
    """Answers from memory unless it is asked afresh."""

    def __init__(self, bars: pl.DataFrame, now: pl.DataFrame) -> None:
        super().__init__(bars)
        self.now = now

    @property
    def metrics(self) -> RequestMetrics:
        return RequestMetrics()

    def afresh(self) -> Kept:
        return Kept(self.now, self.now)

    def origin(self, timeframe: Timeframe, session: dt.date) -> str:
        return f"memory of {session:%d}"


def test_a_session_that_is_fetched_again_is_asked_for_afresh(lake: Lake) -> None:
    source = Kept(BARS, changed(DAYS[3], 55.0))
    assert isinstance(source, RemoteSource)
    ingest(lake, source, D1, DAYS, "ABC", now=LATER)
    assert bits(lake.read_bars("bars_1d")) == bits(BARS)
    weekly = RefetchPolicy(day_after=False, every_weeks=1)
    later = LATER + dt.timedelta(days=8)
    assert ingest(lake, source, D1, DAYS, "ABC", now=later, policy=weekly).revised == (DAYS[3],)
    assert read_log(lake, D1)[DAYS[3]].source == f"memory of {DAYS[3]:%d}"


def test_raw_and_adjusted_bars_do_not_go_into_one_table(lake: Lake) -> None:
    class Adjusted(MemorySource):
        name = "memory-adjusted"
        adjusted = True

    ingest(lake, MemorySource(), D1, DAYS[:2], "ABC", now=LATER)
    with pytest.raises(SourceError, match="do not go into one table"):
        ingest(lake, Adjusted(), D1, DAYS, "ABC", now=LATER)
    assert lake.sessions("bars_1d") == set(DAYS[:2])
