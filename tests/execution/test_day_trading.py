"""Day trades, counted as the old rule counts them; and the day from which another holds."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest

from execution.broker import Side
from execution.day_trading import DayFill, count_day_trades, rule_on
from market.errors import ExecutionError

NOW = dt.datetime(2025, 3, 7, 18, 0, tzinfo=dt.UTC)  # Friday
B, S = Side.BUY, Side.SELL


def fills(*made):
    """(days before, symbol, side, quantity), in order of time."""
    return [
        DayFill(symbol, side, Decimal(quantity), NOW - dt.timedelta(days=days) + k * SECOND)
        for k, (days, symbol, side, quantity) in enumerate(made)
    ]


SECOND = dt.timedelta(seconds=1)


@pytest.mark.parametrize(
    ("made", "trades", "standing"),
    [
        ([], 0, {}),
        ([(0, "A", B, 10)], 0, {"A": 10}),
        ([(0, "A", B, 10), (0, "A", S, 10)], 1, {}),
        ([(0, "A", B, 10), (0, "A", S, 4), (0, "A", S, 6)], 1, {}),  # one order in parts
        ([(0, "A", B, 5), (0, "A", B, 5), (0, "A", S, 10)], 1, {}),
        ([(0, "A", B, 9), (0, "A", S, 9), (0, "A", B, 9), (0, "A", S, 9)], 2, {}),
        ([(0, "A", S, 10), (0, "A", B, 10)], 1, {}),  # a short one
        ([(1, "A", B, 10), (0, "A", S, 10)], 0, {"A": -10}),  # held overnight
        ([(4, "A", B, 1), (4, "A", S, 1)], 1, {}),  # Monday is the fifth session
        ([(7, "A", B, 1), (7, "A", S, 1)], 0, {}),
        ([(0, "A", B, 1), (0, "B", S, 1)], 0, {"A": 1, "B": -1}),
        ([(1, "A", B, 10)], 0, {}),  # not of today
    ],
)
def test_day_trades_of_five_sessions(made, trades, standing):
    found = count_day_trades(fills(*made), NOW)
    assert found.day_trades == trades
    assert found.opened_today == standing


def test_the_rule_changes_on_its_day():
    old, new = rule_on(dt.date(2026, 6, 3)), rule_on(dt.date(2026, 6, 4))
    assert (old.day_trades, old.equity_usd, old.long_margin) == (3, 25_000, None)
    assert (new.day_trades, new.long_margin) == (None, Decimal("0.25"))
    assert (new.short_margin, old.short_margin) == (Decimal("0.30"), None)
    assert rule_on(dt.date(2001, 9, 28)).day_trades == 3
    assert rule_on(dt.date(2001, 9, 27)).day_trades is None
    assert rule_on(dt.date(1971, 1, 1)).day_trades is None
    assert rule_on(dt.date(1999, 1, 4)).day_trades is None
    with pytest.raises(ExecutionError, match="no rule"):
        rule_on(dt.date(1970, 12, 31))
