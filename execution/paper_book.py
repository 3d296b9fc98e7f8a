"""The paper broker's order book and account: pure, deterministic, without a clock of its own.

The owner calls :meth:`PaperBook.advance` with the present moment; the book then replays, in the
order of time, what would have happened to its orders. How often it is called changes nothing.
No fees, borrow or interest. Splits and dividends come from a frame, if one is given.
"""

from __future__ import annotations

import datetime as dt
import heapq
from collections import defaultdict
from dataclasses import replace
from decimal import ROUND_DOWN, Decimal

from execution import paper_checks as checks
from execution.broker import OrderStatus, OrderType, Side, TimeInForce
from execution.paper_actions import CorporateAction, CorporateActions, split_order
from execution.paper_conditions import PaperConditions
from execution.paper_fills import (
    Happening,
    Kind,
    Touch,
    is_marketable,
    next_happening,
    trailing_levels,
)
from execution.paper_hours import order_session, routed_at
from execution.paper_legs import binds_shares, group, leg_orders, main_order, rivals, waiting_legs
from execution.paper_orders import (
    ZERO,
    BookOrder,
    Event,
    Holding,
    NewOrder,
    OrderClass,
    PaperRefusal,
    paper_id,
)
from execution.paper_portfolio import Portfolio
from execution.paper_records import Records
from execution.paper_tape import Tape
from market import calendar

