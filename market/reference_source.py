"""The port through which macro data, news and identities enter, beside :mod:`market.source`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol, runtime_checkable

import polars as pl

from market.schema import (
    IDENTITY_SCHEMA,
    INDEX_SCHEMA,
    NEWS_SCHEMA,
    TREASURY_YIELD_SCHEMA,
    conform,
    empty,
)


@runtime_checkable
class ReferenceSource(Protocol):
    """Where Treasury yields, index values, news and identities come from.

    Contract (``tests/contracts/test_reference_source.py``): frames have the schemas of
    :mod:`market.schema`, sorted by the keys of their lake table, without duplicates; nothing is
    returned half. What the plan of the key does not cover raises
    :class:`~market.errors.NotInPlanError`.
    """

    def treasury_yields(self, start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return par yields of the dates from ``start`` to ``end`` (``TREASURY_YIELD_SCHEMA``)."""
        ...

    def index_bars(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return daily values of indices, such as ``VIX``, by session (``INDEX_SCHEMA``)."""
        ...

    def news(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return articles of New York dates, one row per article and symbol (``NEWS_SCHEMA``)."""
        ...

    def identities(self, symbols: Sequence[str]) -> pl.DataFrame:
        """Return every spell of the companies that use, or used, a symbol (``IDENTITY_SCHEMA``).

        A company comes with all its symbols, also those that were not asked for. An unknown symbol
        has no row.
        """
        ...


@dataclass(frozen=True)
class ReferenceTables:
    """The four tables of a :class:`ReferenceSource`, checked when made; empty by default.

    Raises
    ------
    MarketError
        When a table lacks a column or has a value of the wrong type.
    """

    treasury_yields: pl.DataFrame = field(default_factory=lambda: empty(TREASURY_YIELD_SCHEMA))
    indices: pl.DataFrame = field(default_factory=lambda: empty(INDEX_SCHEMA))
    news: pl.DataFrame = field(default_factory=lambda: empty(NEWS_SCHEMA))
    identities: pl.DataFrame = field(default_factory=lambda: empty(IDENTITY_SCHEMA))

    def __post_init__(self) -> None:
        schemas = (TREASURY_YIELD_SCHEMA, INDEX_SCHEMA, NEWS_SCHEMA, IDENTITY_SCHEMA)
        for slot, schema in zip(fields(self), schemas, strict=True):
            frame = conform(getattr(self, slot.name), schema, slot.name)
            object.__setattr__(self, slot.name, frame)
