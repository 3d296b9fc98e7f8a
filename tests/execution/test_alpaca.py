"""One test for each trap of alpaca-py and each bad habit of a distant broker."""

from __future__ import annotations

import datetime as dt
import json
import logging
import threading
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool

from execution.alpaca import AlpacaBroker
from execution.broker import OrderRequest, OrderStatus, OrderType, Side, TimeInForce
from market.errors import BrokerError, BrokerRefusal, ExecutionError
from market.serving import BackgroundServer

KEY, SECRET = "PKVISIBLENOWHERE", "5ecretVisibleNowhere"
PAPER, LIVE = "https://paper-api.alpaca.markets", "https://api.alpaca.markets"
ORDERS, BY_ID = "/v2/orders", "/v2/orders:by_client_order_id"
HTML = "<html><body>502 Bad Gateway</body></html>"
NOT_FOUND = {"code": 40410000, "message": "order not found for one"}
DUPLICATE = {"code": 40010001, "message": "client_order_id must be unique"}

REQUEST = OrderRequest(
    "one", "XYZ", Side.BUY, Decimal(10), OrderType.LIMIT, TimeInForce.DAY, Decimal("100.5")
)


def order(**changes: Any) -> dict[str, Any]:
    """An order as the service writes it."""
    return {
        "id": "61e69015-8549-4bfd-b9c3-01e75843f47d",
        "client_order_id": "one",
        "submitted_at": "2025-01-02T14:30:00.123456789Z",
        "updated_at": "2025-01-02T14:30:01Z",
        "symbol": "XYZ",
        "side": "buy",
        "qty": "10",
        "filled_qty": "0",
        "filled_avg_price": None,
        "status": "new",
    } | changes


class Fake:
    """A broker that answers as told, in turn; the last answer of a path stays."""

    def __init__(self) -> None:
        self.reset()
        self.app = FastAPI()
        methods = ["GET", "POST", "DELETE"]
        self.app.add_api_route("/{path:path}", self._answer, methods=methods)

    def reset(self) -> None:
        """Forget every call and every answer."""
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []
        self.release = threading.Event()
        self._answers: dict[tuple[str, str], deque[Any]] = defaultdict(deque)

    def on(self, method: str, path: str, *answers: Any) -> None:
        """Answer with (status, body); a dict or list is JSON, ``None`` hangs."""
        self._answers[method, path].extend(answers)

    def count(self, method: str, path: str = "") -> int:
        return sum(m == method and p.startswith(path) for m, p, _, _ in self.seen)

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        path = request.url.path
        query = dict(request.query_params)
        self.seen.append((request.method, path, query, json.loads(body) if body else None))
        queue = self._answers[request.method, path]
        if not queue:
            return Response(json.dumps(NOT_FOUND), 404)
        answer = queue.popleft() if len(queue) > 1 else queue[0]
        if answer is None:
            await run_in_threadpool(self.release.wait)  # the event of this test, not of the next
            return Response(status_code=500)
        status, content, *headers = answer
        text = content if isinstance(content, str) else json.dumps(content)
        return Response(text, status, headers=headers[0] if headers else None)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Fake, str]]:
    fake = Fake()
    with BackgroundServer(fake.app) as server:
        yield fake, server.url


@pytest.fixture
def fake(served: tuple[Fake, str]) -> Iterator[Fake]:
    fake, _ = served
    fake.reset()
    yield fake
    fake.release.set()


@pytest.fixture
def url(served: tuple[Fake, str]) -> str:
    return served[1]


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def broker(url: str, pauses: list[float]) -> AlpacaBroker:
    return make(url, sleep=pauses.append)


def make(url: str, *, is_paper: bool = True, **more: Any) -> AlpacaBroker:
    return AlpacaBroker(SecretStr(KEY), SecretStr(SECRET), url, is_paper=is_paper, **more)


CALLS: dict[str, Callable[[AlpacaBroker], object]] = {
    "account": lambda b: b.account(),
    "clock": lambda b: b.clock(),
    "asset": lambda b: b.assets(["XYZ"]),
    "assets": lambda b: b.assets([f"S{n}" for n in range(60)]),
    "positions": lambda b: b.positions(),
    "open_orders": lambda b: b.open_orders(),
    "orders_since": lambda b: b.orders_since(dt.datetime(2025, 1, 2, tzinfo=dt.UTC)),
    "submit": lambda b: b.submit(REQUEST),
    "find_order": lambda b: b.find_order("one"),
    "cancel": lambda b: b.cancel("61e69015"),
}
PATHS = {
    "account": ("GET", "/v2/account"),
    "clock": ("GET", "/v2/clock"),
    "asset": ("GET", "/v2/assets/XYZ"),
    "assets": ("GET", "/v2/assets"),
    "positions": ("GET", "/v2/positions"),
    "open_orders": ("GET", ORDERS),
    "orders_since": ("GET", ORDERS),
    "submit": ("POST", ORDERS),
    "find_order": ("GET", BY_ID),
    "cancel": ("DELETE", ORDERS + "/61e69015"),
}


