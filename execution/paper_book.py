"""The paper broker's order book and account: pure, deterministic, without a clock of its own.

The owner calls :meth:`PaperBook.advance` with the present moment; the book then replays, in the
order of time, what would have happened to its orders. How often it is called changes nothing.
No fees, dividends, splits, borrow or interest; an order fills whole.
"""

from __future__ import annotations

import datetime as dt
import heapq
import uuid
from dataclasses import dataclass, field
from decimal import Decimal

from execution.alpaca_wire import plain
from execution.broker import OrderStatus, OrderType, Side, TimeInForce
from execution.paper_tape import Tape
from market import calendar
from market.errors import ExecutionError

MARGIN_MULTIPLIER = Decimal(2)
OPG_LAST = dt.time(9, 28)
OPG_AGAIN = dt.time(19, 0)

_ZERO = Decimal(0)
_SPACE = uuid.UUID("3c1f5a0e-8f5b-5d0e-9a57-0d6a1f6b2a41")


class PaperRefusal(ExecutionError):
    """The paper broker says no, in the words of the service that it stands for.

    Parameters
    ----------
    http_status, code : int
        The service's status and error code.
    message : str
        The service's message.
    **details : str
        Further fields of the error body.
    """

    def __init__(self, http_status: int, code: int, message: str, **details: str) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.body: dict[str, int | str] = {"code": code, "message": message, **details}


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order as it arrives."""

    symbol: str
    side: Side
    quantity: Decimal
    order_type: OrderType
    time_in_force: TimeInForce
    limit_price_usd: Decimal | None = None
    client_order_id: str | None = None


@dataclass(slots=True)
class BookOrder:
    """An order in the book; ``eligible_from`` is the earliest start of a bar that may fill it."""

    order_id: str
    sequence: int
    client_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    order_type: OrderType
    time_in_force: TimeInForce
    limit_price_usd: Decimal | None
    session: dt.date
    submitted_at: dt.datetime
    updated_at: dt.datetime
    eligible_from: dt.datetime
    status: OrderStatus = OrderStatus.ACCEPTED
    filled_quantity: Decimal = _ZERO
    filled_value_usd: Decimal = _ZERO
    finished_at: dt.datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether it may still fill."""
        return not self.status.is_final

    @property
    def remaining(self) -> Decimal:
        """Quantity not yet filled."""
        return self.quantity - self.filled_quantity

    @property
    def average_price_usd(self) -> Decimal | None:
        """Average price of what has filled."""
        return self.filled_value_usd / self.filled_quantity if self.filled_quantity else None


@dataclass(frozen=True, slots=True)
class Holding:
    """A position: signed quantity and average entry price."""

    symbol: str
    quantity: Decimal
    average_price_usd: Decimal

    def after(self, signed_quantity: Decimal, price_usd: Decimal) -> Holding:
        """Return the holding after a trade of a signed quantity at a price."""
        total = self.quantity + signed_quantity
        if self.quantity * signed_quantity >= 0:
            cost = self.quantity * self.average_price_usd + signed_quantity * price_usd
            return Holding(self.symbol, total, cost / total)
        crossed = total * self.quantity < 0
        return Holding(self.symbol, total, price_usd if crossed else self.average_price_usd)


@dataclass(order=True, frozen=True, slots=True)
class _Event:
    """What happens next to an order; a fill has a quantity, an expiry has none."""

    at: dt.datetime
    sequence: int
    order: BookOrder = field(compare=False)
    quantity: Decimal | None = field(default=None, compare=False)
    price_usd: Decimal = field(default=_ZERO, compare=False)
    next_bar: dt.datetime | None = field(default=None, compare=False)


