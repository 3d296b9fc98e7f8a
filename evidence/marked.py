"""Parts of a page that a command writes, between two marks; all else is written by hand."""

from __future__ import annotations

from pathlib import Path

from evidence.files import write_bytes
from market.errors import UsageError


def write_between(page: Path, command: str, text: str) -> None:
    """Replace what stands between a command's marks.

    Raises
    ------
    UsageError
        When the marks are not there, once each.
    """
    begin, end = f"<!-- made by {command} -->", f"<!-- end of {command} -->"
    whole = page.read_text("utf-8")
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise UsageError(
            "the page has no place for what the command found",
            got=str(page),
            allowed=f"{begin} and {end}, once each",
            remedy="put the two marks back",
        )
    before, rest = whole.split(begin)
    write_bytes(page, f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}".encode())
