"""Each fault of macro data, news and identities is found, and only that one."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from market.macro import index_known_at, yields_known_at
from market.reference_quality import (
    inspect_identities,
    inspect_index,
    inspect_news,
    inspect_yields,
)
from market.schema import INDEX_SCHEMA, NEWS_SCHEMA, TREASURY_YIELD_SCHEMA, empty
from tests.reference_tables import (
    END,
    IDENTITIES,
    NEWS,
    article,
    identities,
    news,
    vix,
    yields,
)

DAY = dt.date(2024, 7, 1)
NEXT = dt.date(2024, 7, 15)
ON_DAY = pl.col("session") == DAY


def test_sound_series_are_sound() -> None:
    found = inspect_yields(yields(), yields_known_at(END))
    assert found.is_sound
    assert found.rows == yields().height
    assert inspect_index(vix(), index_known_at(END)).is_sound


@pytest.mark.parametrize(
    ("changes", "sound"),
    [
        ({"yield_10_year_percent": 40.0}, False),
        ({"yield_10_year_percent": -3.0}, False),
        ({"yield_10_year_percent": -0.5}, True),
        ({"yield_10_year_percent": None}, True),
        ({c: None for c in TREASURY_YIELD_SCHEMA if c.startswith("yield")}, False),
    ],
)
def test_yields_out_of_range_are_found(changes: dict[str, float | None], sound: bool) -> None:
    on_day = pl.col("date") == DAY
    rows = yields().with_columns(
        pl.when(on_day).then(pl.lit(v, dtype=pl.Float64)).otherwise(pl.col(c)).alias(c)
        for c, v in changes.items()
    )
    found = inspect_yields(rows, yields_known_at(END))
    assert found.implausible == (() if sound else (DAY,))
    assert (found.holes, found.overdue) == ((), ())


@pytest.mark.parametrize(
    "change", [{"close": 300.0, "high": 301.0}, {"close": 2.0, "low": 1.0}, {"high": 12.0}]
)
def test_index_values_that_cannot_be_are_found(change: dict[str, float]) -> None:
    rows = vix().with_columns(
        pl.when(ON_DAY).then(v).otherwise(pl.col(c)).alias(c) for c, v in change.items()
    )
    assert inspect_index(rows, index_known_at(END)).implausible == (DAY,)


def test_holes_are_counted_against_the_calendar() -> None:
    found = inspect_index(vix().filter(~ON_DAY), index_known_at(END))
    assert (found.holes, found.overdue, found.is_sound) == ((DAY,), (), False)
    assert found.as_metadata()["holes"] == 1
    assert found.as_metadata()["holes, first"] == ["2024-07-01"]
    # Columbus Day is a session and no hole; the day before it is one.
    monday, friday = dt.date(2024, 10, 14), dt.date(2024, 10, 11)
    rows = yields(dt.date(2024, 10, 1), dt.date(2024, 10, 18))
    assert monday not in rows["date"].to_list()
    now = yields_known_at(dt.date(2024, 10, 18))
    assert inspect_yields(rows, now).is_sound
    assert inspect_yields(rows.filter(pl.col("date") != friday), now).holes == (friday,)


def test_a_series_that_stops_is_overdue_after_a_day() -> None:
    on_time = index_known_at(NEXT) + dt.timedelta(hours=23)
    assert inspect_index(vix(), on_time).is_sound
    late = index_known_at(NEXT) + dt.timedelta(days=1)
    assert inspect_index(vix(), late).overdue == (NEXT,)
    assert inspect_yields(yields(), yields_known_at(NEXT) + dt.timedelta(days=1)).overdue == (NEXT,)


def test_nothing_is_not_sound() -> None:
    now = index_known_at(END)
    assert not inspect_index(empty(INDEX_SCHEMA), now).is_sound
    assert not inspect_yields(empty(TREASURY_YIELD_SCHEMA), now).is_sound
    assert not inspect_news(empty(NEWS_SCHEMA), now).is_sound


def test_news() -> None:
    now = dt.datetime(2024, 7, 5, tzinfo=dt.UTC)
    found = inspect_news(NEWS, now)
    assert (found.rows, found.articles, found.labelled) == (6, 3, 4)
    assert found.is_sound
    assert not inspect_news(NEWS, now + dt.timedelta(days=7)).is_sound
    odd = news(article("b", now - dt.timedelta(hours=2), NEW="bullish"))
    assert inspect_news(pl.concat([NEWS, odd]), now).unknown_labels == ("bullish",)
    early = NEWS.with_columns(pl.col("known_at") - dt.timedelta(hours=2))
    assert inspect_news(early, now).known_before_published == 6


def test_identities() -> None:
    found = inspect_identities(IDENTITIES, ["NEW", "GONE", "BARE"])
    assert found.is_sound
    assert (found.companies, found.without_figi, found.renamed, found.delisted) == (5, 2, 1, 2)
    assert inspect_identities(IDENTITIES, ["NEW", "NOPE"]).missing == ("NOPE",)


def test_a_symbol_borne_twice_at_once_is_found() -> None:
    two = (
        ("F1", "F1", "AA", None, dt.date(2024, 7, 2), False, None),
        ("F2", "F2", "AA", dt.date(2024, 7, 1), None, True, None),
        ("F3", "F3", "BB", None, dt.date(2024, 7, 2), False, None),
        ("F4", "F4", "BB", dt.date(2024, 7, 2), None, True, None),
    )
    assert inspect_identities(identities(*two), []).shared == ("AA",)
    backwards = ("F5", "F5", "CC", dt.date(2024, 7, 2), dt.date(2024, 7, 2), False, None)
    assert inspect_identities(identities(backwards), []).shared == ("CC",)
    both = (("F1", "F1", "AA", None, None, True, None), ("F2", "F2", "AA", None, None, True, None))
    assert inspect_identities(identities(*both), []).shared == ("AA",)
