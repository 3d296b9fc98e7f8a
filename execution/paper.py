"""A paper broker that speaks Alpaca's trading API and fills at replayed prices.

An unmodified alpaca-py client works against it, and so does ``execution.alpaca.AlpacaBroker``:
the code that trades paper is the code that trades live. Time comes from outside; the book is
replayed up to it on every request.
"""

from __future__ import annotations

import datetime as dt
import secrets
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from decimal import ROUND_DOWN, Decimal
from typing import Annotated, Any, Literal

import polars as pl
from fastapi import APIRouter, Body, Depends, FastAPI, Header, Query, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from execution import paper_wire as wire
from execution.broker import OrderType, Side, TimeInForce
from execution.paper_book import BookOrder, Holding, NewOrder, PaperBook, PaperRefusal
from execution.paper_tape import Tape
from market import calendar
from market.errors import ExecutionError

DEFAULT_CASH_USD = Decimal(100_000)
_MAX_ORDERS = 500
_HUNDRED = Decimal(100)


class ReplayClock:
    """A clock that stands still until it is told to move, and only moves forwards.

    Calling the clock is the same as :meth:`now`, so that it can be passed as ``clock``. It may
    be used from several threads.

    Examples
    --------
    >>> clock = ReplayClock(dt.datetime(2025, 1, 2, 14, 0, tzinfo=dt.UTC))
    >>> clock.advance_to(dt.datetime(2025, 1, 2, 14, 30, tzinfo=dt.UTC))
    >>> clock.now().isoformat()
    '2025-01-02T14:30:00+00:00'
    """

    def __init__(self, start: dt.datetime) -> None:
        self._lock = threading.Lock()
        self._now = _aware(start)

    def __call__(self) -> dt.datetime:
        """Return the present moment of the replay, UTC."""
        return self.now()

    def now(self) -> dt.datetime:
        """Return the present moment of the replay, UTC."""
        with self._lock:
            return self._now

    def advance_to(self, moment: dt.datetime) -> None:
        """Move to ``moment``.

        Raises
        ------
        ExecutionError
            When it lies before the present moment or has no time zone.
        """
        moment = _aware(moment)
        with self._lock:
            if moment < self._now:
                raise ExecutionError(
                    "a replay does not run backwards",
                    got=moment.isoformat(),
                    allowed=f"{self._now.isoformat()} or later",
                    remedy="start a new paper broker to go back in time",
                )
            self._now = moment


def create_app(
    bars: pl.DataFrame,
    *,
    api_key: str,
    secret_key: str,
    clock: Callable[[], dt.datetime],
    starting_cash_usd: Decimal = DEFAULT_CASH_USD,
    account_number: str = "PA00000000",
) -> FastAPI:
    """Build the paper broker.

    Parameters
    ----------
    bars : pl.DataFrame
        ``BAR_SCHEMA``, one timeframe per symbol; the symbols in it are the ones that exist.
    api_key, secret_key : str
        What callers must send.
    clock : Callable
        Returns the present moment, aware. With a :class:`ReplayClock` the app also offers
        ``POST /replay/advance`` with ``{"to": "<ISO 8601>"}``, under the same keys.
    starting_cash_usd : Decimal, default 100000
        Cash at the start.
    account_number : str, default "PA00000000"
        Also the seed of all ids.

    Returns
    -------
    FastAPI
        The application; it holds the account in memory.

    Raises
    ------
    ExecutionError
        When a key is empty, or the bars cannot be traded against.

    Notes
    -----
    Market orders fill at the open of the first bar that starts at or after their arrival; limit
    orders at a better open or at the limit; ``opg`` orders at the session's first bar only. An
    order that did not trade expires at its session's close, unless the bars ended before.
    """
    if not api_key or not secret_key:
        raise ExecutionError(
            "the paper broker needs keys", remedy="choose any two non-empty words and use them"
        )
    book = PaperBook(
        Tape(bars),
        now=_aware(clock()),
        starting_cash_usd=starting_cash_usd,
        account_number=account_number,
    )
    desk = _Desk(book, clock)
    app = _empty_app()
    guard = Depends(_guard(api_key, secret_key))
    for router in (_market_routes(desk), _order_routes(desk), _position_routes(desk)):
        app.include_router(router, prefix="/v2", dependencies=[guard])
    if isinstance(clock, ReplayClock):
        app.include_router(_replay_routes(desk, clock), dependencies=[guard])
    return app


