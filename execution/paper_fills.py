"""What a bar does to an order: pure functions of the tape, the order and the moment.

The rules, where a bar leaves the path of prices open, are the pessimistic ones:

- A market order fills at the open of the first bar that starts at or after its arrival.
- A limit order fills at a better open, else at its limit, when the bar that reached it ends.
- A stop is hit at an open beyond it and fills there, else at its own price when the bar ends. A
  buy stop turns into a limit order a little above its stop, as the service documents.
- A trailing stop follows the highs (lows) of the bars before, and this bar's open: a bar's own
  high moves the stop from the next bar on.
- When stop and target lie inside the same bar, the stop is hit.
- A bar without volume fills nothing and hits nothing. A bar fills at most its participation.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from execution.broker import OrderType, Side, TimeInForce
from execution.paper_hours import expires_at, last_session, routed_at
from execution.paper_orders import BookOrder
from execution.paper_tape import Tape, Track, days, micros, moment, price

_STOPS = frozenset({OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP})
_HUNDRED = Decimal(100)
_COLLAR_BELOW_50, _COLLAR = Decimal("1.04"), Decimal("1.025")
_LEVEL_DECIMALS = 4

Levels = npt.NDArray[np.float64]


class Kind(IntEnum):
    """What may happen next, in the order in which it happens at one moment."""

    ROUTE = 0
    REJECT = 1
    TRIGGER = 2
    FILL = 3
    EXPIRE = 4


@dataclass(frozen=True, slots=True)
class Touch:
    """A bar that an order can trade in: when, at which price, and how many shares at most."""

    at: dt.datetime
    price_usd: Decimal
    most: Decimal
    bar_start: dt.datetime
    bar_end: dt.datetime
    at_open: bool


@dataclass(order=True, frozen=True, slots=True)
class Happening:
    """The next thing that happens to an order."""

    at: dt.datetime
    kind: Kind
    sequence: int
    order: BookOrder = field(compare=False)
    version: int = field(compare=False)
    touch: Touch | None = field(default=None, compare=False)


def next_happening(tape: Tape, order: BookOrder, now: dt.datetime) -> Happening | None:
    """Say what happens next to an open order, if it happens by ``now``."""

    def happening(at: dt.datetime, kind: Kind, touch: Touch | None = None) -> Happening:
        return Happening(at, kind, order.sequence, order, order.version, touch)

    if order.held:
        return None
    routed = routed_at(order)
    if not order.routed:
        return happening(routed, Kind.ROUTE) if routed <= now else None
    if order.will_reject is not None:
        return happening(max(routed, order.updated_at), Kind.REJECT)
    if order.time_in_force is TimeInForce.OPG:
        touch = _opening(tape.track(order.symbol), order, now)
        if touch is not None and (order.filled_quantity or not _fills(order, touch)):
            return happening(touch.at, Kind.EXPIRE)
    elif order.time_in_force is TimeInForce.CLS:
        touch = _closing(tape.track(order.symbol), order, now)
        if touch is not None and (order.filled_quantity or not _fills(order, touch)):
            return happening(touch.at, Kind.EXPIRE)
    else:
        touch = _continuous(tape.track(order.symbol), order, now)
    if touch is not None:
        return happening(touch.at, Kind.TRIGGER if _is_waiting(order) else Kind.FILL, touch)
    expiry = expires_at(order)
    if expiry <= now and last_session(order) <= tape.last_session:
        return happening(max(expiry, order.updated_at), Kind.EXPIRE)
    return None


def resting_limit(order: BookOrder) -> Decimal | None:
    """Return the limit that binds an order now; a hit buy stop has one a little above its stop.

    Source: Alpaca converts buy stops into stop-limit orders, 4 % above a stop below 50 USD,
    2.5 % above any other.
    """
    if order.order_type is OrderType.STOP and order.side is Side.BUY:
        stop = order.stop_price_usd or Decimal(0)
        return stop * (_COLLAR_BELOW_50 if stop < 50 else _COLLAR)
    return order.limit_price_usd


def is_marketable(side: Side, limit: Decimal | None, price_usd: Decimal) -> bool:
    """Say whether an order of this limit trades at a price."""
    if limit is None:
        return True
    return price_usd <= limit if side is Side.BUY else price_usd >= limit


def trailing_levels(
    tape: Tape, order: BookOrder, now: dt.datetime
) -> tuple[Decimal, Decimal] | None:
    """Return an untriggered trailing stop's high-water mark and stop price, as known at ``now``."""
    track, until = tape.track(order.symbol), micros(now)
    first = int(np.searchsorted(track.start, micros(order.eligible_from), side="left"))
    started = int(np.searchsorted(track.start, until, side="right"))
    ended = int(np.searchsorted(track.end, until, side="right"))
    traded = track.volume > 0
    seen = [
        *track.open[first:started][traded[first:started]],
        *(track.high if order.side is Side.SELL else track.low)[first:ended][traded[first:ended]],
    ]
    best = max if order.side is Side.SELL else min
    mark = float(best([_base(order), *map(float, seen)]))
    if not np.isfinite(mark):
        return None
    return price(mark), price(_trailed(order, np.array([mark]))[0])


