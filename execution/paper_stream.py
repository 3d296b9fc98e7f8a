"""The paper broker's stream of trade updates: ``/stream``, as the service speaks it.

Frames are binary JSON, as the paper service sends them. A connection hears what happens after it
began to listen, in order, each update once.

Source: https://docs.alpaca.markets/docs/websocket-streaming.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any, cast

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.concurrency import run_in_threadpool

from execution import paper_wire as wire
from execution.paper_desk import Desk

STREAM = "trade_updates"
_PACE_SECONDS = 0.25  # a clock that runs by itself is looked at this often


def stream_routes(desk: Desk) -> APIRouter:
    """Return the route of the stream."""
    router = APIRouter()

    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        await _Connection(desk, socket).run()

    router.add_api_websocket_route("/stream", stream)
    return router


class _Connection:
    def __init__(self, desk: Desk, socket: WebSocket) -> None:
        self._desk = desk
        self._socket = socket
        self._authorized = False
        self._listens = False
        self._position = 0
        self._woken = asyncio.Event()
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended before its listener
                loop.call_soon_threadsafe(self._woken.set)

        with self._desk.listening(wake):
            parts = [asyncio.create_task(p) for p in (self._answer_all(), self._send_updates())]
            try:
                await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for part in parts:
                    part.cancel()
                ended = await asyncio.gather(*parts, return_exceptions=True)
        for error in ended:  # a stream that fell silent must not look alive
            if not isinstance(error, asyncio.CancelledError | WebSocketDisconnect | None):
                raise error

    async def _answer_all(self) -> None:
        while True:
            await self._answer(await self._receive())

    async def _receive(self) -> Mapping[str, Any]:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code") or 1005)
        raw = message.get("text") or message.get("bytes") or b""
        try:
            found: object = json.loads(raw)
        except ValueError:
            return {}
        return cast("dict[str, Any]", found) if isinstance(found, dict) else {}

    async def _answer(self, message: Mapping[str, Any]) -> None:
        action, data = message.get("action"), message.get("data")
        fields = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        if action in ("authenticate", "auth"):
            key, secret = (fields.get(n, message.get(a)) for n, a in _KEY_NAMES)
            self._authorized = self._desk.knows(_text(key), _text(secret))
            await self._send("authorization", {"status": self._state(), "action": "authenticate"})
        elif action == "listen" and self._authorized:
            wanted = fields.get("streams")
            listed = cast("list[object]", wanted) if isinstance(wanted, list) else []
            begins = STREAM in listed and not self._listens
            if begins:
                self._position = await run_in_threadpool(self._end)
            self._listens = STREAM in listed
            await self._send("listening", {"streams": [STREAM] if self._listens else []})
        elif action == "listen":
            await self._send("authorization", {"status": self._state(), "action": "listen"})

    def _state(self) -> str:
        return "authorized" if self._authorized else "unauthorized"

    def _end(self) -> int:
        with self._desk.open() as book:
            return book.records.count

    def _news(self) -> list[dict[str, Any]]:
        with self._desk.open() as book:
            return [wire.write_update(u) for u in book.records.updates_since(self._position)]

    async def _send_updates(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), _PACE_SECONDS)
            self._woken.clear()
            news = await run_in_threadpool(self._news) if self._listens else []
            for data in news:
                if not self._listens:
                    break
                self._position += 1
                await self._send(STREAM, data)

    async def _send(self, stream: str, data: Mapping[str, Any]) -> None:
        body = json.dumps({"stream": stream, "data": data}).encode()
        async with self._sending:
            await self._socket.send_bytes(body)


_KEY_NAMES = (("key_id", "key"), ("secret_key", "secret"))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
