"""Accepted orders at the simulated broker, until they have filled or come to their end.

As at a broker, the rest of an order for the session works on until the session ends: a market
order at the opens that follow, a limit order inside bars that go through its limit. An order for
an auction fills in it or not at all. What arrives at the moment at which a bar begins comes before
what rested by then.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from backtest.account import SimulatedAccount
from backtest.legs import RestingExits, leg_orders
from backtest.record import Record
from backtest.simulation import FillStatus
from backtest.tape import Tape
from backtest.venue import Venue
from execution.broker import Order, OrderStatus, TimeInForce
from execution.intents import OrderIntent
from market import calendar

_AUCTIONS = frozenset({TimeInForce.OPG, TimeInForce.CLS})


@dataclass(slots=True)
class _Working:
    """An order: when and before which bar it was sent, what is left of it, and why.

    ``rested`` is set once an open of the symbol has passed it: a limit order then gets no better
    open any more.
    """

    intent: OrderIntent
    as_of: dt.datetime
    bar: int
    left: Decimal
    status: FillStatus | None = None
    rested: bool = False

    @property
    def for_close(self) -> bool:
        return self.intent.time_in_force is TimeInForce.CLS

    def orders(self) -> list[Order]:
        """Return it, and the exits that sleep beside it, as the journal would list them."""
        intent = self.intent
        order = Order(
            client_order_id=intent.client_order_id,
            broker_order_id=intent.client_order_id,
            symbol=intent.symbol,
            side=intent.side,
            quantity=intent.quantity,
            filled_quantity=intent.quantity - self.left,
            filled_average_price_usd=None,
            status=OrderStatus.ACCEPTED,
            submitted_at=self.as_of,
            updated_at=self.as_of,
            order_type=intent.order_type,
            limit_price_usd=intent.limit_price_usd,
        )
        has = (intent.take_profit_usd is not None, intent.stop_loss_usd is not None)
        return [order, *leg_orders(intent, self.as_of, intent.quantity, *has)]


class WorkingOrders:
    """Sends accepted orders and fills them, bar by bar, into account and record."""

    def __init__(
        self,
        tape: Tape,
        venue: Venue,
        account: SimulatedAccount,
        exits: RestingExits,
        record: Record,
    ) -> None:
        self._tape, self._venue = tape, venue
        self._account, self._exits, self._record = account, exits, record
        self._column = {s: i for i, s in enumerate(tape.symbols)}
        self._orders: list[_Working] = []

    def __bool__(self) -> bool:
        return bool(self._orders)

    def open_orders(self) -> list[Order]:
        """Return what may still fill, oldest first."""
        return [one for order in self._orders for one in order.orders()]

    def send(self, intents: Sequence[OrderIntent], as_of: dt.datetime, bar: int) -> None:
        """Send accepted orders before a bar: exits in their way go first.

        A second leg leaves when the first has filled whole.
        """
        short_of_whole: set[str] = set()
        for sent in intents:
            intent = self._account.attributed(sent)
            symbol = intent.symbol
            order = _Working(intent, as_of, bar, intent.quantity)
            if intent.cancels:
                self._clear_way(symbol, bar)
            if intent.leg > 1 and symbol in short_of_whole:
                order.status = FillStatus.LAPSED
                self._give_up(order, bar)
                continue
            if not order.for_close:
                self._at_open(order, bar)
            if order.left > 0:
                short_of_whole.add(symbol)
                if intent.time_in_force is TimeInForce.OPG:
                    self._give_up(order, bar)
                else:
                    self._orders.append(order)

    def work(self, bar: int) -> None:
        """Let a bar fill what is left of orders: at its open, and limits inside it."""
        working = [o for o in self._orders if not o.for_close]
        for order in working:
            if order.bar < bar and not (order.rested and order.intent.limit_price_usd is not None):
                self._at_open(order, bar)
        for order in working:
            if order.left > 0 and self._venue.reaches(order.intent, bar, self._column_of(order)):
                self._at_limit(order, bar)
        self._orders = [o for o in self._orders if o.left > 0]

    def end_session(self, bar: int) -> None:
        """Hold the closing auction, where the bar ends with the session; what is left expires."""
        closed = calendar.session_close(self._tape.sessions[bar])
        for order in self._orders:
            if order.for_close and self._tape.ends[bar] == closed:
                price = float(self._tape.closes[bar, self._column_of(order)])
                self._fill(order, bar, price, closed)
            if order.left > 0:
                self._give_up(order, bar)
        self._orders = []

    def _column_of(self, order: _Working) -> int:
        return self._column[order.intent.symbol]

    def _clear_way(self, symbol: str, bar: int) -> None:
        """Cancel the exits of a symbol; with exits that sleep, the rest of their entry goes."""
        self._exits.cancel(symbol)
        gone = [o for o in self._orders if o.intent.symbol == symbol and o.intent.has_exits]
        for order in gone:
            self._give_up(order, bar)
        self._orders = [o for o in self._orders if o not in gone]

    def _at_open(self, order: _Working, bar: int) -> None:
        price = float(self._tape.opens[bar, self._column_of(order)])
        self._fill(order, bar, price, self._tape.starts[bar])

    def _at_limit(self, order: _Working, bar: int) -> None:
        price = float(order.intent.limit_price_usd or 0)
        self._fill(order, bar, price, self._tape.ends[bar], takes=False)

    def _fill(
        self, order: _Working, bar: int, price: float, at: dt.datetime, *, takes: bool = True
    ) -> None:
        """Fill what a bar allows of an order at a price; its exits wake when it is whole."""
        intent, column = order.intent, self._column_of(order)
        wanted = replace(intent, quantity=order.left)
        filled, order.status = self._venue.part_of(wanted, bar, column, price)
        if order.status not in (FillStatus.EXPIRED, FillStatus.NO_VOLUME):
            order.rested = True
        if filled > 0:
            order.left -= filled
            cost = self._venue.cost_of(intent.side, filled, bar, column, price, takes=takes)
            part = replace(intent, quantity=filled)
            self._account.fill(part, price, cost.total_usd, order.as_of)
            self._record.filled(intent, filled, price, cost, as_of=order.as_of, at=at, bar=bar)
        if order.left == 0 and intent.has_exits:
            self._exits.leave(intent, bar, order.as_of)

    def _give_up(self, order: _Working, bar: int) -> None:
        """Note what of an order came to nothing."""
        status = order.status or FillStatus.EXPIRED
        self._record.unfilled(order.intent, order.left, status, as_of=order.as_of, bar=bar)
