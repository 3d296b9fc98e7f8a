"""The positions and the cash of a paper account, and what they are worth."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

from execution.paper_actions import CorporateAction, CorporateActions, dividend_cash, split_holding
from execution.paper_orders import ZERO, Holding
from execution.paper_tape import Tape


class Portfolio:
    """Positions and cash; prices come from the tape, in shares of the moment asked about.

    Parameters
    ----------
    tape : Tape
        The bars.
    actions : CorporateActions
        Splits and dividends.
    cash_usd : Decimal
        Cash at the start.
    """

    def __init__(self, tape: Tape, actions: CorporateActions, cash_usd: Decimal) -> None:
        self._tape = tape
        self._actions = actions
        self._cash = cash_usd
        self._holdings: dict[str, Holding] = {}

    @property
    def cash_usd(self) -> Decimal:
        """Cash; proceeds of short sales included."""
        return self._cash

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """Every position, by symbol."""
        return tuple(self._holdings[symbol] for symbol in sorted(self._holdings))

    def holding(self, symbol: str) -> Holding | None:
        """Return the position in a symbol, if there is one."""
        return self._holdings.get(symbol)

    def mark(self, symbol: str, at: dt.datetime, now: dt.datetime) -> Decimal | None:
        """Return the last price known at a moment, per share of ``now``."""
        seen = self._tape.last_seen(symbol, at)
        return None if seen is None else seen[0] / self._actions.shares(symbol, seen[1], now)

    def price(self, holding: Holding, now: dt.datetime) -> Decimal:
        """Return the last known price of a holding's symbol, or what it has cost."""
        mark = self.mark(holding.symbol, now, now)
        return holding.average_price_usd if mark is None else mark

    def long_value_usd(self, now: dt.datetime) -> Decimal:
        """Market value of the long positions."""
        return sum((h.quantity * self.price(h, now) for h in self.holdings if h.quantity > 0), ZERO)

    def short_value_usd(self, now: dt.datetime) -> Decimal:
        """Market value of the short positions: zero or negative."""
        return sum((h.quantity * self.price(h, now) for h in self.holdings if h.quantity < 0), ZERO)

    def trade(self, symbol: str, signed_quantity: Decimal, price_usd: Decimal) -> Decimal:
        """Book a trade and return the position after it."""
        self._cash -= signed_quantity * price_usd
        held = self._holdings.pop(symbol, Holding(symbol, ZERO, ZERO))
        position = held.quantity + signed_quantity
        if position:
            self._holdings[symbol] = held.after(signed_quantity, price_usd)
        return position

    def act(self, action: CorporateAction) -> tuple[Decimal, Decimal] | None:
        """Apply a corporate action; return the shares that it met or made, and the cash it moved.

        ``None`` when there is no position.
        """
        holding = self._holdings.get(action.symbol)
        if holding is None:
            return None
        if not action.is_split:
            cash = dividend_cash(holding.quantity, action.amount_usd)
            self._cash += cash
            return holding.quantity, cash
        after = self._holdings[action.symbol] = split_holding(holding, action.ratio)
        return after.quantity - holding.quantity, ZERO
