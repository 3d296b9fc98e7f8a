"""The tables of the lake, each declared once."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from market.errors import LakeError
from market.layouts import BARS_TABLE, BUILT_FROM, BY_SYMBOL_TABLE
from market.quality_rules import HELD_SCHEMA
from market.schema import (
    BAR_SCHEMA,
    DIVIDEND_SCHEMA,
    IDENTITY_SCHEMA,
    INDEX_SCHEMA,
    NEWS_SCHEMA,
    SPLIT_SCHEMA,
    TREASURY_YIELD_SCHEMA,
    Bar,
    News,
)
from market.timeframes import Timeframe


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table of the lake.

    Attributes
    ----------
    name : str
        Its folder.
    partition_by : str or None
        The partition column.
    keys : tuple of str
        What makes a row unique, and the order of the rows.
    schema : pl.Schema or None
        Columns and types, where they are fixed.
    is_copy : bool
        Whether its rows are another table's, kept for speed. Only :meth:`Lake.scan_bars` may
        read it: it knows which part is up to date.
    """

    name: str
    partition_by: str | None
    keys: tuple[str, ...]
    schema: pl.Schema | None = None
    is_copy: bool = False


_STATE_KEYS = ("session", "symbol", "recursion")
BAR_KEYS = (Bar.SYMBOL.value, Bar.BAR_START.value)
_BY_SYMBOL_SCHEMA = pl.Schema({**BAR_SCHEMA, BUILT_FROM: pl.String()})
TABLES: dict[str, TableSpec] = {
    spec.name: spec
    for spec in (
        TableSpec(BARS_TABLE, Bar.SESSION, BAR_KEYS, BAR_SCHEMA),
        TableSpec(BY_SYMBOL_TABLE, BUILT_FROM, BAR_KEYS, _BY_SYMBOL_SCHEMA, is_copy=True),
        TableSpec("bars_1d", Bar.SESSION, BAR_KEYS, BAR_SCHEMA),
        TableSpec("quarantine_1m", "asked_session", ("asked_session", "place"), HELD_SCHEMA),
        TableSpec("quarantine_1d", "asked_session", ("asked_session", "place"), HELD_SCHEMA),
        TableSpec("splits", None, ("symbol", "ex_date"), SPLIT_SCHEMA),
        TableSpec("dividends", None, ("symbol", "ex_date"), DIVIDEND_SCHEMA),
        TableSpec("treasury_yields", None, ("date",), TREASURY_YIELD_SCHEMA),
        TableSpec("indices", None, ("symbol", "session"), INDEX_SCHEMA),
        TableSpec("news", News.MONTH, ("article_id", "symbol"), NEWS_SCHEMA),
        TableSpec("identities", None, ("identity", "symbol", "valid_from"), IDENTITY_SCHEMA),
        TableSpec("ingest_log", None, ("timeframe", "session")),
        TableSpec("feature_log", None, ("timeframe", "session")),
        TableSpec("feature_definitions", None, ("definitions", "feature")),
        *(TableSpec(f"features_{t}", Bar.SESSION, ("symbol", "bar_end")) for t in Timeframe),
        *(TableSpec(f"feature_states_{t}", "session", _STATE_KEYS) for t in Timeframe),
        TableSpec("predictions", "horizon", ("symbol", "bar_end", "horizon", "engine")),
        TableSpec("session_skill", "horizon", ("horizon", "engine", "session")),
        TableSpec("session_moments", "horizon", ("horizon", "session", "engine", "other")),
        TableSpec("live_predictions", "session", ("symbol", "bar_end", "horizon", "engine")),
        TableSpec("promises", "horizon", ("horizon", "regime", "engine")),
        TableSpec("regimes", None, ("session",)),
        TableSpec("truth", "horizon", ("symbol", "as_of", "horizon")),
    )
}


_INGESTED = ("bars_", "quarantine_", "splits", "dividends", "ingest_log")
_REFERENCE = ("treasury_yields", "indices", "news", "identities")
_TRAINED = ("predictions", "session_", "promises")


def made_by(table: str) -> str:
    """Return the command that writes a table, for who asks for one that is not there.

    Examples
    --------
    >>> made_by("predictions"), made_by("features_1d")
    ('isobar train', 'isobar bootstrap')
    """
    if table.startswith((*_INGESTED, *_REFERENCE)):
        return "isobar ingest"
    if table.startswith(_TRAINED):
        return "isobar train"
    if table == "live_predictions":
        return "isobar run"
    return "isobar demo" if table == "truth" else "isobar bootstrap"


def spec_of(table: str) -> TableSpec:
    """Return a table's declaration, or say which tables there are."""
    try:
        return TABLES[table]
    except KeyError:
        raise LakeError(
            "unknown lake table",
            got=table,
            allowed=", ".join(TABLES),
            remedy="declare it in TABLES",
        ) from None
