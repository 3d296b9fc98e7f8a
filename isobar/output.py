"""What the terminal shows: tables and documents on stdout, progress and messages on stderr."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

# Text of others passes through here (symbols, reasons, paths, messages): brackets and colons in a
# string are what they are. What has a style is a rich Text, see `styled`.
out = Console(markup=False, emoji=False)
log = Console(stderr=True, markup=False, emoji=False)


def print_json(document: object) -> None:
    """Write one JSON document to stdout."""
    # NON_STR_KEYS: names of SQLAlchemy's columns are a kind of str that orjson does not take.
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    body = orjson.dumps(document, default=_plain, option=options)
    sys.stdout.write(body.decode() + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal | Path | dt.timedelta):
        return str(value)
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table; numbers are right-aligned. A cell with a style is a rich Text."""
    # As Text and not as str: a table may be printed where strings are markup, as in a notebook.
    made = Table(title=Text(title, "bold italic"), title_justify="left", header_style="bold")
    for k, name in enumerate(columns):
        numeric = any(isinstance(row[k], int | float | Decimal) for row in rows)
        made.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(v if isinstance(v, Text) else Text(show(v)) for v in row))
    return made


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return a line of plain parts and of parts with a style, each a pair (text, style).

    Examples
    --------
    >>> styled(("broken", "bold red"), " row [7]").plain
    'broken row [7]'
    """
    return Text.assemble(*parts)


def show(value: object) -> str:
    """Return a value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 10 else f"{value:,.2f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M}Z"
    return str(value)


def plain(number: Decimal | float) -> str:
    """Return a number with every digit that says something, and no zeros that do not."""
    text = f"{number:,f}" if isinstance(number, Decimal) else f"{number:,.9f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@contextmanager
def progress_bars(quiet: bool = False) -> Iterator[Any]:
    """Yield a callable (what, done, total) that draws one bar per kind of work.

    Work that begins again has its time from its new beginning.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=log, transient=False, disable=quiet) as bars:
        tasks: dict[str, TaskID] = {}
        ended: set[str] = set()

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            elif what in ended:
                if done >= total:
                    return  # Over before there was anything to watch: the time seen stays.
                bars.reset(tasks[what], total=total)
                ended.discard(what)
            bars.update(tasks[what], completed=done, total=total)
            if done >= total:
                ended.add(what)

        yield update


@contextmanager
def waiting(what: str, quiet: bool = False) -> Iterator[None]:
    """Show that something goes on whose length nobody knows; only in a terminal."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=log,
        transient=True,
        disable=quiet or not log.is_terminal,
    ) as shown:
        shown.add_task(what, total=None)
        yield


def print_mapping(title: str, values: Mapping[str, object]) -> None:
    """Print names and values as a table on stdout."""
    rows = [(k, v if isinstance(v, int | float | str) else show(v)) for k, v in values.items()]
    made = table(title, ("", ""), [(k, show(v)) for k, v in rows])
    made.show_header = False
    out.print(made)
