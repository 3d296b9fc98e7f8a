"""The simulated account: cash, positions and exit rules, as broker and journal would tell them.

It stands in for the broker and the order journal, and for nothing else: what to trade is
decided by the live functions, which see it through the same words (positions, own quantities,
held positions with the exit rule of the order that last added to them).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_DOWN, Decimal

from execution.broker import Account, Position
from execution.intents import LastPrice, OrderIntent
from execution.targets import HeldPosition, TargetReason

MARGIN_MULTIPLIER = 2.0
"""Buying power is this many times equity, less gross positions; as at the paper broker."""

_LEVEL_EXITS = frozenset({TargetReason.EXIT_TARGET, TargetReason.EXIT_STOP})
_ROUNDING_DIGITS = 6


@dataclass
class SimulatedAccount:
    """Mutable state of one simulation.

    Attributes
    ----------
    cash_usd : float
        May be negative: an opening gap after the decision can overdraw the cash buffer.
    quantities : dict
        Shares by symbol, negative for short positions, none at zero.
    held : dict
        The exit rule of each position.
    exits : dict
        When a touched target or stop last closed each symbol.
    ruled : dict
        When the order was decided whose exit rule each position has.
    session_equity_usd : float
        Equity at the last session close, from which the daily loss counts.
    """

    cash_usd: float
    session_equity_usd: float
    quantities: dict[str, Decimal] = field(default_factory=dict)
    held: dict[str, HeldPosition] = field(default_factory=dict)
    exits: dict[str, dt.datetime] = field(default_factory=dict)
    ruled: dict[str, dt.datetime] = field(default_factory=dict)

    def equity_usd(self, prices: Mapping[str, LastPrice]) -> float:
        """Return cash plus positions at their last known prices."""
        value = sum(float(q) * float(prices[s].price_usd) for s, q in self.quantities.items())
        return self.cash_usd + value

    def balances(self, prices: Mapping[str, LastPrice]) -> Account:
        """Return the balances that a broker would show at these prices."""
        equity = self.equity_usd(prices)
        gross = sum(float(abs(q) * prices[s].price_usd) for s, q in self.quantities.items())
        return Account(
            account_number="simulated",
            currency="USD",
            cash_usd=_cents(self.cash_usd),
            equity_usd=_cents(equity),
            last_equity_usd=_cents(self.session_equity_usd),
            buying_power_usd=_cents(max(0.0, MARGIN_MULTIPLIER * equity - gross)),
            is_blocked=False,
            shorting_enabled=True,
        )

    def positions(self, prices: Mapping[str, LastPrice]) -> list[Position]:
        """Return every position, valued at these prices."""
        return [
            Position(s, q, prices[s].price_usd, prices[s].price_usd, q * prices[s].price_usd)
            for s, q in sorted(self.quantities.items())
        ]

    def attributed(self, intent: OrderIntent) -> OrderIntent:
        """Return an order with the horizon it belongs to: of a reduction the one that opened."""
        held = self.held.get(intent.symbol)
        # A second leg opens, also where the first left something of what was held before.
        if held is None or intent.leg > 1 or held.quantity * intent.signed_quantity > 0:
            return intent
        return replace(intent, horizon=held.opened_by_horizon)

    def fill(self, intent: OrderIntent, price: float, cost_usd: float, as_of: dt.datetime) -> None:
        """Take a whole order into the account."""
        symbol = intent.symbol
        after = self.quantities.get(symbol, Decimal(0)) + intent.signed_quantity
        self.cash_usd -= float(intent.signed_quantity) * price + cost_usd
        if intent.reason in _LEVEL_EXITS:
            self.exits[symbol] = as_of
        if after == 0:
            self.quantities.pop(symbol, None)
            self.held.pop(symbol, None)
            self.ruled.pop(symbol, None)
            return
        self.quantities[symbol] = after
        same_side = symbol in self.held and self.held[symbol].quantity * after > 0
        # The rest of an older order adds shares, and not its rule.
        is_newest = not same_side or self.ruled.get(symbol, as_of) <= as_of
        if after * intent.signed_quantity > 0 and is_newest:
            self.ruled[symbol] = as_of
            self.held[symbol] = HeldPosition(
                symbol=symbol,
                quantity=after,
                opened_by_horizon=intent.horizon,
                valid_until=intent.valid_until,
                target_price=intent.target_price_usd,
                stop_price=intent.stop_price_usd,
            )
        else:
            self.held[symbol] = replace(self.held[symbol], quantity=after)

    def split(self, symbol: str, ratio: float, price: float) -> tuple[float, float]:
        """Multiply a position by a split's ratio; fractions are paid out at ``price``.

        Returns
        -------
        (float, float)
            The fractional shares paid out (signed) and the cash received for them.
        """
        if symbol not in self.quantities:
            return 0.0, 0.0
        exact = round(float(self.quantities[symbol]) * ratio, _ROUNDING_DIGITS)
        whole = Decimal(str(exact)).quantize(Decimal(1), rounding=ROUND_DOWN)
        fraction = round(exact - float(whole), _ROUNDING_DIGITS)
        paid = fraction * price
        self.cash_usd += paid
        held = self.held.pop(symbol)
        self.quantities.pop(symbol)
        if whole != 0:
            self.quantities[symbol] = whole
            self.held[symbol] = replace(
                held,
                quantity=whole,
                target_price=_scaled(held.target_price, ratio),
                stop_price=_scaled(held.stop_price, ratio),
            )
        return fraction, paid


def _cents(amount: float) -> Decimal:
    return Decimal(str(round(amount, 2)))


def _scaled(price: Decimal | None, ratio: float) -> Decimal | None:
    return None if price is None else Decimal(str(round(float(price) / ratio, 6)))
