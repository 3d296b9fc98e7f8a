"""What every ``Broker`` must do. A new broker adds one venue to ``VENUES``.

Alpaca's real paper service is one where ``ISOBAR_TEST_ALPACA_KEY`` and
``ISOBAR_TEST_ALPACA_SECRET`` are those of a paper account that nothing else trades. What is ordered
there cannot fill, and is canceled; where the market is open, one share is bought and sold.
"""

from __future__ import annotations

import datetime as dt
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal

import polars as pl
import pytest
from pydantic import SecretStr

from execution.alpaca import AlpacaBroker
from execution.broker import (
    Broker,
    Order,
    OrderRequest,
    OrderStatus,
    OrderType,
    Side,
    TimeInForce,
)
from execution.paper import ReplayClock, create_app
from market import calendar
from market.errors import BrokerError, ExecutionError
from market.schema import BAR_SCHEMA
from market.serving import BackgroundServer

SESSION = dt.date(2025, 1, 2)
OPEN = calendar.session_open(SESSION)
MINUTE = dt.timedelta(minutes=1)
KEY, SECRET = (os.environ.get(f"ISOBAR_TEST_ALPACA_{n}", "") for n in ("KEY", "SECRET"))
URL = os.environ.get("ISOBAR_TEST_ALPACA_URL", "https://paper-api.alpaca.markets")
UNCONTROLLED = "needs a controllable venue: a clock that the test moves, a server that it stops"
_TRIES = 40


@dataclass(frozen=True)
class Controls:
    """Of a broker with 100,000 USD in which the symbol opens at 100, an hour before the open."""

    open_market: Callable[[], None]
    shut_down: Callable[[], None]


@dataclass(frozen=True)
class Venue:
    """A broker, a symbol that it trades, a price at which nobody sells, and how to let time pass.

    Ids of orders begin with ``mark``, which no other test uses.
    """

    broker: Broker
    symbol: str
    low_usd: Decimal
    wait: Callable[[], None]
    mark: str = ""
    controls: Controls | None = None

    def buy(self, identity: str, quantity: str = "10", **changes: object) -> OrderRequest:
        request = OrderRequest(
            self.mark + identity, self.symbol, Side.BUY, Decimal(quantity), OrderType.MARKET,
            TimeInForce.DAY,
        )  # fmt: skip
        return replace(request, **changes)  # type: ignore[arg-type]

    def bid(self, identity: str, quantity: str = "1", **changes: object) -> OrderRequest:
        """An order that nobody fills."""
        limit = {"order_type": OrderType.LIMIT, "limit_price_usd": self.low_usd}
        return self.buy(identity, quantity, **{**limit, **changes})

    def open_ids(self) -> list[str]:
        ids = [o.client_order_id for o in self.broker.open_orders()]
        return [i for i in ids if i.startswith(self.mark)]

    def held(self) -> Decimal:
        found = {p.symbol: p.quantity for p in self.broker.positions()}
        return found.get(self.symbol, Decimal(0))

    def eventually(self, identity: str, status: OrderStatus) -> Order:
        """Wait until an order has a status."""
        for _ in range(_TRIES):
            found = self.broker.find_order(self.mark + identity)
            if found is not None and found.status is status:
                return found
            self.wait()
        raise AssertionError(f"{identity} never was {status}: {found}")


def bars() -> pl.DataFrame:
    rows = []
    for minute in range(60):
        price = 100.0 if minute == 0 else 101.0
        start = OPEN + minute * MINUTE
        end = start + MINUTE
        row = ["XYZ", SESSION, start, end, end, price, price + 1, price - 1, price, 1e3, price, 5]
        rows.append(dict(zip(BAR_SCHEMA.names(), row, strict=True)))
    return pl.DataFrame(rows, schema=BAR_SCHEMA)


@contextmanager
def alpaca_on_the_paper_server() -> Iterator[Venue]:
    clock = ReplayClock(OPEN - 60 * MINUTE)
    app = create_app(bars(), api_key="key", secret_key="secret", clock=clock)
    with BackgroundServer(app) as server:
        broker = AlpacaBroker(
            SecretStr("key"),
            SecretStr("secret"),
            server.url,
            is_paper=True,
            timeout_seconds=5.0,
            sleep=lambda seconds: None,
        )
        controls = Controls(
            open_market=lambda: clock.advance_to(OPEN + 2 * MINUTE),
            shut_down=lambda: server.__exit__(None, None, None),
        )
        wait = lambda: clock.advance_to(clock.now() + MINUTE)  # noqa: E731
        yield Venue(broker, "XYZ", Decimal(50), wait, controls=controls)


