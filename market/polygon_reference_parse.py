"""Yields, index values and news from the vendor's decoded rows to frames, each value checked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any

import orjson
import polars as pl

from market import calendar
from market import polygon_parse as parse
from market.errors import SourceError
from market.macro import index_known_at, news_known_at, yields_known_at
from market.polygon_actions import dates, impossible
from market.schema import (
    INDEX_SCHEMA,
    MATURITIES,
    NEWS_SCHEMA,
    TREASURY_YIELD_SCHEMA,
    IndexBar,
    News,
    Yield,
)

_TEXT = frozenset({str})
_NUMBER = frozenset({int, float})
_LIST = frozenset({list})
_OBJECT = frozenset({dict})
_LOWEST_YIELD, _HIGHEST_YIELD = -10.0, 50.0
_INDEX_KEYS = {"o": IndexBar.OPEN, "h": IndexBar.HIGH, "l": IndexBar.LOW, "c": IndexBar.CLOSE}


def market_status(body: bytes) -> dict[str, Any]:
    """Return the answer about the state of the market, with ``serverTime`` as UTC."""
    try:
        told = orjson.loads(body)["serverTime"]
        moment = dt.datetime.fromisoformat(told)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise SourceError(
            "the vendor does not say what time it is",
            got=f"{len(body)} bytes",
            allowed="an object with serverTime, in ISO 8601",
            remedy="check the base URL and what stands between here and the vendor",
        ) from None
    if moment.tzinfo is None:
        raise impossible("serverTime without a time zone", told)
    return {"serverTime": moment.astimezone(dt.UTC)}


def treasury_yields(rows: list[Any], start: dt.date, end: dt.date) -> pl.DataFrame:
    """Return ``TREASURY_YIELD_SCHEMA`` rows, sorted; a row that comes twice counts once."""
    days = dates(rows, "date")
    _refuse_outside(days, start, end, "yields")
    data: dict[str, Any] = {Yield.DATE: days, Yield.KNOWN_AT: [yields_known_at(d) for d in days]}
    for maturity in MATURITIES:
        key = maturity.removesuffix("_percent")
        values = parse.column(rows, key, _NUMBER, optional=True)
        wrong = [v for v in values if v is not None and not _LOWEST_YIELD <= v <= _HIGHEST_YIELD]
        if wrong:
            raise impossible(f"{key}, in percent,", wrong[0])
        data[maturity] = [None if v is None else float(v) for v in values]
    frame = pl.DataFrame(data, schema=TREASURY_YIELD_SCHEMA).unique().sort(Yield.DATE)
    _refuse_double(frame, [Yield.DATE], "the yields of one date, told in two ways,")
    return frame


def index_bars(page: dict[str, Any], symbol: str, delay: dt.timedelta) -> pl.DataFrame:
    """Return ``INDEX_SCHEMA`` rows of a page of daily aggregates of ``I:symbol``.

    Values of days without a session (an index may be computed overnight into a holiday) are left
    out.
    """
    found = parse.results(page, f"I:{symbol}")
    rows = found if isinstance(found, list) else found.to_dicts()
    times = parse.column(rows, "t", frozenset({int}))
    sessions = [_new_york_date(t) for t in times]
    kept = [calendar.is_session(s) for s in sessions]
    data: dict[str, Any] = {
        IndexBar.SYMBOL: symbol,
        IndexBar.SESSION: pl.Series(_only(sessions, kept), dtype=pl.Date),
    }
    data[IndexBar.KNOWN_AT] = [index_known_at(s, delay) for s in data[IndexBar.SESSION]]
    for key, name in _INDEX_KEYS.items():
        values = _only(parse.column(rows, key, _NUMBER), kept)
        if any(not 0 < v < float("inf") for v in values):
            raise impossible(f"a value of {symbol}", min(values))
        data[name] = [float(v) for v in values]
    return pl.DataFrame(data, schema=INDEX_SCHEMA)


def check_index(frame: pl.DataFrame, start: dt.date, end: dt.date) -> pl.DataFrame:
    """Return index values sorted; raise on a double or on a session that was not asked for."""
    _refuse_outside(frame[IndexBar.SESSION].to_list(), start, end, "an index value")
    frame = frame.unique().sort(IndexBar.SYMBOL, IndexBar.SESSION)
    keys = [IndexBar.SYMBOL, IndexBar.SESSION]
    _refuse_double(frame, keys, "an index value, told in two ways,")
    return frame


def news(
    rows: list[Any],
    wanted: Collection[str],
    begin: dt.datetime,
    until: dt.datetime,
    delay: dt.timedelta,
) -> pl.DataFrame:
    """Return ``NEWS_SCHEMA`` rows of articles about ``wanted``, published in [begin, until).

    An article that comes twice, on two pages or with two symbols, counts as it came first.
    """
    texts = {key: parse.column(rows, key, _TEXT) for key in ("id", "published_utc", "title")} | {
        "article_url": parse.column(rows, "article_url", _TEXT, optional=True)
    }
    publishers = parse.column(rows, "publisher", _OBJECT, optional=True)
    symbols = parse.column(rows, "tickers", _LIST)
    insights = parse.column(rows, "insights", _LIST, optional=True)
    found: list[tuple[object, ...]] = []
    for n in range(len(rows)):
        published = _moment(texts["published_utc"][n])
        if not begin <= published < until:
            raise impossible("an article outside the time asked for", texts["published_utc"][n])
        labels = _labels(insights[n] or [])
        for symbol in sorted({s for s in symbols[n] if s in wanted}):
            sentiment, reasoning = labels.get(symbol, (None, None))
            found.append(
                (
                    texts["id"][n],
                    symbol,
                    published.date().replace(day=1),
                    published,
                    news_known_at(published, delay),
                    texts["title"][n],
                    (publishers[n] or {}).get("name"),
                    sentiment,
                    reasoning,
                    texts["article_url"][n],
                )
            )
    try:
        frame = pl.DataFrame(found, schema=NEWS_SCHEMA, orient="row")
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise impossible("the publisher or label of an article", str(error)[:80]) from None
    keys = [News.ARTICLE_ID, News.SYMBOL]
    return frame.unique(keys, keep="first", maintain_order=True).sort(keys)


def _labels(insights: list[Any]) -> dict[str, tuple[str | None, str | None]]:
    symbols = parse.column(insights, "ticker", _TEXT)
    labels = parse.column(insights, "sentiment", _TEXT, optional=True)
    reasons = parse.column(insights, "sentiment_reasoning", _TEXT, optional=True)
    found: dict[str, tuple[str | None, str | None]] = {}
    for symbol, label, reason in zip(symbols, labels, reasons, strict=True):
        found.setdefault(symbol, (label, reason))
    return found


def _moment(text: str) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise impossible("a time of publication without date, hour and zone", text[:30])
    return moment.astimezone(dt.UTC)


def _new_york_date(milliseconds: int) -> dt.date:
    try:
        moment = dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
    except (ValueError, OverflowError, OSError):
        raise impossible("a timestamp", milliseconds) from None
    return moment.astimezone(calendar.NEW_YORK).date()


def _only(values: list[Any], kept: list[bool]) -> list[Any]:
    return [v for v, keep in zip(values, kept, strict=True) if keep]


def _refuse_outside(days: list[dt.date], start: dt.date, end: dt.date, what: str) -> None:
    outside = [d for d in days if not start <= d <= end]
    if outside:
        raise impossible(f"{what} outside {start} to {end}", outside[0].isoformat())


def _refuse_double(frame: pl.DataFrame, keys: Sequence[str], what: str) -> None:
    double = frame.filter(frame.select(keys).is_duplicated())
    if double.height:
        raise impossible(what, str(double.select(keys).row(0)))
