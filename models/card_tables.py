"""Tables and sentences of a model card, which an asset's metadata shows as well.

An accuracy is never told without its coverage and its interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from models.confidence import Accuracy, Reached, Verdict
from models.session_scores import Score

_SHOWN_COVERAGES = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
DASH = "–"


def tell_skill(overall: Mapping[str, Any] | None) -> str:
    """Return in one or two sentences whether out-of-sample skill is shown.

    Parameters
    ----------
    overall : mapping or None
        An engine's row of ``SCORE_SCHEMA`` over all; ``None`` where no outcome is known.

    Examples
    --------
    >>> row = {"engine": "ensemble", "sessions": 250,
    ...     "rank_ic": 0.01, "rank_ic_low": -0.01, "rank_ic_high": 0.03}
    >>> tell_skill(row)[:22]
    '**No skill is shown.**'
    """
    if overall is None:
        return "**Skill cannot be judged:** no outcome of an out-of-sample forecast is known yet."
    low, high = overall[Score.RANK_IC_LOW], overall[Score.RANK_IC_HIGH]
    count = int(overall[Score.SESSIONS])
    sessions = "one session" if count == 1 else f"{count:,} sessions"
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"**Skill cannot be judged:** {sessions} with outcomes, too few for an interval."
    found = (
        f"the mean rank IC of `{overall[Score.ENGINE]}` is {show_signed(overall[Score.RANK_IC])},"
        f" its 95 percent interval {show_interval(low, high)}, over {sessions} out of sample"
    )
    if low > 0.0:
        return (
            f"**Some skill is shown:** {found}, which excludes zero. It is the past's, and says"
            " nothing about costs."
        )
    if high < 0.0:
        return f"**The forecasts were worse than none:** {found}, wholly below zero. Do not use."
    return f"**No skill is shown.** {found[0].upper()}{found[1:]}, and that includes zero."


def skill_table(scores: pl.DataFrame, title: str, named_by: str) -> str:
    """Return scores (``SCORE_SCHEMA``) as a small Markdown table.

    The hit rate is that of every row: its coverage is 100 percent.
    """
    columns = (title, "rank IC", "interval", "IC", "Brier", "log loss", "ECE")
    last = ("right, of all rows", "interval", "sessions")
    rows = [
        (
            f"`{row[named_by]}`" if named_by == Score.ENGINE else row[named_by],
            show_signed(row[Score.RANK_IC]),
            show_interval(row[Score.RANK_IC_LOW], row[Score.RANK_IC_HIGH]),
            show_signed(row[Score.IC]),
            show_number(row[Score.BRIER]),
            show_number(row[Score.LOG_LOSS]),
            show_number(row[Score.ECE]),
            show_percent(row[Score.HIT_RATE]),
            show_percents(row[Score.HIT_RATE_LOW], row[Score.HIT_RATE_HIGH]),
            f"{row[Score.SESSIONS]:,}",
        )
        for row in scores.iter_rows(named=True)
    ]
    return table((*columns, *last), rows)


def coverage_table(accuracy: pl.DataFrame) -> str:
    """Return accuracy against coverage as a small Markdown table."""
    rows = [
        (
            show_percent(row[Accuracy.SHARE]),
            show_number(row[Accuracy.CONFIDENCE], 3),
            show_percent(row[Accuracy.ACCURACY]),
            show_percents(row[Accuracy.LOW], row[Accuracy.HIGH]),
            show_percents(row[Accuracy.BAND_LOW], row[Accuracy.BAND_HIGH]),
            f"{row[Accuracy.ROWS]:,}",
            f"{row[Accuracy.SESSIONS]:,}",
        )
        for row in accuracy.iter_rows(named=True)
        if row[Accuracy.COVERAGE] in _SHOWN_COVERAGES
    ]
    head = ("rows", "confidence from", "right", "interval", "band of all points", "n", "sessions")
    return table(head, rows)


def tell_reached(reached: pl.DataFrame) -> list[str]:
    """Return, for each level of accuracy, from which confidence on it holds, or that it never does.

    Parameters
    ----------
    reached : pl.DataFrame
        From :func:`models.confidence.coverage_at_accuracy`.
    """
    told: list[str] = []
    for row in reached.iter_rows(named=True):
        level = f"{row[Reached.LEVEL]:.0%}"
        if row[Reached.VERDICT] == Verdict.NEVER:
            told.append(f"{level}: never, at this evidence.")
            continue
        told.append(
            f"{level}: from confidence {row[Reached.CONFIDENCE]:.3f} on, which"
            f" {show_percent(row[Reached.SHARE])} of rows reach"
            f" ({show_percents(row[Reached.SHARE_LOW], row[Reached.SHARE_HIGH])}); there"
            f" {show_percent(row[Reached.ACCURACY])} were right (band of all points"
            f" {show_percents(row[Reached.BAND_LOW], row[Reached.BAND_HIGH])})."
        )
    return told


def table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    names = list(head)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def show_cell(value: object) -> str:
    """Return a cell of a table; a dash for nothing."""
    if value is None:
        return DASH
    return f"{value:,}" if isinstance(value, int) else str(value)


def show_plain(value: object) -> str:
    """Return a parameter."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def show_number(value: float, digits: int = 4) -> str:
    """Return a number; a dash where it is none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else DASH


def show_signed(value: float) -> str:
    """Return a number with its sign; a dash where it is none."""
    return f"{value:+.4f}" if math.isfinite(value) else DASH


def show_interval(low: float, high: float, show: Callable[[float], str] = show_signed) -> str:
    """Return both ends of an interval; a dash where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return DASH
    return f"{show(low)} to {show(high)}"


def show_percent(value: float | None) -> str:
    """Return a share in percent; a dash where it is none."""
    return f"{value:.1%}" if value is not None and math.isfinite(value) else DASH


def show_percents(low: float, high: float) -> str:
    """Return an interval of shares."""
    return show_interval(low, high, show_percent)