# --- addresses and keys ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "is_paper"),
    [
        (LIVE, True),
        (PAPER, False),
        ("https://API.alpaca.markets.", True),
        ("https://example.com", True),
        ("https://example.com", False),
        ("https://paper-api.alpaca.markets.example.com", True),
        ("https://paper-api.alpaca.markets@example.com", True),
        ("https://example.com\\@paper-api.alpaca.markets", True),
        ("http://paper-api.alpaca.markets", True),
        ("http://api.alpaca.markets", False),
        ("https://paper-api.alpaca.markets:8443", True),
        ("https://paper-api.alpaca.markets/v2", True),
        ("https://paper-api.alpaca.markets?x=1", True),
        ("ftp://127.0.0.1", True),
        ("http://192.168.1.1", True),
        ("http://127.0.0.1:99999", True),
        ("paper-api.alpaca.markets", True),
        ("", True),
    ],
)
def test_addresses_of_the_wrong_mode_are_refused(url: str, is_paper: bool) -> None:
    with pytest.raises(ExecutionError, match="refuses this broker address"):
        make(url, is_paper=is_paper)


@pytest.mark.parametrize("is_paper", [True, False])
def test_addresses_of_the_right_mode_are_taken(is_paper: bool) -> None:
    for url in (PAPER if is_paper else LIVE, "http://localhost:8000", "http://[::1]:8000/"):
        broker = make(url, is_paper=is_paper)
        assert broker.is_paper is is_paper
        assert broker.name == ("alpaca-paper" if is_paper else "alpaca-live")


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "k\u00e9y"])
def test_malformed_keys_are_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ExecutionError, match="a key of the broker") as caught:
        AlpacaBroker(SecretStr("k"), SecretStr(key), PAPER, is_paper=True)
    assert key == "" or key not in str(caught.value)


def test_a_timeout_must_be_positive() -> None:
    with pytest.raises(ExecutionError, match="timeout"):
        make(PAPER, timeout_seconds=0)


