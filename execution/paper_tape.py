"""The bars that a paper broker trades against, and what they tell at a moment.

A bar's open is known when the bar starts; its low, high and close when it ends. Every question
is asked with the moment ``now``, so that the answer never depends on a later bar.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from execution.broker import Side
from market import calendar
from market.errors import ExecutionError
from market.schema import BAR_SCHEMA, Bar, conform

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EPOCH_DAY = dt.date(1970, 1, 1)
_MICROSECOND = dt.timedelta(microseconds=1)
_PRICE_STEP = Decimal("0.000001")
_USED = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE)


@dataclass(frozen=True, slots=True)
class Touch:
    """A moment at which an order can trade, and the bar that it trades in."""

    at: dt.datetime
    price_usd: Decimal
    bar_end: dt.datetime


@dataclass(frozen=True, slots=True)
class _Track:
    """One symbol's bars as arrays; times in microseconds, sessions in days since 1970."""

    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    session: npt.NDArray[np.int64]
    open: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    close: npt.NDArray[np.float64]


class Tape:
    """Bars of the regular session, searchable by symbol and time.

    Parameters
    ----------
    bars : pl.DataFrame
        ``BAR_SCHEMA``, any timeframe; bars that start outside the regular session are left out.

    Raises
    ------
    ExecutionError
        When no bar is left, a price is missing or not positive, or two bars of one symbol
        overlap (two timeframes of the same symbol, for example).
    MarketError
        When the frame does not fit ``BAR_SCHEMA``.
    """

    def __init__(self, bars: pl.DataFrame) -> None:
        frame = _regular(conform(bars, BAR_SCHEMA, "paper bars"))
        _check(frame)
        self._tracks = {
            str(key[0]): _track(part)
            for key, part in frame.partition_by(
                Bar.SYMBOL, as_dict=True, maintain_order=True
            ).items()
        }
        self._last_session = max(int(track.session[-1]) for track in self._tracks.values())

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol with bars, sorted."""
        return tuple(self._tracks)

    @property
    def last_session(self) -> dt.date:
        """The last session of any symbol: after it nothing fills and nothing expires."""
        return _EPOCH_DAY + dt.timedelta(days=self._last_session)

    def mark(self, symbol: str, now: dt.datetime) -> Decimal | None:
        """Return the close of the last finished bar, else the first bar's open once it started."""
        track, moment = self._tracks[symbol], _micros(now)
        ended = int(np.searchsorted(track.end, moment, side="right"))
        if ended:
            return _price(track.close[ended - 1])
        return _price(track.open[0]) if track.start[0] <= moment else None

    def estimate(self, symbol: str, now: dt.datetime) -> Decimal:
        """Return the mark or, before the symbol's first bar, that bar's open.

        Only for sizing margin: it decides whether an order is accepted and is never shown.
        """
        mark = self.mark(symbol, now)
        return _price(self._tracks[symbol].open[0]) if mark is None else mark

    def next_touch(
        self,
        symbol: str,
        side: Side,
        limit: Decimal | None,
        *,
        session: dt.date,
        since: dt.datetime,
        now: dt.datetime,
    ) -> Touch | None:
        """Find the first moment of a session, from ``since`` to ``now``, when an order trades.

        A market order trades at the open of the first bar that starts at or after ``since``. A
        limit order trades at a bar's open when that is no worse than the limit, otherwise at the
        limit, at the end of the first bar that reached it.
        """
        track, moment, day = self._tracks[symbol], _micros(now), _days(session)
        first = max(
            int(np.searchsorted(track.start, _micros(since), side="left")),
            int(np.searchsorted(track.session, day, side="left")),
        )
        stop = min(
            int(np.searchsorted(track.start, moment, side="right")),
            int(np.searchsorted(track.session, day, side="right")),
        )
        if first >= stop:
            return None
        if limit is None:
            return _touch(track, first, at_open=True, price=_price(track.open[first]))
        bound = float(limit)
        if side is Side.BUY:
            hits = np.flatnonzero(track.low[first:stop] <= bound)
        else:
            hits = np.flatnonzero(track.high[first:stop] >= bound)
        if not hits.size:
            return None
        index = first + int(hits[0])
        opened = track.open[index]
        if opened <= bound if side is Side.BUY else opened >= bound:
            return _touch(track, index, at_open=True, price=_price(opened))
        if track.end[index] > moment:
            return None
        return _touch(track, index, at_open=False, price=limit)

    def first_open(self, symbol: str, session: dt.date, now: dt.datetime) -> Touch | None:
        """Return the opening print of a session, once it has happened."""
        track, day = self._tracks[symbol], _days(session)
        index = int(np.searchsorted(track.session, day, side="left"))
        if index == track.session.size or track.session[index] != day:
            return None
        if track.start[index] > _micros(now):
            return None
        return _touch(track, index, at_open=True, price=_price(track.open[index]))


