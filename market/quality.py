"""What is wrong with bars: which may be served, which are kept apart, and why.

:func:`inspect_bars` parts bars into good and quarantined; nothing is dropped or repaired.

**When a verdict can be known.** A bar is judged when it arrives, by itself and the bars before it.
Some faults show only later: that a move was a spike, when the next bar comes back; that a row
carries another day's prices, when that day arrives. The bar was served by then, and stays
served in what was computed from it; withdrawing it is a *revision* of its session. So:

- at ingest, ``bars`` are the new sessions and ``history`` the earlier bars: verdicts rest on
  nothing later, and ``suspects`` names the bars of history that the new ones expose;
- when sessions are inspected again, or in bulk, later bars are in the frame and count as
  evidence. The verdict may differ from the one at ingest, in both directions. ``evident_at``
  is the earliest moment at which each verdict was possible, for who replays the past exactly.
"""

from __future__ import annotations

import polars as pl

from market.errors import MarketError
from market.quality_minutes import (
    find_minute_holes,
    mark_copied_sessions,
    mark_minute_moves,
    mark_minute_repeats,
)
from market.quality_rules import (
    CIRCUMSTANTIAL,
    DEFAULT_RULES,
    FINDING_SCHEMA,
    QUARANTINE_SCHEMA,
    Inspection,
    QualityRules,
    Reason,
    Severity,
    mark,
)
from market.quality_series import (
    daily_moves,
    find_daily_holes,
    find_excess,
    mark_moves,
    mark_repeats,
    mark_stale,
)
from market.quality_structure import cast_rows, mark_duplicates, mark_impossible
from market.schema import BAR_SCHEMA, DIVIDEND_SCHEMA, SPLIT_SCHEMA, UTC_MICROSECONDS, Bar, conform
from market.second_source import compare_sources, daily_from_minutes
from market.timeframes import Timeframe

_KEYS = [Bar.SYMBOL, Bar.BAR_START]
_DAY = [Bar.SYMBOL, Bar.SESSION]


def inspect_bars(
    bars: pl.DataFrame,
    *,
    timeframe: Timeframe,
    splits: pl.DataFrame,
    dividends: pl.DataFrame,
    rules: QualityRules = DEFAULT_RULES,
    history: pl.DataFrame | None = None,
    second: pl.DataFrame | None = None,
    report: bool = True,
) -> Inspection:
    """Part bars into those that may be served and those that may not.

    Parameters
    ----------
    bars : pl.DataFrame
        At least the columns of ``BAR_SCHEMA``, raw prices, in any order, as received.
    timeframe : Timeframe
        ``1m`` or ``1d``.
    splits, dividends : pl.DataFrame
        ``SPLIT_SCHEMA`` and ``DIVIDEND_SCHEMA``; empty for bars that are adjusted already.
    rules : QualityRules
        Thresholds and severities.
    history : pl.DataFrame, optional
        Other bars known at this moment, as received, quarantined ones included (without them
        the bar after a held jump would look like one). Usually the sessions before; about 64
        let daily moves be judged, minutes need none. Rows that are also in ``bars`` give way.
    second : pl.DataFrame, optional
        Daily bars of another source in the same view, see
        :func:`market.second_source.compare_sources`; give those of history's sessions too.
        Minutes are held against it session by session.
    report : bool
        Whether findings are wanted; without them, rules that keep no bar apart are passed over.

    Returns
    -------
    Inspection
        ``good`` and ``quarantined`` partition the rows of ``bars``.

    Raises
    ------
    MarketError
        On another timeframe, or a frame that lacks columns.

    Examples
    --------
    >>> from market.schema import empty
    >>> nothing = empty(BAR_SCHEMA)
    >>> found = inspect_bars(nothing, timeframe=Timeframe.D1, splits=empty(SPLIT_SCHEMA),
    ...                      dividends=empty(DIVIDEND_SCHEMA))
    >>> found.good.height, found.quarantined.height
    (0, 0)
    """
    if timeframe not in (Timeframe.M1, Timeframe.D1):
        raise MarketError(
            "bars of this length are not inspected",
            got=timeframe.value,
            allowed="1m and 1d; others are resampled from them",
            remedy="inspect the bars they are made of",
        )
    received = _with_history(bars, history)
    rows, misfits = cast_rows(received, f"{timeframe} bars")
    own = pl.concat([misfits, mark_impossible(rows, timeframe)])
    rows, are_distinct = _sorted(rows)
    if not are_distinct:
        own = pl.concat([own, mark_duplicates(_without(rows, own, rules))])
    sound = _without(rows, own, rules)
    events = (
        conform(splits, SPLIT_SCHEMA, "splits"),
        conform(dividends, DIVIDEND_SCHEMA, "dividends"),
    )
    if timeframe is Timeframe.D1:
        marks, findings = _inspect_daily(sound, events, rules)
    else:
        marks, findings = _inspect_minutes(sound, rules, report=report)
    if second is not None:
        marks = _with_second(sound, marks, second, timeframe, rules)
    own = pl.concat([own, marks])
    return _parted(received, rows, own, findings, bars.height, rules, report=report)