def _is_waiting(order: BookOrder) -> bool:
    return order.order_type in _STOPS and order.triggered_at is None


def _fills(order: BookOrder, touch: Touch) -> bool:
    return touch.most > 0 and is_marketable(order.side, order.limit_price_usd, touch.price_usd)


def _opening(track: Track, order: BookOrder, now: dt.datetime) -> Touch | None:
    index = _edge(track, order.session, first=True)
    if index is None or track.start[index] > micros(now):
        return None
    return _touch(track, index, price(track.open[index]), at_open=True)


def _closing(track: Track, order: BookOrder, now: dt.datetime) -> Touch | None:
    close = expires_at(order)
    index = _edge(track, order.session, first=False)
    if index is None or close > now:
        return None
    most = Decimal(int(track.most[index]))
    start, end = moment(track.start[index]), moment(track.end[index])
    return Touch(close, price(track.close[index]), most, start, end, False)


def _edge(track: Track, session: dt.date, *, first: bool) -> int | None:
    low = int(np.searchsorted(track.session, days(session), side="left"))
    high = int(np.searchsorted(track.session, days(session), side="right"))
    traded = np.flatnonzero(track.volume[low:high] > 0)
    return low + int(traded[0 if first else -1]) if traded.size else None


def _continuous(track: Track, order: BookOrder, now: dt.datetime) -> Touch | None:
    low = int(np.searchsorted(track.session, days(order.session), side="left"))
    high = min(
        int(np.searchsorted(track.start, micros(now), side="right")),
        int(np.searchsorted(track.session, days(last_session(order)), side="right")),
    )
    if _is_waiting(order):
        return _trigger(track, order, low, high, now)
    low = max(low, int(np.searchsorted(track.start, micros(order.eligible_from), side="left")))
    return _trade(track, order, low, high, now)


def _trade(track: Track, order: BookOrder, low: int, high: int, now: dt.datetime) -> Touch | None:
    limit = resting_limit(order)
    usable = track.most[low:high] > 0
    if limit is not None:
        bound = float(limit)
        buys = order.side is Side.BUY
        usable &= track.low[low:high] <= bound if buys else track.high[low:high] >= bound
    hits = np.flatnonzero(usable)
    if not hits.size:
        return None
    index = low + int(hits[0])
    opened = price(track.open[index])
    if limit is None or is_marketable(order.side, limit, opened):
        return _touch(track, index, opened, at_open=True)
    if track.end[index] > micros(now):
        return None
    return _touch(track, index, limit, at_open=False)


def _trigger(track: Track, order: BookOrder, low: int, high: int, now: dt.datetime) -> Touch | None:
    since = micros(order.eligible_from if order.inside_bar is None else order.inside_bar)
    low = max(low, int(np.searchsorted(track.start, since, side="left")))
    if low >= high:
        return None
    window = slice(low, high)
    at_open, inside = _levels(track, order, window)
    if order.side is Side.SELL:
        gapped = track.open[window] <= at_open
        reached = track.low[window] <= inside
    else:
        gapped = track.open[window] >= at_open
        reached = track.high[window] >= inside
    gapped &= track.start[window] >= micros(order.eligible_from)
    hits = np.flatnonzero((gapped | reached) & (track.volume[window] > 0))
    if not hits.size:
        return None
    hit = int(hits[0])
    index = low + hit
    if gapped[hit]:
        return _touch(track, index, price(track.open[index]), at_open=True)
    if track.end[index] > micros(now):
        return None
    return _touch(track, index, price(inside[hit]), at_open=False)


def _levels(track: Track, order: BookOrder, window: slice) -> tuple[Levels, Levels]:
    """Return the stop price at each bar's open, and inside the bar."""
    opened = track.open[window]
    if order.order_type is not OrderType.TRAILING_STOP:
        level = np.full(opened.size, float(order.stop_price_usd or 0))
        return level, level
    sells, traded = order.side is Side.SELL, track.volume[window] > 0
    extreme = np.where(
        traded, track.high[window] if sells else track.low[window], -np.inf if sells else np.inf
    )
    best = np.maximum if sells else np.minimum
    before = best.accumulate(np.concatenate([[_base(order)], extreme]))[:-1]
    return _trailed(order, before), _trailed(order, best(before, opened))


def _base(order: BookOrder) -> float:
    if order.high_water_usd is not None:
        return float(order.high_water_usd)
    return -np.inf if order.side is Side.SELL else np.inf


def _trailed(order: BookOrder, marks: Levels) -> Levels:
    sign = -1.0 if order.side is Side.SELL else 1.0
    if order.trail_percent is not None:
        levels = marks * (1.0 + sign * float(order.trail_percent / _HUNDRED))
    else:
        levels = marks + sign * float(order.trail_price_usd or 0)
    return np.round(levels, _LEVEL_DECIMALS)


def _touch(track: Track, index: int, price_usd: Decimal, *, at_open: bool) -> Touch:
    start, end = moment(track.start[index]), moment(track.end[index])
    most = Decimal(int(track.most[index]))
    return Touch(start if at_open else end, price_usd, most, start, end, at_open)
