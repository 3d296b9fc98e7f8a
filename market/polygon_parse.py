"""From the vendor's pages to frames: columns, never an object per bar.

A page that breaks a promise raises: it lacks a key, or a row does not say which bar it is. What a
bar says is not judged here: a price that cannot be is a row with that price, or with none where it
is no number; :func:`impossible_bars` finds such rows. A page of bars is read as columns at once;
one that gives the least cause for doubt is read again value by value.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from market import calendar
from market import polygon_kernel as kernel
from market.errors import SourceError
from market.polygon_wire import decode
from market.schema import BAR_SCHEMA, UTC_MICROSECONDS, Bar, conform

_KEYS = {
    "o": Bar.OPEN,
    "h": Bar.HIGH,
    "l": Bar.LOW,
    "c": Bar.CLOSE,
    "v": Bar.VOLUME,
    "vw": Bar.VWAP,
}
_ROW_SCHEMA = pl.Schema({**dict.fromkeys(_KEYS, pl.Float64()), "t": pl.Int64(), "n": pl.Int64()})
_OPTIONAL = ("vw", "n")
_RESULTS = b'"results":['
_MINUTE_US = 60_000_000
_MICROSECOND = dt.timedelta(microseconds=1)
_NUMBERS = frozenset({int, float})
_LAST_MS = 4_102_444_800_000
_MOST_TRADES = 10**12
_REMEDY = "run again; if it stays, report it to the vendor and leave this symbol out"


def read_page(body: bytes) -> dict[str, Any]:
    """Return a page of aggregates whose ``results`` are a frame, or a list where in doubt.

    The rows are cut out of the JSON and read as one JSON object a line. The frame is used only
    when it must be what a reading of the whole gives: numbers of the right type everywhere, no
    line torn, no key twice, none unknown. Otherwise the page is decoded as any other.

    Parameters
    ----------
    body : bytes
        The body of an answer.

    Raises
    ------
    SourceError
        When the body is no JSON object, or does not say that it is OK.
    """
    begin = body.find(_RESULTS) + len(_RESULTS)
    end = body.rfind(b"]")
    if begin < len(_RESULTS) or end <= begin or b"\\" in body:
        return decode(body)
    rows = _read_rows(body, begin, end)
    if rows is None:
        return decode(body)
    page = decode(body[:begin] + body[end:])
    if page.get("results") != []:
        return decode(body)
    page["results"] = rows
    return page


def results(
    page: dict[str, Any], symbol: str | None, *, adjusted: bool | None = None
) -> list[Any] | pl.DataFrame:
    """Return the results of a page after checking what the page says about itself.

    Parameters
    ----------
    page : dict
        A decoded page.
    symbol : str or None
        The symbol that an aggregates page must be about; None for other pages.
    adjusted : bool, optional
        What the page must say of its prices; None for pages without prices.
    """
    rows = page.get("results")
    rows = [] if rows is None else rows
    if not isinstance(rows, list | pl.DataFrame):
        raise _bad("results is not a list", type(rows).__name__)
    if symbol is not None and page.get("ticker") != symbol:
        raise _bad(f"asked for {symbol}, got another ticker", str(page.get("ticker"))[:20])
    if adjusted is not None and len(rows) and page.get("adjusted") is not adjusted:
        kinds = ("adjusted", "raw") if adjusted else ("raw", "adjusted")
        raise _bad(f"asked for {kinds[0]} prices, got {kinds[1]} ones", page.get("adjusted"))
    count = page.get("resultsCount")
    if count is not None and count != len(rows):
        raise _bad(f"the page promises {count} rows", len(rows))
    return rows


def column(
    rows: list[Any], key: str, kinds: frozenset[type] | None = None, *, optional: bool = False
) -> Any:
    """Return one key of all rows as a list; all of one of ``kinds`` where these are given."""
    try:
        values = [r.get(key) for r in rows] if optional else [r[key] for r in rows]
    except KeyError:
        raise _bad(f"a row lacks the key {key!r}") from None
    except (TypeError, AttributeError):
        raise _bad("a row is not an object") from None
    if kinds is None:
        return values
    allowed = kinds | {type(None)} if optional else kinds
    wrong = set(map(type, values)) - allowed
    if wrong:
        raise _bad(f"key {key!r} has a value of the wrong type", sorted(t.__name__ for t in wrong))
    return values


def rows_of(page: dict[str, Any], *, adjusted: bool | None = None) -> list[Any]:
    """Return the decoded results of a page that is not about one symbol."""
    rows = results(page, None, adjusted=adjusted)
    return rows if isinstance(rows, list) else rows.to_dicts()


def bars(page: dict[str, Any], symbol: str, *, adjusted: bool = False) -> pl.DataFrame:
    """Return a page of one symbol's bars: symbol, ``t`` (UTC), prices, volume, vwap, trades."""
    rows = results(page, symbol, adjusted=adjusted)
    if isinstance(rows, list):
        return columns(rows, symbol)
    if not rows["t"].is_between(0, _LAST_MS).all():
        return columns(rows.to_dicts(), symbol)
    # Made of columns as they are: a query costs more than what it would do here.
    times = (rows["t"] * 1000).cast(UTC_MICROSECONDS)
    named = [rows[key].alias(name) for key, name in _KEYS.items()]
    names = pl.Series(Bar.SYMBOL, [symbol]).new_from_index(0, rows.height)
    return pl.DataFrame([names, times, *named, rows["n"].alias(Bar.TRADES)])


