"""When and how an order can be sent: auctions, the session, and the broker's pace."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from execution.broker import Clock, Side, TimeInForce
from execution.intents import BASIS_POINTS, LastPrice, OrderIntent, PlanRules, Skipped, SkipReason
from market.calendar import NEW_YORK, is_session
from market.errors import ExecutionError
from market.ticks import to_tick

_OPG_REFUSED_FROM = dt.time(9, 28)
_OPG_REFUSED_UNTIL = dt.time(19, 0)
CLS_LEAD = dt.timedelta(minutes=10)
"""How long before the close the broker refuses orders for its auction."""
_OPG_LEAD = dt.timedelta(minutes=2)
_EXTENDED = (dt.time(4, 0), dt.time(20, 0))
# Account, clock, positions, assets and listings that go with a plan.
_OTHER_REQUESTS = 20


@dataclass(frozen=True, slots=True)
class Style:
    """How an order is sent: its time in force, its limit, and whether outside the session."""

    time_in_force: TimeInForce
    limit: Decimal | None
    extended_hours: bool


def closing_style(quantity: Decimal, clock: Clock) -> Style:
    """Return how an exit at the close is sent: it must fill, so it has no limit.

    In the auction, or at once where that no longer takes orders; fractions trade only at once.
    """
    whole = quantity == quantity.to_integral_value()
    return Style(time_in_force_at(clock, for_close=whole), None, extended_hours=False)


def style_of(side: Side, price: LastPrice | None, clock: Clock, rules: PlanRules) -> Style:
    """Return how an order is sent now: a limit where the rules ask for one and a price is known."""
    limit = None
    if rules.limit_offset_bps is not None and price is not None:
        away = rules.limit_offset_bps / BASIS_POINTS * (1 if side is Side.BUY else -1)
        day = clock.now.astimezone(NEW_YORK).date()
        limit = to_tick(price.price_usd * (1 + away), up=side is Side.SELL, on=day)
    if rules.extended_hours and limit is not None and _is_extended(clock):
        return Style(TimeInForce.DAY, limit, extended_hours=True)
    return Style(time_in_force_at(clock), limit, extended_hours=False)


def _is_extended(clock: Clock) -> bool:
    """Say whether it is before or after the session on a day that has one."""
    local = clock.now.astimezone(NEW_YORK)
    inside = _EXTENDED[0] <= local.time() < _EXTENDED[1]
    return inside and not clock.is_open and is_session(local.date())


def feasible(
    intents: Sequence[OrderIntent], clock: Clock, rules: PlanRules
) -> tuple[list[OrderIntent], list[Skipped]]:
    """Leave out, from the end, what the broker's pace would make too late."""
    requests, late = _OTHER_REQUESTS, dict[str, Skipped]()
    kept: list[OrderIntent] = []
    for intent in intents:
        needed = 1 + 2 * len(intent.cancels)
        sent_at = clock.now + dt.timedelta(
            minutes=(requests + needed - 1) // rules.requests_per_minute
        )
        cutoff = _cutoff(intent, clock)
        if intent.symbol in late or sent_at >= cutoff:
            detail = f"{sent_at.isoformat()}, {cutoff.isoformat()} at the latest"
            late.setdefault(
                intent.symbol, Skipped(intent.symbol, SkipReason.TOO_LATE_TO_SEND, detail)
            )
            continue
        requests += needed
        kept.append(intent)
    return kept, list(late.values())


def _cutoff(intent: OrderIntent, clock: Clock) -> dt.datetime:
    """Return when it is too late to send an order."""
    if intent.time_in_force is TimeInForce.OPG:
        return clock.next_open - _OPG_LEAD
    if intent.time_in_force is TimeInForce.CLS:
        return clock.next_close - CLS_LEAD
    return clock.next_close


def time_in_force_of_leg(leg: int, time_in_force: TimeInForce) -> TimeInForce:
    """Return how a leg stands: a second one leaves after the opening auction has filled the first.

    Examples
    --------
    >>> [time_in_force_of_leg(leg, TimeInForce.OPG).value for leg in (1, 2)]
    ['opg', 'day']
    """
    after_auction = leg > 1 and time_in_force is TimeInForce.OPG
    return TimeInForce.DAY if after_auction else time_in_force


def time_in_force_at(clock: Clock, *, for_close: bool = False) -> TimeInForce:
    """Return how an order sent now should stand.

    Parameters
    ----------
    clock : Clock
        The broker's.
    for_close : bool, default False
        Whether it is meant for the closing auction.

    Returns
    -------
    TimeInForce
        ``DAY`` in the session, or ``CLS`` for its closing auction up to ten minutes before the
        close. While the market is shut ``OPG`` (the next opening auction), except from 9:28 to
        19:00 New York time, when the broker refuses such orders: ``DAY``.

    Raises
    ------
    ExecutionError
        When the clock has no time zone.
    """
    if clock.now.tzinfo is None:
        raise ExecutionError(
            "the broker's clock has no time zone",
            got=clock.now.isoformat(),
            remedy="fix the broker adapter",
        )
    if for_close and clock.is_open and clock.now < clock.next_close - CLS_LEAD:
        return TimeInForce.CLS
    local = clock.now.astimezone(NEW_YORK).time()
    if clock.is_open or _OPG_REFUSED_FROM <= local < _OPG_REFUSED_UNTIL:
        return TimeInForce.DAY
    return TimeInForce.OPG
