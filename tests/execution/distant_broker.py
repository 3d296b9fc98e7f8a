"""A distant broker under our hands: it answers as told, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections import defaultdict, deque
from decimal import Decimal
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool

from execution.alpaca import AlpacaBroker
from execution.broker import OrderRequest, OrderType, Side, TimeInForce

KEY, SECRET = "PKVISIBLENOWHERE", "5ecretVisibleNowhere"
PAPER, LIVE = "https://paper-api.alpaca.markets", "https://api.alpaca.markets"
ORDERS, BY_ID = "/v2/orders", "/v2/orders:by_client_order_id"
HTML = "<html><body>502 Bad Gateway</body></html>"
NOT_FOUND = {"code": 40410000, "message": "order not found for one"}
DUPLICATE = {"code": 40010001, "message": "client_order_id must be unique"}

ACCOUNT = {
    "account_number": "PA1",
    "status": "ACTIVE",
    "currency": "USD",
    "cash": "-12.50",
    "equity": "100.10",
    "last_equity": "100",
    "buying_power": "0",
    "trading_blocked": False,
    "account_blocked": False,
    "trade_suspended_by_user": False,
    "shorting_enabled": False,
}
REQUEST = OrderRequest(
    "one", "XYZ", Side.BUY, Decimal(10), OrderType.LIMIT, TimeInForce.DAY, Decimal("100.5")
)


def order(**changes: Any) -> dict[str, Any]:
    """An order as the service writes it."""
    return {
        "id": "61e69015-8549-4bfd-b9c3-01e75843f47d",
        "client_order_id": "one",
        "submitted_at": "2025-01-02T14:30:00.123456789Z",
        "updated_at": "2025-01-02T14:30:01Z",
        "symbol": "XYZ",
        "side": "buy",
        "qty": "10",
        "filled_qty": "0",
        "filled_avg_price": None,
        "status": "new",
    } | changes


class Fake:
    """A broker that answers as told, in turn; the last answer of a path stays."""

    def __init__(self) -> None:
        self.reset()
        self.app = FastAPI()
        methods = ["GET", "POST", "DELETE"]
        self.app.add_api_route("/{path:path}", self._answer, methods=methods)

    def reset(self) -> None:
        """Forget every call and every answer."""
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []
        self.release = threading.Event()
        self._answers: dict[tuple[str, str], deque[Any]] = defaultdict(deque)

    def on(self, method: str, path: str, *answers: Any) -> None:
        """Answer with (status, body); a dict or list is JSON, ``None`` hangs."""
        self._answers[method, path].extend(answers)

    def count(self, method: str, path: str = "") -> int:
        return sum(m == method and p.startswith(path) for m, p, _, _ in self.seen)

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        path = request.url.path
        query = dict(request.query_params)
        self.seen.append((request.method, path, query, json.loads(body) if body else None))
        queue = self._answers[request.method, path]
        if not queue:
            return Response(json.dumps(NOT_FOUND), 404)
        answer = queue.popleft() if len(queue) > 1 else queue[0]
        if answer is None:
            await run_in_threadpool(self.release.wait)  # the event of this test, not of the next
            return Response(status_code=500)
        status, content, *headers = answer
        text = content if isinstance(content, str) else json.dumps(content)
        return Response(text, status, headers=headers[0] if headers else None)


def make(url: str, *, is_paper: bool = True, **more: Any) -> AlpacaBroker:
    return AlpacaBroker(SecretStr(KEY), SecretStr(SECRET), url, is_paper=is_paper, **more)
