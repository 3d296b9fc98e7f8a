"""Ingest holds what cannot be trusted: no row is lost or falsely served, in whatever steps."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market import calendar
from market.ingest import IngestResult, ingest
from market.ingest_log import LOG_TABLE, read_log
from market.lake import Lake
from market.quality_rules import QualityRules, Reason, Severity
from market.quarantine import read_held
from market.schema import (
    BAR_SCHEMA,
    DIVIDEND_SCHEMA,
    SPLIT_SCHEMA,
    Bar,
    empty,
)
from market.timeframes import Timeframe
from tests.effort import repeats
from tests.markets import bits
from tests.quality_bars import copy_row, minutes, put, scaled, walk

D1, M1 = Timeframe.D1, Timeframe.M1
LATER = dt.datetime(2026, 1, 5, 12, tzinfo=dt.UTC)
WALK = walk(symbols=2, sessions=60)
DAYS = WALK[Bar.SESSION].unique().sort().to_list()
SYMBOLS = ["S000", "S001"]
KEYS = [Bar.SYMBOL, Bar.BAR_START]


class FrameSource:
    """Serves frames as they are, faults included."""

    name = "frame"
    adjusted = False

    def __init__(self, bars: pl.DataFrame, splits: pl.DataFrame | None = None) -> None:
        self.frame = bars
        self.actions = empty(SPLIT_SCHEMA) if splits is None else splits

    def bars(
        self, symbols: Sequence[str], timeframe: Timeframe, start: dt.date, end: dt.date
    ) -> pl.DataFrame:
        inside = pl.col(Bar.SESSION).is_between(start, end)
        return self.frame.filter(
            pl.col(Bar.SYMBOL).is_in(list(symbols)) | pl.col(Bar.SYMBOL).is_null(),
            inside | pl.col(Bar.SESSION).is_null(),
        )

    def splits(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        return self.actions.filter(pl.col("ex_date").is_between(start, end))

    def dividends(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        return empty(DIVIDEND_SCHEMA)

    def tickers(self) -> pl.DataFrame:
        names = self.frame.select(pl.col(Bar.SYMBOL).unique())
        return names.select(
            Bar.SYMBOL, name=pl.lit(""), active=pl.lit(value=True), composite_figi=pl.lit("")
        )


def run(
    lake: Lake,
    bars: pl.DataFrame,
    days: Sequence[dt.date],
    timeframe: Timeframe = D1,
    **more: object,
) -> IngestResult:
    options = {"now": LATER} | more
    source = options.pop("source", FrameSource(bars))
    return ingest(lake, source, timeframe, days, SYMBOLS, **options)  # type: ignore[arg-type]


def held(lake: Lake, days: Sequence[dt.date] = DAYS, timeframe: Timeframe = D1) -> pl.DataFrame:
    return read_held(lake, timeframe, days)


def row_of(bars: pl.DataFrame, symbol: str, day: dt.date) -> int:
    return bars.with_row_index("n").filter(
        (pl.col(Bar.SYMBOL) == symbol) & (pl.col(Bar.SESSION) == day)
    )["n"][0]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def test_an_impossible_row_is_held_with_its_reason_and_its_source_row(lake: Lake) -> None:
    at = row_of(WALK, "S001", DAYS[30])
    spoiled = put(WALK, at, high=WALK[Bar.LOW][at] / 2)
    result = run(lake, spoiled, DAYS)
    assert (result.bars, result.held) == (119, {Reason.OHLC_ORDER.value: 1})
    row = held(lake).row(0, named=True)
    assert (row["symbol"], row["session"], row["asked_session"]) == ("S001", DAYS[30], DAYS[30])
    assert row["reason"] == Reason.OHLC_ORDER.value
    assert json.loads(row["source_row"])["high"] == spoiled[Bar.HIGH][at]
    served = lake.read_bars("bars_1d")
    assert served.filter(symbol="S001", session=DAYS[30]).is_empty()
    assert bits(served) == bits(WALK.filter(pl.int_range(pl.len()) != at))


def test_of_a_doubled_row_one_copy_is_served_and_one_held(lake: Lake) -> None:
    result = run(lake, pl.concat([WALK, WALK[[7]]]), DAYS)
    assert result.held == {Reason.DUPLICATE.value: 1}
    assert bits(lake.read_bars("bars_1d")) == bits(WALK)


def test_a_row_that_lacks_its_keys_is_held_under_the_session_asked_for(lake: Lake) -> None:
    lost = put(WALK[[5]], 0, symbol=None, session=None, bar_start=None)
    dated = put(WALK[[40]], 0, session=None)
    result = run(lake, pl.concat([WALK.filter(pl.int_range(pl.len()) != 40), lost, dated]), DAYS)
    assert result.held == {Reason.NULL.value: 2}
    told = held(lake)
    assert set(told["asked_session"]) == {DAYS[0], WALK[Bar.SESSION][40]}
    again = run(lake, pl.concat([WALK, lost]), DAYS, policy=_always())
    assert again.held == {Reason.NULL.value: 1}
    assert held(lake).height == 1


def test_a_jump_is_held_until_the_next_bar_confirms_it(lake: Lake) -> None:
    day = DAYS[40]
    jumped = scaled(WALK, (pl.col(Bar.SESSION) >= day) & (pl.col(Bar.SYMBOL) == "S000"), 0.4)
    first = run(lake, jumped, DAYS[:41])
    assert first.held == {Reason.JUMP_UNCONFIRMED.value: 1}
    assert lake.read_bars("bars_1d", start=day)[Bar.SYMBOL].to_list() == ["S001"]
    before = read_log(lake, D1)[day].content
    second = run(lake, jumped, DAYS[41:42])
    assert (second.held, second.withdrawn, second.released) == ({}, 0, 1)
    assert second.revised == (day,)
    assert read_log(lake, D1)[day].content != before
    assert held(lake).is_empty()
    assert bits(lake.read_bars("bars_1d")) == bits(jumped.filter(pl.col(Bar.SESSION) <= DAYS[41]))


def test_a_jump_that_comes_back_was_false_and_stays_held(lake: Lake) -> None:
    spike = scaled(WALK, row_of(WALK, "S000", DAYS[40]), 0.4)
    assert run(lake, spike, DAYS[:41]).held == {Reason.JUMP_UNCONFIRMED.value: 1}
    after = run(lake, spike, DAYS[41:43])
    assert (after.held, after.withdrawn, after.released) == ({}, 0, 0)
    told = held(lake)
    assert told["reason"].to_list() == [Reason.SPIKE.value]
    assert (
        json.loads(told["source_row"][0])["close"]
        == spike[Bar.CLOSE][row_of(spike, "S000", DAYS[40])]
    )


def test_a_served_row_that_later_bars_expose_is_withdrawn_as_a_revision(lake: Lake) -> None:
    day = DAYS[40]
    spike = scaled(WALK, row_of(WALK, "S000", day), 1.2)
    run(lake, spike, DAYS[:41])
    assert lake.read_bars("bars_1d", start=day).height == 2
    version = lake.version("bars_1d")
    after = run(lake, spike, DAYS[41:42])
    assert (after.withdrawn, after.released, after.revised) == (1, 0, (day,))
    assert lake.read_bars("bars_1d", start=day, end=day)[Bar.SYMBOL].to_list() == ["S001"]
    old = lake.scan("bars_1d", version=version).filter(pl.col("session") == day).collect()
    assert old.height == 2


def test_a_split_that_the_source_knows_is_no_jump(lake: Lake) -> None:
    day = DAYS[40]
    split = scaled(WALK, (pl.col(Bar.SESSION) >= day) & (pl.col(Bar.SYMBOL) == "S000"), 0.25)
    known = pl.DataFrame(
        {"symbol": ["S000"], "ex_date": [day], "known_at": [LATER], "split_ratio": [4.0]},
        schema=SPLIT_SCHEMA,
    )
    result = run(lake, split, DAYS[:41], source=FrameSource(split, known))
    assert result.held == {}
    assert lake.read_bars("bars_1d", start=day).height == 2


def test_what_other_symbols_hold_stays(lake: Lake) -> None:
    spoiled = put(WALK, row_of(WALK, "S001", DAYS[3]), close=-1.0)
    spoiled = put(spoiled, row_of(WALK, "S000", DAYS[3]), close=-1.0)
    for symbol in SYMBOLS:
        ingest(lake, FrameSource(spoiled), D1, DAYS, [symbol], now=LATER)
    assert held(lake)[Bar.SYMBOL].to_list() == SYMBOLS
    assert lake.read_bars("bars_1d").height == 118


def test_severities_are_settings(lake: Lake) -> None:
    spike = scaled(WALK, row_of(WALK, "S000", DAYS[40]), 1.2)
    lenient = QualityRules(severities={Reason.SPIKE: Severity.WARN})
    assert run(lake, spike, DAYS, rules=lenient).held == {}
    assert lake.read_bars("bars_1d").height == 120


def test_a_second_source_exposes_a_row_that_alone_looks_true(lake: Lake) -> None:
    shifted = scaled(WALK, row_of(WALK, "S001", DAYS[45]), 1.04)
    assert run(Lake(lake.root + "-alone"), shifted, DAYS).held == {}
    result = run(lake, shifted, DAYS, second=FrameSource(WALK))
    assert result.held == {Reason.SOURCES_DISAGREE.value: 1}
    assert held(lake)["session"].to_list() == [DAYS[45]]


def test_a_symbol_that_the_second_source_does_not_know_is_judged_alone(lake: Lake) -> None:
    class Half(FrameSource):
        def bars(self, symbols: Sequence[str], *more: object) -> pl.DataFrame:
            assert list(symbols) == ["S001"]
            return super().bars(symbols, *more)  # type: ignore[arg-type]

    half = Half(WALK.filter(pl.col(Bar.SYMBOL) == "S001"))
    spike = scaled(WALK, row_of(WALK, "S000", DAYS[40]), 1.2)
    assert run(lake, spike, DAYS, second=half).held == {Reason.SPIKE.value: 1}


def test_minutes_are_held_against_the_settled_daily_bar(lake: Lake) -> None:
    day = dt.date(2024, 7, 10)
    told = minutes(session=day).with_columns(pl.lit("S000").alias(Bar.SYMBOL))
    twice = pl.concat([told, told.with_columns(pl.lit("S001").alias(Bar.SYMBOL))])
    daily = twice.group_by(Bar.SYMBOL, Bar.SESSION).agg(
        pl.lit(calendar.session_open(day)).first().alias(Bar.BAR_START),
        pl.lit(calendar.session_close(day)).first().alias(Bar.BAR_END),
        pl.lit(calendar.session_close(day)).first().alias(Bar.KNOWN_AT),
        pl.col(Bar.OPEN).first(),
        pl.col(Bar.HIGH).max(),
        pl.col(Bar.LOW).min(),
        pl.col(Bar.CLOSE).last(),
        pl.col(Bar.VOLUME).sum(),
        pl.lit(None, pl.Float64).alias(Bar.VWAP),
        pl.lit(None, pl.Int64).alias(Bar.TRADES),
    )
    official = daily.select(pl.col(n).cast(t) for n, t in BAR_SCHEMA.items())
    doubled = scaled(official, official[Bar.SYMBOL] == "S001", 2.0)
    run(lake, doubled, [day])
    result = run(lake, twice, [day], M1)
    assert result.held == {Reason.SOURCES_DISAGREE.value: 390}
    assert set(held(lake, [day], M1)[Bar.SYMBOL]) == {"S001"}
    assert set(lake.read_bars("bars_1m")[Bar.SYMBOL]) == {"S000"}


def _always() -> object:
    class Always:
        def is_due(self, *_: object) -> bool:
            return True

    return Always()


FAULTS = st.lists(
    st.tuples(
        st.sampled_from(["spike", "jump", "repeat", "low", "double", "far repeat"]),
        st.sampled_from(SYMBOLS),
        st.integers(22, 59),
    ),
    max_size=4,
)


def _spoil(faults: list[tuple[str, str, int]]) -> pl.DataFrame:
    bars = WALK
    for kind, symbol, at in faults:
        row = row_of(bars, symbol, DAYS[at])
        if kind == "spike":
            bars = scaled(bars, row, 1.3)
        elif kind == "jump":
            here = (pl.col(Bar.SYMBOL) == symbol) & (pl.col(Bar.SESSION) >= DAYS[at])
            bars = scaled(bars, here, 0.4)
        elif kind in ("repeat", "far repeat"):
            back = 1 if kind == "repeat" else 17
            bars = copy_row(bars, row_of(bars, symbol, DAYS[at - back]), row)
        elif kind == "low":
            bars = put(bars, row, low=bars[Bar.HIGH][row] * 2)
    doubled = [row_of(bars, s, DAYS[at]) for k, s, at in faults if k == "double"]
    return pl.concat([bars, bars[sorted(set(doubled))]])


def _content(lake: Lake) -> tuple[list[object], list[object], str]:
    return (
        bits(lake.read_bars("bars_1d")),
        held(lake).rows(),
        lake.content_hash(LOG_TABLE),
    )


@settings(max_examples=repeats(25, 12), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(faults=FAULTS, cuts=st.sets(st.integers(1, 59), max_size=3), data=st.data())
def test_the_steps_of_an_ingest_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory,
    faults: list[tuple[str, str, int]],
    cuts: set[int],
    data: st.DataObject,
) -> None:
    bars = _spoil(faults)
    folder = tmp_path_factory.mktemp("steps")
    whole, stepped = Lake(folder / "whole"), Lake(folder / "stepped")
    run(whole, bars, DAYS)
    edges = [0, *sorted(cuts), len(DAYS)]
    steps = [DAYS[a:b] for a, b in itertools.pairwise(edges)]
    for step in data.draw(st.permutations(steps)):
        run(stepped, bars, step)
    assert _content(stepped) == _content(whole)
    received = sorted(map(str, bars.select(KEYS).rows()))
    kept = [lake_rows.select(KEYS) for lake_rows in (whole.read_bars("bars_1d"), held(whole))]
    assert sorted(map(str, pl.concat(kept).rows())) == received


class CutLake(Lake):
    """A lake whose process ends at its n-th write."""

    left = 0

    def replace(self, table: str, frame: pl.DataFrame, partitions: Sequence[object] | None) -> bool:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().replace(table, frame, partitions)


@pytest.mark.parametrize("writes", range(6))
@pytest.mark.parametrize("kind", ["jump", "spike"])
def test_a_process_that_ends_between_two_writes_loses_no_row(
    tmp_path: Path, kind: str, writes: int
) -> None:
    bars = _spoil([(kind, "S000", 40)])
    whole = Lake(tmp_path / "whole")
    run(whole, bars, DAYS)
    lake = CutLake(tmp_path / "cut")
    lake.left = 99
    run(lake, bars, DAYS[:41])
    lake.left = writes
    with contextlib.suppress(KeyboardInterrupt):
        run(lake, bars, DAYS[41:])
    keys = {*lake.read_bars("bars_1d").select(KEYS).rows(), *held(lake).select(KEYS).rows()}
    assert keys >= set(bars.filter(pl.col(Bar.SESSION) < DAYS[41]).select(KEYS).rows())
    lake.left = 99
    run(lake, bars, DAYS)
    assert _content(lake) == _content(whole)
