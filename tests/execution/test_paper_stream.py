"""The paper broker's trade updates under an unmodified alpaca-py TradingStream."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from execution.paper_conditions import PaperConditions
from tests.execution.paper_rig import THURSDAY, Rig, minutes, moment, paper

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"websockets\.legacy", DeprecationWarning)
    from alpaca.trading.models import TradeUpdate
    from alpaca.trading.stream import TradingStream
from websockets.sync.client import ClientConnection, connect

CALM = (100.0, 101.0, 99.0, 100.0)
BARS = minutes("XYZ", CALM, CALM, (100, 112, 99, 100))
TENTH = PaperConditions(participation=Decimal("0.1"))
SECONDS = 20.0


def address(rig: Rig) -> str:
    return rig.url.replace("http://", "ws://") + "/stream"


@contextmanager
def raw(rig: Rig) -> Iterator[ClientConnection]:
    with connect(address(rig), proxy=None) as socket:
        yield socket


def ask(socket: ClientConnection, message: Any) -> Any:
    socket.send(message if isinstance(message, str) else json.dumps(message))
    return answer(socket)


def answer(socket: ClientConnection) -> Any:
    frame = socket.recv(timeout=SECONDS)
    assert isinstance(frame, bytes)  # the paper service sends binary frames
    return json.loads(frame)


LOGIN = {
    "action": "authenticate",
    "data": {"key_id": "paper-key", "secret_key": "paper-secret"},
}
LISTEN = {"action": "listen", "data": {"streams": ["trade_updates"]}}


class Listener:
    """alpaca-py's stream in a thread of its own; updates come out of a queue."""

    def __init__(self, rig: Rig) -> None:
        self.updates: queue.Queue[TradeUpdate] = queue.Queue()
        self.listening = threading.Event()
        self._stream = TradingStream(
            "paper-key", "paper-secret", paper=True, url_override=address(rig)
        )
        told = self._stream._dispatch

        async def dispatch(message: dict[str, Any]) -> None:
            if message.get("stream") == "listening":
                self.listening.set()
            await told(message)

        self._stream._dispatch = dispatch  # type: ignore[method-assign]
        self._stream.subscribe_trade_updates(self._take)
        self._thread = threading.Thread(target=self._stream.run, daemon=True)
        self._thread.start()
        assert self.listening.wait(SECONDS)

    async def _take(self, update: TradeUpdate) -> None:
        self.updates.put(update)

    def take(self, count: int) -> list[TradeUpdate]:
        return [self.updates.get(timeout=SECONDS) for _ in range(count)]

    def stop(self) -> None:
        self._stream.stop()
        closing = asyncio.run_coroutine_threadsafe(self._stream._ws.close(), self._stream._loop)
        closing.result(SECONDS)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


@contextmanager
def listened(**more: Any) -> Iterator[tuple[Rig, Listener]]:
    with paper(BARS, **more) as rig:
        listener = Listener(rig)
        try:
            yield rig, listener
        finally:
            listener.stop()


def events(updates: list[TradeUpdate]) -> list[str]:
    return [str(getattr(u.event, "value", u.event)) for u in updates]


def test_an_order_from_acceptance_to_its_fill() -> None:
    with listened() as (rig, listener):
        order = rig.market("XYZ", "buy", 10, client_order_id="mine")
        (accepted,) = listener.take(1)
        assert events([accepted]) == ["accepted"]
        assert (accepted.order.id, accepted.order.status.value) == (order.id, "accepted")
        rig.at(THURSDAY, 0).client.get_clock()
        new, fill = listener.take(2)
        assert events([new, fill]) == ["new", "fill"]
        assert new.order.status.value == "new"
        assert (fill.price, fill.qty, fill.position_qty) == (100.0, 10.0, 10.0)
        assert fill.timestamp == moment(THURSDAY, 0)
        assert fill.order.status.value == "filled"
        assert fill.order.client_order_id == "mine"
        assert len({u.execution_id for u in (accepted, new, fill)}) == 3


def test_partial_fills_cancellation_and_expiry() -> None:
    with listened(conditions=TENTH) as (rig, listener):
        rig.at(THURSDAY, -30)
        long = rig.market("XYZ", "buy", 250)
        low = rig.limit("XYZ", "buy", 1, 50.0)
        rig.at(THURSDAY, 0).client.cancel_order_by_id(long.id)
        seen = listener.take(6)
        assert events(seen) == ["accepted", "accepted", "new", "new", "partial_fill", "canceled"]
        part = seen[4]
        assert (part.qty, part.order.filled_qty, part.position_qty) == (100.0, "100", 100.0)
        rig.at(THURSDAY, 390).client.get_clock()
        (expired,) = listener.take(1)
        assert (events([expired]), expired.order.id) == (["expired"], low.id)
        assert expired.timestamp == moment(THURSDAY, 390)


