"""A lake in a bucket, by setting alone: several writers, and one that dies half way."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from market.errors import LakeError, SettingsError
from market.lake import Lake
from pipelines.lake_store import open_lake
from pipelines.settings import Settings, load_settings
from tests.pipelines.installation import clean_environment, environment_of
from tests.postgres import PostgresServer
from tests.s3_server import SECRET_KEY, S3Server, between

ROOT = Path(__file__).parents[2]
WRITERS, TURNS = 3, 4
# Reads a table, changes it and writes it, as the log of ingestion and the champions are written.
WRITE = f"""
import sys, datetime as dt, polars as pl
from market.schema import SPLIT_SCHEMA
from pipelines.lake_store import open_lake
from pipelines.settings import load_settings
lake = open_lake(load_settings())
for n in range({TURNS}):
    with lake.locked():
        old = [lake.scan("splits").collect()] if lake.exists("splits") else []
        row = (sys.argv[1], dt.date(2024, 7, n + 1), dt.datetime(2024, 7, 1, tzinfo=dt.UTC), 2.0)
        new = pl.DataFrame([row], SPLIT_SCHEMA, orient="row")
        lake.replace("splits", pl.concat([*old, new]), None)
"""


def environment(
    s3: S3Server, home: Path, ledger_url: str, bucket: str, endpoint: str = ""
) -> dict[str, str]:
    reached = s3.settings(endpoint)
    return {
        "ISOBAR_HOME": str(home),
        "ISOBAR_LAKE_URL": f"s3://{bucket}/isobar",
        "ISOBAR_LEDGER_URL": ledger_url,
        "ISOBAR_S3__ENDPOINT": reached.endpoint,
        "ISOBAR_S3__ACCESS_KEY": reached.access_key.get_secret_value(),
        "ISOBAR_S3__SECRET_KEY": reached.secret_key.get_secret_value(),
    }


def writer(name: str, given: Mapping[str, str], home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, name],
        env=clean_environment() | given | {"PYTHONPATH": str(ROOT)},
        cwd=home,
        stderr=subprocess.PIPE,
    )


def test_writers_that_change_what_they_read_lose_nothing(
    s3: S3Server, postgres: PostgresServer, tmp_path: Path
) -> None:
    given = environment(s3, tmp_path, postgres.database(), s3.bucket())
    started = [writer(f"W{n}", given, tmp_path) for n in range(WRITERS)]
    ended = [(p.communicate()[1].decode(), p.returncode) for p in started]
    assert [code for _, code in ended] == [0] * WRITERS, ended
    with environment_of(given, tmp_path):
        lake = open_lake(load_settings())
    assert lake.version("splits") == WRITERS * TURNS - 1
    held = lake.scan("splits").collect()
    assert held.height == WRITERS * TURNS
    alone = Lake(tmp_path / "alone")
    alone.replace("splits", held, None)
    assert alone.content_hash("splits") == lake.content_hash("splits")


def test_a_writer_that_dies_before_its_commit_leaves_the_table_as_it_was(
    s3: S3Server, postgres: PostgresServer, tmp_path: Path
) -> None:
    bucket, ledger_url = s3.bucket(), postgres.database()
    given = environment(s3, tmp_path, ledger_url, bucket)
    first = writer("A", given, tmp_path)
    assert (first.communicate()[1], first.returncode) == (b"", 0)
    with environment_of(given, tmp_path):
        lake = open_lake(load_settings())
    digest, files = lake.content_hash("splits"), s3.keys(bucket)
    running: list[subprocess.Popen[bytes]] = []

    def is_no_commit(method: str, path: str) -> bool:
        commits = method == "PUT" and "/_delta_log/" in path
        if commits:
            running[0].kill()
        return not commits

    with between(s3, is_no_commit) as endpoint:
        through = environment(s3, tmp_path, ledger_url, bucket, endpoint)
        running.append(writer("B", through, tmp_path))
        running[0].communicate()
    assert running[0].returncode == -signal.SIGKILL
    left = set(s3.keys(bucket)) - set(files)
    # Its rows are there, and no commit that names them.
    assert left
    assert all(k.endswith(".parquet") for k in left)
    assert lake.content_hash("splits") == digest
    # The server of the ledger let go of the lock: the next writer does not wait for the dead one.
    again = writer("B", given, tmp_path)
    assert (again.communicate()[1], again.returncode) == (b"", 0)
    assert lake.scan("splits").collect().height == 2 * TURNS


def test_without_a_lock_a_bucket_is_not_changed(s3: S3Server) -> None:
    lake = Lake(f"s3://{s3.bucket()}/lake", options=s3.settings().options)
    with pytest.raises(LakeError, match="opened without a lock"), lake.locked():
        pytest.fail("was let in")


def test_a_lake_by_url_is_refused_where_its_writers_could_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    given = {"ISOBAR_LAKE_URL": "s3://bucket/isobar"}
    with environment_of(given, tmp_path), pytest.raises(SettingsError, match="on PostgreSQL"):
        load_settings()


def test_the_url_moves_the_lake_and_no_number_and_shows_no_key(
    tmp_path: Path, s3: S3Server
) -> None:
    plain = Settings(home=tmp_path)
    moved = Settings(
        home=tmp_path,
        lake_url="s3://bucket/isobar/",
        ledger_url="postgresql+psycopg://127.0.0.1/ledger",
        s3=s3.settings(),
    )
    assert moved.lake_root == "s3://bucket/isobar/lake"
    assert moved.config_hash == plain.config_hash
    assert SECRET_KEY not in repr(moved) + repr(open_lake(moved)) + moved.model_dump_json()
