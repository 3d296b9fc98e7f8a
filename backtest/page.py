"""Pages that stand alone: one HTML file with its pictures, light and dark, wide and narrow.

A page carries its own copy of plotly and forbids itself every network access.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from string import Template
from typing import Any

TONES = ("blue", "gold", "green", "red", "violet", "grey")
"""Colours of lines, in the order of use; both themes define them."""


@dataclass(frozen=True)
class Panel:
    """A box of a page.

    Attributes
    ----------
    title : str
        Plain text.
    note : str
        A line under the title; plain text.
    chart : str
        Id of a chart to draw in it, or empty.
    body : str
        HTML, escaped by who made it.
    is_wide : bool
        Whether it takes the whole width.
    is_tall : bool
        Whether two panels stand beside it.
    """

    title: str
    note: str = ""
    chart: str = ""
    body: str = ""
    is_wide: bool = False
    is_tall: bool = False

    def to_html(self) -> str:
        """Return it as HTML."""
        chart = f'<div class="chart" id="{self.chart}"></div>' if self.chart else ""
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        kind = "panel" + " wide" * self.is_wide + " tall" * self.is_tall
        title = html.escape(self.title)
        return f'<div class="{kind}"><h2>{title}</h2>{note}{chart}{self.body}</div>'


@dataclass(frozen=True)
class Page:
    """What a page says; everything but the bodies of panels is plain text.

    Attributes
    ----------
    title, subtitle, period : str
        Of the head.
    tone : str
        Colour beside the verdict.
    verdict : sequence of str
        Sentences.
    cards : sequence of (str, str, str)
        Label, value, detail.
    panels : sequence of Panel
        In order.
    charts : sequence of mapping
        From :func:`chart`.
    footnotes : sequence of str
        How to read it.
    """

    title: str
    subtitle: str
    period: str
    tone: str
    verdict: Sequence[str]
    panels: Sequence[Panel]
    charts: Sequence[dict[str, Any]]
    footnotes: Sequence[str]
    cards: Sequence[tuple[str, str, str]] = field(default_factory=tuple)

    def render(self) -> str:
        """Return the page as one HTML document of about 5 MB, nearly all of it plotly."""
        shell = resources.files("backtest").joinpath("page.html").read_text("utf-8")
        cards = "\n".join(_card_html(card) for card in self.cards)
        return Template(shell).substitute(
            title=html.escape(self.title),
            subtitle=html.escape(self.subtitle),
            period=html.escape(self.period),
            tone=self.tone,
            verdict="".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.verdict),
            cards=f'<section class="cards">{cards}</section>' if self.cards else "",
            panels="\n".join(panel.to_html() for panel in self.panels),
            footnotes="\n".join(f"<li>{html.escape(note)}</li>" for note in self.footnotes),
            plotly=_plotly(),
            charts=_as_script(list(self.charts)),
        )


def table_html(
    rows: Sequence[Sequence[str]],
    head: Sequence[str] = (),
    *,
    tints: Sequence[Sequence[str]] | None = None,
    name: str = "",
) -> str:
    """Return a table; it scrolls by itself where the page is narrower.

    Parameters
    ----------
    rows : sequence of rows
        Plain text; a line break separates a value from what is written small under it.
    head : sequence of str
        Titles of columns.
    tints : sequence of rows, optional
        Background of each cell, as CSS, or empty.
    name : str
        Class of the table.
    """
    top = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in head)
    lines = [f"<thead><tr>{top}</tr></thead>"] if head else []
    body: list[str] = []
    for r, row in enumerate(rows):
        cells: list[str] = []
        for c, text in enumerate(row):
            tint = tints[r][c] if tints else ""
            style = f' style="background:{tint}"' if tint else ""
            value, _, small = text.partition("\n")
            under = f"<small>{html.escape(small)}</small>" if small else ""
            cells.append(f"<td{style}>{html.escape(value)}{under}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    kind = f' class="{name}"' if name else ""
    lines.append(f"<tbody>{''.join(body)}</tbody>")
    return f'<div class="scroll"><table{kind}>{"".join(lines)}</table></div>'


def chart(
    name: str,
    traces: Sequence[dict[str, Any]],
    yaxis: dict[str, Any],
    xaxis: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a chart to draw in the panel of this id."""
    return {"id": name, "traces": list(traces), "yaxis": yaxis, "xaxis": xaxis or {"type": "date"}}


def line(
    name: str,
    x: Sequence[str],
    y: Sequence[float | None],
    tone: str,
    *,
    width: float = 1.6,
    dash: str = "solid",
) -> dict[str, Any]:
    """Return a line; where ``y`` is ``None`` it is broken."""
    data = {"type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y)}
    return {"tone": tone, "data": {**data, "line": {"width": width, "dash": dash}}}


def bars(
    x: Sequence[str],
    y: Sequence[float | None],
    tone: str | list[str],
    form: str,
    name: str = "",
) -> dict[str, Any]:
    """Return bars; a tone for all, or one for each."""
    hover = f"%{{y:{form}}}<extra></extra>"
    data = {"type": "bar", "name": name, "x": list(x), "y": list(y), "hovertemplate": hover}
    return {"tone": tone, "data": data}


def _as_script(value: object) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return json.dumps(value, allow_nan=False).replace("</", "<\\/")


def _plotly() -> str:
    # The only bundle in the wheel; smaller ones would have to be downloaded.
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _card_html(card: tuple[str, str, str]) -> str:
    label, value, detail = (html.escape(text) for text in card)
    return (
        f'<div class="card"><div class="label">{label}</div>'
        f'<div class="value">{value}</div><div class="detail">{detail}</div></div>'
    )
