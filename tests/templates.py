"""Databases of which tests make hundreds: migrated once in a process, and copied from then on.

What is copied was made by the migrations themselves. PostgreSQL, processes of their own and
databases that already hold something migrate as ever.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from unittest import mock

import mlflow.store.db.utils as mlflow_stores
import sqlalchemy as sa
from mlflow.store.model_registry import sqlalchemy_store as mlflow_registry

from market import ledger as ledgers


@contextmanager
def copied_databases(folder: Path) -> Iterator[None]:
    """Copy new ledgers and MLflow stores on SQLite from templates in a folder."""
    prepare, initialize = ledgers._prepare_sqlite, mlflow_stores._initialize_tables

    @cache
    def ledger() -> Path:
        made = folder / "ledger.db"
        ledgers.open_ledger(f"sqlite:///{made}.first").close()
        return Path(f"{made}.first").replace(made)

    @cache
    def mlflow() -> Path:
        made = folder / "mlflow.db"
        engine = sa.create_engine(f"sqlite:///{made}")
        initialize(engine)
        engine.dispose()
        return made

    def prepare_a_copy(engine: sa.Engine, url: sa.URL) -> None:
        prepare(engine, url)
        path = Path(str(url.database))
        if path.exists() or path.parent == folder:
            return
        # Whole from its first moment: another process may open the same ledger.
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
        with suppress(OSError):  # A full or a read-only disk is for the ledger to report.
            try:
                shutil.copyfile(ledger(), part)
                os.link(part, path)
            finally:
                part.unlink(missing_ok=True)

    def initialize_a_copy(engine: sa.Engine) -> None:
        if engine.dialect.name != "sqlite" or not mlflow_stores._is_empty_database(engine):
            initialize(engine)
            return
        with closing(sqlite3.connect(mlflow())) as source, engine.connect() as connection:
            source.backup(connection.connection.driver_connection)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(ledgers, "_prepare_sqlite", prepare_a_copy))
        for module in (mlflow_stores, mlflow_registry):
            stack.enter_context(mock.patch.object(module, "_initialize_tables", initialize_a_copy))
        yield