class PaperBook:
    """Orders, positions and cash of one paper account.

    Parameters
    ----------
    tape : Tape
        The bars to trade against.
    now : datetime
        The moment at which the account opens.
    starting_cash_usd : Decimal
        Cash at that moment.
    account_number : str
        Also the seed of every id that the book gives out.
    """

    def __init__(
        self, tape: Tape, *, now: dt.datetime, starting_cash_usd: Decimal, account_number: str
    ) -> None:
        self.tape = tape
        self.account_number = account_number
        self.created_at = now
        self._now = now
        self._cash = starting_cash_usd
        self._last_equity = starting_cash_usd
        self._holdings: dict[str, Holding] = {}
        self._orders: list[BookOrder] = []
        self._by_id: dict[str, BookOrder] = {}
        self._by_client_id: dict[str, BookOrder] = {}
        self._open: dict[str, BookOrder] = {}

    @property
    def now(self) -> dt.datetime:
        """The moment up to which the book has been replayed."""
        return self._now

    @property
    def cash_usd(self) -> Decimal:
        """Cash; proceeds of short sales included."""
        return self._cash

    @property
    def last_equity_usd(self) -> Decimal:
        """Equity at the close of the last session that the account has seen."""
        return self._last_equity

    @property
    def orders(self) -> tuple[BookOrder, ...]:
        """Every order, oldest first."""
        return tuple(self._orders)

    @property
    def open_orders(self) -> tuple[BookOrder, ...]:
        """Every order that may still fill, oldest first."""
        return tuple(self._open.values())

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """Every position, by symbol."""
        return tuple(self._holdings[symbol] for symbol in sorted(self._holdings))

    def holding(self, symbol: str) -> Holding | None:
        """Return the position in a symbol, if there is one."""
        return self._holdings.get(symbol)

    def price(self, holding: Holding) -> Decimal:
        """Return the last known price of a holding's symbol."""
        mark = self.tape.mark(holding.symbol, self._now)
        return holding.average_price_usd if mark is None else mark

    def long_value_usd(self) -> Decimal:
        """Market value of the long positions."""
        return sum((h.quantity * self.price(h) for h in self.holdings if h.quantity > 0), _ZERO)

    def short_value_usd(self) -> Decimal:
        """Market value of the short positions: zero or negative."""
        return sum((h.quantity * self.price(h) for h in self.holdings if h.quantity < 0), _ZERO)

    def equity_usd(self) -> Decimal:
        """Cash plus positions at their last known prices."""
        return self._cash + self.long_value_usd() + self.short_value_usd()

    def buying_power_usd(self) -> Decimal:
        """Twice the equity, less gross positions and what open orders have reserved."""
        gross = self.long_value_usd() - self.short_value_usd()
        reserved = sum((self._reserved(order) for order in self._open.values()), _ZERO)
        return max(_ZERO, MARGIN_MULTIPLIER * self.equity_usd() - gross - reserved)

    def held_quantity(self, symbol: str, side: Side) -> Decimal:
        """Return how many shares open orders of one side have bound."""
        bound = (o for o in self._open.values() if o.symbol == symbol and o.side is side)
        return sum((order.remaining for order in bound), _ZERO)

    def available_quantity(self, holding: Holding) -> Decimal:
        """Return how much of a position no open order would close yet, with its sign."""
        size = abs(holding.quantity) - self.held_quantity(holding.symbol, _closing_side(holding))
        return size.copy_sign(holding.quantity) if size > 0 else _ZERO

    def find(self, order_id: str) -> BookOrder:
        """Return the order of this id."""
        return _found(self._by_id.get(order_id), order_id)

    def find_by_client_id(self, client_order_id: str) -> BookOrder:
        """Return the order of this client id."""
        return _found(self._by_client_id.get(client_order_id), client_order_id)

    def advance(self, now: dt.datetime) -> None:
        """Replay everything up to ``now``; an earlier moment changes nothing."""
        if now < self._now:
            return
        first, last = (t.astimezone(calendar.NEW_YORK).date() for t in (self._now, now))
        for session in calendar.sessions_between(first, last):
            close = calendar.session_close(session)
            if self._now < close <= now:
                self._replay(close)
                self._last_equity = self.equity_usd()
        self._replay(now)

    def submit(self, new: NewOrder) -> BookOrder:
        """Accept an order at the present moment, or refuse it.

        Raises
        ------
        PaperRefusal
            In the service's words; the book is unchanged.
        """
        if new.client_order_id is not None and new.client_order_id in self._by_client_id:
            raise PaperRefusal(422, 40010001, "client_order_id must be unique")
        session = order_session(new.time_in_force, self._now)
        self._check_wash(new)
        self._check_funds(new)
        sequence = len(self._orders) + 1
        order_id = str(uuid.uuid5(_SPACE, f"{self.account_number}/order/{sequence}"))
        order = BookOrder(
            order_id=order_id,
            sequence=sequence,
            client_order_id=new.client_order_id or str(uuid.uuid5(_SPACE, order_id)),
            symbol=new.symbol,
            side=new.side,
            quantity=new.quantity,
            order_type=new.order_type,
            time_in_force=new.time_in_force,
            limit_price_usd=new.limit_price_usd,
            session=session,
            submitted_at=self._now,
            updated_at=self._now,
            eligible_from=self._now,
        )
        self._orders.append(order)
        self._by_id[order_id] = self._by_client_id[order.client_order_id] = order
        self._open[order_id] = order
        return order

    def cancel(self, order_id: str) -> BookOrder:
        """Cancel an open order; refuse when it is final."""
        order = self.find(order_id)
        if not order.is_open:
            message = f'order is already in "{order.status}" state'
            raise PaperRefusal(422, 42210000, message)
        self._finish(order, OrderStatus.CANCELED, self._now)
        return order

    def _replay(self, now: dt.datetime) -> None:
        self._now = now
        found = (self._next_event(order) for order in self._open.values())
        queue = [event for event in found if event is not None]
        heapq.heapify(queue)
        while queue:
            event = heapq.heappop(queue)
            if event.quantity is None:
                self._finish(event.order, OrderStatus.EXPIRED, event.at)
                continue
            self._fill(event, event.quantity)
            following = self._next_event(event.order) if event.order.is_open else None
            if following is not None:
                heapq.heappush(queue, following)

    def _next_event(self, order: BookOrder) -> _Event | None:
        """Say what happens next to an open order by now; partial fills would be sized here."""
        tape, limit = self.tape, order.limit_price_usd
        if order.time_in_force is TimeInForce.OPG:
            touch = tape.first_open(order.symbol, order.session, self._now)
            if touch is not None and not _is_marketable(order.side, limit, touch.price_usd):
                return _Event(touch.at, order.sequence, order)
        else:
            touch = tape.next_touch(
                order.symbol,
                order.side,
                limit,
                session=order.session,
                since=order.eligible_from,
                now=self._now,
            )
        if touch is not None:
            quantity, price = order.remaining, touch.price_usd
            return _Event(touch.at, order.sequence, order, quantity, price, touch.bar_end)
        close = calendar.session_close(order.session)
        if close <= self._now and order.session <= tape.last_session:
            return _Event(close, order.sequence, order)
        return None

    def _fill(self, event: _Event, quantity: Decimal) -> None:
        order, value = event.order, quantity * event.price_usd
        signed = quantity if order.side is Side.BUY else -quantity
        self._cash -= signed * event.price_usd
        held = self._holdings.pop(order.symbol, Holding(order.symbol, _ZERO, _ZERO))
        if held.quantity + signed:
            self._holdings[order.symbol] = held.after(signed, event.price_usd)
        order.filled_quantity += quantity
        order.filled_value_usd += value
        order.updated_at = event.at
        order.eligible_from = event.next_bar or event.at
        if order.remaining:
            order.status = OrderStatus.PARTIALLY_FILLED
        else:
            self._finish(order, OrderStatus.FILLED, event.at)

    def _finish(self, order: BookOrder, status: OrderStatus, at: dt.datetime) -> None:
        order.status = status
        order.updated_at = order.finished_at = at
        del self._open[order.order_id]

    def _reserved(self, order: BookOrder) -> Decimal:
        holding = self._holdings.get(order.symbol)
        if holding is not None and order.side is _closing_side(holding):
            return _ZERO
        return order.remaining * self._estimate(order.symbol, order.limit_price_usd)

    def _estimate(self, symbol: str, limit: Decimal | None) -> Decimal:
        return self.tape.estimate(symbol, self._now) if limit is None else limit

    def _check_wash(self, new: NewOrder) -> None:
        for order in self._open.values():
            if order.symbol != new.symbol or order.side is new.side:
                continue
            theirs, ours = order.limit_price_usd, new.limit_price_usd
            if theirs is None or ours is None or _is_marketable(new.side, ours, theirs):
                raise PaperRefusal(
                    403,
                    40310000,
                    "potential wash trade detected. use complex orders",
                    reject_reason="opposite side market/stop order exists",
                    existing_order_id=order.order_id,
                )

    def _check_funds(self, new: NewOrder) -> None:
        holding = self._holdings.get(new.symbol)
        if holding is not None and new.side is _closing_side(holding):
            available = abs(self.available_quantity(holding))
            if new.quantity > available:
                raise PaperRefusal(
                    403,
                    40310000,
                    "insufficient qty available for order "
                    f"(requested: {plain(new.quantity)}, available: {plain(available)})",
                    symbol=new.symbol,
                    existing_qty=plain(abs(holding.quantity)),
                    available=plain(available),
                    held_for_orders=plain(abs(holding.quantity) - available),
                )
            return
        if new.side is Side.SELL and new.quantity != new.quantity.to_integral_value():
            raise PaperRefusal(422, 42210000, "fractional orders cannot be sold short")
        cost = new.quantity * self._estimate(new.symbol, new.limit_price_usd)
        power = self.buying_power_usd()
        if cost > power:
            raise PaperRefusal(
                403,
                40310000,
                "insufficient buying power",
                buying_power=plain(power),
                cost_basis=plain(cost),
            )


