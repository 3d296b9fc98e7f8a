"""What comes between two sessions: borrow, splits, dividends, and symbols that trade no more."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal

import numpy as np

from backtest.account import SimulatedAccount
from backtest.legs import RestingExits
from backtest.record import Record
from backtest.simulation import DELISTED, FlowKind
from backtest.tape import Tape, sum_by_day
from execution.broker import OrderType, Side, TimeInForce
from execution.intents import OrderIntent
from execution.targets import TargetReason
from market.costs import CostModel, FillCost

SILENT_SESSIONS = 10
"""After so many sessions without a bar a symbol counts as delisted."""


class Overnight:
    """Applies to account, exits and record what happens before the first bar of a session."""

    def __init__(
        self,
        tape: Tape,
        costs: CostModel,
        account: SimulatedAccount,
        exits: RestingExits,
        record: Record,
    ) -> None:
        self._tape, self._costs = tape, costs
        self._account, self._exits, self._record = account, exits, record
        self._column = {s: i for i, s in enumerate(tape.symbols)}
        traded = sum_by_day(np.isfinite(tape.closes).astype(np.float64), tape.days) > 0.0
        number = np.where(traded, np.arange(len(traded))[:, None], -1)
        self._last_traded = np.maximum.accumulate(number, axis=0)

    def pass_to(self, bar: int, on_split: Callable[[str, float], None]) -> None:
        """Pass from the close before to a bar, if it is the first one of its session."""
        if bar == 0 or self._tape.days[bar] == self._tape.days[bar - 1]:
            return
        self._account.session_equity_usd = self._record.last_equity_usd
        self._exits.end_session()
        self._borrow(bar)
        self._split(bar, on_split)
        self._pay_dividends(bar)
        self._close_delisted(bar)

    def _borrow(self, bar: int) -> None:
        """Charge the nights since the last session on what short positions were worth there."""
        nights = (self._tape.sessions[bar] - self._tape.sessions[bar - 1]).days
        for symbol, quantity in sorted(self._account.quantities.items()):
            if quantity >= 0:
                continue
            value = -float(quantity) * float(self._tape.marks[bar - 1, self._column[symbol]])
            paid = self._costs.borrow_usd(value, nights)
            if paid > 0.0:
                self._account.cash_usd -= paid
                self._record.flow(bar, symbol, FlowKind.BORROW, float(quantity), -paid)

    def _split(self, bar: int, on_split: Callable[[str, float], None]) -> None:
        tape = self._tape
        ratios = tape.factors[bar] / tape.factors[bar - 1]
        for column in np.flatnonzero(ratios != 1.0):
            symbol, ratio = tape.symbols[column], float(ratios[column])
            price = float(tape.marks[bar - 1, column]) / ratio
            fraction, paid = self._account.split(symbol, ratio, price)
            if fraction != 0.0:
                self._record.flow(bar, symbol, FlowKind.CASH_IN_LIEU, fraction, paid)
            if symbol in self._account.quantities:
                self._exits.split(symbol, ratio)
            else:
                self._exits.cancel(symbol)
            on_split(symbol, ratio)

    def _pay_dividends(self, bar: int) -> None:
        """Pay to holders, and take from those who are short, per share after splits."""
        tape = self._tape
        for column in np.flatnonzero(tape.dividends[bar]):
            symbol = tape.symbols[column]
            quantity = float(self._account.quantities.get(symbol, 0))
            if quantity != 0.0:
                amount = quantity * float(tape.dividends[bar, column])
                self._account.cash_usd += amount
                self._record.flow(bar, symbol, FlowKind.DIVIDEND, quantity, amount)

    def _close_delisted(self, bar: int) -> None:
        """Close what has had no bar for ten sessions, at a loss against its last close."""
        yesterday = int(self._tape.days[bar]) - 1
        for symbol, quantity in sorted(self._account.quantities.items()):
            column = self._column[symbol]
            if yesterday - self._last_traded[yesterday, column] < SILENT_SESSIONS:
                continue
            haircut = self._costs.delisting_haircut * (1 if quantity > 0 else -1)
            price = float(self._tape.marks[bar, column]) * (1.0 - haircut)
            self._exits.cancel(symbol)
            at = self._tape.starts[bar]
            intent = self._account.attributed(_closing(symbol, quantity))
            self._account.fill(intent, price, 0.0, at)
            self._record.filled(
                intent,
                intent.quantity,
                price,
                FillCost(),
                as_of=at,
                at=at,
                bar=bar,
                reason=DELISTED,
            )


def _closing(symbol: str, quantity: Decimal) -> OrderIntent:
    return OrderIntent(
        client_order_id=f"{DELISTED}-{symbol}",
        symbol=symbol,
        side=Side.SELL if quantity > 0 else Side.BUY,
        quantity=abs(quantity),
        order_type=OrderType.MARKET,
        time_in_force=TimeInForce.DAY,
        leg=1,
        attempt=1,
        reason=TargetReason.EXIT_EXPIRED,
    )


def sessions_between(tape: Tape, bars: set[int]) -> tuple[dt.date, ...]:
    """Return the sessions from the first of some bars to the last in which none of them lies."""
    served = {int(tape.days[bar]) for bar in bars}
    session_of = {int(day): session for day, session in zip(tape.days, tape.sessions, strict=True)}
    missing = (d for d in range(min(served), max(served)) if d not in served)
    return tuple(session_of[d] for d in missing)
