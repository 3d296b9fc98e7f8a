"""What a bar does to an order: pure functions of the tape, the order and the moment.

The rules, where a bar leaves the path of prices open, are the pessimistic ones of
:mod:`execution.fill_rules`, which the backtest shares:

- A market order fills at the open of the first bar that starts at or after its arrival.
- A limit order fills at the first open after its arrival, if that lies within the limit. Else it
  rests: it fills at its limit, when a bar ends that went through it.
- A stop is hit at an open beyond it and fills there, else at its own price when the bar ends.
- A trailing stop follows the highs (lows) of the bars before, and this bar's open: a bar's own
  high moves the stop from the next bar on.
- When stop and target lie inside the same bar, the stop is hit.
- Exits of an entry wake with it: in its bar only the stop can be hit, at the bar's open where
  that lies beyond it, which a limit that rested leads to as well.
- An auction is the bar that begins with the session, or ends with it, and no other.
- A bar without volume fills nothing and hits nothing. A bar fills at most its participation.
- What arrives at the moment at which a bar begins comes before what rested by then.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from execution.broker import OrderType, Side, TimeInForce
from execution.fill_rules import FillRules, hits_stop, within_limit, worse_price
from execution.paper_hours import expires_at, last_session, routed_at
from execution.paper_orders import BookOrder
from execution.paper_tape import Tape, Track, days, micros, moment, price
from market import calendar

_STOPS = frozenset({OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP})
_AUCTIONS = frozenset({TimeInForce.OPG, TimeInForce.CLS})
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
    """The next thing that happens to an order.

    At one moment what ``rests`` comes last: an open that meets resting orders is theirs only when
    all that arrived by then had its turn, however often the book is asked.
    """

    at: dt.datetime
    rests: bool
    kind: Kind
    sequence: int
    order: BookOrder = field(compare=False)
    version: int = field(compare=False)
    touch: Touch | None = field(default=None, compare=False)


def next_happening(tape: Tape, order: BookOrder, now: dt.datetime) -> Happening | None:
    """Say what happens next to an open order, if it happens by ``now``."""

    def happening(at: dt.datetime, kind: Kind, touch: Touch | None = None) -> Happening:
        rests = touch is not None and touch.at_open and _rests(tape, order, touch.at)
        return Happening(at, rests, kind, order.sequence, order, order.version, touch)

    if order.held:
        return None
    routed = routed_at(order)
    if not order.routed:
        return happening(routed, Kind.ROUTE) if routed <= now else None
    if order.will_reject is not None:
        return happening(max(routed, order.updated_at), Kind.REJECT)
    if order.time_in_force in _AUCTIONS:
        at = auction_at(order)
        if at > now or order.session > tape.last_session:
            return None
        touch = _auction(tape.track(order.symbol), order, at)
        if touch is None or order.rested or not _fills(order, touch):
            return happening(at, Kind.EXPIRE)
    else:
        touch = _continuous(tape, order, now)
    if touch is not None:
        return happening(touch.at, Kind.TRIGGER if _is_waiting(order) else Kind.FILL, touch)
    expiry = expires_at(order)
    if expiry <= now and last_session(order) <= tape.last_session:
        return happening(max(expiry, order.updated_at), Kind.EXPIRE)
    return None


def resting_limit(order: BookOrder, rules: FillRules) -> Decimal | None:
    """Return the limit that binds an order now; a hit buy stop may have one above its stop.

    Source: Alpaca converts buy stops into stop-limit orders, 4 % above a stop below 50 USD,
    2.5 % above any other.
    """
    if rules.buy_stop_collar and order.order_type is OrderType.STOP and order.side is Side.BUY:
        stop = order.stop_price_usd or Decimal(0)
        return stop * (_COLLAR_BELOW_50 if stop < 50 else _COLLAR)
    return order.limit_price_usd


def is_marketable(side: Side, limit: Decimal | None, price_usd: Decimal) -> bool:
    """Say whether an order of this limit trades at a price."""
    return limit is None or bool(within_limit(sign_of(side), price_usd, limit))


def sign_of(side: Side) -> int:
    """Return 1 for a sale and -1 for a purchase, as :mod:`execution.fill_rules` counts."""
    return 1 if side is Side.SELL else -1


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


def auction_at(order: BookOrder) -> dt.datetime:
    """Return the moment of the auction that an order is for."""
    if order.time_in_force is TimeInForce.OPG:
        return calendar.session_open(order.session)
    return expires_at(order)


def _auction(track: Track, order: BookOrder, at: dt.datetime) -> Touch | None:
    """Return the bar that begins with the session, or ends with it, if there is one."""
    opens = order.time_in_force is TimeInForce.OPG
    moments = track.start if opens else track.end
    index = int(np.searchsorted(moments, micros(at), side="left"))
    if index == moments.size or moments[index] != micros(at):
        return None
    paid = track.open[index] if opens else track.close[index]
    return _touch(track, index, price(paid), at_open=opens)


def _continuous(tape: Tape, order: BookOrder, now: dt.datetime) -> Touch | None:
    track = tape.track(order.symbol)
    low = int(np.searchsorted(track.session, days(order.session), side="left"))
    side = "left" if _rests(tape, order, now) else "right"
    high = min(
        int(np.searchsorted(track.start, micros(now), side=side)),
        int(np.searchsorted(track.session, days(last_session(order)), side="right")),
    )
    if _is_waiting(order):
        return _trigger(track, order, low, high, now)
    low = max(low, int(np.searchsorted(track.start, micros(order.eligible_from), side="left")))
    return _trade(track, order, tape.rules, low, high, now)


def _rests(tape: Tape, order: BookOrder, now: dt.datetime) -> bool:
    """Say whether an order rested before the bar that begins now."""
    if order.time_in_force in _AUCTIONS:
        return False
    return order.parent is not None or order.rested or tape.began(order.eligible_from, now)


def _trade(
    track: Track, order: BookOrder, rules: FillRules, low: int, high: int, now: dt.datetime
) -> Touch | None:
    """Return the first bar that an order trades in: at its open, or at the limit inside."""
    limit, window = resting_limit(order, rules), slice(low, high)
    usable = track.most[window] > 0
    if limit is None:
        hits = np.flatnonzero(usable)
        return _at_open(track, low + int(hits[0])) if hits.size else None
    sign, bound = sign_of(order.side), float(limit)
    at_open = usable & within_limit(sign, track.open[window], bound)
    if not rules.better_open:
        # Only the first open after the arrival is met by an order that does not rest yet.
        first = np.flatnonzero(track.volume[window] > 0)[:1]
        meets = np.zeros(high - low if high > low else 0, dtype=bool)
        meets[[] if order.rested else first] = True
        at_open &= meets
    best = track.high[window] if sign > 0 else track.low[window]
    hits = np.flatnonzero(at_open | (usable & rules.reaches_limit(sign, best, bound)))
    if not hits.size:
        return None
    index = low + int(hits[0])
    if at_open[hits[0]]:
        return _at_open(track, index)
    if track.end[index] > micros(now):
        return None
    return _touch(track, index, limit, at_open=False)


def _at_open(track: Track, index: int) -> Touch:
    return _touch(track, index, price(track.open[index]), at_open=True)


def _trigger(track: Track, order: BookOrder, low: int, high: int, now: dt.datetime) -> Touch | None:
    since = micros(order.eligible_from if order.inside_bar is None else order.inside_bar)
    low = max(low, int(np.searchsorted(track.start, since, side="left")))
    if low >= high:
        return None
    window, sign = slice(low, high), sign_of(order.side)
    at_open, inside = _levels(track, order, window)
    gapped = hits_stop(sign, track.open[window], at_open)
    reached = hits_stop(sign, track.low[window] if sign > 0 else track.high[window], inside)
    gapped &= track.start[window] >= micros(order.eligible_from)
    hits = np.flatnonzero((gapped | reached) & (track.volume[window] > 0))
    if not hits.size:
        return None
    hit = int(hits[0])
    index = low + hit
    if gapped[hit]:
        return _at_open(track, index)
    if track.end[index] > micros(now):
        return None
    level = inside[hit]
    if order.inside_bar == moment(track.start[index]):
        level = worse_price(sign, track.open[index], level)
    return _touch(track, index, price(level), at_open=False)


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
