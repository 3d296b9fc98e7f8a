"""What every ``Broker`` must do. A new broker adds one venue to ``VENUES``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal

import polars as pl
import pytest
from pydantic import SecretStr

from execution.alpaca import AlpacaBroker
from execution.broker import Broker, OrderRequest, OrderStatus, OrderType, Side, TimeInForce
from execution.paper import ReplayClock, create_app
from market import calendar
from market.errors import BrokerError, ExecutionError
from market.schema import BAR_SCHEMA
from market.serving import BackgroundServer

SESSION = dt.date(2025, 1, 2)
OPEN = calendar.session_open(SESSION)
MINUTE = dt.timedelta(minutes=1)


@dataclass(frozen=True)
class Venue:
    """A broker with 100,000 USD in which XYZ opens at 100, an hour before the open."""

    broker: Broker
    open_market: Callable[[], None]
    shut_down: Callable[[], None]


def bars() -> pl.DataFrame:
    rows = []
    for minute, price in ((0, 100.0), (1, 101.0)):
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
        yield Venue(
            broker,
            open_market=lambda: clock.advance_to(OPEN + 2 * MINUTE),
            shut_down=lambda: server.__exit__(None, None, None),
        )


VENUES: list[Callable[[], AbstractContextManager[Venue]]] = [alpaca_on_the_paper_server]


@pytest.fixture(params=VENUES, ids=lambda make: make.__name__)
def venue(request: pytest.FixtureRequest) -> Iterator[Venue]:
    with request.param() as venue:
        yield venue


@pytest.fixture
def broker(venue: Venue) -> Broker:
    return venue.broker


def buy(identity: str, quantity: str = "10", **changes: object) -> OrderRequest:
    request = OrderRequest(
        identity, "XYZ", Side.BUY, Decimal(quantity), OrderType.MARKET, TimeInForce.OPG
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def low_bid(identity: str) -> OrderRequest:
    return buy(identity, order_type=OrderType.LIMIT, limit_price_usd=Decimal(50))


def test_it_is_a_broker(broker: Broker) -> None:
    assert isinstance(broker, Broker)
    assert broker.is_paper
    assert broker.name


def test_account(broker: Broker) -> None:
    account = broker.account()
    assert account.currency == "USD"
    assert account.cash_usd == account.equity_usd == Decimal(100_000)
    assert isinstance(account.buying_power_usd, Decimal)
    assert account.is_blocked is False


def test_clock_is_utc_and_follows_the_market(venue: Venue) -> None:
    clock = venue.broker.clock()
    assert clock.now.utcoffset() == dt.timedelta(0)
    assert (clock.is_open, clock.next_open) == (False, OPEN)
    venue.open_market()
    clock = venue.broker.clock()
    assert clock.is_open
    assert clock.next_close == calendar.session_close(SESSION)
    assert clock.next_open > clock.next_close


@pytest.mark.parametrize("others", [["NONE"], [f"NO{n}" for n in range(80)]], ids=["few", "many"])
def test_unknown_assets_are_left_out(broker: Broker, others: list[str]) -> None:
    found = broker.assets(["XYZ", *others])
    assert list(found) == ["XYZ"]
    assert found["XYZ"].tradable
    assert broker.assets([]) == {}


def test_an_order_is_found_filled_and_becomes_a_position(venue: Venue) -> None:
    broker = venue.broker
    placed = broker.submit(buy("one"))
    assert placed.client_order_id == "one"
    assert placed.status is OrderStatus.ACCEPTED
    assert placed.filled_quantity == 0
    assert placed.filled_average_price_usd is None
    assert placed.submitted_at.utcoffset() == dt.timedelta(0)
    assert [o.client_order_id for o in broker.open_orders()] == ["one"]
    venue.open_market()
    order = broker.find_order("one")
    assert order is not None
    assert (order.broker_order_id, order.status) == (placed.broker_order_id, OrderStatus.FILLED)
    assert (order.filled_quantity, order.filled_average_price_usd) == (10, 100)
    assert broker.open_orders() == []
    (position,) = broker.positions()
    assert (position.symbol, position.quantity, position.average_price_usd) == ("XYZ", 10, 100)
    assert position.market_value_usd == 10 * position.current_price_usd
    assert broker.account().cash_usd == 99_000


def test_a_short_position_is_negative(venue: Venue) -> None:
    venue.broker.submit(buy("short", side=Side.SELL))
    venue.open_market()
    (position,) = venue.broker.positions()
    assert position.quantity == -10
    assert position.market_value_usd < 0


def test_the_same_id_places_one_order(venue: Venue) -> None:
    first = venue.broker.submit(buy("one"))
    assert venue.broker.submit(buy("one")) == first
    assert len(venue.broker.open_orders()) == 1
    venue.open_market()
    assert venue.broker.submit(buy("one")).status is OrderStatus.FILLED
    assert [p.quantity for p in venue.broker.positions()] == [10]


def test_the_same_id_at_the_same_moment_places_one_order(broker: Broker) -> None:
    with ThreadPoolExecutor(4) as pool:
        orders = list(pool.map(broker.submit, [buy("one")] * 8))
    assert len({order.broker_order_id for order in orders}) == 1
    assert len(broker.open_orders()) == 1


@pytest.mark.parametrize("change", [{"quantity": Decimal(11)}, {"side": Side.SELL}])
def test_an_id_is_never_used_for_another_order(broker: Broker, change: dict[str, object]) -> None:
    broker.submit(buy("one"))
    with pytest.raises(BrokerError, match="'one'"):
        broker.submit(buy("one", **change))
    assert len(broker.open_orders()) == 1


def test_an_unknown_id_is_none(broker: Broker) -> None:
    assert broker.find_order("never sent") is None


def test_a_refusal_raises_and_places_nothing(broker: Broker) -> None:
    with pytest.raises(BrokerError, match="buying power"):
        broker.submit(buy("dear", "100000"))
    assert broker.find_order("dear") is None
    with pytest.raises(BrokerError, match="not found"):
        broker.submit(buy("odd", symbol="NONE"))


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": Decimal(0)},
        {"quantity": Decimal("-1")},
        {"quantity": Decimal("NaN")},
        {"quantity": Decimal("1e-12")},
        {"order_type": OrderType.LIMIT},
        {"limit_price_usd": Decimal(5)},
        {"order_type": OrderType.LIMIT, "limit_price_usd": Decimal("0.00001")},
        {"client_order_id": ""},
        {"client_order_id": "x" * 129},
    ],
)
def test_an_order_that_contradicts_itself_is_not_sent(
    broker: Broker, change: dict[str, object]
) -> None:
    with pytest.raises(ExecutionError, match=r"Remedy: .+\."):
        broker.submit(replace(buy("one"), **change))  # type: ignore[arg-type]
    assert broker.open_orders() == []


def test_cancel(venue: Venue) -> None:
    broker = venue.broker
    order = broker.submit(low_bid("low"))
    broker.cancel(order.broker_order_id)
    canceled = broker.find_order("low")
    assert canceled is not None
    assert canceled.status is OrderStatus.CANCELED
    broker.cancel(order.broker_order_id)
    filled = broker.submit(buy("one"))
    venue.open_market()
    broker.cancel(filled.broker_order_id)
    assert [p.quantity for p in broker.positions()] == [10]


def test_canceling_an_unknown_order_raises(broker: Broker) -> None:
    with pytest.raises(BrokerError):
        broker.cancel("00000000-0000-0000-0000-000000000000")


@pytest.mark.parametrize(
    "call",
    [
        lambda b: b.account(),
        lambda b: b.clock(),
        lambda b: b.assets(["XYZ"]),
        lambda b: b.positions(),
        lambda b: b.open_orders(),
        lambda b: b.submit(buy("one")),
        lambda b: b.find_order("one"),
        lambda b: b.cancel("00000000-0000-0000-0000-000000000000"),
    ],
)
def test_a_broker_out_of_reach_raises(venue: Venue, call: Callable[[Broker], object]) -> None:
    venue.shut_down()
    with pytest.raises(BrokerError, match="Remedy"):
        call(venue.broker)
