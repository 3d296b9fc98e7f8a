"""The adapter against Alpaca's real paper service, where keys are at hand.

Set ``ISOBAR_TEST_ALPACA_KEY`` and ``ISOBAR_TEST_ALPACA_SECRET`` to those of a paper account that
nothing else trades. One share is ordered far below the market and canceled again.
"""

from __future__ import annotations

import datetime as dt
import os
import uuid
from decimal import Decimal

import pytest
from pydantic import SecretStr

from execution.alpaca import AlpacaBroker
from execution.broker import OrderRequest, OrderType, Side, TimeInForce

KEY, SECRET = (os.environ.get(f"ISOBAR_TEST_ALPACA_{n}", "") for n in ("KEY", "SECRET"))
pytestmark = pytest.mark.skipif(
    not (KEY and SECRET), reason="no keys of a paper account in ISOBAR_TEST_ALPACA_KEY and _SECRET"
)


@pytest.fixture
def broker() -> AlpacaBroker:
    url = "https://paper-api.alpaca.markets"
    return AlpacaBroker(SecretStr(KEY), SecretStr(SECRET), url, is_paper=True)


def test_account_clock_assets_and_positions_are_read(broker: AlpacaBroker) -> None:
    account, clock = broker.account(), broker.clock()
    assert account.currency == "USD"
    assert account.equity_usd > 0
    assert abs(clock.now - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)
    assert clock.next_close > clock.now
    found = broker.assets(["AAPL", "NO-SUCH-SYMBOL"])
    assert list(found) == ["AAPL"]
    assert found["AAPL"].tradable
    assert all(p.quantity != 0 for p in broker.positions())


def test_an_order_is_placed_once_found_and_canceled(broker: AlpacaBroker) -> None:
    began = broker.clock().now - dt.timedelta(minutes=1)
    request = OrderRequest(
        f"test-{uuid.uuid4()}", "AAPL", Side.BUY, Decimal(1), OrderType.LIMIT, TimeInForce.DAY,
        limit_price_usd=Decimal("1.00"),
    )  # fmt: skip
    placed = broker.submit(request)
    try:
        assert broker.submit(request).broker_order_id == placed.broker_order_id
        found = broker.find_order(request.client_order_id)
        assert found is not None
        assert found.limit_price_usd == 1
        ids = [o.client_order_id for o in broker.orders_since(began)]
        assert ids.count(request.client_order_id) == 1
    finally:
        broker.cancel(placed.broker_order_id)
    assert broker.find_order("test-no-such-order") is None
