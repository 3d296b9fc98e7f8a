"""A paper broker on loopback with an unmodified alpaca-py client, and bars written by hand."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import polars as pl
import requests

from execution.paper import ReplayClock, create_app
from market import calendar
from market.schema import BAR_SCHEMA
from market.serving import BackgroundServer

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"websockets\.legacy", DeprecationWarning)
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import OrderSide
    from alpaca.trading.enums import TimeInForce as Tif
    from alpaca.trading.requests import GetOrderByIdRequest, LimitOrderRequest, MarketOrderRequest

THURSDAY, FRIDAY, MONDAY = dt.date(2025, 1, 2), dt.date(2025, 1, 3), dt.date(2025, 1, 6)
KEYS = {"APCA-API-KEY-ID": "paper-key", "APCA-API-SECRET-KEY": "paper-secret"}


def bar(
    symbol: str,
    day: dt.date,
    minute: int,
    ohlc: tuple[float, float, float, float],
    length: int = 1,
    volume: float = 1000.0,
) -> dict[str, Any]:
    start = calendar.session_open(day) + dt.timedelta(minutes=minute)
    end = start + dt.timedelta(minutes=length)
    opened, high, low, close = ohlc
    row = {"symbol": symbol, "session": day, "bar_start": start, "bar_end": end, "known_at": end}
    row |= {"open": opened, "high": high, "low": low, "close": close, "volume": volume}
    return row | {"vwap": close, "trades": 10}


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=BAR_SCHEMA)


def minutes(symbol: str, *bars: tuple[float, float, float, float], **more: Any) -> pl.DataFrame:
    """Bars of one minute from Thursday's open on."""
    return frame(*(bar(symbol, THURSDAY, n, ohlc, **more) for n, ohlc in enumerate(bars)))


def moment(day: dt.date, minute: float) -> dt.datetime:
    """Minutes after the session's open (negative: before)."""
    return calendar.session_open(day) + dt.timedelta(minutes=minute)


class Rig:
    def __init__(self, url: str, clock: ReplayClock) -> None:
        self.url = url
        self.clock = clock
        self.client = TradingClient("paper-key", "paper-secret", paper=True, url_override=url)

    def at(self, day: dt.date, minute: float) -> Rig:
        self.clock.advance_to(moment(day, minute))
        return self

    def market(self, symbol: str, side: str, qty: float, tif: str = "day", **more: Any) -> Any:
        request = MarketOrderRequest(
            symbol=symbol, qty=qty, side=OrderSide(side), time_in_force=Tif(tif), **more
        )
        return self.client.submit_order(request)

    def limit(
        self, symbol: str, side: str, qty: float, price: float, tif: str = "day", **more: Any
    ) -> Any:
        request = LimitOrderRequest(
            symbol=symbol,
            qty=qty,
            side=OrderSide(side),
            time_in_force=Tif(tif),
            limit_price=price,
            **more,
        )
        return self.client.submit_order(request)

    def order(self, order: Any, *, nested: bool = False) -> Any:
        return self.client.get_order_by_id(order.id, GetOrderByIdRequest(nested=nested))

    def legs(self, order: Any) -> list[tuple[str, str]]:
        """Type and status of an order's legs."""
        found = self.order(order, nested=True).legs
        return [(leg.type.value, leg.status.value) for leg in found]

    def positions(self) -> dict[str, Decimal]:
        return {p.symbol: Decimal(p.qty) for p in self.client.get_all_positions()}

    def cash(self) -> Decimal:
        return Decimal(str(self.client.get_account().cash))

    def post(self, **body: Any) -> requests.Response:
        return requests.post(f"{self.url}/v2/orders", json=body, headers=KEYS, timeout=5)

    def get(self, path: str, **params: Any) -> Any:
        """What the service answers below ``/v2``, through the client's own session."""
        return self.client.get(path, params)

    def refused(self, status: int, code: int, **body: Any) -> str:
        """Post an order, expect this refusal and return its message."""
        answer = self.post(**body)
        assert answer.status_code == status, answer.text
        assert answer.json()["code"] == code
        return answer.json()["message"]


@contextmanager
def paper(bars: pl.DataFrame, **more: Any) -> Iterator[Rig]:
    """A paper broker an hour before Thursday's open."""
    clock = ReplayClock(moment(THURSDAY, -60))
    app = create_app(bars, api_key="paper-key", secret_key="paper-secret", clock=clock, **more)
    with BackgroundServer(app) as server:
        rig = Rig(server.url, clock)
        try:
            yield rig
        finally:
            rig.client._session.close()
