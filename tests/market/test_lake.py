"""The lake: whole partitions, atomic, idempotent, and nothing known too late."""

from __future__ import annotations

import datetime as dt
import itertools
import os
from pathlib import Path

import polars as pl
import pytest
from deltalake import TableFeatures
from deltalake.exceptions import DeltaError
from hypothesis import given
from hypothesis import strategies as st

import market.lake
from market.errors import LakeError
from market.lake import SCHEMA_VERSION, Lake, _ascends
from market.lake_tables import spec_of
from market.schema import BAR_SCHEMA, SPLIT_SCHEMA, Bar, empty
from tests.markets import bits, daily_bars
from tests.s3_server import S3Server

START = dt.date(2024, 7, 1)
DAYS = [dt.date(2024, 7, 1), dt.date(2024, 7, 2), dt.date(2024, 7, 3)]
BARS = daily_bars({"A": [1.0, 2.0, 3.0], "B": [4.0, 5.0, 6.0]}, START)


@pytest.fixture
def folder(tmp_path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture(params=["folder", "s3"])
def lake(request: pytest.FixtureRequest) -> Lake:
    """A lake in a folder, and one in a bucket: they are told apart by nothing."""
    if request.param == "folder":
        return request.getfixturevalue("folder")
    server: S3Server = request.getfixturevalue("s3")
    return Lake(f"s3://{server.bucket()}/some/lake", options=server.settings().options)


def of_day(day: dt.date) -> pl.DataFrame:
    return BARS.filter(pl.col(Bar.SESSION) == day)


def test_what_was_written_is_read_back_to_the_bit(lake: Lake) -> None:
    assert lake.replace("bars_1d", BARS.sample(fraction=1.0, shuffle=True, seed=1), DAYS)
    assert bits(lake.read_bars("bars_1d")) == bits(BARS)
    assert lake.read_bars("bars_1d").schema == BAR_SCHEMA
    assert lake.sessions("bars_1d") == set(DAYS)
    assert lake.version("bars_1d") == 0


def test_writing_the_same_again_commits_nothing(lake: Lake) -> None:
    lake.replace("bars_1d", BARS, DAYS)
    digest = lake.content_hash("bars_1d")
    again = BARS.sample(fraction=1.0, shuffle=True, seed=1)
    assert not lake.replace("bars_1d", again, DAYS)
    assert not lake.replace("bars_1d", of_day(DAYS[1]), [DAYS[1]])
    assert lake.version("bars_1d") == 0
    assert lake.content_hash("bars_1d") == digest


def test_a_partition_is_replaced_and_the_others_stay(lake: Lake) -> None:
    lake.replace("bars_1d", BARS, DAYS)
    digest = lake.content_hash("bars_1d")
    revised = of_day(DAYS[1]).with_columns(pl.col(Bar.CLOSE) + 1.0)
    assert lake.replace("bars_1d", revised, [DAYS[1]])
    read = lake.read_bars("bars_1d")
    assert read["close"].to_list() == [1.0, 3.0, 3.0, 4.0, 6.0, 6.0]
    assert lake.version("bars_1d") == 1
    assert lake.content_hash("bars_1d") != digest
    old = lake.scan("bars_1d", version=0).sort(Bar.SYMBOL, Bar.BAR_START).collect()
    assert old["close"].to_list() == BARS["close"].to_list()


def test_a_partition_that_became_empty_is_emptied(lake: Lake) -> None:
    lake.replace("bars_1d", BARS, DAYS)
    assert lake.replace("bars_1d", empty(BAR_SCHEMA), [DAYS[0]])
    assert lake.read_bars("bars_1d")[Bar.SESSION].unique().sort().to_list() == DAYS[1:]
    assert not lake.replace("bars_1d", empty(BAR_SCHEMA), [DAYS[0]])


def test_nothing_for_a_table_that_is_not_there_makes_no_table(lake: Lake) -> None:
    assert not lake.replace("bars_1d", empty(BAR_SCHEMA), [DAYS[0]])
    assert not lake.exists("bars_1d")
    assert lake.version("bars_1d") is None
    assert lake.sessions("bars_1d") == set()
    assert lake.content_hash("bars_1d") == "empty"


def test_keys_tell_the_rows_of_all_partitions_apart(tmp_path: Path) -> None:
    """Else a content hash would depend on the order of the files."""
    name = "feature_states_1d"
    rows = pl.DataFrame({"session": DAYS, "symbol": "A", "recursion": "ema", "state": [1.0, 2, 3]})
    hashes: set[str] = set()
    for k, order in enumerate(itertools.permutations(range(3))):
        lake = Lake(tmp_path / f"lake-{k}")
        for day in order:
            lake.replace(name, rows[[day]], [DAYS[day]])
        hashes.add(lake.content_hash(name))
    assert len(hashes) == 1


def test_the_content_hash_is_that_of_the_rows_not_of_the_files(lake: Lake, tmp_path) -> None:
    lake.replace("bars_1d", BARS, DAYS)
    other = Lake(tmp_path / "other")
    for day in reversed(DAYS):
        other.replace("bars_1d", of_day(day), [day])
    assert other.content_hash("bars_1d") == lake.content_hash("bars_1d")


@pytest.mark.parametrize(
    ("rows", "partitions", "message"),
    [
        (pl.concat([BARS, BARS.head(1)]), DAYS, "not unique"),
        (BARS, DAYS[:2], "outside the partitions"),
        (BARS, None, "partitioned by session"),
        (BARS.drop(Bar.VWAP), DAYS, "wrong columns or types"),
        (BARS.with_columns(pl.col(Bar.CLOSE).cast(pl.Float32)), DAYS, "wrong columns or types"),
    ],
    ids=["duplicates", "foreign", "unnamed", "missing", "type"],
)
def test_bad_rows_are_refused_and_nothing_is_written(
    lake: Lake, rows: pl.DataFrame, partitions, message: str
) -> None:
    with pytest.raises(LakeError, match=message):
        lake.replace("bars_1d", rows, partitions)
    assert not lake.exists("bars_1d")


def test_partitions_of_an_unpartitioned_table_are_refused(lake: Lake) -> None:
    with pytest.raises(LakeError, match="partitioned by None"):
        lake.replace("splits", empty(SPLIT_SCHEMA), DAYS)
    assert lake.replace("splits", empty(SPLIT_SCHEMA), None)
    assert lake.scan("splits").collect().schema == SPLIT_SCHEMA


def test_only_what_was_known_is_read(lake: Lake) -> None:
    delay = dt.timedelta(minutes=15)
    lake.replace("bars_1d", BARS.with_columns(pl.col(Bar.KNOWN_AT) + delay), DAYS)
    close = BARS.filter(pl.col(Bar.SESSION) == DAYS[1])[Bar.BAR_END][0]
    assert lake.read_bars("bars_1d", as_of=close)[Bar.SESSION].max() == DAYS[0]
    assert lake.read_bars("bars_1d", as_of=close + delay)[Bar.SESSION].max() == DAYS[1]


def test_reads_are_narrowed_by_dates_and_symbols(lake: Lake) -> None:
    lake.replace("bars_1d", BARS, DAYS)
    got = lake.read_bars("bars_1d", start=DAYS[1], end=DAYS[1], symbols=["B"])
    assert got["close"].to_list() == [5.0]
    assert lake.read_bars("bars_1d", symbols=[]).is_empty()


def test_a_frozen_lake_stays_as_it_was(lake: Lake) -> None:
    lake.replace("bars_1d", BARS, DAYS)
    frozen = lake.freeze()
    digest = frozen.content_hash("bars_1d")
    revised = of_day(DAYS[1]).with_columns(pl.col(Bar.CLOSE) + 1)
    assert lake.replace("bars_1d", revised, [DAYS[1]])
    lake.replace("splits", empty(SPLIT_SCHEMA), None)
    assert frozen.content_hash("bars_1d") == digest != lake.content_hash("bars_1d")
    assert frozen.read_bars("bars_1d").equals(BARS.sort(Bar.SYMBOL, Bar.BAR_START))
    assert not frozen.exists("splits")
    # What it read can be written down, and read again from that.
    assert lake.at(frozen.versions or {}).content_hash("bars_1d") == digest
    with pytest.raises(LakeError, match="unknown lake table"):
        frozen.exists("bars_2d")


def test_a_frozen_lake_is_not_written(lake: Lake) -> None:
    lake.replace("bars_1d", BARS, DAYS)
    with pytest.raises(LakeError, match="'bars_1d' is frozen"):
        lake.freeze().replace("bars_1d", empty(BAR_SCHEMA), [DAYS[0]])
    assert lake.version("bars_1d") == 0


def test_unknown_tables_are_named(lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"unknown lake table.*bars_2d.*bars_1d"):
        lake.exists("bars_2d")
    with pytest.raises(LakeError, match="has no table 'bars_1m' yet"):
        lake.scan("bars_1m")
    assert spec_of("splits").partition_by is None


def test_a_version_that_is_not_there(lake: Lake) -> None:
    lake.replace("bars_1d", BARS, DAYS)
    with pytest.raises(LakeError, match="cannot be opened"):
        lake.scan("bars_1d", version=9)


@pytest.mark.parametrize(
    "fault", [OSError(28, "No space left on device"), DeltaError("no")], ids=["disk", "delta"]
)
def test_a_full_disk_leaves_the_table_as_it_was(lake: Lake, monkeypatch, fault) -> None:
    lake.replace("bars_1d", BARS, DAYS)

    def refuse(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(market.lake, "write_deltalake", refuse)
    with pytest.raises(LakeError, match="as it was before"):
        lake.replace("bars_1d", of_day(DAYS[0]).with_columns(pl.col("close") + 9), [DAYS[0]])
    assert lake.version("bars_1d") == 0
    assert bits(lake.read_bars("bars_1d")) == bits(BARS)


def test_a_root_that_is_a_file_is_one_clear_error(tmp_path) -> None:
    (tmp_path / "lake").write_text("in the way")
    with pytest.raises(LakeError, match="could not be written"):
        Lake(tmp_path / "lake").replace("bars_1d", BARS, DAYS)
    assert (tmp_path / "lake").read_text() == "in the way"


def test_a_damaged_log_is_one_clear_error(folder: Lake) -> None:
    folder.replace("splits", empty(SPLIT_SCHEMA), None)
    (log,) = Path(folder.uri("splits"), "_delta_log").glob("*.json")
    log.write_text("not json")
    with pytest.raises(LakeError, match="cannot be opened"):
        folder.scan("splits")


def test_a_table_of_another_version_is_refused(lake: Lake, monkeypatch) -> None:
    monkeypatch.setattr(market.lake, "SCHEMA_VERSION", "0")
    lake.replace("bars_1d", BARS, DAYS)
    monkeypatch.setattr(market.lake, "SCHEMA_VERSION", SCHEMA_VERSION)
    for use in (
        lambda: lake.read_bars("bars_1d"),
        lambda: lake.replace("bars_1d", BARS, DAYS),
        lambda: lake.sessions("bars_1d"),
    ):
        with pytest.raises(LakeError, match="another version of Isobar"):
            use()


def test_a_new_column_reaches_the_table(lake: Lake) -> None:
    """Features grow: rows written before read as null until they are computed anew."""
    keys = BARS.select("symbol", "session", "bar_end")
    lake.replace("features_1d", keys.with_columns(a=pl.lit(1.0)), DAYS)
    newer = keys.with_columns(a=pl.lit(2.0), b=pl.lit(3.0)).filter(pl.col("session") == DAYS[2])
    assert lake.replace("features_1d", newer, [DAYS[2]])
    got = lake.scan("features_1d").sort("symbol", "session").collect()
    assert got["a"].to_list() == [1.0, 1.0, 2.0] * 2
    assert got["b"].to_list() == [None, None, 3.0] * 2


def test_old_versions_stay_readable_when_their_log_is_old(folder: Lake) -> None:
    """By default Delta drops the log of versions older than thirty days at a checkpoint."""
    long_ago = (dt.datetime.now(dt.UTC) - dt.timedelta(days=90)).timestamp()
    for n in range(25):
        folder.replace("bars_1d", BARS.with_columns(pl.col(Bar.CLOSE) + n), DAYS)
        for file in Path(folder.uri("bars_1d"), "_delta_log").iterdir():
            os.utime(file, (long_ago, long_ago))
    assert folder.version("bars_1d") == 24
    assert list(Path(folder.uri("bars_1d"), "_delta_log").glob("*.checkpoint.parquet"))
    for n in (0, 7, 13, 24):
        then = folder.scan("bars_1d", version=n).filter(pl.col(Bar.SYMBOL) == "A").collect()
        assert sorted(then[Bar.CLOSE]) == [1.0 + n, 2.0 + n, 3.0 + n]


def test_a_table_without_statistics_of_a_column_is_filtered_by_it(lake: Lake) -> None:
    lake.replace("bars_1d", BARS, DAYS)
    found = lake.scan("bars_1d").filter(pl.col(Bar.CLOSE) >= 5.0).collect()
    assert sorted(found[Bar.CLOSE]) == [5.0, 6.0]


def test_an_open_table_stays_the_version_it_was(lake: Lake) -> None:
    lake.replace("bars_1d", BARS, DAYS)
    scan = lake.scan_bars("bars_1d")
    lake.replace("bars_1d", of_day(DAYS[0]).with_columns(pl.col(Bar.CLOSE) + 9.0), [DAYS[0]])
    assert bits(scan.sort(Bar.SYMBOL, Bar.BAR_START).collect()) == bits(BARS)


def test_a_table_of_before_the_properties_gets_them_at_its_next_write(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(market.lake, "table_properties", lambda *_: {})
        lake.replace("bars_1d", BARS, DAYS)
    assert lake.open("bars_1d").metadata().configuration == {}
    lake.replace("bars_1d", BARS.with_columns(pl.col(Bar.CLOSE) + 1.0), DAYS)
    wanted = {"delta.enableExpiredLogCleanup": "false"}
    assert wanted.items() <= lake.open("bars_1d").metadata().configuration.items()
    version = lake.version("bars_1d")
    assert version is not None
    lake.replace("bars_1d", BARS, DAYS)
    assert lake.version("bars_1d") == version + 1
    lake.replace("splits", empty(SPLIT_SCHEMA), None)
    split = pl.DataFrame(
        [("A", DAYS[0], dt.datetime(2024, 7, 1, tzinfo=dt.UTC), 2.0)], SPLIT_SCHEMA, orient="row"
    )
    lake.replace("splits", split, None)
    assert wanted.items() <= lake.open("splits").metadata().configuration.items()
    assert lake.version("splits") == 1


@given(
    st.lists(st.tuples(st.sampled_from(["A", "B", None]), st.integers(0, 2)), max_size=5),
    st.booleans(),
)
def test_rows_ascend_when_each_comes_after_the_one_before(rows: list, in_order: bool) -> None:
    if in_order:
        rows = sorted({r for r in rows if r[0] is not None})
    frame = pl.DataFrame(rows, {"symbol": pl.String, "at": pl.Int64}, orient="row")
    # Nothing comes after a null: with one, rows count as unsorted, and are sorted.
    whole = all(r[0] is not None for r in rows) or len(rows) < 2
    expected = all(a < b for a, b in itertools.pairwise(rows)) if whole else None
    found = _ascends(frame)
    if expected is not None:
        assert found == expected
    elif len({r[0] for r in rows}) > 1:
        assert not found


def test_rows_that_another_engine_may_have_deleted_are_left_to_the_delta_reader(lake: Lake) -> None:
    lake.replace("bars_1d", BARS, DAYS)
    lake.open("bars_1d").alter.add_feature(
        TableFeatures.DeletionVectors, allow_protocol_versions_increase=True
    )
    assert "deletionVectors" in (lake.open("bars_1d").protocol().reader_features or [])
    assert "session=" not in lake.scan_bars("bars_1d").explain(optimized=False)
    assert bits(lake.read_bars("bars_1d")) == bits(BARS)
    some = lake.read_bars("bars_1d", start=DAYS[1], symbols=["B"])
    assert some[Bar.CLOSE].to_list() == [5.0, 6.0]


@pytest.mark.parametrize("name", ["a b", "ü", "x=1", "50%20"])
def test_a_folder_that_readers_cannot_follow_is_refused(tmp_path, name: str) -> None:
    with pytest.raises(LakeError, match="readers cannot follow"):
        Lake(tmp_path / name)
