"""What each plan of the vendor covers, as the replay server answers it."""

from __future__ import annotations

import datetime as dt

from market import calendar
from market.request_limiter import Plan

_RANK = {plan: rank for rank, plan in enumerate(Plan)}
_NOT_ENTITLED = (
    "You are not entitled to this data. Please upgrade your plan at https://massive.com/pricing"
)
_NOT_YET = (
    "Your plan doesn't include this data timeframe. Please upgrade your plan at"
    " https://massive.com/pricing"
)


class NotCoveredError(Exception):
    """The plan does not cover what was asked for; the message is the vendor's."""


def check_covers(plan: Plan | None, needed: Plan) -> None:
    """Raise :class:`NotCoveredError` where a plan is poorer than the needed one."""
    if plan is not None and _RANK[plan] < _RANK[needed]:
        raise NotCoveredError(_NOT_ENTITLED)


def check_history(plan: Plan | None, until_ms: int, now: dt.datetime | None) -> None:
    """Raise :class:`NotCoveredError` where a plan with end-of-day data is asked for today's."""
    if plan is not Plan.FREE or now is None:
        return
    today = now.astimezone(calendar.NEW_YORK).date()
    if until_ms >= calendar.midnight(today).timestamp() * 1000:
        raise NotCoveredError(_NOT_YET)


def status_of(plan: Plan | None) -> str:
    """Return what an answer with market data says of itself: plans below the best have it late."""
    return "OK" if plan is None or plan.is_real_time else "DELAYED"
