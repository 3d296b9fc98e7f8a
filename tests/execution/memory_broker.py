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
    OrderType,
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
        self.exits: dict[str, list[str]] = {}

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
            self._add_exits(request)
            self.fill(request.client_order_id, self.fill_share)
        self.on_step("after submit")
        return self._with_exits(request.client_order_id)

    def _add_exits(self, request: OrderRequest) -> None:
        parent = self.orders[request.client_order_id]
        for kind, price in (
            (OrderType.LIMIT, request.take_profit_usd),
            (OrderType.STOP, request.stop_loss_usd),
        ):
            if price is None:
                continue
            key = f"{kind.value}-of-{request.client_order_id}"
            is_limit = kind is OrderType.LIMIT
            self.orders[key] = replace(
                parent,
                client_order_id=key,
                broker_order_id=f"b-{key}",
                side=request.side.opposite,
                order_type=kind,
                limit_price_usd=price if is_limit else None,
                stop_price_usd=None if is_limit else price,
            )
            self.exits.setdefault(request.client_order_id, []).append(key)

    def _with_exits(self, client_order_id: str) -> Order:
        legs = tuple(self.orders[k] for k in self.exits.get(client_order_id, ()))
        return replace(self.orders[client_order_id], legs=legs)

    def touch(self, client_order_id: str, share: Decimal = Decimal(1)) -> None:
        """Fill an exit; the others of its order are canceled once it has filled."""
        self.fill(client_order_id, share)
        if self.orders[client_order_id].status is OrderStatus.FILLED:
            self._cancel(self._others(client_order_id))

    def _others(self, client_order_id: str) -> list[str]:
        groups = [g for g in self.exits.values() if client_order_id in g]
        return [k for g in groups for k in g if k != client_order_id]

    def _cancel(self, keys: Sequence[str]) -> None:
        for key in keys:
            if not self.orders[key].status.is_final:
                self.orders[key] = replace(self.orders[key], status=OrderStatus.CANCELED)

    def find_order(self, client_order_id: str) -> Order | None:
        self.on_step("find")
        return self._with_exits(client_order_id) if client_order_id in self.orders else None

    def cancel(self, broker_order_id: str) -> None:
        self.on_step("before cancel")
        found = [k for k, o in self.orders.items() if o.broker_order_id == broker_order_id]
        for key in found:
            self._cancel([key, *self._others(key), *self.exits.get(key, ())])
        self.on_step("after cancel")

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
