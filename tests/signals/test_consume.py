"""Consumers: nothing missed, nothing twice, no half of a batch, whatever happens between."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import LedgerError, SignalError
from market.hash_chain import GENESIS_HASH
from market.ledger import Ledger, open_ledger
from market.ledger_notices import listening
from signals.consume import follow, newest_cursor, read_after
from signals.publish import CHANNEL, read_signals
from signals.schema import SIGNAL_SCHEMA
from tests.signals.batches import AS_OF, DAY, a_batch, publish, publish_at, tamper

# Several horizons and engines of a symbol, so that every filter leaves some rows and takes some.
_KINDS = [("AAPL", "1d", "ensemble"), ("AAPL", "14d", "linear"), ("MSFT", "1d", "linear")]
_FILTERS = [{}, {"symbol": "AAPL"}, {"horizon": "1d"}, {"engine": "linear"}, {"symbol": "NONE"}]


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with open_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
def head_file(tmp_path: Path) -> Path:
    return tmp_path / "heads.jsonl"


def everything(ledger: Ledger) -> pl.DataFrame:
    return ledger.read("SELECT * FROM signals ORDER BY seq")


def test_an_empty_ledger_has_nothing_to_give(ledger: Ledger):
    given_now = read_after(ledger, None)
    assert given_now.rows.schema == SIGNAL_SCHEMA
    assert given_now.rows.is_empty()
    assert given_now.cursor == newest_cursor(ledger) == GENESIS_HASH
    assert read_after(ledger, given_now.cursor).cursor == GENESIS_HASH


def test_a_correction_is_newer_rows(ledger: Ledger, head_file: Path):
    publish(ledger, head_file)
    seen = read_after(ledger, None)
    publish(ledger, head_file, a_batch(symbols=("AAPL",), direction="short"))
    news = read_after(ledger, seen.cursor)
    assert news.rows.select("symbol", "direction", "revision").rows() == [("AAPL", "short", 2)]
    assert news.batches.select("run", "as_of", "revision", "rows").rows() == [
        ("premarket", AS_OF, 2, 1)
    ]
    assert news.cursor == newest_cursor(ledger) == news.rows["hash"][-1]


def test_a_cursor_within_a_batch_gives_the_rest_of_it(ledger: Ledger, head_file: Path):
    publish(ledger, head_file, a_batch(symbols=("A", "B", "C")))
    first = read_after(ledger, None).rows["hash"][0]
    assert read_after(ledger, first).rows["symbol"].to_list() == ["B", "C"]
    publish_at(ledger, head_file, 1)
    assert read_after(ledger, first).rows["symbol"].to_list() == ["B", "C", "AAPL", "MSFT"]


@pytest.mark.parametrize("cursor", ["", "no such hash", "f" * 64, "'; DROP TABLE signals; --"])
def test_a_cursor_that_does_not_exist_is_refused(ledger: Ledger, head_file: Path, cursor: str):
    publish(ledger, head_file)
    with pytest.raises(SignalError, match=r"no signal has this cursor.*Remedy"):
        read_after(ledger, cursor)


def test_a_limit_below_one_is_refused(ledger: Ledger):
    with pytest.raises(SignalError, match="no rows to read"):
        read_after(ledger, None, limit=0)


def test_a_limit_never_cuts_a_batch_and_always_moves_on(ledger: Ledger, head_file: Path):
    for day, size in enumerate((3, 1, 1, 2)):
        publish_at(ledger, head_file, day, a_batch(symbols="ABC"[:size]))
    heights, cursor = [], None
    for _ in range(4):
        part = read_after(ledger, cursor, limit=2)
        heights.append(part.rows.height)
        cursor = part.cursor
    assert heights == [3, 2, 2, 0]


def test_an_unfinished_batch_is_not_given(ledger: Ledger, head_file: Path):
    publish(ledger, head_file)
    publish_at(ledger, head_file, 1)
    tamper(ledger, "UPDATE signal_batches SET complete = (1 = 0) WHERE seq = 2")
    assert read_after(ledger, None).rows.height == 2
    assert newest_cursor(ledger) == read_after(ledger, None).cursor


_BATCHES = st.lists(
    st.tuples(
        st.integers(0, 2),  # day
        st.sampled_from(["premarket", "eod"]),
        st.sets(st.sampled_from(_KINDS), min_size=1),
        st.sampled_from([0.5, 0.6, 0.7]),  # confidence: another one is a correction
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=25)
@given(
    batches=_BATCHES,
    wanted=st.sampled_from(_FILTERS),
    script=st.lists(st.sampled_from(["read", "die", "publish"]), max_size=30),
    limit=st.sampled_from([None, 1, 3, 100]),
    back=st.integers(0, 3),
)
def test_a_consumer_that_dies_misses_nothing(
    tmp_path_factory: pytest.TempPathFactory, batches, wanted, script, limit, back
):
    """It keeps only what it wrote down with the rows; after a death it may be a few rows back."""
    folder = tmp_path_factory.mktemp("consumer")
    with open_ledger(f"sqlite:///{folder}/ledger.db") as ledger:
        waiting = iter(batches)
        kept: list[str] = []  # hashes, written down one by one
        cursor: str | None = None
        for step in [*script, *["publish"] * len(batches), *["read"] * (len(batches) + 1)]:
            if step == "publish" and (batch := next(waiting, None)):
                _publish_kinds(ledger, folder / "heads.jsonl", *batch)
            elif step == "die":
                # What was read and not yet written down is lost; the cursor is the last row.
                del kept[len(kept) - min(back, len(kept)) :]
                cursor = kept[-1] if kept else None
            elif step == "read":
                part = read_after(ledger, cursor, limit=limit, **wanted)
                kept.extend(part.rows["hash"])
                cursor = part.cursor
        rows = everything(ledger)
        for column, value in wanted.items():
            rows = rows.filter(pl.col(column) == value)
        assert kept == rows["hash"].to_list()


_CURRENT = """
SELECT s.hash FROM signals AS s JOIN signal_batches AS b ON b.batch_id = s.batch_id
WHERE NOT EXISTS (SELECT 1 FROM signal_batches AS o WHERE o.run = b.run AND o.as_of = b.as_of
                  AND o.revision > b.revision)
  AND NOT EXISTS (SELECT 1 FROM signals AS o WHERE o.as_of = s.as_of AND o.symbol = s.symbol
                  AND o.horizon = s.horizon AND o.engine = s.engine AND o.revision > s.revision)
