"""Pictures as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

_SIZE = (7.2, 3.4)
_DPI = 110
_COLOURS = ("#1f6fb2", "#c0392b", "#2e8b57", "#b8860b", "#6a4c93", "#555555")
Row = Mapping[str, Any]


def many_intervals(estimates: Sequence[Row], label: str) -> bytes:
    """Draw many intervals in order of their estimates; those that exclude zero in red."""
    ordered = sorted(estimates, key=lambda e: e["mean"])
    figure = Figure(_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    for k, e in enumerate(ordered):
        excludes = e["low"] > 0.0 or e["high"] < 0.0
        axes.vlines(k, e["low"], e["high"], color=_COLOURS[1 if excludes else 0], lw=1.0)
    axes.scatter(range(len(ordered)), [e["mean"] for e in ordered], s=4, color="black", zorder=3)
    axes.axhline(0.0, color="black", lw=0.8)
    axes.set_title(label, fontsize=9)
    return _png(figure)


def accuracy_curves(curves: Mapping[str, Sequence[Row]], label: str) -> bytes:
    """Draw accuracy against coverage with simultaneous bands.

    Rows have ``coverage``, ``accuracy``, ``band_low`` and ``band_high``; what is ``None`` is left
    out.
    """
    figure = Figure(_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    for (name, rows), colour in zip(curves.items(), _COLOURS * 3, strict=False):
        known = [r for r in rows if None not in (r["accuracy"], r["band_low"], r["band_high"])]
        x = [r["coverage"] for r in known]
        axes.plot(x, [r["accuracy"] for r in known], "o-", ms=3, color=colour, label=name)
        low, high = [r["band_low"] for r in known], [r["band_high"] for r in known]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    axes.axhline(0.5, color="black", lw=0.8)
    axes.set_xscale("log")
    axes.set_xlim(0.008, 1.1)
    axes.set_xlabel("share of forecasts, the most confident first", fontsize=8)
    axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.4g}%")
    axes.xaxis.set_major_formatter(lambda v, _: f"{100 * v:g}%")
    axes.set_title(label, fontsize=9)
    axes.legend(fontsize=7)
    return _png(figure)


def bars_with_intervals(
    groups: Mapping[str, Mapping[str, Row]], label: str, *, line: float | None = None
) -> bytes:
    """Draw one bar with its interval for each name, side by side for several groups.

    Parameters
    ----------
    groups : mapping
        Group to name to a row with ``mean``, ``low`` and ``high``.
    label : str
        Title.
    line : float, optional
        A level to draw.
    """
    names = list(dict.fromkeys(n for rows in groups.values() for n in rows))
    figure = Figure((7.2, 0.9 + 0.32 * len(names)), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    height = 0.8 / max(1, len(groups))
    for g, ((group, rows), colour) in enumerate(zip(groups.items(), _COLOURS, strict=False)):
        at = [names.index(n) + (g - (len(groups) - 1) / 2) * height for n in rows]
        means = [r["mean"] for r in rows.values()]
        axes.barh(at, means, height * 0.9, color=colour, alpha=0.7, label=group)
        for y, r in zip(at, rows.values(), strict=True):
            if r["low"] is not None:
                axes.hlines(y, r["low"], r["high"], color="black", lw=1.2)
    if line is not None:
        axes.axvline(line, color="black", lw=0.8, ls="--")
    axes.axvline(0.0, color="black", lw=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_title(label, fontsize=9)
    axes.legend(fontsize=7)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    # Neither a date nor a version: the same numbers give the same file.
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
