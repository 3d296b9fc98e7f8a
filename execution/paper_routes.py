"""The paper broker's REST routes: Alpaca's trading API, version 2."""

from __future__ import annotations

import datetime as dt
from decimal import ROUND_DOWN, Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Query, Response
from fastapi.responses import JSONResponse

from execution import paper_read as read
from execution import paper_wire as wire
from execution.broker import OrderType, Side, TimeInForce
from execution.paper_book import PaperBook
from execution.paper_desk import Desk
from execution.paper_orders import Activity, BookOrder, Holding, NewOrder, PaperRefusal
from market import calendar

_MAX_ORDERS = 500
_MAX_ACTIVITIES = 100
_HUNDRED = Decimal(100)
_KINDS = ("FILL", "DIV", "SPLIT")


def market_routes(desk: Desk) -> APIRouter:
    """Return the routes of the account, the clock, the calendar and the assets."""
    router = APIRouter()

    def account() -> dict[str, Any]:
        with desk.open() as book:
            return wire.write_account(book)

    def clock() -> dict[str, Any]:
        with desk.open() as book:
            return wire.write_clock(book.now)

    def days(start: dt.date | None = None, end: dt.date | None = None) -> list[dict[str, str]]:
        first, last = start or calendar.FIRST_DATE, end or calendar.LAST_DATE
        if last < first:
            raise read.malformed("end must not be before start")
        return [wire.write_session(day) for day in calendar.sessions_between(first, last)]

    def assets(status: str = "", asset_class: str = "us_equity") -> list[dict[str, Any]]:
        with desk.open() as book:
            rows = [wire.write_asset(s, book.conditions, book.now) for s in sorted(desk.symbols)]
        if asset_class != "us_equity":
            return []
        return [row for row in rows if status in ("", "all", row["status"])]

    def asset(symbol_or_id: str) -> dict[str, Any]:
        symbol = desk.symbol(symbol_or_id)
        if symbol not in desk.symbols:
            raise PaperRefusal(404, 40410000, f"asset not found for {symbol_or_id}")
        with desk.open() as book:
            return wire.write_asset(symbol, book.conditions, book.now)

    router.get("/account")(account)
    router.get("/clock")(clock)
    router.get("/calendar")(days)
    router.get("/assets")(assets)
    router.get("/assets/{symbol_or_id}")(asset)
    return router


