"""Two sources held against each other, and what the second one says of odd bars."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import polars as pl
import pytest

from market.quality_rules import QualityRules, Reason
from market.schema import Bar
from market.second_source import compare_sources, daily_from_minutes
from market.timeframes import Timeframe
from tests.markets import market
from tests.quality_bars import (
    HALF_DAY,
    SESSION,
    N,
    copy_row,
    inspect,
    minutes,
    put,
    reasons,
    rules_of,
    scaled,
    walk,
)


def test_a_second_source_condemns() -> None:
    second = walk(2)
    for factor, outcome in ((1.05, "sources_disagree"), (1.02, "sources_differ"), (1.005, None)):
        found = inspect(scaled(second, 60, factor), second=second)
        assert rules_of(found) == ({outcome} if outcome else set())
        assert found.quarantined.height == (outcome == "sources_disagree")


def test_the_scale_between_sources_may_drift() -> None:
    second = walk()
    drift = pl.lit(0.5) * (1 - 0.0005 * pl.int_range(pl.len()))
    primary = second.with_columns(
        pl.col(c) * drift for c in (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VWAP)
    )
    assert compare_sources(primary, second)["reason"].null_count() == N
    off = compare_sources(scaled(primary, 60, 1.04), second)
    assert off.filter(pl.col("reason").is_not_null())[Bar.SESSION].to_list() == [
        second[Bar.SESSION][60]
    ]
    same_units = replace(QualityRules(), scale_sessions=0)
    assert compare_sources(primary, second, same_units)["reason"].null_count() == 0
    # Too short an overlap to know the scale: both count as in the same units.
    assert compare_sources(primary[:4], second)["reason"].to_list() == ["sources_disagree"] * 4


def test_highs_and_lows_differ_between_true_sources() -> None:
    second = walk()
    high = second[Bar.HIGH][60]
    assert rules_of(inspect(put(second, 60, **{Bar.HIGH: high * 1.05}), second=second)) == {
        "sources_differ"
    }
    assert reasons(inspect(put(second, 60, **{Bar.HIGH: high * 1.2}), second=second)) == [
        "sources_disagree"
    ]


def test_a_second_source_clears_what_is_merely_odd() -> None:
    bars = scaled(walk(), 60, 1.25)
    found = inspect(bars, second=bars)
    assert found.quarantined.is_empty()
    assert rules_of(found) == {Reason.CLEARED.value}
    assert reasons(inspect(bars, second=walk())) == [Reason.SOURCES_DISAGREE.value]
    repeated = copy_row(walk(), 40, 41)
    judged = inspect(repeated, second=walk())
    off = abs(walk()[Bar.CLOSE][40] / walk()[Bar.CLOSE][41] - 1)
    assert judged.quarantined.height == (off > QualityRules().cleared_within)


def test_official_bars_against_the_sessions_minutes() -> None:
    of = market(symbols=3, sessions=60, minute_sessions=30)
    built = daily_from_minutes(of.minute)
    official = of.daily.filter(pl.col(Bar.SESSION).is_in(built[Bar.SESSION].unique().implode()))
    assert built.height == official.height
    off = compare_sources(official, built)
    assert off.filter(pl.col("reason") == Reason.SOURCES_DISAGREE.value).is_empty()
    session = built[Bar.SESSION][10]
    tampered = scaled(
        of.minute,
        (pl.col(Bar.SESSION) == session) & (pl.col(Bar.SYMBOL) == built[Bar.SYMBOL][0]),
        1.06,
    )
    found = inspect(tampered, Timeframe.M1, second=official)
    assert set(found.quarantined["reason"]) == {Reason.SOURCES_DISAGREE.value}
    assert found.quarantined[Bar.SESSION].unique().to_list() == [session]


@pytest.mark.parametrize(("session", "whole"), [(SESSION, 390), (HALF_DAY, 210)])
def test_a_session_of_minutes_is_its_regular_hours(session: dt.date, whole: int) -> None:
    bars = minutes(whole + 20, session, first=-10)
    bars = scaled(bars, (pl.int_range(pl.len()) < 10) | (pl.int_range(pl.len()) >= whole + 10), 2.0)
    row = daily_from_minutes(bars).row(0, named=True)
    regular = bars[10 : whole + 10]
    assert (row["open"], row["close"]) == (regular[Bar.OPEN][0], regular[Bar.CLOSE][-1])
    assert (row["high"], row["low"]) == (regular[Bar.HIGH].max(), regular[Bar.LOW].min())
    assert row["volume"] == regular[Bar.VOLUME].sum()
    assert (row["bar_start"], row["bar_end"]) == (
        regular[Bar.BAR_START][0],
        regular[Bar.BAR_END][-1],
    )