def _empty_app() -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(PaperRefusal, _answer_refusal)
    app.add_exception_handler(RequestValidationError, _answer_malformed)
    app.add_exception_handler(HTTPException, _answer_http)
    return app


class _Desk:
    """The book behind a lock, replayed up to the clock whenever it is opened."""

    def __init__(self, book: PaperBook, clock: Callable[[], dt.datetime]) -> None:
        self._book = book
        self._clock = clock
        self._lock = threading.Lock()
        self.symbols = frozenset(book.tape.symbols)
        self._symbol_of = {wire.asset_id(symbol): symbol for symbol in book.tape.symbols}

    @contextmanager
    def open(self) -> Generator[PaperBook]:
        with self._lock:
            self._book.advance(_aware(self._clock()))
            yield self._book

    def symbol(self, symbol_or_id: str) -> str:
        return self._symbol_of.get(symbol_or_id, symbol_or_id)


def _guard(api_key: str, secret_key: str) -> Callable[..., None]:
    def check(
        key: Annotated[str | None, Header(alias="APCA-API-KEY-ID")] = None,
        secret: Annotated[str | None, Header(alias="APCA-API-SECRET-KEY")] = None,
    ) -> None:
        given = key is not None and secret is not None
        key_fits = secrets.compare_digest((key or "").encode(), api_key.encode())
        secret_fits = secrets.compare_digest((secret or "").encode(), secret_key.encode())
        if not (key_fits and secret_fits):
            raise PaperRefusal(403 if given else 401, 40110000, "request is not authorized.")

    return check


def _market_routes(desk: _Desk) -> APIRouter:
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
            raise wire.malformed("end must not be before start")
        return [wire.write_session(day) for day in calendar.sessions_between(first, last)]

    def assets(status: str = "active", asset_class: str = "us_equity") -> list[dict[str, Any]]:
        if status not in ("active", "all") or asset_class != "us_equity":
            return []
        return [wire.write_asset(symbol) for symbol in sorted(desk.symbols)]

    def asset(symbol_or_id: str) -> dict[str, Any]:
        symbol = desk.symbol(symbol_or_id)
        if symbol not in desk.symbols:
            raise PaperRefusal(404, 40410000, f"asset not found for {symbol_or_id}")
        return wire.write_asset(symbol)

    router.get("/account")(account)
    router.get("/clock")(clock)
    router.get("/calendar")(days)
    router.get("/assets")(assets)
    router.get("/assets/{symbol_or_id}")(asset)
    return router