ORDER BY s.seq
"""


@settings(max_examples=25)
@given(batches=_BATCHES)
def test_the_view_shows_what_its_definition_says(tmp_path_factory: pytest.TempPathFactory, batches):
    """The view is written so as to be fast; this is what it means."""
    folder = tmp_path_factory.mktemp("view")
    with open_ledger(f"sqlite:///{folder}/ledger.db") as ledger:
        for batch in batches:
            _publish_kinds(ledger, folder / "heads.jsonl", *batch)
        current = read_signals(ledger)["hash"].to_list()
        assert current == ledger.read(_CURRENT)["hash"].to_list()


def _publish_kinds(
    ledger: Ledger, head_file: Path, day: int, run: str, kinds: set[tuple], confidence: float
) -> None:
    rows = [
        a_batch(symbols=(symbol,), horizon=horizon, engine=engine, confidence=confidence)
        for symbol, horizon, engine in sorted(kinds)
    ]
    publish_at(ledger, head_file, day, pl.concat(rows), run=run)


def test_what_is_current_follows_from_the_deliveries(ledger: Ledger, head_file: Path):
    """A consumer that keeps of each run and moment the last revision has what the view shows."""
    story = [(0, "premarket", 3), (1, "premarket", 2), (0, "premarket", 1), (1, "eod", 2)]
    for n, (day, run, kinds) in enumerate(story):
        _publish_kinds(ledger, head_file, day, run, set(_KINDS[:kinds]), 0.5 + n / 100)
    held: dict[tuple, dict[tuple, str]] = {}
    cursor = None
    for _ in story:
        part = read_after(ledger, cursor, limit=1)
        batch = part.batches.row(0, named=True)
        held[batch["run"], batch["as_of"]] = {
            (r["as_of"], r["symbol"], r["horizon"], r["engine"]): r["hash"]
            for r in part.rows.iter_rows(named=True)
        }
        cursor = part.cursor
        latest = {key: row for rows in _by_age(held, batch) for key, row in rows.items()}
    assert sorted(latest.values()) == sorted(read_signals(ledger)["hash"])


def _by_age(held: dict, newest: dict) -> list[dict]:
    last = (newest["run"], newest["as_of"])
    return [*(rows for key, rows in held.items() if key != last), held[last]]


def test_filters_and_since(ledger: Ledger, head_file: Path):
    for day in range(3):
        _publish_kinds(ledger, head_file, day, "premarket", set(_KINDS), 0.6)
    assert read_after(ledger, None, since=AS_OF + DAY).rows.height == 6
    assert read_after(ledger, None, since=AS_OF + DAY, symbol="MSFT").rows.height == 2
    nothing = read_after(ledger, None, symbol="NONE")
    assert nothing.rows.is_empty()
    assert nothing.cursor == newest_cursor(ledger)


class Ended(Exception):
    """The scripted wait has nothing more to do."""


def test_following_gives_each_batch_once_as_it_comes(ledger: Ledger, head_file: Path):
    publish(ledger, head_file)
    todo = iter(
        [
            lambda: publish_at(ledger, head_file, 1),
            lambda: None,
            lambda: publish_at(ledger, head_file, 1, a_batch(symbols=("TSLA",))),
            lambda: publish_at(ledger, head_file, 2, a_batch(symbols=("NONE",))),
        ]
    )

    def wait() -> None:
        act = next(todo, None)
        if act is None:
            raise Ended
        act()

    seen: list[list[str]] = []
    followed = follow(ledger, newest_cursor(ledger), wait, engine="ensemble")
    with pytest.raises(Ended):
        seen.extend(delivery.rows["symbol"].to_list() for delivery in followed)
    assert seen == [["AAPL", "MSFT"], ["TSLA"], ["NONE"]]


def test_following_from_an_unknown_cursor_is_refused(ledger: Ledger):
    with pytest.raises(SignalError, match="no signal has this cursor"):
        next(follow(ledger, "unknown", lambda: None))


def test_postgresql_wakes_a_listener_when_the_batch_is_visible(postgres, tmp_path: Path):
    """Rounds of waiting and reading: after each wake-up, the whole batch is there."""
    url, head_file = postgres.database(), tmp_path / "heads.jsonl"
    with (
        open_ledger(url) as reader,
        open_ledger(url) as writer,
        listening(reader, CHANNEL, poll_seconds=0.0) as wait,
    ):
        for day in range(3):
            thread = threading.Thread(target=publish_at, args=(writer, head_file, day))
            thread.start()
            wait()
            assert read_after(reader, None).rows.height == 2 * (day + 1)
            thread.join()


def test_a_batch_that_was_rolled_back_is_not_announced(postgres, tmp_path: Path, monkeypatch):
    from market import ledger_notices
    from signals import publish as publish_module

    url, head_file = postgres.database(), tmp_path / "heads.jsonl"

    def announce_and_fail(connection, channel, payload):
        ledger_notices.announce(connection, channel, payload)
        raise SignalError("after the announcement")

    with open_ledger(url) as ledger, ledger.engine.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(f"LISTEN {CHANNEL}")
        with monkeypatch.context() as patch:
            patch.setattr(publish_module, "announce", announce_and_fail)
            with pytest.raises(SignalError, match="after the announcement"):
                publish(ledger, head_file)
        done = publish(ledger, head_file)
        publish(ledger, head_file)  # again: nothing new, nothing said
        publish_at(ledger, head_file, 1)
        heard = connection.connection.driver_connection.notifies(timeout=60, stop_after=2)
        told = [n.payload for n in itertools.islice(heard, 2)]
        assert told[0] == done.batch_id
        assert len(set(told)) == 2
        connection.invalidate()


def test_a_listener_whose_server_stops_says_so(tmp_path: Path):
    from tests.postgres import postgres_server

    with postgres_server() as server, open_ledger(server.database()) as ledger:
        with listening(ledger, CHANNEL, poll_seconds=0.0) as wait:
            server.stop()
            with pytest.raises(LedgerError, match=r"cannot be heard.*resume after the last hash"):
                wait()
        with (
            pytest.raises(LedgerError),
            listening(ledger, CHANNEL, poll_seconds=0.0),
        ):
            pass