@contextmanager
def alpaca_paper_service() -> Iterator[Venue]:
    symbol = os.environ.get("ISOBAR_TEST_ALPACA_SYMBOL", "AAPL")
    broker = AlpacaBroker(SecretStr(KEY), SecretStr(SECRET), URL, is_paper=True)
    venue = Venue(
        broker, symbol, Decimal("1.00"), lambda: time.sleep(0.25), f"test-{uuid.uuid4()}-"
    )
    try:
        yield venue
    finally:
        for order in broker.open_orders():
            if order.client_order_id.startswith(venue.mark):
                broker.cancel(order.broker_order_id)


VENUES = [
    pytest.param(alpaca_on_the_paper_server, id="alpaca_on_the_paper_server"),
    pytest.param(
        alpaca_paper_service,
        id="alpaca_paper_service",
        marks=pytest.mark.skipif(
            not (KEY and SECRET),
            reason="no keys of a paper account in ISOBAR_TEST_ALPACA_KEY and _SECRET",
        ),
    ),
]


@pytest.fixture(params=VENUES)
def venue(request: pytest.FixtureRequest) -> Iterator[Venue]:
    with request.param() as venue:
        yield venue


@pytest.fixture
def broker(venue: Venue) -> Broker:
    return venue.broker


@pytest.fixture
def controls(venue: Venue) -> Controls:
    if venue.controls is None:
        pytest.skip(UNCONTROLLED)
    return venue.controls


def test_it_is_a_broker(broker: Broker) -> None:
    assert isinstance(broker, Broker)
    assert broker.is_paper
    assert broker.name


def test_account(broker: Broker) -> None:
    account = broker.account()
    assert account.currency == "USD"
    assert account.equity_usd > 0
    amounts = (account.cash_usd, account.equity_usd, account.buying_power_usd)
    assert all(isinstance(a, Decimal) for a in amounts)
    assert account.is_blocked is False


def test_a_new_account_is_all_cash(broker: Broker, controls: Controls) -> None:
    account = broker.account()
    assert account.cash_usd == account.equity_usd == Decimal(100_000)


def test_clock_is_utc(broker: Broker) -> None:
    clock = broker.clock()
    assert clock.now.utcoffset() == dt.timedelta(0)
    assert min(clock.next_open, clock.next_close) > clock.now
    assert clock.is_open is (clock.next_close < clock.next_open)


def test_clock_follows_the_market(broker: Broker, controls: Controls) -> None:
    clock = broker.clock()
    assert (clock.is_open, clock.next_open) == (False, OPEN)
    controls.open_market()
    clock = broker.clock()
    assert clock.is_open
    assert clock.next_close == calendar.session_close(SESSION)
    assert clock.next_open > clock.next_close


@pytest.mark.parametrize("others", [1, 80])
def test_unknown_assets_are_left_out(venue: Venue, others: int) -> None:
    found = venue.broker.assets([venue.symbol, *(f"ZZNO{n}" for n in range(others))])
    assert list(found) == [venue.symbol]
    assert found[venue.symbol].tradable
    assert venue.broker.assets([]) == {}


def test_an_order_is_placed_and_found(venue: Venue) -> None:
    broker, began = venue.broker, venue.broker.clock().now - MINUTE
    request = venue.bid("one")
    placed = broker.submit(request)
    assert placed.client_order_id == request.client_order_id
    assert placed.status is OrderStatus.ACCEPTED
    assert placed.filled_quantity == 0
    assert placed.filled_average_price_usd is None
    assert placed.submitted_at.utcoffset() == dt.timedelta(0)
    found = broker.find_order(request.client_order_id)
    assert found is not None
    assert found.broker_order_id == placed.broker_order_id
    assert (found.symbol, found.side, found.quantity) == (venue.symbol, Side.BUY, 1)
    assert found.limit_price_usd == venue.low_usd
    assert venue.open_ids() == [request.client_order_id]
    since = [o.client_order_id for o in broker.orders_since(began)]
    assert since.count(request.client_order_id) == 1


def test_a_share_is_bought_and_sold(venue: Venue) -> None:
    """Harmless also where it is real: one share, in the session, and back to where it was."""
    if venue.controls is not None:
        venue.controls.open_market()
    if not venue.broker.clock().is_open:
        pytest.skip("the market is shut")
    before = venue.held()
    venue.broker.submit(venue.buy("buy", "1"))
    bought = venue.eventually("buy", OrderStatus.FILLED)
    try:
        assert (bought.filled_quantity, venue.held()) == (1, before + 1)
        assert bought.filled_average_price_usd
    finally:
        venue.broker.submit(venue.buy("sell", "1", side=Side.SELL))
        venue.eventually("sell", OrderStatus.FILLED)
    assert venue.held() == before


