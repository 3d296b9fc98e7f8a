"""What happened to a paper account: trade updates for the stream, activities for the statement."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal

from execution.paper_actions import CorporateAction
from execution.paper_orders import ZERO, Activity, BookOrder, Event, Update, paper_id


class Records:
    """Append-only lists of updates and activities; ids are the same in every run."""

    def __init__(self, account_number: str) -> None:
        self._account = account_number
        self._updates: list[Update] = []
        self._activities: list[Activity] = []

    @property
    def count(self) -> int:
        """How many updates there are."""
        return len(self._updates)

    def updates_since(self, position: int) -> tuple[Update, ...]:
        """Return the updates from a position on."""
        return tuple(self._updates[position:])

    @property
    def activities(self) -> tuple[Activity, ...]:
        """Every activity, oldest first."""
        return tuple(self._activities)

    def note(self, event: Event, order: BookOrder, at: dt.datetime) -> None:
        """Write that an order has changed."""
        self._updates.append(Update(event, at, replace(order), self._next_id()))

    def fill(
        self,
        order: BookOrder,
        at: dt.datetime,
        quantity: Decimal,
        price_usd: Decimal,
        position: Decimal,
    ) -> None:
        """Write that an order has filled, in part or wholly; it carries the fill already."""
        event = Event.PARTIAL_FILL if order.remaining else Event.FILL
        execution = self._next_id()
        update = Update(event, at, replace(order), execution, quantity, price_usd, position)
        self._updates.append(update)
        cash = -order.signed * quantity * price_usd
        self._activities.append(
            Activity(
                _activity_id(at, execution), "FILL", at, order.symbol, quantity, cash, None, update
            )
        )

    def action(self, action: CorporateAction, quantity: Decimal, net_usd: Decimal) -> None:
        """Write that a split or a dividend has met a position."""
        kind, share = ("SPLIT", action.ratio) if action.is_split else ("DIV", action.amount_usd)
        name = f"{self._account}/activity/{len(self._activities)}"
        identity = _activity_id(action.at, paper_id(name))
        self._activities.append(
            Activity(identity, kind, action.at, action.symbol, quantity, net_usd + ZERO, share)
        )

    def _next_id(self) -> str:
        return paper_id(f"{self._account}/update/{len(self._updates)}")


def _activity_id(at: dt.datetime, identity: str) -> str:
    return f"{at:%Y%m%d%H%M%S}{at.microsecond // 1000:03d}::{identity}"
