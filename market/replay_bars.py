"""Aggregates as the vendor serves them, from stored bars: windows, adjustment, pages.

Bars lie in plain arrays, one slice per symbol; a page is a slice, and its JSON is written by
Polars in one pass.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import numpy.typing as npt
import polars as pl

from market import calendar
from market.replay_data import ServedMarket
from market.schema import BAR_SCHEMA, Bar, Split, empty

MINUTE_MS = 60_000
_PRICES = ("vw", "o", "c", "h", "l")
_ORDER = ("v", *_PRICES, "t", "n")
_EVERY = {"minute": "m", "hour": "h", "day": "d", "week": "w", "month": "mo"}
_EPOCH = dt.date(1970, 1, 1)
TIMESPANS = tuple(_EVERY)


@dataclass(frozen=True)
class Query:
    """One request for aggregates; times in milliseconds since 1970, both ends included."""

    symbol: str
    multiplier: int
    timespan: str
    start_ms: int
    end_ms: int
    adjusted: bool
    descending: bool
    limit: int


@dataclass(frozen=True)
class Page:
    """A page of results as JSON rows, and the query that continues it."""

    rows: bytes
    count: int
    base_count: int
    following: Query | None


@dataclass(frozen=True)
class _Splits:
    """The splits of one symbol, by ex-date."""

    ex_days: npt.NDArray[np.int32]
    known_ms: npt.NDArray[np.int64]
    ratios: npt.NDArray[np.float64]


class BarShelf:
    """The bars of a market, laid out for serving.

    Parameters
    ----------
    market : ServedMarket
        Checked bars. A symbol that has no daily bars gets them from the regular session of its
        intraday bars.
    """

    def __init__(self, market: ServedMarket) -> None:
        minute = market.minute if market.minute is not None else empty(BAR_SCHEMA)
        daily = market.daily if market.daily is not None else empty(BAR_SCHEMA)
        lacking = minute.join(daily.select(Bar.SYMBOL).unique(), on=Bar.SYMBOL, how="anti")
        daily = pl.concat([daily, _days_of(lacking)]).sort(Bar.SYMBOL, Bar.BAR_START)
        self._minute = _Table(minute, pl.col(Bar.BAR_START))
        midnight = pl.col(Bar.SESSION).cast(pl.Datetime("us"))
        self._daily = _Table(daily, midnight.dt.replace_time_zone(str(calendar.NEW_YORK)))
        self._splits = {
            str(symbol): _Splits(
                rows[Split.EX_DATE].to_physical().to_numpy(),
                rows[Split.KNOWN_AT].dt.epoch("ms").to_numpy(),
                rows[Split.SPLIT_RATIO].to_numpy(),
            )
            for (symbol,), rows in market.splits.group_by(Split.SYMBOL, maintain_order=True)
        }
        ends = [f[Bar.BAR_END].max() for f in (minute, daily) if f.height]
        self._newest = max((e for e in ends if isinstance(e, dt.datetime)), default=None)

    @property
    def newest(self) -> dt.datetime | None:
        """End of the newest bar on the shelf."""
        return self._newest

    def page(self, query: Query, now: dt.datetime | None) -> Page:
        """Return one page; ``limit`` counts stored bars, and a window is never cut in two."""
        table = self._minute if query.timespan in ("minute", "hour") else self._daily
        low, high = _stretched(query)
        first, last = table.span(query.symbol, low, high, now)
        whole = last - first
        if whole <= 0 or not table.fits(first, last, query):
            return Page(b"[]", 0, 0, None)
        keys = table.windows(first, last, query)
        take = _whole_windows(keys, min(query.limit, whole), query.descending)
        following = None
        if query.descending:
            if take < whole:
                following = replace(query, end_ms=int(keys[whole - take]) - 1)
            first, keys = last - take, keys[whole - take :]
        else:
            if take < whole:
                following = replace(query, start_ms=int(keys[take]))
            last, keys = first + take, keys[:take]
        rows = table.columns(first, last)
        if query.adjusted:
            ratio = self._ratio(query.symbol, table.days[first:last], now)
            rows = _adjusted(rows, ratio)
        rows = _aggregated(rows, keys)
        if query.descending:
            rows = rows.reverse()
        return Page(_json(rows), rows.height, take, following)

    def session(self, date: dt.date, adjusted: bool, now: dt.datetime | None) -> tuple[bytes, int]:
        """Return the daily bars of all symbols on one date as JSON rows, and their number."""
        rows = self._daily.on(date, now)
        if not rows.height:
            return b"[]", 0
        day = np.array([(date - _EPOCH).days], dtype=np.int32)
        if adjusted:
            ratios = [float(self._ratio(s, day, now)[0]) for s in rows["T"]]
            rows = _adjusted(rows, np.array(ratios))
        return _json(rows, first="T"), rows.height

    def _ratio(
        self, symbol: str, days: npt.NDArray[np.int32], now: dt.datetime | None
    ) -> npt.NDArray[np.float64]:
        """Return new shares per share of each day, back from the newest served day."""
        splits = self._splits.get(symbol)
        if splits is None or self._newest is None:
            return np.ones(len(days))
        until = self._newest if now is None else min(now, self._newest)
        newest_day = (until.astimezone(calendar.NEW_YORK).date() - _EPOCH).days
        counts = splits.ex_days <= newest_day
        if now is not None:
            counts &= splits.known_ms <= int(now.timestamp() * 1000)
        still_to_come = np.append(np.cumprod(splits.ratios[counts][::-1])[::-1], 1.0)
        return still_to_come[np.searchsorted(splits.ex_days[counts], days, side="right")]


class _Table:
    """Bars of one kind in arrays, sorted by symbol and time."""

    def __init__(self, bars: pl.DataFrame, start: pl.Expr) -> None:
        frame = bars.select(
            pl.col(Bar.VOLUME).alias("v"),
            pl.col(Bar.VWAP).alias("vw"),
            pl.col(Bar.OPEN).alias("o"),
            pl.col(Bar.CLOSE).alias("c"),
            pl.col(Bar.HIGH).alias("h"),
            pl.col(Bar.LOW).alias("l"),
            start.dt.epoch("ms").alias("t"),
            pl.col(Bar.TRADES).alias("n"),
        )
        self._frame = frame
        self._symbols = bars[Bar.SYMBOL]
        self._starts = frame["t"].to_numpy()
        self._ends = bars[Bar.BAR_END].dt.epoch("ms").to_numpy()
        self.days: npt.NDArray[np.int32] = bars[Bar.SESSION].to_physical().to_numpy()
        lengths = bars.group_by(Bar.SYMBOL, maintain_order=True).len()
        stops = lengths["len"].cum_sum().to_list()
        self._spans = dict(
            zip(lengths[Bar.SYMBOL].to_list(), zip([0, *stops], stops, strict=False), strict=True)
        )

    def span(self, symbol: str, low: int, high: int, now: dt.datetime | None) -> tuple[int, int]:
        """Return the rows of a symbol that start in [low, high) and have ended by ``now``."""
        begin, stop = self._spans.get(symbol, (0, 0))
        starts = self._starts[begin:stop]
        first = begin + int(np.searchsorted(starts, low, side="left"))
        last = begin + int(np.searchsorted(starts, high, side="left"))
        if now is not None:
            limit = int(now.timestamp() * 1000)
            ended = np.searchsorted(self._ends[begin:stop], limit, side="right")
            last = min(last, begin + int(ended))
        return first, last

    def fits(self, first: int, last: int, query: Query) -> bool:
        """Say whether stored bars are short enough for the wanted windows."""
        if query.timespan not in ("minute", "hour"):
            return True
        wanted = query.multiplier * (60 if query.timespan == "hour" else 1) * MINUTE_MS
        return bool((self._ends[first:last] - self._starts[first:last]).min() <= wanted)

    def windows(self, first: int, last: int, query: Query) -> npt.NDArray[np.int64]:
        """Return the start of the window that each row falls into."""
        starts = self._starts[first:last]
        if query.multiplier == 1 and query.timespan in ("minute", "day"):
            return starts
        return _floor(starts, query)

    def columns(self, first: int, last: int) -> pl.DataFrame:
        """Return rows in the vendor's columns."""
        return self._frame.slice(first, last - first)

    def on(self, date: dt.date, now: dt.datetime | None) -> pl.DataFrame:
        """Return the rows of one date with symbol ``T``; ``t`` is the end of the bar."""
        mask = self.days == (date - _EPOCH).days
        if now is not None:
            mask &= self._ends <= int(now.timestamp() * 1000)
        index = np.flatnonzero(mask)
        rows = self._frame[index]
        return rows.with_columns(self._symbols[index].alias("T"), pl.Series("t", self._ends[index]))


