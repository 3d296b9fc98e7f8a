"""Bad input through the command line: one clear message, no traceback, nothing half-written."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from deltalake import write_deltalake
from fastapi import FastAPI, Response

from market import lake as lake_module
from market.lake import Lake
from market.lake_tables import TABLES
from market.ledger import open_ledger
from market.ledger_tables import VERSION_TABLE
from market.polygon_wire import Wire
from market.replay import create_app
from market.replay_data import ServedMarket
from market.request_limiter import RequestLimiter
from market.serving import BackgroundServer
from market.synthetic import SyntheticSpec, generate
from tests.commands import Outcome, isobar
from tests.pipelines.installation import KEYS, POLYGON_KEY, environment

START, END = "2025-06-24", "2025-06-27"
INGEST = f"ingest --start {START} --end {END} --timeframe 1d"
_TOML = """\
symbols = ["ZZAA", "ZZAB"]
[history]
start = 2025-06-23
end = 2025-06-30
minute_sessions = 2
[models]
horizons = ["1d"]
"""


@pytest.fixture(scope="module")
def vendor_url() -> Iterator[str]:
    made = generate(SyntheticSpec(symbols=3, sessions=6, minute_sessions=0, alpha={}))
    market = ServedMarket(made.daily, None, made.splits, made.dividends, made.tickers)
    with BackgroundServer(create_app(market, api_key=POLYGON_KEY)) as server:
        yield server.url


@dataclass(frozen=True)
class Place:
    """A small data root and the vendor it asks."""

    home: Path
    vendor_url: str

    def run(self, command: str, **more: str) -> Outcome:
        return isobar(
            *command.split(), environment={**environment(self.home, self.vendor_url), **more}
        )

    def contents(self) -> dict[str, str]:
        lake = Lake(self.home / "lake")
        return {t: lake.content_hash(t) for t in TABLES if lake.exists(t)}


@pytest.fixture
def place(tmp_path: Path, vendor_url: str) -> Place:
    home = tmp_path / "home"
    home.mkdir()
    (home / "isobar.toml").write_text(_TOML)
    return Place(home, vendor_url)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, vendor_url: str) -> Path:
    home = tmp_path_factory.mktemp("filled") / "home"
    home.mkdir()
    (home / "isobar.toml").write_text(_TOML)
    done = Place(home, vendor_url).run("ingest --start 2025-06-24 --end 2025-06-25 --timeframe 1d")
    assert done.status == 0, done.err
    return home


@pytest.fixture
def stocked(filled: Path, place: Place) -> Place:
    """A place with two sessions of bars in its lake."""
    shutil.copytree(filled, place.home, dirs_exist_ok=True)
    return place


def assert_refused(done: Outcome, *words: str, status: int = 1) -> None:
    """One clear message, on stderr only."""
    assert done.status == status, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert [w for w in words if w not in done.message] == []
    assert not [k for k in KEYS if k in done.err]


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request and every retry is sent, at once: how long they wait is tested elsewhere.

    Of a vendor that answers nonsense the plan is unknown, and the slowest one waits minutes.
    """
    monkeypatch.setattr(RequestLimiter, "acquire", lambda limiter: 0.0)
    monkeypatch.setattr(Wire, "_pause", lambda wire, seconds: None)


