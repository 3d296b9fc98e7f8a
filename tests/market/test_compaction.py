"""The copy by symbol: whatever was written in whatever order, no reader ever sees a stale bar."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market import calendar, compaction
from market.compaction import Compaction, compact
from market.errors import LakeError
from market.lake import Lake
from market.layouts import BARS_TABLE, BY_SYMBOL_TABLE, choose_layout, files_by_session, name_months
from market.schema import BAR_SCHEMA, Bar, empty
from tests.effort import repeats
from tests.markets import bits, minute_bars

SYMBOLS = ["A", "B", "BRK.B", "C"]
MAY = calendar.sessions_between(dt.date(2024, 5, 1), dt.date(2024, 5, 6))
JUNE = calendar.sessions_between(dt.date(2024, 6, 3), dt.date(2024, 6, 5))
DAYS = [*MAY, *JUNE]
LATER = dt.date(2024, 7, 15)


def session_of(day: dt.date, base: float = 10.0, symbols: list[str] | None = None) -> pl.DataFrame:
    """Three minutes of each symbol; the price says which symbol, session and edition it is of."""
    start = calendar.session_open(day)
    starts = [start + dt.timedelta(minutes=k) for k in range(3)]
    rows = [
        minute_bars(s, starts, [base + SYMBOLS.index(s) + k / 8 for k in range(3)], day)
        for s in (SYMBOLS if symbols is None else symbols)
    ]
    return pl.concat([empty(BAR_SCHEMA), *rows])


def opened_by(lake: Lake, **wanted: object) -> str:
    """Return the plan of a read: the files that it opens are named in it."""
    return lake.scan_bars(BARS_TABLE, **wanted).explain(optimized=True)


def prices(frame: pl.DataFrame, day: dt.date) -> set[float]:
    return set(frame.filter(pl.col(Bar.SESSION) == day)[Bar.CLOSE])


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(tmp_path / "lake")
    made.replace(BARS_TABLE, pl.concat([session_of(d) for d in DAYS]), DAYS)
    return made


def plain(
    rows: pl.DataFrame,
    start: dt.date | None,
    end: dt.date | None,
    symbols: list[str] | None,
    as_of: dt.datetime | None,
) -> pl.DataFrame:
    """The oracle: row by row, in memory."""
    kept = [
        row
        for row in rows.rows(named=True)
        if (start is None or row["session"] >= start)
        and (end is None or row["session"] <= end)
        and (symbols is None or row["symbol"] in symbols)
        and (as_of is None or row["known_at"] <= as_of)
    ]
    kept.sort(key=lambda row: (row["symbol"], row["bar_start"]))
    return pl.DataFrame(kept, schema=BAR_SCHEMA)


_STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("replace"),
            st.sampled_from(DAYS),
            st.sampled_from([10.0, 20.0]),
            st.lists(st.sampled_from(SYMBOLS), unique=True).map(sorted),
        ),
        st.tuples(st.just("compact"), st.sets(st.sampled_from(DAYS), min_size=4)),
        st.tuples(
            st.just("read"),
            st.one_of(st.none(), st.sampled_from(DAYS)),
            st.one_of(st.none(), st.sampled_from(DAYS)),
            st.one_of(st.none(), st.lists(st.sampled_from([*SYMBOLS, "Z"]), max_size=4)),
            st.one_of(st.none(), st.sampled_from(DAYS).map(calendar.session_close)),
        ),
    ),
    min_size=6,
    max_size=14,
)


@settings(max_examples=repeats(40, 20), deadline=None)
@given(steps=_STEPS)
def test_every_route_reads_what_a_plain_filter_of_the_sessions_gives(steps: list) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        told: dict[dt.date, pl.DataFrame] = {d: session_of(d) for d in DAYS}
        lake.replace(BARS_TABLE, pl.concat(told.values()), DAYS)
        compact(lake, DAYS, LATER)
        promised: list[tuple[pl.LazyFrame, pl.DataFrame]] = []
        for what, *given_values in [*steps, ("read", None, None, ["B"], None)]:
            if what == "replace":
                day, base, symbols = given_values
                told[day] = session_of(day, base, symbols)
                lake.replace(BARS_TABLE, told[day], [day])
                continue
            if what == "compact":
                compact(lake, given_values[0], LATER)
                continue
            start, end, symbols, as_of = given_values
            wanted = plain(pl.concat(told.values()), start, end, symbols, as_of)
            got = lake.read_bars(BARS_TABLE, start=start, end=end, symbols=symbols, as_of=as_of)
            assert bits(got) == bits(wanted)
            stored = lake.scan(BARS_TABLE).select(BAR_SCHEMA.names()).collect()
            assert bits(plain(stored, start, end, symbols, as_of)) == bits(wanted)
            scan = lake.scan_bars(BARS_TABLE, start=start, end=end, symbols=symbols)
            promised.append((scan, plain(pl.concat(told.values()), start, end, symbols, None)))
        # A scan is of the moment at which it was made, whatever was written since.
        for scan, wanted in promised:
            assert bits(scan.collect().sort(Bar.SYMBOL, Bar.BAR_START)) == bits(wanted)


def test_some_symbols_are_read_from_the_copy_and_a_session_is_not(lake: Lake) -> None:
    assert compact(lake, DAYS, LATER) == Compaction(written=("2024-05", "2024-06"))
    assert BY_SYMBOL_TABLE in opened_by(lake, symbols=["B"])
    assert "session=" not in opened_by(lake, symbols=["B"])
    assert BY_SYMBOL_TABLE not in opened_by(lake)
    assert BY_SYMBOL_TABLE not in opened_by(lake, start=MAY[0], end=MAY[0])
    # A little of a month is cheaper by session than the whole of it by symbol.
    assert BY_SYMBOL_TABLE not in opened_by(lake, symbols=["B"], start=MAY[1], end=MAY[1])


def test_a_revised_session_is_seen_at_once_and_the_other_months_stay_fast(lake: Lake) -> None:
    compact(lake, DAYS, LATER)
    lake.replace(BARS_TABLE, session_of(MAY[1], 20.0), [MAY[1]])
    plan = opened_by(lake, symbols=["A"])
    assert plan.count("built_from=2024-05") == 0
    assert plan.count("built_from=2024-06") > 0
    assert prices(lake.read_bars(BARS_TABLE, symbols=["A"]), MAY[1]) == {20.0, 20.125, 20.25}
    done = compact(lake, DAYS, LATER)
    assert done == Compaction(written=("2024-05",), current=("2024-06",))
    assert "session=" not in opened_by(lake, symbols=["A"])
    assert prices(lake.read_bars(BARS_TABLE, symbols=["A"]), MAY[1]) == {20.0, 20.125, 20.25}


def test_a_revision_taken_back_finds_no_old_copy(lake: Lake) -> None:
    """The same content again, but in other files: only files are trusted."""
    compact(lake, DAYS, LATER)
    lake.replace(BARS_TABLE, session_of(MAY[1], 20.0), [MAY[1]])
    lake.replace(BARS_TABLE, session_of(MAY[1]), [MAY[1]])
    assert "built_from=2024-05" not in opened_by(lake, symbols=["A"])
    assert prices(lake.read_bars(BARS_TABLE, symbols=["A"]), MAY[1]) == {10.0, 10.125, 10.25}


def test_a_session_written_while_its_month_is_compacted_is_not_hidden(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on ``s3://``, where no lock keeps an ingest from writing in between."""
    write = lake.replace_streamed

    def write_late(*given_values: object) -> None:
        lake.replace(BARS_TABLE, session_of(MAY[0], 20.0), [MAY[0]])
        write(*given_values)

    monkeypatch.setattr(lake, "replace_streamed", write_late)
    assert compact(lake, DAYS, LATER).written == ("2024-05", "2024-06")
    held = lake.scan(BY_SYMBOL_TABLE).filter(pl.col(Bar.SESSION) == MAY[0]).collect()
    assert set(held[Bar.CLOSE]) == set(session_of(MAY[0])[Bar.CLOSE])
    assert prices(lake.read_bars(BARS_TABLE, symbols=["A"]), MAY[0]) == {20.0, 20.125, 20.25}


