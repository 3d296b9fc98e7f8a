"""Tables of the lake: their columns, types and order.

Every column name that travels between floors is declared here once. All times are UTC
with microsecond precision; a ``session`` is the trading date of XNYS.
"""

from __future__ import annotations

from enum import StrEnum

import polars as pl

from market.errors import MarketError

UTC_MICROSECONDS = pl.Datetime("us", "UTC")


class Bar(StrEnum):
    """Columns of a bar table (prices in USD, raw unless the table says otherwise)."""

    SYMBOL = "symbol"
    SESSION = "session"
    BAR_START = "bar_start"
    BAR_END = "bar_end"
    KNOWN_AT = "known_at"
    OPEN = "open"
    HIGH = "high"
    LOW = "low"
    CLOSE = "close"
    VOLUME = "volume"
    VWAP = "vwap"
    TRADES = "trades"


BAR_SCHEMA = pl.Schema(
    {
        Bar.SYMBOL: pl.String(),
        Bar.SESSION: pl.Date(),
        Bar.BAR_START: UTC_MICROSECONDS,
        Bar.BAR_END: UTC_MICROSECONDS,
        Bar.KNOWN_AT: UTC_MICROSECONDS,
        Bar.OPEN: pl.Float64(),
        Bar.HIGH: pl.Float64(),
        Bar.LOW: pl.Float64(),
        Bar.CLOSE: pl.Float64(),
        Bar.VOLUME: pl.Float64(),
        Bar.VWAP: pl.Float64(),
        Bar.TRADES: pl.Int64(),
    }
)

PRICE_COLUMNS = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VWAP)


class Split(StrEnum):
    """Columns of the splits table; ``split_ratio`` is new shares per old share."""

    SYMBOL = "symbol"
    EX_DATE = "ex_date"
    KNOWN_AT = "known_at"
    SPLIT_RATIO = "split_ratio"


SPLIT_SCHEMA = pl.Schema(
    {
        Split.SYMBOL: pl.String(),
        Split.EX_DATE: pl.Date(),
        Split.KNOWN_AT: UTC_MICROSECONDS,
        Split.SPLIT_RATIO: pl.Float64(),
    }
)


class Dividend(StrEnum):
    """Columns of the dividends table; the amount is per share, as paid at the time."""

    SYMBOL = "symbol"
    EX_DATE = "ex_date"
    KNOWN_AT = "known_at"
    AMOUNT_USD = "amount_usd"


DIVIDEND_SCHEMA = pl.Schema(
    {
        Dividend.SYMBOL: pl.String(),
        Dividend.EX_DATE: pl.Date(),
        Dividend.KNOWN_AT: UTC_MICROSECONDS,
        Dividend.AMOUNT_USD: pl.Float64(),
    }
)


class Ticker(StrEnum):
    """Columns of the reference table of tradable symbols."""

    SYMBOL = "symbol"
    NAME = "name"
    ACTIVE = "active"
    FIGI = "composite_figi"


TICKER_SCHEMA = pl.Schema(
    {
        Ticker.SYMBOL: pl.String(),
        Ticker.NAME: pl.String(),
        Ticker.ACTIVE: pl.Boolean(),
        Ticker.FIGI: pl.String(),
    }
)


class Yield(StrEnum):
    """Columns of the Treasury yields table: par yields by maturity, in percent a year.

    A maturity that was not published on a date is null (the 30-year from 2002 to 2006).
    ``known_at`` is explained in :func:`market.macro.yields_known_at`.
    """

    DATE = "date"
    KNOWN_AT = "known_at"
    MONTH_1 = "yield_1_month_percent"
    MONTH_3 = "yield_3_month_percent"
    MONTH_6 = "yield_6_month_percent"
    YEAR_1 = "yield_1_year_percent"
    YEAR_2 = "yield_2_year_percent"
    YEAR_3 = "yield_3_year_percent"
    YEAR_5 = "yield_5_year_percent"
    YEAR_7 = "yield_7_year_percent"
    YEAR_10 = "yield_10_year_percent"
    YEAR_20 = "yield_20_year_percent"
    YEAR_30 = "yield_30_year_percent"


MATURITIES = tuple(y for y in Yield if y not in (Yield.DATE, Yield.KNOWN_AT))

TREASURY_YIELD_SCHEMA = pl.Schema(
    {
        Yield.DATE: pl.Date(),
        Yield.KNOWN_AT: UTC_MICROSECONDS,
        **{maturity: pl.Float64() for maturity in MATURITIES},
    }
)


class IndexBar(StrEnum):
    """Columns of the daily index table, in points of the index; ``symbol`` is ``VIX``.

    ``known_at`` is explained in :func:`market.macro.index_known_at`.
    """

    SYMBOL = "symbol"
    SESSION = "session"
    KNOWN_AT = "known_at"
    OPEN = "open"
    HIGH = "high"
    LOW = "low"
    CLOSE = "close"


