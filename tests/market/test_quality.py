"""Each fault of a bar is counted, once, under its name."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from market.quality import BarQuality, describe_bars
from market.schema import BAR_SCHEMA, Bar, empty
from market.timeframes import Timeframe
from tests.markets import daily_bars, market

BARS = daily_bars({"A": [1.0, 2.0, 3.0], "B": [4.0, 5.0, 6.0]}, dt.date(2024, 7, 1))
SECOND = pl.int_range(pl.len()) == 1


def spoiled(column: str, value: object) -> pl.DataFrame:
    return BARS.with_columns(pl.when(SECOND).then(value).otherwise(pl.col(column)).alias(column))


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        (Bar.CLOSE, float("nan"), "not_positive"),
        (Bar.CLOSE, None, "not_positive"),
        (Bar.LOW, 0.0, "not_positive"),
        (Bar.LOW, None, "not_positive"),
        (Bar.HIGH, 1.5, "out_of_order"),
        (Bar.LOW, 2.5, "out_of_order"),
        (Bar.VOLUME, -1.0, "negative_volume"),
        (Bar.VOLUME, None, "negative_volume"),
        (Bar.VOLUME, float("nan"), "negative_volume"),
        (Bar.KNOWN_AT, None, "known_too_early"),
        (Bar.KNOWN_AT, BARS[Bar.BAR_START][1], "known_too_early"),
        (Bar.BAR_START, BARS[Bar.BAR_END][1] - dt.timedelta(minutes=5), "odd_length"),
    ],
)
def test_a_fault_is_counted(column: str, value: object, fault: str) -> None:
    found = describe_bars(spoiled(column, value).lazy(), Timeframe.D1)
    assert found.rows == 6
    assert getattr(found, fault) == 1
    assert found.faults == 1


def test_sound_bars_have_no_fault() -> None:
    of = market(symbols=3, sessions=20, minute_sessions=3)
    assert describe_bars(of.daily.lazy(), Timeframe.D1) == BarQuality(of.daily.height, *[0] * 5)
    assert describe_bars(of.minute.lazy(), Timeframe.M1) == BarQuality(of.minute.height, *[0] * 5)


def test_minutes_that_are_no_minutes() -> None:
    assert describe_bars(BARS.lazy(), Timeframe.M1).odd_length == 6


def test_no_bars_have_no_faults() -> None:
    assert describe_bars(empty(BAR_SCHEMA).lazy(), Timeframe.D1).faults == 0


def test_metadata_reads_well() -> None:
    found = describe_bars(spoiled(Bar.VOLUME, -1.0).lazy(), Timeframe.D1).as_metadata()
    assert found["negative volume"] == 1
    assert all(type(v) is int for v in found.values())
