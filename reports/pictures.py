"""Small drawings as ``svg`` elements; their colours are the page's own, in light and in dark."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import polars as pl

from market.regimes import RegimeLabel
from reports.document import Picture, percent, plural, signed, usd

_WIDTH, _HEIGHT = 640.0, 200.0
_LEFT, _RIGHT, _TOP, _FOOT = 54.0, 12.0, 24.0, 30.0
_SESSIONS = 63
# Where a regime begins, in standard deviations of the trend.
_LEVELS = (0.6, 0.0, -0.6)


def draw_regimes(regimes: pl.DataFrame) -> Picture | None:
    """Draw the trend of the last 63 sessions over bands that name the regime.

    Parameters
    ----------
    regimes : pl.DataFrame
        ``reports.facts.REGIME_SCHEMA``, ascending.

    Returns
    -------
    Picture or None
        None where fewer than two sessions have a trend.
    """
    rows = regimes.filter(pl.col("trend").is_finite()).tail(_SESSIONS)
    if rows.height < 2:
        return None
    trend = rows["trend"].to_list()
    low, high = min(*trend, -0.8) - 0.1, max(*trend, 0.8) + 0.1
    step = (_WIDTH - _LEFT - _RIGHT) / rows.height

    def x(place: float) -> float:
        return _LEFT + place * step

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _FOOT)

    parts = [_band(x, run) for run in _runs(rows["regime"].to_list())]
    for level in _LEVELS:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
            f'y1="{y(level):.1f}" y2="{y(level):.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{y(level) + 4:.1f}" text-anchor="end">'
            f"{signed(level)}</text>"
        )
    points = " ".join(f"{x(k + 0.5):.1f},{y(v):.1f}" for k, v in enumerate(trend))
    parts.append(f'<polyline class="line" points="{points}"/>')
    parts.append(
        f'<circle class="dot" cx="{x(len(trend) - 0.5):.1f}" cy="{y(trend[-1]):.1f}" r="4"/>'
    )
    for place, anchor in ((0, "start"), (rows.height - 1, "end")):
        at = _LEFT if anchor == "start" else _WIDTH - _RIGHT
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">'
            f"{rows['session'][place]}</text>"
        )
    last = rows.row(-1, named=True)
    alt = (
        f"Trend of the market over {plural(rows.height, 'session')}, from {signed(trend[0], 2)} "
        f"to {signed(trend[-1], 2)} standard deviations; lowest {signed(min(trend), 2)}, highest "
        f"{signed(max(trend), 2)}. The regime of {last['session']} is {last['regime']}."
    )
    return Picture(_svg(_WIDTH, _HEIGHT, parts, alt, "wide"), alt)


def _runs(labels: Sequence[str]) -> list[tuple[str, int, int]]:
    runs: list[tuple[str, int, int]] = []
    for place, label in enumerate(labels):
        if runs and runs[-1][0] == label:
            runs[-1] = (label, runs[-1][1], place + 1)
        else:
            runs.append((label, place, place + 1))
    return runs


def _band(x: Callable[[float], float], run: tuple[str, int, int]) -> str:
    label, first, end = run
    left, right = x(first), x(end)
    known = {r.value for r in RegimeLabel}
    name = label if label in known else "other"
    text = ""
    if right - left > 44:
        middle = (left + right) / 2
        text = (
            f'<text class="band-name" x="{middle:.1f}" y="{_TOP - 6}" text-anchor="middle">'
            f"{html.escape(label)}</text>"
        )
    height = _HEIGHT - _TOP - _FOOT
    return (
        f'<rect class="band {name}" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" '
        f'height="{height}"/>{text}'
    )


def draw_split(long: int, neutral: int, short: int) -> Picture:
    """Draw how many signals point which way, as one bar: longs left, shorts right."""
    total = max(1, long + neutral + short)
    parts: list[str] = []
    left = 0.0
    for name, count in (("long", long), ("neutral", neutral), ("short", short)):
        width = 160.0 * count / total
        if count:
            parts.append(
                f'<rect class="bar {name}" x="{left:.1f}" y="1" width="{max(width - 1, 1):.1f}" '
                'height="12"/>'
            )
        left += width
    alt = f"{long} long, {neutral} neutral, {short} short"
    return Picture(_svg(160.0, 14.0, parts, alt, "split"), alt)


def draw_positions(positions: pl.DataFrame) -> Picture | None:
    """Draw what each position is worth: longs to the right, shorts to the left.

    Parameters
    ----------
    positions : pl.DataFrame
        ``reports.facts.POSITION_SCHEMA``; at most the 20 largest are drawn.
    """
    rows = (
        positions.with_columns(value=pl.col("quantity") * pl.col("price_usd"))
        .filter(pl.col("value").is_not_null() & (pl.col("value") != 0))
        .with_columns(_size=pl.col("value").abs())
        .sort("_size", "symbol", descending=[True, False])
        .head(20)
        .sort("value", "symbol", descending=[True, False])
    )
    if rows.is_empty():
        return None
    top = float(rows.select(pl.col("_size").max()).item())
    row, middle, reach = 22.0, _WIDTH / 2, 190.0
    height = row * rows.height + 6
    parts = [
        f'<line class="grid" x1="{middle}" x2="{middle}" y1="0" y2="{height}"/>',
    ]
    for place, (symbol, value) in enumerate(rows.select("symbol", "value").iter_rows()):
        width = max(1.0, reach * abs(value) / top)
        is_long = value > 0
        left = middle if is_long else middle - width
        base = place * row + 16
        name_at, name_anchor = (middle - 6, "end") if is_long else (middle + 6, "start")
        value_at = middle + width + 6 if is_long else middle - width - 6
        parts.append(
            f'<rect class="bar {"long" if is_long else "short"}" x="{left:.1f}" '
            f'y="{place * row + 4}" width="{width:.1f}" height="14"/>'
            f'<text class="tick" x="{name_at}" y="{base}" text-anchor="{name_anchor}">'
            f"{html.escape(symbol)}</text>"
            f'<text class="tick" x="{value_at:.1f}" y="{base}" '
            f'text-anchor="{"start" if is_long else "end"}">{usd(value)}</text>'
        )
    largest = rows.sort("_size").row(-1, named=True)
    total = float(rows["_size"].sum())
    alt = (
        f"Value of {plural(rows.height, 'position')}, shorts to the left and longs to the right; "
        f"the largest is {largest['symbol']} with {usd(largest['value'])}, "
        f"{percent(top / total)} of what is drawn."
    )
    return Picture(_svg(_WIDTH, height, parts, alt, "wide"), alt)


def _svg(width: float, height: float, parts: Sequence[str], alt: str, kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{html.escape(alt)}">{"".join(parts)}</svg>'
    )
