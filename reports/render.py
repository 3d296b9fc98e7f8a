"""The two renderings of a report: one standalone HTML page, one Markdown text."""

from __future__ import annotations

import datetime as dt
import re
from functools import lru_cache, partial
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from market.calendar import NEW_YORK
from reports.compose import compose
from reports.document import (
    SIGNS,
    Block,
    Bullets,
    Code,
    Day,
    Document,
    Figures,
    Item,
    Line,
    Mark,
    Moment,
    Paragraph,
    Picture,
    Reasons,
    Section,
    Span,
    Subheading,
    Table,
    Tone,
    signed,
)
from reports.facts import Report

_HALF_A_PHONE = 19
_SUMMARIES = 3
_KINDS = (Bullets, Code, Day, Figures, Mark, Moment, Paragraph, Picture, Reasons, Subheading, Table)
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#&$])")


def render_html(report: Report) -> str:
    """Return a report as one HTML page that needs nothing from outside and runs no script.

    Parameters
    ----------
    report : Report
        The facts.

    Returns
    -------
    str
        UTF-8 text; all that comes from data is escaped.
    """
    return render_document_html(compose(report))


def render_markdown(report: Report) -> str:
    """Return a report as Markdown, with the same content as the page.

    A picture is given by what it says in words; all that comes from data is escaped.
    """
    return render_document_markdown(compose(report))


def render_document_html(document: Document) -> str:
    """Return any document as a page."""
    return _template().render(document=document)


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters: dict[str, Any] = {"new_york": new_york, "utc": utc, "signed": signed, "svg": _svg}
    environment.filters.update(filters)
    names: dict[str, Any] = {"sign_of": sign_of, "is_short": is_short}
    environment.globals.update(names)
    for kind in _KINDS:
        environment.tests[kind.__name__.lower()] = partial(_is_a, kind)
    source = resources.files("reports").joinpath("report.html").read_text("utf-8")
    return environment.from_string(source)


def _svg(picture: Picture) -> Markup:
    # Drawn by reports.pictures, which escapes what comes from data.
    return Markup(picture.svg)


def _is_a(kind: type, value: object) -> bool:
    return isinstance(value, kind)


def sign_of(tone: Tone) -> str:
    """Return the sign that stands for a tone, so that colour is never the only one."""
    return SIGNS[tone]


def is_short(name: str, cell: Span) -> bool:
    """Whether a cell and its label fit into half the width of a telephone."""
    if isinstance(cell, Reasons | Picture | Moment | Code):
        return False
    shown = str(cell.on) if isinstance(cell, Day) else _plain(cell)
    return len(name) + len(shown) <= _HALF_A_PHONE


def _plain(cell: str | Mark) -> str:
    return cell.text + "  " if isinstance(cell, Mark) else cell


def new_york(moment: dt.datetime) -> str:
    """Return a time as New York's clocks show it.

    Examples
    --------
    >>> new_york(dt.datetime(2025, 6, 30, 12, 30, tzinfo=dt.UTC))
    '2025-06-30 08:30'
    """
    return f"{moment.astimezone(NEW_YORK):%Y-%m-%d %H:%M}"


def _utc_beside(moment: dt.datetime) -> str:
    same_day = moment.astimezone(NEW_YORK).date() == moment.astimezone(dt.UTC).date()
    return utc(moment)[11:] if same_day else utc(moment)


def utc(moment: dt.datetime) -> str:
    """Return a time in UTC.

    Examples
    --------
    >>> utc(dt.datetime(2025, 6, 30, 12, 30, tzinfo=dt.UTC))
    '2025-06-30 12:30 UTC'
    """
    return f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"


def escape_markdown(text: str) -> str:
    r"""Return text that Markdown shows as it is, on one line.

    Examples
    --------
    >>> escape_markdown("a|b <i>*x*")
    'a\\|b \\<i\\>\\*x\\*'
    """
    # A link may not be made of it either: a bare address is no longer one with its colon escaped.
    safe = _SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return safe.replace("://", ":\\//")


def render_document_markdown(document: Document, *, summary_only: bool = False) -> str:
    """Return any document as Markdown.

    Parameters
    ----------
    document : Document
        From :func:`reports.compose.compose`.
    summary_only : bool
        Only the first screen.
    """
    parts = [f"# {escape_markdown(document.title)}", _line(document.subtitle)]
    parts += [f"> **{_item(banner)}**" for banner in document.banners]
    shown = document.summaries if summary_only else (*document.summaries, *document.sections)
    for section in shown:
        parts += _section(section)
    if not summary_only:
        parts += ["---", *(_line(note) for note in document.footer)]
    return "\n\n".join(parts) + "\n"


def first_screen_of(markdown: str) -> str:
    """Return the first screen of a report that was rendered as Markdown."""
    parts = markdown.split("\n## ")
    return "\n## ".join(parts[: 1 + _SUMMARIES]).rstrip() + "\n"


def _section(section: Section) -> list[str]:
    return [f"## {escape_markdown(section.title)}", *(_block(b) for b in section.blocks)]


def _block(block: Block) -> str:
    if isinstance(block, Bullets):
        return "\n".join(f"- {_item(item)}" for item in block.items)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Figures):
        return "\n".join(
            f"- {escape_markdown(name)}: {_line(value)} ({escape_markdown(note)})"
            for name, value, note in block.figures
        )
    if isinstance(block, Subheading):
        return f"### {escape_markdown(block.text)}"
    if isinstance(block, Picture):
        return f"*{escape_markdown(block.alt)}*"
    return _toned(_line(block.line), block.tone)


def _table(table: Table) -> str:
    heads = " | ".join(escape_markdown(c.name) for c in table.columns)
    rules = "|".join("---:" if c.numeric else "---" for c in table.columns)
    rows = [" | ".join(_span(cell) for cell in row) for row in table.rows]
    body = "\n".join(f"| {row} |" for row in rows)
    return f"{escape_markdown(table.caption)}:\n\n| {heads} |\n|{rules}|\n{body}"


def _item(item: Item) -> str:
    return _toned(_line(item.line), item.tone)


def _toned(text: str, tone: Tone) -> str:
    sign = SIGNS[tone]
    return f"{sign} {text}" if sign else text


def _line(line: Line) -> str:
    return "".join(_span(span) for span in line)


def _span(span: Span) -> str:
    if isinstance(span, Moment):
        return f"{new_york(span.at)} ({_utc_beside(span.at)})"
    if isinstance(span, Day):
        return str(span.on)
    if isinstance(span, Mark):
        return _toned(escape_markdown(span.text), span.tone)
    if isinstance(span, Code):
        return f"`{span.text}`"
    if isinstance(span, Picture):
        return escape_markdown(span.alt)
    if isinstance(span, Reasons):
        told = "; ".join(f"{name} {signed(bps)} bps" for name, bps in span.contributions)
        return escape_markdown(f"{span.text} [{told}]" if told else span.text)
    # Spaces at either end part it from what stands beside it.
    text = escape_markdown(span)
    return f"{' ' * span.startswith(' ')}{text}{' ' * (span.endswith(' ') and len(span) > 1)}"
