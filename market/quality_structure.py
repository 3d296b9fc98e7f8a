"""Rules that a bar must pass by itself: types, nulls, prices, order, grid, one row per bar."""

from __future__ import annotations

import datetime as dt

import polars as pl

from market import calendar
from market.errors import MarketError
from market.quality_rules import Reason, mark
from market.schema import BAR_SCHEMA, UTC_MICROSECONDS, Bar
from market.timeframes import Timeframe

_PRICES = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE)
_NEEDED = (*BAR_SCHEMA.names()[:5], *_PRICES, Bar.VOLUME)
_OWN = pl.col(Bar.KNOWN_AT)
_KEYS = [Bar.SYMBOL, Bar.BAR_START]
_FIRST_HOUR, _LAST_HOUR = 4, 20


def cast_rows(bars: pl.DataFrame, table: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows in ``BAR_SCHEMA`` with their ``row`` number, and marks of misfits.

    A value that does not fit its column's type becomes null in its row, which is marked; a
    missing column is an error of the caller.
    """
    missing = [name for name in BAR_SCHEMA.names() if name not in bars.columns]
    if missing:
        raise MarketError(
            f"{table} lack columns",
            got=missing,
            allowed=", ".join(BAR_SCHEMA.names()),
            remedy="add the columns or fix the source that made this frame",
        )
    odd = [name for name, kind in BAR_SCHEMA.items() if bars.schema[name] != kind]
    try:
        rows = bars.select(pl.col(n).cast(t, strict=False) for n, t in BAR_SCHEMA.items())
    except pl.exceptions.PolarsError as error:
        raise MarketError(
            f"{table} have columns that cannot be read as bars ({error})",
            got={name: str(bars.schema[name]) for name in odd},
            remedy="fix the source that made this frame",
        ) from error
    rows = rows.with_row_index("row")
    if not odd:
        return rows, mark(rows.clear(), Reason.SCHEMA, pl.lit(0), pl.lit(""), _OWN)
    lost = pl.DataFrame([(bars[n].is_not_null() & rows[n].is_null()).alias(n) for n in odd])
    which = lost.select(
        pl.concat_str(
            [pl.when(pl.col(n)).then(pl.lit(n)) for n in odd], separator=", ", ignore_nulls=True
        ).alias("misfits")
    )
    found = rows.hstack(which).filter(pl.col("misfits") != "")
    return rows, mark(found, Reason.SCHEMA, pl.lit(1), pl.col("misfits"), _OWN)


def mark_impossible(rows: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
    """Return marks of rows that cannot be true bars, whatever stands beside them."""
    grid = rows.select(pl.col(Bar.SESSION).unique())
    # The common case, all sound, is told by extremes; the reasons are looked for in the others.
    if _are_sound(rows, timeframe, grid):
        return mark(rows.clear(), Reason.NULL, pl.lit(1), pl.lit(""), _OWN)
    tests = _tests(timeframe)
    gridded = _with_grid(rows, grid)
    wrong = gridded.filter(~pl.all_horizontal(t[1].fill_null(value=False) for t in tests))
    return pl.concat(
        mark(wrong.filter(~test.fill_null(value=False)), reason, pl.lit(1), pl.lit(text), _OWN)
        for reason, test, text in tests
    )


def _are_sound(rows: pl.DataFrame, timeframe: Timeframe, sessions: pl.DataFrame) -> bool:
    """Say whether every row passes every test; cheaper than asking each of them."""
    if any(rows[c].null_count() for c in _NEEDED) or sessions.height > rows.height:
        return False
    prices = [c for c in (*_PRICES, Bar.VWAP) if rows[c].null_count() < rows.height]
    start, end = pl.col(Bar.BAR_START), pl.col(Bar.BAR_END)
    length = end - start
    minute = dt.timedelta(minutes=1)
    shortest, longest = (
        (minute, minute)
        if timeframe is Timeframe.M1
        else (180 * minute, calendar.REGULAR_MINUTES * minute)
    )
    found = rows.select(
        *((pl.col(c).min() > 0).alias(f"{c}_above") for c in prices),
        *((pl.col(c).max() < float("inf")).alias(f"{c}_below") for c in prices),
        # The extremes pass over what is not a number.
        *((~pl.col(c).is_nan().any()).alias(f"{c}_number") for c in (*prices, Bar.VOLUME)),
        volume_above=pl.col(Bar.VOLUME).min() >= 0,
        volume_below=pl.col(Bar.VOLUME).max() < float("inf"),
        trades=(pl.col(Bar.TRADES).min() >= 0).fill_null(value=True),
        high=(pl.col(Bar.HIGH) >= pl.max_horizontal(Bar.OPEN, Bar.CLOSE, Bar.LOW)).all(),
        low=(pl.col(Bar.LOW) <= pl.min_horizontal(Bar.OPEN, Bar.CLOSE)).all(),
        known=(end <= _OWN).all(),
        length=(length.min() >= shortest) & (length.max() <= longest),
        whole=((start.to_physical() % 60_000_000).max() == 0)
        if timeframe is Timeframe.M1
        else pl.lit(value=True),
    )
    if not all(found.row(0)):
        return False
    limits = _limits(sessions)
    spans = rows.group_by(Bar.SESSION).agg(start.min(), end.max()).join(limits, on=Bar.SESSION)
    inside = (start >= pl.col("first")) & (end <= pl.col("last"))
    return spans.height == sessions.height and bool(spans.select(inside.all()).item())


def _tests(timeframe: Timeframe) -> list[tuple[Reason, pl.Expr, str]]:
    filled = pl.all_horizontal(pl.col(c).is_not_null() for c in _NEEDED)
    # A null is one fault, not several: the other tests pass over it.
    price = pl.all_horizontal(
        (pl.col(p).is_finite() & (pl.col(p) > 0)).fill_null(value=True)
        for p in (*_PRICES, Bar.VWAP)
    )
    volume = pl.col(Bar.VOLUME)
    counts = (volume.is_finite() & (volume >= 0)).fill_null(value=True) & (
        pl.col(Bar.TRADES) >= 0
    ).fill_null(value=True)
    body = (Bar.OPEN, Bar.CLOSE)
    ordered = (
        (pl.col(Bar.HIGH) >= pl.max_horizontal(*body, Bar.LOW))
        & (pl.col(Bar.LOW) <= pl.min_horizontal(*body))
    ).fill_null(value=True)
    unread = pl.any_horizontal(
        pl.col(c).is_null() for c in (Bar.SESSION, Bar.BAR_START, Bar.BAR_END)
    )
    return [
        (Reason.NULL, filled, "a key, time, price or volume is missing"),
        (Reason.NOT_POSITIVE, price & counts, "price or volume"),
        (Reason.OHLC_ORDER, ordered | ~price, "high or low"),
        (Reason.OFF_GRID, _on_grid(timeframe) | unread, "session, time or length"),
        (Reason.KNOWN_EARLY, (pl.col(Bar.BAR_END) <= _OWN).fill_null(value=True), "known_at"),
    ]


def _limits(sessions: pl.DataFrame) -> pl.DataFrame:
    """Return the first and the last moment of the bars of each session that there is."""
    days = sessions.filter(pl.col(Bar.SESSION).is_not_null()).join(
        calendar.schedule(), on=Bar.SESSION, how="semi"
    )[Bar.SESSION]
    return pl.DataFrame(
        {
            Bar.SESSION: days,
            "first": [_new_york(day, _FIRST_HOUR) for day in days],
            "last": [_new_york(day, _LAST_HOUR) for day in days],
        },
        schema={Bar.SESSION: pl.Date(), "first": UTC_MICROSECONDS, "last": UTC_MICROSECONDS},
    )


def _with_grid(rows: pl.DataFrame, sessions: pl.DataFrame) -> pl.DataFrame:
    limits = _limits(sessions)
    if limits.height == 1 and rows[Bar.SESSION].null_count() == 0 and sessions.height == 1:
        return rows.with_columns(
            pl.lit(limits["first"][0], UTC_MICROSECONDS).alias("first"),
            pl.lit(limits["last"][0], UTC_MICROSECONDS).alias("last"),
        )
    return rows.join(limits, on=Bar.SESSION, how="left", maintain_order="left")


def _new_york(day: dt.date, hour: int) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(hour), calendar.NEW_YORK).astimezone(dt.UTC)


def _on_grid(timeframe: Timeframe) -> pl.Expr:
    start, end = pl.col(Bar.BAR_START), pl.col(Bar.BAR_END)
    inside = (start >= pl.col("first")) & (end <= pl.col("last"))
    if timeframe is Timeframe.M1:
        whole = start.to_physical() % 60_000_000 == 0
        return (inside & whole & (end - start == dt.timedelta(minutes=1))).fill_null(value=False)
    length = (end - start).dt.total_minutes()
    return (inside & length.is_between(180, calendar.REGULAR_MINUTES)).fill_null(value=False)


def mark_duplicates(rows: pl.DataFrame) -> pl.DataFrame:
    """Return marks of further copies of a row, and of all rows that contradict each other.

    Daily and minute bars are told apart by symbol and start.
    """
    ordered = rows.select(
        (pl.col(Bar.SYMBOL) > pl.col(Bar.SYMBOL).shift(1))
        | (
            (pl.col(Bar.SYMBOL) == pl.col(Bar.SYMBOL).shift(1))
            & (pl.col(Bar.BAR_START) > pl.col(Bar.BAR_START).shift(1))
        )
    ).to_series()
    if ordered.fill_null(value=True).all():  # Each above the one before: none twice.
        return mark(rows.clear(), Reason.DUPLICATE, pl.lit(0), pl.lit(""), _OWN)
    twice = rows.filter(rows.select(_KEYS).is_duplicated())
    versions = pl.struct(BAR_SCHEMA.names()).n_unique().over(_KEYS)
    # Copies are equal in all that counts; which of them stays is a matter of the row's number.
    twice = twice.with_columns(versions=versions, copy=pl.int_range(pl.len()).over(_KEYS))
    latest = _OWN.max().over(_KEYS)
    text = pl.format("{} different rows", pl.col("versions"))
    return pl.concat(
        [
            mark(
                twice.filter((pl.col("versions") == 1) & (pl.col("copy") > 0)),
                Reason.DUPLICATE,
                pl.lit(1),
                pl.lit("a copy of a row that stays"),
                _OWN,
            ),
            mark(
                twice.filter(pl.col("versions") > 1),
                Reason.CONFLICT,
                pl.col("versions"),
                text,
                latest,
            ),
        ]
    )
