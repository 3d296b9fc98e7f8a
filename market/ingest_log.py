"""What is remembered of every session that was fetched: when, from where, for which symbols."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl

from market import calendar
from market.lake import Lake
from market.schema import UTC_MICROSECONDS
from market.source import EVERY
from market.timeframes import Timeframe

LOG_TABLE = "ingest_log"
LOG_SCHEMA = pl.Schema(
    {
        "timeframe": pl.String(),
        "session": pl.Date(),
        "fetched_at": UTC_MICROSECONDS,
        "settled": pl.Boolean(),
        "source": pl.String(),
        # Joined by commas: thousands of symbols are the same text session after session.
        "symbols": pl.String(),
        "content": pl.String(),
    }
)
# Stands for the content of a session that is being judged again, until that is written.
CHANGING = "changing"
# The vendor may still correct a bar minutes after the close.
SETTLE_DELAY = dt.timedelta(minutes=15)


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


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What is remembered of a session that was fetched."""

    fetched_at: dt.datetime
    settled: bool
    symbols: frozenset[str]
    content: str
    source: str


def read_log(lake: Lake, timeframe: Timeframe) -> dict[dt.date, LogEntry]:
    """Return what is remembered of each session of a timeframe."""
    if not lake.exists(LOG_TABLE):
        return {}
    rows = lake.scan(LOG_TABLE).filter(pl.col("timeframe") == timeframe.value).collect()
    texts = rows["symbols"].unique(maintain_order=True)
    sets = [frozenset(text.split(",")) for text in texts]
    which = rows["symbols"].replace_strict(
        texts, pl.int_range(texts.len(), eager=True), return_dtype=pl.Int64
    )
    entries = rows.select("session", "fetched_at", "settled", "content", "source").iter_rows()
    return {
        session: LogEntry(fetched_at, settled, sets[n], content, source)
        for n, (session, fetched_at, settled, content, source) in zip(which, entries, strict=True)
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
        if not is_refetch(entry, wanted):
            return True
        return policy.is_due(session, entry.fetched_at, now)  # type: ignore[union-attr]

    return [s for s in sessions if is_missing(s)]


def is_refetch(entry: LogEntry | None, wanted: Collection[str]) -> bool:
    """Say whether a session is settled for these symbols already."""
    if entry is None or not entry.settled:
        return False
    return EVERY in entry.symbols or entry.symbols.issuperset(wanted)


def ingested_symbols(lake: Lake, timeframe: Timeframe | None = None) -> set[str]:
    """Return every symbol that was ever ingested, of one timeframe or of any."""
    if not lake.exists(LOG_TABLE):
        return set()
    rows = lake.scan(LOG_TABLE)
    if timeframe is not None:
        rows = rows.filter(pl.col("timeframe") == timeframe.value)
    texts = rows.select(pl.col("symbols").unique()).collect()["symbols"]
    return {symbol for text in texts for symbol in text.split(",")}


def is_settled(session: dt.date, now: dt.datetime) -> bool:
    """Say whether a session was over, and corrected, by a moment."""
    return calendar.session_close(session) + SETTLE_DELAY <= now


def mark_changing(lake: Lake, timeframe: Timeframe, changing: Sequence[dt.date]) -> None:
    """Say of sessions that their content is about to change."""
    if changing:
        mine = (pl.col("timeframe") == timeframe.value) & pl.col("session").is_in(list(changing))
        entries = lake.scan(LOG_TABLE).filter(mine).select(LOG_SCHEMA.names()).collect()
        write_entries(lake, entries.with_columns(pl.lit(CHANGING).alias("content")))


def write_entries(lake: Lake, entries: pl.DataFrame) -> None:
    """Write entries (``LOG_SCHEMA``) in the place of those of the same sessions."""
    rows = entries
    if lake.exists(LOG_TABLE):
        stored = lake.scan(LOG_TABLE).select(LOG_SCHEMA.names()).collect()
        rows = pl.concat([stored.join(rows, on=["timeframe", "session"], how="anti"), rows])
    lake.replace(LOG_TABLE, rows.sort("timeframe", "session"), None)