@pytest.mark.usefixtures("no_waiting")
class TestVendor:
    def test_a_wrong_key(self, stocked: Place):
        before = stocked.contents()
        done = stocked.run(INGEST, POLYGON_API_KEY="wrong-key-31415")
        assert_refused(done, "key", "Remedy", "POLYGON_API_KEY")
        assert "wrong-key-31415" not in done.err
        assert stocked.contents() == before

    def test_no_key(self, stocked: Place):
        done = stocked.run(INGEST, POLYGON_API_KEY="")
        assert_refused(done, "no key for market data", "allowed: POLYGON_API_KEY", "Remedy")

    def test_a_server_out_of_reach(self, stocked: Place):
        before = stocked.contents()
        with contextlib.closing(socket.socket()) as shut:
            shut.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{shut.getsockname()[1]}"
            done = stocked.run(INGEST, POLYGON_BASE_URL=url)
        assert_refused(done, "Remedy")
        assert stocked.contents() == before

    @pytest.mark.parametrize("symbols", ["NOPE", "ZZAA,NOPE"])
    def test_an_unknown_symbol(self, stocked: Place, symbols: str):
        before = stocked.contents()
        done = stocked.run(f"{INGEST} --symbols {symbols}")
        assert_refused(done, "NOPE", "Remedy")
        after = stocked.contents()
        assert (after["bars_1d"], after["ingest_log"]) == (before["bars_1d"], before["ingest_log"])

    @pytest.mark.parametrize(
        ("name", "answer"),
        [
            ("nothing", b""),
            ("no results", b'{"status":"OK","request_id":"1","results":[],"resultsCount":0}'),
            ("no JSON", b"<html><body>Bad gateway</body></html>"),
            ("cut off", b'{"status":"OK","results":[{"o":1.0,"h":'),
            ("a list", b"[1, 2, 3]"),
            ("results that are a word", b'{"status":"OK","results":"many"}'),
            ("rows without prices", b'{"status":"OK","results":[{"t":1750780800000}]}'),
            (
                "prices that are words",
                b'{"status":"OK","results":[{"t":1750780800000,"o":"x","h":"x","l":"x","c":"x",'
                b'"v":"x"}]}',
            ),
        ],
    )
    def test_an_unusable_answer(self, stocked: Place, name: str, answer: bytes):
        before = stocked.contents()
        with BackgroundServer(_always(answer)) as server:
            done = stocked.run(
                "ingest --start 2025-06-26 --end 2025-06-27 --timeframe 1d",
                POLYGON_BASE_URL=server.url,
            )
        assert_refused(done, "Remedy")
        after = stocked.contents()
        assert {t: after[t] for t in ("bars_1d", "ingest_log")} == {
            t: before[t] for t in ("bars_1d", "ingest_log")
        }


def _always(answer: bytes) -> FastAPI:
    app = FastAPI()

    @app.get("/{path:path}")
    def anything(path: str) -> Response:
        # Reference data is well-formed and empty, so that the answer under test is that for bars.
        if "reference" in path or "/splits" in path or "/dividends" in path:
            return Response(b'{"status":"OK","results":[]}', media_type="application/json")
        return Response(answer, media_type="application/json")

    return app


class TestBarsFile:
    GOOD = pl.DataFrame(
        {
            "symbol": ["A", "A"],
            "date": [dt.date(2025, 6, 26), dt.date(2025, 6, 27)],
            "open": [1.0, 1.0],
            "high": [1.1, 1.1],
            "low": [0.9, 0.9],
            "close": [1.0, 1.0],
            "volume": [10.0, 10.0],
        }
    )

    def serve(self, place: Place, frame: pl.DataFrame) -> Outcome:
        path = place.home.parent / "bars.parquet"
        frame.write_parquet(path)
        return place.run(f"serve polygon --port 1024 --bars {path}")

    @pytest.mark.parametrize("column", ["close", "date", "symbol"])
    def test_a_missing_column(self, place: Place, column: str):
        done = self.serve(place, self.GOOD.drop(column))
        assert_refused(done, "bars.parquet lacks columns", f"got ['{column}", "allowed", "Remedy")

    def test_a_row_from_the_future(self, place: Place):
        future = self.GOOD.with_columns(
            date=pl.Series([dt.date(2025, 6, 26), dt.date(2030, 6, 27)])
        )
        done = self.serve(place, future)
        assert_refused(done, "1 bars from the future", "got", "allowed", "Remedy")

    @pytest.mark.parametrize(
        ("column", "value"), [("close", -1.0), ("high", None), ("volume", float("nan"))]
    )
    def test_an_impossible_value(self, place: Place, column: str, value: float | None):
        frame = self.GOOD.with_columns(pl.Series(column, [1.0, value]))
        assert_refused(self.serve(place, frame), "usable price or volume", "got", "Remedy")

    def test_a_file_that_is_none(self, place: Place):
        done = place.run("serve polygon --port 1024 --bars nowhere.parquet")
        assert_refused(done, "cannot read the bars file", "nowhere.parquet", "Remedy")
        other = place.home / "isobar.toml"
        assert_refused(place.run(f"serve polygon --port 1024 --bars {other}"), "Parquet", "Remedy")

    def test_neither_or_both_sources(self, place: Place):
        assert_refused(place.run("serve polygon --port 1024"), "neither", "allowed", status=2)

    def test_a_port_in_use(self, stocked: Place):
        path = stocked.home.parent / "bars.parquet"
        self.GOOD.write_parquet(path)
        with contextlib.closing(socket.socket()) as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            for command in (f"polygon --bars {path}", "alpaca"):
                done = stocked.run(f"serve {command} --port {port}")
                assert done.status == 1
                assert "Traceback" not in done.err
                for word in ("already in use", f"got '127.0.0.1:{port}'", "Remedy"):
                    assert word in done.message

    def test_a_broker_without_prices(self, place: Place):
        done = place.run("serve alpaca --port 1024")
        assert_refused(done, "no prices", "allowed", "Remedy", status=2)


