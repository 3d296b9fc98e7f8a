"""Run a FastAPI application on loopback: in the foreground, or in a background thread.

The listening socket is bound here, before uvicorn starts, so that a port in use is an error
with a remedy instead of a log line and an exit status. Nothing is printed, and requests are not
logged: a query string may carry a key.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from types import TracebackType

import uvicorn
from fastapi import FastAPI

from market.errors import MarketError

_BACKLOG = 128
_START_TIMEOUT_SECONDS = 30.0
_STOP_TIMEOUT_SECONDS = 10.0


def serve(app: FastAPI, *, host: str = "127.0.0.1", port: int) -> None:
    """Serve ``app`` in the foreground until SIGINT or SIGTERM.

    Parameters
    ----------
    app : FastAPI
        The application.
    host : str, default "127.0.0.1"
        The address to listen on; loopback unless said otherwise.
    port : int
        The port to listen on; 0 takes any free one.

    Raises
    ------
    MarketError
        When the address cannot be listened on, before anything starts.
    """
    with contextlib.closing(_listen(host, port)) as listener:
        server = _Server(_config(app))
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    if not server.started:
        raise _not_started(host)


class BackgroundServer:
    """Serve an application from a daemon thread for as long as a ``with`` block lasts.

    Parameters
    ----------
    app : FastAPI
        The application.
    host : str, default "127.0.0.1"
        The address to listen on.
    port : int, default 0
        The port; 0 takes a free one.

    Raises
    ------
    MarketError
        On entering: the address is taken, or the application did not start.

    Examples
    --------
    >>> with BackgroundServer(FastAPI()) as server:
    ...     server.url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(self, app: FastAPI, host: str = "127.0.0.1", port: int = 0) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._listener: socket.socket | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._url: str | None = None

    @property
    def url(self) -> str:
        """Base address without a trailing slash, such as ``http://127.0.0.1:41234``."""
        if self._url is None:
            raise MarketError(
                "the server is not running",
                remedy="read .url inside the with block",
            )
        return self._url

    def __enter__(self) -> BackgroundServer:
        if self._thread is not None:
            raise MarketError(
                "the server is already running",
                remedy="make a second BackgroundServer, or leave the first with block",
            )
        self._listener = _listen(self._host, self._port)
        server = self._server = _Server(_config(self._app))
        self._thread = threading.Thread(
            target=self._run, args=(server, self._listener), name="background-server", daemon=True
        )
        self._thread.start()
        server.settled.wait(_START_TIMEOUT_SECONDS)
        if not server.started:
            self._stop()
            raise _not_started(self._host)
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._url = f"http://{host}:{self._listener.getsockname()[1]}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    @staticmethod
    def _run(server: _Server, listener: socket.socket) -> None:
        # uvicorn leaves by SystemExit when the application fails to start.
        with contextlib.suppress(SystemExit):
            server.run(sockets=[listener])
        server.settled.set()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(_STOP_TIMEOUT_SECONDS)
        if self._listener is not None:
            self._listener.close()
        self._server = self._thread = self._listener = self._url = None


class _Server(uvicorn.Server):
    """A server that says, once, that it has started (or has given up)."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets=sockets)
        finally:
            self.settled.set()


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        log_level="critical",
        lifespan="on",
        ws="websockets-sansio",  # the others stand on a part of websockets that is deprecated
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=1,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError | OverflowError) -> MarketError:
    address = f"{host}:{port}"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return MarketError(
            "the port is already in use",
            got=address,
            remedy="stop the program that listens there, or choose another port",
        )
    return MarketError(
        f"cannot listen on this address ({error})",
        got=address,
        allowed="an address of this machine and a port from 0 to 65535 that you may use",
        remedy="choose 127.0.0.1 and a free port above 1023",
    )


def _not_started(host: str) -> MarketError:
    return MarketError(
        "the server did not start",
        got=host,
        remedy="run the application alone to see why its startup fails",
    )
