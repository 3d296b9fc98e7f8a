"""A slow, plain account: order records and bars in, equity out. Shares no code with ``backtest``.

Exact arithmetic (fractions of integers), one dictionary per account, one loop over time.
"""

from __future__ import annotations

import datetime as dt
from fractions import Fraction

import polars as pl

LINES = ("commission_usd", "fees_usd", "spread_usd", "impact_usd", "slippage_usd")


def equity_curve(
    orders: pl.DataFrame,
    bars: pl.DataFrame,
    splits: pl.DataFrame,
    dividends: pl.DataFrame,
    starting_cash_usd: float,
    borrow_rate: float = 0.0,
) -> dict[dt.datetime, Fraction]:
    """Equity at the end of every bar of the grid; costs are the sum of an order's lines."""
    cash = Fraction(starting_cash_usd)
    shares: dict[str, Fraction] = {}
    last: dict[str, Fraction] = {}
    session: dt.date | None = None
    equity: dict[dt.datetime, Fraction] = {}
    filled = [o for o in orders.to_dicts() if o["filled_at"] is not None]
    for end in sorted(set(bars["bar_end"].to_list())):
        now = bars.filter(pl.col("bar_end") == end).to_dicts()
        today = now[0]["session"]
        if session is not None and today != session:
            short = sum(-q * last[s] for s, q in shares.items() if q < 0)
            cash -= short * Fraction(borrow_rate) * (today - session).days / 360
            for action in splits.to_dicts():
                if session < action["ex_date"] <= today and action["symbol"] in last:
                    cash += _split(shares, last, action["symbol"], action["split_ratio"])
            for action in dividends.to_dicts():
                if session < action["ex_date"] <= today:
                    held = shares.get(action["symbol"], Fraction(0))
                    cash += held * Fraction(action["amount_usd"])
        session = today
        for order in filled:
            if now[0]["bar_start"] <= order["filled_at"] <= end and order["bar_end"] == end:
                sign = 1 if order["side"] == "buy" else -1
                quantity = sign * Fraction(order["quantity"])
                cash -= quantity * Fraction(order["price"])
                cash -= sum(Fraction(order[line]) for line in LINES)
                shares[order["symbol"]] = shares.get(order["symbol"], Fraction(0)) + quantity
        for bar in now:
            last[bar["symbol"]] = Fraction(bar["close"])
        equity[end] = cash + sum(q * last[s] for s, q in shares.items())
    return equity


def _split(
    shares: dict[str, Fraction], last: dict[str, Fraction], symbol: str, ratio: float
) -> Fraction:
    """Multiply the position, pay out the fraction at the close before; return the cash."""
    exact = Fraction(ratio).limit_denominator(1000)
    last[symbol] /= exact
    after = shares.get(symbol, Fraction(0)) * exact
    whole = Fraction(int(after))
    shares[symbol] = whole
    return (after - whole) * last[symbol]
