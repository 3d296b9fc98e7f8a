"""Bars from a source into the lake: whole sessions, idempotent, resumable.

Which symbols of which session were fetched, and whether the session was over by then, is kept
beside the bars. A settled session that is there already costs no request.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from market import calendar
from market.errors import MarketError, SourceError
from market.lake import Lake
from market.schema import BAR_SCHEMA, UTC_MICROSECONDS, Bar, conform
from market.source import BarSource
from market.timeframes import Timeframe

Progress = Callable[[int, int], None]

LOG_TABLE = "ingest_log"
LOG_SCHEMA = pl.Schema(
    {
        "timeframe": pl.String(),
        "session": pl.Date(),
        "fetched_at": UTC_MICROSECONDS,
        "settled": pl.Boolean(),
        "source": pl.String(),
        "symbols": pl.List(pl.String()),
    }
)
# Bars of this many symbol-sessions are held in memory and committed at once.
_CHUNK_BARS = 1_500_000
# The vendor may still correct a bar minutes after the close.
SETTLE_DELAY = dt.timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What an ingest did.

    Attributes
    ----------
    bars : int
        Bars written.
    fetched, skipped : int
        Sessions asked for, and settled ones that were there already.
    empty : tuple of date
        Sessions for which the source had nothing at all: holes, to be asked for again.
    """

    bars: int
    fetched: int
    skipped: int
    empty: tuple[dt.date, ...]


