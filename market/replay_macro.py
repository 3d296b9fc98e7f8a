"""The vendor's macro data, news and ticker events, as a replay server sends them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from market import calendar
from market.errors import MarketError
from market.identity import as_known, resolve
from market.macro import index_known_at, yields_known_at
from market.polygon_identities import RECORDS_BEGIN
from market.reference_source import ReferenceTables
from market.replay_bars import BarShelf, Page, Query
from market.replay_data import ServedMarket
from market.replay_reference import Row, Table, ticker_row
from market.schema import (
    BAR_SCHEMA,
    DIVIDEND_SCHEMA,
    INDEX_SCHEMA,
    MATURITIES,
    SPLIT_SCHEMA,
    TICKER_SCHEMA,
    TREASURY_YIELD_SCHEMA,
    Bar,
    Identity,
    IndexBar,
    News,
    Ticker,
    Yield,
    conform,
    empty,
)

YIELDS = Table(("date",), ("date",), "date.desc", 100, 50_000)
NEWS = Table(("published_utc",), ("published_utc",), "published_utc.desc", 10)
INDEX_PREFIX = "I:"
_NO_CIK = "0000000000"


def load_reference_files(
    *, vix: Path | None = None, treasury: Path | None = None
) -> ReferenceTables:
    """Read Parquet files of daily macro data into tables that can be served.

    Parameters
    ----------
    vix : Path, optional
        Columns ``date, open, high, low, close``. Days without a session are left out.
    treasury : Path, optional
        Columns ``date`` and ``1month, 3month, 6month, 1year, ... 30year``, in percent, or as
        fractions where no value of the file reaches 1 (no long yield ever was below one percent
        throughout).

    Raises
    ------
    MarketError
        When a file cannot be read or lacks a column.
    """
    found: dict[str, pl.DataFrame] = {}
    if vix is not None:
        days = _read(vix, ["date", "open", "high", "low", "close"])
        days = days.rename({"date": IndexBar.SESSION}).with_columns(pl.lit("VIX").alias("symbol"))
        days = days.join(calendar.schedule(), on=IndexBar.SESSION, how="semi")
        known = [index_known_at(s) for s in days[IndexBar.SESSION]]
        days = days.with_columns(pl.Series(IndexBar.KNOWN_AT, known))
        found["indices"] = conform(days, INDEX_SCHEMA, vix.name)
    if treasury is not None:
        names = {_file_column(m): m for m in MATURITIES}
        rows = _read(treasury, ["date", *names]).rename(names)
        largest = max(float(str(rows[m].max() or 0)) for m in MATURITIES)
        scale = 100.0 if largest < 1.0 else 1.0
        known = [yields_known_at(d) for d in rows[Yield.DATE]]
        rows = rows.with_columns(
            *((pl.col(m) * scale).round(4) for m in MATURITIES), pl.Series(Yield.KNOWN_AT, known)
        )
        found["treasury_yields"] = conform(rows, TREASURY_YIELD_SCHEMA, treasury.name)
    return ReferenceTables(**found)


class ReferenceShelf:
    """What a replay serves beside bars, in the vendor's form.

    Parameters
    ----------
    market : ServedMarket
        What to serve.
    """

    def __init__(self, market: ServedMarket) -> None:
        tables = market.reference
        self._yields = _yield_rows(tables.treasury_yields)
        self._news = _news_rows(tables.news)
        self._indices = BarShelf(_as_bars(tables.indices))
        self._identities = tables.identities
        self._names = dict(market.tickers.select(Ticker.SYMBOL, Ticker.NAME).iter_rows())
        self._plain = market.tickers.filter(
            ~pl.col(Ticker.SYMBOL).is_in(tables.identities[Identity.SYMBOL].to_list())
        )

    def yields(self, now: dt.datetime | None) -> list[Row]:
        """Return the yields known by ``now``."""
        return [row for known, row in self._yields if now is None or known <= now]

    def news(self, symbol: str | None, now: dt.datetime | None) -> list[Row]:
        """Return the articles known by ``now``, about one symbol or about any."""
        return [
            row
            for known, row in self._news
            if (now is None or known <= now) and (symbol is None or symbol in row["tickers"])
        ]

    def index_page(self, query: Query, now: dt.datetime | None) -> tuple[Page, list[Row]]:
        """Return a page of index values; they have neither volume nor price nor trades."""
        page = self._indices.page(query, now)
        rows: list[Row] = orjson.loads(page.rows)
        return page, [{k: v for k, v in row.items() if k != "v"} for row in rows]

    def tickers(self, now: dt.datetime | None) -> list[Row]:
        """Return the list of tickers: those in use, former ones and delisted ones, by ticker."""
        rows = [ticker_row(row) for row in self._plain.iter_rows(named=True)]
        for spell in self._known(now).iter_rows(named=True):
            end = spell[Identity.DELISTED] or spell[Identity.VALID_TO]
            row: Row = {
                Ticker.SYMBOL: spell[Identity.SYMBOL],
                Ticker.NAME: self._names.get(spell[Identity.SYMBOL]) or spell[Identity.SYMBOL],
                Ticker.ACTIVE: spell[Identity.ACTIVE],
                Ticker.FIGI: spell[Identity.FIGI],
            }
            ended = {} if end is None else {"delisted_utc": f"{end}T00:00:00Z"}
            rows.append({**ticker_row(row), **ended})
        return sorted(rows, key=lambda r: r["ticker"])

    def events(self, name: str, now: dt.datetime | None) -> Row | None:
        """Return the ticker changes of the company with this FIGI, or that bears this ticker."""
        known = self._known(now)
        moment = now or calendar.session_close(calendar.previous_session(calendar.LAST_DATE))
        key = name if name in known[Identity.FIGI] else resolve(self._identities, name, moment)
        if key is None:
            return None
        mine = known.filter(pl.col(Identity.FIGI) == key).sort(Identity.VALID_FROM)
        if mine.is_empty():
            return None
        first = mine[Identity.VALID_FROM].drop_nulls().min()
        before = first - dt.timedelta(days=1) if isinstance(first, dt.date) else RECORDS_BEGIN
        begin = min(RECORDS_BEGIN, before)
        events = [
            {
                "type": "ticker_change",
                "date": (date or begin).isoformat(),
                "ticker_change": {"ticker": symbol},
            }
            for symbol, date in mine.select(Identity.SYMBOL, Identity.VALID_FROM).iter_rows()
        ]
        symbol = mine[Identity.SYMBOL][-1]
        return {
            "name": self._names.get(symbol) or symbol,
            "composite_figi": key,
            "cik": _NO_CIK,
            "events": events[::-1],
        }

    def _known(self, now: dt.datetime | None) -> pl.DataFrame:
        return self._identities if now is None else as_known(self._identities, now)


def _file_column(maturity: str) -> str:
    _, number, unit, _ = maturity.split("_")
    return number + unit


def _read(path: Path, columns: list[str]) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, columns=columns)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise MarketError(
            f"the file of macro data cannot be read ({error})",
            got=str(path),
            allowed=f"Parquet with {', '.join(columns)}",
            remedy="check the path and the columns",
        ) from error


def _yield_rows(yields: pl.DataFrame) -> list[tuple[dt.datetime, Row]]:
    found: list[tuple[dt.datetime, Row]] = []
    for row in yields.sort(Yield.DATE).iter_rows(named=True):
        values = {m.removesuffix("_percent"): row[m] for m in MATURITIES if row[m] is not None}
        found.append((row[Yield.KNOWN_AT], {"date": row[Yield.DATE].isoformat(), **values}))
    return found


def _news_rows(news: pl.DataFrame) -> list[tuple[dt.datetime, Row]]:
    found: list[tuple[dt.datetime, Row]] = []
    order = [News.PUBLISHED_AT, News.ARTICLE_ID, News.SYMBOL]
    for _, article in news.sort(order).group_by(News.ARTICLE_ID, maintain_order=True):
        first: Mapping[str, Any] = article.row(0, named=True)
        labels = article.filter(pl.col(News.SENTIMENT).is_not_null())
        wire = {
            "id": first[News.ARTICLE_ID],
            "publisher": {"name": first[News.PUBLISHER]},
            "title": first[News.TITLE],
            "published_utc": f"{first[News.PUBLISHED_AT]:%Y-%m-%dT%H:%M:%SZ}",
            "article_url": first[News.URL],
            "tickers": article[News.SYMBOL].to_list(),
            "insights": [
                {"ticker": symbol, "sentiment": label, "sentiment_reasoning": reason}
                for symbol, label, reason in labels.select(
                    News.SYMBOL, News.SENTIMENT, News.SENTIMENT_REASONING
                ).iter_rows()
            ],
        }
        found.append((first[News.KNOWN_AT], wire))
    return found


def _as_bars(indices: pl.DataFrame) -> ServedMarket:
    """Return index values as bars without volume that end when they are known."""
    days = indices.join(calendar.schedule(), on=IndexBar.SESSION).with_columns(
        (INDEX_PREFIX + pl.col(IndexBar.SYMBOL)).alias(Bar.SYMBOL),
        pl.col("session_open").alias(Bar.BAR_START),
        pl.col(IndexBar.KNOWN_AT).alias(Bar.BAR_END),
        pl.lit(0.0).alias(Bar.VOLUME),
        pl.lit(None).alias(Bar.VWAP),
        pl.lit(None).alias(Bar.TRADES),
    )
    return ServedMarket(
        daily=conform(days, BAR_SCHEMA, "indices"),
        minute=None,
        splits=empty(SPLIT_SCHEMA),
        dividends=empty(DIVIDEND_SCHEMA),
        tickers=empty(TICKER_SCHEMA),
    )
