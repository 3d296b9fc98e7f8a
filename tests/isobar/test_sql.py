"""DuckDB over a ledger: the ledger's own answers, of no more than the query needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from isobar import ledger_dataset
from isobar.sql import query_tables
from market.errors import LedgerError, UsageError
from market.lake import Lake
from market.ledger import Ledger, open_ledger
from market.ledger_tables import METADATA
from tests.signals.batches import a_batch, publish

SYMBOLS = tuple(f"S{k:03}" for k in range(60))


@pytest.fixture
def ledger(ledger_url: str, tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(ledger_url) as opened:
        publish(opened, tmp_path / "heads.jsonl", a_batch(symbols=SYMBOLS))
        publish(opened, tmp_path / "heads.jsonl", a_batch(symbols=SYMBOLS, confidence=0.9))
        yield opened


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def statements(ledger: Ledger) -> list[str]:
    told: list[str] = []

    @event.listens_for(ledger.engine, "before_cursor_execute")
    def hear(_connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        told.append(statement)

    return told


@pytest.mark.parametrize("batch_rows", [7, 60, 5_000])
def test_tables_are_as_the_ledger_holds_them(
    ledger: Ledger, lake: Lake, batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_dataset, "_BATCH_ROWS", batch_rows)
    for name in ("signals", "signals_current", "signal_batches"):
        found = query_tables(lake, ledger, f"select * from {name} order by seq")
        assert found.height == {"signals": 120, "signals_current": 60, "signal_batches": 2}[name]
        stored = ledger.read(f"select * from {name} order by seq").select(found.columns)
        assert found.equals(stored.cast(found.schema))


def test_every_table_can_be_asked_also_an_empty_one(ledger: Ledger, lake: Lake) -> None:
    for name, table in METADATA.tables.items():
        target = "ledger_regimes" if name == "regimes" else name
        rows = query_tables(lake, ledger, f"select * from {target}")
        assert rows.columns == [c.name for c in table.columns]
        counted = query_tables(lake, ledger, f"select count(*) as n from {target}").item()
        assert counted == rows.height == ledger.read(f"select count(*) as n from {name}").item()
    kinds = query_tables(lake, ledger, "select confidence, seq, as_of from signals limit 0").schema
    assert list(kinds.values()) == [pl.Float64, pl.Int64, pl.String]
    assert query_tables(lake, ledger, "select late from signal_batches").dtypes == [pl.Boolean]


def test_only_the_columns_of_the_query_are_read(
    ledger: Ledger, lake: Lake, statements: list[str]
) -> None:
    query = "select symbol, avg(confidence) as c from signals where horizon = '1d' group by symbol"
    found = query_tables(lake, ledger, query)
    assert found.sort("symbol")["symbol"].to_list() == list(SYMBOLS)
    read = {s for s in statements if " FROM " in s}
    assert read == {'SELECT "symbol", "confidence", "horizon" FROM signals'}


def test_a_filter_keeps_what_sql_keeps(ledger: Ledger, lake: Lake) -> None:
    where = "where symbol >= 'S050' and (confidence > 0.8 or horizon in ('1d', 'x')) and seq <> 57"
    found = query_tables(lake, ledger, f"select seq from signals {where} order by seq")
    assert 0 < found.height < 120
    assert found.equals(ledger.read(f"select seq from signals {where} order by seq"))


def test_a_table_can_be_read_twice_in_one_query(ledger: Ledger, lake: Lake) -> None:
    query = """
        select count(*) as n from signals a join signals_current b using (symbol)
        where a.hash in (select prev_hash from signals) and b.seq > 60"""
    # Of 120 rows all but the last have a follower.
    assert query_tables(lake, ledger, query).item() == ledger.read(query).item() == 119


def test_a_query_that_has_enough_reads_no_further(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    make = ledger_dataset._batch

    def counting(rows: Any, columns: Any) -> Any:
        made.append(len(rows))
        return make(rows, columns)

    monkeypatch.setattr(ledger_dataset, "_BATCH_ROWS", 1)
    monkeypatch.setattr(ledger_dataset, "_batch", counting)
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        publish(ledger, tmp_path / "heads.jsonl", a_batch(symbols=[f"S{k}" for k in range(3_000)]))
        assert query_tables(lake, ledger, "select id from signals limit 1").height == 1
    # What Arrow reads ahead, however often it looks before DuckDB has said that it has enough.
    assert len(made) < 1_000


def test_a_value_that_isobar_does_not_write_is_refused(tmp_path: Path, lake: Lake) -> None:
    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        publish(ledger, tmp_path / "heads.jsonl", a_batch(symbols=SYMBOLS))
        with ledger.transaction() as connection:
            connection.execute(sa.text("UPDATE signals SET confidence = 'much' WHERE seq = 50"))
        assert query_tables(lake, ledger, "select max(seq) from signals").item() == 60
        with pytest.raises(LedgerError, match="a value of confidence") as refused:
            query_tables(lake, ledger, "select max(confidence) from signals")
        assert "isobar audit signals" in str(refused.value)


def test_a_ledger_that_fails_is_not_a_mistake_of_the_query(
    ledger: Ledger, lake: Lake, tmp_path: Path
) -> None:
    with ledger.transaction() as connection:
        connection.execute(sa.text("DROP TABLE batch_inputs"))
    with pytest.raises(LedgerError, match=r"the ledger refused a query .*batch_inputs"):
        query_tables(lake, ledger, "select * from batch_inputs")
    with pytest.raises(UsageError, match=r"SQL: .*no_such_table"):
        query_tables(lake, ledger, "select * from no_such_table")
    assert query_tables(lake, ledger, "select count(*) from signals").item() == 120
