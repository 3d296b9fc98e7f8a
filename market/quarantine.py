"""Bars that may not be served, kept beside those that may, each with its reason and source row.

A verdict can change when later bars arrive: a jump is held until the next bar confirms it, a
spike is one only once the price has come back. So an ingest judges not only what it fetched but
also the sessions near it again, from the rows as they were received, served or held. What a
session holds in the end depends on the rows within a bounded distance of it and not on the
order or the size of the steps in which they came.

Minutes are judged inside their session, and held against the session's official daily bar where
the lake has a settled one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import polars as pl

from market import calendar
from market.lake import Lake
from market.quality import inspect_bars
from market.quality_rules import HELD_SCHEMA, OPEN_TO_REVIEW, QualityRules
from market.schema import BAR_SCHEMA, Bar
from market.source import EVERY
from market.timeframes import Timeframe

ASKED, PLACE = "asked_session", "place"
_KEYS = [Bar.SYMBOL, Bar.BAR_START]


def quarantine_table(timeframe: Timeframe) -> str:
    """Return the lake table of these bars' quarantine."""
    return f"quarantine_{timeframe.value}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What verdicts rest on beside the bars.

    Attributes
    ----------
    rules : QualityRules
        Thresholds and severities.
    splits, dividends : pl.DataFrame
        Actions of the judged sessions and of those :func:`sessions_of_interest` adds.
    second : pl.DataFrame or None
        Daily bars of another source for the same sessions.
    """

    rules: QualityRules
    splits: pl.DataFrame
    dividends: pl.DataFrame
    second: pl.DataFrame | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What sessions hold from now on, for the symbols that were judged.

    Attributes
    ----------
    bars : pl.DataFrame
        ``BAR_SCHEMA``: to be served, of the fetched sessions and of ``changed``.
    held : pl.DataFrame
        ``HELD_SCHEMA``: to be kept apart, of the same sessions.
    changed : tuple of date
        Sessions near the fetched ones of which something changed.
    withdrawn, released : pl.DataFrame
        ``HELD_SCHEMA``: rows of ``changed`` that were served so far and no longer are, and rows
        that were held so far and no longer are.
    """

    bars: pl.DataFrame
    held: pl.DataFrame
    changed: tuple[dt.date, ...]
    withdrawn: pl.DataFrame
    released: pl.DataFrame


def reach(timeframe: Timeframe, rules: QualityRules, *, has_second: bool) -> tuple[int, int]:
    """Return how many sessions before and after a bar its verdict can rest on.

    Zero for minutes: nothing outside its session changes a minute's verdict.
    """
    if timeframe is not Timeframe.D1:
        return 0, 0
    after = max(1, rules.repeat_sessions, rules.scale_sessions // 2 if has_second else 0)
    return max(rules.usual_sessions + 2, after), after


def sessions_of_interest(
    timeframe: Timeframe, sessions: Sequence[dt.date], rules: QualityRules, *, has_second: bool
) -> tuple[dt.date, dt.date]:
    """Return the first and the last session that bear on what an ingest of these may change."""
    around = sum(reach(timeframe, rules, has_second=has_second))
    first = calendar.sessions_around(sessions[0], around, 0)[0]
    return first, calendar.sessions_around(sessions[-1], 0, around)[-1]


def judge(
    lake: Lake,
    timeframe: Timeframe,
    fetched: pl.DataFrame,
    sessions: Sequence[dt.date],
    symbols: Sequence[str],
    evidence: Evidence,
    unfinished: Iterable[dt.date] = (),
) -> Verdict:
    """Part fetched bars into those to serve and those to hold, and judge those near them again.

    Parameters
    ----------
    lake : Lake
        Its bars and its quarantine are read, not written; hold its lock.
    timeframe : Timeframe
        ``1m`` or ``1d``.
    fetched : pl.DataFrame
        Rows as received. Those of sessions that were not asked for are left out; those that
        belong to no session at all are held.
    sessions : sequence of date
        Those that were asked for, ascending.
    symbols : sequence of str
        Those that were asked for.
    evidence : Evidence
        Rules, actions, second source.
    unfinished : iterable of date
        Sessions that an earlier ingest had begun to change: they count as changed.

    Returns
    -------
    Verdict
        To be written.
    """
    rules = evidence.rules
    before, after = reach(timeframe, rules, has_second=evidence.second is not None)
    asked = set(sessions)
    # Whatever rests on a fetched session is judged again, from all that it rests on itself.
    around = _around(asked, after, before) - asked
    context = _around(asked | around, before, after) - asked - around
    on_file = _mine(read_held(lake, timeframe, around), symbols)
    is_open = pl.col("reason").is_in([r.value for r in OPEN_TO_REVIEW])
    open_cases = on_file.filter(is_open)
    again = _as_received(lake, timeframe, around, symbols, open_cases)
    held_there = _mine(read_held(lake, timeframe, context), symbols).filter(is_open)
    if timeframe is Timeframe.M1:
        # Both are of one vendor and in the same view: no factor lies between them.
        rules = replace(rules, scale_sessions=0)
    found = inspect_bars(
        _asked_for(fetched, sessions, again),
        timeframe=timeframe,
        splits=evidence.splits,
        dividends=evidence.dividends,
        rules=rules,
        history=_as_received(lake, timeframe, context, symbols, held_there),
        second=evidence.second,
        report=False,
    )
    held = _filed(found.quarantined, sessions, around, open_cases)
    if not around:
        return Verdict(found.good, held, (), held.clear(), held.clear())
    withdrawn, released, retold = _differences(
        held.filter(pl.col(ASKED).is_in(list(around))), open_cases
    )
    different = pl.concat([withdrawn, released, retold])[ASKED]
    changed = sorted({*different, *around.intersection(unfinished)})
    closed_cases = on_file.filter(~is_open & pl.col(ASKED).is_in(changed))
    kept = [*sessions, *changed]
    return Verdict(
        bars=found.good.filter(pl.col(Bar.SESSION).is_in(kept)),
        held=pl.concat([held.filter(pl.col(ASKED).is_in(kept)), closed_cases]),
        changed=tuple(changed),
        withdrawn=withdrawn,
        released=released,
    )


def read_held(lake: Lake, timeframe: Timeframe, sessions: Iterable[dt.date]) -> pl.DataFrame:
    """Return what is held of sessions that were asked for (``HELD_SCHEMA``)."""
    table, days = quarantine_table(timeframe), list(sessions)
    if not days or not lake.exists(table):
        return pl.DataFrame(schema=HELD_SCHEMA)
    rows = lake.scan(table).filter(pl.col(ASKED).is_in(days))
    return rows.select(HELD_SCHEMA.names()).sort(ASKED, PLACE).collect()


def numbered(held: pl.DataFrame) -> pl.DataFrame:
    """Return held rows in their order, numbered within the session that was asked for."""
    ordered = held.sort(ASKED, *_KEYS, "reason", "source_row", "detail", nulls_last=True)
    return ordered.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).over(ASKED).alias(PLACE))


