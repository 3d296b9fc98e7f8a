"""The 158 features of ``alpha158`` against pyqlib's own values, cell by cell.

The slices are synthetic; ``python -m benchmarks.peers.parity_slice`` writes them again.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.feature_bars import PEER_COLUMNS, daily_bars, held_by_float32
from benchmarks.peers import parity_slice
from features.compute import compute_features
from features.registry import select_features
from market.schema import Bar
from tests.oracles import alpha158_parity as parity

SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS", "")
ORACLES = Path(__file__).parents[1] / "oracles"


@lru_cache(maxsize=4)
def pyqlib(slice_of: str) -> pl.DataFrame:
    return pl.read_parquet(ORACLES / f"alpha158_{slice_of}.parquet")


def names_of(peers: pl.DataFrame) -> list[str]:
    return [name for name in peers.columns if name not in PEER_COLUMNS]


def ours_of(peers: pl.DataFrame) -> pl.DataFrame:
    ours = compute_features(daily_bars(peers), select_features(family="alpha158"))
    assert ours.select(Bar.SYMBOL, Bar.SESSION).equals(peers.select(Bar.SYMBOL, Bar.SESSION))
    return ours


def disagreements(peers: pl.DataFrame, ours: pl.DataFrame, full: parity.Flags) -> list[str]:
    out = []
    for name in names_of(peers):
        nothing = parity.flags(peers, parity.zero_denominator(name))
        if ours[name].filter(pl.Series(nothing)).count():
            out.append(f"{name}: a value although the denominator is zero")
        ours_now, theirs = ours[name].to_numpy(), peers[name].to_numpy()
        loose = parity.flags(peers, parity.left_out_pairs(name)) & ~np.isfinite(ours_now)
        found = parity.deviation(name, ours_now, theirs, full & ~nothing & ~loose)
        if not found.agrees:
            out.append(str(found))
    return out


def from_full_rows(peers: pl.DataFrame) -> parity.Flags:
    return parity.row_numbers(peers[Bar.SYMBOL]) >= parity.FULL_ROW


def test_names_and_order_are_those_of_pyqlib() -> None:
    expected = names_of(pyqlib("plain"))
    assert [f.name for f in select_features(family="alpha158")] == expected
    assert len(expected) == 158


@pytest.mark.parametrize("slice_of", ["plain", "awkward"])
def test_values_are_those_of_pyqlib(slice_of: str) -> None:
    peers = pyqlib(slice_of)
    assert disagreements(peers, ours_of(peers), from_full_rows(peers)) == []


@pytest.mark.parametrize("slice_of", ["plain", "awkward"])
def test_the_stored_bars_are_the_generators(slice_of: str) -> None:
    assert getattr(parity_slice, slice_of)().equals(pyqlib(slice_of).select(PEER_COLUMNS))


def test_the_awkward_slice_is_awkward() -> None:
    peers = pyqlib("awkward")
    full = from_full_rows(peers)
    for family in ("KMID2", "RSV5", "SUMP60", "VSUMP20", "VMA5", "VSTD60", "WVMA30"):
        assert (parity.flags(peers, parity.zero_denominator(family)) & full).any(), family
    assert {n for n in names_of(peers) if peers[n].is_nan().any()} >= {"RSQR60", "CORR60", "CORD60"}
    assert not any(peers[n].is_infinite().any() for n in names_of(peers))


def test_the_warm_up_is_null_where_pyqlib_fills_partial_windows() -> None:
    peers = pyqlib("plain")
    row = parity.row_numbers(peers[Bar.SYMBOL])
    ours = ours_of(peers)
    for feature in select_features(family="alpha158"):
        value = ours[feature.name]
        assert not value.filter(pl.Series(row < feature.lookback - 1)).count(), feature.name
        assert value.filter(pl.Series(row >= feature.lookback - 1)).null_count() == 0, feature.name
        assert feature.lookback <= parity.FULL_ROW + 1


def test_a_shift_by_one_bar_would_be_seen() -> None:
    peers = pyqlib("plain")
    full = from_full_rows(peers)
    for name in names_of(peers):
        theirs = peers[name].to_numpy()
        assert parity.deviation(name, theirs, theirs, full).agrees
        assert not parity.deviation(name, np.roll(theirs, 1), theirs, full).agrees, name


@pytest.mark.real_bars
@pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS names no folder of real bars")
def test_values_are_those_of_pyqlib_on_real_bars() -> None:
    peers = pl.read_parquet(Path(SAMPLES) / "alpha158_reference.parquet").rename(
        {"date": Bar.SESSION}
    )
    peers = peers.with_columns(vwap=(pl.col("high") + pl.col("low") + pl.col("close")) / 3.0)
    # As qlib stored them: its files hold float32.
    peers = peers.with_columns(
        pl.Series(name, held_by_float32(peers[name].to_numpy())) for name in PEER_COLUMNS[2:]
    ).sort(Bar.SYMBOL, Bar.SESSION)
    assert disagreements(peers, ours_of(peers), from_full_rows(peers)) == []
