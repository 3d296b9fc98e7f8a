"""The vendor's reference tables from a served market: filters, order, pages, market status."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import polars as pl

from market import calendar
from market.schema import Dividend, Split, Ticker

_BOUNDS = (".gte", ".gt", ".lte", ".lt")
_EARLY_HOURS = dt.time(4)
_LATE_HOURS = dt.time(20)
MAX_LIMIT = 1000

Row = dict[str, Any]


class BadQueryError(Exception):
    """A query parameter cannot be used; the text is what the caller is told."""


@dataclass(frozen=True)
class Table:
    """One endpoint: what can be filtered and sorted on, and how."""

    filters: tuple[str, ...]
    sorts: tuple[str, ...]
    default_sort: str
    default_limit: int
    max_limit: int = MAX_LIMIT


TICKERS = Table(("ticker",), ("ticker", "name"), "ticker.asc", 100)
SPLITS = Table(
    ("ticker", "execution_date"), ("execution_date", "ticker"), "execution_date.desc", 10
)
DIVIDENDS = Table(
    ("ticker", "ex_dividend_date", "declaration_date"),
    ("ex_dividend_date", "declaration_date", "cash_amount", "ticker"),
    "ex_dividend_date.desc",
    10,
)


def ticker_row(row: Mapping[str, Any]) -> Row:
    """Return the vendor's form of a row of the tickers table."""
    wire = {
        "ticker": row[Ticker.SYMBOL],
        "name": row[Ticker.NAME],
        "market": "stocks",
        "locale": "us",
        "type": "CS",
        "active": row[Ticker.ACTIVE],
        "currency_name": "usd",
        "composite_figi": row[Ticker.FIGI],
    }
    return _without_nulls(wire)


def split_rows(splits: pl.DataFrame) -> list[tuple[dt.datetime, Row]]:
    """Return the vendor's form of the splits, each with the moment it was known."""
    found: list[tuple[dt.datetime, Row]] = []
    for row in splits.iter_rows(named=True):
        of, to = _split_terms(row[Split.SPLIT_RATIO])
        day = row[Split.EX_DATE].isoformat()
        wire = {
            "id": _identity("E", row[Split.SYMBOL], day, to, of),
            "ticker": row[Split.SYMBOL],
            "execution_date": day,
            "split_from": of,
            "split_to": to,
            "adjustment_type": "forward_split" if to > of else "reverse_split",
        }
        found.append((row[Split.KNOWN_AT], wire))
    return found


def dividend_rows(dividends: pl.DataFrame) -> list[tuple[dt.datetime, Row]]:
    """Return the vendor's form of the dividends, each with the moment it was known.

    The vendor states a declaration date, not an hour: it is the New York day that had ended, or
    was under way, at ``known_at``; a dividend known at the open of its ex-date has none.
    """
    found: list[tuple[dt.datetime, Row]] = []
    for row in dividends.iter_rows(named=True):
        ex_date, known = row[Dividend.EX_DATE], row[Dividend.KNOWN_AT]
        before = (known - dt.timedelta(microseconds=1)).astimezone(calendar.NEW_YORK).date()
        wire = {
            "id": _identity("D", row[Dividend.SYMBOL], ex_date, row[Dividend.AMOUNT_USD]),
            "ticker": row[Dividend.SYMBOL],
            "cash_amount": row[Dividend.AMOUNT_USD],
            "currency": "USD",
            "declaration_date": before.isoformat() if before < ex_date else None,
            "dividend_type": "CD",
            "ex_dividend_date": ex_date.isoformat(),
        }
        found.append((known, _without_nulls(wire)))
    return found


def select_rows(
    rows: Sequence[Row], query: Mapping[str, str], table: Table
) -> tuple[list[Row], str, int, int]:
    """Return the page of rows that a query asks for.

    Returns
    -------
    tuple
        The rows, the sort used, the position behind them and the number of all matching rows.

    Raises
    ------
    BadQueryError
        A limit, sort or position that the endpoint does not know.
    """
    kept = [r for r in rows if _matches(r, query, table)]
    order = _sort_text(query, table)
    for part in reversed(order.split(",")):
        name, _, direction = part.partition(".")
        if name not in table.sorts or direction not in ("asc", "desc"):
            raise BadQueryError(f"sort: {name!r} is not one of {', '.join(table.sorts)}")
        kept.sort(key=lambda r, n=name: str(r.get(n, "")), reverse=direction == "desc")
    limit = whole_number(query, "limit", table.default_limit, 1, table.max_limit)
    start = whole_number(query, "offset", 0, 0, len(kept))
    return kept[start : start + limit], order, start + limit, len(kept)