def _regular(frame: pl.DataFrame) -> pl.DataFrame:
    grid = calendar.schedule().select(Bar.SESSION, "session_open", "session_close")
    return (
        frame.join(grid, on=Bar.SESSION, how="inner")
        .filter(
            pl.col(Bar.BAR_START) >= pl.col("session_open"),
            pl.col(Bar.BAR_START) < pl.col("session_close"),
        )
        .select(frame.columns)
        .sort(Bar.SYMBOL, Bar.BAR_START)
    )


def _check(frame: pl.DataFrame) -> None:
    if frame.is_empty():
        raise ExecutionError(
            "the paper broker has no bars",
            allowed="bars that start inside a regular session of XNYS",
            remedy="give bars whose bar_start is not before the session's open",
        )
    sound = pl.all_horizontal(pl.col(n).is_finite() & (pl.col(n) > 0) for n in _USED)
    ordered = (pl.col(Bar.LOW) <= pl.col(Bar.OPEN)) & (pl.col(Bar.OPEN) <= pl.col(Bar.HIGH))
    lasting = pl.col(Bar.BAR_START) < pl.col(Bar.BAR_END)
    previous_end = pl.col(Bar.BAR_END).shift(1).over(Bar.SYMBOL)
    apart = (pl.col(Bar.BAR_START) >= previous_end).fill_null(True)
    for rule, problem in (
        (
            (sound & ordered & lasting).fill_null(False),
            "a paper bar has impossible prices or times",
        ),
        (apart, "two paper bars of one symbol overlap"),
    ):
        wrong = frame.filter(~rule)
        if not wrong.is_empty():
            row = wrong.row(0, named=True)
            raise ExecutionError(
                problem,
                got=f"{row[Bar.SYMBOL]} at {row[Bar.BAR_START].isoformat()}",
                allowed="0 < low <= open <= high, one timeframe per symbol, each bar once",
                remedy="clean the bars before replaying them",
            )


def _track(part: pl.DataFrame) -> _Track:
    def whole(name: str) -> npt.NDArray[np.int64]:
        return part[name].to_physical().cast(pl.Int64).to_numpy()

    def real(name: str) -> npt.NDArray[np.float64]:
        return part[name].to_numpy()

    return _Track(
        start=whole(Bar.BAR_START),
        end=whole(Bar.BAR_END),
        session=whole(Bar.SESSION),
        open=real(Bar.OPEN),
        high=real(Bar.HIGH),
        low=real(Bar.LOW),
        close=real(Bar.CLOSE),
    )


def _touch(track: _Track, index: int, *, at_open: bool, price: Decimal) -> Touch:
    end = _moment(track.end[index])
    return Touch(_moment(track.start[index]) if at_open else end, price, end)


def _price(value: Any) -> Decimal:
    return Decimal(repr(float(value))).quantize(_PRICE_STEP).normalize()


def _micros(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(micros: Any) -> dt.datetime:
    return _EPOCH + int(micros) * _MICROSECOND


def _days(session: dt.date) -> int:
    return (session - _EPOCH_DAY).days
