"""One check per rule of bar quality: what was found lately, in numbers and a picture."""

import base64
from collections.abc import Iterator

import dagster as dg
import polars as pl

from market.ingest import bars_table
from market.ingest_log import settled_sessions
from market.lake import Lake
from market.quality import inspect_bars
from market.quality_picture import draw_findings
from market.quality_rules import (
    FINDING_SCHEMA,
    OPEN_TO_REVIEW,
    REASONS,
    Inspection,
    QualityRules,
    Reason,
    Severity,
)
from market.quarantine import read_held
from market.schema import BAR_SCHEMA, DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar, empty
from market.timeframes import Timeframe
from pipelines.resources import Stores

# Daily bars are judged against the moves of the sessions before them, minutes within theirs.
LOOK_BACK = {Timeframe.D1: 160, Timeframe.M1: 5}
# Rules that say nothing of bars of this length.
_NOT_OF = {
    Timeframe.D1: {Reason.MISSING_MINUTES, Reason.COPIED_SESSION},
    Timeframe.M1: {Reason.HOLE, Reason.EXCESS, Reason.JUMP_UNCONFIRMED},
}


def build_bar_checks() -> list[dg.AssetChecksDefinition]:
    """Return the checks on daily bars and on minutes."""
    return [_bar_checks(timeframe) for timeframe in (Timeframe.D1, Timeframe.M1)]


def check_name(timeframe: Timeframe, reason: Reason) -> str:
    """Return the name of a rule's check."""
    return f"{bars_table(timeframe)}_{reason.value}"


def _bar_checks(timeframe: Timeframe) -> dg.AssetChecksDefinition:
    table, sessions = bars_table(timeframe), LOOK_BACK[timeframe]
    specs = [
        dg.AssetCheckSpec(
            name=check_name(timeframe, reason),
            asset=table,
            description=f"{text[0].upper()}{text[1:]}. The last {sessions} sessions.",
        )
        for reason, (_, text) in REASONS.items()
        if reason not in _NOT_OF[timeframe]
    ]

    @dg.multi_asset_check(name=f"{table}_quality", specs=specs, can_subset=True)
    def checks(
        context: dg.AssetCheckExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> Iterator[dg.AssetCheckResult]:
        rules = stores.settings.quality
        findings, found = recent_findings(stores.lake, timeframe, rules)
        wanted = {key.name for key in context.selected_asset_check_keys}
        for reason in REASONS:
            if check_name(timeframe, reason) in wanted:
                yield _result(timeframe, reason, findings, found, rules.severity(reason))

    return checks


def recent_findings(
    lake: Lake, timeframe: Timeframe, rules: QualityRules
) -> tuple[pl.DataFrame, Inspection]:
    """Return what the rules say of the newest sessions, held rows included.

    Parameters
    ----------
    lake : Lake
        Bars, quarantine, actions.
    timeframe : Timeframe
        ``1m`` or ``1d``.
    rules : QualityRules
        Thresholds and severities.

    Returns
    -------
    findings : pl.DataFrame
        ``FINDING_SCHEMA``; rows that can no longer be inspected count by the reason on file.
    found : Inspection
        Of the rows as received.
    """
    table = bars_table(timeframe)
    recent = sorted(lake.sessions(table))[-LOOK_BACK[timeframe] :]
    served = lake.read_bars(table, start=recent[0], end=recent[-1])
    held = read_held(lake, timeframe, recent)
    is_open = pl.col("reason").is_in([r.value for r in OPEN_TO_REVIEW])
    again = held.filter(is_open).select(BAR_SCHEMA.names())
    second = None
    if timeframe is Timeframe.M1 and lake.exists("bars_1d"):
        settled = settled_sessions(lake, Timeframe.D1).intersection(recent)
        official = lake.read_bars("bars_1d", start=recent[0], end=recent[-1])
        second = official.filter(pl.col(Bar.SESSION).is_in(list(settled)))
    found = inspect_bars(
        pl.concat([served, again.join(served, on=[Bar.SYMBOL, Bar.BAR_START], how="anti")]),
        timeframe=timeframe,
        splits=_table(lake, "splits", SPLIT_SCHEMA),
        dividends=_table(lake, "dividends", DIVIDEND_SCHEMA),
        rules=rules,
        second=second,
    )
    # Every held row counts once, under its first reason, as it is on file.
    judged = found.findings.filter(pl.col("severity") != Severity.QUARANTINE.value)
    return pl.concat([judged, _held_findings(held, served)]).sort("session", "rule"), found


def _table(lake: Lake, name: str, schema: pl.Schema) -> pl.DataFrame:
    return lake.scan(name).collect() if lake.exists(name) else empty(schema)


def _held_findings(held: pl.DataFrame, served: pl.DataFrame) -> pl.DataFrame:
    present = served.group_by(Bar.SESSION).agg(pl.col(Bar.SYMBOL).n_unique().alias("present"))
    symbols = pl.col(Bar.SYMBOL).n_unique()
    return (
        held.group_by(pl.col("reason").alias("rule"), pl.col("asked_session").alias("session"))
        .agg(
            severity=pl.lit(Severity.QUARANTINE.value),
            symbols=symbols,
            rows=pl.len(),
            worst=pl.lit(None),
            detail=pl.col(Bar.SYMBOL).drop_nulls().unique().sort().head(5).str.join(", "),
        )
        .join(present, on=Bar.SESSION, how="left")
        .with_columns(share=(pl.col("symbols") / pl.col("present").fill_null(1)).clip(0.0, 1.0))
        .select(pl.col(n).cast(t) for n, t in FINDING_SCHEMA.items())
    )


def _picture(findings: pl.DataFrame) -> dg.MarkdownMetadataValue:
    # Dagster strips elements from Markdown, and leaves images.
    image = base64.b64encode(draw_findings(findings).encode()).decode()
    return dg.MetadataValue.md(f"![findings by session](data:image/svg+xml;base64,{image})")


def _result(
    timeframe: Timeframe,
    reason: Reason,
    findings: pl.DataFrame,
    found: Inspection,
    severity: Severity,
) -> dg.AssetCheckResult:
    mine = findings.filter(pl.col("rule") == reason.value)
    # What is impossible by itself cannot be a matter of evidence: it must not be in the lake.
    served = 0
    if reason not in OPEN_TO_REVIEW:
        served = found.quarantined.filter(pl.col("reason") == reason.value).height
    newest = mine.sort("session", descending=True).head(5)
    told = [
        f"{session} ({rows}): {detail or 'no symbol'}"
        for session, rows, detail in newest["session", "rows", "detail"].rows()
    ]
    rows = int(mine["rows"].sum())
    inspected = found.good.height + found.quarantined.height
    return dg.AssetCheckResult(
        check_name=check_name(timeframe, reason),
        asset_key=bars_table(timeframe),
        passed=not served and (not rows or severity is Severity.INFO),
        severity=dg.AssetCheckSeverity.ERROR if served else dg.AssetCheckSeverity.WARN,
        metadata={
            "what follows": severity.value,
            "rows": rows,
            "rows served all the same": served,
            "sessions": mine["session"].n_unique(),
            "share of rows": rows / max(1, inspected),
            "worst": float(mine["worst"].max() or 0.0),
            "newest": "; ".join(told) or "none",
            "picture": _picture(mine),
        },
    )
