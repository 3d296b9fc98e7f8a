"""The port through which bars enter: every vendor is one file behind this protocol."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import polars as pl

from market.timeframes import Timeframe


@runtime_checkable
class BarSource(Protocol):
    """Where raw bars and corporate actions come from.

    Contract (``tests/contracts/test_bar_source.py``): frames have the schemas of
    :mod:`market.schema`, sorted by symbol and time, without duplicates; prices are raw; a
    symbol without a bar simply has no row; an unknown symbol raises
    :class:`~market.errors.SourceError`; nothing is returned half.
    """

    @property
    def name(self) -> str:
        """Short name, written beside the data."""
        ...

    def bars(
        self, symbols: Sequence[str], timeframe: Timeframe, start: dt.date, end: dt.date
    ) -> pl.DataFrame:
        """Return ``1m`` or ``1d`` bars of the sessions from ``start`` to ``end``, both included."""
        ...

    def splits(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return splits with an ex-date in the range (``SPLIT_SCHEMA``)."""
        ...

    def dividends(self, symbols: Sequence[str], start: dt.date, end: dt.date) -> pl.DataFrame:
        """Return cash dividends with an ex-date in the range (``DIVIDEND_SCHEMA``)."""
        ...

    def tickers(self) -> pl.DataFrame:
        """Return the symbols that the vendor knows (``TICKER_SCHEMA``)."""
        ...
