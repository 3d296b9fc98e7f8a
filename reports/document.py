"""A report as a document: blocks of text and tables, from which HTML and Markdown are made.

Both are renderings of the same blocks, so neither can say what the other does not.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

DASH = "–"
MINUS = "−"


class Tone(StrEnum):
    """How a thing is meant; shown by a sign and a word as well as by colour."""

    PLAIN = "plain"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    LONG = "long"
    SHORT = "short"


SIGNS: dict[Tone, str] = {
    Tone.PLAIN: "",
    Tone.GOOD: "✓",
    Tone.WARN: "!",
    Tone.BAD: "✕",
    Tone.LONG: "▲",
    Tone.SHORT: "▼",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """A time (aware); shown in New York, with UTC beside it."""

    at: dt.datetime


@dataclass(frozen=True, slots=True)
class Day:
    """A date."""

    on: dt.date


@dataclass(frozen=True, slots=True)
class Mark:
    """A word with a tone."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Code:
    """Something to type."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasons:
    """A sentence, and the strongest signed contributions in bps."""

    text: str
    contributions: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing (an ``svg`` element) and what it says in words."""

    svg: str
    alt: str


Span = str | Moment | Day | Mark | Code | Reasons | Picture
Line = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a list."""

    line: Line
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text."""

    line: Line
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """A few numbers that stand out: name, value, note."""

    figures: tuple[tuple[str, Line, str], ...]


@dataclass(frozen=True, slots=True)
class Column:
    """Head of a column."""

    name: str
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under heads.

    ``folded``: shown on request. ``grid``: keeps its shape on a narrow screen and scrolls there;
    others become one card a row.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Line, ...]
    folded: bool = False
    grid: bool = False


@dataclass(frozen=True, slots=True)
class Subheading:
    """A heading within a section."""

    text: str


Block = Paragraph | Bullets | Figures | Table | Picture | Subheading


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report: banners and three summaries on the first screen, then sections."""

    title: str
    subtitle: Line
    banners: tuple[Item, ...]
    summaries: tuple[Section, ...]
    sections: tuple[Section, ...]
    footer: tuple[Line, ...]


def signed(value: float | None, digits: int = 1) -> str:
    """Return a number with its sign.

    Examples
    --------
    >>> signed(-3.04), signed(0.0), signed(None)
    ('−3.0', '0.0', '–')
    """
    if value is None or value != value:
        return DASH
    text = f"{value:+,.{digits}f}"
    return text[1:] if float(text.replace(",", "")) == 0 else text.replace("-", MINUS)


def number(value: float | None, digits: int = 2) -> str:
    """Return a number; a dash for none.

    Examples
    --------
    >>> number(1234.5), number(-2)
    ('1,234.50', '−2.00')
    """
    if value is None or value != value:
        return DASH
    return f"{value:,.{digits}f}".replace("-", MINUS)


def quantity(value: float | None) -> str:
    """Return shares, without needless digits.

    Examples
    --------
    >>> quantity(-12.0), quantity(0.25)
    ('−12', '0.25')
    """
    if value is None or value != value:
        return DASH
    return f"{value:,.4f}".rstrip("0").rstrip(".").replace("-", MINUS)


def percent(value: float | None, digits: int = 0) -> str:
    """Return a share as percent.

    Examples
    --------
    >>> percent(0.514), percent(None)
    ('51 %', '–')
    """
    return (
        DASH
        if value is None or value != value
        else f"{100 * value:,.{digits}f} %".replace("-", MINUS)
    )


def usd(value: float | None) -> str:
    """Return an amount in whole dollars, the sign in front.

    Examples
    --------
    >>> usd(-1234.4)
    '−$1,234'
    """
    if value is None or value != value:
        return DASH
    return f"{MINUS if round(value) < 0 else ''}${abs(value):,.0f}"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun.

    Examples
    --------
    >>> plural(1, "order"), plural(3, "batch", "batches")
    ('1 order', '3 batches')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def some(names: list[str], most: int = 6) -> str:
    """Return the first names and how many more there are.

    Examples
    --------
    >>> some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most:,} more"