def _days_of(intraday: pl.DataFrame) -> pl.DataFrame:
    regular = intraday.join(calendar.schedule(), on=Bar.SESSION).filter(
        pl.col(Bar.BAR_START) < pl.col("session_close"),
        pl.col(Bar.BAR_END) > pl.col("session_open"),
    )
    return (
        regular.group_by(Bar.SYMBOL, Bar.SESSION, maintain_order=True)
        .agg(
            pl.col("session_open").first().alias(Bar.BAR_START),
            pl.col("session_close").first().alias(Bar.BAR_END),
            pl.col("session_close").first().alias(Bar.KNOWN_AT),
            pl.col(Bar.OPEN).first(),
            pl.col(Bar.HIGH).max(),
            pl.col(Bar.LOW).min(),
            pl.col(Bar.CLOSE).last(),
            pl.col(Bar.VOLUME).sum(),
            _mean_price(Bar.VWAP, Bar.VOLUME),
            _total(Bar.TRADES),
        )
        .select(BAR_SCHEMA.names())
    )


def _mean_price(price: str, volume: str) -> pl.Expr:
    total = pl.col(volume).sum()
    weighted = (pl.col(price) * pl.col(volume)).sum() / total
    mean = pl.when(total > 0).then(weighted).otherwise(pl.col(price).mean())
    return pl.when(pl.col(price).null_count() == 0).then(mean).alias(price)


