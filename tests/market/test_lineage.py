"""Only what changed is computed again: features know what they were made from."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from market import calendar
from market.ingest import ingest
from market.ingest_log import RefetchPolicy
from market.lake import Lake
from market.lineage import (
    Definitions,
    Inputs,
    changed_sessions,
    contiguous,
    dataset_digest,
    input_hashes,
    remember_inputs,
    stale_features,
    stale_sessions,
)
from market.schema import SPLIT_SCHEMA, Bar, Split
from market.timeframes import Timeframe
from tests.market.test_ingest import BARS, D1, DAYS, LATER, MemorySource, changed
from tests.reference_tables import NEWS, identities, vix, yields

WARM_UP = 2


@pytest.fixture
def lake(tmp_path) -> Lake:
    made = Lake(tmp_path)
    ingest(made, MemorySource(), D1, DAYS, "ABC", now=LATER)
    return made


MADE_BY = Definitions(window={"a": "v1"}, beside={"m": "v1"})


def inputs(lake: Lake) -> dict[dt.date, Inputs]:
    return input_hashes(lake, D1, warm_up_sessions=WARM_UP)


def stale(lake: Lake, timeframe: Timeframe = D1, definitions: Definitions = MADE_BY):
    return stale_sessions(lake, timeframe, inputs(lake), definitions)


def changed_since(lake: Lake, definitions: Definitions = MADE_BY):
    return changed_sessions(lake, D1, inputs(lake), definitions)


def remember(lake: Lake, sessions, definitions: Definitions = MADE_BY) -> None:
    remember_inputs(lake, D1, sessions, inputs(lake), definitions)


def test_all_is_stale_at_first_and_nothing_once_remembered(lake: Lake) -> None:
    assert stale(lake) == DAYS
    remember(lake, DAYS)
    assert stale(lake) == []
    assert stale(lake, Timeframe.M15) == DAYS


def test_a_revision_touches_its_window_alone(lake: Lake) -> None:
    remember(lake, DAYS)
    source = MemorySource(changed(DAYS[3], 55.0))
    weekly = RefetchPolicy(day_after=False, every_weeks=1)
    later = LATER + dt.timedelta(days=8)
    assert ingest(lake, source, D1, DAYS, "ABC", now=later, policy=weekly).revised == (DAYS[3],)
    assert stale(lake) == DAYS[3 : 3 + WARM_UP + 1]
    assert changed_since(lake) == DAYS[3 : 3 + WARM_UP + 1]


def test_a_new_session_is_stale_alone(tmp_path) -> None:
    lake = Lake(tmp_path)
    ingest(lake, MemorySource(), D1, DAYS[:-1], "ABC", now=LATER)
    remember(lake, DAYS[:-1])
    ingest(lake, MemorySource(), D1, DAYS, "ABC", now=LATER)
    assert stale(lake) == DAYS[-1:]


def test_a_changed_definition_makes_all_stale(lake: Lake) -> None:
    remember(lake, DAYS)
    assert stale(lake, definitions=Definitions(window={"a": "v2"})) == DAYS


def test_a_changed_definition_makes_its_own_feature_stale_alone(lake: Lake) -> None:
    made = Definitions(window={"a": "v1", "b": "v1"}, history={"c": "v1"})
    remember(lake, DAYS, made)
    now = Definitions(window={"a": "v1", "b": "v2", "d": "v1"}, history={"c": "v1"})
    found = stale_features(lake, D1, inputs(lake), now)
    assert found == dict.fromkeys(DAYS, frozenset({"b", "d"}))
    assert now.version(inputs(lake)[DAYS[0]]) != made.version(inputs(lake)[DAYS[0]])


def test_what_carries_a_state_rests_on_all_sessions_before(lake: Lake) -> None:
    both = Definitions(window={"a": "v1"}, history={"c": "v1"})
    remember(lake, DAYS, both)
    source = MemorySource(changed(DAYS[3], 55.0))
    weekly = RefetchPolicy(day_after=False, every_weeks=1)
    ingest(lake, source, D1, DAYS, "ABC", now=LATER + dt.timedelta(days=8), policy=weekly)
    found = stale_features(lake, D1, inputs(lake), both)
    assert [s for s, names in found.items() if "a" in names] == DAYS[3 : 3 + WARM_UP + 1]
    assert [s for s, names in found.items() if "c" in names] == DAYS[3:]


def test_a_log_of_an_earlier_version_counts_for_nothing(lake: Lake) -> None:
    old = pl.DataFrame({"timeframe": ["1d"], "session": DAYS[:1], "inputs": ["digest"]})
    lake.replace("feature_log", old, None)
    assert stale(lake) == DAYS
    remember(lake, DAYS)
    assert stale(lake) == []


def test_a_corporate_action_touches_the_windows_that_hold_its_ex_date(lake: Lake) -> None:
    remember(lake, DAYS)
    split = pl.DataFrame(
        {
            Split.SYMBOL: ["A"],
            Split.EX_DATE: [DAYS[4]],
            Split.KNOWN_AT: [calendar.session_open(DAYS[2])],
            Split.SPLIT_RATIO: [2.0],
        },
        schema=SPLIT_SCHEMA,
    )
    lake.replace("splits", split, None)
    assert stale(lake) == DAYS[4 : 4 + WARM_UP + 1]


def test_runs_end_where_a_session_is_missing() -> None:
    assert contiguous([DAYS[4], DAYS[0], DAYS[1]]) == [DAYS[:2], [DAYS[4]]]
    assert contiguous([]) == []
    assert BARS[Bar.SESSION].n_unique() == len(DAYS)


def test_the_dataset_is_another_when_a_settled_session_is(tmp_path) -> None:
    lake = Lake(tmp_path)
    midday = calendar.session_close(DAYS[-1]) - dt.timedelta(hours=2)
    ingest(lake, MemorySource(), D1, DAYS, "ABC", now=midday)
    remember(lake, DAYS[:-1])
    without = dataset_digest(lake, [D1])
    assert changed_since(lake) == []
    remember(lake, DAYS)
    # The last one is not over: nothing is learned from it yet.
    assert dataset_digest(lake, [D1]) == without
    ingest(lake, MemorySource(), D1, DAYS, "ABC", now=LATER)
    assert dataset_digest(lake, [D1]) != without


def test_a_change_of_ticker_touches_its_window_alone(lake: Lake) -> None:
    remember(lake, DAYS)
    table = identities(
        ("ONE", "ONE", "A", None, DAYS[3], False, None),
        ("ONE", "ONE", "NEW", DAYS[3], None, True, None),
    )
    lake.replace("identities", table, None)
    assert changed_since(lake) == DAYS[3 : 3 + WARM_UP + 1]


# ---------------------------------------------------------------------- macro values and news


def reference_tables(lake: Lake) -> None:
    first, last = DAYS[0] - dt.timedelta(days=10), DAYS[-1]
    rates = yields(first, last)
    lake.replace("treasury_yields", rates, None)
    lake.replace("indices", vix(calendar.sessions_between(first, last)), None)
    lake.replace("news", about(DAYS[1]), [DAYS[1].replace(day=1)])


def about(day: dt.date, label: str = "positive") -> pl.DataFrame:
    """One article that becomes known an hour after the close of a session."""
    known = calendar.session_close(day) + dt.timedelta(hours=1)
    return NEWS.head(1).with_columns(
        pl.lit(day.replace(day=1)).alias("month"),
        pl.lit(known - dt.timedelta(hours=1)).cast(NEWS.schema["known_at"]).alias("published_at"),
        pl.lit(known).cast(NEWS.schema["known_at"]).alias("known_at"),
        pl.lit(label).alias("sentiment"),
    )


def test_a_changed_macro_value_touches_the_sessions_from_which_on_it_is_known(lake: Lake) -> None:
    reference_tables(lake)
    remember(lake, DAYS)
    assert stale(lake) == []
    indices = lake.scan("indices").collect()
    revised = pl.when(pl.col("session") == DAYS[3]).then(99.0).otherwise("close").alias("close")
    lake.replace("indices", indices.with_columns(revised), None)
    # Known a quarter of an hour after the close: the last bar of a delayed plan sees it.
    assert stale(lake) == DAYS[3:]
    lake.replace("indices", indices, None)
    assert stale(lake) == []
    rates = lake.scan("treasury_yields").collect()
    revised = pl.when(pl.col("date") == DAYS[2]).then(9.0).otherwise("yield_2_year_percent")
    lake.replace("treasury_yields", rates.with_columns(revised.alias("yield_2_year_percent")), None)
    # Known in the evening of the day after: the session after that sees it.
    assert stale(lake) == DAYS[4:]


def test_another_label_of_an_article_touches_the_sessions_that_see_it(lake: Lake) -> None:
    reference_tables(lake)
    remember(lake, DAYS)
    month = [DAYS[1].replace(day=1)]
    lake.replace("news", about(DAYS[1], "negative"), month)
    assert stale(lake) == DAYS[2:]
    lake.replace("news", about(DAYS[1]).with_columns(pl.lit("Reworded").alias("title")), month)
    assert stale(lake) == []


def test_a_new_macro_value_touches_the_session_that_sees_it_alone(lake: Lake) -> None:
    reference_tables(lake)
    indices = lake.scan("indices").collect()
    lake.replace("indices", indices.filter(pl.col("session") < DAYS[-1]), None)
    remember(lake, DAYS)
    lake.replace("indices", indices, None)
    assert stale(lake) == DAYS[-1:]


def test_macro_values_do_not_reach_what_is_made_of_bars(lake: Lake) -> None:
    both = Definitions(window={"a": "v1"}, history={"c": "v1"}, beside={"m": "v1"})
    reference_tables(lake)
    remember(lake, DAYS, both)
    indices = lake.scan("indices").collect()
    lake.replace("indices", indices.with_columns(pl.col("close") + 1.0), None)
    found = stale_features(lake, D1, inputs(lake), both)
    assert found == dict.fromkeys(DAYS, frozenset({"m"}))
