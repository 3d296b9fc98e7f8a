"""Numbers and tables in Markdown, the same way for all parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def number(value: float | None, digits: int = 4, *, signed: bool = True) -> str:
    """Return a number as it is printed; a dash where there is none.

    Examples
    --------
    >>> number(0.01234), number(None), number(3.14159, 2, signed=False)
    ('+0.0123', '-', '3.14')
    """
    if value is None:
        return "-"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def interval(
    mean: float | None,
    low: float | None,
    high: float | None,
    digits: int = 4,
    *,
    signed: bool = True,
) -> str:
    """Return a number with its 95 percent interval.

    Examples
    --------
    >>> interval(0.0123, 0.0045, 0.0201)
    '+0.0123 (+0.0045 to +0.0201)'
    """
    if mean is None or low is None or high is None:
        return number(mean, digits, signed=signed)
    shown = [number(v, digits, signed=signed) for v in (mean, low, high)]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent.

    Examples
    --------
    >>> percent(0.5231), percent(None)
    ('52.3%', '-')
    """
    return "-" if value is None else f"{100.0 * value:.{digits}f}%"


def percent_interval(
    mean: float | None, low: float | None, high: float | None, digits: int = 1
) -> str:
    """Return a share in percent with its 95 percent interval.

    Examples
    --------
    >>> percent_interval(0.52, 0.5, 0.54)
    '52.0% (50.0% to 54.0%)'
    """
    if mean is None or low is None or high is None:
        return percent(mean, digits)
    shown = [percent(v, digits) for v in (mean, low, high)]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table.

    Examples
    --------
    >>> print(table(("a", "b"), [(1, "x")]))
    | a | b |
    |---|---|
    | 1 | x |
    """
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