INDEX_SCHEMA = pl.Schema(
    {
        IndexBar.SYMBOL: pl.String(),
        IndexBar.SESSION: pl.Date(),
        IndexBar.KNOWN_AT: UTC_MICROSECONDS,
        IndexBar.OPEN: pl.Float64(),
        IndexBar.HIGH: pl.Float64(),
        IndexBar.LOW: pl.Float64(),
        IndexBar.CLOSE: pl.Float64(),
    }
)


class News(StrEnum):
    """Columns of the news table: one row per article and symbol that it names.

    ``month`` is the first day of the UTC month of publication. ``sentiment`` is the vendor's
    label for this symbol (``positive``, ``neutral``, ``negative``), null where it gave none.
    ``known_at`` is explained in :func:`market.macro.news_known_at`.
    """

    ARTICLE_ID = "article_id"
    SYMBOL = "symbol"
    MONTH = "month"
    PUBLISHED_AT = "published_at"
    KNOWN_AT = "known_at"
    TITLE = "title"
    PUBLISHER = "publisher"
    SENTIMENT = "sentiment"
    SENTIMENT_REASONING = "sentiment_reasoning"
    URL = "url"


NEWS_SCHEMA = pl.Schema(
    {
        News.ARTICLE_ID: pl.String(),
        News.SYMBOL: pl.String(),
        News.MONTH: pl.Date(),
        News.PUBLISHED_AT: UTC_MICROSECONDS,
        News.KNOWN_AT: UTC_MICROSECONDS,
        News.TITLE: pl.String(),
        News.PUBLISHER: pl.String(),
        News.SENTIMENT: pl.String(),
        News.SENTIMENT_REASONING: pl.String(),
        News.URL: pl.String(),
    }
)


class Identity(StrEnum):
    """Columns of the identities table: one row per spell of a company under one symbol.

    ``identity`` is the composite FIGI, or where the vendor gives none the symbol, with ``@`` and
    the last day of trading when it is delisted. The symbol is used from ``valid_from`` (null: as
    far back as the vendor knows) up to, and without, ``valid_to`` (null: still). ``delisted`` is
    the last day of trading, on the last spell of a delisted company; ``active`` says whether the
    symbol is this company's today. A row's beginning is known at ``known_at``, the open of the
    first session on or after ``valid_from``; its end, likewise, at that of ``valid_to``.
    """

    KEY = "identity"
    FIGI = "composite_figi"
    SYMBOL = "symbol"
    VALID_FROM = "valid_from"
    VALID_TO = "valid_to"
    ACTIVE = "active"
    DELISTED = "delisted"
    KNOWN_AT = "known_at"


IDENTITY_SCHEMA = pl.Schema(
    {
        Identity.KEY: pl.String(),
        Identity.FIGI: pl.String(),
        Identity.SYMBOL: pl.String(),
        Identity.VALID_FROM: pl.Date(),
        Identity.VALID_TO: pl.Date(),
        Identity.ACTIVE: pl.Boolean(),
        Identity.DELISTED: pl.Date(),
        Identity.KNOWN_AT: UTC_MICROSECONDS,
    }
)


def conform(frame: pl.DataFrame, schema: pl.Schema, table: str) -> pl.DataFrame:
    """Return ``frame`` with exactly the schema's columns, in its order and types.

    Parameters
    ----------
    frame : pl.DataFrame
        Any frame that holds at least the schema's columns.
    schema : pl.Schema
        The table's declared schema.
    table : str
        The table's name, for the error message.

    Returns
    -------
    pl.DataFrame
        Columns in schema order, cast strictly.

    Raises
    ------
    MarketError
        When a column is missing or a value does not fit its type.

    Examples
    --------
    >>> import datetime as dt
    >>> f = pl.DataFrame({"amount_usd": [1], "symbol": ["A"], "ex_date": [dt.date(2024, 1, 2)],
    ...                   "known_at": [dt.datetime(2024, 1, 1, tzinfo=dt.UTC)]})
    >>> conform(f, DIVIDEND_SCHEMA, "dividends").columns
    ['symbol', 'ex_date', 'known_at', 'amount_usd']
    """
    missing = [name for name in schema.names() if name not in frame.columns]
    if missing:
        raise MarketError(
            f"table {table!r} lacks columns",
            got=missing,
            allowed=", ".join(schema.names()),
            remedy="add the columns or fix the source that made this frame",
        )
    try:
        return frame.select(pl.col(n).cast(t) for n, t in schema.items())
    except pl.exceptions.PolarsError as error:
        raise MarketError(
            f"table {table!r} has values that do not fit its types ({error})",
            remedy="fix the source that made this frame",
        ) from error


def empty(schema: pl.Schema) -> pl.DataFrame:
    """Return a frame of this schema with no rows."""
    return pl.DataFrame(schema=schema)