class TestArguments:
    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("ingest --start 2025-06-27 --end 2025-06-24", ("reversed dates", "allowed")),
            ("ingest --start June --end 2025-06-24", ("--start", "got 'June'", "YYYY-MM-DD")),
            ("train --start 2025-06-27 --end 2025-06-24", ("reversed dates",)),
            ("backtest --end 2025-13-01", ("--end", "2025-13-01")),
            ("train --horizon 9h", ("unknown horizon: got '9h'", "allowed: 1m, 5m")),
            ("train --horizon 1h", ("switched off", "allowed: 1d", "isobar.toml")),
            ("signals --horizon 9h", ("unknown horizon", "allowed")),
            (f"{INGEST[:-2]}7m", ("unknown timeframe: got '7m'", "allowed: 1m")),
            (f"{INGEST[:-2]}5m", ("not ingested: got '5m'", "allowed: 1m, 1d")),
            ("run noon", ("unknown run: got 'noon'", "allowed: premarket, midday, eod, close")),
            ("run eod --as-of noon", ("--as-of", "got 'noon'", "ISO 8601")),
            ("signals --since noon", ("--since", "got 'noon'")),
        ],
    )
    def test_a_wrong_argument_is_status_2(self, place: Place, command: str, words: tuple[str, ...]):
        assert_refused(place.run(command), *words, "Remedy", status=2)

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("ingest --start 2025-06-24 --end 2031-06-24", ("history", "allowed: 2025-06-23 to")),
            ("ingest --start 2020-06-24 --end 2025-06-24", ("history", "allowed: 2025-06-23 to")),
            ("ingest --start 2025-06-28 --end 2025-06-29", ("no trading session",)),
            ("run eod --as-of 2031-06-24", ("calendar", "got '2031-06-23'", "allowed")),
            ("run eod --as-of 2025-12-24", ("history", "allowed: 2025-06-23 to 2025-06-30")),
            ("run eod --as-of 2019-06-24", ("history", "allowed: 2025-06-23 to 2025-06-30")),
            ("run midday --as-of 2025-06-27T17:00:00", ("no champion", "isobar train")),
            ("train", ("isobar ingest",)),
            ("backtest", ("isobar",)),
        ],
    )
    def test_what_cannot_be_done_is_status_1(
        self, place: Place, command: str, words: tuple[str, ...]
    ):
        assert_refused(place.run(command), *words, "Remedy")
        assert place.contents().keys() <= {"splits", "dividends"}


