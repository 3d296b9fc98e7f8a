"""Splits, dividends and tickers from the vendor's decoded rows to frames, each value checked."""

from __future__ import annotations

import datetime as dt
from fractions import Fraction
from typing import Any

import polars as pl

from market import calendar
from market import polygon_parse as parse
from market.errors import SourceError
from market.schema import (
    DIVIDEND_SCHEMA,
    SPLIT_SCHEMA,
    TICKER_SCHEMA,
    Dividend,
    Split,
    Ticker,
)

_TEXT = frozenset({str})
_NUMBER = frozenset({int, float})


def splits(rows: list[Any]) -> pl.DataFrame:
    """Return ``SPLIT_SCHEMA`` rows, sorted; a split that is listed twice counts once."""
    ex_dates = dates(rows, "execution_date")
    to = parse.column(rows, "split_to", _NUMBER)
    of = parse.column(rows, "split_from", _NUMBER)
    frame = pl.DataFrame(
        {
            Split.SYMBOL: parse.column(rows, "ticker", _TEXT),
            Split.EX_DATE: ex_dates,
            Split.KNOWN_AT: [calendar.midnight(_session_on_or_after(d)) for d in ex_dates],
            Split.SPLIT_RATIO: [_ratio(a, b) for a, b in zip(to, of, strict=True)],
        },
        schema=SPLIT_SCHEMA,
    )
    return frame.unique().sort(Split.SYMBOL, Split.EX_DATE, Split.SPLIT_RATIO)


def dividends(rows: list[Any]) -> pl.DataFrame:
    """Return ``DIVIDEND_SCHEMA`` rows, sorted; those in another currency than USD are left out."""
    currency = parse.column(rows, "currency", _TEXT, optional=True)
    rows = [r for r, c in zip(rows, currency, strict=True) if c in (None, "USD")]
    ex_dates = dates(rows, "ex_dividend_date")
    declared = parse.column(rows, "declaration_date", _TEXT, optional=True)
    amounts = [float(a) for a in parse.column(rows, "cash_amount", _NUMBER)]
    if any(not 0 <= a < float("inf") for a in amounts):
        raise impossible("a dividend", min(amounts))
    frame = pl.DataFrame(
        {
            Dividend.SYMBOL: parse.column(rows, "ticker", _TEXT),
            Dividend.EX_DATE: ex_dates,
            Dividend.KNOWN_AT: [_announced(d, x) for d, x in zip(declared, ex_dates, strict=True)],
            Dividend.AMOUNT_USD: amounts,
        },
        schema=DIVIDEND_SCHEMA,
    )
    return frame.sort(Dividend.SYMBOL, Dividend.EX_DATE, Dividend.AMOUNT_USD)


def tickers(rows: list[Any]) -> pl.DataFrame:
    """Return ``TICKER_SCHEMA`` rows, sorted; of a ticker used twice the first one stays."""
    frame = pl.DataFrame(
        {
            Ticker.SYMBOL: parse.column(rows, "ticker", _TEXT),
            Ticker.NAME: parse.column(rows, "name", _TEXT, optional=True),
            Ticker.ACTIVE: parse.column(rows, "active", frozenset({bool})),
            Ticker.FIGI: parse.column(rows, "composite_figi", _TEXT, optional=True),
        },
        schema=TICKER_SCHEMA,
    )
    return frame.unique(Ticker.SYMBOL, keep="first", maintain_order=True).sort(Ticker.SYMBOL)


def dates(rows: list[Any], key: str) -> list[dt.date]:
    """Return the dates under one key of all rows, or raise."""
    return [parse.parse_date(v, key) for v in parse.column(rows, key, _TEXT)]


def _ratio(to: float, of: float) -> float:
    if not (0 < to < float("inf") and 0 < of < float("inf")):
        raise impossible("a split", f"{of} for {to}")
    return float(Fraction(to) / Fraction(of))


def _announced(declared: str | None, ex_date: dt.date) -> dt.datetime:
    at_open = _open_on_or_after(ex_date)
    if declared is None:
        return at_open
    day = parse.parse_date(declared, "declaration_date") + dt.timedelta(days=1)
    return min(calendar.midnight(day), at_open)


def _open_on_or_after(date: dt.date) -> dt.datetime:
    return calendar.session_open(_session_on_or_after(date))


def _session_on_or_after(date: dt.date) -> dt.date:
    return date if calendar.is_session(date) else calendar.next_session(date)


def impossible(what: str, got: object) -> SourceError:
    """Return the error that says what cannot be."""
    return SourceError(
        f"the vendor sent unusable data: {what} is impossible",
        got=got,
        remedy="run again; if it stays, report it to the vendor and leave this symbol out",
    )