def whole_number(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """Return a whole number of the query, within bounds."""
    text = query.get(name, "")
    if not text:
        return default
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    if not low <= value <= high:
        raise BadQueryError(f"{name}: must be a whole number from {low} to {high}")
    return value


def market_status(now: dt.datetime) -> Row:
    """Return the vendor's answer to "is the market open?" at ``now``."""
    local = now.astimezone(calendar.NEW_YORK)
    day, clock = local.date(), local.time()
    early = late = is_open = False
    if calendar.is_session(day):
        opened, closed = calendar.session_open(day), calendar.session_close(day)
        is_open = opened <= now < closed
        early = clock >= _EARLY_HOURS and now < opened
        late = now >= closed and clock < _LATE_HOURS
    extended = early or late
    state = "open" if is_open else "extended-hours" if extended else "closed"
    return {
        "afterHours": late,
        "currencies": {"crypto": "open", "fx": "open" if local.weekday() < 5 else "closed"},
        "earlyHours": early,
        "exchanges": {"nasdaq": state, "nyse": state, "otc": state},
        "market": state,
        "serverTime": local.isoformat(timespec="seconds"),
    }


def upcoming_closures(now: dt.datetime, days: int = 365) -> list[Row]:
    """Return the coming holidays and half-days as the vendor lists them."""
    today = now.astimezone(calendar.NEW_YORK).date()
    until = min(today + dt.timedelta(days=days), calendar.LAST_DATE)
    if until < today:
        return []
    closures: list[Row] = [
        {"date": d.isoformat(), "name": "Market Holiday", "status": "closed"}
        for d in calendar.holidays_between(today, until)
    ]
    closures += [
        {
            "date": d.isoformat(),
            "name": "Early Close",
            "status": "early-close",
            "open": f"{calendar.session_open(d):%Y-%m-%dT%H:%M:%S.000Z}",
            "close": f"{calendar.session_close(d):%Y-%m-%dT%H:%M:%S.000Z}",
        }
        for d in calendar.sessions_between(today, until)
        if calendar.is_half_day(d)
    ]
    closures.sort(key=lambda c: c["date"])
    return [{**c, "exchange": exchange} for c in closures for exchange in ("NYSE", "NASDAQ")]


def _matches(row: Row, query: Mapping[str, str], table: Table) -> bool:
    for name in table.filters:
        value = row.get(name)
        wanted = query.get(name)
        if wanted and value != wanted:
            return False
        any_of = query.get(f"{name}.any_of")
        if any_of and value not in any_of.split(","):
            return False
        for bound in _BOUNDS:
            edge = query.get(name + bound)
            if edge and (value is None or not _within(str(value), bound, edge)):
                return False
    return True


def _within(value: str, bound: str, edge: str) -> bool:
    if bound == ".gte":
        return value >= edge
    if bound == ".gt":
        return value > edge
    return value <= edge if bound == ".lte" else value < edge


def _sort_text(query: Mapping[str, str], table: Table) -> str:
    """Return ``name.direction`` parts: v1 writes them so, v3 writes ``sort`` and ``order``."""
    default, _, direction = table.default_sort.partition(".")
    order = query.get("order") or ("asc" if query.get("sort") else direction)
    text = query.get("sort") or default
    return ",".join(p if "." in p else f"{p}.{order}" for p in text.split(","))


def _split_terms(ratio: float) -> tuple[float, float]:
    fraction = Fraction(ratio).limit_denominator(1000)
    if fraction > 0 and float(fraction) == ratio:
        return fraction.denominator, fraction.numerator
    return 1, ratio


def _identity(letter: str, *parts: object) -> str:
    return letter + hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:32]


def _without_nulls(row: Row) -> Row:
    return {k: v for k, v in row.items() if v is not None}
