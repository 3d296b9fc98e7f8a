"""Moments as the ledger writes them: one spelling, there and back."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.hash_chain import from_utc_text, utc_text

_MOMENTS = st.datetimes(timezones=st.just(dt.UTC)).filter(lambda m: 1000 <= m.year < 9999)


@given(_MOMENTS, st.integers(-14 * 60, 14 * 60))
def test_a_moment_comes_back_in_utc_from_whatever_zone_it_was_written(
    moment: dt.datetime, minutes: int
) -> None:
    elsewhere = moment.astimezone(dt.timezone(dt.timedelta(minutes=minutes)))
    text = utc_text(elsewhere)
    assert len(text) == 27
    found = from_utc_text(text)
    assert found == moment
    assert found.tzinfo is dt.UTC


@pytest.mark.parametrize(
    "text",
    [
        "2025-01-02T14:30:00.000000+00:00",
        "2025-01-02T14:30:00.000000+02:00",
        "2025-01-02T14:30:00.000000",
        "2025-01-02T14:30:00Z",
        "2025-01-02T14:30:00.000Z",
        "2025-01-02 14:30:00.000000Z",
        "2025-W01-4T14:30:00.000000Z",
        "20250102T143000.000000Z",
        "2025-01-02T14:30:00.000000z",
        "2025-01-02T14:30:00.0000001Z",
        "2025-01-02",
        "soon",
        "",
    ],
)
def test_any_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        from_utc_text(text)
