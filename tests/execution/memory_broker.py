"""A broker in memory: the protocol, with faults that a test chooses."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal

from execution.broker import (
    Account,
    Asset,
    Clock,
    Order,
    OrderRequest,
    OrderStatus,
    Position,
    Side,
)
from market.errors import BrokerError

NOW = dt.datetime(2025, 3, 4, 15, 0, tzinfo=dt.UTC)  # Tuesday, 10:00 in New York


def open_clock(now: dt.datetime = NOW) -> Clock:
    return Clock(
        now=now,
        is_open=True,
        next_open=dt.datetime(2025, 3, 5, 14, 30, tzinfo=dt.UTC),
        next_close=dt.datetime(2025, 3, 4, 21, 0, tzinfo=dt.UTC),
    )


class MemoryBroker:
    """Fills at a fixed price per symbol; ``fill_share`` of every order, at once."""

    name = "memory"
    is_paper = True

    def __init__(
        self, prices: dict[str, float] | None = None, cash: Decimal = Decimal(100_000)
    ) -> None:
        self.prices = {s: Decimal(str(p)) for s, p in (prices or {}).items()}
        self.cash = cash
        self.holdings: dict[str, Decimal] = {}
        self.orders: dict[str, Order] = {}
        self.placed: list[str] = []
        self.fill_share = Decimal(1)
        self.clock_now = open_clock()
        self.blocked = False
        self.on_step: Callable[[str], None] = lambda _step: None
        self.unshortable: set[str] = set()

    def _equity(self) -> Decimal:
        return self.cash + sum((q * self.prices[s] for s, q in self.holdings.items()), Decimal(0))

    def account(self) -> Account:
        self.on_step("account")
        equity = self._equity()
        return Account("PA1", "USD", self.cash, equity, equity, equity * 2, self.blocked, True)

    def clock(self) -> Clock:
        self.on_step("clock")
        return self.clock_now

    def assets(self, symbols: Sequence[str]) -> dict[str, Asset]:
        self.on_step("assets")
        return {
            s: Asset(s, True, s not in self.unshortable, True, "active")
            for s in symbols
            if s in self.prices
        }

    def positions(self) -> list[Position]:
        self.on_step("positions")
        return [
            Position(s, q, self.prices[s], self.prices[s], q * self.prices[s])
            for s, q in self.holdings.items()
            if q != 0
        ]

    def open_orders(self) -> list[Order]:
        self.on_step("open_orders")
        return [o for o in self.orders.values() if not o.status.is_final]

    def orders_since(self, moment: dt.datetime) -> list[Order]:
        self.on_step("orders_since")
        return [o for o in self.orders.values() if o.submitted_at >= moment]

    def submit(self, request: OrderRequest) -> Order:
        self.on_step("before submit")
        if request.client_order_id not in self.orders:
            self.placed.append(request.client_order_id)
            self.orders[request.client_order_id] = Order(
                client_order_id=request.client_order_id,
                broker_order_id=f"b{len(self.placed)}",
                symbol=request.symbol,
                side=request.side,
                quantity=request.quantity,
                filled_quantity=Decimal(0),
                filled_average_price_usd=None,
                status=OrderStatus.ACCEPTED,
                submitted_at=self.clock_now.now,
                updated_at=self.clock_now.now,
            )
            self.fill(request.client_order_id, self.fill_share)
        self.on_step("after submit")
        return self.orders[request.client_order_id]

    def find_order(self, client_order_id: str) -> Order | None:
        self.on_step("find")
        return self.orders.get(client_order_id)

    def cancel(self, broker_order_id: str) -> None:
        self.on_step("cancel")
        for key, order in self.orders.items():
            if order.broker_order_id == broker_order_id and not order.status.is_final:
                self.orders[key] = replace(order, status=OrderStatus.CANCELED)

    def fill(self, client_order_id: str, share: Decimal) -> None:
        """Fill an order up to this share of its quantity."""
        order = self.orders[client_order_id]
        wanted = (order.quantity * share).to_integral_value()
        added = wanted - order.filled_quantity
        if added <= 0:
            return
        signed = added if order.side is Side.BUY else -added
        self.holdings[order.symbol] = self.holdings.get(order.symbol, Decimal(0)) + signed
        self.cash -= signed * self.prices[order.symbol]
        full = wanted == order.quantity
        self.orders[client_order_id] = replace(
            order,
            filled_quantity=wanted,
            filled_average_price_usd=self.prices[order.symbol],
            status=OrderStatus.FILLED if full else OrderStatus.PARTIALLY_FILLED,
        )


class FaultAt:
    """Raises at the k-th step it is told of; also names all steps."""

    def __init__(self, at: int | None, error: Callable[[], BaseException]) -> None:
        self.at, self.error, self.steps = at, error, list[str]()

    def __call__(self, step: str) -> None:
        self.steps.append(step)
        if self.at is not None and len(self.steps) - 1 == self.at:
            raise self.error()


class Crash(BaseException):
    """The process died here."""


def outage() -> BrokerError:
    return BrokerError("the broker did not answer", remedy="try again")
