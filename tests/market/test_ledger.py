"""The ledger: migrations, types, transactions, clear refusals."""

from __future__ import annotations

import datetime as dt
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from market import ledger as ledger_module
from market.errors import LedgerError
from market.ledger import Ledger, open_ledger
from market.ledger_tables import (
    METADATA,
    VERSION_TABLE,
    orders,
    plans,
    regimes,
    signals,
    signals_current,
    trading_state,
)
from market.schema import UTC_MICROSECONDS
from tests.postgres import postgres_server

T0 = dt.datetime(2025, 3, 4, 13, 30, 0, 123456, tzinfo=dt.UTC)


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder}/ledger.db"


@pytest.fixture
def ledger(ledger_url):
    with open_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
def sqlite_ledger(tmp_path):
    with open_ledger(url_of(tmp_path)) as opened:
        yield opened


def a_regime(**changes: object) -> dict[str, object]:
    row = {
        "as_of": T0,
        "regime": "bull",
        "probabilities": {"bull": 0.7, "bear": 0.1},
        "model_version": "1",
        "recorded_at": T0,
    }
    return {**row, **changes}


def write(ledger: Ledger, *entries: tuple) -> None:
    with ledger.transaction() as connection:
        for entry in entries:
            connection.execute(entry[0].insert(), entry[1])


def test_a_fresh_ledger_has_every_table_as_declared(ledger):
    with ledger.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, METADATA) == []


def test_the_view_has_the_columns_of_the_table(ledger):
    view = ledger.read(sa.select(signals_current))
    assert view.schema == ledger.read(sa.select(signals)).schema
    stored = {c["name"] for c in sa.inspect(ledger.engine).get_columns("signals_current")}
    assert stored == set(view.columns)


def test_sqlite_is_set_up_for_safety(sqlite_ledger):
    with sqlite_ledger.engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": ledger_module.BUSY_TIMEOUT_SECONDS * 1000,
    }


def test_opening_again_keeps_rows(ledger_url):
    with open_ledger(ledger_url) as first, first.transaction() as connection:
        connection.execute(regimes.insert(), a_regime())
    with open_ledger(ledger_url) as second:
        assert second.read(sa.select(regimes)).height == 1


def test_types_come_back_as_they_went_in(ledger):
    elsewhere = T0.astimezone(dt.timezone(dt.timedelta(hours=-5)))
    with ledger.transaction() as connection:
        connection.execute(regimes.insert(), a_regime(as_of=elsewhere))
    row = ledger.rows(sa.select(regimes))[0]
    assert row["as_of"] == T0
    assert row["as_of"].tzinfo is dt.UTC
    assert row["probabilities"] == {"bull": 0.7, "bear": 0.1}
    frame = ledger.read(sa.select(regimes))
    assert frame.schema["as_of"] == UTC_MICROSECONDS
    assert frame["probabilities"].item() == '{"bear":0.1,"bull":0.7}'
    as_text = ledger.read("SELECT as_of FROM regimes WHERE as_of >= :since", {"since": T0})
    assert as_text.item() == "2025-03-04T13:30:00.123456Z"


def test_decimals_lose_no_digit(ledger):
    with ledger.transaction() as connection:
        result = connection.execute(
            sa.select(sa.literal(Decimal("0.123456789012345678"), orders.c.quantity.type))
        ).scalar()
    assert result == Decimal("0.123456789012345678")


def test_an_empty_select_is_typed(ledger):
    frame = ledger.read(sa.select(orders))
    assert frame.is_empty()
    assert frame.schema["quantity"] == pl.Decimal(38, 12)
    assert frame.schema["updated_at"] == UTC_MICROSECONDS


def test_a_naive_time_is_refused_and_nothing_is_written(ledger):
    state = {"seq": 1, "at": T0, "state": "A", "reason": ""}
    naive = a_regime(as_of=T0.replace(tzinfo=None))
    with pytest.raises(LedgerError, match="time zone"):
        write(ledger, (trading_state, state), (regimes, naive))
    assert ledger.read(sa.select(trading_state)).is_empty()


def test_a_transaction_is_all_or_nothing(ledger):
    with pytest.raises(LedgerError, match=r"(?i)unique"):
        write(ledger, (regimes, a_regime()), (regimes, a_regime()))
    with pytest.raises(IndexError):
        write(ledger, (regimes, a_regime()), ())
    assert ledger.read(sa.select(regimes)).is_empty()


def test_foreign_keys_hold(ledger):
    row = {
        "plan_id": "p",
        "batch_id": "no such batch",
        "as_of": T0,
        "created_at": T0,
        "expires_at": T0,
        "broker": "x",
        "decisions": [],
        "skipped": [],
    }
    with pytest.raises(LedgerError, match=r"(?i)foreign key"):
        write(ledger, (plans, row))


def test_readers_do_not_wait_for_the_writer_and_see_no_half(ledger):
    with ledger.transaction() as connection:
        connection.execute(regimes.insert(), a_regime())
        assert ledger.read(sa.select(regimes)).is_empty()
    assert ledger.read(sa.select(regimes)).height == 1