def columns(rows: list[Any], symbols: Sequence[str] | str) -> pl.DataFrame:
    """Return decoded aggregates as the frame of :func:`bars`; null where there is no number."""
    data: dict[str, Any] = {
        # Typed, because a page without rows would otherwise make a column of nulls.
        Bar.SYMBOL: pl.Series(
            [symbols] * len(rows) if isinstance(symbols, str) else list(symbols), dtype=pl.String
        ),
        "t": _times(rows),
    }
    for key, name in _KEYS.items():
        values = column(rows, key, optional=key == "vw")
        numbers = [float(v) if type(v) in _NUMBERS else None for v in values]
        data[name] = pl.Series(numbers, dtype=pl.Float64)
    counts = [
        n if type(n) is int and abs(n) < 2**63 else None for n in column(rows, "n", optional=True)
    ]
    data[Bar.TRADES] = pl.Series(counts, dtype=pl.Int64)
    return pl.DataFrame(data)


def impossible_bars(frame: pl.DataFrame) -> pl.DataFrame | None:
    """Return the rows of :func:`bars` that cannot be true by themselves; None when there are none.

    Prices are above zero, the high is the highest and the low the lowest, volume and trades are
    zero or more. Only vwap and trades may be absent.
    """
    opened, high, low, close = (pl.col(c) for c in (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE))
    possible = pl.all_horizontal(
        (low > 0) & (high >= opened) & (high >= close) & (low <= opened) & (low <= close),
        high.is_finite(),
        (pl.col(Bar.VOLUME) >= 0) & pl.col(Bar.VOLUME).is_finite(),
        ((pl.col(Bar.VWAP) > 0) & pl.col(Bar.VWAP).is_finite()).fill_null(value=True),
        pl.col(Bar.TRADES).is_between(0, _MOST_TRADES).fill_null(value=True),
    ).fill_null(value=False)
    if frame.select(possible.all()).item():
        return None
    return frame.filter(~possible)


