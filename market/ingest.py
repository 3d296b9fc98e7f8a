"""Bars from a source into the lake: whole sessions, idempotent, resumable.

Which symbols of which session were fetched, and whether the session was over by then, is kept
beside the bars. A settled session that is there already costs no request.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import polars as pl

from market import calendar
from market.errors import MarketError, SourceError
from market.lake import Lake, frame_hash
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
        "content": pl.String(),
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
    revised : tuple of date
        Sessions that were settled before and that the source now tells differently. The bars as
        they were stay readable as an older version of the table.
    """

    bars: int
    fetched: int
    skipped: int
    empty: tuple[dt.date, ...]
    revised: tuple[dt.date, ...] = ()


@dataclass(frozen=True, slots=True)
class RefetchPolicy:
    """When a settled session is asked for again.

    Attributes
    ----------
    day_after : bool
        Once, when the next session has opened: vendors correct overnight.
    every_weeks : int
        Each session again once in this many weeks, a rotating part of the history every week;
        0 for never.
    """

    day_after: bool = True
    every_weeks: int = 52

    def is_due(self, session: dt.date, fetched_at: dt.datetime, now: dt.datetime) -> bool:
        """Say whether a settled session is to be asked for again."""
        next_open = calendar.session_open(calendar.next_session(session))
        if self.day_after and fetched_at < next_open <= now:
            return True
        if not self.every_weeks:
            return False
        week = now.date().toordinal() // 7
        mine = (session.toordinal() + week) % self.every_weeks == 0
        return mine and fetched_at.date().toordinal() // 7 < week


NEVER_AGAIN = RefetchPolicy(day_after=False, every_weeks=0)


