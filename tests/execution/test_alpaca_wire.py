"""Alpaca's wire format: what is sent, and what each word and gap in an answer means."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execution import alpaca_wire as wire
from execution.broker import OrderStatus, Side
from market.errors import BrokerError
from tests.execution.distant_broker import ACCOUNT, order


@given(
    st.decimals(min_value="0.0001", max_value="1e9", allow_nan=False), st.sampled_from(list(Side))
)
def test_a_rounded_price_is_on_the_grid_and_never_worse(price: Decimal, side: Side) -> None:
    rounded = wire.quantise_price(price, side)
    step = Decimal("0.01") if price >= 1 else Decimal("0.0001")
    assert rounded % step == 0
    assert abs(rounded - price) < step
    assert rounded <= price if side is Side.BUY else rounded >= price


@given(st.decimals(min_value="1e-9", max_value="1e20", allow_nan=False))
def test_a_quantity_is_never_enlarged_and_has_no_exponent(quantity: Decimal) -> None:
    sent = wire.plain(wire.quantise_quantity(quantity))
    assert set(sent) <= set("0123456789.")
    with localcontext(prec=300):  # The difference itself must not be rounded.
        assert 0 <= quantity - Decimal(sent) < Decimal("1e-9")


@pytest.mark.parametrize(
    ("word", "filled", "status", "reason"),
    [
        ("new", "0", OrderStatus.ACCEPTED, None),
        ("accepted", "0", OrderStatus.ACCEPTED, None),
        ("pending_new", "0", OrderStatus.ACCEPTED, None),
        ("accepted_for_bidding", "0", OrderStatus.ACCEPTED, None),
        ("held", "0", OrderStatus.ACCEPTED, "held"),
        ("pending_review", "0", OrderStatus.ACCEPTED, "pending_review"),
        ("pending_cancel", "0", OrderStatus.ACCEPTED, "pending_cancel"),
        ("pending_cancel", "3", OrderStatus.PARTIALLY_FILLED, "pending_cancel"),
        ("pending_replace", "0", OrderStatus.ACCEPTED, "pending_replace"),
        ("suspended", "0", OrderStatus.ACCEPTED, "suspended"),
        ("calculated", "0", OrderStatus.ACCEPTED, "calculated"),
        ("stopped", "0", OrderStatus.ACCEPTED, "stopped"),
        ("done_for_day", "4", OrderStatus.PARTIALLY_FILLED, "done_for_day"),
        ("partially_filled", "4", OrderStatus.PARTIALLY_FILLED, None),
        ("filled", "10", OrderStatus.FILLED, None),
        ("canceled", "4", OrderStatus.CANCELED, None),
        ("replaced", "0", OrderStatus.CANCELED, "replaced"),
        ("expired", "0", OrderStatus.EXPIRED, None),
        ("rejected", "0", OrderStatus.REJECTED, "rejected"),
        ("teleported", "0", OrderStatus.UNKNOWN, "unknown order status 'teleported'"),
    ],
)
def test_status_words(word: str, filled: str, status: OrderStatus, reason: str | None) -> None:
    read = wire.read_order(order(status=word, filled_qty=filled))
    assert (read.status, read.reason) == (status, reason)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "ACCOUNT_CLOSED"},
        {"trading_blocked": True},
        {"account_blocked": True},
        {"trade_suspended_by_user": True},
    ],
)
def test_an_account_blocked_for_any_reason_is_blocked(change: dict[str, Any]) -> None:
    assert not wire.read_account(ACCOUNT).is_blocked
    assert wire.read_account(ACCOUNT | change).is_blocked


@pytest.mark.parametrize(
    "change",
    [
        {"cash": None},
        {"cash": "much"},
        {"cash": "NaN"},
        {"cash": True},
        {"trading_blocked": None},
        {"trading_blocked": "false"},
        {"currency": ""},
    ],
)
def test_an_account_with_gaps_is_unreadable(change: dict[str, Any]) -> None:
    with pytest.raises(BrokerError, match="no readable"):
        wire.read_account(ACCOUNT | change)


def test_a_short_position_is_negative_however_it_is_written() -> None:
    row = {
        "symbol": "XYZ",
        "side": "short",
        "avg_entry_price": "10",
        "current_price": 11,
        "market_value": "-55",
    }
    for quantity in ("5", "-5"):
        assert wire.read_position(row | {"qty": quantity}).quantity == -5