def test_a_bracket_is_told_leg_by_leg() -> None:
    with listened() as (rig, listener):
        exits = {"take_profit": {"limit_price": "110"}, "stop_loss": {"stop_price": "90"}}
        rig.at(THURSDAY, 0.5).market("XYZ", "buy", 10, order_class="bracket", **exits)
        rig.at(THURSDAY, 3).client.get_clock()
        seen = listener.take(6)
        kinds = [u.order.type.value for u in seen]
        assert list(zip(kinds, events(seen), strict=True)) == [
            ("market", "new"),
            ("market", "fill"),
            ("limit", "new"),
            ("stop", "new"),
            ("limit", "fill"),
            ("stop", "canceled"),
        ]


def test_a_late_reject_is_told() -> None:
    conditions = PaperConditions(late_rejects={"XYZ": "no locate"})
    with listened(conditions=conditions) as (rig, listener):
        rig.at(THURSDAY, 0.5).market("XYZ", "buy", 1)
        rig.client.get_clock()
        assert events(listener.take(2)) == ["new", "rejected"]


def test_a_clock_that_runs_by_itself_is_followed() -> None:
    """Nobody asks over REST: the connection itself looks at the clock."""
    with listened() as (rig, listener):
        rig.market("XYZ", "buy", 10)
        assert events(listener.take(1)) == ["accepted"]
        rig.at(THURSDAY, 0)
        assert events(listener.take(2)) == ["new", "fill"]


# --- the protocol, spoken by hand --------------------------------------------------------------


def test_the_handshake() -> None:
    with paper(BARS) as rig, raw(rig) as socket:
        refused = {"stream": "authorization", "data": {"status": "unauthorized"}}
        refused["data"]["action"] = "listen"  # type: ignore[index]
        assert ask(socket, LISTEN) == refused
        wrong = {"action": "authenticate", "data": {"key_id": "paper-key", "secret_key": "no"}}
        refused["data"]["action"] = "authenticate"  # type: ignore[index]
        assert ask(socket, wrong) == refused
        assert ask(socket, {"action": "authenticate"}) == refused
        assert ask(socket, LOGIN) == {
            "stream": "authorization",
            "data": {"status": "authorized", "action": "authenticate"},
        }
        assert ask(socket, LISTEN) == {
            "stream": "listening",
            "data": {"streams": ["trade_updates"]},
        }
        other = {"action": "listen", "data": {"streams": ["quotes"]}}
        assert ask(socket, other) == {"stream": "listening", "data": {"streams": []}}


def test_what_is_no_message_is_passed_over() -> None:
    with paper(BARS) as rig, raw(rig) as socket:
        for nonsense in ("[1", "[]", "{}", '{"action": 3}', '{"action": "listen", "data": 1}'):
            socket.send(nonsense)
        assert answer(socket)["data"]["action"] == "listen"
        assert ask(socket, LOGIN)["data"]["status"] == "authorized"


def test_a_connection_hears_what_happens_after_it_began_to_listen() -> None:
    with paper(BARS) as rig:
        rig.market("XYZ", "buy", 1)
        with raw(rig) as first, raw(rig) as second:
            for socket in (first, second):
                ask(socket, LOGIN)
                ask(socket, LISTEN)
            later = rig.market("XYZ", "buy", 2)
            for socket in (first, second):
                message = answer(socket)
                assert message["stream"] == "trade_updates"
                assert message["data"]["order"]["id"] == str(later.id)
                assert uuid.UUID(message["data"]["execution_id"])
            ask(first, {"action": "listen", "data": {"streams": []}})
            rig.market("XYZ", "buy", 3)
            assert answer(second)["data"]["order"]["qty"] == "3"
            assert ask(first, LISTEN)["stream"] == "listening"
            rig.market("XYZ", "buy", 4)
            assert answer(first)["data"]["order"]["qty"] == "4"


@pytest.mark.parametrize("authorized", [False, True])
def test_a_connection_that_leaves_does_no_harm(authorized: bool) -> None:
    with paper(BARS) as rig:
        with raw(rig) as socket:
            if authorized:
                ask(socket, LOGIN)
                ask(socket, LISTEN)
        rig.market("XYZ", "buy", 1)
        assert rig.at(THURSDAY, 0).positions() == {"XYZ": Decimal(1)}
