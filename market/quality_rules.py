"""What makes a bar suspect: the rules, their thresholds and what follows from each.

A *reason* is one rule with one severity. ``quarantine`` keeps the bar from being served,
``warn`` serves it and reports it, ``info`` only counts it. All of it is configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

import polars as pl

from market.errors import MarketError
from market.schema import BAR_SCHEMA, UTC_MICROSECONDS, Bar
from market.timeframes import Timeframe


class Severity(StrEnum):
    """What follows from a finding."""

    INFO = "info"
    WARN = "warn"
    QUARANTINE = "quarantine"


class Reason(StrEnum):
    """Why a bar, or a whole session, is reported; the most certain reasons come first."""

    SCHEMA = "schema"
    NULL = "null"
    NOT_POSITIVE = "not_positive"
    OHLC_ORDER = "ohlc_order"
    OFF_GRID = "off_grid"
    KNOWN_EARLY = "known_early"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    SOURCES_DISAGREE = "sources_disagree"
    REPEATED_ROW = "repeated_row"
    SPIKE = "spike"
    JUMP_UNCONFIRMED = "jump_unconfirmed"
    JUMP = "jump"
    SOURCES_DIFFER = "sources_differ"
    COPIED_SESSION = "copied_session"
    STALE = "stale"
    CLEARED = "cleared"
    HOLE = "hole"
    MISSING_MINUTES = "missing_minutes"
    EXCESS = "excess"


# What each reason means, and what follows from it unless the settings say otherwise.
REASONS: Mapping[Reason, tuple[Severity, str]] = MappingProxyType(
    {
        Reason.SCHEMA: (Severity.QUARANTINE, "a value that does not fit its column's type"),
        Reason.NULL: (Severity.QUARANTINE, "a key, time, price or volume is missing"),
        Reason.NOT_POSITIVE: (
            Severity.QUARANTINE,
            "a price that is not finite and above zero, or a volume or count below zero",
        ),
        Reason.OHLC_ORDER: (Severity.QUARANTINE, "high or low that do not enclose open and close"),
        Reason.OFF_GRID: (
            Severity.QUARANTINE,
            "no bar of this length can lie there: not a session, outside 04:00 to 20:00 New York, "
            "not on a whole minute, or of another length",
        ),
        Reason.KNOWN_EARLY: (Severity.QUARANTINE, "known before it ended"),
        Reason.DUPLICATE: (Severity.QUARANTINE, "a further copy of the same row; one copy stays"),
        Reason.CONFLICT: (Severity.QUARANTINE, "several different rows for one bar; none stays"),
        Reason.SOURCES_DISAGREE: (
            Severity.QUARANTINE,
            "a second source says otherwise, by more than the larger threshold",
        ),
        Reason.REPEATED_ROW: (
            Severity.QUARANTINE,
            "open, high, low, close and volume all equal those of a session nearby, or of the "
            "minute next to it: one of the two is false; of days the one that fits its neighbours "
            "stays, or none where that is not clear",
        ),
        Reason.SPIKE: (
            Severity.QUARANTINE,
            "away from its neighbours and back at once, with no corporate action",
        ),
        Reason.JUMP_UNCONFIRMED: (
            Severity.QUARANTINE,
            "a jump without a corporate action in the newest bar: held until the next bar",
        ),
        Reason.JUMP: (Severity.WARN, "a jump without a corporate action that stayed"),
        Reason.SOURCES_DIFFER: (
            Severity.WARN,
            "a second source says otherwise, by more than the smaller threshold",
        ),
        Reason.COPIED_SESSION: (
            Severity.WARN,
            "a session of minutes that equals another session; seen only where both are at hand",
        ),
        Reason.STALE: (Severity.WARN, "many bars with volume in a row whose prices are identical"),
        Reason.CLEARED: (Severity.INFO, "odd by itself, but a second source says the same"),
        Reason.HOLE: (
            Severity.WARN,
            "no daily bar between a symbol's bars: a halt, a loss or a held bar; none is invented",
        ),
        Reason.MISSING_MINUTES: (
            Severity.INFO,
            "an active symbol lacks minutes: no trade in them, a halt, or a loss; none is invented",
        ),
        Reason.EXCESS: (Severity.WARN, "more symbols are odd on this session than chance explains"),
    }
)
# Reasons that rest on plausibility alone; a second source that agrees clears them.
CIRCUMSTANTIAL = (Reason.REPEATED_ROW, Reason.SPIKE, Reason.JUMP_UNCONFIRMED, Reason.JUMP)
# Reasons that later or other evidence can overturn; a row with any other one is no evidence itself.
OPEN_TO_REVIEW = (*CIRCUMSTANTIAL, Reason.SOURCES_DISAGREE)
# Reasons that name no row, so that there is nothing to keep apart.
WITHOUT_ROWS = (Reason.HOLE, Reason.MISSING_MINUTES, Reason.EXCESS)

QUARANTINE_SCHEMA = pl.Schema(
    {
        **BAR_SCHEMA,
        "reason": pl.String(),
        "detail": pl.String(),
        "evident_at": UTC_MICROSECONDS,
        "source_row": pl.String(),
    }
)
# As it is stored: which session was asked for when the row came, and its place there (a row may
# lack the keys of a bar).
HELD_SCHEMA = pl.Schema(
    {"asked_session": pl.Date(), "place": pl.Int64(), **QUARANTINE_SCHEMA},
)
FINDING_SCHEMA = pl.Schema(
    {
        "rule": pl.String(),
        "severity": pl.String(),
        "session": pl.Date(),
        "symbols": pl.Int64(),
        "rows": pl.Int64(),
        "share": pl.Float64(),
        "worst": pl.Float64(),
        "detail": pl.String(),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRules:
    """Thresholds and severities; scores are multiples of a symbol's usual move.

    The usual move is the median absolute return (daily: beyond the market's, over the
    ``usual_sessions`` before; minutes: of the symbol in that session), at least the floor.

    Parameters
    ----------
    disagreement, slight_disagreement : float
        Relative distance of a close to a second source's that quarantines, and that warns (the
        smaller one holds for open, high and low too).
    range_disagreement : float
        Distance of an open, high or low that quarantines. Larger, as true sources differ there:
        which prints count towards them is a vendor's choice.
    cleared_within : float
        A close this near to the second source's clears a circumstantial reason.
    scale_sessions, scale_overlap : int
        Window of the centred median ratio between two sources, and the sessions it needs; with
        fewer, or a window of 0, both are taken to be in the same units.
    usual_sessions, usual_overlap : int
        Window of the usual move, and the least sessions it needs.
    usual_floor, minute_floor : float
        The least usual move, daily and by the minute.
    spike, jump : float
        Daily scores from which a reverting, or a staying or newest, move is reported.
    minute_spike, minute_jump : float
        The same for minutes, inside one session.
    odd_revert, odd_jump : float
        Smaller daily scores that count a symbol as odd: once its next bar is known, before.
    excess : float
        Standard deviations by which a session's odd symbols must exceed the usual share.
    excess_symbols : int
        The fewest symbols in a session for it, and for the market's move, to be judged.
    repeat_volume : float
        Least volume for equal rows to be no coincidence.
    repeat_sessions : int
        How many sessions apart equal daily rows may be to count as a repeat.
    repeat_margin : float
        How much better one repeated row must fit its neighbours than the others to stay.
    stale_bars, stale_minutes : int
        Identical bars in a row from which prices count as stale.
    active_share : float
        Share of the regular minutes that a symbol must trade for its missing ones to be holes.
    severities : mapping of Reason to Severity
        Departures from the table :data:`REASONS`.

    Raises
    ------
    MarketError
        On a threshold that is not above zero, or a smaller one above its larger one.

    Examples
    --------
    >>> QualityRules(severities={Reason.STALE: Severity.INFO}).severity(Reason.STALE).value
    'info'
    """

    disagreement: float = 0.03
    slight_disagreement: float = 0.01
    range_disagreement: float = 0.1
    cleared_within: float = 0.02
    scale_sessions: int = 41
    scale_overlap: int = 5
    usual_sessions: int = 63
    usual_overlap: int = 20
    usual_floor: float = 0.003
    minute_floor: float = 0.001
    spike: float = 6.0
    jump: float = 30.0
    minute_spike: float = 30.0
    minute_jump: float = 50.0
    odd_revert: float = 3.0
    odd_jump: float = 6.0
    excess: float = 6.0
    excess_symbols: int = 20
    repeat_volume: float = 1000.0
    repeat_sessions: int = 21
    repeat_margin: float = 2.0
    stale_bars: int = 4
    stale_minutes: int = 30
    active_share: float = 0.9
    severities: Mapping[Reason, Severity] = field(default_factory=dict[Reason, Severity])

    def __post_init__(self) -> None:
        object.__setattr__(self, "severities", dict(self.severities))
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name not in ("severities", "scale_sessions") and not value > 0:
                raise MarketError(
                    f"threshold {name!r} of the quality rules",
                    got=value,
                    allowed="a number above zero",
                    remedy="correct the setting",
                )
        for reason in WITHOUT_ROWS:
            if self.severity(reason) is Severity.QUARANTINE:
                raise MarketError(
                    f"severity of {reason.value!r} in the quality rules",
                    got=Severity.QUARANTINE.value,
                    allowed="info or warn: this reason names no row that could be kept apart",
                    remedy="correct the setting",
                )
        least = min(self.disagreement, self.range_disagreement)
        if self.slight_disagreement > least:
            raise MarketError(
                "thresholds of the quality rules are reversed",
                got=f"slight_disagreement {self.slight_disagreement:g}",
                allowed=f"up to the larger thresholds, {least:g}",
                remedy="swap the two",
            )

    def severity(self, reason: Reason) -> Severity:
        """Return what follows from a reason."""
        return self.severities.get(reason, REASONS[reason][0])

    def stale_after(self, timeframe: Timeframe) -> int:
        """Return how many identical bars of this length count as stale."""
        return self.stale_bars if timeframe is Timeframe.D1 else self.stale_minutes


DEFAULT_RULES = QualityRules()


@dataclass(frozen=True, slots=True)
class Inspection:
    """Bars, parted into what may be served and what may not.

    Attributes
    ----------
    good : pl.DataFrame
        ``BAR_SCHEMA``, sorted by symbol and time; the rows as received, none changed.
    quarantined : pl.DataFrame
        ``QUARANTINE_SCHEMA``: the other rows, each with its first reason, all its details, the
        moment ``evident_at`` from which the fault can be known (the latest ``known_at`` among
        the bars that show it) and the row as received, as JSON.
    suspects : pl.DataFrame
        ``QUARANTINE_SCHEMA``: bars of *history* that the inspected bars now show to be false.
        They were served in good faith; to withdraw them is a revision of their session.
    findings : pl.DataFrame
        ``FINDING_SCHEMA``: one row per rule and session.
    """

    good: pl.DataFrame
    quarantined: pl.DataFrame
    suspects: pl.DataFrame
    findings: pl.DataFrame

    def as_metadata(self) -> dict[str, int | float | str]:
        """Return the counts by name: rows, quarantined by reason, sessions that stand out."""
        total = self.good.height + self.quarantined.height
        out: dict[str, int | float | str] = {
            "bars good": self.good.height,
            "bars quarantined": self.quarantined.height,
            "share quarantined": self.quarantined.height / total if total else 0.0,
            "bars of history now suspect": self.suspects.height,
        }
        by_rule = self.findings.group_by("rule").agg(pl.col("rows").sum()).sort("rule")
        out |= {f"rows: {rule}": int(rows) for rule, rows in by_rule.iter_rows()}
        stand_out = self.findings.filter(pl.col("rule") == Reason.EXCESS.value).sort(
            "worst", descending=True
        )
        if stand_out.height:
            out["sessions that stand out"] = ", ".join(map(str, stand_out["session"].head(10)))
        return out


def mark(
    rows: pl.DataFrame, reason: Reason, value: pl.Expr, detail: pl.Expr, evident_at: pl.Expr
) -> pl.DataFrame:
    """Return marks: one per row of ``rows``, which holds ``row``, ``symbol`` and ``session``."""
    return rows.select(
        pl.col("row").cast(pl.UInt32),
        pl.col(Bar.SYMBOL),
        pl.col(Bar.SESSION),
        pl.lit(reason.value).alias("reason"),
        value.cast(pl.Float64).alias("value"),
        detail.cast(pl.String).alias("detail"),
        evident_at.cast(UTC_MICROSECONDS).alias("evident_at"),
    )


def reason_table() -> str:
    """Return the reasons as a table in Markdown: what ``docs/quality.md`` shows."""
    rows = [
        f"| `{reason.value}` | {severity.value} | {text[0].upper()}{text[1:]}. |"
        for reason, (severity, text) in REASONS.items()
    ]
    return "\n".join(["| reason | what follows | meaning |", "|---|---|---|", *rows]) + "\n"
