"""When a paper order may trade: the service's hours, in New York time, as documented.

Source: https://docs.alpaca.markets/docs/orders-at-alpaca (time in force, extended hours).
"""

from __future__ import annotations

import datetime as dt

from execution.broker import TimeInForce
from execution.paper_orders import BookOrder, PaperRefusal
from market import calendar

OPG_LAST = dt.time(9, 28)
CLS_LAST_BEFORE_CLOSE = dt.timedelta(minutes=10)
AUCTION_AGAIN = dt.time(19, 0)
EXTENDED_OPEN = dt.time(4, 0)
EXTENDED_CLOSE = dt.time(20, 0)
GTC_LIFETIME = dt.timedelta(days=90)


def order_session(
    time_in_force: TimeInForce, at: dt.datetime, *, extended_hours: bool = False
) -> dt.date:
    """Return the first session in which an order that arrives at ``at`` may trade.

    A day or gtc order trades in the session that is open, else in the next one; with extended
    hours a day lasts until 20:00 New York time. An order for the opening auction is taken until
    09:28 and again from 19:00, one for the closing auction until ten minutes before the close
    (15:50 on a whole day) and again from 19:00.

    Raises
    ------
    PaperRefusal
        For an auction order between these hours of a trading day.
    """
    local = at.astimezone(calendar.NEW_YORK)
    day = local.date()
    if not calendar.is_session(day):
        return calendar.next_session(day)
    if time_in_force is TimeInForce.OPG:
        if OPG_LAST <= local.time() < AUCTION_AGAIN:
            raise _too_late("opg", "9:28am")
        return day if local.time() < OPG_LAST else calendar.next_session(day)
    if time_in_force is TimeInForce.CLS:
        cut = calendar.session_close(day) - CLS_LAST_BEFORE_CLOSE
        if at >= cut and local.time() < AUCTION_AGAIN:
            raise _too_late("cls", f"{cut.astimezone(calendar.NEW_YORK):%-I:%M}pm")
        return day if at < cut else calendar.next_session(day)
    end = _at(day, EXTENDED_CLOSE) if extended_hours else calendar.session_close(day)
    return day if at < end else calendar.next_session(day)


def routed_at(order: BookOrder) -> dt.datetime:
    """Return when an order goes to the exchange: at once, or when its session opens."""
    if order.extended_hours:
        return max(order.submitted_at, _at(order.session, EXTENDED_OPEN))
    return max(order.submitted_at, calendar.session_open(order.session))


def last_session(order: BookOrder) -> dt.date:
    """Return the last session in which an order may trade; gtc orders age for 90 days."""
    if order.time_in_force is not TimeInForce.GTC:
        return order.session
    day = order.submitted_at.astimezone(calendar.NEW_YORK).date() + GTC_LIFETIME
    return day if calendar.is_session(day) else calendar.next_session(day)


def expires_at(order: BookOrder) -> dt.datetime:
    """Return when an order that has not filled expires."""
    session = last_session(order)
    if order.extended_hours:
        return _at(session, EXTENDED_CLOSE)
    return calendar.session_close(session)


def _at(day: dt.date, time: dt.time) -> dt.datetime:
    return dt.datetime.combine(day, time, calendar.NEW_YORK).astimezone(dt.UTC)


def _too_late(kind: str, until: str) -> PaperRefusal:
    message = f"{kind} orders must be submitted after 7:00pm and before {until}"
    return PaperRefusal(422, 42210000, message)