MARGIN_MULTIPLIER = Decimal(2)
_QUANTITY_STEP = Decimal("0.000000001")
_EVENTS = {
    OrderStatus.CANCELED: Event.CANCELED,
    OrderStatus.EXPIRED: Event.EXPIRED,
    OrderStatus.REJECTED: Event.REJECTED,
}


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
    conditions : PaperConditions, optional
        What the account and its market allow; what the tape was built with is not repeated here.
    actions : CorporateActions, optional
        Splits and dividends.
    """

    def __init__(
        self,
        tape: Tape,
        *,
        now: dt.datetime,
        starting_cash_usd: Decimal,
        account_number: str,
        conditions: PaperConditions | None = None,
        actions: CorporateActions | None = None,
    ) -> None:
        self.tape = tape
        self.account_number = account_number
        self.conditions = conditions or PaperConditions()
        self.created_at = now
        self.records = Records(account_number)
        self._actions = actions or CorporateActions()
        self._now = now
        self._acted = now
        self._portfolio = Portfolio(tape, self._actions, starting_cash_usd)
        self._last_equity = starting_cash_usd
        self._by_id: dict[str, BookOrder] = {}
        self._by_client_id: dict[str, BookOrder] = {}
        self._open: dict[str, BookOrder] = {}
        self._changed: list[BookOrder] = []
        self._taken: defaultdict[tuple[str, dt.datetime], Decimal] = defaultdict(Decimal)

    @property
    def now(self) -> dt.datetime:
        """The moment up to which the book has been replayed."""
        return self._now

    @property
    def cash_usd(self) -> Decimal:
        """Cash; proceeds of short sales included."""
        return self._portfolio.cash_usd

    @property
    def last_equity_usd(self) -> Decimal:
        """Equity at the close of the last session that the account has seen."""
        return self._last_equity

    @property
    def orders(self) -> tuple[BookOrder, ...]:
        """Every order, oldest first, legs after their parent."""
        return tuple(self._by_id.values())

    @property
    def open_orders(self) -> tuple[BookOrder, ...]:
        """Every order that may still fill, oldest first."""
        return tuple(self._open.values())

    @property
    def holdings(self) -> tuple[Holding, ...]:
        """Every position, by symbol."""
        return self._portfolio.holdings

    def holding(self, symbol: str) -> Holding | None:
        """Return the position in a symbol, if there is one."""
        return self._portfolio.holding(symbol)

    def mark(self, symbol: str, at: dt.datetime | None = None) -> Decimal | None:
        """Return the last price known at a moment, per share of the book's present."""
        return self._portfolio.mark(symbol, at or self._now, self._now)

    def price(self, holding: Holding) -> Decimal:
        """Return the last known price of a holding's symbol."""
        return self._portfolio.price(holding, self._now)

    def long_value_usd(self) -> Decimal:
        """Market value of the long positions."""
        return self._portfolio.long_value_usd(self._now)

    def short_value_usd(self) -> Decimal:
        """Market value of the short positions: zero or negative."""
        return self._portfolio.short_value_usd(self._now)

    def equity_usd(self) -> Decimal:
        """Cash plus positions at their last known prices."""
        return self.cash_usd + self.long_value_usd() + self.short_value_usd()

    def buying_power_usd(self) -> Decimal:
        """Twice the equity, less gross positions and what open orders have reserved."""
        gross = self.long_value_usd() - self.short_value_usd()
        reserved = sum((self._reserved(order) for order in self._open.values()), ZERO)
        return max(ZERO, MARGIN_MULTIPLIER * self.equity_usd() - gross - reserved)

    def available_quantity(self, holding: Holding) -> Decimal:
        """Return how much of a position no open order would close yet, with its sign."""
        side = holding.closing_side
        bound = (o for o in self._open.values() if o.symbol == holding.symbol and o.side is side)
        size = abs(holding.quantity) - sum((o.remaining for o in bound if binds_shares(o)), ZERO)
        return size.copy_sign(holding.quantity) if size > 0 else ZERO

    def trailing(self, order: BookOrder) -> tuple[Decimal, Decimal] | None:
        """Return the high-water mark and the stop price of a trailing stop, once known."""
        if order.triggered_at is None and order.is_open:
            return trailing_levels(self.tape, order, self._now)
        mark, stop = order.high_water_usd, order.stop_price_usd
        return None if mark is None or stop is None else (mark, stop)

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
        self._replay(self._now)
        if new.client_order_id is not None and new.client_order_id in self._by_client_id:
            raise PaperRefusal(422, 40010001, "client_order_id must be unique")
        session = order_session(new.time_in_force, self._now, extended_hours=new.extended_hours)
        quantity = self._quantity(new)
        self._check(new, quantity)
        order = self._register(main_order(new), quantity, session)
        order.legs = tuple(
            self._register(leg, quantity, session, parent=order) for leg in leg_orders(new)
        )
        for one in (order, *order.legs):
            if not one.held:  # a held leg is told of when its entry has filled
                event = Event.NEW if one.routed else Event.ACCEPTED
                self.records.note(event, one, self._now)
        return order

    def cancel(self, order_id: str) -> BookOrder:
        """Cancel an open order and those that belong with it; refuse when it is final."""
        self._replay(self._now)
        order = self.find(order_id)
        if not order.is_open:
            message = f'order is already in "{order.status}" state'
            raise PaperRefusal(422, 42210000, message)
        self._end(order, OrderStatus.CANCELED, self._now)
        self._changed.clear()
        return order

    def replace(self, order_id: str, new: NewOrder) -> BookOrder:
        """Put an order in the place of an open one; a leg keeps its place among the others.

        ``new`` is the whole order as it shall be; what the old one has filled is not repeated.
        """
        self._replay(self._now)
        old = self.find(order_id)
        if not old.is_open:
            message = "unable to replace order, order is not open"
            raise PaperRefusal(422, 42210000, message)
        if new.client_order_id is not None and new.client_order_id in self._by_client_id:
            raise PaperRefusal(422, 40010001, "client_order_id must be unique")
        quantity = (new.quantity or old.quantity) - old.filled_quantity
        if quantity <= 0:
            raise PaperRefusal(422, 40010001, "qty must be > filled_qty")
        before = self._open
        others = {one.order_id for one in group(old)}
        self._open = {k: o for k, o in before.items() if k not in others}
        try:
            if old.parent is None:
                self._check(replace(new, quantity=quantity), quantity)
            else:
                entry = old.parent.limit_price_usd if old.held else None
                alone = replace(new, order_class=OrderClass.SIMPLE)
                checks.check_prices(alone, entry or self.mark(new.symbol))
        finally:
            self._open = before
        order = self._register(new, quantity, old.session, parent=old.parent)
        order.order_class, order.held, order.replaces = old.order_class, old.held, old.order_id
        order.routed = old.routed
        levels = self.trailing(old)
        order.high_water_usd = levels[0] if levels else None
        self._take_place(old, order)
        return order

    def _take_place(self, old: BookOrder, order: BookOrder) -> None:
        order.legs = old.legs
        for leg in order.legs:
            leg.parent = order
            leg.quantity = order.quantity + (old.filled_quantity if leg.held else ZERO)
        if old.parent is not None:
            old.parent.legs = tuple(order if o is old else o for o in old.parent.legs)
        old.replaced_by, old.legs, old.parent = order.order_id, (), None
        self._close(old, OrderStatus.CANCELED, self._now)
        self.records.note(Event.NEW, order, self._now)
        self._changed.clear()

    def _quantity(self, new: NewOrder) -> Decimal:
        if new.quantity is not None:
            return new.quantity
        assert new.notional_usd is not None  # one of the two is given
        return _shares(new.notional_usd, self._estimate(new.symbol, None))

    def _check(self, new: NewOrder, quantity: Decimal) -> None:
        holding = self.holding(new.symbol)
        closes = holding is not None and new.side is holding.closing_side
        opens_short = new.side is Side.SELL and not closes
        checks.check_asset(self.conditions, new, self._now, opens_short=opens_short)
        checks.check_class(new, holding)
        checks.check_prices(new, self.mark(new.symbol))
        checks.check_wash(new, self._open.values())
        if closes:
            assert holding is not None  # since it closes one
            checks.check_held_shares(new, quantity, holding, self._open.values())
            return
        price = self._estimate(new.symbol, new.limit_price_usd or new.stop_price_usd)
        checks.check_buying_power(
            new, new.notional_usd or quantity * price, self.buying_power_usd()
        )

    def _register(
        self,
        new: NewOrder,
        quantity: Decimal,
        session: dt.date,
        parent: BookOrder | None = None,
    ) -> BookOrder:
        sequence = len(self._by_id) + 1
        order_id = paper_id(f"{self.account_number}/order/{sequence}")
        order = BookOrder(
            order_id=order_id,
            sequence=sequence,
            client_order_id=new.client_order_id or paper_id(order_id),
            symbol=new.symbol,
            side=new.side,
            quantity=quantity,
            order_type=new.order_type,
            time_in_force=new.time_in_force,
            limit_price_usd=new.limit_price_usd,
            session=session,
            submitted_at=self._now,
            updated_at=self._now,
            eligible_from=self._now,
            stop_price_usd=new.stop_price_usd,
            trail_percent=new.trail_percent,
            trail_price_usd=new.trail_price_usd,
            notional_usd=new.notional_usd,
            extended_hours=new.extended_hours,
            order_class=new.order_class,
            will_reject=self.conditions.late_rejects.get(new.symbol),
            parent=parent,
        )
        order.held = parent is not None and new.order_class is not OrderClass.OCO
        order.routed = not order.held and routed_at(order) <= self._now
        if order.order_type is OrderType.TRAILING_STOP:
            order.high_water_usd = self.mark(order.symbol)
        self._by_id[order_id] = self._by_client_id[order.client_order_id] = order
        self._open[order_id] = order
        return order

    def _replay(self, now: dt.datetime) -> None:
        self._now = now
        queue: list[Happening] = []
        actions = self._actions.between(self._acted, now)[::-1]
        self._changed = list(self._open.values())
        while True:
            for order in self._changed:
                found = next_happening(self.tape, order, now) if order.is_open else None
                if found is not None:
                    heapq.heappush(queue, found)
            self._changed = []
            if actions and (not queue or actions[-1].at <= queue[0].at):
                self._act(actions.pop())
            elif queue:
                happening = heapq.heappop(queue)
                if happening.version == happening.order.version and happening.order.is_open:
                    self._happen(happening)
            else:
                break
        self._acted = now

    def _happen(self, happening: Happening) -> None:
        order, at, touch = happening.order, happening.at, happening.touch
        self._touch(order)
        if happening.kind is Kind.ROUTE:
            order.routed = True
            self.records.note(Event.NEW, order, at)
        elif happening.kind is Kind.REJECT:
            order.reason = order.will_reject
            self._end(order, OrderStatus.REJECTED, at)
        elif happening.kind is Kind.EXPIRE:
            self._end(order, OrderStatus.EXPIRED, at)
        elif touch is not None and happening.kind is Kind.TRIGGER:
            self._trigger(order, touch)
        elif touch is not None:
            self._fill(order, touch)

    def _trigger(self, order: BookOrder, touch: Touch) -> None:
        if order.order_type is OrderType.TRAILING_STOP:
            levels = trailing_levels(self.tape, order, touch.bar_start)
            order.high_water_usd, order.stop_price_usd = levels or (None, touch.price_usd)
        order.triggered_at = touch.at
        for rival in rivals(order):
            self._close(rival, OrderStatus.CANCELED, touch.at)
        if touch.at_open:  # the rest of this bar, its open included, may fill it
            order.eligible_from = touch.bar_start
            return
        order.eligible_from, order.rested = touch.bar_end, True
        limit = order.limit_price_usd
        if touch.most > 0 and is_marketable(order.side, limit, touch.price_usd):
            self._fill(order, touch)

    def _fill(self, order: BookOrder, touch: Touch) -> None:
        price = touch.price_usd
        if order.notional_usd is not None and not order.filled_quantity:
            order.quantity = self._bought(order, price)
        quantity = min(
            order.remaining, max(ZERO, touch.most - self._taken[order.symbol, touch.bar_start])
        )
        order.eligible_from, order.rested = touch.bar_end, True
        if not quantity:  # others took what the bar had
            return
        self._taken[order.symbol, touch.bar_start] += quantity
        position = self._portfolio.trade(order.symbol, order.signed * quantity, price)
        order.filled_quantity += quantity
        order.filled_value_usd += quantity * price
        order.updated_at, order.status = touch.at, OrderStatus.PARTIALLY_FILLED
        if not order.remaining:
            order.status, order.finished_at = OrderStatus.FILLED, touch.at
            del self._open[order.order_id]
        self.records.fill(order, touch.at, quantity, price, position)
        for rival in rivals(order):
            self._touch(rival)
            rival.quantity -= quantity
            if rival.remaining <= 0:
                self._close(rival, OrderStatus.CANCELED, touch.at)
        if not order.remaining:
            for leg in waiting_legs(order):
                self._wake(leg, touch)

    def _wake(self, leg: BookOrder, touch: Touch) -> None:
        """Bring a leg to life: in the bar of its entry only a stop can be hit."""
        leg.held, leg.routed, leg.updated_at = False, True, touch.at
        leg.session = touch.bar_start.astimezone(calendar.NEW_YORK).date()
        leg.eligible_from, leg.inside_bar = touch.bar_end, touch.bar_start
        leg.rested = True
        self._touch(leg)
        self.records.note(Event.NEW, leg, touch.at)

    def _act(self, action: CorporateAction) -> None:
        moved = self._portfolio.act(action)
        if moved is not None:
            self.records.action(action, *moved)
        if not action.is_split:
            return
        lasting = [o for o in self._open.values() if o.time_in_force is TimeInForce.GTC]
        for order in lasting:
            if order.symbol != action.symbol or not order.is_open:
                continue
            levels = self._levels_before(order, action.at)
            if levels is not None:
                order.high_water_usd = levels[0]
            split_order(order, action.ratio, action.at)
            self._touch(order)
            if order.remaining <= 0:
                self._end(order, OrderStatus.CANCELED, action.at)

    def _levels_before(self, order: BookOrder, at: dt.datetime) -> tuple[Decimal, Decimal] | None:
        if order.order_type is not OrderType.TRAILING_STOP or order.triggered_at is not None:
            return None
        return trailing_levels(self.tape, order, at)

    def _end(self, order: BookOrder, status: OrderStatus, at: dt.datetime) -> None:
        """End an order, and with it every open order of its group."""
        self._close(order, status, at)
        others = OrderStatus.EXPIRED if status is OrderStatus.EXPIRED else OrderStatus.CANCELED
        for other in group(order):
            if other.is_open:
                self._close(other, others, at)

    def _close(self, order: BookOrder, status: OrderStatus, at: dt.datetime) -> None:
        order.status = status
        order.updated_at = order.finished_at = at
        del self._open[order.order_id]
        self._touch(order)
        event = Event.REPLACED if order.replaced_by is not None else _EVENTS[status]
        self.records.note(event, order, at)

    def _touch(self, order: BookOrder) -> None:
        order.version += 1
        self._changed.append(order)

    def _bought(self, order: BookOrder, price: Decimal) -> Decimal:
        assert order.notional_usd is not None  # as asked by the caller
        quantity = _shares(order.notional_usd, price)
        holding = self.holding(order.symbol)
        if holding is not None and order.side is holding.closing_side:
            return min(quantity, abs(holding.quantity))
        return quantity

    def _reserved(self, order: BookOrder) -> Decimal:
        holding = self.holding(order.symbol)
        if not binds_shares(order) or (holding is not None and order.side is holding.closing_side):
            return ZERO
        limit = order.limit_price_usd or order.stop_price_usd
        return order.remaining * self._estimate(order.symbol, limit)

    def _estimate(self, symbol: str, limit: Decimal | None) -> Decimal:
        if limit is not None:
            return limit
        mark = self.mark(symbol)
        return self.tape.estimate(symbol, self._now) if mark is None else mark


def _shares(notional_usd: Decimal, price: Decimal) -> Decimal:
    return (notional_usd / price).quantize(_QUANTITY_STEP, rounding=ROUND_DOWN).normalize() + 0


def _found(order: BookOrder | None, identity: str) -> BookOrder:
    if order is None:
        raise PaperRefusal(404, 40410000, f"order not found for {identity}")
    return order
