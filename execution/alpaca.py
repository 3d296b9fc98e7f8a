"""The Alpaca broker, and the only file that imports alpaca-py.

What alpaca-py 0.44 leaves open is closed here: every HTTP call has a timeout, a POST is never
repeated by the client, answers are read by ``execution.alpaca_wire`` rather than by the client's
models, error bodies that are not the service's own are survived, numbers travel as decimal
strings, and keys appear in no message.
"""

from __future__ import annotations

import datetime as dt
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from pydantic import SecretStr
from requests.adapters import HTTPAdapter

from execution import alpaca_wire as wire
from execution.broker import Account, Asset, Clock, Order, OrderRequest, Position
from market.errors import BrokerError, BrokerRefusal, ExecutionError

with warnings.catch_warnings():  # alpaca-py imports a module that websockets has deprecated
    warnings.filterwarnings("ignore", r"websockets\.legacy", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.trading.client import TradingClient

_GET_ATTEMPTS = 3
_FIRST_PAUSE_SECONDS = 0.25
_PAGE = 500
_BULK_ASSETS = 50
_NOT_FOUND = 40410000
_MINUTE_SECONDS = 60.0


@dataclass(eq=False)
class _Failure(Exception):
    """One failed HTTP call. ``code`` is ``None`` unless the service itself refused."""

    text: str
    status: int | None = None
    code: int | None = None
    message: str = ""

    @property
    def is_refusal(self) -> bool:
        """Whether the service said no, so that nothing can have happened."""
        return self.code is not None and self.status is not None and 400 <= self.status < 500

    @property
    def is_not_found(self) -> bool:
        return self.status == 404 and self.code == _NOT_FOUND

    @property
    def is_transient(self) -> bool:
        return self.status is None or self.status == 429 or self.status >= 500


class _TimeoutAdapter(HTTPAdapter):
    """Give every call a timeout, retry nothing, and take a redirect for an error."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        super().__init__(max_retries=0)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        timeout = self._timeout_seconds if timeout is None else timeout
        response = super().send(request, stream, timeout, verify, cert, proxies)
        if 300 <= response.status_code < 400:  # alpaca-py would take it for a success
            response.close()
            raise requests.TooManyRedirects("redirects are not followed")
        return response


class _Client(TradingClient):
    """alpaca-py's client with a timeout, without retries and without stray settings."""

    def __init__(
        self, api_key: SecretStr, secret_key: SecretStr, base_url: str, timeout_seconds: float
    ) -> None:
        super().__init__(
            api_key=api_key.get_secret_value(),
            secret_key=secret_key.get_secret_value(),
            raw_data=True,
            url_override=base_url,
        )
        self._retry = 0
        self._retry_codes = []
        adapter = _TimeoutAdapter(timeout_seconds)
        for prefix in ("https://", "http://"):
            self._session.mount(prefix, adapter)
        if wire.is_loopback(urlsplit(base_url).hostname or ""):
            self._session.trust_env = False  # a proxy must not stand between us and ourselves


class AlpacaBroker:
    """Alpaca behind the ``Broker`` protocol.

    Parameters
    ----------
    api_key, secret_key : SecretStr
        The account's keys; never shown.
    base_url : str
        Paper mode takes the paper service or a loopback address, live mode the live service or
        a loopback address.
    is_paper : bool
        Whether no real money moves.
    timeout_seconds : float, default 10.0
        Limit for connecting and for each wait for data, on every call.
    requests_per_minute : int, default 180
        How many requests leave in a minute at most; the service allows 200 to an account.
    sleep : Callable, default ``time.sleep``
        How to pause, between attempts of a GET and to keep that pace.
    seconds : Callable, default ``time.monotonic``
        What the pace is measured by.

    Raises
    ------
    ExecutionError
        When the address does not belong to the mode, a key is malformed or the timeout not
        positive.

    Notes
    -----
    A GET is tried three times at most, with growing pauses; a POST or DELETE once.

    Examples
    --------
    >>> key = SecretStr("k")
    >>> AlpacaBroker(key, key, "https://paper-api.alpaca.markets", is_paper=True)
    AlpacaBroker('https://paper-api.alpaca.markets', is_paper=True)
    """

    def __init__(
        self,
        api_key: SecretStr,
        secret_key: SecretStr,
        base_url: str,
        *,
        is_paper: bool,
        timeout_seconds: float = 10.0,
        requests_per_minute: int = 180,
        sleep: Callable[[float], None] = time.sleep,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base_url = wire.checked_base_url(base_url, is_paper=is_paper)
        if not all(_fits_header(key.get_secret_value()) for key in (api_key, secret_key)):
            raise ExecutionError(
                "a key of the broker is empty or holds characters that no key has",
                allowed="visible ASCII characters, no blanks",
                remedy="set both the API key and the secret key as the service shows them",
            )
        if not timeout_seconds > 0:
            raise ExecutionError(
                "the broker's timeout is unusable",
                got=timeout_seconds,
                allowed="seconds above zero",
                remedy="use 10",
            )
        self._is_paper = is_paper
        self._sleep = sleep
        self._seconds = seconds
        self._calls: deque[float] = deque(maxlen=requests_per_minute)
        self._secrets = (api_key, secret_key)
        self._client = _Client(api_key, secret_key, self._base_url, timeout_seconds)

    def __repr__(self) -> str:
        return f"AlpacaBroker({self._base_url!r}, is_paper={self._is_paper})"

    @property
    def name(self) -> str:
        """``alpaca-paper`` or ``alpaca-live``."""
        return "alpaca-paper" if self._is_paper else "alpaca-live"

    @property
    def is_paper(self) -> bool:
        """Whether no real money moves."""
        return self._is_paper

    def account(self) -> Account:
        """Return balances."""
        return wire.read_account(self._get("/account", "the account"))

    def clock(self) -> Clock:
        """Return the broker's clock."""
        return wire.read_clock(self._get("/clock", "the clock"))

    def assets(self, symbols: Sequence[str]) -> dict[str, Asset]:
        """Return what is known of these symbols; unknown ones are left out.

        Up to fifty symbols are asked for one by one, more of them by one listing.
        """
        wanted = dict.fromkeys(symbols)
        if len(wanted) > _BULK_ASSETS:
            return self._listed_assets(set(wanted))
        found: dict[str, Asset] = {}
        for symbol in wanted:
            raw = self._get_or_none(f"/assets/{quote(symbol, safe='')}", f"asset {symbol!r}")
            if raw is not None:
                found[symbol] = wire.read_asset(raw)
        return found

    def positions(self) -> list[Position]:
        """Return every position of the account, whoever opened it."""
        rows = wire.read_rows(self._get("/positions", "positions"), "position")
        return [wire.read_position(row) for row in rows]

    def open_orders(self) -> list[Order]:
        """Return every order that may still fill, whoever placed it, oldest first."""
        return self._listed("open", None)

    def orders_since(self, moment: dt.datetime) -> list[Order]:
        """Return every order submitted at or after a moment, whatever became of it."""
        return self._listed("all", moment - dt.timedelta(microseconds=1))

    def submit(self, request: OrderRequest) -> Order:
        """Place an order once, however often it is called with the same id.

        Parameters
        ----------
        request : OrderRequest
            The order. A limit price is rounded to the service's grid, never to a worse one.

        Returns
        -------
        Order
            The order at the broker: the new one, or the one that already bears this id.

        Raises
        ------
        ExecutionError
            When the request contradicts itself; nothing was sent.
        BrokerError
            When the service refused, when the id belongs to a different order, or when the
            state is unclear: then the call may be repeated with the same id.
        """
        body = wire.write_order(request)
        try:
            answer = self._call("POST", "/orders", body)
            placed = wire.read_order(answer)
            if wire.lacks_legs(answer):
                return self._adopt(request, "its legs were not told")
        except _Failure as failure:
            if wire.is_duplicate(failure.code or 0, failure.message):
                return self._adopt(request, f"its id is already taken ({failure.text})")
            if not failure.is_refusal:
                return self._adopt(request, failure.text)
            raise BrokerRefusal(
                f"the broker refused order {request.client_order_id!r} "
                f"({request.side} {request.symbol}): {failure.text}",
                remedy="correct the order; nothing was placed",
            ) from None
        except BrokerError as unreadable:
            return self._adopt(request, unreadable.problem)
        return _agreeing(placed, request)

    def find_order(self, client_order_id: str) -> Order | None:
        """Return the order of this id, or ``None`` only if the broker says it knows none."""
        raw = self._get_or_none(
            "/orders:by_client_order_id",
            f"order {client_order_id!r}",
            {"client_order_id": client_order_id},
        )
        if raw is not None and wire.lacks_legs(raw):
            identity = wire.read_order(raw).broker_order_id
            path = f"/orders/{quote(identity, safe='')}"
            raw = self._get(path, f"order {client_order_id!r}", {"nested": "true"})
        return None if raw is None else wire.read_order(raw)

    def cancel(self, broker_order_id: str) -> None:
        """Ask for cancellation; a final order is left as it is.

        Raises
        ------
        BrokerError
            When the broker knows no such order, or when it is neither final nor being canceled
            after a failed request.
        """
        path = f"/orders/{quote(broker_order_id, safe='')}"
        try:
            self._call("DELETE", path)
        except _Failure as failure:
            what = f"order {broker_order_id!r}"
            if not failure.is_not_found:
                state = f"{what}, whose cancellation failed ({failure.text})"
                order = wire.read_order(self._get(path, state))
                if order.status.is_final or order.reason == "pending_cancel":
                    return
            raise BrokerError(
                f"{what} was not canceled: {failure.text}",
                remedy="look the order up and call cancel again",
            ) from None

    def _adopt(self, request: OrderRequest, cause: str) -> Order:
        identity = request.client_order_id
        remedy = "repeat the call with the same client_order_id"
        try:
            order = self.find_order(identity)
        except BrokerError as error:
            raise BrokerError(
                f"the state of order {identity!r} is unclear: {cause}; "
                f"looking it up failed too: {error.problem}",
                remedy=remedy,
            ) from None
        if order is None:
            raise BrokerError(
                f"the state of order {identity!r} is unclear: {cause}; "
                "the broker does not know the order, yet",
                remedy=remedy,
            )
        return _agreeing(order, request)

    def _listed(self, status: str, after: dt.datetime | None) -> list[Order]:
        """Return the pages of a listing of orders, oldest first."""
        found: dict[str, Order] = {}
        while True:
            params = {"status": status, "limit": str(_PAGE), "direction": "asc", "nested": "false"}
            if after is not None:
                params["after"] = after.isoformat()
            rows = wire.read_rows(self._get("/orders", f"{status} orders", params), "order")
            page = [wire.read_order(row) for row in rows]
            fresh = [order for order in page if order.broker_order_id not in found]
            found |= {order.broker_order_id: order for order in page}
            if len(page) < _PAGE:
                return list(found.values())
            if not fresh:
                raise BrokerError(
                    f"the broker's list of {status} orders does not end",
                    got=f"{len(page)} orders submitted at {page[-1].submitted_at.isoformat()}",
                    remedy="cancel stale orders at the broker, then try again",
                )
            # `after` is exclusive and our clock is coarser than theirs: overlap by a microsecond.
            after = page[-1].submitted_at - dt.timedelta(microseconds=1)

    def _listed_assets(self, wanted: set[str]) -> dict[str, Asset]:
        raw = self._get("/assets", "assets", {"asset_class": "us_equity"})
        found: dict[str, Asset] = {}
        for row in wire.read_rows(raw, "asset"):
            symbol = row.get("symbol")
            if symbol not in wanted:
                continue
            asset = wire.read_asset(row)
            if symbol not in found or asset.status == "active":  # a symbol may have been reused
                found[symbol] = asset
        return found

    def _get(self, path: str, what: str, params: dict[str, str] | None = None) -> object:
        try:
            return self._call_patiently(path, params)
        except _Failure as failure:
            raise _unreachable(what, failure) from None

    def _get_or_none(
        self, path: str, what: str, params: dict[str, str] | None = None
    ) -> object | None:
        try:
            return self._call_patiently(path, params)
        except _Failure as failure:
            if failure.is_not_found:
                return None
            raise _unreachable(what, failure) from None

    def _call_patiently(self, path: str, params: dict[str, str] | None) -> object:
        for attempt in range(1, _GET_ATTEMPTS):
            try:
                return self._call("GET", path, params)
            except _Failure as failure:
                if not failure.is_transient:
                    raise
                self._sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        return self._call("GET", path, params)

    def _call(self, method: str, path: str, data: dict[str, Any] | None = None) -> object:
        self._pace()
        try:
            if method == "POST":
                answer: object = self._client.post(path, data)
            elif method == "DELETE":
                return self._client.delete(path, data)
            else:
                answer = self._client.get(path, data)
        except APIError as error:
            failure = self._refused(error)
        except requests.RequestException as error:
            failure = _broken(error)
        else:
            if answer is not None:
                return answer
            failure = _Failure("an empty answer")
        raise failure

    def _pace(self) -> None:
        """Wait until the service allows one more request this minute."""
        calls = self._calls
        if len(calls) == calls.maxlen:
            wait = _MINUTE_SECONDS - (self._seconds() - calls[0])
            if wait > 0:
                self._sleep(wait)
        calls.append(self._seconds())

    def _refused(self, error: APIError) -> _Failure:
        response = getattr(error, "response", None)
        status = response.status_code if isinstance(response, requests.Response) else None
        body = str(error)
        refusal = wire.read_refusal(body)
        if refusal is None:
            return _Failure(f"HTTP {status}, not in the service's format", status=status)
        code, message = refusal[0], self._redacted(refusal[1])[:300]
        return _Failure(f"HTTP {status}, code {code}: {message}", status, code, message)

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret.get_secret_value(), "***")
        return text


def _broken(error: requests.RequestException) -> _Failure:
    # Only the kind of error: its text may quote a header, and a header may be a key.
    if isinstance(error, requests.Timeout):
        return _Failure("no answer in time")
    if isinstance(error, requests.TooManyRedirects):
        return _Failure("a redirect, which is never followed")
    if isinstance(error, requests.exceptions.InvalidJSONError):
        return _Failure("a broken answer")
    return _Failure(f"the connection failed ({type(error).__name__})")


def _fits_header(key: str) -> bool:
    return bool(key) and key.isascii() and key.isprintable() and " " not in key


def _unreachable(what: str, failure: _Failure) -> BrokerError:
    return BrokerError(
        f"the broker did not give {what}: {failure.text}",
        remedy="check keys, address and the service's status page, then try again",
    )


def _agreeing(order: Order, request: OrderRequest) -> Order:
    asked = (
        request.client_order_id,
        request.symbol,
        request.side.value,
        wire.quantise_quantity(request.quantity),
    )
    there = (order.client_order_id, order.symbol, order.side.value, order.quantity)
    if asked != there:
        raise BrokerError(
            f"the broker's order {request.client_order_id!r} is not the one asked for",
            got=" ".join(str(part) for part in there),
            allowed=" ".join(str(part) for part in asked),
            remedy="look at the order at the broker, and give the new one an id of its own",
        )
    return order