def ingest(
    lake: Lake,
    source: BarSource,
    timeframe: Timeframe,
    sessions: Sequence[dt.date],
    symbols: Sequence[str],
    *,
    now: dt.datetime,
    policy: RefetchPolicy = NEVER_AGAIN,
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
    policy : RefetchPolicy
        When settled sessions are asked for again; never by default.
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
    missing = missing_sessions(lake, timeframe, sessions, wanted, now=now, policy=policy)
    per_session = len(wanted) * (calendar.REGULAR_MINUTES if timeframe is Timeframe.M1 else 1)
    size = max(1, _CHUNK_BARS // per_session)
    bars, empty, revised = 0, list[dt.date](), list[dt.date]()
    for begin in range(0, len(missing), size):
        chunk = missing[begin : begin + size]
        written, holes, changed = _fetch_chunk(lake, source, timeframe, chunk, wanted, now)
        bars += written
        empty += holes
        revised += changed
        if progress is not None:
            progress(min(begin + size, len(missing)), len(missing))
    if missing and len(empty) == len(missing):
        raise SourceError(
            f"{source.name} has no {timeframe} bars at all for these sessions",
            got=f"{missing[0]} to {missing[-1]}, {len(wanted)} symbols",
            allowed="sessions that the source covers",
            remedy="check the dates, the symbols and the data plan",
        )
    skipped = len(sessions) - len(missing)
    return IngestResult(bars, len(missing), skipped, tuple(empty), tuple(revised))


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What is remembered of a session that was fetched."""

    fetched_at: dt.datetime
    settled: bool
    symbols: frozenset[str]
    content: str


def read_log(lake: Lake, timeframe: Timeframe) -> dict[dt.date, LogEntry]:
    """Return what is remembered of each session of a timeframe."""
    if not lake.exists(LOG_TABLE):
        return {}
    rows = lake.scan(LOG_TABLE).filter(pl.col("timeframe") == timeframe.value).collect()
    return {
        r["session"]: LogEntry(r["fetched_at"], r["settled"], frozenset(r["symbols"]), r["content"])
        for r in rows.to_dicts()
    }


def settled_sessions(lake: Lake, timeframe: Timeframe) -> set[dt.date]:
    """Return the sessions that were over when they were fetched: those that may be learned from."""
    return {s for s, entry in read_log(lake, timeframe).items() if entry.settled}


def missing_sessions(
    lake: Lake,
    timeframe: Timeframe,
    sessions: Sequence[dt.date],
    symbols: Sequence[str],
    *,
    now: dt.datetime,
    policy: RefetchPolicy = NEVER_AGAIN,
) -> list[dt.date]:
    """Return the sessions to ask for: not settled for every symbol, or due to be asked again."""
    log, wanted = read_log(lake, timeframe), set(symbols)

    def is_missing(session: dt.date) -> bool:
        entry = log.get(session)
        if entry is None or not entry.settled or not entry.symbols.issuperset(wanted):
            return True
        return policy.is_due(session, entry.fetched_at, now)

    return [s for s in sessions if is_missing(s)]


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
) -> tuple[int, list[dt.date], list[dt.date]]:
    table = bars_table(timeframe)
    fetched = source.bars(symbols, timeframe, sessions[0], sessions[-1])
    fresh = conform(fetched, BAR_SCHEMA, table).filter(pl.col(Bar.SESSION).is_in(list(sessions)))
    found = set(fresh[Bar.SESSION].unique())
    empty = [s for s in sessions if s not in found]
    full = [s for s in sessions if s in found]
    if not full:
        return 0, empty, []
    # Another process may have written other symbols of these sessions in the meantime.
    with lake.locked():
        kept = _others(lake, table, full, symbols)
        # Provisional rows of other symbols may not end up in a session that counts as settled.
        turning = [s for s, e in read_log(lake, timeframe).items() if not e.settled]
        turning = [s for s in turning if _is_settled(s, now)]
        kept = kept.filter(~pl.col(Bar.SESSION).is_in(turning))
        rows = fresh  # Sorted, as a source's bars are.
        if kept.height:
            rows = pl.concat([kept, fresh]).sort(Bar.SYMBOL, Bar.BAR_START)
        with ThreadPoolExecutor(1, "contents") as aside:  # While the rows are written.
            contents = aside.submit(_contents, rows)
            lake.replace(table, rows, full)
        revised = _remember(lake, source, timeframe, contents.result(), symbols, now)
    return fresh.height, empty, revised


def _is_settled(session: dt.date, now: dt.datetime) -> bool:
    return calendar.session_close(session) + SETTLE_DELAY <= now


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


def _contents(bars: pl.DataFrame) -> dict[dt.date, str]:
    """Return a digest of each session's bars."""
    parts = bars.partition_by(Bar.SESSION, as_dict=True)
    return {key[0]: frame_hash(part) for key, part in parts.items()}


def _remember(
    lake: Lake,
    source: BarSource,
    timeframe: Timeframe,
    contents: dict[dt.date, str],
    symbols: Sequence[str],
    now: dt.datetime,
) -> list[dt.date]:
    """Write down what was fetched; return the settled sessions whose bars are different now."""
    before = read_log(lake, timeframe)
    entries: list[dict[str, object]] = []
    revised: list[dt.date] = []
    for session, content in sorted(contents.items()):
        old = before.get(session)
        known = old.symbols if old and old.settled else frozenset[str]()
        if old and old.settled and old.content != content and known.issuperset(symbols):
            revised.append(session)
        entries.append(
            {
                "timeframe": timeframe.value,
                "session": session,
                "fetched_at": now,
                "settled": _is_settled(session, now),
                "source": source.name,
                "symbols": sorted(known | set(symbols)),
                "content": content,
            }
        )
    rows = pl.DataFrame(entries, schema=LOG_SCHEMA)
    if lake.exists(LOG_TABLE):
        stored = lake.scan(LOG_TABLE).select(LOG_SCHEMA.names()).collect()
        rows = pl.concat([stored.join(rows, on=["timeframe", "session"], how="anti"), rows])
    lake.replace(LOG_TABLE, rows.sort("timeframe", "session"), None)
    return revised