def test_keys_are_in_no_repr_exception_or_log(
    fake: Fake, broker: AlpacaBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = {"code": 40110000, "message": f"no such key {KEY} with {SECRET}"}
    fake.on("GET", "/v2/account", (401, echo))
    fake.on("GET", "/v2/clock", (500, f"{KEY} {SECRET}"))
    fake.on("POST", ORDERS, (403, echo))
    told = [repr(broker), str(broker)]
    for name in ("account", "clock", "submit", "positions"):
        with pytest.raises(BrokerError) as caught:
            CALLS[name](broker)
        told += [repr(caught.value), *traceback.format_exception(caught.value)]
    assert "***" in "".join(told)
    for text in (*told, caplog.text):
        assert KEY not in text
        assert SECRET not in text


# --- timeouts and retries ----------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_every_call_has_a_timeout(fake: Fake, url: str, name: str) -> None:
    fake.on(*PATHS[name], None)
    with pytest.raises(BrokerError, match="no answer in time"):
        CALLS[name](make(url, timeout_seconds=0.05, sleep=lambda seconds: None))
    assert fake.count(*PATHS[name]) == (3 if PATHS[name][0] == "GET" else 1)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_post_is_never_repeated(fake: Fake, broker: AlpacaBroker, status: int) -> None:
    fake.on("POST", ORDERS, (status, {"message": "later"}))
    with pytest.raises(BrokerError, match="repeat the call with the same client_order_id"):
        broker.submit(REQUEST)
    assert fake.count("POST") == 1


@pytest.mark.parametrize("status", [429, 500, 504])
def test_a_get_is_repeated_a_little(
    fake: Fake, broker: AlpacaBroker, pauses: list[float], status: int
) -> None:
    fake.on("GET", "/v2/positions", (status, HTML), (status, HTML), (200, []))
    assert broker.positions() == []
    assert pauses == [0.25, 0.5]
    fake.on("GET", "/v2/clock", (status, HTML))
    with pytest.raises(BrokerError, match=f"HTTP {status}, not in the service's format"):
        broker.clock()
    assert fake.count("GET", "/v2/clock") == 3


def test_a_clear_refusal_of_a_get_is_not_repeated(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("GET", "/v2/account", (401, {"code": 40110000, "message": "not authorized"}))
    with pytest.raises(BrokerError, match="not authorized"):
        broker.account()
    assert fake.count("GET") == 1


# --- unclear answers to an order ---------------------------------------------------------------

UNCLEAR: dict[str, Any] = {
    "504 after acceptance": (504, HTML),
    "500 in the service's format": (500, {"code": 50010000, "message": "internal"}),
    "html with 200": (200, HTML),
    "html with 403": (403, HTML),
    "empty with 200": (200, ""),
    "cut off": (200, '{"id": "61e6'),
    "a list": (200, [order()]),
    "no id": (200, order(id=None)),
    "no status": (200, order(status="")),
    "naive time": (200, order(submitted_at="2025-01-02T14:30:00")),
    "redirect": (302, "", {"location": "/login"}),
    "duplicate id": (422, DUPLICATE),
}


@pytest.mark.parametrize("answer", UNCLEAR.values(), ids=UNCLEAR.keys())
def test_an_order_that_arrived_is_adopted(fake: Fake, broker: AlpacaBroker, answer: Any) -> None:
    fake.on("POST", ORDERS, answer)
    fake.on("GET", BY_ID, (200, order()))
    adopted = broker.submit(REQUEST)
    assert adopted.broker_order_id == order()["id"]
    assert fake.count("POST") == 1
    assert fake.seen[-1][2] == {"client_order_id": "one"}


@pytest.mark.parametrize("answer", UNCLEAR.values(), ids=UNCLEAR.keys())
def test_an_order_that_is_not_found_is_unclear(
    fake: Fake, broker: AlpacaBroker, answer: Any
) -> None:
    fake.on("POST", ORDERS, answer)
    with pytest.raises(BrokerError, match=r"'one' is unclear.*repeat the call with the same"):
        broker.submit(REQUEST)


def test_a_lookup_that_fails_too_is_unclear(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("POST", ORDERS, (504, HTML))
    fake.on("GET", BY_ID, (504, HTML))
    with pytest.raises(BrokerError, match=r"looking it up failed too.*repeat the call"):
        broker.submit(REQUEST)


def test_a_timeout_after_acceptance_is_adopted(fake: Fake, url: str) -> None:
    fake.on("POST", ORDERS, None)
    fake.on("GET", BY_ID, (200, order(status="filled", filled_qty="10", filled_avg_price="99")))
    adopted = make(url, timeout_seconds=0.1).submit(REQUEST)
    assert adopted.status is OrderStatus.FILLED
    assert adopted.filled_average_price_usd == 99


def test_the_general_validation_code_is_no_duplicate(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("POST", ORDERS, (422, {"code": 40010001, "message": "qty must be > 0"}))
    with pytest.raises(BrokerRefusal, match=r"refused order 'one'.*qty must be > 0"):
        broker.submit(REQUEST)
    assert fake.count("GET") == 0


@pytest.mark.parametrize(
    "change", [{"qty": "11"}, {"side": "sell"}, {"symbol": "ABC"}, {"client_order_id": "two"}]
)
@pytest.mark.parametrize("answer", [(422, DUPLICATE), (504, HTML)], ids=["duplicate", "504"])
def test_a_different_order_under_the_id_is_refused(
    fake: Fake, broker: AlpacaBroker, answer: Any, change: dict[str, str]
) -> None:
    fake.on("POST", ORDERS, answer)
    fake.on("GET", BY_ID, (200, order(**change)))
    with pytest.raises(BrokerError, match="is not the one asked for"):
        broker.submit(REQUEST)


def test_an_answer_about_another_order_is_refused(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("POST", ORDERS, (200, order(qty="100")))
    with pytest.raises(BrokerError, match="is not the one asked for"):
        broker.submit(REQUEST)


@pytest.mark.parametrize(
    "answer",
    [(404, HTML), (404, {"message": "no route"}), (404, {"code": 40400000, "message": "no route"})],
)
def test_only_the_broker_itself_can_say_that_it_knows_no_order(
    fake: Fake, broker: AlpacaBroker, answer: Any
) -> None:
    fake.on("GET", BY_ID, answer)
    with pytest.raises(BrokerError):
        broker.find_order("one")


# --- the wire ----------------------------------------------------------------------------------


def test_numbers_travel_as_quantised_strings(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("POST", ORDERS, (200, order(qty="0.3")))
    quantity, limit = Decimal("0.30000000000000004"), Decimal("100.12999")
    broker.submit(
        OrderRequest("one", "XYZ", Side.BUY, quantity, OrderType.LIMIT, TimeInForce.DAY, limit)
    )
    assert fake.seen[-1][3] == {
        "symbol": "XYZ",
        "qty": "0.3",
        "side": "buy",
        "type": "limit",
        "time_in_force": "day",
        "client_order_id": "one",
        "limit_price": "100.12",
    }


def test_an_unknown_status_is_no_failed_order(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("POST", ORDERS, (200, order(status="teleported")))
    placed = broker.submit(REQUEST)
    assert placed.status is OrderStatus.UNKNOWN
    assert not placed.status.is_final


def test_times_are_utc_and_nanoseconds_are_cut(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("GET", BY_ID, (200, order(updated_at="2025-01-02T09:30:01.000000999-05:00")))
    found = broker.find_order("one")
    assert found is not None
    assert found.submitted_at == dt.datetime(2025, 1, 2, 14, 30, 0, 123456, dt.UTC)
    assert found.updated_at == dt.datetime(2025, 1, 2, 14, 30, 1, tzinfo=dt.UTC)


ASSET = {
    "symbol": "XYZ",
    "tradable": True,
    "shortable": False,
    "fractionable": True,
    "status": "active",
}


def test_an_asset_needs_no_easy_to_borrow(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("GET", "/v2/assets/XYZ", (200, ASSET))
    found = broker.assets(["XYZ"])
    assert (found["XYZ"].tradable, found["XYZ"].shortable) == (True, False)


def test_an_active_asset_hides_an_old_one_of_its_symbol(fake: Fake, broker: AlpacaBroker) -> None:
    old = ASSET | {"status": "inactive", "tradable": False}
    for rows in ([old, ASSET], [ASSET, old]):
        fake.on("GET", "/v2/assets", (200, [*rows, ASSET | {"symbol": "ELSE"}]))
        found = broker.assets(["XYZ", *(f"S{n}" for n in range(60))])
        assert {s: a.status for s, a in found.items()} == {"XYZ": "active"}


ACCOUNT = {
    "account_number": "PA1",
    "status": "ACTIVE",
    "currency": "USD",
    "cash": "-12.50",
    "equity": "100.10",
    "last_equity": "100",
    "buying_power": "0",
    "trading_blocked": False,
    "account_blocked": False,
    "trade_suspended_by_user": False,
    "shorting_enabled": False,
}


def test_an_account_without_the_removed_fields(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("GET", "/v2/account", (200, ACCOUNT))
    account = broker.account()
    assert (account.cash_usd, account.equity_usd) == (Decimal("-12.50"), Decimal("100.10"))
    assert not account.is_blocked


# --- lists and cancellation --------------------------------------------------------------------


def page(start: int, count: int) -> list[dict[str, Any]]:
    base = dt.datetime(2025, 1, 2, 14, 30, tzinfo=dt.UTC)
    return [
        order(
            id=str(n),
            client_order_id=f"c{n}",
            submitted_at=(base + dt.timedelta(milliseconds=n)).isoformat(),
        )
        for n in range(start, start + count)
    ]


def test_open_orders_are_read_to_the_last_page(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("GET", ORDERS, (200, page(0, 500)), (200, page(499, 500)), (200, page(998, 3)))
    orders = broker.open_orders()
    assert [o.client_order_id for o in orders] == [f"c{n}" for n in range(1001)]
    assert [query.get("after") for _, _, query, _ in fake.seen] == [
        None,
        "2025-01-02T14:30:00.498999+00:00",
        "2025-01-02T14:30:00.997999+00:00",
    ]
    assert all(query["status"] == "open" for _, _, query, _ in fake.seen)


def test_open_orders_that_do_not_end_are_an_error(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("GET", ORDERS, (200, page(0, 500)))
    with pytest.raises(BrokerError, match="does not end"):
        broker.open_orders()


def test_a_foreign_order_without_a_quantity_is_not_guessed(
    fake: Fake, broker: AlpacaBroker
) -> None:
    fake.on("GET", ORDERS, (200, [order(qty=None, notional="100")]))
    with pytest.raises(BrokerError, match="no readable qty"):
        broker.open_orders()


def test_a_cancellation_under_way_or_final_is_enough(fake: Fake, broker: AlpacaBroker) -> None:
    path = ORDERS + "/61e69015"
    fake.on("DELETE", path, (422, {"code": 42210000, "message": "order is not cancelable"}))
    fake.on("GET", path, (200, order(status="filled")), (200, order(status="pending_cancel")))
    broker.cancel("61e69015")
    broker.cancel("61e69015")
    assert (fake.count("DELETE", path), fake.count("GET", path)) == (2, 2)


@pytest.mark.parametrize("answer", [(504, HTML), (302, "", {"location": "/"}), (200, HTML)])
def test_a_cancellation_that_did_not_take_is_an_error(
    fake: Fake, broker: AlpacaBroker, answer: Any
) -> None:
    path = ORDERS + "/61e69015"
    fake.on("DELETE", path, answer)
    fake.on("GET", path, (200, order()))
    with pytest.raises(BrokerError, match="was not canceled"):
        broker.cancel("61e69015")
    assert fake.count("DELETE") == 1


# --- orders with legs, and the pace ------------------------------------------------------------

LEGS = [
    order(**{"id": "l1", "client_order_id": "leg-1", "side": "sell", "status": "held"}),
    order(**{"id": "l2", "client_order_id": "leg-2", "side": "sell", "status": "held"}),
]
BRACKET = replace(REQUEST, take_profit_usd=Decimal("110.004"), stop_loss_usd=Decimal("95.004"))


def test_a_bracket_travels_with_its_exits(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("POST", ORDERS, (200, order(**{"order_class": "bracket", "legs": LEGS})))
    placed = broker.submit(BRACKET)
    (body,) = [body for method, _, _, body in fake.seen if method == "POST"]
    assert body["order_class"] == "bracket"
    assert body["take_profit"] == {"limit_price": "110.01"}
    assert body["stop_loss"] == {"stop_price": "95.01"}
    assert [leg.client_order_id for leg in placed.legs] == ["leg-1", "leg-2"]


def test_legs_that_were_not_told_are_asked_for(fake: Fake, broker: AlpacaBroker) -> None:
    bare = order(**{"order_class": "bracket", "legs": None})
    fake.on("POST", ORDERS, (200, bare))
    fake.on("GET", BY_ID, (200, bare))
    fake.on("GET", f"{ORDERS}/{bare['id']}", (200, bare | {"legs": LEGS}))
    assert len(broker.submit(BRACKET).legs) == 2
    assert fake.seen[-1][2] == {"nested": "true"}
    assert fake.count("POST") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"time_in_force": TimeInForce.OPG},
        {"quantity": Decimal("1.5")},
        {"order_type": OrderType.STOP, "stop_price_usd": Decimal(5), "limit_price_usd": None},
        {"order_type": OrderType.LIMIT, "limit_price_usd": Decimal(5), "extended_hours": True},
    ],
)
def test_exits_that_the_service_does_not_take_are_never_sent(
    fake: Fake, broker: AlpacaBroker, change: dict[str, Any]
) -> None:
    with pytest.raises(ExecutionError, match="target or a stop of its own"):
        broker.submit(replace(BRACKET, **change))
    assert not fake.seen


@pytest.mark.parametrize(
    ("kind", "prices"),
    [
        (OrderType.MARKET, {"limit_price_usd": Decimal(5)}),
        (OrderType.LIMIT, {}),
        (OrderType.STOP, {"limit_price_usd": Decimal(5)}),
        (OrderType.STOP_LIMIT, {"stop_price_usd": Decimal(5)}),
        (OrderType.TRAILING_STOP, {"stop_price_usd": Decimal(5)}),
        (OrderType.STOP, {"stop_price_usd": Decimal(5), "trail_percent": Decimal(1)}),
    ],
)
def test_a_type_has_its_own_prices_and_no_others(
    fake: Fake, broker: AlpacaBroker, kind: OrderType, prices: dict[str, Decimal]
) -> None:
    bare = replace(REQUEST, order_type=kind, limit_price_usd=None)
    with pytest.raises(ExecutionError, match="do not agree"):
        broker.submit(replace(bare, **prices))
    assert not fake.seen


def test_the_pace_of_the_service_is_kept(fake: Fake, url: str) -> None:
    now, pauses = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    broker = make(url, requests_per_minute=3, sleep=sleep, seconds=lambda: now[0])
    fake.on("GET", "/v2/positions", (200, []))
    for _ in range(7):
        broker.positions()
        now[0] += 1.0
    assert fake.count("GET", "/v2/positions") == 7
    assert pauses == [57.0, 57.0]
