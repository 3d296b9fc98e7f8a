"""What the paper broker refuses and rejects, in the service's words."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import requests

from execution.paper_conditions import PaperConditions
from market.errors import ExecutionError
from tests.execution.paper_rig import (
    FRIDAY,
    KEYS,
    THURSDAY,
    Rig,
    bar,
    frame,
    minutes,
    moment,
    paper,
)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"websockets\.legacy", DeprecationWarning)
    from alpaca.trading.enums import OrderStatus
    from alpaca.trading.requests import ClosePositionRequest

BARS = frame(
    bar("XYZ", THURSDAY, 0, (100, 101, 99, 100)),
    bar("XYZ", THURSDAY, 5, (100, 101, 99, 100)),
    bar("ABC", THURSDAY, 0, (50, 50, 50, 50)),
    bar("XYZ", FRIDAY, 0, (100, 101, 99, 100)),
)
BUY = {"symbol": "XYZ", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
SELL = BUY | {"side": "sell"}


def limit(price: str) -> dict[str, str]:
    return {"type": "limit", "limit_price": price}


def stop(price: str, limit_price: str | None = None) -> dict[str, str]:
    if limit_price is None:
        return {"type": "stop", "stop_price": price}
    return {"type": "stop_limit", "stop_price": price, "limit_price": limit_price}


TRAIL = {"type": "trailing_stop", "trail_price": "1"}


# --- wash trades -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resting", "new", "reason"),
    [
        ({}, {}, "opposite side market/stop order exists"),
        ({}, limit("500"), "opposite side market/stop order exists"),
        (stop("101"), limit("500"), "opposite side market/stop order exists"),
        (limit("90"), {}, "opposite side limit order exists"),
        (limit("90"), stop("95"), "opposite side limit order exists"),
        (limit("90"), limit("90"), "opposite side limit order exists"),
        (limit("90"), limit("90.01"), None),
        (limit("90"), stop("95", "90"), "opposite side limit order exists"),
        (limit("90"), stop("95", "94"), None),
        (stop("101", "105"), limit("105"), "opposite side limit order exists"),
        (limit("90"), TRAIL, None),
        (TRAIL, {}, None),
    ],
)
def test_wash_trades(resting: dict[str, str], new: dict[str, str], reason: str | None) -> None:
    with paper(BARS) as rig:
        rig.market("ABC", "sell", 1)  # another symbol is no matter
        first = rig.post(**(BUY | resting)).json()
        answer = rig.post(**(SELL | new))
        if reason is None:
            assert answer.status_code == 200, answer.text
            return
        assert answer.status_code == 403
        assert answer.json() == {
            "code": 40310000,
            "message": "potential wash trade detected. use complex orders",
            "reject_reason": reason,
            "existing_order_id": first["id"],
        }


def test_complex_orders_are_no_wash_trades() -> None:
    with paper(BARS) as rig:
        rig.limit("XYZ", "sell", 1, 120.0)
        exits = {"take_profit": {"limit_price": "130"}, "stop_loss": {"stop_price": "90"}}
        assert rig.post(**BUY, order_class="bracket", **exits).status_code == 200


# --- shares and money --------------------------------------------------------------------------


def test_held_shares_name_the_orders_that_hold_them() -> None:
    with paper(BARS) as rig:
        rig.market("XYZ", "buy", 10)
        held = rig.at(THURSDAY, 1).limit("XYZ", "sell", 4, 120.0)
        answer = rig.post(**(SELL | {"qty": "7"}))
        assert answer.status_code == 403
        assert answer.json() == {
            "code": 40310000,
            "message": "insufficient qty available for order (requested: 7, available: 6)",
            "symbol": "XYZ",
            "existing_qty": "10",
            "available": "6",
            "held_for_orders": "4",
            "related_orders": [str(held.id)],
        }


def test_buying_power_is_told() -> None:
    with paper(BARS) as rig:
        answer = rig.post(**(BUY | {"qty": "3000"} | limit("100")))
        assert answer.status_code == 403
        assert answer.json() == {
            "code": 40310000,
            "message": "insufficient buying power",
            "buying_power": "200000",
            "cost_basis": "300000",
        }


def test_a_duplicate_id_of_a_finished_order_is_a_duplicate_still() -> None:
    with paper(BARS) as rig:
        rig.market("XYZ", "buy", 1, client_order_id="one")
        rig.at(THURSDAY, 1)
        message = rig.refused(422, 40010001, **BUY, client_order_id="one")
        assert message == "client_order_id must be unique"


# --- assets ------------------------------------------------------------------------------------


def test_an_inactive_asset() -> None:
    with paper(BARS, conditions=PaperConditions(inactive=frozenset({"XYZ"}))) as rig:
        assert rig.refused(422, 42210000, **BUY) == "asset XYZ is not active"
        asset = rig.client.get_asset("XYZ")
        assert (asset.status.value, asset.tradable) == ("inactive", False)
        active = rig.get("/assets", status="active")
        assert [row["symbol"] for row in active] == ["ABC"]


def test_a_symbol_that_cannot_be_sold_short() -> None:
    with paper(BARS, conditions=PaperConditions(not_shortable=frozenset({"XYZ"}))) as rig:
        assert rig.refused(422, 42210000, **SELL) == "asset XYZ cannot be sold short"
        asset = rig.client.get_asset("XYZ")
        assert (asset.shortable, asset.easy_to_borrow) == (False, False)
        rig.market("XYZ", "buy", 2)
        rig.at(THURSDAY, 1).market("XYZ", "sell", 2)  # a sale of what is there is none


def test_hard_to_borrow_means_day_orders() -> None:
    with paper(BARS, conditions=PaperConditions(hard_to_borrow=frozenset({"XYZ"}))) as rig:
        message = rig.refused(422, 42210000, **(SELL | {"time_in_force": "gtc"}))
        assert message == "only day orders are allowed for hard-to-borrow asset XYZ"
        asset = rig.client.get_asset("XYZ")
        assert (asset.shortable, asset.easy_to_borrow) == (True, False)
        rig.market("XYZ", "sell", 1)


# --- the account -------------------------------------------------------------------------------


def test_a_blocked_account_takes_no_orders() -> None:
    with paper(BARS, conditions=PaperConditions(account_blocked=True)) as rig:
        assert rig.refused(403, 40310000, **BUY) == "account is blocked"
        account = rig.client.get_account()
        assert account.account_blocked
        assert account.trading_blocked


def test_requests_are_limited_by_the_replayed_minute() -> None:
    with paper(BARS, conditions=PaperConditions(requests_per_minute=3)) as rig:

        def status() -> int:
            return requests.get(f"{rig.url}/v2/clock", headers=KEYS, timeout=5).status_code

        assert [status() for _ in range(4)] == [200, 200, 200, 429]
        answer = rig.post(**BUY)
        assert answer.status_code == 429
        assert answer.json() == {"code": 42910000, "message": "rate limit exceeded"}
        rig.at(THURSDAY, -59.5)
        assert status() == 429
        rig.at(THURSDAY, -59)
        assert [status() for _ in range(4)] == [200, 200, 200, 429]
        rig.at(THURSDAY, 1)
        assert rig.get("/orders", status="all") == []  # what was answered 429 was not done


def test_a_limit_of_no_requests_is_refused() -> None:
    with pytest.raises(ExecutionError, match="request limit"):
        PaperConditions(requests_per_minute=0)


# --- late rejects ------------------------------------------------------------------------------


def test_a_late_reject_comes_after_acceptance() -> None:
    conditions = PaperConditions(late_rejects={"XYZ": "no locate"})
    with paper(BARS, conditions=conditions) as rig:
        order = rig.market("XYZ", "buy", 1)
        assert order.status is OrderStatus.ACCEPTED
        assert rig.order(order).status is OrderStatus.ACCEPTED
        row = rig.at(THURSDAY, 0).get(f"/orders/{order.id}")
        assert (row["status"], row["reject_reason"]) == ("rejected", "no locate")
        assert rig.order(order).failed_at == moment(THURSDAY, 0)
        assert rig.positions() == {}
        assert rig.cash() == 100_000
        now = rig.market("XYZ", "buy", 1)
        assert now.status is OrderStatus.NEW
        assert rig.order(now).status is OrderStatus.REJECTED


def test_a_rejected_entry_cancels_its_legs() -> None:
    conditions = PaperConditions(late_rejects={"XYZ": "no locate"})
    exits = {"take_profit": {"limit_price": "130"}, "stop_loss": {"stop_price": "90"}}
    with paper(BARS, conditions=conditions) as rig:
        placed = rig.post(**BUY, order_class="bracket", **exits).json()
        rig.at(THURSDAY, 1)
        row: Any = rig.get(f"/orders/{placed['id']}", nested="true")
        assert row["status"] == "rejected"
        assert [leg["status"] for leg in row["legs"]] == ["canceled", "canceled"]


# --- closing everything ------------------------------------------------------------------------


def flat_rig(rig: Rig) -> None:
    rig.market("XYZ", "buy", 10)
    rig.market("ABC", "sell", 5)
    rig.at(THURSDAY, 1)


def test_closing_all_positions() -> None:
    with paper(minutes("XYZ", *[(100.0, 100.0, 100.0, 100.0)] * 3)) as rig:
        rig.market("XYZ", "buy", 10)
        held = rig.at(THURSDAY, 0.5).limit("XYZ", "sell", 4, 120.0)
        (refused,) = rig.client.close_all_positions()
        assert (refused.symbol, refused.status) == ("XYZ", 403)
        assert refused.body.available == 6
        (closed,) = rig.client.close_all_positions(cancel_orders=True)
        assert (closed.status, closed.body.qty) == (200, "10")
        assert rig.order(held).status is OrderStatus.CANCELED
        assert rig.at(THURSDAY, 1).positions() == {}


def test_the_other_side_closes_a_short() -> None:
    with paper(BARS) as rig:
        flat_rig(rig)
        order = rig.client.close_position("ABC", ClosePositionRequest(qty="2"))
        assert (order.side.value, order.qty) == ("buy", "2")