def _around(sessions: set[dt.date], before: int, after: int) -> set[dt.date]:
    if not before + after:
        return set()
    return {d for s in sessions for d in calendar.sessions_around(s, before, after)}


def among(symbols: Sequence[str]) -> pl.Expr:
    """Return whether a row's symbol is one of these; every row's is with ``EVERY``."""
    return pl.lit(value=True) if EVERY in symbols else pl.col(Bar.SYMBOL).is_in(list(symbols))


def _mine(held: pl.DataFrame, symbols: Sequence[str]) -> pl.DataFrame:
    return held.filter(among(symbols) | pl.col(Bar.SYMBOL).is_null())


def _as_received(
    lake: Lake,
    timeframe: Timeframe,
    sessions: set[dt.date],
    symbols: Sequence[str],
    held: pl.DataFrame,
) -> pl.DataFrame:
    """Return the rows of sessions that count as evidence, served and held ones."""
    rows, table = held.select(BAR_SCHEMA.names()), f"bars_{timeframe.value}"
    if not sessions or not lake.exists(table):
        return rows
    some = None if EVERY in symbols else symbols
    served = (
        lake.scan_bars(table, start=min(sessions), end=max(sessions), symbols=some)
        .filter(pl.col(Bar.SESSION).is_in(list(sessions)))
        .collect()
    )
    # A row in both was being moved when a process ended: it is one row.
    return pl.concat([served, rows.join(served, on=_KEYS, how="anti")])


def _asked_for(
    fetched: pl.DataFrame, sessions: Sequence[dt.date], again: pl.DataFrame
) -> pl.DataFrame:
    session = pl.col(Bar.SESSION).cast(pl.Date, strict=False)
    others = set(fetched.select(session.unique()).to_series().drop_nulls()) - set(sessions)
    unasked = [day for day in others if calendar.is_session(day)]
    mine = fetched
    if unasked:
        mine = fetched.filter(~session.is_in(unasked).fill_null(value=False))
    return pl.concat([mine, again], how="diagonal_relaxed") if again.height else mine


def _filed(
    quarantined: pl.DataFrame,
    sessions: Sequence[dt.date],
    around: set[dt.date],
    open_cases: pl.DataFrame,
) -> pl.DataFrame:
    """Return held rows under the session they were asked for, with the row as first received."""
    days = pl.DataFrame({ASKED: list(sessions)}).set_sorted(ASKED)
    new_york = pl.col(Bar.BAR_START).dt.convert_time_zone(str(calendar.NEW_YORK)).dt.date()
    is_known = pl.col(Bar.SESSION).is_in([*sessions, *around])
    nearest = (
        quarantined.with_columns(
            own=pl.when(is_known).then(pl.col(Bar.SESSION)), day=new_york.fill_null(sessions[0])
        )
        .sort("day", maintain_order=True)
        .join_asof(days, left_on="day", right_on=ASKED, strategy="backward", coalesce=False)
    )
    first = open_cases.select(*_KEYS, pl.col("source_row").alias("first"))
    return (
        nearest.join(first, on=_KEYS, how="left")
        .with_columns(
            pl.coalesce("own", ASKED, pl.lit(sessions[0])).alias(ASKED),
            pl.lit(0, pl.Int64).alias(PLACE),
            pl.coalesce("first", "source_row").alias("source_row"),
        )
        .select(HELD_SCHEMA.names())
    )


def _differences(
    now: pl.DataFrame, before: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return the rows that are held now only, that were held before only, and told otherwise."""
    story = [*_KEYS, "reason", "detail"]
    both = now.join(before, on=_KEYS, how="semi")
    return (
        now.join(before, on=_KEYS, how="anti"),
        before.join(now, on=_KEYS, how="anti"),
        both.join(before, on=story, how="anti"),
    )
