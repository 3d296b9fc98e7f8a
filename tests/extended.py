"""Minutes before the open and announced events beside a generated market."""

from __future__ import annotations

import datetime as dt

import polars as pl

from market import calendar
from market.schema import BAR_SCHEMA, Bar


def with_premarket(minute: pl.DataFrame, daily: pl.DataFrame, every: int = 3) -> pl.DataFrame:
    """Add five minutes from 9:00 New York time on to two of every three symbol sessions."""
    times = calendar.schedule().select("session", "session_open")
    first = (
        minute.sort(Bar.SYMBOL, Bar.BAR_START)
        .group_by(Bar.SYMBOL, Bar.SESSION, maintain_order=True)
        .first()
        .join(times, on=Bar.SESSION)
        .with_row_index("n")
        .filter(pl.col("n") % every != 0)
    )
    parts = [minute]
    for k in range(5):
        start = pl.col("session_open") - dt.timedelta(minutes=30 - 3 * k)
        own = first.with_columns(
            start.alias(Bar.BAR_START),
            (start + dt.timedelta(minutes=1)).alias(Bar.BAR_END),
            (start + dt.timedelta(minutes=1)).alias(Bar.KNOWN_AT),
            *(pl.col(c) * (1.0 + 0.001 * k) for c in (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE)),
            (pl.col(Bar.VOLUME) * 0.1 + k + pl.col("n") % 7).alias(Bar.VOLUME),
        )
        parts.append(own.select(pl.col(n).cast(t) for n, t in BAR_SCHEMA.items()))
    return pl.concat(parts).sort(Bar.SYMBOL, Bar.BAR_START)


def events_of(daily: pl.DataFrame, apart: int = 20, notice: int = 8) -> pl.DataFrame:
    """Give all symbols but the last an event every so many sessions, announced before."""
    days = daily[Bar.SESSION].unique().sort().to_list()
    symbols = daily[Bar.SYMBOL].unique().sort().to_list()[:-1]
    rows = [
        (symbol, days[n], calendar.session_close(days[n - notice]))
        for k, symbol in enumerate(symbols)
        for n in range(notice + k, len(days), apart)
    ]
    schema = {"symbol": pl.String, "date": pl.Date, "known_at": pl.Datetime("us", "UTC")}
    return pl.DataFrame(rows, schema=schema, orient="row")