def minute_bars(frame: pl.DataFrame, delay: dt.timedelta) -> pl.DataFrame:
    """Return ``BAR_SCHEMA`` rows of one-minute aggregates; extended hours stay."""
    starts = frame["t"].to_physical().to_numpy()
    if (starts % _MINUTE_US).any():
        raise _bad("a minute bar does not start on a minute")
    days, are_sessions = _new_york_days(starts)
    if not are_sessions.all():
        stray = pl.Series(days[~are_sessions]).cast(pl.Date)
        raise _no_session(frame[Bar.SYMBOL][0], stray[0])
    ends = starts + _MINUTE_US
    times = {
        Bar.BAR_START: frame["t"],
        Bar.SESSION: pl.Series(days).cast(pl.Date),
        Bar.BAR_END: pl.Series(ends).cast(UTC_MICROSECONDS),
        Bar.KNOWN_AT: pl.Series(ends + delay // _MICROSECOND).cast(UTC_MICROSECONDS),
    }
    return pl.DataFrame({n: times[Bar(n)] if n in times else frame[n] for n in BAR_SCHEMA})


def daily_bars(frame: pl.DataFrame, delay: dt.timedelta) -> pl.DataFrame:
    """Return ``BAR_SCHEMA`` rows of daily aggregates, from open to close of the session."""
    dated = frame.with_columns(_new_york_date("t").alias(Bar.SESSION))
    bars = dated.join(calendar.schedule(), on=Bar.SESSION, how="left")
    stray = bars.filter(pl.col("session_open").is_null())
    if stray.height:
        raise _no_session(stray[Bar.SYMBOL][0], stray[Bar.SESSION][0])
    bars = bars.with_columns(
        pl.col("session_open").alias(Bar.BAR_START),
        pl.col("session_close").alias(Bar.BAR_END),
        (pl.col("session_close") + delay).alias(Bar.KNOWN_AT),
    )
    return conform(bars, BAR_SCHEMA, "bars")


def check_range(bars: pl.DataFrame, start: dt.date, end: dt.date) -> pl.DataFrame:
    """Return the bars sorted; raise on a duplicate or on a session that was not asked for."""
    outside = bars.filter(~pl.col(Bar.SESSION).is_between(start, end))
    if outside.height:
        raise _bad(
            f"{outside[Bar.SYMBOL][0]}: a bar outside the range {start} to {end}",
            outside[Bar.SESSION][0].isoformat(),
        )
    if _ascending(bars):
        return bars
    bars = bars.sort(Bar.SYMBOL, Bar.BAR_START)
    double = bars.filter(bars.select(Bar.SYMBOL, Bar.BAR_START).is_duplicated())
    if double.height:
        raise _bad(
            f"{double[Bar.SYMBOL][0]}: the same bar twice", double[Bar.BAR_START][0].isoformat()
        )
    return bars


def parse_date(value: str, key: str) -> dt.date:
    """Return an ISO date of the vendor, or raise."""
    try:
        return dt.date.fromisoformat(value)
    except ValueError:
        raise _bad(f"key {key!r} is not a date", value[:20]) from None


def _read_rows(body: bytes, begin: int, end: int) -> pl.DataFrame | None:
    """Return rows as columns; None where the text could be read in another way."""
    most = body.count(b"{", begin, end)
    floats = np.full((len(kernel.FLOAT_KEYS), most), np.nan)
    integers = np.full((len(kernel.INTEGER_KEYS), most), kernel.ABSENT, dtype=np.int64)
    found = kernel.read_rows(np.frombuffer(body, np.uint8)[begin:end], floats, integers)
    if found != most:
        return _read_lines(body[begin:end])
    names = (*kernel.FLOAT_KEYS, *kernel.INTEGER_KEYS)
    numbers: dict[str, npt.NDArray[Any]] = dict(zip(names, (*floats, *integers), strict=True))
    rows = pl.DataFrame([pl.Series(name, numbers[name]) for name in _ROW_SCHEMA])
    if np.isnan(numbers["vw"]).any() or (numbers["n"] == kernel.ABSENT).any():
        present = pl.when(pl.col("n") != kernel.ABSENT).then(pl.col("n"))
        rows = rows.with_columns(pl.col("vw").fill_nan(None), present)
    return rows


def _read_lines(text: bytes) -> pl.DataFrame | None:
    """Return rows as columns, by a reader of one JSON object a line; None in doubt."""
    if b"\n" in text or b"[" in text:
        return None
    try:
        rows = pl.read_ndjson(text.replace(b"},{", b"}\n{"), schema=_ROW_SCHEMA)
    except pl.exceptions.PolarsError:
        return None
    nulls = {name: rows[name].null_count() for name in _ROW_SCHEMA}
    if any(count for name, count in nulls.items() if name not in _OPTIONAL):
        return None
    values = rows.height * len(_ROW_SCHEMA) - sum(nulls.values())
    return rows if text.count(b":") == values else None


def _ascending(bars: pl.DataFrame) -> bool:
    """Say whether bars are sorted by symbol and time without a double."""
    symbol, start = pl.col(Bar.SYMBOL), pl.col(Bar.BAR_START)
    later = (symbol > symbol.shift()) | ((symbol == symbol.shift()) & (start > start.shift()))
    return bool(bars.select(later.all()).item())


def _times(rows: list[Any]) -> pl.Series:
    values = column(rows, "t", frozenset({int}))
    if values and not 0 <= min(values) <= max(values) <= _LAST_MS:
        raise _bad("a timestamp is not milliseconds since 1970")
    series = pl.Series("t", values, dtype=pl.Int64)
    return series.cast(pl.Datetime("ms", "UTC")).cast(UTC_MICROSECONDS)


@lru_cache(maxsize=1)
def _dates() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Return the New York midnight (us, UTC) of every date, its day number, if it is a session.

    The last one is the day after the calendar ends; it stands for every date outside.
    """
    last = calendar.LAST_DATE + dt.timedelta(days=1)
    dates = pl.date_range(calendar.FIRST_DATE, last, eager=True)
    midnights = dates.cast(pl.Datetime("us")).dt.replace_time_zone(str(calendar.NEW_YORK))
    are_sessions = dates.is_in(calendar.schedule()[Bar.SESSION].to_list())
    return (
        midnights.to_physical().to_numpy(),
        dates.to_physical().to_numpy(),
        are_sessions.to_numpy(),
    )


def _new_york_days(
    moments: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Return the New York date (days since 1970) of each moment, and whether it is a session."""
    midnights, days, are_sessions = _dates()
    # Bars of a page lie close together: among few dates the right one is found at once.
    ends = [moments.min(), moments.max()] if len(moments) else [0, 0]
    first, last = np.searchsorted(midnights, ends, side="right")
    first = max(int(first) - 1, 0)
    index = first + np.searchsorted(midnights[first : int(last)], moments, side="right") - 1
    return days[index], are_sessions[index]


def _new_york_date(name: str) -> pl.Expr:
    return pl.col(name).dt.convert_time_zone(str(calendar.NEW_YORK)).dt.date()


def _no_session(symbol: str, date: object) -> SourceError:
    return _bad(f"{symbol}: a bar on a day without a session", str(date))


def _bad(problem: str, got: object = None) -> SourceError:
    return SourceError(f"the vendor sent unusable data: {problem}", got=got, remedy=_REMEDY)
