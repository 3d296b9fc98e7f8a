"""How tables are laid out in files, and which of two layouts of minutes a reader is given.

A session of all symbols is one file of ``bars_1m``. A symbol's year is spread over all of them,
so settled months are kept a second time, sorted by symbol. The copy of a month is named after
the very files that it was made from. Files never change: where a session was written again its
month has another name, which no older copy bears, and a stale copy is never read.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

import polars as pl
from deltalake import ColumnProperties, DeltaTable, WriterProperties

from market.schema import Bar

BARS_TABLE = "bars_1m"
BY_SYMBOL_TABLE = "bars_1m_by_symbol"
BUILT_FROM = "built_from"

# Prices hardly repeat, so a dictionary of them costs time and saves nothing.
_PLAIN = ColumnProperties(dictionary_enabled=False)
_REPEATING = ColumnProperties(dictionary_enabled=True)
# Rows are sorted by symbol: small row groups let a reader of one symbol skip the others.
WRITER = WriterProperties(
    max_row_group_size=20_000,
    default_column_properties=_PLAIN,
    column_properties={Bar.SYMBOL.value: _REPEATING, "symbols": _REPEATING},
)
# A year of one symbol is read from thirteen files or so: compression would cost more time than
# all else. Times in even steps shrink to next to nothing without it.
_STEPS = ColumnProperties(dictionary_enabled=False, encoding="DELTA_BINARY_PACKED")
COPY_WRITER = WriterProperties(
    max_row_group_size=16_384,
    default_column_properties=_PLAIN,
    column_properties={
        **{column.value: _REPEATING for column in (Bar.SYMBOL, Bar.SESSION)},
        **{c.value: _STEPS for c in (Bar.BAR_START, Bar.BAR_END, Bar.KNOWN_AT, Bar.TRADES)},
    },
)


def table_properties(keys: Sequence[str], partition_by: str | None) -> dict[str, str]:
    """Return the properties of a new Delta table with these keys."""
    return {
        # By default Delta forgets versions that are older than thirty days.
        "delta.enableExpiredLogCleanup": "false",
        # Opening a table reads its last checkpoint and every commit since.
        "delta.checkpointInterval": "10",
        # Statistics of other columns are four fifths of the log, and no reader skips by them.
        "delta.dataSkippingStatsColumns": ",".join(k for k in keys if k != partition_by),
    }


def files_by_session(addresses: Iterable[str]) -> dict[dt.date, list[str]]:
    """Return the files of each session, ascending.

    Parameters
    ----------
    addresses : iterable of str
        All files of one version of a table of bars; each ends in ``session=2024-07-01/name``.
    """
    found: dict[dt.date, list[str]] = {}
    for address in sorted(addresses):
        folder = address.rsplit("/", 2)[-2]
        session = dt.date.fromisoformat(folder.removeprefix(f"{Bar.SESSION}="))
        found.setdefault(session, []).append(address)
    return dict(sorted(found.items()))


def scan_sessions(
    bars: DeltaTable,
    files: Mapping[dt.date, Sequence[str]],
    wanted: Sequence[dt.date],
    options: dict[str, str] | None = None,
) -> pl.LazyFrame:
    """Return a scan of whole sessions (at least one), in the order given."""
    # Rows that another engine marked as deleted are known to the Delta reader only.
    if bars.protocol().reader_features:
        return pl.scan_delta(bars).filter(pl.col(Bar.SESSION).is_in(wanted))
    # Otherwise whole files are wanted, and no predicate has to be evaluated row by row.
    addresses = [file for session in wanted for file in files[session]]
    return pl.scan_parquet(
        addresses, hive_schema={Bar.SESSION.value: pl.Date()}, storage_options=options
    )


def name_months(files: Mapping[dt.date, Sequence[str]]) -> dict[str, list[dt.date]]:
    """Return what a copy of each month would be called, and the month's sessions, ascending.

    Parameters
    ----------
    files : mapping
        From :func:`files_by_session`.

    Examples
    --------
    >>> name_months(files_by_session(["lake/bars_1m/session=2024-07-01/part-0.parquet"]))
    {'2024-07.7f7df20909e2cb6a3d900f841cf041ce': [datetime.date(2024, 7, 1)]}
    """
    months: dict[str, list[dt.date]] = {}
    for session in files:
        months.setdefault(f"{session:%Y-%m}", []).append(session)
    named: dict[str, list[dt.date]] = {}
    for month, sessions in months.items():
        names = [file.rsplit("/", 1)[-1] for session in sessions for file in files[session]]
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        named[f"{month}.{digest[:32]}"] = sessions
    return named


def choose_layout(
    months: Mapping[str, Sequence[dt.date]], copies: Iterable[str], wanted: Collection[dt.date]
) -> tuple[list[str], list[dt.date]]:
    """Divide the sessions wanted of some symbols between the two layouts.

    Parameters
    ----------
    months : mapping
        From :func:`name_months`.
    copies : iterable of str
        Partitions of the table by symbol: a month's name, a point, and the number of a block.
    wanted : collection of date
        Sessions.

    Returns
    -------
    (list of str, list of date)
        Copies to read, of which only the wanted sessions count; and the other wanted sessions.
        Of a month at least half must be wanted: a symbol's month is decoded as a whole.
    """
    blocks: dict[str, list[str]] = {}
    for copy in sorted(copies):
        blocks.setdefault(copy.rpartition(".")[0], []).append(copy)
    chosen: list[str] = []
    rest: list[dt.date] = []
    asked = set(wanted)
    for name, sessions in months.items():
        here = [s for s in sessions if s in asked]
        if name in blocks and 2 * len(here) >= len(sessions):
            chosen += blocks[name]
        else:
            rest += here
    return chosen, rest
