"""Bars from a source into the lake: whole sessions, idempotent, resumable.

Which symbols of which session were fetched, and whether the session was over by then, is kept
beside the bars. A settled session that is there already costs no request.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import polars as pl

from market import calendar
from market.errors import MarketError, SourceError
from market.frame_hash import frame_hash
from market.ingest_log import (
    CHANGING,
    LOG_SCHEMA,
    NEVER_AGAIN,
    RefetchPolicy,
    is_refetch,
    is_settled,
    mark_changing,
    missing_sessions,
    read_log,
    settled_sessions,
    write_entries,
)
from market.lake import Lake
from market.quality_rules import DEFAULT_RULES, QualityRules
from market.quarantine import (
    Evidence,
    Verdict,
    among,
    judge,
    numbered,
    quarantine_table,
    read_held,
    sessions_of_interest,
)
from market.request_estimate import chunk_sessions
from market.schema import BAR_SCHEMA, DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar, Ticker
from market.schema import empty as empty_frame
from market.source import EVERY, BarSource, RemoteSource, check_same_adjustment
from market.timeframes import Timeframe

Progress = Callable[[int, int], None]

# Symbols that may trade in one session, for the size of a chunk.
_WHOLE_MARKET = 12_000


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
    wanted = [EVERY] if EVERY in symbols else sorted(set(symbols))
    log = read_log(lake, timeframe)
    check_same_adjustment(source, {entry.source for entry in log.values()})
    missing = missing_sessions(lake, timeframe, sessions, wanted, now=now, policy=policy)
    if isinstance(source, RemoteSource) and any(is_refetch(log.get(s), wanted) for s in missing):
        # Answers that were kept would say the same again.
        source = source.afresh()
    symbols_each = _WHOLE_MARKET if EVERY in wanted else len(wanted)
    size = chunk_sessions(timeframe, symbols_each)
    if timeframe is not Timeframe.D1 or not missing:
        second = None  # Minutes are held against the daily bars in the lake.
    there = set(second.tickers()[Ticker.SYMBOL]) if second is not None else set[str]()
    shared = sorted(there) if EVERY in wanted else [s for s in wanted if s in there]
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
    # In one piece: every rule compares rows with those before them.
    fetched = order.source.bars(symbols, timeframe, sessions[0], sessions[-1]).rechunk()
    evidence = _gather(order, sessions)
    # Another process may have written other symbols of these sessions in the meantime.
    with lake.locked():
        if timeframe is Timeframe.M1:
            evidence = replace(evidence, second=_official_bars(lake, sessions, symbols))
        unfinished = [s for s, e in read_log(lake, timeframe).items() if e.content == CHANGING]
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
    return end if is_settled(end, now) else calendar.previous_session(end)


def _official_bars(
    lake: Lake, sessions: Sequence[dt.date], symbols: Sequence[str]
) -> pl.DataFrame | None:
    settled = settled_sessions(lake, Timeframe.D1).intersection(sessions)
    if not settled:
        return None
    some = None if EVERY in symbols else symbols
    official = lake.scan_bars(
        bars_table(Timeframe.D1), start=min(settled), end=max(settled), symbols=some
    )
    return official.filter(pl.col(Bar.SESSION).is_in(list(settled))).collect()


def _write(lake: Lake, order: _Order, full: Sequence[dt.date], verdict: Verdict) -> list[dt.date]:
    """Write bars, quarantine and log so that a row is in one of them whenever this ends."""
    table, apart = bars_table(order.timeframe), quarantine_table(order.timeframe)
    sessions = [*full, *verdict.changed]
    # Provisional rows of other symbols may not end up in a session that counts as settled.
    log = read_log(lake, order.timeframe)
    turning = [s for s in full if s in log and not log[s].settled and is_settled(s, order.now)]
    kept = _others(lake, table, sessions, order.symbols)
    kept = kept.filter(~pl.col(Bar.SESSION).is_in(turning))
    rows = verdict.bars
    if kept.height:
        rows = pl.concat([kept, rows]).sort(Bar.SYMBOL, Bar.BAR_START)
    asked = pl.col("asked_session")
    others = read_held(lake, order.timeframe, sessions)
    others = others.filter(~among(order.symbols), ~asked.is_in(turning))
    held = pl.concat([others, verdict.held])
    mark_changing(lake, order.timeframe, verdict.changed)
    if verdict.released.height:
        lake.replace(apart, numbered(pl.concat([held, verdict.released])), sessions)
    elif held.height or lake.exists(apart):
        lake.replace(apart, numbered(held), sessions)
    with ThreadPoolExecutor(1, "contents") as aside:  # While the rows are written.
        contents = aside.submit(_contents, rows, sessions)
        lake.replace(table, rows, sessions)
    if verdict.released.height:
        lake.replace(apart, numbered(held), sessions)
    return _remember(lake, order, contents.result(), verdict.changed)


def _others(
    lake: Lake, table: str, sessions: Sequence[dt.date], symbols: Sequence[str]
) -> pl.DataFrame:
    if EVERY in symbols or not lake.exists(table):
        return pl.DataFrame(schema=BAR_SCHEMA)
    return (
        lake.scan(table)
        .filter(
            pl.col(Bar.SESSION).is_in(list(sessions)) & ~pl.col(Bar.SYMBOL).is_in(list(symbols))
        )
        .select(BAR_SCHEMA.names())
        .collect()
    )


def _contents(bars: pl.DataFrame, sessions: Sequence[dt.date]) -> dict[dt.date, str]:
    """Return a digest of each session's bars."""
    if len(sessions) == 1:
        return {sessions[0]: frame_hash(bars)}
    parts, nothing = bars.partition_by(Bar.SESSION, as_dict=True), bars.clear()
    return {s: frame_hash(parts.get((s,), nothing)) for s in sessions}


def _origin(source: BarSource, timeframe: Timeframe, session: dt.date) -> str:
    is_remote = isinstance(source, RemoteSource)
    return source.origin(timeframe, session) if is_remote else source.name


def _joined(symbols: Collection[str]) -> str:
    return EVERY if EVERY in symbols else ",".join(sorted(symbols))


def _remember(
    lake: Lake,
    order: _Order,
    contents: Mapping[dt.date, str],
    changed: Sequence[dt.date],
) -> list[dt.date]:
    """Write down what was fetched; return the settled sessions whose bars are different now."""
    before = read_log(lake, order.timeframe)
    entries: list[dict[str, object]] = []
    revised: list[dt.date] = []
    for session, content in sorted(contents.items()):
        old = before.get(session)
        known = old.symbols if old and old.settled else frozenset[str]()
        if old and old.content != content and is_refetch(old, order.symbols):
            revised.append(session)
        entry: dict[str, object] = {
            "timeframe": order.timeframe.value,
            "session": session,
            "fetched_at": order.now,
            "settled": is_settled(session, order.now),
            "source": _origin(order.source, order.timeframe, session),
            "symbols": _joined(known | {*order.symbols}),
            "content": content,
        }
        if session in changed:
            if old is None:  # Its ingest was cut short, and is done again by itself.
                continue
            entry |= {
                "fetched_at": old.fetched_at,
                "settled": old.settled,
                "source": old.source,
                "symbols": _joined(old.symbols),
            }
        entries.append(entry)
    write_entries(lake, pl.DataFrame(entries, schema=LOG_SCHEMA))
    return revised