def test_an_order_for_the_open_fills_there(venue: Venue, controls: Controls) -> None:
    broker = venue.broker
    placed = broker.submit(venue.buy("one", time_in_force=TimeInForce.OPG))
    controls.open_market()
    order = broker.find_order("one")
    assert order is not None
    assert (order.broker_order_id, order.status) == (placed.broker_order_id, OrderStatus.FILLED)
    assert (order.filled_quantity, order.filled_average_price_usd) == (10, 100)
    assert broker.open_orders() == []
    (position,) = broker.positions()
    assert (position.symbol, position.quantity, position.average_price_usd) == ("XYZ", 10, 100)
    assert position.market_value_usd == 10 * position.current_price_usd
    assert broker.account().cash_usd == 99_000


def test_a_short_position_is_negative(venue: Venue, controls: Controls) -> None:
    venue.broker.submit(venue.buy("short", side=Side.SELL))
    controls.open_market()
    (position,) = venue.broker.positions()
    assert position.quantity == -10
    assert position.market_value_usd < 0


def test_the_same_id_places_one_order(venue: Venue) -> None:
    first = venue.broker.submit(venue.bid("one"))
    assert venue.broker.submit(venue.bid("one")).broker_order_id == first.broker_order_id
    assert len(venue.open_ids()) == 1


def test_the_same_id_places_nothing_once_it_filled(venue: Venue, controls: Controls) -> None:
    venue.broker.submit(venue.buy("one"))
    controls.open_market()
    assert venue.broker.submit(venue.buy("one")).status is OrderStatus.FILLED
    assert [p.quantity for p in venue.broker.positions()] == [10]


def test_the_same_id_at_the_same_moment_places_one_order(venue: Venue) -> None:
    with ThreadPoolExecutor(4) as pool:
        orders = list(pool.map(venue.broker.submit, [venue.bid("one")] * 8))
    assert len({order.broker_order_id for order in orders}) == 1
    assert len(venue.open_ids()) == 1


@pytest.mark.parametrize("change", [{"quantity": Decimal(2)}, {"side": Side.SELL}])
def test_an_id_is_never_used_for_another_order(venue: Venue, change: dict[str, object]) -> None:
    venue.broker.submit(venue.bid("one"))
    with pytest.raises(BrokerError, match="one'"):
        venue.broker.submit(venue.bid("one", **change))
    assert len(venue.open_ids()) == 1


def test_an_unknown_id_is_none(broker: Broker) -> None:
    assert broker.find_order("never sent") is None


def test_a_refusal_raises_and_places_nothing(venue: Venue) -> None:
    with pytest.raises(BrokerError, match="buying power"):
        venue.broker.submit(venue.bid("dear", "10000000"))
    assert venue.broker.find_order(f"{venue.mark}dear") is None
    with pytest.raises(BrokerError, match="not found"):
        venue.broker.submit(venue.bid("odd", symbol="ZZNONE"))


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": Decimal(0)},
        {"quantity": Decimal("-1")},
        {"quantity": Decimal("NaN")},
        {"quantity": Decimal("1e-12")},
        {"limit_price_usd": None},
        {"order_type": OrderType.MARKET},
        {"limit_price_usd": Decimal("0.00001")},
        {"client_order_id": ""},
        {"client_order_id": "x" * 129},
    ],
)
def test_an_order_that_contradicts_itself_is_not_sent(
    venue: Venue, change: dict[str, object]
) -> None:
    with pytest.raises(ExecutionError, match=r"Remedy: .+\."):
        venue.broker.submit(replace(venue.bid("one"), **change))  # type: ignore[arg-type]
    assert venue.open_ids() == []


def test_cancel(venue: Venue) -> None:
    order = venue.broker.submit(venue.bid("low"))
    venue.broker.cancel(order.broker_order_id)
    venue.eventually("low", OrderStatus.CANCELED)
    venue.broker.cancel(order.broker_order_id)
    assert venue.open_ids() == []


def test_canceling_what_filled_changes_nothing(venue: Venue, controls: Controls) -> None:
    filled = venue.broker.submit(venue.buy("one"))
    controls.open_market()
    venue.broker.cancel(filled.broker_order_id)
    assert [p.quantity for p in venue.broker.positions()] == [10]


def test_canceling_an_unknown_order_raises(broker: Broker) -> None:
    with pytest.raises(BrokerError):
        broker.cancel("00000000-0000-0000-0000-000000000000")


@pytest.mark.parametrize(
    "call",
    [
        lambda v: v.broker.account(),
        lambda v: v.broker.clock(),
        lambda v: v.broker.assets([v.symbol]),
        lambda v: v.broker.positions(),
        lambda v: v.broker.open_orders(),
        lambda v: v.broker.submit(v.bid("one")),
        lambda v: v.broker.find_order("one"),
        lambda v: v.broker.cancel("00000000-0000-0000-0000-000000000000"),
    ],
)
def test_a_broker_out_of_reach_raises(
    venue: Venue, controls: Controls, call: Callable[[Venue], object]
) -> None:
    controls.shut_down()
    with pytest.raises(BrokerError, match="Remedy"):
        call(venue)
