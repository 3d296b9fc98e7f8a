"""SQL over lake and ledger together, in a connection of its own."""

from __future__ import annotations

import re

import duckdb
import polars as pl

from isobar.ledger_dataset import ledger_datasets
from market.errors import UsageError
from market.lake import Lake
from market.lake_tables import TABLES, made_by
from market.ledger import Ledger


def query_tables(lake: Lake, ledger: Ledger, query: str) -> pl.DataFrame:
    """Run DuckDB SQL over the tables of a lake and a ledger.

    Parameters
    ----------
    lake : Lake
        Its tables keep their names.
    ledger : Ledger
        Its tables too; one that is called like a table of the lake has ``ledger_`` before it.
    query : str
        One statement.

    Raises
    ------
    UsageError
        When DuckDB refuses it.
    LedgerError
        When the ledger cannot be read.
    """
    try:
        with ledger_datasets(ledger) as held, duckdb.connect() as connection:
            for name, spec in TABLES.items():
                # A copy may be behind; only the lake's own reads know which part of it is not.
                if not spec.is_copy and lake.exists(name):
                    connection.register(name, lake.arrow_dataset(name))
            for name, dataset in held.items():
                connection.register(f"ledger_{name}" if name in TABLES else name, dataset)
            return connection.sql(query).pl()
    except duckdb.Error as error:
        raise UsageError(f"SQL: {error}", remedy=_remedy(lake, str(error))) from error


def _remedy(lake: Lake, problem: str) -> str:
    """Return what to do; where a table was never written, the command that makes it."""
    found = re.search(r"Table with name (\w+) does not exist", problem)
    table = found.group(1) if found else ""
    if table in TABLES and not TABLES[table].is_copy and not lake.exists(table):
        return f"run `{made_by(table)}`, which writes {table}"
    return "correct the query; `workspace.tables` lists what it can name"
