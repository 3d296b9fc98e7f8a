"""What the vendor's lists and events say, with their gaps, and which spells they make."""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import SourceError
from market.polygon_identities import RECORDS_BEGIN, Change, Listing, changes, listings, spells
from market.reference_quality import inspect_identities
from tests.reference_tables import Spell, identities

A, B, C = dt.date(2012, 5, 18), dt.date(2022, 6, 9), dt.date(2024, 3, 1)
DAY = dt.timedelta(days=1)


def _told(listed: list[Listing], histories: dict[str, list[Change]], *wanted: str) -> pl.DataFrame:
    return spells(listed, histories, wanted)


def _same(found: pl.DataFrame, *expected: Spell) -> None:
    assert found.rows() == identities(*expected).rows()


def test_a_former_ticker_is_no_delisting() -> None:
    listed = [Listing("META", "F1", True, None), Listing("FB", "F1", False, B)]
    history = {"F1": [Change(A, "FB"), Change(B, "META")]}
    _same(
        _told(listed, history, "META"),
        ("F1", "F1", "FB", A, B, False, None),
        ("F1", "F1", "META", B, None, True, None),
    )
    # Asked by the former name, with the last one's listing looked up: the same.
    _same(
        _told(listed[::-1], history, "FB"),
        ("F1", "F1", "FB", A, B, False, None),
        ("F1", "F1", "META", B, None, True, None),
    )


def test_a_delisted_company_ends_after_its_last_day() -> None:
    listed = [Listing("TWTR", "F1", False, B)]
    _same(
        _told(listed, {"F1": [Change(A, "TWTR")]}, "TWTR"),
        ("F1", "F1", "TWTR", A, B + DAY, False, B),
    )
    without_events = _told(listed, {"F1": []}, "TWTR")
    _same(without_events, ("F1", "F1", "TWTR", None, B + DAY, False, B))


def test_the_beginning_of_the_vendors_records_is_no_beginning() -> None:
    listed = [Listing("IBM", "F1", True, None)]
    told = _told(listed, {"F1": [Change(RECORDS_BEGIN, "IBM")]}, "IBM")
    _same(told, ("F1", "F1", "IBM", None, None, True, None))
    later = _told(listed, {"F1": [Change(RECORDS_BEGIN + DAY, "IBM")]}, "IBM")
    assert later["valid_from"].to_list() == [RECORDS_BEGIN + DAY]


def test_a_ticker_used_again_belongs_to_two_companies() -> None:
    listed = [Listing("XYZ", "F1", False, A), Listing("XYZ", "F2", True, None)]
    told = _told(listed, {"F1": [], "F2": []}, "XYZ")
    # Nobody says when the second began: after the first, then.
    _same(
        told,
        ("F1", "F1", "XYZ", None, A + DAY, False, A),
        ("F2", "F2", "XYZ", A + DAY, None, True, None),
    )


def test_without_a_figi_the_ticker_and_its_end_are_the_identity() -> None:
    listed = [
        Listing("XYZ", None, False, A),
        Listing("XYZ", None, False, B),
        Listing("XYZ", None, True, None),
    ]
    _same(
        _told(listed, {}, "XYZ"),
        (f"XYZ@{A}", None, "XYZ", None, A + DAY, False, A),
        (f"XYZ@{B}", None, "XYZ", A + DAY, B + DAY, False, B),
        ("XYZ", None, "XYZ", B + DAY, None, True, None),
    )


def test_a_listing_whose_figi_is_blank_is_not_a_second_company() -> None:
    listed = [
        Listing("META", "F1", True, None),
        Listing("FB", None, False, B),
        Listing("META", None, True, None),
    ]
    history = {"F1": [Change(A, "FB"), Change(B, "META")]}
    assert set(_told(listed, history, "FB", "META")["identity"]) == {"F1"}


def test_an_end_without_a_date_gives_way_to_whoever_bears_the_ticker() -> None:
    gone = Listing("XYZ", None, False, None)
    _same(_told([gone], {}, "XYZ"), ("XYZ", None, "XYZ", None, None, False, None))
    told = _told([gone, Listing("XYZ", "F1", True, None)], {"F1": []}, "XYZ")
    _same(told, ("F1", "F1", "XYZ", None, None, True, None))


def test_where_dates_overlap_the_later_company_has_the_ticker() -> None:
    listed = [Listing("XYZ", "F1", False, C), Listing("XYZ", "F2", True, None)]
    told = _told(listed, {"F1": [Change(A, "XYZ")], "F2": [Change(B, "XYZ")]}, "XYZ")
    assert told.select("valid_from", "valid_to").rows() == [(A, B), (B, None)]


def _row(**changed: Any) -> dict[str, Any]:
    return {"ticker": "A", "active": False, "delisted_utc": "2022-06-09T04:00:00Z"} | changed


def test_rows_become_listings() -> None:
    assert listings([_row(), _row(), _row(composite_figi="")]) == [Listing("A", None, False, B)]
    # An active ticker has no end, whatever the row says.
    assert listings([_row(active=True, composite_figi="F")]) == [Listing("A", "F", True, None)]


def test_events_become_changes() -> None:
    events = [
        {"type": "ticker_change", "date": "2022-06-09", "ticker_change": {"ticker": "META"}},
        {"type": "ticker_change", "date": "2012-05-18", "ticker_change": {"ticker": "FB"}},
        {"type": "ticker_change", "date": "2012-05-18", "ticker_change": {"ticker": "FB"}},
        {"type": "spin_off", "date": "2020-01-01"},
    ]
    found = changes({"composite_figi": "F1", "events": events}, "F1")
    assert found == [Change(A, "FB"), Change(B, "META")]
    assert changes({"name": "No events"}, "F1") == []
    other = {"type": "ticker_change", "date": "2022-06-09", "ticker_change": {"ticker": "X"}}
    for wrong in (
        None,
        {"composite_figi": "F2", "events": []},
        {"events": [*events, other]},
        {"events": [{"type": "ticker_change", "date": "soon", "ticker_change": {"ticker": "X"}}]},
        {"events": [{"type": "ticker_change", "date": "2022-06-09"}]},
    ):
        with pytest.raises(SourceError, match="unusable data"):
            changes(wrong, "F1")


_DATES = st.integers(0, 30).map(lambda n: A + n * DAY)
_SYMBOLS = st.sampled_from(["AA", "BB"])
_FIGIS = st.sampled_from([None, "F1", "F2", "F3"])


@settings(max_examples=300, deadline=None)
@given(
    listed=st.lists(
        st.builds(
            lambda s, f, d: Listing(s, f, d is None, d),
            _SYMBOLS, _FIGIS, st.one_of(st.none(), _DATES),
        ), max_size=6, unique=True,
    ),
    data=st.data(),
)  # fmt: skip
def test_whatever_the_vendor_says_no_ticker_is_borne_twice(
    listed: list[Listing], data: st.DataObject
) -> None:
    histories = {
        figi: [
            Change(day, data.draw(_SYMBOLS))
            for day in sorted(data.draw(st.sets(_DATES, max_size=3)))
        ]
        for figi in sorted({x.figi for x in listed if x.figi})
    }
    told = spells(listed, histories, ["AA", "BB"])
    assert inspect_identities(told, []).shared == ()
    assert set(told["symbol"]) <= {"AA", "BB"}