def _with_history(bars: pl.DataFrame, history: pl.DataFrame | None) -> pl.DataFrame:
    # The inspected rows come first, so that their numbers are those of ``bars``.
    if history is None or history.is_empty():
        return bars
    keys = bars.select(pl.col(c).cast(BAR_SCHEMA[c], strict=False) for c in _KEYS)
    earlier = conform(history, BAR_SCHEMA, "history").join(keys, on=_KEYS, how="anti")
    return pl.concat([bars, earlier], how="diagonal_relaxed")


def _sorted(rows: pl.DataFrame) -> tuple[pl.DataFrame, bool]:
    """Return the rows sorted by their keys, and whether they were, each above the one before."""
    symbol, start = pl.col(Bar.SYMBOL), pl.col(Bar.BAR_START)
    rises = (symbol > symbol.shift(1)) | ((symbol == symbol.shift(1)) & (start > start.shift(1)))
    if rows.select(rises.slice(1).fill_null(value=False).all()).item():
        return rows, True
    return rows.sort(*_KEYS, "row"), False


def _without(rows: pl.DataFrame, marks: pl.DataFrame, rules: QualityRules) -> pl.DataFrame:
    barred = _quarantining(marks, rules)
    return rows.filter(~pl.col("row").is_in(barred["row"].implode())) if barred.height else rows


def _quarantining(marks: pl.DataFrame, rules: QualityRules) -> pl.DataFrame:
    reasons = [r.value for r in Reason if rules.severity(r) is Severity.QUARANTINE]
    return marks.filter(pl.col("reason").is_in(reasons))


def _inspect_daily(
    bars: pl.DataFrame, events: tuple[pl.DataFrame, pl.DataFrame], rules: QualityRules
) -> tuple[pl.DataFrame, pl.DataFrame]:
    moves = daily_moves(bars, *events, rules)
    odd = [mark_repeats(bars, rules), mark_moves(moves, rules.spike, rules.jump)]
    marks = pl.concat([*odd, mark_stale(bars, rules.stale_after(Timeframe.D1))])
    holes = _hole_findings(Reason.HOLE, find_daily_holes(bars), bars, rules)
    return marks, pl.concat([holes, find_excess(moves, pl.concat(odd)["row"], rules)])


def _inspect_minutes(
    bars: pl.DataFrame, rules: QualityRules, *, report: bool
) -> tuple[pl.DataFrame, pl.DataFrame]:
    marks = [mark_minute_repeats(bars, rules), mark_minute_moves(bars, rules)]
    if report or rules.severity(Reason.STALE) is Severity.QUARANTINE:
        marks.append(mark_stale(bars, rules.stale_after(Timeframe.M1)))
    if report or rules.severity(Reason.COPIED_SESSION) is Severity.QUARANTINE:
        marks.append(mark_copied_sessions(bars))
    if not report:
        return pl.concat(marks), pl.DataFrame(schema=FINDING_SCHEMA)
    missing = find_minute_holes(bars, rules)
    return pl.concat(marks), _hole_findings(Reason.MISSING_MINUTES, missing, bars, rules)


def _with_second(
    bars: pl.DataFrame,
    marks: pl.DataFrame,
    second: pl.DataFrame,
    timeframe: Timeframe,
    rules: QualityRules,
) -> pl.DataFrame:
    daily = bars
    if timeframe is not Timeframe.D1:
        daily = daily_from_minutes(bars)
    other = second.unique(_DAY, keep="none", maintain_order=True)
    apart = compare_sources(daily, other, rules)
    # The second source is the judge of what is merely implausible (a day's close of no minute).
    near = apart.filter(pl.col("off_close") <= rules.cleared_within).select(_DAY)
    near = near if timeframe is Timeframe.D1 else near.clear()
    doubted = [r.value for r in CIRCUMSTANTIAL]
    cleared = marks.filter(pl.col("reason").is_in(doubted)).join(near, on=_DAY, how="semi")
    kept = marks.join(cleared, on=["row", "reason"], how="anti")
    cleared = cleared.with_columns(
        pl.format("{}: {}", "reason", "detail").alias("detail"),
        pl.lit(Reason.CLEARED.value).alias("reason"),
    )
    found = bars.select("row", *_DAY).join(apart.filter(pl.col("reason").is_not_null()), on=_DAY)
    text = pl.format(
        "close {}%, bar {}% off",
        (pl.col("off_close") * 100).round(2),
        (pl.col("off") * 100).round(2),
    )
    disputed = [
        mark(
            found.filter(pl.col("reason") == reason.value),
            reason,
            pl.col("off"),
            text,
            pl.col(Bar.KNOWN_AT),
        )
        for reason in (Reason.SOURCES_DISAGREE, Reason.SOURCES_DIFFER)
    ]
    return pl.concat([kept, cleared, *disputed])


