"""The connection to a distant broker: addresses and keys, timeouts, retries, pace, pages."""

from __future__ import annotations

import datetime as dt
import logging
import traceback
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from execution.alpaca import AlpacaBroker
from market.errors import BrokerError, ExecutionError
from tests.execution.distant_broker import (
    ACCOUNT,
    BY_ID,
    HTML,
    KEY,
    LIVE,
    ORDERS,
    PAPER,
    REQUEST,
    SECRET,
    Fake,
    make,
    order,
)

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


# --- reading -----------------------------------------------------------------------------------

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


def test_an_account_without_the_removed_fields(fake: Fake, broker: AlpacaBroker) -> None:
    fake.on("GET", "/v2/account", (200, ACCOUNT))
    account = broker.account()
    assert (account.cash_usd, account.equity_usd) == (Decimal("-12.50"), Decimal("100.10"))
    assert not account.is_blocked


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
