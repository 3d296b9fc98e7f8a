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

from execution.fill_rules import FillRules
from execution.paper_conditions import Halt
from market import calendar
from market.costs import shares_of
from market.errors import ExecutionError
from market.schema import BAR_SCHEMA, Bar, conform

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EPOCH_DAY = dt.date(1970, 1, 1)
_MICROSECOND = dt.timedelta(microseconds=1)
_PRICE_STEP = Decimal("0.000001")
_USED = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE)
_NO_LIMIT = 10**15
_RULES = FillRules()


@dataclass(frozen=True, slots=True)
class Track:
    """One symbol's bars as arrays; times in microseconds, sessions in days since 1970.

    ``most`` is how many shares the orders of the account may take of a bar: zero where nothing
    traded.
    """

    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    session: npt.NDArray[np.int64]
    open: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    close: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64]
    most: npt.NDArray[np.int64]


class Tape:
    """Bars of the regular session, searchable by symbol and time.

    Parameters
    ----------
    bars : pl.DataFrame
        ``BAR_SCHEMA``, any timeframe; bars that start outside the regular session are left out.
    participation : Decimal, optional
        The share of a bar's volume that the orders of the symbol may take together, in whole
        shares; ``None`` for all that they want of a bar that traded at all.
    halts : tuple of Halt
        Bars that start inside one are left out.
    rules : FillRules
        What a bar does to an order that rests.

    Raises
    ------
    ExecutionError
        When no bar is left, a price is missing or not positive, a volume missing or negative, or
        two bars of one symbol overlap (two timeframes of the same symbol, for example).
    MarketError
        When the frame does not fit ``BAR_SCHEMA``.
    """

    def __init__(
        self,
        bars: pl.DataFrame,
        *,
        participation: Decimal | None = None,
        halts: tuple[Halt, ...] = (),
        rules: FillRules = _RULES,
    ) -> None:
        self.rules = rules
        frame = _regular(conform(bars, BAR_SCHEMA, "paper bars"))
        for halt in halts:
            inside = pl.col(Bar.BAR_START).is_between(halt.start, halt.end, closed="left")
            frame = frame.filter(~((pl.col(Bar.SYMBOL) == halt.symbol) & inside))
        _check(frame)
        self._tracks = {
            str(key[0]): _track(part, participation)
            for key, part in frame.partition_by(
                Bar.SYMBOL, as_dict=True, maintain_order=True
            ).items()
        }
        starts = frame[Bar.BAR_START].unique().sort()
        self._starts = starts.to_physical().cast(pl.Int64).to_numpy()
        self._last_session = max(int(track.session[-1]) for track in self._tracks.values())

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol with bars, sorted."""
        return tuple(self._tracks)

    @property
    def last_session(self) -> dt.date:
        """The last session of any symbol: after it nothing fills and nothing expires."""
        return _EPOCH_DAY + dt.timedelta(days=self._last_session)

    def began(self, since: dt.datetime, before: dt.datetime) -> bool:
        """Say whether a bar of any symbol began in a span, ``since`` inside and ``before`` not."""
        first = int(np.searchsorted(self._starts, micros(since), side="left"))
        return first < self._starts.size and bool(self._starts[first] < micros(before))

    def mark(self, symbol: str, now: dt.datetime) -> Decimal | None:
        """Return the close of the last finished bar, else the first bar's open once it started."""
        seen = self.last_seen(symbol, now)
        return None if seen is None else seen[0]

    def last_seen(self, symbol: str, now: dt.datetime) -> tuple[Decimal, dt.datetime] | None:
        """Return the mark, and the start of the bar that it comes from."""
        track, present = self._tracks[symbol], micros(now)
        ended = int(np.searchsorted(track.end, present, side="right"))
        if ended:
            return price(track.close[ended - 1]), moment(track.start[ended - 1])
        if track.start[0] <= present:
            return price(track.open[0]), moment(track.start[0])
        return None

    def estimate(self, symbol: str, now: dt.datetime) -> Decimal:
        """Return the mark or, before the symbol's first bar, that bar's open.

        Only for sizing margin: it decides whether an order is accepted and is never shown.
        """
        mark = self.mark(symbol, now)
        return price(self._tracks[symbol].open[0]) if mark is None else mark

    def track(self, symbol: str) -> Track:
        """Return one symbol's bars."""
        return self._tracks[symbol]


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
    sound &= pl.col(Bar.VOLUME).is_finite() & (pl.col(Bar.VOLUME) >= 0)
    ordered = (pl.col(Bar.LOW) <= pl.col(Bar.OPEN)) & (pl.col(Bar.OPEN) <= pl.col(Bar.HIGH))
    lasting = pl.col(Bar.BAR_START) < pl.col(Bar.BAR_END)
    previous_end = pl.col(Bar.BAR_END).shift(1).over(Bar.SYMBOL)
    apart = (pl.col(Bar.BAR_START) >= previous_end).fill_null(True)
    for rule, problem in (
        (
            (sound & ordered & lasting).fill_null(False),
            "a paper bar has impossible prices, times or volume",
        ),
        (apart, "two paper bars of one symbol overlap"),
    ):
        wrong = frame.filter(~rule)
        if not wrong.is_empty():
            row = wrong.row(0, named=True)
            raise ExecutionError(
                problem,
                got=f"{row[Bar.SYMBOL]} at {row[Bar.BAR_START].isoformat()}",
                allowed="0 < low <= open <= high, 0 <= volume, one timeframe, each bar once",
                remedy="clean the bars before replaying them",
            )


def _track(part: pl.DataFrame, participation: Decimal | None) -> Track:
    def whole(name: str) -> npt.NDArray[np.int64]:
        return part[name].to_physical().cast(pl.Int64).to_numpy()

    def real(name: str) -> npt.NDArray[np.float64]:
        return part[name].to_numpy()

    volume = real(Bar.VOLUME)
    if participation is None:
        most = np.where(volume > 0, _NO_LIMIT, 0)
    else:
        most = shares_of(volume, float(participation)).astype(np.int64)
    return Track(
        start=whole(Bar.BAR_START),
        end=whole(Bar.BAR_END),
        session=whole(Bar.SESSION),
        open=real(Bar.OPEN),
        high=real(Bar.HIGH),
        low=real(Bar.LOW),
        close=real(Bar.CLOSE),
        volume=volume,
        most=most,
    )


def price(value: Any) -> Decimal:
    """Return a price of the tape as a decimal of at most six places."""
    return Decimal(repr(float(value))).quantize(_PRICE_STEP).normalize()


def micros(moment: dt.datetime) -> int:
    """Return microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(micros: Any) -> dt.datetime:
    """Return the moment of microseconds since 1970."""
    return _EPOCH + int(micros) * _MICROSECOND


def days(session: dt.date) -> int:
    """Return days since 1970."""
    return (session - _EPOCH_DAY).days
