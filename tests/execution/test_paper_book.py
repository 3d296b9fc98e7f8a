"""The paper broker's tape and book, by hand and under random orders."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from execution import broker as port
from execution.paper_hours import order_session
from execution.paper_orders import Holding, PaperRefusal
from execution.paper_tape import Tape
from market.errors import ExecutionError
from tests.execution.paper_rig import FRIDAY, MONDAY, THURSDAY, bar, frame, moment


def test_opening_orders_are_refused_from_0928_to_1900() -> None:
    opg = port.TimeInForce.OPG
    assert order_session(opg, moment(THURSDAY, -3)) == THURSDAY
    with pytest.raises(PaperRefusal, match="9:28am"):
        order_session(opg, moment(THURSDAY, -2))
    with pytest.raises(PaperRefusal):
        order_session(opg, moment(THURSDAY, 569))
    assert order_session(opg, moment(THURSDAY, 570)) == FRIDAY
    assert order_session(opg, moment(FRIDAY, 24 * 60)) == MONDAY


# --- bars that cannot be traded against --------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "no bars"),
        ([bar("A", THURSDAY, -30, (1.0, 1.0, 1.0, 1.0))], "no bars"),
        ([bar("A", THURSDAY, 0, (1.0, 1.0, 1.0, float("nan")))], "impossible"),
        ([bar("A", THURSDAY, 0, (1.0, 0.5, 1.0, 1.0))], "impossible"),
        (
            [
                bar("A", THURSDAY, 0, (1.0, 1.0, 1.0, 1.0), 390),
                bar("A", THURSDAY, 5, (1.0, 1.0, 1.0, 1.0)),
            ],
            "overlap",
        ),
    ],
)
def test_unusable_bars_are_refused(rows: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(ExecutionError, match=problem):
        Tape(frame(*rows))


@pytest.mark.parametrize(
    ("held", "average", "traded", "price", "left", "then"),
    [
        (0, 0, 10, 100, 10, 100),
        (10, 100, 10, 110, 20, 105),
        (10, 100, -4, 110, 6, 100),
        (10, 100, -16, 110, -6, 110),
        (-10, 100, -10, 90, -20, 95),
        (-10, 100, 4, 90, -6, 100),
        (-10, 100, 16, 90, 6, 90),
    ],
)
def test_average_entry_price(
    held: int, average: int, traded: int, price: int, left: int, then: int
) -> None:
    holding = Holding("XYZ", Decimal(held), Decimal(average))
    after = holding.after(Decimal(traded), Decimal(price))
    assert (after.quantity, after.average_price_usd) == (left, then)
