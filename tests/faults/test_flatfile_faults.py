"""Flat files that are cut short, absent or refused: the lake is the true one or the old one."""

from __future__ import annotations

import datetime as dt
import gzip
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market import calendar
from market.errors import SourceError
from market.ingest import ingest
from market.ingest_log import LOG_TABLE
from market.lake import Lake
from market.quarantine import quarantine_table, read_held
from market.schema import Bar
from market.source import EVERY
from market.timeframes import Timeframe
from tests.flat_server import FlatServer, day_csv, flat_server
from tests.markets import minute_bars

M1 = Timeframe.M1
DAYS = calendar.sessions_between(dt.date(2024, 7, 1), dt.date(2024, 7, 3))
NOW = dt.datetime(2024, 7, 8, 12, tzinfo=dt.UTC)
TABLES = ("bars_1m", quarantine_table(M1), LOG_TABLE)


def bars_of(day: dt.date) -> pl.DataFrame:
    starts = [calendar.session_open(day) + dt.timedelta(minutes=k) for k in range(30)]
    return pl.concat(
        minute_bars(s, starts, [10.0 * n + k / 8 for k in range(30)], day)
        for n, s in enumerate(("AAA", "BBB"), 1)
    ).with_columns(pl.lit(None, pl.Float64).alias(Bar.VWAP))


def file_of(day: dt.date) -> bytes:
    return gzip.compress(day_csv(bars_of(day), M1))


@pytest.fixture(scope="module")
def server() -> Iterator[FlatServer]:
    with flat_server() as server:
        yield server


def fetch(server: FlatServer, lake: Lake, days: list[dt.date], **options: object) -> None:
    ingest(lake, server.source(**options), M1, days, [EVERY], now=NOW)


def content(lake: Lake) -> list[str]:
    return [lake.content_hash(table) for table in TABLES]


@pytest.fixture
def lake(server: FlatServer, tmp_path: Path) -> Lake:
    """Return a lake that holds the first session; the files of all are on the server."""
    for day in DAYS:
        server.put(M1, day, file_of(day))
    lake = Lake(tmp_path)
    fetch(server, lake, DAYS[:1])
    return lake


def test_a_sound_file_is_a_whole_session(server: FlatServer, lake: Lake) -> None:
    fetch(server, lake, DAYS)
    expected = pl.concat(bars_of(d) for d in DAYS).sort(Bar.SYMBOL, Bar.BAR_START)
    assert lake.read_bars("bars_1m").equals(expected)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(share=st.floats(0, 0.999))
def test_a_gzip_cut_short_changes_nothing(server: FlatServer, lake: Lake, share: float) -> None:
    """The sessions before it are there, whole; it and those after it are not."""
    body = file_of(DAYS[2])
    fetch(server, lake, DAYS[:2])
    server.put(M1, DAYS[2], body[: int(share * len(body))])
    before = content(lake)
    with pytest.raises(SourceError, match="Remedy:"):
        fetch(server, lake, DAYS)
    assert content(lake) == before


def test_a_file_that_is_absent_changes_nothing(server: FlatServer, lake: Lake) -> None:
    fetch(server, lake, DAYS)
    before = content(lake)
    with pytest.raises(SourceError, match="no such flat file"):
        fetch(server, lake, [*DAYS, dt.date(2024, 7, 5)])
    assert content(lake) == before


def test_refused_keys_change_nothing_and_are_not_told(server: FlatServer, lake: Lake) -> None:
    before, secret = content(lake), "no-such-secret-0123456789"
    with server.checking_keys(), pytest.raises(SourceError) as caught:
        fetch(server, lake, DAYS, access="AKIANOSUCHKEY0000000", secret=secret)
    assert secret not in str(caught.value)
    assert content(lake) == before


def test_an_impossible_row_is_held_and_the_rest_is_served(server: FlatServer, lake: Lake) -> None:
    lines = day_csv(bars_of(DAYS[1]), M1).decode().splitlines()
    header = lines[0].split(",")
    row = dict(zip(header, lines[5].split(","), strict=True)) | {"high": "0.5", "low": "9999"}
    lines[5] = ",".join(row[name] for name in header)
    server.put(M1, DAYS[1], gzip.compress("\n".join(lines).encode() + b"\n"))
    fetch(server, lake, DAYS)
    held = read_held(lake, M1, DAYS)
    assert held["reason"].to_list() == ["ohlc_order"]
    assert lake.read_bars("bars_1m").height == sum(bars_of(d).height for d in DAYS) - 1
