from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import AsyncIterator

import pytest
import urllib3
from fastapi import FastAPI

from market.errors import MarketError
from market.serving import BackgroundServer, serve


def _app() -> FastAPI:
    app = FastAPI()

    async def hello() -> dict[str, str]:
        return {"hello": "bars"}

    app.add_api_route("/", hello)
    return app


def _get(url: str) -> urllib3.BaseHTTPResponse:
    with urllib3.PoolManager(retries=False, timeout=5) as pool:
        return pool.request("GET", url)


def test_it_serves_inside_the_block_and_stops_after_it() -> None:
    before = set(threading.enumerate())
    with BackgroundServer(_app()) as server:
        url = server.url
        assert _get(url).json() == {"hello": "bars"}
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        _get(url)
    with pytest.raises(MarketError, match="not running"):
        _ = server.url
    started = set(threading.enumerate()) - before
    assert "background-server" not in {t.name for t in started}


def test_it_stops_when_the_block_raises_and_can_start_again() -> None:
    server = BackgroundServer(_app())
    with pytest.raises(ZeroDivisionError), server:
        _ = 1 / 0
    with server:
        assert _get(server.url).status == 200


def test_it_does_not_start_twice() -> None:
    with (
        BackgroundServer(_app()) as server,
        pytest.raises(MarketError, match="already running"),
    ):
        server.__enter__()


def test_a_port_in_use_is_an_error_with_a_remedy(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MarketError, match=rf"in use.*127\.0\.0\.1:{port}.*Remedy") as caught:
            serve(_app(), port=port)
        assert caught.value.got == f"127.0.0.1:{port}"
        with pytest.raises(MarketError, match="in use"), BackgroundServer(_app(), port=port):
            pass
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("192.0.2.1", 0)])
def test_an_impossible_address_is_an_error(host: str, port: int) -> None:
    with pytest.raises(MarketError, match="cannot listen"):
        serve(_app(), host=host, port=port)


def test_an_application_that_fails_to_start_is_an_error() -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise RuntimeError("no")
        yield

    with (
        pytest.raises(MarketError, match="did not start"),
        BackgroundServer(FastAPI(lifespan=lifespan)),
    ):
        pass
