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
