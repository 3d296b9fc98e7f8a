"""Whatever comes in: no row is lost, none invented, none served twice, in any order."""

from __future__ import annotations

import datetime as dt

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from market.quality import inspect_bars
from market.quality_rules import Inspection, Reason
from market.schema import BAR_SCHEMA, DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar, empty
from market.timeframes import Timeframe
from tests.markets import market

KEYS = [Bar.SYMBOL, Bar.BAR_START]
SOUND = market(seed=11, symbols=4, sessions=45, minute_sessions=2)
DAILY = SOUND.daily
MINUTES = SOUND.minute.filter(
    pl.col(Bar.SYMBOL).is_in(DAILY[Bar.SYMBOL].unique().head(2).implode())
)

prices = st.sampled_from([None, 0.0, -1.0, float("nan"), float("inf"), 1e-3, 50.0, 1e6])
moments = st.sampled_from([None, dt.datetime(2024, 7, 6, 12, tzinfo=dt.UTC)])
faults = st.one_of(
    st.tuples(
        st.sampled_from([Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VOLUME, Bar.VWAP]), prices
    ),
    st.tuples(st.sampled_from([Bar.BAR_START, Bar.BAR_END, Bar.KNOWN_AT]), moments),
    st.tuples(st.just(Bar.SYMBOL), st.sampled_from([None, "", "ZZ"])),
    st.tuples(st.just(Bar.SESSION), st.sampled_from([None, dt.date(2024, 7, 6)])),
)


@st.composite
def spoiled(draw: st.DrawFn, sound: pl.DataFrame) -> pl.DataFrame:
    """Sound bars with values replaced, rows copied, dropped and scaled, in any order."""
    bars = sound
    place = st.integers(0, bars.height - 1)
    for at, (column, value) in draw(st.lists(st.tuples(place, faults), max_size=6)):
        here = pl.int_range(pl.len()) == at
        put = pl.when(here).then(pl.lit(value, dtype=BAR_SCHEMA[column]))
        bars = bars.with_columns(put.otherwise(column).alias(column))
    for at, factor in draw(st.lists(st.tuples(place, st.floats(0.5, 2.0)), max_size=3)):
        here = pl.int_range(pl.len()) == at
        columns = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE)
        bars = bars.with_columns(
            pl.when(here).then(pl.col(c) * factor).otherwise(c).alias(c) for c in columns
        )
    copies = draw(st.lists(place, max_size=4))
    dropped = draw(st.lists(place, max_size=4))
    kept = bars.filter(~pl.int_range(pl.len()).is_in(dropped))
    shuffled = pl.concat([kept, bars[copies]])
    return shuffled.sample(fraction=1.0, shuffle=True, seed=draw(st.integers(0, 99)))


def inspect(
    bars: pl.DataFrame, timeframe: Timeframe, history: pl.DataFrame | None = None
) -> Inspection:
    return inspect_bars(
        bars,
        timeframe=timeframe,
        splits=empty(SPLIT_SCHEMA),
        dividends=empty(DIVIDEND_SCHEMA),
        history=history,
    )


def rows(bars: pl.DataFrame) -> list[str]:
    return sorted(map(repr, bars.select(BAR_SCHEMA.names()).rows()))


def assert_parted(bars: pl.DataFrame, found: Inspection) -> None:
    assert rows(pl.concat([found.good, found.quarantined.select(BAR_SCHEMA.names())])) == rows(bars)
    assert not found.good.select(KEYS).is_duplicated().any()
    assert found.good.select(KEYS).rows() == sorted(found.good.select(KEYS).rows())
    assert set(found.quarantined["reason"]) <= {r.value for r in Reason}
    assert (
        found.quarantined.select("reason", "detail", "source_row").null_count().sum_horizontal()[0]
        == 0
    )
    needed = [c for c in BAR_SCHEMA.names() if c not in (Bar.VWAP, Bar.TRADES)]
    assert found.good.select(needed).null_count().sum_horizontal()[0] == 0
    assert found.good.filter(~pl.col(Bar.CLOSE).is_finite() | (pl.col(Bar.LOW) <= 0)).is_empty()


def assert_same(one: Inspection, other: Inspection) -> None:
    assert one.good.equals(other.good)
    assert rows(one.quarantined) == rows(other.quarantined)
    assert sorted(one.quarantined["detail"]) == sorted(other.quarantined["detail"])
    exact = ["rule", "session", "symbols", "rows", "detail"]
    assert one.findings.select(exact).equals(other.findings.select(exact))


@settings(max_examples=40, deadline=None)
@given(bars=spoiled(DAILY), seed=st.integers(0, 99))
def test_daily_rows_are_parted_in_any_order(bars: pl.DataFrame, seed: int) -> None:
    found = inspect(bars, Timeframe.D1)
    assert_parted(bars, found)
    other = bars.sample(fraction=1.0, shuffle=True, seed=seed)
    assert_same(found, inspect(other, Timeframe.D1))


@settings(max_examples=15, deadline=None)
@given(bars=spoiled(MINUTES), seed=st.integers(0, 99))
def test_minutes_are_parted_in_any_order(bars: pl.DataFrame, seed: int) -> None:
    found = inspect(bars, Timeframe.M1)
    assert_parted(bars, found)
    other = bars.sample(fraction=1.0, shuffle=True, seed=seed)
    assert_same(found, inspect(other, Timeframe.M1))


@settings(max_examples=20, deadline=None)
@given(bars=spoiled(DAILY), cut=st.integers(5, 40))
def test_history_is_evidence_and_never_output(bars: pl.DataFrame, cut: int) -> None:
    day = DAILY[Bar.SESSION].unique().sort()[cut]
    late = bars.filter((pl.col(Bar.SESSION) >= day) | pl.col(Bar.SESSION).is_null())
    early = bars.filter(pl.col(Bar.SESSION) < day)
    found = inspect(late, Timeframe.D1, early)
    assert_parted(late, found)
    served = pl.concat([found.good, early]).select(KEYS)
    assert (
        found.good.join(early.select(KEYS), on=KEYS, how="semi").height + served.unique().height
        <= served.height
    )
    assert found.findings.filter(pl.col("session") < day).is_empty()


@settings(max_examples=20, deadline=None)
@given(bars=spoiled(DAILY), cut=st.integers(25, 43))
def test_a_spike_is_evident_when_it_says(bars: pl.DataFrame, cut: int) -> None:
    moment = DAILY[Bar.KNOWN_AT].unique().sort()[cut]
    known = bars.filter((pl.col(Bar.KNOWN_AT) <= moment) | pl.col(Bar.KNOWN_AT).is_null())
    spikes = pl.col("reason") == Reason.SPIKE.value
    whole = inspect(bars, Timeframe.D1).quarantined.filter(spikes)
    then = inspect(known, Timeframe.D1).quarantined.filter(spikes)
    assert rows(whole.filter(pl.col("evident_at") <= moment)) == rows(then)
