"""Bars from a source into the lake: whole sessions, idempotent, resumable.

Which symbols of which session were fetched, and whether the session was over by then, is kept
beside the bars. A settled session that is there already costs no request.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from market import calendar
from market.errors import MarketError, SourceError
from market.frame_hash import frame_hash
from market.lake import Lake
from market.quality_rules import DEFAULT_RULES, QualityRules
from market.quarantine import (
    Evidence,
    Verdict,
    judge,
    numbered,
    quarantine_table,
    read_held,
    sessions_of_interest,
)
from market.schema import BAR_SCHEMA, DIVIDEND_SCHEMA, SPLIT_SCHEMA, UTC_MICROSECONDS, Bar, Ticker
from market.schema import empty as empty_frame
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
        # Joined by commas: thousands of symbols are the same text session after session.
        "symbols": pl.String(),
        "content": pl.String(),
    }
)
# Bars of this many symbol-sessions are held in memory and committed at once.
_CHUNK_BARS = 1_500_000
# Stands for the content of a session that is being judged again, until that is written.
_CHANGING = "changing"
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
        Sessions that were settled before and are different now: the source tells them otherwise,
        or later bars changed a verdict. The bars as they were stay readable as an older version
        of the table.
    held : mapping of str to int
        Rows that were fetched and went to quarantine, by reason.
    withdrawn, released : int
        Rows of earlier sessions that were served so far and are held now, and the other way.
    """

    bars: int
    fetched: int
    skipped: int
    empty: tuple[dt.date, ...]
    revised: tuple[dt.date, ...] = ()
    held: Mapping[str, int] = field(default_factory=dict[str, int])
    withdrawn: int = 0
    released: int = 0

    def plus(self, more: IngestResult) -> IngestResult:
        """Return both results as one."""
        return IngestResult(
            self.bars + more.bars,
            self.fetched + more.fetched,
            self.skipped + more.skipped,
            self.empty + more.empty,
            self.revised + more.revised,
            dict(Counter(self.held) + Counter(more.held)),
            self.withdrawn + more.withdrawn,
            self.released + more.released,
        )


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
    rules: QualityRules = DEFAULT_RULES,
    second: BarSource | None = None,
    progress: Progress | None = None,
) -> IngestResult:
    """Fetch what the lake lacks of these sessions and symbols; hold what cannot be trusted.

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
        Aware. Sessions that have not begun by then are refused (daily bars at the open, minutes
        at 04:00 New York); one that is not over is fetched as far as it is, and again next time.
    policy : RefetchPolicy
        When settled sessions are asked for again; never by default.
    rules : QualityRules
        Which bars are served, and which are held in quarantine with their reason.
    second : BarSource, optional
        Another source of daily bars, which these are held against.
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
    if timeframe is not Timeframe.D1 or not missing:
        second = None  # Minutes are held against the daily bars in the lake.
    there = set(second.tickers()[Ticker.SYMBOL]) if second is not None else set[str]()
    shared = [s for s in wanted if s in there]
    order = _Order(source, timeframe, wanted, now, rules, second, shared)
    done = IngestResult(0, 0, len(sessions) - len(missing), ())
    for begin in range(0, len(missing), size):
        done = done.plus(_fetch_chunk(lake, order, missing[begin : begin + size]))
        if progress is not None:
            progress(min(begin + size, len(missing)), len(missing))
    # Before the open there may be no trade yet.
    opened = [s for s in missing if calendar.session_open(s) <= now]
    if opened and len(done.empty) == len(missing):
        raise SourceError(
            f"{source.name} has no {timeframe} bars at all for these sessions",
            got=f"{missing[0]} to {missing[-1]}, {len(wanted)} symbols",
            allowed="sessions that the source covers",
            remedy="check the dates, the symbols and the data plan",
        )
    return done


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
        if entry is None or not entry.settled or not entry.symbols.issuperset(wanted):
            return True
        return policy.is_due(session, entry.fetched_at, now)

    return [s for s in sessions if is_missing(s)]


def ingested_symbols(lake: Lake) -> set[str]:
    """Return every symbol that was ever ingested."""
    if not lake.exists(LOG_TABLE):
        return set()
    texts = lake.scan(LOG_TABLE).select(pl.col("symbols").unique()).collect()["symbols"]
    return {symbol for text in texts for symbol in text.split(",")}


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
    if _first_bar(timeframe, sessions[-1]) > now:
        raise MarketError(
            "session in the future",
            got=sessions[-1].isoformat(),
            allowed=f"sessions of which there are bars by {now.isoformat()}",
            remedy="choose an earlier end",
        )


def _first_bar(timeframe: Timeframe, session: dt.date) -> dt.datetime:
    """Return the earliest moment at which a session can have bars: minutes begin at 04:00."""
    if timeframe is Timeframe.M1:
        return dt.datetime.combine(session, dt.time(4), calendar.NEW_YORK)
    return calendar.session_open(session)


@dataclass(frozen=True, slots=True)
class _Order:
    """What is fetched from where, and how it is judged."""

    source: BarSource
    timeframe: Timeframe
    symbols: Sequence[str]
    now: dt.datetime
    rules: QualityRules
    second: BarSource | None
    known_there: Sequence[str]


def _fetch_chunk(lake: Lake, order: _Order, sessions: Sequence[dt.date]) -> IngestResult:
    timeframe, symbols = order.timeframe, order.symbols
    fetched = order.source.bars(symbols, timeframe, sessions[0], sessions[-1])
    evidence = _gather(order, sessions)
    # Another process may have written other symbols of these sessions in the meantime.
    with lake.locked():
        if timeframe is Timeframe.M1:
            evidence = replace(evidence, second=_official_bars(lake, sessions, symbols))
        unfinished = [s for s, e in read_log(lake, timeframe).items() if e.content == _CHANGING]
        verdict = judge(lake, timeframe, fetched, sessions, symbols, evidence, unfinished)
        found = {*verdict.bars[Bar.SESSION].unique(), *verdict.held["asked_session"].unique()}
        empty = tuple(s for s in sessions if s not in found)
        full = [s for s in sessions if s in found]
        if not full:
            return IngestResult(0, len(sessions), 0, empty)
        revised = _write(lake, order, full, verdict)
    own = verdict.held.filter(pl.col("asked_session").is_in(full))
    return IngestResult(
        bars=verdict.bars.height
        - verdict.bars.select(pl.col(Bar.SESSION).is_in(verdict.changed).sum()).item(),
        fetched=len(sessions),
        skipped=0,
        empty=empty,
        revised=tuple(revised),
        held=dict(own.group_by("reason").len().sort("reason").iter_rows()),
        withdrawn=verdict.withdrawn.height,
        released=verdict.released.height,
    )


def _gather(order: _Order, sessions: Sequence[dt.date]) -> Evidence:
    if order.timeframe is not Timeframe.D1:
        nothing = empty_frame(SPLIT_SCHEMA), empty_frame(DIVIDEND_SCHEMA)
        return Evidence(order.rules, *nothing)
    start, end = sessions_of_interest(
        order.timeframe, sessions, order.rules, has_second=order.second is not None
    )
    second = None
    if order.second is not None and order.known_there:
        settled = _last_settled(sessions[-1], end, order.now)
        second = order.second.bars(order.known_there, order.timeframe, start, settled)
    return Evidence(
        order.rules,
        order.source.splits(order.symbols, start, end),
        order.source.dividends(order.symbols, start, end),
        second,
    )


def _last_settled(last: dt.date, end: dt.date, now: dt.datetime) -> dt.date:
    # A day that is not over is told differently by two sources at two moments.
    while end > last and calendar.session_open(end) > now:
        end = calendar.previous_session(end)
    return end if _is_settled(end, now) else calendar.previous_session(end)


def _official_bars(
    lake: Lake, sessions: Sequence[dt.date], symbols: Sequence[str]
) -> pl.DataFrame | None:
    settled = settled_sessions(lake, Timeframe.D1).intersection(sessions)
    if not settled:
        return None
    official = lake.scan_bars(
        bars_table(Timeframe.D1), start=min(settled), end=max(settled), symbols=symbols
    )
    return official.filter(pl.col(Bar.SESSION).is_in(list(settled))).collect()


def _write(lake: Lake, order: _Order, full: Sequence[dt.date], verdict: Verdict) -> list[dt.date]:
    """Write bars, quarantine and log so that a row is in one of them whenever this ends."""
    table, apart = bars_table(order.timeframe), quarantine_table(order.timeframe)
    sessions = [*full, *verdict.changed]
    # Provisional rows of other symbols may not end up in a session that counts as settled.
    log = read_log(lake, order.timeframe)
    turning = [s for s in full if s in log and not log[s].settled and _is_settled(s, order.now)]
    kept = _others(lake, table, sessions, order.symbols)
    kept = kept.filter(~pl.col(Bar.SESSION).is_in(turning))
    rows = verdict.bars
    if kept.height:
        rows = pl.concat([kept, rows]).sort(Bar.SYMBOL, Bar.BAR_START)
    asked = pl.col("asked_session")
    others = read_held(lake, order.timeframe, sessions)
    others = others.filter(~pl.col(Bar.SYMBOL).is_in(list(order.symbols)), ~asked.is_in(turning))
    held = pl.concat([others, verdict.held])
    _mark(lake, order.timeframe, verdict.changed)
    if verdict.released.height:
        lake.replace(apart, numbered(pl.concat([held, verdict.released])), sessions)
    elif held.height or lake.exists(apart):
        lake.replace(apart, numbered(held), sessions)
    lake.replace(table, rows, sessions)
    if verdict.released.height:
        lake.replace(apart, numbered(held), sessions)
    return _remember(lake, order, rows, full, verdict.changed)


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


def _remember(
    lake: Lake,
    order: _Order,
    bars: pl.DataFrame,
    fetched: Sequence[dt.date],
    changed: Sequence[dt.date],
) -> list[dt.date]:
    """Write down what was fetched; return the settled sessions whose bars are different now."""
    before = read_log(lake, order.timeframe)
    entries: list[dict[str, object]] = []
    revised: list[dt.date] = []
    touched = sorted([*fetched, *changed])
    parts = {(touched[0],): bars}
    if len(touched) > 1:
        parts = bars.partition_by(Bar.SESSION, as_dict=True)
    nothing = bars.clear()
    for session in touched:
        old, content = before.get(session), frame_hash(parts.get((session,), nothing))
        known = old.symbols if old and old.settled else frozenset[str]()
        if old and old.settled and old.content != content and known.issuperset(order.symbols):
            revised.append(session)
        entry: dict[str, object] = {
            "timeframe": order.timeframe.value,
            "session": session,
            "fetched_at": order.now,
            "settled": _is_settled(session, order.now),
            "source": order.source.name,
            "symbols": ",".join(sorted(known | set(order.symbols))),
            "content": content,
        }
        if session in changed:
            if old is None:  # Its ingest was cut short, and is done again by itself.
                continue
            entry |= {
                "fetched_at": old.fetched_at,
                "settled": old.settled,
                "source": old.source,
                "symbols": ",".join(sorted(old.symbols)),
            }
        entries.append(entry)
    _log(lake, pl.DataFrame(entries, schema=LOG_SCHEMA))
    return revised


def _mark(lake: Lake, timeframe: Timeframe, changing: Sequence[dt.date]) -> None:
    if changing:
        mine = (pl.col("timeframe") == timeframe.value) & pl.col("session").is_in(list(changing))
        entries = lake.scan(LOG_TABLE).filter(mine).select(LOG_SCHEMA.names()).collect()
        _log(lake, entries.with_columns(pl.lit(_CHANGING).alias("content")))


def _log(lake: Lake, entries: pl.DataFrame) -> None:
    rows = entries
    if lake.exists(LOG_TABLE):
        stored = lake.scan(LOG_TABLE).select(LOG_SCHEMA.names()).collect()
        rows = pl.concat([stored.join(rows, on=["timeframe", "session"], how="anti"), rows])
    lake.replace(LOG_TABLE, rows.sort("timeframe", "session"), None)
