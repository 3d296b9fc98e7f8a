"""Digests of frames: equal for equal values, however they lie in memory; different otherwise."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.frame_hash import frame_hash

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
COLUMNS = {
    "text": (pl.String(), TEXT),
    "whole": (pl.Int64(), st.integers(-(2**63), 2**63 - 1)),
    "real": (pl.Float64(), st.floats(allow_nan=False).map(lambda x: x + 0.0)),
    "flag": (pl.Boolean(), st.booleans()),
    "day": (pl.Date(), st.dates(dt.date(1990, 1, 1), dt.date(2030, 1, 1))),
    "time": (pl.Datetime("us", "UTC"), st.datetimes(timezones=st.just(dt.UTC))),
    "list": (pl.List(pl.String()), st.lists(TEXT, max_size=3)),
}


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    rows = draw(st.integers(0, 5))
    made = {
        name: draw(st.lists(st.none() | values, min_size=rows, max_size=rows))
        for name, (_, values) in COLUMNS.items()
    }
    return pl.DataFrame(made, schema={name: kind for name, (kind, _) in COLUMNS.items()})


@given(one=frames(), two=frames())
def test_equal_digests_mean_equal_frames(one: pl.DataFrame, two: pl.DataFrame) -> None:
    assert (frame_hash(one) == frame_hash(two)) == one.equals(two)


@given(frame=frames())
def test_how_a_frame_lies_in_memory_does_not_count(frame: pl.DataFrame) -> None:
    frame = frame.drop("list")  # Polars cannot join slices of a list column of nulls.
    chunked = pl.concat([frame.head(2), frame.slice(2)], rechunk=False)
    gathered = pl.concat([frame.reverse(), frame])[-frame.height :] if frame.height else frame
    assert frame_hash(chunked) == frame_hash(gathered) == frame_hash(frame.clone())


@pytest.mark.parametrize(
    "other",
    [
        pl.DataFrame({"a": [1, 0]}),
        pl.DataFrame({"a": [None, 1]}),
        pl.DataFrame({"b": [1, None]}),
        pl.DataFrame({"a": [1.0, None]}),
        pl.DataFrame({"a": ["1", None]}),
        pl.DataFrame({"a": [1, None, None]}),
        pl.DataFrame({"a": [1, None]}, schema={"a": pl.Int32}),
    ],
)
def test_a_near_miss_has_another_digest(other: pl.DataFrame) -> None:
    assert frame_hash(other) != frame_hash(pl.DataFrame({"a": [1, None]}))


def test_the_digest_does_not_change_with_versions() -> None:
    """Kept digests must stay comparable after an upgrade of any library."""
    frame = pl.DataFrame({"s": ["A", "A", None], "x": [1.5, None, -2.0], "l": [["b"], [], None]})
    assert frame_hash(frame) == "432ca3a5ee5ffc8a"