def _hole_findings(
    reason: Reason, holes: pl.DataFrame, bars: pl.DataFrame, rules: QualityRules
) -> pl.DataFrame:
    return _findings(
        holes.select(
            pl.lit(reason.value).alias("reason"),
            *_DAY,
            pl.col("rows"),
            pl.col("missing").alias("value"),
        ),
        bars,
        rules,
    )


def _findings(marks: pl.DataFrame, bars: pl.DataFrame, rules: QualityRules) -> pl.DataFrame:
    """Return one row per rule and session of marks with ``rows`` and ``value`` each."""
    if marks.is_empty():
        return pl.DataFrame(schema=FINDING_SCHEMA)
    present = bars.group_by(Bar.SESSION).agg(pl.col(Bar.SYMBOL).n_unique().alias("present"))
    symbol = pl.col(Bar.SYMBOL).drop_nulls()
    names = symbol.unique().sort().head(5).str.join(", ")
    severity = pl.col("reason").replace_strict(
        {r.value: rules.severity(r).value for r in Reason}, return_dtype=pl.String
    )
    return (
        marks.group_by("reason", Bar.SESSION)
        .agg(
            symbols=symbol.n_unique(),
            rows=pl.col("rows").sum(),
            worst=pl.col("value").max(),
            names=names,
        )
        .join(present, on=Bar.SESSION, how="left", nulls_equal=True)
        .select(
            rule=pl.col("reason"),
            severity=severity,
            session=pl.col(Bar.SESSION),
            symbols=pl.col("symbols"),
            rows=pl.col("rows"),
            share=(pl.col("symbols") / pl.col("present").fill_null(1).clip(1)).clip(0.0, 1.0),
            worst=pl.col("worst"),
            detail=pl.when(pl.col("symbols") > 5)
            .then(pl.format("{} and {} more", "names", pl.col("symbols").cast(pl.Int64) - 5))
            .otherwise(pl.col("names")),
        )
        .select(pl.col(n).cast(t) for n, t in FINDING_SCHEMA.items())
    )


def _parted(
    received: pl.DataFrame,
    rows: pl.DataFrame,
    marks: pl.DataFrame,
    findings: pl.DataFrame,
    inspected: int,
    rules: QualityRules,
    *,
    report: bool,
) -> Inspection:
    own = rows if inspected == rows.height else rows.filter(pl.col("row") < inspected)
    barred = _bar(_quarantining(marks, rules), received, rows)
    good = own
    if barred.height:
        good = own.filter(~pl.col("row").is_in(barred["row"].implode()))
    of_bars = pl.col("row") < inspected
    everything = findings.clear()
    if report:
        found = marks.filter(of_bars).with_columns(pl.lit(1, pl.Int64).alias("rows"))
        sessions = own[Bar.SESSION].unique().implode()
        everything = pl.concat(
            [_findings(found, own, rules), findings.filter(pl.col("session").is_in(sessions))]
        )
    # Evidence as late as the inspected rows is evidence from them.
    exposed = pl.col("evident_at") >= pl.lit(own[Bar.KNOWN_AT].min(), UTC_MICROSECONDS)
    suspects = barred.filter(~of_bars & exposed)
    return Inspection(
        good=good.select(BAR_SCHEMA.names()),
        quarantined=barred.filter(of_bars).select(QUARANTINE_SCHEMA.names()),
        suspects=suspects.select(QUARANTINE_SCHEMA.names()),
        findings=everything.sort("session", "rule", nulls_last=True),
    )


def _bar(marks: pl.DataFrame, received: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the marked rows in ``QUARANTINE_SCHEMA`` with their ``row``."""
    rank = {r.value: n for n, r in enumerate(Reason)}
    merged = (
        marks.with_columns(rank=pl.col("reason").replace_strict(rank, return_dtype=pl.UInt8))
        .sort("row", "rank")
        .group_by("row", maintain_order=True)
        .agg(
            pl.col("reason").first(),
            pl.format("{}: {}", "reason", "detail").str.join("; ").alias("detail"),
            pl.col("evident_at").min(),
        )
    )
    source = received[merged["row"]].select(
        pl.struct(pl.all()).struct.json_encode().alias("source_row")
    )
    return (
        merged.hstack(source)
        .join(rows, on="row", how="left")
        .sort(*_KEYS, "row", nulls_last=True)
        .select("row", *QUARANTINE_SCHEMA.names())
    )
