"""On real bars every feature is finite where its lookback is met, but for what has no value."""

from __future__ import annotations

import datetime as dt
import os
from functools import lru_cache
from pathlib import Path

import polars as pl
import pytest

from features.audited import adjusted_bars
from features.compute import compute_features
from features.lookback import ages
from features.registry import select_features
from features.side import SideTables
from features.spec import Feature, Stage
from market.replay_data import load_bars_file
from market.schema import BAR_SCHEMA, Bar, empty
from market.timeframes import Timeframe

SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS", "")
pytestmark = [
    pytest.mark.real_bars,
    pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS names no folder of real bars"),
]
EVERY = bool(os.environ.get("ISOBAR_RELIABILITY"))
CASES = {
    "daily": ("daily_us504_raw_1999_2014", Timeframe.D1),
    "five minutes": ("minute_142_2018_02_04", Timeframe.M5),
    "minutes": ("minute_99_extended_2025_01_02", Timeframe.M1),
}


@lru_cache(maxsize=4)
def bars_of(case: str) -> pl.DataFrame:
    name, timeframe = CASES[case]
    loaded = load_bars_file(
        Path(SAMPLES) / f"{name}.parquet", as_of=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    )
    tables = {
        "bars_1d": empty(BAR_SCHEMA) if loaded.daily is None else loaded.daily,
        "bars_1m": empty(BAR_SCHEMA) if loaded.minute is None else loaded.minute,
        "splits": loaded.splits,
        "dividends": loaded.dividends,
    }
    symbols = pl.concat([t[Bar.SYMBOL] for t in tables.values()]).unique().sort()
    some = pl.col(Bar.SYMBOL).is_in(symbols.gather_every(1 if EVERY else 12).implode())
    few = {name: table.filter(some) for name, table in tables.items()}
    return adjusted_bars(few, timeframe).sort(Bar.SYMBOL, Bar.BAR_END)


def from_bars(timeframe: Timeframe) -> list[Feature]:
    return [f for f in select_features(timeframe=timeframe) if f.stage is not Stage.AS_OF]


@lru_cache(maxsize=4)
def made(case: str) -> pl.DataFrame:
    bars = bars_of(case)
    symbols = bars[Bar.SYMBOL].unique().sort()
    # Two sectors of made-up members: in the real ones some of these few symbols would be alone.
    halves = pl.DataFrame({"symbol": symbols, "sector": ["ab"[k % 2] for k in range(len(symbols))]})
    return compute_features(bars, from_bars(CASES[case][1]), SideTables(sectors=halves))


def degenerate() -> pl.Expr:
    """A bar in which something that features divide by is nothing."""
    middle = pl.col(Bar.HIGH) + pl.col(Bar.LOW)
    unchanged = (
        x == x.shift(1).over(Bar.SYMBOL) for x in (pl.col(Bar.CLOSE), pl.col(Bar.VOLUME), middle)
    )
    flat, idle = pl.col(Bar.HIGH) == pl.col(Bar.LOW), pl.col(Bar.VOLUME) <= 0
    # After such a fall a line through three weeks of closes may end below zero.
    halved = pl.col(Bar.CLOSE) < 0.5 * pl.col(Bar.CLOSE).rolling_max(14).over(Bar.SYMBOL)
    return pl.any_horizontal(flat, idle, halved, *unchanged)


def varies(frame: pl.DataFrame, feature: Feature) -> pl.Series:
    """Whether what a cross-section feature reads differs between the symbols of the moment."""
    if feature.stage is not Stage.CROSS_SECTION:
        return pl.Series([True]).new_from_index(0, frame.height)
    read = [n for n in feature.inputs if n in frame.columns]
    several = pl.any_horizontal(pl.col(n).n_unique().over(Bar.BAR_END) > 1 for n in read)
    return frame.select(several).to_series()


@pytest.mark.parametrize("case", CASES)
def test_no_value_is_infinite(case: str) -> None:
    frame = made(case)
    bad = frame.select((~pl.col(pl.Float32).is_finite()).sum())
    assert bad.row(0) == (0,) * bad.width


@pytest.mark.parametrize("case", CASES)
def test_what_is_null_after_the_lookback_has_nothing_to_divide_by(case: str) -> None:
    bars, frame = bars_of(case), made(case)
    old = ages(bars)
    marks = bars.select(
        # How many bars ago the last degenerate one was.
        (pl.int_range(pl.len()) - pl.when(degenerate()).then(pl.int_range(pl.len())).forward_fill())
        .over(Bar.SYMBOL)
        .alias("ago"),
        pl.len().over(Bar.BAR_END).alias("company"),
    )
    for feature in from_bars(CASES[case][1]):
        null, met = frame[feature.name].is_null(), pl.Series(old.meet(feature))
        assert (null | met).all(), f"{feature.name}: a value before its lookback"
        found = marks.with_columns(varies=varies(frame, feature)).filter(null & met)
        unexplained = found.filter(~(pl.col("ago") < feature.lookback).fill_null(value=False))
        if feature.stage is Stage.CROSS_SECTION:
            # Some minutes have bars of hardly any symbol, or all are alike (at their maximum).
            unexplained = unexplained.filter((pl.col("company") > 4) & pl.col("varies"))
        assert unexplained.is_empty(), f"{feature.name}: {unexplained.height} of {bars.height}"
        # A tenth of one-minute bars have no range; of nothing else is there as little.
        assert found.height <= 0.15 * bars.height, feature.name


def test_the_range_of_a_bar_is_null_exactly_where_there_is_none() -> None:
    bars, frame = bars_of("minutes"), made("minutes")
    flat = bars[Bar.HIGH] == bars[Bar.LOW]
    assert 0.01 < flat.mean() < 0.5
    for name in ("KMID2", "KUP2", "KLOW2", "KSFT2", "close_location"):
        assert (frame[name].is_null() == flat).all(), name
