"""A paper broker that speaks Alpaca's trading API and fills at replayed prices.

An unmodified alpaca-py client works against it, and so does ``execution.alpaca.AlpacaBroker``:
the code that trades paper is the code that trades live. Time comes from outside; the book is
replayed up to it on every request.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Body, Depends, FastAPI, Header
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from execution.paper_actions import CorporateActions
from execution.paper_book import PaperBook
from execution.paper_conditions import PaperConditions
from execution.paper_desk import Desk, aware
from execution.paper_orders import PaperRefusal
from execution.paper_read import malformed, read_time
from execution.paper_routes import activity_routes, market_routes, order_routes, position_routes
from execution.paper_stream import stream_routes
from execution.paper_tape import Tape
from market.errors import ExecutionError

DEFAULT_CASH_USD = Decimal(100_000)


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
        self._now = aware(start)

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
        moment = aware(moment)
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
    conditions: PaperConditions | None = None,
    splits: pl.DataFrame | None = None,
    dividends: pl.DataFrame | None = None,
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
    conditions : PaperConditions, optional
        Depth, halts, borrow, late rejects, a blocked account, a limit of requests. The default
        has none of them: a bar that traded fills an order whole.
    splits, dividends : pl.DataFrame, optional
        ``SPLIT_SCHEMA`` and ``DIVIDEND_SCHEMA``, applied when the ex-date begins.

    Returns
    -------
    FastAPI
        The application; it holds the account in memory.

    Raises
    ------
    ExecutionError
        When a key is empty, or the bars or the corporate actions cannot be traded against.

    Notes
    -----
    How a bar fills an order is told in ``execution.paper_fills``. ``opg`` orders fill at the
    session's first bar only, ``cls`` orders at its last close. A day order that did not trade
    expires at its session's close, unless the bars ended before. Bars of extended hours are not
    replayed: an order for them trades in the regular session. ``/stream`` is the stream of trade
    updates.
    """
    if not api_key or not secret_key:
        raise ExecutionError(
            "the paper broker needs keys", remedy="choose any two non-empty words and use them"
        )
    conditions = conditions or PaperConditions()
    book = PaperBook(
        Tape(
            bars,
            participation=conditions.participation,
            halts=conditions.halts,
            rules=conditions.rules,
        ),
        now=aware(clock()),
        starting_cash_usd=starting_cash_usd,
        account_number=account_number,
        conditions=conditions,
        actions=CorporateActions(splits, dividends),
    )
    desk = Desk(book, clock, api_key=api_key, secret_key=secret_key)
    app = _empty_app()
    guard, counter = Depends(_guard(desk)), Depends(_counter(desk))
    for make in (market_routes, activity_routes, order_routes, position_routes):
        app.include_router(make(desk), prefix="/v2", dependencies=[guard, counter])
    app.include_router(stream_routes(desk))
    if isinstance(clock, ReplayClock):
        app.include_router(_replay_routes(desk, clock), dependencies=[guard])
    return app


def _empty_app() -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(PaperRefusal, _answer_refusal)
    app.add_exception_handler(RequestValidationError, _answer_malformed)
    app.add_exception_handler(HTTPException, _answer_http)
    return app


def _guard(desk: Desk) -> Callable[..., None]:
    def check(
        key: Annotated[str | None, Header(alias="APCA-API-KEY-ID")] = None,
        secret: Annotated[str | None, Header(alias="APCA-API-SECRET-KEY")] = None,
    ) -> None:
        if not desk.knows(key, secret):
            given = key is not None and secret is not None
            raise PaperRefusal(403 if given else 401, 40110000, "request is not authorized.")

    return check


def _counter(desk: Desk) -> Callable[..., None]:
    def count() -> None:
        desk.count_request()

    return count


def _replay_routes(desk: Desk, clock: ReplayClock) -> APIRouter:
    router = APIRouter()

    def advance(to: Annotated[str, Body(embed=True)]) -> dict[str, str]:
        moment = read_time(to, "to")
        try:
            clock.advance_to(aware(moment or clock.now()))
        except ExecutionError as error:
            raise malformed(str(error)) from error
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
