"""The port through which bars enter: every vendor is one file behind this protocol."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Protocol, Self, runtime_checkable

import polars as pl

from market.errors import SourceError
from market.polygon_meter import RequestMetrics
from market.timeframes import Timeframe

# In the place of symbols: whatever has a bar in the session.
EVERY = "*"


@runtime_checkable
class BarSource(Protocol):
    """Where raw bars and corporate actions come from.

    Contract (``tests/contracts/test_bar_source.py``): frames have the schemas of
    :mod:`market.schema`, sorted by symbol and time, without duplicates; prices are raw unless
    ``adjusted`` says otherwise; a symbol without a bar simply has no row; an unknown symbol raises
    :class:`~market.errors.SourceError`; nothing is returned half. A value of a bar may be
    impossible, as the vendor sent it (null where it was no number): judging bars comes after.
    """

    @property
    def name(self) -> str:
        """Short name, written beside the data."""
        ...

    @property
    def adjusted(self) -> bool:
        """Whether prices and volumes are adjusted for splits already.

        Bars of such a source never share a table with raw ones.
        """
        ...

    def bars(
        self, symbols: Sequence[str], timeframe: Timeframe, start: dt.date, end: dt.date
    ) -> pl.DataFrame:
        """Return ``1m`` or ``1d`` bars of the sessions from ``start`` to ``end``, both included.

        ``EVERY`` among the symbols stands for the whole market of each session: who was listed
        then, and not who is today. A source that cannot afford that raises.
        """
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


@runtime_checkable
class RemoteSource(BarSource, Protocol):
    """A source that is asked over the network: what that cost, and asking anew."""

    @property
    def metrics(self) -> RequestMetrics:
        """Requests, bytes, cache hits, retries and waits so far."""
        ...

    def afresh(self) -> Self:
        """Return this source going past kept answers, to look for revisions; the rest is shared."""
        ...

    def origin(self, timeframe: Timeframe, session: dt.date) -> str:
        """Return where the newest bars of a session came from: this source, or a part of it."""
        ...


# Ends the name of every source of adjusted bars, and so of every session that came from one.
ADJUSTED = "-adjusted"


def check_same_adjustment(source: BarSource, earlier: Collection[str]) -> None:
    """Raise where bars of a source would lie beside bars that are adjusted otherwise.

    Parameters
    ----------
    source : BarSource
        Where the next bars of a table come from.
    earlier : collection of str
        Names of the sources that its bars came from so far.

    Raises
    ------
    SourceError
        When one is adjusted for splits and the other is raw.

    Examples
    --------
    >>> "polygon-adjusted".endswith(ADJUSTED), "polygon".endswith(ADJUSTED)
    (True, False)
    """
    others = sorted(n for n in earlier if n.endswith(ADJUSTED) is not source.adjusted)
    if others:
        raise SourceError(
            "raw bars and bars adjusted for splits do not go into one table",
            got=f"{source.name}, where there are bars of {', '.join(others)}",
            allowed="one kind in a lake",
            remedy="use another lake for the other kind: `polygon.adjusted` chooses its own",
        )