def ingest(
    lake: Lake,
    source: BarSource,
    timeframe: Timeframe,
    sessions: Sequence[dt.date],
    symbols: Sequence[str],
    *,
    now: dt.datetime,
    progress: Progress | None = None,
) -> IngestResult:
    """Fetch what the lake lacks of these sessions and symbols.

    Parameters
    ----------
    lake : Lake
        Where to.
    source : BarSource
        Where from.
    timeframe : Timeframe
        ``1m`` or ``1d``.
    sessions : sequence of date
        Ascending.
    symbols : sequence of str
        Rows of other symbols already in the lake stay.
    now : datetime
        Aware. Sessions that have not opened by then are refused; one that is not over is
        fetched as far as it is, and again next time.
    progress : callable, optional
        Called with (sessions done, sessions in all).

    Raises
    ------
    MarketError
        On another timeframe, no symbols, or a session in the future.
    SourceError
        When the source fails, or has nothing for any of the sessions. Chunks committed
        before stay, and are not fetched again.
    """
    _validate(timeframe, sessions, symbols, now)
    wanted = sorted(set(symbols))
    missing = missing_sessions(lake, timeframe, sessions, wanted)
    per_session = len(wanted) * (calendar.REGULAR_MINUTES if timeframe is Timeframe.M1 else 1)
    size = max(1, _CHUNK_BARS // per_session)
    bars, empty = 0, list[dt.date]()
    for begin in range(0, len(missing), size):
        chunk = missing[begin : begin + size]
        written, holes = _fetch_chunk(lake, source, timeframe, chunk, wanted, now)
        bars += written
        empty += holes
        if progress is not None:
            progress(min(begin + size, len(missing)), len(missing))
    if missing and len(empty) == len(missing):
        raise SourceError(
            f"{source.name} has no {timeframe} bars at all for these sessions",
            got=f"{missing[0]} to {missing[-1]}, {len(wanted)} symbols",
            allowed="sessions that the source covers",
            remedy="check the dates, the symbols and the data plan",
        )
    return IngestResult(bars, len(missing), len(sessions) - len(missing), tuple(empty))


def read_log(lake: Lake, timeframe: Timeframe) -> dict[dt.date, set[str]]:
    """Return the symbols that were fetched of each settled session."""
    if not lake.exists(LOG_TABLE):
        return {}
    rows = (
        lake.scan(LOG_TABLE)
        .filter((pl.col("timeframe") == timeframe.value) & pl.col("settled"))
        .select("session", "symbols")
        .collect()
    )
    return {session: set(symbols) for session, symbols in rows.iter_rows()}


def missing_sessions(
    lake: Lake, timeframe: Timeframe, sessions: Sequence[dt.date], symbols: Sequence[str]
) -> list[dt.date]:
    """Return the sessions that are not settled in the lake for every one of these symbols."""
    log, wanted = read_log(lake, timeframe), set(symbols)
    return [s for s in sessions if not log.get(s, set()).issuperset(wanted) or s not in log]


def ingested_symbols(lake: Lake) -> set[str]:
    """Return every symbol that was ever ingested."""
    if not lake.exists(LOG_TABLE):
        return set()
    column = lake.scan(LOG_TABLE).select(pl.col("symbols").explode().unique()).collect()
    return set(column["symbols"].drop_nulls())


def bars_table(timeframe: Timeframe) -> str:
    """Return the lake table of these bars."""
    return f"bars_{timeframe.value}"


def _validate(
    timeframe: Timeframe, sessions: Sequence[dt.date], symbols: Sequence[str], now: dt.datetime
) -> None:
    if timeframe not in (Timeframe.M1, Timeframe.D1):
        raise MarketError(
            "bars of this length are not ingested",
            got=timeframe.value,
            allowed="1m and 1d; others are resampled from them",
            remedy="ingest 1m or 1d",
        )
    if not symbols or not sessions:
        raise MarketError(
            "nothing to ingest",
            got=f"{len(symbols)} symbols, {len(sessions)} sessions",
            allowed="at least one of each",
            remedy="name symbols, and dates that include a trading day",
        )
    if calendar.session_open(sessions[-1]) > now:
        raise MarketError(
            "session in the future",
            got=sessions[-1].isoformat(),
            allowed=f"sessions that have opened by {now.isoformat()}",
            remedy="choose an earlier end",
        )


def _fetch_chunk(
    lake: Lake,
    source: BarSource,
    timeframe: Timeframe,
    sessions: Sequence[dt.date],
    symbols: Sequence[str],
    now: dt.datetime,
) -> tuple[int, list[dt.date]]:
    table = bars_table(timeframe)
    fetched = source.bars(symbols, timeframe, sessions[0], sessions[-1])
    fresh = conform(fetched, BAR_SCHEMA, table).filter(pl.col(Bar.SESSION).is_in(list(sessions)))
    found = set(fresh[Bar.SESSION].unique())
    empty = [s for s in sessions if s not in found]
    full = [s for s in sessions if s in found]
    if full:
        kept = _others(lake, table, full, symbols)
        rows = pl.concat([kept, fresh]).sort(Bar.SYMBOL, Bar.BAR_START)
        lake.replace(table, rows, full)
        _remember(lake, source, timeframe, full, symbols, now)
    return fresh.height, empty


def _others(
    lake: Lake, table: str, sessions: Sequence[dt.date], symbols: Sequence[str]
) -> pl.DataFrame:
    if not lake.exists(table):
        return pl.DataFrame(schema=BAR_SCHEMA)
    return (
        lake.scan(table)
        .filter(
            pl.col(Bar.SESSION).is_in(list(sessions)) & ~pl.col(Bar.SYMBOL).is_in(list(symbols))
        )
        .select(BAR_SCHEMA.names())
        .collect()
    )


def _remember(
    lake: Lake,
    source: BarSource,
    timeframe: Timeframe,
    sessions: Sequence[dt.date],
    symbols: Sequence[str],
    now: dt.datetime,
) -> None:
    before = read_log(lake, timeframe)
    rows = pl.DataFrame(
        [
            {
                "timeframe": timeframe.value,
                "session": s,
                "fetched_at": now,
                "settled": calendar.session_close(s) + SETTLE_DELAY <= now,
                "source": source.name,
                "symbols": sorted(before.get(s, set()) | set(symbols)),
            }
            for s in sessions
        ],
        schema=LOG_SCHEMA,
    )
    if lake.exists(LOG_TABLE):
        old = lake.scan(LOG_TABLE).select(LOG_SCHEMA.names()).collect()
        rows = pl.concat([old.join(rows, on=["timeframe", "session"], how="anti"), rows])
    lake.replace(LOG_TABLE, rows.sort("timeframe", "session"), None)
