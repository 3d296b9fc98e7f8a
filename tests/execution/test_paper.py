"""The paper broker under an unmodified alpaca-py client."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import requests

from execution.paper import ReplayClock, create_app
from market import calendar
from market.errors import ExecutionError
from market.serving import BackgroundServer
from tests.execution.paper_rig import (
    FRIDAY,
    KEYS,
    MONDAY,
    THURSDAY,
    Rig,
    bar,
    frame,
    moment,
    paper,
)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"websockets\.legacy", DeprecationWarning)
    from alpaca.common.enums import Sort
    from alpaca.common.exceptions import APIError
    from alpaca.trading.enums import OrderSide, OrderStatus, PositionSide, QueryOrderStatus
    from alpaca.trading.requests import (
        ClosePositionRequest,
        GetCalendarRequest,
        GetOrdersRequest,
    )

BARS = frame(
    # XYZ: three one-minute bars on each of Thursday and Friday.
    bar("XYZ", THURSDAY, 0, (100.0, 101.0, 99.0, 100.5)),
    bar("XYZ", THURSDAY, 1, (100.6, 102.0, 100.0, 101.0)),
    bar("XYZ", THURSDAY, 389, (101.0, 103.0, 95.0, 102.0)),
    bar("XYZ", FRIDAY, 0, (110.0, 111.0, 109.0, 110.5)),
    bar("XYZ", FRIDAY, 1, (110.5, 112.0, 110.0, 111.0)),
    bar("XYZ", FRIDAY, 389, (111.0, 112.0, 110.0, 112.0)),
    # DAY: one bar per session.
    bar("DAY", THURSDAY, 0, (50.0, 55.0, 45.0, 52.0), 390),
    bar("DAY", FRIDAY, 0, (53.0, 56.0, 51.0, 54.0), 390),
)


@pytest.fixture
def rig() -> Iterator[Rig]:
    with paper(BARS) as rig:
        yield rig


def number(text: Any) -> Decimal:
    assert isinstance(text, str)
    return Decimal(text)


# --- what the unmodified client reads ----------------------------------------------------------


def test_account_clock_calendar_assets(rig: Rig) -> None:
    account = rig.client.get_account()
    assert account.account_number == "PA00000000"
    assert account.status.value == "ACTIVE"
    assert (account.cash, account.equity, account.last_equity) == ("100000", "100000", "100000")
    assert account.buying_power == "200000"
    clock = rig.client.get_clock()
    assert not clock.is_open
    assert clock.next_open == calendar.session_open(THURSDAY)
    assert clock.next_close == calendar.session_close(THURSDAY)
    assert rig.at(THURSDAY, 0).client.get_clock().is_open
    closed = rig.at(THURSDAY, 390).client.get_clock()
    assert not closed.is_open
    assert closed.next_open == calendar.session_open(FRIDAY)
    days = rig.client.get_calendar(GetCalendarRequest(start=THURSDAY, end=MONDAY))
    assert [d.date for d in days] == [THURSDAY, FRIDAY, MONDAY]
    assert (days[0].open.hour, days[0].close.hour) == (9, 16)
    assert [a.symbol for a in rig.client.get_all_assets()] == ["DAY", "XYZ"]
    asset = rig.client.get_asset("XYZ")
    assert asset.tradable
    assert rig.client.get_asset(str(asset.id)).symbol == "XYZ"


def test_a_half_day_closes_early(rig: Rig) -> None:
    half = dt.date(2024, 11, 29)
    (day,) = rig.client.get_calendar(GetCalendarRequest(start=half, end=half))
    assert day.close.hour == 13


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), ({**KEYS, "APCA-API-SECRET-KEY": "wrong"}, 403)]
)
def test_without_the_keys_nothing_is_told(rig: Rig, headers: Any, status: int) -> None:
    for path in ("/v2/account", "/v2/orders", "/v2/positions"):
        answer = requests.get(rig.url + path, headers=headers, timeout=5)
        assert answer.status_code == status
        assert answer.json() == {"code": 40110000, "message": "request is not authorized."}
    assert requests.post(rig.url + "/replay/advance", timeout=5).status_code == 401


# --- fills -------------------------------------------------------------------------------------


def test_market_order_fills_at_the_next_open_and_cash_follows(rig: Rig) -> None:
    order = rig.at(THURSDAY, 0.5).market("XYZ", "buy", 10)
    assert order.status is OrderStatus.NEW
    assert rig.order(order).status is OrderStatus.NEW
    filled = rig.at(THURSDAY, 1).order(order)
    assert filled.status is OrderStatus.FILLED
    assert filled.filled_at == moment(THURSDAY, 1)
    assert (filled.filled_qty, filled.filled_avg_price) == ("10", "100.6")
    account = rig.client.get_account()
    assert number(account.cash) == 100_000 - Decimal("1006")
    assert number(account.equity) == 98_994 + 1005  # the last finished bar closed at 100.5
    account = rig.at(THURSDAY, 2).client.get_account()
    assert number(account.equity) == 98_994 + 1010
    assert number(account.long_market_value) == 1010
    assert number(account.buying_power) == 2 * Decimal(100_004) - 1010


def test_an_order_at_the_very_start_of_a_bar_gets_its_open(rig: Rig) -> None:
    order = rig.at(THURSDAY, 0).market("XYZ", "buy", 1)
    assert rig.order(order).filled_avg_price == "100"


def test_orders_wait_for_the_next_session_when_closed(rig: Rig) -> None:
    early = rig.market("XYZ", "buy", 1)
    assert early.status is OrderStatus.ACCEPTED
    late = rig.at(THURSDAY, 390).market("DAY", "buy", 1)
    assert rig.order(early).filled_avg_price == "100"
    assert rig.at(FRIDAY, -1).order(late).status is OrderStatus.ACCEPTED
    assert rig.at(FRIDAY, 0).order(late).filled_avg_price == "53"


def test_limit_fills_at_the_limit_when_the_bar_that_touched_it_has_ended(rig: Rig) -> None:
    order = rig.at(THURSDAY, 1.5).limit("XYZ", "buy", 2, 96.0)
    assert rig.at(THURSDAY, 389.9).order(order).status is OrderStatus.NEW
    filled = rig.at(THURSDAY, 390).order(order)
    assert (filled.status, filled.filled_avg_price) == (OrderStatus.FILLED, "96")
    assert filled.filled_at == moment(THURSDAY, 390)


def test_limit_fills_at_a_better_open(rig: Rig) -> None:
    buy = rig.limit("XYZ", "buy", 2, 105.0)
    assert rig.at(THURSDAY, 0).order(buy).filled_avg_price == "100"
    sell = rig.at(THURSDAY, 0.5).limit("DAY", "sell", 2, 53.0)
    rig.at(THURSDAY, 390)
    assert rig.order(sell).status is OrderStatus.EXPIRED  # the bar began before the order
    sell = rig.limit("DAY", "sell", 2, 52.0)
    assert rig.at(FRIDAY, 0).order(sell).filled_avg_price == "53"


def test_opening_order_fills_at_the_first_bar_or_not_at_all(rig: Rig) -> None:
    market = rig.market("XYZ", "buy", 1, "opg")
    good = rig.limit("DAY", "buy", 1, 51.0, "opg")
    poor = rig.limit("DAY", "buy", 1, 46.0, "opg")  # the day's low is 45, the open 50
    rig.at(THURSDAY, 0)
    assert rig.order(market).filled_avg_price == "100"
    assert rig.order(good).filled_avg_price == "50"
    assert rig.order(poor).status is OrderStatus.EXPIRED


def test_day_order_expires_at_the_close_unless_the_bars_have_ended(rig: Rig) -> None:
    order = rig.limit("XYZ", "buy", 1, 10.0)
    expired = rig.at(THURSDAY, 390).order(order)
    assert expired.status is OrderStatus.EXPIRED
    assert expired.expired_at == calendar.session_close(THURSDAY)
    waiting = rig.at(FRIDAY, 391).market("XYZ", "buy", 1)
    assert rig.at(MONDAY, 600).order(waiting).status is OrderStatus.NEW


def test_short_position_and_equity_at_the_previous_close(rig: Rig) -> None:
    rig.market("XYZ", "sell", 10)
    (position,) = rig.at(THURSDAY, 390).client.get_all_positions()
    assert position.side is PositionSide.SHORT
    assert (position.qty, position.avg_entry_price) == ("-10", "100")
    assert (position.market_value, position.unrealized_pl) == ("-1020", "-20")
    account = rig.client.get_account()
    assert (account.cash, account.equity) == ("101000", "99980")
    assert (account.last_equity, account.short_market_value) == ("99980", "-1020")
    account = rig.at(FRIDAY, 1).client.get_account()
    assert (account.last_equity, account.equity) == ("99980", "99895")  # 110.5 by now
    assert rig.client.get_open_position("XYZ").lastday_price == "102"


def test_closing_a_position(rig: Rig) -> None:
    rig.market("XYZ", "buy", 10)
    rig.at(THURSDAY, 0.5)
    half = rig.client.close_position("XYZ", ClosePositionRequest(percentage="50"))
    assert (half.side, half.qty) == (OrderSide.SELL, "5")
    assert rig.client.get_open_position("XYZ").qty_available == "5"
    with pytest.raises(APIError, match="requested: 10, available: 5"):
        rig.client.close_position("XYZ")
    assert rig.at(THURSDAY, 1.5).order(half).status is OrderStatus.FILLED
    rest = rig.client.close_position("XYZ", ClosePositionRequest(qty="2"))
    assert rest.qty == "2"
    rig.client.cancel_order_by_id(rest.id)
    assert rig.client.close_position(str(rest.asset_id)).qty == "5"
    assert rig.at(THURSDAY, 389).client.get_all_positions() == []
    with pytest.raises(APIError, match="position does not exist"):
        rig.client.close_position("XYZ")


def test_closing_more_than_is_available_is_refused(rig: Rig) -> None:
    rig.market("XYZ", "buy", 10)
    rig.at(THURSDAY, 0.5).market("XYZ", "sell", 4)
    sale = {"symbol": "XYZ", "side": "sell", "type": "market", "time_in_force": "day"}
    message = rig.refused(403, 40310000, qty="7", **sale)
    assert message == "insufficient qty available for order (requested: 7, available: 6)"
    rig.market("XYZ", "sell", 6)
    assert rig.at(THURSDAY, 1).client.get_all_positions() == []
    with pytest.raises(APIError, match="position does not exist") as caught:
        rig.client.get_open_position("XYZ")
    assert (caught.value.status_code, caught.value.code) == (404, 40410000)
    assert number(rig.client.get_account().cash) == 100_000 - 1000 + 1006


# --- refusals ----------------------------------------------------------------------------------

GOOD = {"symbol": "XYZ", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"qty": "0"}, 40010001, "qty must be > 0"),
        ({"qty": "-1"}, 40010001, "qty must be > 0"),
        ({"qty": "many"}, 40010001, "qty is not a number"),
        ({"qty": None}, 40010001, "qty or notional is required"),
        ({"qty": "NaN"}, 40010001, "qty must be > 0"),
        ({"type": "limit"}, 40010001, "limit orders require a limit price"),
        ({"limit_price": "5"}, 40010001, "market orders require no stop or limit price"),
        ({"symbol": "QQQ"}, 42210000, 'asset "QQQ" not found'),
        ({"type": "limit", "limit_price": "10.001"}, 42210000, "sub-penny increment"),
        ({"type": "limit", "limit_price": "0.00011"}, 42210000, "sub-penny increment"),
        ({"side": "hold"}, 40010001, "invalid side"),
        ({"time_in_force": "fok"}, 40010001, "invalid time_in_force"),
        ({"order_class": "bracket"}, 40010001, "bracket orders require take_profit.limit_price"),
        ({"qty": "0.5", "time_in_force": "opg"}, 42210000, "fractional orders must be DAY"),
        ({"qty": "0.5", "side": "sell"}, 42210000, "fractional orders cannot be sold short"),
    ],
)
def test_malformed_orders(rig: Rig, change: dict[str, Any], code: int, message: str) -> None:
    assert message in rig.refused(422, code, **(GOOD | change))
    assert rig.client.get_orders(GetOrdersRequest(status=QueryOrderStatus.ALL)) == []


def test_a_body_that_is_no_object_is_malformed(rig: Rig) -> None:
    answer = requests.post(f"{rig.url}/v2/orders", data="[1", headers=KEYS, timeout=5)
    assert (answer.status_code, answer.json()["code"]) == (422, 40010001)


def test_buying_power_counts_open_orders(rig: Rig) -> None:
    assert "insufficient buying power" in rig.refused(403, 40310000, **(GOOD | {"qty": "2001"}))
    rig.market("XYZ", "buy", 1500)  # valued at the first open, 100
    assert rig.client.get_account().buying_power == "50000"
    assert "insufficient buying power" in rig.refused(403, 40310000, **(GOOD | {"qty": "501"}))
    rig.market("XYZ", "buy", 500)


def test_duplicate_client_id_and_wash_trade(rig: Rig) -> None:
    rig.market("XYZ", "buy", 1, client_order_id="one")
    assert "must be unique" in rig.refused(422, 40010001, **GOOD, client_order_id="one")
    message = rig.refused(403, 40310000, **(GOOD | {"side": "sell"}))
    assert message == "potential wash trade detected. use complex orders"
    assert rig.client.get_order_by_client_id("one").qty == "1"


def test_limits_that_do_not_cross_are_no_wash_trade(rig: Rig) -> None:
    rig.limit("XYZ", "buy", 1, 90.0)
    rig.limit("XYZ", "sell", 1, 120.0)
    with pytest.raises(APIError, match="wash"):
        rig.limit("XYZ", "sell", 1, 90.0)


def test_unknown_orders_assets_and_paths(rig: Rig) -> None:
    missing = "00000000-0000-0000-0000-000000000000"
    for call in (rig.client.get_order_by_id, rig.client.cancel_order_by_id):
        with pytest.raises(APIError, match=f"order not found for {missing}") as caught:
            call(missing)
        assert (caught.value.status_code, caught.value.code) == (404, 40410000)
    with pytest.raises(APIError, match="asset not found for QQQ"):
        rig.client.get_asset("QQQ")
    with pytest.raises(APIError) as caught:
        rig.client.get_portfolio_history()
    assert caught.value.code != 40410000


# --- lists and cancellation --------------------------------------------------------------------


def test_listing_and_canceling(rig: Rig) -> None:
    first = rig.limit("XYZ", "buy", 1, 90.0)
    second = rig.at(THURSDAY, -30).limit("DAY", "buy", 1, 40.0)
    third = rig.at(THURSDAY, -20).limit("XYZ", "buy", 1, 91.0)

    def listed(**filters: Any) -> list[Any]:
        return [o.id for o in rig.client.get_orders(GetOrdersRequest(**filters))]

    assert listed() == [third.id, second.id, first.id]
    assert listed(direction=Sort.ASC, limit=2) == [first.id, second.id]
    assert listed(symbols=["XYZ"]) == [third.id, first.id]
    assert listed(after=moment(THURSDAY, -60)) == [third.id, second.id]
    assert listed(until=moment(THURSDAY, -20)) == [second.id, first.id]
    rig.client.cancel_order_by_id(second.id)
    assert listed(nested=True) == [third.id, first.id]
    assert listed(status=QueryOrderStatus.CLOSED) == [second.id]
    assert rig.order(second).canceled_at == moment(THURSDAY, -20)
    with pytest.raises(APIError, match='order is already in \\\\"canceled\\\\" state') as caught:
        rig.client.cancel_order_by_id(second.id)
    assert caught.value.status_code == 422
    assert [r.status for r in rig.client.cancel_orders()] == [200, 200]
    assert listed() == []
    assert len(listed(status=QueryOrderStatus.ALL)) == 3


def test_a_canceled_order_never_fills(rig: Rig) -> None:
    order = rig.market("XYZ", "buy", 1)
    rig.client.cancel_order_by_id(order.id)
    assert rig.at(FRIDAY, 390).order(order).status is OrderStatus.CANCELED
    assert rig.client.get_account().cash == "100000"


# --- the clock ---------------------------------------------------------------------------------


def test_the_replay_is_driven_over_http_and_only_forwards(rig: Rig) -> None:
    order = rig.market("XYZ", "buy", 1)

    def advance(to: str) -> requests.Response:
        url = f"{rig.url}/replay/advance"
        return requests.post(url, json={"to": to}, headers=KEYS, timeout=5)

    answer = advance("2025-01-02T09:30:00-05:00")
    assert answer.json() == {"now": "2025-01-02T14:30:00+00:00"}
    assert rig.order(order).status is OrderStatus.FILLED
    assert "backwards" in advance("2025-01-02T14:29:00+00:00").json()["message"]
    assert advance("soon").status_code == 422


def test_without_a_replay_clock_there_is_nothing_to_drive() -> None:
    app = create_app(BARS, api_key="k", secret_key="s", clock=lambda: moment(THURSDAY, 0))
    with BackgroundServer(app) as server:
        answer = requests.post(f"{server.url}/replay/advance", json={}, timeout=5)
    assert answer.status_code == 404


def test_a_clock_needs_a_time_zone() -> None:
    with pytest.raises(ExecutionError, match="time zone"):
        ReplayClock(dt.datetime(2025, 1, 2, 12))  # noqa: DTZ001
