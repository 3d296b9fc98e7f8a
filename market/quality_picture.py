"""Findings as a small picture: inline SVG, no dependency."""

from __future__ import annotations

import polars as pl

from market.quality_rules import Severity

_WIDTH, _HEIGHT, _MARGIN, _FOOT = 640, 150, 44, 24
_COLOURS = {
    Severity.INFO.value: "#9aa5b1",
    Severity.WARN.value: "#e0a100",
    Severity.QUARANTINE.value: "#c0392b",
}
_LABELLED = 3


def draw_findings(findings: pl.DataFrame) -> str:
    """Draw the share of symbols with a finding, session by session.

    Parameters
    ----------
    findings : pl.DataFrame
        ``FINDING_SCHEMA``; the largest share of a rule stands for its session and severity.

    Returns
    -------
    str
        An ``<svg>`` element: one bar per session with a finding and severity (quarantine in
        front), the sessions with the largest shares named.

    Examples
    --------
    >>> from market.quality_rules import FINDING_SCHEMA
    >>> draw_findings(pl.DataFrame(schema=FINDING_SCHEMA)).count("<rect")
    0
    """
    shares = (
        findings.filter(pl.col("session").is_not_null())
        .group_by("session", "severity")
        .agg(pl.col("share").max())
    )
    top = shares.select(pl.col("share").max()).item() or 0.0
    sessions = shares["session"].unique().sort()
    place = {session: n for n, session in enumerate(sessions)}
    step = (_WIDTH - 2 * _MARGIN) / max(1, sessions.len())
    parts = [_axis(top, sessions)]
    rank = {s.value: n for n, s in enumerate(Severity)}
    for session, severity, share in sorted(
        shares.iter_rows(), key=lambda r: (rank.get(r[1], 0), r[0])
    ):
        height = share / top * _plot_height() if top else 0.0
        x, width = _MARGIN + place[session] * step, max(1.0, step * 0.8)
        parts.append(
            f'<rect x="{x:.1f}" y="{_HEIGHT - _FOOT - height:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" fill="{_COLOURS.get(severity, "#9aa5b1")}">'
            f"<title>{session}: {share:.2%} {severity}</title></rect>"
        )
    highest = (
        shares.group_by("session")
        .agg(pl.col("share").max())
        .sort("share", "session", descending=[True, False])
    )
    for session, share in highest.head(_LABELLED).iter_rows():
        x = min(max(_MARGIN + place[session] * step, 70.0), _WIDTH - 70.0)
        y = _HEIGHT - _FOOT - (share / top * _plot_height() if top else 0.0) - 3
        parts.append(_text(x, y, f"{session}", "middle"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="share of symbols with findings per session">{"".join(parts)}</svg>'
    )


def _plot_height() -> float:
    return _HEIGHT - _FOOT - 22.0


def _axis(top: float, sessions: pl.Series) -> str:
    base = _HEIGHT - _FOOT
    line = (
        f'<line x1="{_MARGIN}" y1="{base}" x2="{_WIDTH - _MARGIN}" y2="{base}" stroke="#52606d"/>'
    )
    if sessions.is_empty():
        return line + _text(_WIDTH / 2, _HEIGHT / 2, "no findings", "middle")
    return (
        line
        + _text(_MARGIN - 4, 26, f"{top:.1%}", "end")
        + _text(_MARGIN - 4, base, "0", "end")
        + _text(_MARGIN, _HEIGHT - 8, str(sessions[0]), "start")
        + _text(_WIDTH - _MARGIN, _HEIGHT - 8, str(sessions[-1]), "end")
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="10" font-family="sans-serif" '
        f'fill="#52606d" text-anchor="{anchor}">{text}</text>'
    )