def _total(name: str) -> pl.Expr:
    return pl.when(pl.col(name).null_count() == 0).then(pl.col(name).sum()).alias(name)


def _floor(starts: npt.NDArray[np.int64] | Sequence[int], query: Query) -> npt.NDArray[np.int64]:
    every = f"{query.multiplier}{_EVERY[query.timespan]}"
    times = pl.Series("t", starts, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))
    frame = times.dt.convert_time_zone(str(calendar.NEW_YORK)).to_frame()
    moment = pl.col("t")
    if query.timespan == "week":  # The vendor's weeks begin on Sunday.
        floored = moment.dt.offset_by("1d").dt.truncate(every).dt.offset_by("-1d")
    else:
        floored = moment.dt.truncate(every)
    return frame.select(floored.dt.epoch("ms"))["t"].to_numpy()


def _stretched(query: Query) -> tuple[int, int]:
    """Return the half-open range that holds every window touching the asked range whole."""
    low, last = (int(t) for t in _floor([query.start_ms, query.end_ms], query))
    step = f"{query.multiplier}{_EVERY[query.timespan]}"
    end = (
        pl.Series([last])
        .cast(pl.Datetime("ms", "UTC"))
        .dt.convert_time_zone(str(calendar.NEW_YORK))
        .dt.offset_by(step)
    )
    return low, int(end.dt.epoch("ms")[0])


def _whole_windows(keys: npt.NDArray[np.int64], limit: int, descending: bool) -> int:
    """Return how many rows, at least one window and at most ``limit``, end on a window."""
    count = len(keys)
    if limit >= count:
        return count
    if descending:
        edge = int(np.searchsorted(keys, keys[count - limit - 1], side="right"))
        if edge == count:
            edge = int(np.searchsorted(keys, keys[-1], side="left"))
        return count - edge
    edge = int(np.searchsorted(keys, keys[limit], side="left"))
    return edge or int(np.searchsorted(keys, keys[0], side="right"))


def _adjusted(rows: pl.DataFrame, ratio: npt.NDArray[np.float64]) -> pl.DataFrame:
    if (ratio == 1.0).all():
        return rows
    factor = pl.Series("ratio", ratio)
    return rows.with_columns(*(pl.col(p) / factor for p in _PRICES), pl.col("v") * factor)


def _aggregated(rows: pl.DataFrame, keys: npt.NDArray[np.int64]) -> pl.DataFrame:
    if len(keys) == 0 or (np.diff(keys) > 0).all():
        return rows.with_columns(pl.Series("t", keys))
    return (
        rows.with_columns(pl.Series("t", keys))
        .group_by("t", maintain_order=True)
        .agg(
            pl.col("o").first(),
            pl.col("c").last(),
            pl.col("h").max(),
            pl.col("l").min(),
            _mean_price("vw", "v"),
            pl.col("v").sum(),
            _total("n"),
        )
    )


def _json(rows: pl.DataFrame, first: str | None = None) -> bytes:
    wanted = [name for name in _ORDER if rows[name].null_count() < rows.height]
    buffer = BytesIO()
    rows.select([first, *wanted] if first else wanted).write_json(buffer)
    text = buffer.getvalue()
    # The vendor leaves out what it does not have.
    for name in ("vw", "n"):
        if name in wanted and rows[name].null_count():
            text = text.replace(f',"{name}":null'.encode(), b"")
    return text
