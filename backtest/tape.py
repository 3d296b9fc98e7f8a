"""Bars as arrays on the session grid, and the rule of when a decision can fill.

The tape answers three questions and no other: what was known at a moment, at what price an
order fills in a bar, and what a position is worth at the end of a bar.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from backtest.simulation import MARK_SCHEMA
from market import calendar
from market.errors import BacktestError
from market.horizons import Horizon, Run, scheduled_for
from market.schema import BAR_SCHEMA, Bar, Dividend, Split, conform
from market.timeframes import Timeframe

VOLUME_SESSIONS = 20
"""Sessions over which volume is averaged, here and live."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moment:
    """When a decision is made, and the start of the bar at whose open its orders fill."""

    decided_at: dt.datetime
    fills_at: dt.datetime
    is_open: bool


def moment_of(
    as_of: dt.datetime, horizon: Horizon, timeframe: Timeframe | None = None
) -> Moment | None:
    """Return when a forecast known at ``as_of`` is acted on, as live trading would.

    Inside a session an intraday forecast is acted on at once and fills at the open of the next
    bar of that session. Every other forecast waits for the premarket run of the next session and
    fills at its open, except those of horizons that never cross a close: these lapse.

    Parameters
    ----------
    as_of : datetime
        Aware.
    horizon : Horizon
        A row of the horizons table.
    timeframe : Timeframe, optional
        Of the bars that orders fill in; the horizon's own where nothing is said.

    Returns
    -------
    Moment or None
        ``None`` where nothing can be traded on it any more.

    Examples
    --------
    >>> from market.horizons import find_horizon
    >>> m = moment_of(dt.datetime(2024, 7, 2, 20, 0, tzinfo=dt.UTC), find_horizon("1d"))
    >>> m.decided_at.isoformat(), m.fills_at.isoformat()
    ('2024-07-03T12:30:00+00:00', '2024-07-03T13:30:00+00:00')
    """
    day = as_of.astimezone(calendar.NEW_YORK).date()
    trading = calendar.is_session(day)
    if horizon.timeframe.is_intraday and trading:
        opened, closed = calendar.session_open(day), calendar.session_close(day)
        if opened <= as_of < closed:
            length = dt.timedelta(minutes=(timeframe or horizon.timeframe).minutes)
            start = opened + -((opened - as_of) // length) * length
            if start < closed:
                return Moment(as_of, start, True)
    if not horizon.crosses_close:
        return None
    if not (trading and as_of < calendar.session_open(day)):
        day = calendar.next_session(day)
    return premarket_of(day, as_of)


def premarket_of(session: dt.date, at_least: dt.datetime | None = None) -> Moment:
    """Return the premarket run of a session, which sends orders for its open."""
    due = scheduled_for(Run.PREMARKET, session)
    return Moment(max(due, at_least or due), calendar.session_open(session), False)


@dataclass(frozen=True)
class Tape:
    """Bars of one timeframe as arrays: K bars of the grid by S symbols.

    Attributes
    ----------
    symbols : tuple of str
        Sorted; the columns of the arrays.
    starts, ends, sessions : list
        Of each bar of the grid that any symbol has.
    days : (K,) int64
        The number of each bar's session, from 0.
    opens, highs, lows, closes : (K, S) float64
        Raw prices; NaN where a symbol has no bar. Open and close lie within high and low.
    volumes : (K, S) float64
        Shares traded; 0 where a symbol has no bar, or none is stated.
    marks : (K, S) float64
        The last close, carried through halts and adjusted for splits on the way; NaN before the
        first bar.
    factors : (K, S) float64
        Shares in a bar per share in the first one.
    dividends : (K, S) float64
        USD per share that go to the holder just before the bar opens.
    average_volumes : (K, S) float64
        Mean volume of the sessions before the bar's, 20 at most, in shares of the bar's session;
        zero where there was none.
    """

    symbols: tuple[str, ...]
    starts: list[dt.datetime]
    ends: list[dt.datetime]
    sessions: list[dt.date]
    days: npt.NDArray[np.int64]
    opens: Floats
    highs: Floats
    lows: Floats
    closes: Floats
    volumes: Floats
    marks: Floats
    factors: Floats
    dividends: Floats
    average_volumes: Floats
    _known_at: list[dt.datetime]
    _known_row: npt.NDArray[np.int64]
    _known_column: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    def first_known(self, moment: dt.datetime, after: int = 0) -> int:
        """Return how many bars (of all symbols) are known at a moment."""
        return bisect_right(self._known_at, moment, lo=after)

    def newly_known(self, after: int, until: int) -> list[tuple[int, int]]:
        """Return (bar, symbol) numbers of the bars that became known, oldest first."""
        rows, columns = self._known_row[after:until], self._known_column[after:until]
        return list(zip(rows.tolist(), columns.tolist(), strict=True))


def make_tape(bars: pl.DataFrame, splits: pl.DataFrame, dividends: pl.DataFrame) -> Tape:
    """Lay bars out on the grid.

    Parameters
    ----------
    bars : pl.DataFrame
        Raw bars of one timeframe, ``BAR_SCHEMA``.
    splits, dividends : pl.DataFrame
        ``SPLIT_SCHEMA`` and ``DIVIDEND_SCHEMA``. An action takes effect at the first bar of the
        grid of its ex-date or later; those before the first bar, after the last, or of unknown
        symbols have none.

    Returns
    -------
    Tape
        The same bars as arrays.

    Raises
    ------
    BacktestError
        When there is no bar, a symbol has two bars at one time, or an open or close is not a
        positive number.
    """
    frame = conform(bars, BAR_SCHEMA, "bars").sort(Bar.BAR_END, Bar.SYMBOL)
    _check_bars(frame)
    symbols = tuple(frame[Bar.SYMBOL].unique().sort().to_list())
    grid = frame.unique(Bar.BAR_END, keep="first", maintain_order=True)
    ends = grid[Bar.BAR_END]
    row = frame[Bar.BAR_END].rank("dense").cast(pl.Int64).to_numpy() - 1
    column = frame[Bar.SYMBOL].rank("dense").cast(pl.Int64).to_numpy() - 1
    shape = (len(ends), len(symbols))
    volumes = np.zeros(shape)
    volumes[row, column] = frame[Bar.VOLUME].fill_nan(0.0).fill_null(0.0).to_numpy()
    opens, highs, lows, closes = (np.full(shape, np.nan) for _ in range(4))
    for table, name in ((opens, Bar.OPEN), (highs, Bar.HIGH), (lows, Bar.LOW), (closes, Bar.CLOSE)):
        table[row, column] = frame[name].to_numpy()
    # A bar whose extremes do not hold its open and close is widened: fmax passes over NaN.
    highs = np.fmax(np.where(np.isfinite(highs), highs, np.nan), np.fmax(opens, closes))
    lows = np.fmin(np.where(lows > 0.0, lows, np.nan), np.fmin(opens, closes))
    sessions: list[dt.date] = grid[Bar.SESSION].to_list()
    days = np.unique(np.array(sessions, dtype="datetime64[D]"), return_inverse=True)[1]
    factors = _place(splits, Split.SPLIT_RATIO, symbols, sessions)
    factors[factors == 0.0] = 1.0
    factors = np.asarray(np.cumprod(factors, axis=0), dtype=np.float64)
    known = frame[Bar.KNOWN_AT].to_list()
    order = np.array(sorted(range(len(known)), key=known.__getitem__), dtype=np.int64)
    return Tape(
        symbols=symbols,
        starts=grid[Bar.BAR_START].to_list(),
        ends=ends.to_list(),
        sessions=sessions,
        days=days,
        opens=opens,
        highs=highs,
        lows=lows,
        closes=closes,
        volumes=volumes,
        marks=_carry(closes * factors) / factors,
        factors=factors,
        dividends=_place(dividends, Dividend.AMOUNT_USD, symbols, sessions),
        average_volumes=_average(volumes / factors, days) * factors,
        _known_at=sorted(known),
        _known_row=row[order],
        _known_column=column[order],
    )


def _average(volumes: Floats, days: npt.NDArray[np.int64]) -> Floats:
    """Return for each bar the mean daily volume of the sessions before its own."""
    daily = sum_by_day(volumes, days)
    number = np.minimum(np.arange(len(daily)), VOLUME_SESSIONS)
    mean = sum_before(daily, VOLUME_SESSIONS) / np.maximum(1, number)[:, None]
    return mean[days]


def sum_by_day(values: Floats, days: npt.NDArray[np.int64]) -> Floats:
    """Return the sums of (K, S) values over each session, (D, S)."""
    daily = np.zeros((int(days[-1]) + 1, values.shape[1]))
    np.add.at(daily, days, values)
    return daily


def sum_before(daily: Floats, sessions: int) -> Floats:
    """Return for each session the sum over those before it, so many at most, (D, S)."""
    total = np.vstack([np.zeros((1, daily.shape[1])), np.cumsum(daily, axis=0)])
    last = np.arange(len(daily))
    return total[last] - total[np.maximum(0, last - sessions)]


def mark_table(tape: Tape, symbols: Sequence[str], first: int, count: int) -> pl.DataFrame:
    """Return the marks of some symbols over ``count`` bars from ``first`` on, ``MARK_SCHEMA``."""
    columns = [tape.symbols.index(s) for s in symbols]
    rows = slice(first, first + count)
    ends = pl.Series(tape.ends[rows], dtype=MARK_SCHEMA["bar_end"])
    shape = (len(ends), len(symbols))
    return pl.DataFrame(
        {
            "bar_end": ends.gather(np.repeat(np.arange(shape[0]), shape[1])),
            "symbol": np.tile(np.array(symbols, dtype=object), shape[0]).tolist(),
            "close": tape.marks[rows][:, columns].ravel(),
            "split_factor": tape.factors[rows][:, columns].ravel(),
        },
        schema=MARK_SCHEMA,
    )


def _check_bars(frame: pl.DataFrame) -> None:
    if frame.is_empty():
        raise BacktestError(
            "there are no bars to simulate on", remedy="ingest bars for the period first"
        )
    twice = frame.filter(frame.select(Bar.SYMBOL, Bar.BAR_END).is_duplicated())
    if twice.height:
        raise BacktestError(
            "a symbol has two bars at one time",
            got=f"{twice[Bar.SYMBOL][0]} at {twice[Bar.BAR_END][0]}",
            allowed="one bar per symbol and time, all of one timeframe",
            remedy="pass bars of the shortest timeframe only",
        )
    good = pl.all_horizontal(
        pl.col(c).is_finite() & (pl.col(c) > 0) for c in (Bar.OPEN, Bar.CLOSE)
    ).fill_null(value=False)
    bad = frame.filter(~good)
    if bad.height:
        raise BacktestError(
            "a bar has no usable price",
            got=f"{bad[Bar.SYMBOL][0]} at {bad[Bar.BAR_END][0]}",
            allowed="finite opens and closes above 0",
            remedy="quarantine such bars at ingest",
        )


def _place(
    actions: pl.DataFrame, value: str, symbols: Sequence[str], sessions: Sequence[dt.date]
) -> Floats:
    """Put each action at the first bar of its ex-date or later; splits multiply, cash adds."""
    table = np.zeros((len(sessions), len(symbols)))
    number = {s: i for i, s in enumerate(symbols)}
    rows = actions.select(Bar.SYMBOL, Split.EX_DATE, value).sort(Split.EX_DATE).iter_rows()
    for symbol, ex_date, amount in rows:
        first = _first_bar(sessions, ex_date)
        if symbol not in number or ex_date <= sessions[0] or first is None:
            continue
        cell = (first, number[symbol])
        multiplies = value == Split.SPLIT_RATIO and table[cell] != 0.0
        table[cell] = table[cell] * amount if multiplies else table[cell] + amount
    return table


def _first_bar(sessions: Sequence[dt.date], ex_date: dt.date) -> int | None:
    place = bisect_right(sessions, ex_date - dt.timedelta(days=1))
    return place if place < len(sessions) else None


def _carry(values: Floats) -> Floats:
    """Fill NaN downward with the last value above."""
    rows = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    last = np.maximum.accumulate(rows, axis=0)
    return values[last, np.arange(values.shape[1])[None, :]]
