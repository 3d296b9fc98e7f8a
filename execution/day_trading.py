"""The rules on day trading in a margin account, as dated data.

A day trade is a purchase and a sale of the same security on the same day. Until 2026-06-03 FINRA's
rule 4210(f)(8) let an account below 25,000 USD make no more than three of them in five sessions.
From 2026-06-04 that rule is replaced: whatever is held in the course of the day must be covered
by the maintenance margin of rule 4210(c), 25 percent of long and 30 percent of short positions.
A further change is a further row.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from execution.broker import Side
from market.calendar import NEW_YORK, offset_session
from market.errors import ExecutionError

COUNTED_SESSIONS = 5


@dataclass(frozen=True, slots=True)
class DayTradingRule:
    """What holds from a day on.

    ``day_trades`` is how many an account below ``equity_usd`` may make in five sessions; without
    it they are not counted. ``long_margin`` and ``short_margin`` are shares of market value that
    equity must cover at every moment; without them only the broker's buying power counts.
    """

    since: dt.date
    equity_usd: Decimal | None = None
    day_trades: int | None = None
    long_margin: Decimal | None = None
    short_margin: Decimal | None = None


DAY_TRADING_RULES = (
    DayTradingRule(dt.date(1971, 1, 1)),
    DayTradingRule(dt.date(2001, 9, 28), equity_usd=Decimal(25_000), day_trades=3),
    DayTradingRule(dt.date(2026, 6, 4), long_margin=Decimal("0.25"), short_margin=Decimal("0.30")),
)


def rule_on(day: dt.date) -> DayTradingRule:
    """Return the rule of a day.

    Raises
    ------
    ExecutionError
        When it lies before every rule.

    Examples
    --------
    >>> rule_on(dt.date(2026, 6, 3)).day_trades, rule_on(dt.date(2026, 6, 4)).day_trades
    (3, None)
    """
    found = [r for r in DAY_TRADING_RULES if r.since <= day]
    if not found:
        raise ExecutionError(
            "no rule on day trading is known",
            got=day.isoformat(),
            allowed=f"{DAY_TRADING_RULES[0].since} or later",
            remedy="add the older rule to execution.day_trading.DAY_TRADING_RULES",
        )
    return max(found, key=lambda r: r.since)


@dataclass(frozen=True, slots=True)
class DayFill:
    """A fill of the account, as far as day trades are concerned."""

    symbol: str
    side: Side
    quantity: Decimal
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class DayTrading:
    """Day trades of the last five sessions, and what was opened today (signed) and still stands."""

    day_trades: int
    opened_today: dict[str, Decimal]


def count_day_trades(fills: Sequence[DayFill], now: dt.datetime) -> DayTrading:
    """Count day trades, and say what would become one if it were closed today.

    Parameters
    ----------
    fills : Sequence of DayFill
        Of the last five sessions at least, in order of time.
    now : datetime
        Aware. Sessions are counted back from its date in New York, today included.

    Returns
    -------
    DayTrading
        Each closing of something opened on the same day counts once, however many fills it took:
        consecutive fills on one side are one order's.

    Examples
    --------
    >>> at = dt.datetime(2025, 3, 4, 15, tzinfo=dt.UTC)
    >>> round_trip = [DayFill("A", side, Decimal(5), at) for side in (Side.BUY, Side.SELL)]
    >>> count_day_trades(round_trip, at).day_trades
    1
    """
    today = now.astimezone(NEW_YORK).date()
    first = offset_session(today, 1 - COUNTED_SESSIONS)
    trades = 0
    opened: dict[tuple[dt.date, str], Decimal] = {}
    closing: dict[tuple[dt.date, str], Side | None] = {}
    for fill in fills:
        day = fill.at.astimezone(NEW_YORK).date()
        if day < first:
            continue
        key = day, fill.symbol
        signed = fill.quantity if fill.side is Side.BUY else -fill.quantity
        before = opened.get(key, Decimal(0))
        closes = before * signed < 0
        if closes and closing.get(key) is not fill.side:
            trades += 1
        closing[key] = fill.side if closes else None
        opened[key] = before + signed
    standing = {s: q for (day, s), q in opened.items() if day == today and q != 0}
    return DayTrading(trades, standing)