def order_session(time_in_force: TimeInForce, at: dt.datetime) -> dt.date:
    """Return the session in which an order that arrives at ``at`` may trade.

    A day order trades in the session that is open, else in the next one. An order for the
    opening auction is taken until 09:28 New York time and again from 19:00, as the service does.

    Raises
    ------
    PaperRefusal
        For an opening order between these hours of a trading day.
    """
    local = at.astimezone(calendar.NEW_YORK)
    day = local.date()
    if not calendar.is_session(day):
        return calendar.next_session(day)
    if time_in_force is TimeInForce.OPG:
        if OPG_LAST <= local.time() < OPG_AGAIN:
            raise PaperRefusal(
                422, 42210000, "opg orders must be submitted after 7:00pm and before 9:28am"
            )
        return day if local.time() < OPG_LAST else calendar.next_session(day)
    return day if at < calendar.session_close(day) else calendar.next_session(day)


def _is_marketable(side: Side, limit: Decimal | None, price: Decimal) -> bool:
    if limit is None:
        return True
    return price <= limit if side is Side.BUY else price >= limit


def _closing_side(holding: Holding) -> Side:
    return Side.SELL if holding.quantity > 0 else Side.BUY


def _found(order: BookOrder | None, identity: str) -> BookOrder:
    if order is None:
        raise PaperRefusal(404, 40410000, f"order not found for {identity}")
    return order
