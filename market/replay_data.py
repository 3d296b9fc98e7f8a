"""What a replay serves: bars, corporate actions and tickers, checked on the way in."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from market import calendar
from market.errors import MarketError
from market.reference_source import ReferenceTables
from market.schema import (
    BAR_SCHEMA,
    DIVIDEND_SCHEMA,
    SPLIT_SCHEMA,
    TICKER_SCHEMA,
    UTC_MICROSECONDS,
    Bar,
    Dividend,
    Split,
    Ticker,
    conform,
    empty,
)

_DATE, _TS = "date", "ts"
_REQUIRED = (Bar.SYMBOL, Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VOLUME)
_OPTIONAL = {Bar.VWAP: pl.Float64(), Bar.TRADES: pl.Int64()}
_PRICES = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE)


@dataclass(frozen=True)
class ServedMarket:
    """Everything a replay server knows; checked and sorted when made.

    Parameters
    ----------
    daily, minute : pl.DataFrame or None
        ``BAR_SCHEMA``, raw prices. ``minute`` holds intraday bars of any one length.
    splits, dividends, tickers : pl.DataFrame
        ``SPLIT_SCHEMA``, ``DIVIDEND_SCHEMA``, ``TICKER_SCHEMA``.
    reference : ReferenceTables
        Treasury yields, indices, news and identities; none by default. Symbols with an identity
        are listed by it, the others as ``tickers`` has them.

    Raises
    ------
    MarketError
        Null keys, duplicate bars, impossible prices, bars on days without a session.
    """

    daily: pl.DataFrame | None
    minute: pl.DataFrame | None
    splits: pl.DataFrame
    dividends: pl.DataFrame
    tickers: pl.DataFrame
    reference: ReferenceTables = field(default_factory=ReferenceTables)

    def __post_init__(self) -> None:
        for name in ("daily", "minute"):
            frame = getattr(self, name)
            if frame is not None:
                object.__setattr__(self, name, _checked_bars(frame, f"{name} bars"))
        for name, schema, order in (
            ("splits", SPLIT_SCHEMA, [Split.SYMBOL, Split.EX_DATE]),
            ("dividends", DIVIDEND_SCHEMA, [Dividend.SYMBOL, Dividend.EX_DATE]),
            ("tickers", TICKER_SCHEMA, [Ticker.SYMBOL]),
        ):
            frame = conform(getattr(self, name), schema, name)
            _refuse_null_keys(frame, order, name)
            object.__setattr__(self, name, frame.sort(order))
        if self.splits.filter(~pl.col(Split.SPLIT_RATIO).is_between(1e-9, 1e9)).height:
            raise MarketError(
                "the splits have an impossible ratio",
                allowed="new shares per old share, above zero",
                remedy="correct the file",
            )


def load_bars_file(path: Path | str, *, as_of: dt.datetime) -> ServedMarket:
    """Read a Parquet file of bars into a market that can be served.

    Parameters
    ----------
    path : Path or str
        Columns ``symbol, open, high, low, close, volume`` and ``date`` (daily bars) or ``ts``
        (UTC start of an intraday bar); optionally ``vwap``, ``trades``, and for daily bars
        ``split`` (new shares per old one) and ``dividend`` (USD per share) on the ex-date.
    as_of : datetime
        The latest moment that a bar may end at (aware).

    Returns
    -------
    ServedMarket
        The file's symbols are its tickers. The length of intraday bars is the largest one that
        all their starts fit to. A split is known when its ex-date begins in New York, a dividend at
        the open.

    Raises
    ------
    MarketError
        Unreadable file, missing columns, null keys, duplicate rows, impossible prices, days
        without a session, bars that end after ``as_of``.
    """
    frame = _read(Path(path))
    intraday = _TS in frame.columns
    missing = [str(c) for c in _REQUIRED if c not in frame.columns]
    if not intraday and _DATE not in frame.columns:
        missing.append(f"{_DATE} (or {_TS})")
    if missing:
        raise MarketError(
            f"{Path(path).name} lacks columns",
            got=missing,
            allowed=f"{', '.join(_REQUIRED)} and {_DATE} or {_TS}",
            remedy="rename or add the columns",
        )
    name = Path(path).name
    key = _TS if intraday else _DATE
    _refuse_null_keys(frame, [Bar.SYMBOL, key], name)
    bars = _intraday(frame, name) if intraday else _daily(frame, name)
    late = bars.filter(pl.col(Bar.BAR_END) > as_of)
    if late.height:
        raise MarketError(
            f"{name} has {late.height} bars from the future",
            got=f"{late[Bar.SYMBOL][0]} until {late[Bar.BAR_END][0]:%Y-%m-%d %H:%M} UTC",
            allowed=f"bars that end by {as_of.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC",
            remedy="correct the dates, or leave these rows out",
        )
    return ServedMarket(
        daily=None if intraday else bars,
        minute=bars if intraday else None,
        splits=_events(frame, "split", 1.0, Split.SPLIT_RATIO, SPLIT_SCHEMA, name).with_columns(
            pl.col(Split.EX_DATE)
            .map_elements(calendar.midnight, UTC_MICROSECONDS)
            .alias(Split.KNOWN_AT)
        ),
        dividends=_events(frame, "dividend", 0.0, Dividend.AMOUNT_USD, DIVIDEND_SCHEMA, name),
        tickers=_tickers(bars),
    )


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise MarketError(
            f"cannot read the bars file ({error})",
            got=str(path),
            allowed="a Parquet file",
            remedy="check the path and how the file was written",
        ) from error


def _tickers(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.select(
        pl.col(Bar.SYMBOL).unique().sort().alias(Ticker.SYMBOL),
    ).with_columns(
        pl.col(Ticker.SYMBOL).alias(Ticker.NAME),
        pl.lit(True).alias(Ticker.ACTIVE),
        pl.lit(None, dtype=pl.String).alias(Ticker.FIGI),
    )


def _daily(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    frame = _cast(frame.rename({_DATE: Bar.SESSION}), {Bar.SESSION: pl.Date()}, name)
    _refuse_closed_days(frame, name)
    bars = frame.join(calendar.schedule(), on=Bar.SESSION).with_columns(
        pl.col("session_open").alias(Bar.BAR_START),
        pl.col("session_close").alias(Bar.BAR_END),
        pl.col("session_close").alias(Bar.KNOWN_AT),
    )
    return conform(_with_optional(bars), BAR_SCHEMA, name)


def _intraday(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    kind = frame.schema[_TS]
    if not isinstance(kind, pl.Datetime) or kind.time_zone != "UTC":
        raise MarketError(
            f"column {_TS!r} of {name} is not a UTC time",
            got=str(kind),
            allowed="datetime with time zone UTC",
            remedy="convert the start of each bar to UTC",
        )
    frame = frame.with_columns(pl.col(_TS).cast(UTC_MICROSECONDS).alias(Bar.BAR_START))
    length = _bar_length(frame, name)
    end = pl.col(Bar.BAR_START) + length
    date = pl.col(Bar.BAR_START).dt.convert_time_zone(str(calendar.NEW_YORK)).dt.date()
    bars = frame.with_columns(
        date.alias(Bar.SESSION), end.alias(Bar.BAR_END), end.alias(Bar.KNOWN_AT)
    )
    return conform(_with_optional(bars), BAR_SCHEMA, name)


def _bar_length(frame: pl.DataFrame, name: str) -> dt.timedelta:
    starts = frame.sort(Bar.SYMBOL, Bar.BAR_START)
    gaps = starts.select(
        pl.col(Bar.BAR_START).diff().over(Bar.SYMBOL).dt.total_seconds().alias("gap")
    )["gap"].drop_nulls()
    step = math.gcd(*gaps.unique().to_list()) if gaps.len() else 60
    step = step or 60  # Only doubles; they are refused with their own message.
    if step % 60 or step > 3600 or 3600 % step:
        raise MarketError(
            f"the bars of {name} do not lie on a grid",
            got=f"{step} seconds between starts",
            allowed="one length from 1 minute to 1 hour that divides the hour",
            remedy="put bars of one length into one file",
        )
    return dt.timedelta(seconds=step)


def _with_optional(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.with_columns(
        pl.lit(None, dtype=kind).alias(name)
        for name, kind in _OPTIONAL.items()
        if name not in bars.columns
    )


def _cast(frame: pl.DataFrame, types: dict[Bar, pl.DataType], name: str) -> pl.DataFrame:
    try:
        return frame.with_columns(pl.col(c).cast(t) for c, t in types.items())
    except pl.exceptions.PolarsError as error:
        raise MarketError(
            f"{name} has values that do not fit their types ({error})", remedy="correct the file"
        ) from error


def _events(
    frame: pl.DataFrame, column: str, nothing: float, value: str, schema: pl.Schema, name: str
) -> pl.DataFrame:
    if column not in frame.columns or _DATE not in frame.columns:
        return empty(schema)
    opens = calendar.schedule().select(
        pl.col("session").alias(Split.EX_DATE), pl.col("session_open").alias(Split.KNOWN_AT)
    )
    found = frame.filter(pl.col(column).is_not_null() & (pl.col(column) != nothing))
    if found.filter(~pl.col(column).is_finite() | (pl.col(column) <= 0)).height:
        raise MarketError(
            f"column {column!r} of {name} has an impossible value",
            allowed=f"{nothing:g} for nothing, otherwise a number above zero",
            remedy="correct the file",
        )
    found = found.rename({_DATE: Split.EX_DATE, column: value}).join(opens, on=Split.EX_DATE)
    return conform(found, schema, name)


def _checked_bars(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    frame = conform(frame, BAR_SCHEMA, name)
    _refuse_null_keys(frame, BAR_SCHEMA.names()[:5], name)
    _refuse_closed_days(frame, name)
    price = pl.all_horizontal(pl.col(p).is_finite() & (pl.col(p) > 0) for p in _PRICES)
    vwap = pl.col(Bar.VWAP).is_null() | (pl.col(Bar.VWAP).is_finite() & (pl.col(Bar.VWAP) > 0))
    volume = pl.col(Bar.VOLUME).is_finite() & (pl.col(Bar.VOLUME) >= 0)
    wrong = frame.filter(~(price & vwap & volume).fill_null(False))
    _refuse(wrong, f"{name}: {wrong.height} rows without a usable price or volume")
    frame = frame.sort(Bar.SYMBOL, Bar.BAR_START)
    double = frame.filter(frame.select(Bar.SYMBOL, Bar.BAR_START).is_duplicated())
    _refuse(double, f"{name}: {double.height} duplicate rows")
    return frame


def _refuse_null_keys(frame: pl.DataFrame, keys: Sequence[str], name: str) -> None:
    nulls = {str(k): frame[k].null_count() for k in keys if frame[k].null_count()}
    if nulls:
        raise MarketError(
            f"{name} has rows without a key", got=nulls, remedy="complete or remove these rows"
        )


def _refuse_closed_days(frame: pl.DataFrame, name: str) -> None:
    stray = frame.join(calendar.schedule(), on=Bar.SESSION, how="anti")
    if stray.height:
        raise MarketError(
            f"{name}: {stray.height} rows on days without a session",
            got=f"{stray[Bar.SYMBOL][0]} on {stray[Bar.SESSION][0]}",
            allowed="trading days of XNYS",
            remedy="correct the dates, or leave these rows out",
        )


def _refuse(rows: pl.DataFrame, problem: str) -> None:
    if rows.height:
        raise MarketError(
            problem,
            got=f"{rows[Bar.SYMBOL][0]} at {rows[Bar.BAR_START][0]:%Y-%m-%d %H:%M} UTC",
            remedy="correct the file, or leave these rows out",
        )
