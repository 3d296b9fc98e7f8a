"""Every technical indicator against pandas-ta-classic, symbol by symbol, in its own unit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from features.compute import compute_features
from features.registry import FAMILIES
from features.spec import Feature
from market.schema import BAR_SCHEMA, Bar
from tests.markets import adjusted_bars, adjusted_daily, market
from tests.oracles.pandas_ta_reference import PARITY

FEATURES = FAMILIES["technical"]
SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS", "")
COLUMNS = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VOLUME)

RELATIVE = 1e-5
# Of oscillators around zero: one part in a million of a usual value.
OF_TYPICAL = 1e-6


def frame_of(bars: pl.DataFrame, symbol: str) -> pd.DataFrame:
    own = bars.filter(pl.col(Bar.SYMBOL) == symbol).sort(Bar.BAR_END)
    index = pd.DatetimeIndex(own[Bar.BAR_START].dt.replace_time_zone(None).to_numpy())
    return pd.DataFrame({str(c): own[c].cast(pl.Float64).to_numpy() for c in COLUMNS}, index=index)


def reference_of(feature: Feature, frame: pd.DataFrame) -> np.ndarray:
    values = PARITY[feature.name](frame)
    assert values.index.equals(frame.index), feature.name
    return values.to_numpy(dtype=np.float64)


def assert_equal(feature: Feature, got: np.ndarray, wanted: np.ndarray, why: str) -> None:
    typical = np.median(np.abs(wanted)) if len(wanted) else 0.0
    np.testing.assert_allclose(
        got, wanted, rtol=RELATIVE, atol=OF_TYPICAL * typical, err_msg=f"{feature.name}: {why}"
    )


SYNTHETIC = {
    "daily": lambda: adjusted_daily(market(seed=5, symbols=3, sessions=260)),
    "5m": lambda: adjusted_bars(market(seed=6, symbols=2, sessions=30, minute_sessions=4), "15m"),
}


def test_every_indicator_has_a_reference_and_every_reference_an_indicator() -> None:
    assert set(PARITY) == {f.name for f in FEATURES}


@pytest.mark.parametrize("timeframe", SYNTHETIC)
def test_indicators_equal_their_references_from_their_first_value_on(timeframe: str) -> None:
    """Recursions are seeded as the references' are, so there is nothing to wait for."""
    bars = SYNTHETIC[timeframe]()
    out = compute_features(bars, FEATURES)
    for symbol in out[Bar.SYMBOL].unique().sort():
        frame = frame_of(bars, symbol)
        own = out.filter(pl.col(Bar.SYMBOL) == symbol)
        for feature in FEATURES:
            values = own[feature.name].to_numpy().astype(np.float64)
            wanted = reference_of(feature, frame)
            first = feature.lookback - 1
            assert np.isnan(values[:first]).all(), f"{feature.name} before its lookback"
            assert_equal(feature, values[first:], wanted[first:], f"{symbol} {timeframe}")


def test_the_comparison_can_fail() -> None:
    feature = next(f for f in FEATURES if f.name == "ema_10")
    wanted = reference_of(feature, frame_of(SYNTHETIC["daily"](), first_symbol()))
    with pytest.raises(AssertionError, match="ema_10"):
        assert_equal(feature, wanted[20:] * (1 + 3e-5), wanted[20:], "another value")


def first_symbol() -> str:
    return SYNTHETIC["daily"]()[Bar.SYMBOL][0]


def real_bars(file: str, symbols: tuple[str, ...], rows: int) -> pl.DataFrame:
    """The last bars of some symbols as they are in the file: a split is one more move."""
    raw = pl.scan_parquet(Path(SAMPLES) / file).filter(pl.col("symbol").is_in(symbols)).collect()
    if "date" in raw.columns:
        start = pl.col("date").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    else:
        start = pl.col("ts")
    bars = raw.with_columns(bar_start=start).with_columns(
        bar_end=pl.col("bar_start") + pl.duration(minutes=5),
        known_at=pl.col("bar_start") + pl.duration(minutes=5),
        session=pl.col("bar_start").dt.date(),
        vwap=pl.lit(None),
        trades=pl.lit(None),
    )
    ordered = bars.sort("symbol", "bar_start").group_by("symbol", maintain_order=True).tail(rows)
    return ordered.select(pl.col(n).cast(t) for n, t in BAR_SCHEMA.items())


REAL = {
    "daily_us504_raw_1999_2014.parquet": ("AAPL", "IBM", "XOM", "KO"),
    "hour_5_adj_1998_2014.parquet": ("IBM", "BAC"),
    "minute_142_2018_02_04.parquet": ("AAPL", "GE"),
}


@pytest.mark.real_bars
@pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS names no folder of real bars")
@pytest.mark.parametrize("file", REAL)
def test_indicators_equal_their_references_on_real_bars(file: str) -> None:
    """Where both are defined: a range of zero is null here, and a tiny number there."""
    bars = real_bars(file, REAL[file], 2_500)
    out = compute_features(bars, FEATURES)
    for symbol in REAL[file]:
        frame = frame_of(bars, symbol)
        own = out.filter(pl.col(Bar.SYMBOL) == symbol)
        for feature in FEATURES:
            values = own[feature.name].to_numpy().astype(np.float64)[feature.lookback - 1 :]
            wanted = reference_of(feature, frame)[feature.lookback - 1 :]
            both = np.isfinite(values) & np.isfinite(wanted)
            assert both.mean() > 0.99, f"{feature.name}: {both.mean():.3f} of {symbol}"
            assert_equal(feature, values[both], wanted[both], f"{symbol} {file}")
