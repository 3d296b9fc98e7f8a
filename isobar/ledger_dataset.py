"""A ledger's tables as Arrow datasets: DuckDB reads the columns a query needs, as they stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import sqlalchemy as sa

from market.errors import LedgerError
from market.ledger import Ledger
from market.ledger_tables import METADATA, signals_current

_BATCH_ROWS = 5_000
# Batches that may wait between reader and query; Arrow's default is 16.
_READ_AHEAD = 2


@contextmanager
def ledger_datasets(ledger: Ledger) -> Generator[dict[str, LedgerDataset]]:
    """Give every table of a ledger, and the view of current signals, for DuckDB to query.

    Yields
    ------
    dict of str to LedgerDataset
        By name; all from one snapshot. Nothing is read before a query asks for it.

    Raises
    ------
    LedgerError
        When a query inside fails because the ledger cannot be read.
    """
    with ledger.snapshot() as connection:
        reader = _Reader(connection)
        try:
            yield {t.name: LedgerDataset(reader, t) for t in _TABLES}
        except duckdb.Error as error:
            # DuckDB reports what its source raised as an error of its own.
            raise reader.failure or error from None
        finally:
            reader.close()


class LedgerDataset(ds.Dataset):
    """One table or view of a ledger, read anew by every scan.

    DuckDB takes it for a dataset of Arrow's and asks it for a scanner with the columns and the
    filter of its query. Values are as stored: times and decimals are text.
    """

    def __init__(self, reader: _Reader, table: sa.Table) -> None:
        self._reader, self._name = reader, table.name
        self._fields = pa.schema([(c.name, _arrow_type(c.type)) for c in table.columns])

    @property
    def schema(self) -> pa.Schema:
        """Names and types of all columns."""
        return self._fields

    def scanner(
        self, columns: Sequence[str] | None = None, filter: ds.Expression | None = None
    ) -> ds.Scanner:
        """Return a scanner of some columns (all by default) of the rows that a filter keeps."""
        wanted = self._fields
        if columns is not None:
            # A filter's columns cannot be asked for; its text names every one of them.
            text = "" if filter is None else str(filter)
            wanted = pa.schema([f for f in wanted if f.name in columns or f.name in text])
        rows = pa.RecordBatchReader.from_batches(wanted, self._reader.batches(self._name, wanted))
        chosen = None if columns is None else list(columns)
        return ds.Scanner.from_batches(
            rows, columns=chosen, filter=filter, batch_readahead=_READ_AHEAD
        )


class _Reader:
    """Batches of rows from one connection, for threads that Arrow starts."""

    def __init__(self, connection: sa.Connection) -> None:
        self.failure: Exception | None = None
        self._connection = connection
        # A connection serves one thread at a time.
        self._lock = threading.Lock()
        self._is_open = True
        self._results: list[sa.CursorResult[Any]] = []

    def close(self) -> None:
        """End what still reads: a query may have had enough before the last row."""
        with self._lock:
            self._is_open = False
            for result in self._results:
                result.close()

    def batches(self, table: str, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a table in batches."""
        names = ", ".join(f'"{name}"' for name in columns.names)
        # As text: columns with types would be decoded, value by value.
        query = sa.text(f"SELECT {names} FROM {table}").execution_options(yield_per=_BATCH_ROWS)
        result: sa.CursorResult[Any] | None = None
        try:
            while True:
                with self._lock:
                    if not self._is_open:
                        return
                    if result is None:
                        result = self._connection.execute(query)
                        self._results.append(result)
                    rows = result.fetchmany(_BATCH_ROWS)
                if not rows:
                    return
                yield _batch(rows, columns)
        except (sa.exc.SQLAlchemyError, LedgerError) as error:
            self.failure = error
            raise


def _batch(rows: Sequence[Sequence[Any]], columns: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for values, field in zip(zip(*rows, strict=True), columns, strict=True):
        try:
            arrays.append(_array(values, field.type))
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise LedgerError(
                f"the ledger holds a value of {field.name} that cannot be read ({error})",
                allowed="values as Isobar writes them",
                remedy="run `isobar audit signals`; restore a backup where it finds anything",
            ) from error
    return pa.record_batch(arrays, schema=columns)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_boolean(kind):
        # SQLite has no booleans: it holds 0 and 1.
        numbers = [None if v is None else int(v) for v in values]
        return pa.array(numbers, pa.int8()).cast(kind)
    return pa.array(values, kind)


_ARROW: tuple[tuple[type, Callable[[], pa.DataType]], ...] = (
    (sa.Boolean, pa.bool_),
    (sa.Integer, pa.int64),
    (sa.Float, pa.float64),
)


def _arrow_type(kind: sa.types.TypeEngine[Any]) -> pa.DataType:
    return next((arrow() for sql, arrow in _ARROW if isinstance(kind, sql)), pa.string())


_TABLES = (*METADATA.tables.values(), signals_current)
LEDGER_TABLES: tuple[str, ...] = tuple(t.name for t in _TABLES)
"""Names of the tables of a ledger, and of the view of current signals."""
