"""A broker that misbehaves: an ASGI application before the paper server's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

HTML = b"<html><body>502 Bad Gateway</body></html>"
KINDS = (
    "504 after accepting",
    "504 without accepting",
    "cut after accepting",
    "html after accepting",
    "empty after accepting",
    "late",
    "429",
)


class FaultyBroker:
    """Answers wrongly now and then; ``is_down`` answers nothing at all.

    Attributes
    ----------
    chance : float
        Of a fault, for each request.
    kinds : tuple of str
        Which faults; see ``KINDS``.
    is_down : bool
        Whether every request gets a 503.
    only_orders : bool
        Whether only the placing and the look-up of an order go wrong.
    """

    def __init__(
        self, app: FastAPI, seed: int, chance: float = 0.0, kinds: tuple[str, ...] = KINDS
    ) -> None:
        self._app, self._random = app, random.Random(seed)
        self.chance, self.kinds, self.is_down = chance, kinds, False
        self.only_orders = False
        self.made: list[str] = []

    async def __call__(self, scope: Any, receive: Callable[..., Any], send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self.is_down:
            await _answer(send, 503, HTML)
            return
        kind = self._random.choice(self.kinds) if self._random.random() < self.chance else ""
        if self.only_orders and not _is_about_one_order(scope):
            kind = ""
        if kind:
            self.made.append(f"{kind}: {scope['method']}")
        if kind == "504 without accepting":
            await _answer(send, 504, HTML)
        elif kind == "429":
            await _answer(send, 429, b'{"code": 42910000, "message": "rate limit exceeded"}')
        elif kind:
            await self._accept_and(kind, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _accept_and(self, kind: str, scope: Any, receive: Any, send: Any) -> None:
        kept: list[dict[str, Any]] = []

        async def keep(message: dict[str, Any]) -> None:
            kept.append(message)

        await self._app(scope, receive, keep)
        if kind == "504 after accepting":
            await _answer(send, 504, HTML)
        elif kind == "html after accepting":
            await _answer(send, 200, HTML)
        elif kind == "empty after accepting":
            await _answer(send, 200, b"")
        elif kind == "cut after accepting":
            body = b"".join(m.get("body", b"") for m in kept)
            await _answer(send, 200, body[: len(body) // 2], length=len(body) + 10)
        else:  # late: no answer before the client has given up
            while (await receive())["type"] != "http.disconnect":
                pass


def _is_about_one_order(scope: Any) -> bool:
    path = scope["path"]
    return scope["method"] == "POST" or path.endswith("by_client_order_id")


async def _answer(send: Any, status: int, body: bytes, length: int | None = None) -> None:
    size = str(len(body) if length is None else length).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", size)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
