"""What the audit compares, to the row and to the bit; on tables small enough to reckon by hand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.leakage import Finding, Subject, audit, choose_cuts
from market.errors import FeatureError

DAY = dt.timedelta(days=1)
MICROSECOND = dt.timedelta(microseconds=1)
FIRST = dt.datetime(2024, 1, 2, 15, 17, tzinfo=dt.UTC)
DAYS = [FIRST + k * DAY for k in range(6)]
PRICES = pl.DataFrame({"known_at": DAYS, "price": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]})
NOW = pl.col("known_at").alias("as_of")


def look(*values: pl.Expr, **more) -> Subject:
    return Subject("demo", lambda t: t["prices"].select(NOW, *values), keys=("as_of",), **more)


def both(whole, cut, dtype=pl.Float64, **more) -> list[Finding]:
    """Audit one column whose values are these, and without the last row of the table those."""

    def compute(tables) -> pl.DataFrame:
        full = tables["prices"].height == len(DAYS)
        made = pl.Series("value", whole if full else cut, dtype=dtype)
        return pl.DataFrame({"as_of": DAYS[: len(made)], "value": made})

    subject = Subject("demo", compute, keys=("as_of",), **more)
    return audit(subject, {"prices": PRICES}, [DAYS[4]])


def test_the_row_that_is_known_at_the_cut_itself_is_compared() -> None:
    (found,) = audit(look(pl.col("price").shift(-1)), {"prices": PRICES}, [DAYS[2]])
    assert (found.column, found.cut, found.values) == ("price", DAYS[2], 1)
    assert found.example == f"{DAYS[2]}: 4.0 with the future, nothing without"
    assert str(found) == (
        f"demo: price looks ahead: cut at 2024-01-04 15:17, 1 values differ, as {found.example}"
    )


def test_each_column_is_told_once_at_the_earliest_cut_that_shows_it() -> None:
    ahead, far = pl.col("price").shift(-1), pl.col("price").shift(-2).alias("far")
    sound = pl.col("price").shift(1).alias("sound")
    found = audit(look(sound, ahead, far), {"prices": PRICES}, [DAYS[3], DAYS[1], DAYS[2]])
    assert [(f.column, f.cut, f.values) for f in found] == [
        ("price", DAYS[1], 1),
        ("far", DAYS[1], 2),
    ]


@settings(max_examples=20)
@given(ahead=st.sets(st.integers(0, 299)))
def test_each_of_many_columns_is_compared(ahead: set[int]) -> None:
    kinds = (pl.Float64, pl.Float32, pl.Int64)
    columns = [
        pl.col("price").shift(-1 if k in ahead else 1).cast(kinds[k % 3]).alias(f"c{k:03}")
        for k in range(300)
    ]
    found = audit(look(*columns), {"prices": PRICES}, [DAYS[4]])
    assert [f.column for f in found] == [f"c{k:03}" for k in sorted(ahead)]


def test_of_several_values_the_newest_is_shown() -> None:
    (found,) = both([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.5, 2.5, 3.0, 4.5, 5.0])
    assert found.values == 3
    assert found.example.startswith(f"{DAYS[3]}: 4.0 with the future, 4.5 without")


@pytest.mark.parametrize(
    ("whole", "cut", "dtype"),
    [
        (0.0, -0.0, pl.Float64),
        (0.0, None, pl.Float64),
        (None, 0.0, pl.Float32),
        (0.1 + 0.2, 0.3, pl.Float64),
        (1.0, 1.0 + 2.0**-23, pl.Float32),
        (1, 2, pl.Int64),
        (None, 1, pl.Int64),
        ("bull", "bear", pl.String),
        (None, "bear", pl.String),
    ],
)
def test_the_least_difference_counts(whole, cut, dtype) -> None:
    assert [f.values for f in both([whole] * 6, [cut] * 5, dtype)] == [5]
    assert both([whole] * 6, [whole] * 5, dtype) == []


def test_no_number_is_itself() -> None:
    assert both([float("nan")] * 6, [float("nan")] * 5) == []
    assert len(both([float("nan")] * 6, [None] * 5)) == 1


def test_another_type_is_a_difference() -> None:
    def compute(tables) -> pl.DataFrame:
        whole = tables["prices"].height == len(DAYS)
        dtype = pl.Float64 if whole else pl.Float32
        return tables["prices"].select(NOW, pl.col("price").cast(dtype))

    (found,) = audit(Subject("x", compute, keys=("as_of",)), {"prices": PRICES}, [DAYS[1]])
    assert found.values == 2


def test_an_audit_of_nothing_is_refused() -> None:
    with pytest.raises(FeatureError, match="nothing to compare"):
        audit(look(pl.col("price")), {"prices": PRICES}, [FIRST - DAY])
    subject = Subject("demo", lambda t: t["prices"].select(NOW), keys=("as_of",), known="end")
    with pytest.raises(FeatureError, match=r"lack columns: got \['end'\]"):
        audit(subject, {"prices": PRICES}, DAYS)


def labels(known: Callable[[dt.datetime], dt.datetime | None], value: pl.Expr, ahead) -> list:
    """Audit labels, known when this function says so, with cuts at every day but the last."""
    known_at = [known(d) for d in DAYS]

    def compute(tables) -> pl.DataFrame:
        rows = tables["prices"].with_columns(
            pl.Series("ends", known_at[: tables["prices"].height], dtype=PRICES["known_at"].dtype)
        )
        return rows.select(NOW, "ends", value.alias("label"))

    subject = Subject("x", compute, keys=("as_of",), known="ends", ahead=ahead)
    return audit(subject, {"prices": PRICES}, DAYS[:-1])


def test_a_label_counts_from_the_moment_at_which_it_is_known() -> None:
    """The label reaches one row ahead. To be known then is sound; a microsecond sooner is not."""
    ahead = pl.col("price").shift(-1)
    assert labels(lambda d: d + DAY, ahead, ("label",)) == []
    (found,) = labels(lambda d: d + DAY - MICROSECOND, pl.col("price").shift(-2), ("label",))
    assert (found.column, found.values) == ("label", 1)
    (found,) = labels(lambda d: d, ahead, ("label",))
    assert (found.cut, found.values) == (DAYS[0], 1)
    assert labels(lambda d: None, ahead, ("label",)) == []
    # Columns that are no labels are held to the moment of their row.
    assert [f.column for f in labels(lambda d: d + DAY, ahead, ())] == ["label"]


def test_what_may_look_ahead_without_a_moment_of_its_own_may_not() -> None:
    """``ahead`` says of which columns; without ``known`` nothing says from when on."""
    ahead = look(pl.col("price").shift(-1), ahead=("price",))
    assert [f.column for f in audit(ahead, {"prices": PRICES}, [DAYS[2]])] == ["price"]


@pytest.mark.parametrize(
    ("whole", "cut", "word", "count", "shown"),
    [
        ([0, 1, 2, 3, 4], [0], "only with the future", 4, [1, 2, 3]),
        ([0], [0, 1, 2, 3, 4], "only without the future", 4, [1, 2, 3]),
        ([0, 2], [1, 0], "only with the future", 2, [2]),
    ],
)
def test_rows_that_come_or_go_with_the_future_are_told(whole, cut, word, count, shown) -> None:
    def compute(tables) -> pl.DataFrame:
        kept = whole if tables["prices"].height == len(DAYS) else cut
        return pl.DataFrame({"symbol": ["A"] * len(kept), "as_of": [DAYS[k] for k in kept]})

    subject = Subject("x", compute, keys=("symbol", "as_of"))
    (found,) = audit(subject, {"prices": PRICES}, [DAYS[4]])
    assert (found.column, found.values) == ("rows", count)
    rows = "; ".join(f"A, {DAYS[k]}" for k in shown)
    assert found.example == f"rows {word}: {rows}"


def test_rows_with_a_null_key_are_rows_too() -> None:
    def compute(tables) -> pl.DataFrame:
        kept = [None, "A"] if tables["prices"].height == len(DAYS) else [None]
        return pl.DataFrame(
            {"symbol": kept, "as_of": [DAYS[0]] * len(kept)}, schema_overrides={"symbol": pl.String}
        )

    subject = Subject("x", compute, keys=("symbol", "as_of"))
    (found,) = audit(subject, {"prices": PRICES}, [DAYS[4]])
    assert (found.values, found.example) == (1, f"rows only with the future: A, {DAYS[0]}")


def series(count: int, step: dt.timedelta = DAY) -> pl.DataFrame:
    return pl.DataFrame({"known_at": [FIRST + k * step for k in range(count)]})


def ahead_of(cuts: list[dt.datetime]) -> list[int]:
    """The rows of :func:`series` that these cuts lie a microsecond before."""
    return [(c + MICROSECOND - FIRST) // DAY for c in cuts if not (c + MICROSECOND - FIRST) % DAY]


@pytest.mark.parametrize("count", [5, 6, 60])
def test_each_row_of_a_short_table_has_a_cut_just_before_it_is_known(count: int) -> None:
    """Of ten, three are left out at the start, and the last, after which nothing can differ."""
    cuts = choose_cuts({"bars_1d": series(10)}, count, seed=0)
    assert len(cuts) == 5
    assert ahead_of(cuts) == [4, 5, 6, 7, 8]
    assert ahead_of(choose_cuts({"bars_1d": series(11)}, 60, seed=0)) == [4, 5, 6, 7, 8, 9]


def test_a_short_table_beside_the_main_one_has_its_own_cuts_within_the_period() -> None:
    """What comes before the period is left out; what comes after its last bar is not."""
    hour = dt.timedelta(hours=1)
    rare = [FIRST, FIRST + 5 * DAY + hour, FIRST + 9 * DAY + hour, FIRST + 11 * DAY]
    tables = {"x": series(10), "splits": pl.DataFrame({"known_at": [*rare, rare[1]]})}
    cuts = choose_cuts({**tables, "sectors": pl.DataFrame({"symbol": ["A"]})}, 9, seed=0, main="x")
    assert ahead_of(cuts) == [4, 5, 6, 7, 8, 9]
    assert [c + MICROSECOND for c in cuts if (c + MICROSECOND - FIRST) % DAY] == rare[1:3]
    one = {"x": series(10), "splits": pl.DataFrame({"known_at": rare[1:2]})}
    assert rare[1] - MICROSECOND in choose_cuts(one, 9, seed=0, main="x")
    # An empty table may have no types.
    empty = {"x": series(10), "splits": pl.DataFrame({"known_at": []})}
    assert len(choose_cuts(empty, 9, seed=0, main="x")) == 5


def test_a_table_without_a_row_in_the_period_has_no_cut() -> None:
    tables = {"bars_1d": series(10), "splits": pl.DataFrame({"known_at": [FIRST]})}
    assert len(choose_cuts(tables, 60, seed=0)) == 5


@given(
    st.integers(0, 10_000),
    st.integers(4, 20),
    st.floats(0.0, 0.8),
    st.sampled_from([0, 17, 29, 30, 58]),
)
@settings(derandomize=True, max_examples=40)
def test_cuts_of_a_long_table_are_of_three_kinds_and_spread(seed, count, burn_in, minute) -> None:
    """Of four, two when a row becomes known, one where its half-hour begins, one just before."""
    step = dt.timedelta(hours=1)
    moments = [FIRST.replace(minute=minute) + k * step for k in range(200)]
    since = dt.timedelta(minutes=minute % 30)
    tables = {"bars_1d": pl.DataFrame({"known_at": moments})}
    cuts = choose_cuts(tables, count, seed=seed, burn_in=burn_in)
    begin = int(200 * burn_in) + 1
    inside = moments[begin:-1]
    first, last = begin, 198
    wanted = [first + int(k * (last - first) / (count - 1)) for k in range(count)]
    for k, place in enumerate(wanted):
        near = [moments[j] for j in range(max(first, place - 2), min(last, place + 2) + 1)]
        kind = {1: since, 3: MICROSECOND}.get(k % 4, dt.timedelta(0))
        assert any(n - kind in cuts for n in near)
    assert len(cuts) <= count
    for cut in cuts:
        kinds = (cut, cut + since, cut + MICROSECOND)
        assert any(c in inside for c in kinds)


def test_another_seed_is_another_choice() -> None:
    tables = {"bars_1d": series(400)}
    assert choose_cuts(tables, 9, seed=1) == choose_cuts(tables, 9, seed=1)
    assert len({tuple(choose_cuts(tables, 9, seed=s)) for s in range(20)}) > 15
    # Two rows either way: every one of the five places is taken by some seed.
    firsts = {choose_cuts(tables, 9, seed=s)[4] for s in range(60)}
    assert len(firsts) == 5


def test_one_cut_in_four_of_a_long_table_is_where_a_half_hour_ends() -> None:
    """Rows become known at 20 and 50 minutes past: no other cut is at a full or a half hour."""
    step = dt.timedelta(minutes=30)
    first = FIRST.replace(minute=20, second=0, microsecond=0)
    rows = pl.DataFrame({"known_at": [first + k * step for k in range(400)]})
    cuts = choose_cuts({"bars_1d": rows}, 24, seed=0)
    ends = [c.minute for c in cuts if not c.minute % 30 and c.second == c.microsecond == 0]
    assert len(cuts) == 24
    assert len(ends) == 6
    assert set(ends) == {0, 30}