class TestPlaces:
    def test_a_ledger_of_a_newer_version(self, place: Place):
        url = f"sqlite:///{place.home / 'ledger.db'}"
        open_ledger(url).close()
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text(f"update {VERSION_TABLE} set version_num = '9999'"))
        engine.dispose()
        before = (place.home / "ledger.db").read_bytes()
        for command in ("status", "signals", "halt", "resume --reason x"):
            assert_refused(place.run(command), "newer version", "got '9999'", "allowed", "Remedy")
        assert (place.home / "ledger.db").read_bytes() == before

    def test_a_ledger_that_is_none(self, place: Place):
        (place.home / "ledger.db").write_text("not a database " * 100)
        assert_refused(place.run("status"), "ledger", "Remedy")

    def test_a_lake_of_another_version(self, stocked: Place):
        frame = pl.read_delta(str(stocked.home / "lake/bars_1d"))
        shutil.rmtree(stocked.home / "lake/bars_1d")
        write_deltalake(
            str(stocked.home / "lake/bars_1d"),
            frame.to_arrow(),
            partition_by=["session"],
            description="isobar-schema-2",
        )
        for command in (INGEST, "status", "train"):
            done = stocked.run(command)
            assert_refused(done, "another version", "got '2'", "allowed: 1", "Remedy")
        assert pl.read_delta(str(stocked.home / "lake/bars_1d")).height == frame.height

    @pytest.mark.parametrize("command", ["status", INGEST, "signals", "halt", "train"])
    def test_a_home_that_cannot_be_written(self, place: Place, command: str):
        blocked = place.home / "isobar.toml" / "home"
        done = place.run(command, ISOBAR_HOME=str(blocked))
        assert done.status == 1
        assert "Traceback" not in done.err
        assert str(blocked.parent) in done.message

    def test_doctor_names_a_home_that_cannot_be_written(self, place: Place):
        blocked = place.home / "isobar.toml" / "home"
        done = place.run("doctor --json", ISOBAR_HOME=str(blocked))
        assert done.status == 1
        failed = {c["check"]: c["says"] for c in done.document["checks"] if not c["ok"]}
        assert {"disk", "ledger", "models"} <= failed.keys()
        assert str(blocked) in failed["disk"]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("symbol = ['A']", ("unknown setting: got 'symbol'", "did you mean symbols")),
            ("symbols = [", ("isobar.toml", "correct the file")),
            ("[costs]\nslippage_bps = -1", ("slippage_bps", "got -1", "allowed")),
            ("[models]\nhorizons = ['9h']", ("unknown horizon: got '9h'", "allowed")),
        ],
    )
    def test_a_wrong_file_of_settings(self, place: Place, text: str, words: tuple[str, ...]):
        (place.home / "isobar.toml").write_text(text)
        assert_refused(place.run("status"), *words, "Remedy")

    def test_the_demo_leaves_a_strange_folder_alone(self, place: Place):
        done = place.run("demo")
        assert_refused(done, "demo", "got", "allowed", "Remedy", status=2)
        assert [p.name for p in place.home.iterdir()] == ["isobar.toml"]


class TestFullDisk:
    def test_no_space_for_the_lake(self, stocked: Place, monkeypatch: pytest.MonkeyPatch):
        before = stocked.contents()
        monkeypatch.setattr(lake_module, "write_deltalake", _raise(errno.ENOSPC))
        done = stocked.run(INGEST)
        assert_refused(done, "could not be written", "No space left", "free disk space")
        monkeypatch.undo()
        assert stocked.contents() == before
        assert stocked.run(INGEST).status == 0

    def test_no_space_for_anything(self, place: Place, tmp_path: Path):
        disk = tmp_path / "disk"
        disk.mkdir()
        with small_disk(disk):
            home = disk / "home"
            home.mkdir()
            (home / "isobar.toml").write_text(_TOML)
            (disk / "ballast").write_bytes(bytes(free_bytes(disk) - 16 * 1024))
            for command in ("status", "halt", INGEST):
                done = place.run(command, ISOBAR_HOME=str(home))
                assert_refused(done, "Remedy")
            (disk / "ballast").unlink()
            assert place.run("status", ISOBAR_HOME=str(home)).status == 0
            assert Lake(home / "lake").sessions("bars_1d") == set()


def _raise(number: int) -> Callable[..., Any]:
    def fail(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def free_bytes(disk: Path) -> int:
    return shutil.disk_usage(disk).free


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here (not root, or not permitted)")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