def test_what_is_settled_is_written_once_and_what_is_not_is_left(lake: Lake) -> None:
    provisional = set(DAYS) - {JUNE[-1]}
    first = compact(lake, provisional, LATER)
    assert first == Compaction(written=("2024-05",), unsettled=("2024-06",))
    version = lake.version(BY_SYMBOL_TABLE)
    again = compact(lake, provisional, LATER)
    assert again == Compaction(current=("2024-05",), unsettled=("2024-06",))
    assert lake.version(BY_SYMBOL_TABLE) == version
    within = compact(lake, DAYS, dt.date(2024, 6, 28))
    assert within.unsettled == ("2024-06",)
    assert compact(lake, DAYS, dt.date(2024, 7, 1)).written == ("2024-06",)


def test_a_lake_without_minutes_has_nothing_to_compact(tmp_path: Path) -> None:
    assert compact(Lake(tmp_path), DAYS, LATER) == Compaction()


def test_a_month_of_many_blocks_is_whole_and_each_block_sorted(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_BLOCK_ROWS", 5)
    compact(lake, DAYS, LATER)
    files = list(Path(lake.uri(BY_SYMBOL_TABLE)).glob("*/*.parquet"))
    assert len(files) == 2 * len(SYMBOLS)
    for file in files:
        rows = pl.read_parquet(file, hive_partitioning=False)
        assert rows.equals(rows.sort(Bar.SYMBOL, Bar.BAR_START))
    stored = lake.scan(BARS_TABLE).collect()
    for symbols in (["A"], ["BRK.B", "C"], SYMBOLS):
        got = lake.read_bars(BARS_TABLE, symbols=symbols)
        assert bits(got) == bits(plain(stored, None, None, symbols, None))


def test_a_compaction_that_breaks_off_leaves_the_copy_as_it_was(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_BLOCK_ROWS", 5)
    compact(lake, DAYS, LATER)
    version, digest = lake.version(BY_SYMBOL_TABLE), lake.content_hash(BY_SYMBOL_TABLE)
    lake.replace(BARS_TABLE, session_of(MAY[1], 20.0), [MAY[1]])
    whole = compaction._sorted

    def broken(rows, blocks):
        for k, part in enumerate(whole(rows, blocks)):
            if k == 2:
                raise OSError(28, "No space left on device")
            yield part

    monkeypatch.setattr(compaction, "_sorted", broken)
    with pytest.raises(LakeError, match="as it was before"):
        compact(lake, DAYS, LATER)
    assert lake.version(BY_SYMBOL_TABLE) == version
    assert lake.content_hash(BY_SYMBOL_TABLE) == digest
    assert prices(lake.read_bars(BARS_TABLE, symbols=["A"]), MAY[1]) == {20.0, 20.125, 20.25}


def test_only_a_copy_may_lose_its_replaced_files(lake: Lake) -> None:
    with pytest.raises(LakeError, match=f"no copy.*allowed: {BY_SYMBOL_TABLE}"):
        lake.discard_replaced(BARS_TABLE)


def test_a_month_is_named_after_all_its_files_and_no_others() -> None:
    files = [f"l/session={d}/{k}.parquet" for k, d in enumerate(DAYS)]

    def name(given: Iterable[str]) -> dict[str, list[dt.date]]:
        return name_months(files_by_session(given))

    named = name(reversed(files))
    assert list(named.values()) == [MAY, JUNE]
    assert name(files) == named
    may, june = named
    assert may not in name(files[1:])
    more = name([*files, f"l/session={MAY[0]}/more.parquet"])
    assert may not in more
    assert june in more


def test_a_month_is_read_by_symbol_from_half_of_it_on() -> None:
    months = {"2024-05.x": MAY, "2024-06.y": JUNE}
    copies = ["2024-06.y.0001", "2024-06.y.0000", "2024-05.old.0000"]
    both = ["2024-06.y.0000", "2024-06.y.0001"]
    assert choose_layout(months, copies, DAYS) == (both, MAY)
    assert choose_layout(months, copies, JUNE[:2]) == (both, [])
    assert choose_layout(months, copies, JUNE[:1]) == ([], JUNE[:1])
    assert choose_layout(months, copies, []) == ([], [])