def test_a_second_writer_waits_then_says_locked(ledger_url, monkeypatch):
    monkeypatch.setattr(ledger_module, "BUSY_TIMEOUT_SECONDS", 0)
    with open_ledger(ledger_url) as one, open_ledger(ledger_url) as two:
        with (
            one.transaction(),
            pytest.raises(LedgerError, match=r"(?s)(locked|lock timeout).*another process"),
            two.transaction(),
        ):
            pass
        with two.transaction() as connection:
            connection.execute(regimes.insert(), a_regime())


def test_a_newer_ledger_is_refused(ledger_url):
    with open_ledger(ledger_url) as opened, opened.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(LedgerError, match=r"newer version.*9999.*upgrade Isobar"):
        open_ledger(ledger_url)


def test_another_database_is_refused(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"no database at all, but long enough to look at" * 40)
    with pytest.raises(LedgerError, match=r"is not a database.*name another file"):
        open_ledger(url_of(tmp_path))


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerError, match="folder cannot be made"):
        open_ledger(f"sqlite:///{tmp_path}/file/ledger.db")
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(LedgerError, match="can be written"):
        open_ledger(url_of(tmp_path))


def test_a_full_disk_is_said_and_rolled_back(sqlite_ledger):
    ledger = sqlite_ledger
    big = a_regime(model_version="x" * 200, probabilities={"p": "y" * 2_000_000})
    with ledger.transaction() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(LedgerError, match=r"full.*free disk space"):
        write(ledger, (regimes, big))
    assert ledger.read(sa.select(regimes)).is_empty()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_memory_is_no_place_for_a_ledger(url):
    with pytest.raises(LedgerError, match="would be lost"):
        open_ledger(url)


@pytest.mark.parametrize(
    "url", ["postgresql+nodriver://u:s3cret@h/db", "not a url s3cret", "mysql+nope://u:s3cret@h/d"]
)
def test_no_password_in_any_message(url):
    with pytest.raises(LedgerError) as caught:
        open_ledger(url)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value)


def _open(url: str) -> int:
    with open_ledger(url) as opened:
        return opened.read("SELECT count(*) AS n FROM signals").item()


def test_processes_may_open_at_the_same_time(ledger_url):
    # Not a Pool: it ends its workers by a signal that one of them may be holding back.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        assert list(pool.map(_open, [ledger_url] * 6)) == [0] * 6


def test_a_stored_value_that_cannot_be_read_is_a_ledger_error(sqlite_ledger):
    write(sqlite_ledger, (regimes, a_regime()))
    with sqlite_ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE regimes SET as_of = 'tomorrow'")
    with pytest.raises(LedgerError, match=r"cannot be read.*audit signals"):
        sqlite_ledger.read(sa.select(regimes))


def test_a_file_that_vanished_is_said_before_anything_is_reported(tmp_path):
    with open_ledger(url_of(tmp_path)) as ledger:
        write(ledger, (regimes, a_regime()))
        for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        for _ in range(2):
            with pytest.raises(LedgerError, match=r"removed or replaced.*restore it"):
                write(ledger, (regimes, a_regime(as_of=T0 + dt.timedelta(days=1))))
            with pytest.raises(LedgerError, match=r"removed or replaced"):
                ledger.read(sa.select(regimes))
        assert not (tmp_path / "ledger.db").exists()
        with open_ledger(url_of(tmp_path)) as again:
            write(again, (regimes, a_regime()))
            assert again.read(sa.select(regimes)).height == 1
        # Another file at the same place is not the one that was opened.
        with pytest.raises(LedgerError, match=r"removed or replaced"):
            ledger.read(sa.select(regimes))


def test_a_file_that_vanishes_within_a_transaction_is_said(tmp_path):
    def write_and_lose(ledger):
        with ledger.transaction() as connection:
            connection.execute(regimes.insert(), a_regime())
            (tmp_path / "ledger.db").unlink()

    with (
        open_ledger(url_of(tmp_path)) as ledger,
        pytest.raises(LedgerError, match=r"removed or replaced"),
    ):
        write_and_lose(ledger)


def test_a_server_that_was_started_anew_is_found_again(tmp_path):
    with postgres_server() as server, open_ledger(server.database()) as ledger:
        write(ledger, (regimes, a_regime()))
        server.stop()
        with pytest.raises(LedgerError, match=r"connection.*can be reached"):
            write(ledger, (regimes, a_regime()))
        server.start()
        with pytest.raises(LedgerError, match=r"(?i)unique"):
            write(ledger, (regimes, a_regime()))
        assert ledger.read(sa.select(regimes)).height == 1
        # Where nobody used it meanwhile, nobody notices.
        server.stop()
        server.start()
        assert ledger.read(sa.select(regimes)).height == 1


def test_a_query_that_fails_is_a_ledger_error(ledger: Ledger):
    with pytest.raises(LedgerError, match=r"no such table|does not exist"):
        ledger.read("SELECT * FROM nowhere")


def test_reading_cannot_write(ledger):
    with pytest.raises(LedgerError):
        ledger.read("DELETE FROM regimes")