def _order_routes(desk: _Desk) -> APIRouter:
    router = APIRouter()

    def submit(body: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        new = wire.read_new_order(body, desk.symbols)
        with desk.open() as book:
            return wire.write_order(book.submit(new), book.now)

    def listing(query: Annotated[_Listing, Depends()]) -> list[dict[str, Any]]:
        with desk.open() as book:
            return [wire.write_order(order, book.now) for order in query.select(book)]

    def by_client_id(client_order_id: str) -> dict[str, Any]:
        with desk.open() as book:
            return wire.write_order(book.find_by_client_id(client_order_id), book.now)

    def by_id(order_id: str) -> dict[str, Any]:
        with desk.open() as book:
            return wire.write_order(book.find(order_id), book.now)

    def cancel(order_id: str) -> Response:
        with desk.open() as book:
            book.cancel(order_id)
        return Response(status_code=204)

    def cancel_all() -> JSONResponse:
        with desk.open() as book:
            canceled = [book.cancel(order.order_id).order_id for order in book.open_orders]
        return JSONResponse([{"id": one, "status": 200} for one in canceled], status_code=207)

    router.post("/orders")(submit)
    router.get("/orders")(listing)
    router.get("/orders:by_client_order_id")(by_client_id)
    router.get("/orders/{order_id}")(by_id)
    router.delete("/orders/{order_id}")(cancel)
    router.delete("/orders")(cancel_all)
    return router


class _Listing:
    """The filters of ``GET /v2/orders``; ``after`` and ``until`` are both exclusive."""

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
        self._after = wire.read_time(after, "after")
        self._until = wire.read_time(until, "until")
        self._newest_first = direction == "desc"
        self._symbols = None if symbols is None else frozenset(symbols.split(","))
        self._side = side
        self._nested = nested  # accepted for compatibility: there are no legs yet

    def select(self, book: PaperBook) -> list[BookOrder]:
        orders = book.open_orders if self._status == "open" else book.orders
        chosen = [order for order in orders if self._wants(order)]
        return (chosen[::-1] if self._newest_first else chosen)[: self._limit]

    def _wants(self, order: BookOrder) -> bool:
        return (
            (self._status != "closed" or not order.is_open)
            and (self._after is None or order.submitted_at > self._after)
            and (self._until is None or order.submitted_at < self._until)
            and (self._symbols is None or order.symbol in self._symbols)
            and (self._side is None or order.side is self._side)
        )


def _position_routes(desk: _Desk) -> APIRouter:
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
            return wire.write_order(book.submit(new), book.now)

    router.get("/positions")(positions)
    router.get("/positions/{symbol_or_id}")(position)
    router.delete("/positions/{symbol_or_id}")(close)
    return router


def _closing_order(holding: Holding, qty: str | None, percentage: str | None) -> NewOrder:
    quantity = abs(holding.quantity)
    if qty is not None and percentage is not None:
        raise wire.malformed("qty and percentage must not both be given")
    if qty is not None:
        quantity = wire.read_number(qty, "qty")
    elif percentage is not None:
        share = wire.read_number(percentage, "percentage") / _HUNDRED
        quantity = (quantity * share).quantize(Decimal("0.000000001"), rounding=ROUND_DOWN)
    side = Side.SELL if holding.quantity > 0 else Side.BUY
    return NewOrder(holding.symbol, side, quantity, OrderType.MARKET, TimeInForce.DAY)


def _replay_routes(desk: _Desk, clock: ReplayClock) -> APIRouter:
    router = APIRouter()

    def advance(to: Annotated[str, Body(embed=True)]) -> dict[str, str]:
        moment = wire.read_time(to, "to")
        try:
            clock.advance_to(_aware(moment or clock.now()))
        except ExecutionError as error:
            raise wire.malformed(str(error)) from error
        with desk.open() as book:
            return {"now": book.now.isoformat()}

    router.post("/replay/advance")(advance)
    return router


def _answer_refusal(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PaperRefusal)  # as registered
    return JSONResponse(error.body, status_code=error.http_status)


def _answer_malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # as registered
    first: Mapping[str, Any] = error.errors()[0]
    place = ".".join(str(part) for part in first.get("loc", ()))
    return JSONResponse(
        {"code": 40010001, "message": f"{place}: {first.get('msg')}"}, status_code=422
    )


def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # as registered
    body = {"code": error.status_code * 100_000, "message": str(error.detail)}
    return JSONResponse(body, status_code=error.status_code)


def _aware(moment: dt.datetime) -> dt.datetime:
    if moment.tzinfo is None:
        raise ExecutionError(
            "a moment without a time zone",
            got=moment.isoformat(),
            allowed="aware datetimes",
            remedy="add the time zone, such as +00:00",
        )
    return moment.astimezone(dt.UTC)
