"""Exits at the broker, worked out anew from what orders left. Shares no code with ``backtest``.

One dictionary per symbol, one loop over bars, plain comparisons.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import polars as pl

CENT = Decimal("0.01")

Exit = tuple[dt.datetime, str, str, float, float, dt.datetime]
"""End of the bar, symbol, side, quantity, price, moment of the fill."""


@dataclass
class _Resting:
    long: bool
    target: float | None
    stop: float | None
    lasts: bool
    entered: dt.datetime
    hit: bool = False


def expected_exits(
    orders: pl.DataFrame, bars: pl.DataFrame, splits: pl.DataFrame, participation: float | None
) -> list[Exit]:
    """What the exits at the broker must have done, given every other order."""
    decided = [o for o in orders.to_dicts() if not o["is_bracket_exit"]]
    shares: dict[str, float] = {}
    resting: dict[str, _Resting] = {}
    found: list[Exit] = []
    session: dt.date | None = None
    before: dt.datetime | None = None
    for end in sorted(set(bars["bar_end"].to_list())):
        now = {b["symbol"]: b for b in bars.filter(pl.col("bar_end") == end).to_dicts()}
        today = next(iter(now.values()))["session"]
        if session is not None and today != session:
            resting = {s: r for s, r in resting.items() if r.lasts}
            for action in splits.to_dicts():
                if session < action["ex_date"] <= today:
                    _split(shares, resting, action["symbol"], action["split_ratio"])
        session = today
        for order in decided:
            if (before or order["as_of"]) <= order["as_of"] < end:
                resting.pop(order["symbol"], None)  # it was sent before this bar
        before = end
        mine = [o for o in decided if o["bar_end"] == end]
        for order in mine:
            _decide(order, decided, shares, resting)
        for symbol in sorted(resting):
            bar = now.get(symbol)
            if bar is None or bar["volume"] <= 0:
                continue
            taken = sum(o["quantity"] for o in mine if o["symbol"] == symbol and o["filled_at"])
            most = math.inf if participation is None else math.floor(participation * bar["volume"])
            touched = _touch(resting[symbol], bar, end)
            if touched is None:
                continue
            price, at = touched
            quantity = min(abs(shares[symbol]), max(0, most - taken))
            if quantity > 0:
                side = "sell" if resting[symbol].long else "buy"
                found.append((end, symbol, side, quantity, price, at))
                shares[symbol] -= math.copysign(quantity, shares[symbol])
            if shares[symbol] == 0:
                del resting[symbol]
    return found


_ONE_ORDER = ("as_of", "symbol", "side", "take_profit", "stop_loss")


def _decide(
    order: dict[str, Any],
    others: list[dict[str, Any]],
    shares: dict[str, float],
    resting: dict[str, _Resting],
) -> None:
    symbol = order["symbol"]
    if order["filled_at"] is None:
        return
    signed = order["quantity"] if order["side"] == "buy" else -order["quantity"]
    shares[symbol] = shares.get(symbol, 0.0) + signed
    parts = [o for o in others if all(o[k] == order[k] for k in _ONE_ORDER)]
    cut = any(o["filled_at"] is None or o["bar_end"] > order["bar_end"] for o in parts)
    if not cut and (order["take_profit"] is not None or order["stop_loss"] is not None):
        resting[symbol] = _Resting(
            signed > 0,
            order["take_profit"],
            order["stop_loss"],
            order["time_in_force"] == "gtc",
            order["bar_end"],
        )


def _touch(
    exit_: _Resting, bar: dict[str, Any], end: dt.datetime
) -> tuple[float, dt.datetime] | None:
    first_bar = exit_.entered == end
    if exit_.hit:
        return bar["open"], bar["bar_start"]
    if exit_.stop is not None:
        beyond_at_open = bar["open"] <= exit_.stop if exit_.long else bar["open"] >= exit_.stop
        beyond_inside = bar["low"] <= exit_.stop if exit_.long else bar["high"] >= exit_.stop
        if beyond_at_open:
            exit_.hit = True
            return bar["open"], end if first_bar else bar["bar_start"]
        if beyond_inside:
            exit_.hit = True
            return exit_.stop, end
    if exit_.target is not None and not first_bar:
        through = bar["high"] > exit_.target if exit_.long else bar["low"] < exit_.target
        if through:
            return exit_.target, end
    return None


def _split(
    shares: dict[str, float], resting: dict[str, _Resting], symbol: str, ratio: float
) -> None:
    shares[symbol] = float(math.trunc(round(shares.get(symbol, 0.0) * ratio, 6)))
    exit_ = resting.get(symbol)
    if exit_ is None:
        return
    if shares[symbol] == 0:
        del resting[symbol]
        return
    exit_.target, exit_.stop = (
        None if v is None else float((Decimal(str(v)) / Decimal(str(ratio))).quantize(CENT))
        for v in (exit_.target, exit_.stop)
    )