def order_routes(desk: Desk) -> APIRouter:
    """Return the routes of the orders."""
    router = APIRouter()

    def submit(body: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        new = read.read_new_order(body, desk.symbols)
        with desk.open() as book:
            return wire.write_order(book, book.submit(new), nested=True)

    def listing(query: Annotated[_Listing, Depends()]) -> list[dict[str, Any]]:
        with desk.open() as book:
            chosen = query.select(book)
            return [wire.write_order(book, order, nested=query.nested) for order in chosen]

    def by_client_id(client_order_id: str, nested: bool = False) -> dict[str, Any]:
        with desk.open() as book:
            order = book.find_by_client_id(client_order_id)
            return wire.write_order(book, order, nested=nested)

    def by_id(order_id: str, nested: bool = False) -> dict[str, Any]:
        with desk.open() as book:
            return wire.write_order(book, book.find(order_id), nested=nested)

    def replace(order_id: str, body: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        with desk.open() as book:
            new = read.read_replacement(body, book.find(order_id))
            return wire.write_order(book, book.replace(order_id, new), nested=True)

    def cancel(order_id: str) -> Response:
        with desk.open() as book:
            book.cancel(order_id)
        return Response(status_code=204)

    def cancel_all() -> JSONResponse:
        with desk.open() as book:
            open_ids = [order.order_id for order in book.open_orders]
            for order_id in open_ids:
                if book.find(order_id).is_open:  # it may have gone with another of its group
                    book.cancel(order_id)
        return JSONResponse([{"id": one, "status": 200} for one in open_ids], status_code=207)

    router.post("/orders")(submit)
    router.get("/orders")(listing)
    router.get("/orders:by_client_order_id")(by_client_id)
    router.get("/orders/{order_id}")(by_id)
    router.patch("/orders/{order_id}")(replace)
    router.delete("/orders/{order_id}")(cancel)
    router.delete("/orders")(cancel_all)
    return router


class _Listing:
    """The filters of ``GET /v2/orders``; ``after`` and ``until`` are both exclusive.

    Nested, a group is one row: it is open as long as one of its orders is.
    """

    def __init__(
        self,
        status: Literal["open", "closed", "all"] = "open",
        limit: Annotated[int, Query(ge=1, le=_MAX_ORDERS)] = 50,
        after: str | None = None,
        until: str | None = None,
        direction: Literal["asc", "desc"] = "desc",
        symbols: str | None = None,
        side: Side | None = None,
        nested: bool = False,
    ) -> None:
        self._status = status
        self._limit = limit
        self._after = read.read_time(after, "after")
        self._until = read.read_time(until, "until")
        self._newest_first = direction == "desc"
        self._symbols = None if symbols is None else frozenset(symbols.split(","))
        self._side = side
        self.nested = nested

    def select(self, book: PaperBook) -> list[BookOrder]:
        chosen = [order for order in book.orders if self._wants(order)]
        return (chosen[::-1] if self._newest_first else chosen)[: self._limit]

    def _wants(self, order: BookOrder) -> bool:
        if self.nested and order.parent is not None:
            return False
        is_open = order.is_open or (self.nested and any(leg.is_open for leg in order.legs))
        return (
            self._status in ("all", "open" if is_open else "closed")
            and (self._after is None or order.submitted_at > self._after)
            and (self._until is None or order.submitted_at < self._until)
            and (self._symbols is None or order.symbol in self._symbols)
            and (self._side is None or order.side is self._side)
        )


def position_routes(desk: Desk) -> APIRouter:
    """Return the routes of the positions."""
    router = APIRouter()

    def held(book: PaperBook, symbol_or_id: str) -> Holding:
        holding = book.holding(desk.symbol(symbol_or_id))
        if holding is None:
            raise PaperRefusal(404, 40410000, "position does not exist")
        return holding

    def positions() -> list[dict[str, Any]]:
        with desk.open() as book:
            return [wire.write_position(book, holding) for holding in book.holdings]

    def position(symbol_or_id: str) -> dict[str, Any]:
        with desk.open() as book:
            return wire.write_position(book, held(book, symbol_or_id))

    def close(
        symbol_or_id: str, qty: str | None = None, percentage: str | None = None
    ) -> dict[str, Any]:
        with desk.open() as book:
            new = _closing_order(held(book, symbol_or_id), qty, percentage)
            return wire.write_order(book, book.submit(new))

    def close_all(cancel_orders: bool = False) -> JSONResponse:
        answers: list[dict[str, Any]] = []
        with desk.open() as book:
            while cancel_orders and book.open_orders:
                book.cancel(book.open_orders[0].order_id)
            for holding in book.holdings:
                answer: dict[str, Any] = {"symbol": holding.symbol, "status": 200}
                try:
                    order = book.submit(_closing_order(holding, None, None))
                    answer["body"] = wire.write_order(book, order)
                except PaperRefusal as refusal:
                    answer |= {"status": refusal.http_status, "body": refusal.body}
                answers.append(answer)
        return JSONResponse(answers, status_code=207)

    router.get("/positions")(positions)
    router.delete("/positions")(close_all)
    router.get("/positions/{symbol_or_id}")(position)
    router.delete("/positions/{symbol_or_id}")(close)
    return router


def _closing_order(holding: Holding, qty: str | None, percentage: str | None) -> NewOrder:
    quantity = abs(holding.quantity)
    if qty is not None and percentage is not None:
        raise read.malformed("qty and percentage must not both be given")
    if qty is not None:
        quantity = read.read_number(qty, "qty")
    elif percentage is not None:
        share = read.read_number(percentage, "percentage") / _HUNDRED
        quantity = (quantity * share).quantize(Decimal("0.000000001"), rounding=ROUND_DOWN)
    return NewOrder(
        holding.symbol, holding.closing_side, quantity, OrderType.MARKET, TimeInForce.DAY
    )


def activity_routes(desk: Desk) -> APIRouter:
    """Return the routes of the account's activities."""
    router = APIRouter()

    def of_types(
        query: Annotated[_Activities, Depends()], activity_types: str | None = None
    ) -> list[dict[str, Any]]:
        kinds = _KINDS if activity_types is None else tuple(activity_types.split(","))
        return rows(query, kinds)

    def of_type(
        activity_type: str, query: Annotated[_Activities, Depends()]
    ) -> list[dict[str, Any]]:
        return rows(query, (activity_type,))

    def rows(query: _Activities, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
        for kind in kinds:
            if kind not in _KINDS:
                raise read.malformed(f"invalid activity type: {kind}")
        with desk.open() as book:
            chosen = query.select(a for a in book.records.activities if a.kind in kinds)
            return [wire.write_activity(a, book.account_number) for a in chosen]

    router.get("/account/activities")(of_types)
    router.get("/account/activities/{activity_type}")(of_type)
    return router


class _Activities:
    """The filters of the activities; ``after`` and ``until`` are both exclusive.

    ``page_token`` is the id of the last row of the page before.
    """

    def __init__(
        self,
        date: dt.date | None = None,
        after: str | None = None,
        until: str | None = None,
        direction: Literal["asc", "desc"] = "desc",
        page_size: Annotated[int, Query(ge=1, le=_MAX_ACTIVITIES)] = _MAX_ACTIVITIES,
        page_token: str | None = None,
    ) -> None:
        if date is not None and (after is not None or until is not None):
            raise read.malformed("date cannot be used with after or until")
        self._date = date
        self._after = read.read_time(after, "after")
        self._until = read.read_time(until, "until")
        self._newest_first = direction == "desc"
        self._size = page_size
        self._token = page_token

    def select(self, activities: Any) -> list[Activity]:
        chosen: list[Activity] = [a for a in activities if self._wants(a)]
        if self._newest_first:
            chosen.reverse()
        if self._token is not None:
            ids = [activity.activity_id for activity in chosen]
            if self._token not in ids:
                raise read.malformed("page_token is invalid")
            chosen = chosen[ids.index(self._token) + 1 :]
        return chosen[: self._size]

    def _wants(self, activity: Activity) -> bool:
        day = activity.at.astimezone(calendar.NEW_YORK).date()
        return (
            (self._date is None or day == self._date)
            and (self._after is None or activity.at > self._after)
            and (self._until is None or activity.at < self._until)
        )
