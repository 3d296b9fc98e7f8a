"""What the vendor can do wrong, over a real socket, and what the source makes of it."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import orjson
import polars as pl
import pytest
from fastapi import FastAPI, Request, Response
from pydantic import SecretStr

from market import calendar
from market.errors import SourceError
from market.polygon import PolygonSource
from market.polygon_wire import MAX_ATTEMPTS, MAX_BROKEN_BODIES
from market.schema import Bar, Dividend, Split
from market.serving import BackgroundServer
from market.timeframes import Timeframe

KEY = "sk-very-secret-0123456789"
DAY = dt.date(2024, 7, 2)
OPEN_MS = int(calendar.session_open(DAY).timestamp() * 1000)
MIDNIGHT_MS = OPEN_MS - 9 * 3_600_000 - 30 * 60_000

Answer = Response | Callable[[Request], Response]


def _bar(**changes: Any) -> dict[str, Any]:
    bar: dict[str, Any] = {
        "v": 100, "vw": 10.1, "o": 10, "c": 10.5, "h": 11, "l": 9.5, "t": OPEN_MS, "n": 3,
    }  # fmt: skip
    return {k: v for k, v in (bar | changes).items() if v is not ...}


def _body(*bars: Any, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "ticker": "AAA", "queryCount": len(bars), "resultsCount": len(bars), "adjusted": False,
        "results": list(bars), "status": "OK", "request_id": "1", "count": len(bars),
    }  # fmt: skip
    return {k: v for k, v in (body | changes).items() if v is not ...}


def _json(body: Any, status: int = 200, **headers: str) -> Response:
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return Response(orjson.dumps(body), status, named, media_type="application/json")


@dataclass
class Vendor:
    """A vendor that answers from a script; the last answer repeats."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def source(self, **options: Any) -> PolygonSource:
        return PolygonSource(SecretStr(KEY), self.url, sleep=self.waits.append, **options)

    def minutes(self, *answers: Answer) -> pl.DataFrame:
        self.answers = list(answers)
        return self.source().bars(["AAA"], Timeframe.M1, DAY, DAY)


@contextmanager
def _vendor() -> Iterator[Vendor]:
    vendor = Vendor("")
    app = FastAPI(docs_url=None, openapi_url=None)

    async def answer(request: Request) -> Response:
        vendor.requests.append(request)
        answer = vendor.answers.pop(0) if len(vendor.answers) > 1 else vendor.answers[0]
        return answer if isinstance(answer, Response) else answer(request)

    app.add_api_route("/{path:path}", answer, methods=["GET"])
    with BackgroundServer(app) as server:
        vendor.url = server.url
        yield vendor


@pytest.fixture(scope="module")
def _running() -> Iterator[Vendor]:
    with _vendor() as vendor:
        yield vendor


@pytest.fixture
def vendor(_running: Vendor) -> Vendor:
    _running.answers, _running.requests, _running.waits = [], [], []
    return _running


def test_a_page_becomes_bars(vendor: Vendor) -> None:
    bars = vendor.minutes(_json(_body(_bar(vw=..., n=...), _bar(t=OPEN_MS + 60_000))))
    assert bars[Bar.VWAP].to_list() == [None, 10.1]
    assert bars[Bar.TRADES].to_list() == [None, 3]
    assert bars[Bar.OPEN].to_list() == [10.0, 10.0]
    sent = vendor.requests[0]
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.query_params["adjusted"] == "false"
    assert KEY not in str(sent.url)


def test_known_at_is_the_end_of_the_bar_plus_the_delay(vendor: Vendor) -> None:
    vendor.answers = [_json(_body(_bar()))]
    source = vendor.source(known_delay=dt.timedelta(minutes=15))
    bars = source.bars(["AAA"], Timeframe.M1, DAY, DAY)
    assert bars[Bar.KNOWN_AT][0] == calendar.session_open(DAY) + dt.timedelta(minutes=16)
    vendor.answers = [_json(_body(_bar(t=MIDNIGHT_MS)))]
    bars = source.bars(["AAA"], Timeframe.D1, DAY, DAY)
    assert bars[Bar.KNOWN_AT][0] == calendar.session_close(DAY) + dt.timedelta(minutes=15)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_names_the_variable_and_not_the_key(vendor: Vendor, status: int) -> None:
    body = {"status": "ERROR", "error": f"Unknown API Key {KEY}"}
    with pytest.raises(SourceError, match=r"POLYGON_API_KEY or MASSIVE_API_KEY") as caught:
        vendor.minutes(_json(body, status))
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert len(vendor.requests) == 1


def test_an_unknown_symbol_is_named(vendor: Vendor) -> None:
    nothing = _json({"status": "OK", "results": []})
    with pytest.raises(SourceError, match=r"does not know this symbol.*'AAA'"):
        vendor.minutes(_json(_body(results=..., adjusted=...)), nothing)


def test_a_delisted_symbol_without_bars_has_no_rows(vendor: Vendor) -> None:
    def reference(request: Request) -> Response:
        known = [{"ticker": "AAA"}] if request.query_params["active"] == "false" else []
        return _json({"status": "OK", "results": known})

    assert vendor.minutes(_json(_body()), reference).is_empty()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(_json([1, 2]), id="a list"),
        pytest.param(_json(_body(_bar(), status="ERROR")), id="status"),
        pytest.param(_json(_body(_bar(), results={"a": 1})), id="results not a list"),
        pytest.param(_json(_body(_bar(), ticker="BBB")), id="another ticker"),
        pytest.param(_json(_body(_bar(), adjusted=True)), id="adjusted"),
        pytest.param(_json(_body(_bar(), resultsCount=2)), id="rows missing"),
        pytest.param(_json(_body(1)), id="a row that is a number"),
        pytest.param(_json(_body(_bar(o=...))), id="no open"),
        pytest.param(_json(_body(_bar(t=2**63))), id="time out of range"),
        pytest.param(_json(_body(_bar(t=-1))), id="negative time"),
        pytest.param(_json(_body(_bar(t=1.5e12))), id="fractional time"),
        pytest.param(_json(_body(_bar(t=OPEN_MS + 1))), id="off the minute"),
        pytest.param(_json(_body(_bar(t=OPEN_MS + 86_400_000))), id="another session"),
        pytest.param(_json(_body(_bar(t=OPEN_MS + 2 * 86_400_000))), id="a holiday"),
        pytest.param(_json(_body(_bar(), _bar())), id="the same bar twice"),
        pytest.param(_json({"status": "ERROR", "error": "no"}, 400), id="400"),
        pytest.param(_json({"status": "NOT_FOUND"}, 404), id="404"),
        pytest.param(Response(status_code=302, headers={"Location": "/"}), id="redirect"),
    ],
)
def test_an_unusable_answer_is_an_error_with_a_remedy(vendor: Vendor, answer: Response) -> None:
    with pytest.raises(SourceError, match="Remedy:") as caught:
        vendor.minutes(answer)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert (vendor.waits, len(vendor.requests)) == ([], 1)


IMPOSSIBLE: list[tuple[dict[str, Any], str, Any]] = [
    ({"o": None}, Bar.OPEN, None),
    ({"o": "10"}, Bar.OPEN, None),
    ({"v": True}, Bar.VOLUME, None),
    ({"n": -1}, Bar.TRADES, -1),
    ({"l": -1}, Bar.LOW, -1.0),
    ({"c": 0}, Bar.CLOSE, 0.0),
    ({"h": 9.75}, Bar.HIGH, 9.75),
    ({"l": 10.25}, Bar.LOW, 10.25),
    ({"vw": -0.5}, Bar.VWAP, -0.5),
    ({"v": -1}, Bar.VOLUME, -1.0),
]


@pytest.mark.parametrize(("changes", "column", "value"), IMPOSSIBLE)
def test_an_impossible_bar_is_asked_for_again_and_then_handed_on(
    vendor: Vendor, changes: dict[str, Any], column: str, value: Any
) -> None:
    good, next_one = _bar(), _bar(t=OPEN_MS + 60_000)
    sound, odd = _json(_body(good, next_one)), _json(_body(_bar(**changes), next_one))
    healed = vendor.minutes(odd, sound)
    assert len(vendor.waits) == 1
    assert healed.equals(vendor.minutes(sound))
    vendor.requests.clear()
    told = vendor.minutes(odd)
    assert len(vendor.requests) == 2, "the same twice is what the vendor means"
    assert told[column].to_list() == [value, healed[column][1]]
    assert told.drop(column).equals(healed.drop(column))
    assert told[1:].equals(healed[1:])


@pytest.mark.parametrize("changes", [{"n": 1.5}, {"n": 2**63}, {"n": "3"}, {"vw": "10"}])
def test_what_may_be_absent_and_is_no_number_is_absent(
    vendor: Vendor, changes: dict[str, Any]
) -> None:
    without = vendor.minutes(_json(_body(_bar(**dict.fromkeys(changes, ...)))))
    assert vendor.minutes(_json(_body(_bar(**changes)))).equals(without)


def test_other_impossible_bars_every_time_end_after_three_answers(vendor: Vendor) -> None:
    vendor.minutes(*(_json(_body(_bar(c=-n))) for n in range(1, 9)))
    assert len(vendor.requests) == MAX_BROKEN_BODIES
    vendor.requests.clear()
    broken = Response(b"{")
    assert vendor.minutes(_json(_body(_bar(c=-1))), broken, _json(_body(_bar(c=-2)))).height == 1
    assert len(vendor.requests) == MAX_BROKEN_BODIES


@pytest.mark.parametrize("key", ["o", "h", "l", "c", "v", "t"])
def test_a_row_that_lacks_a_key_is_refused(vendor: Vendor, key: str) -> None:
    with pytest.raises(SourceError, match=f"lacks the key '{key}'"):
        vendor.minutes(_json(_body(_bar(**{key: ...}))))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Response(b"<html>Bad gateway</html>", media_type="text/html"), id="html"),
        pytest.param(Response(b""), id="empty"),
        pytest.param(Response(orjson.dumps(_body(_bar()))[:-20]), id="truncated json"),
        pytest.param(Response(b'{"status":"OK","x":"\xff"}'), id="not utf-8"),
        pytest.param(Response(b'{"status":"OK","results":[{"o":NaN}]}'), id="nan"),
        pytest.param(
            Response(orjson.dumps(_body(_bar(o=77))).replace(b"77", b"1e999")), id="infinity"
        ),
    ],
)
def test_a_body_that_is_no_json_is_asked_for_again(vendor: Vendor, answer: Response) -> None:
    assert vendor.minutes(answer, _json(_body(_bar()))).height == 1
    assert len(vendor.waits) == 1
    vendor.requests.clear()
    with pytest.raises(SourceError, match=r"not JSON.*Remedy:"):
        vendor.minutes(answer)
    assert len(vendor.requests) == MAX_BROKEN_BODIES


def test_nothing_is_returned_when_the_second_page_is_broken(vendor: Vendor) -> None:
    first = _json(_body(_bar(), next_url=f"{vendor.url}/page2?cursor=x"))
    with pytest.raises(SourceError, match="not JSON"):
        vendor.minutes(first, Response(b"{"))


def test_pages_are_followed_without_the_key_in_the_address(vendor: Vendor) -> None:
    first = _json(_body(_bar(), next_url=f"{vendor.url}/page2?cursor=x%3D&apiKey={KEY}"))
    bars = vendor.minutes(first, _json(_body(_bar(t=OPEN_MS + 60_000))))
    assert bars.height == 2
    assert str(vendor.requests[1].url) == f"{vendor.url}/page2?cursor=x%3D"
    assert vendor.requests[1].headers["Authorization"] == f"Bearer {KEY}"


def test_a_loop_of_pages_ends(vendor: Vendor) -> None:
    loop = [
        _json(_body(_bar(t=OPEN_MS + n * 60_000), next_url=f"{vendor.url}/p?cursor={n % 2}"))
        for n in range(9)
    ]
    with pytest.raises(SourceError, match="paging does not end"):
        vendor.minutes(*loop)
    assert len(vendor.requests) == 3


@pytest.mark.parametrize("where", ["https://evil.example/p?c=1", "//evil.example/p", "http://[", 7])
def test_a_next_url_elsewhere_is_not_followed(vendor: Vendor, where: Any) -> None:
    with pytest.raises(SourceError, match="another host"):
        vendor.minutes(_json(_body(_bar(), next_url=where)))
    assert len(vendor.requests) == 1


def test_throttled_then_served(vendor: Vendor) -> None:
    throttled = [_json({"status": "ERROR"}, 429), _json({"status": "ERROR"}, 429, Retry_After="7")]
    assert vendor.minutes(*throttled, _json(_body(_bar()))).height == 1
    assert 5 <= vendor.waits[0] <= 6.5
    assert vendor.waits[1:] == [7.0]


def test_retry_after_may_be_a_date(vendor: Vendor) -> None:
    def throttled(request: Request) -> Response:
        return _json({}, 429, Retry_After=formatdate(time.time() + 30, usegmt=True))

    vendor.minutes(throttled, _json(_body(_bar())))
    # Counted from the Date header, which the server renews once a second.
    assert len(vendor.waits) == 1
    assert 28 <= vendor.waits[0] <= 32


def test_throttled_for_ever_ends(vendor: Vendor) -> None:
    with pytest.raises(SourceError, match=f"rate limit was hit, {MAX_ATTEMPTS} times"):
        vendor.minutes(_json({"status": "ERROR"}, 429))
    assert len(vendor.requests) == MAX_ATTEMPTS
    assert len(vendor.waits) == MAX_ATTEMPTS - 1
    assert vendor.waits == sorted(vendor.waits)


def test_a_wait_that_is_too_long_is_refused_at_once(vendor: Vendor) -> None:
    with pytest.raises(SourceError, match="3600 s"):
        vendor.minutes(_json({}, 429, Retry_After="3600"))
    assert (len(vendor.requests), vendor.waits) == (1, [])


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_failing_vendor_is_tried_again_and_then_given_up(vendor: Vendor, status: int) -> None:
    with pytest.raises(SourceError, match=f"HTTP {status}"):
        vendor.minutes(_json({}, status))
    assert len(vendor.requests) == MAX_ATTEMPTS
    assert vendor.minutes(_json({}, status), _json(_body(_bar()))).height == 1


def test_a_vendor_that_hangs_runs_into_the_time_limit() -> None:
    app = FastAPI()

    async def hang() -> None:
        await asyncio.sleep(0.3)

    app.add_api_route("/{path:path}", hang)
    waits: list[float] = []
    with BackgroundServer(app) as server:
        source = PolygonSource(SecretStr(KEY), server.url, timeout_seconds=0.02, sleep=waits.append)
        with pytest.raises(SourceError, match="did not answer in time"):
            source.bars(["AAA"], Timeframe.M1, DAY, DAY)
    assert len(waits) == MAX_ATTEMPTS - 1


@pytest.mark.parametrize(
    "sent",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"status":"OK",',
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        b"garbage\r\n\r\n",
        b"",
    ],
)
def test_a_broken_connection_is_an_error(sent: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(MAX_ATTEMPTS):
                peer, _address = listener.accept()
                with peer:
                    peer.recv(65_536)
                    peer.sendall(sent)

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        source = PolygonSource(SecretStr(KEY), url, sleep=lambda _seconds: None)
        with pytest.raises(SourceError, match="connection to the vendor broke"):
            source.bars(["AAA"], Timeframe.M1, DAY, DAY)
        thread.join(5)


def test_the_key_is_in_no_repr_log_or_output(
    vendor: Vendor, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    source = vendor.source()
    with caplog.at_level(logging.DEBUG):
        page = _json(_body(_bar(), next_url=f"{vendor.url}/p?apiKey={KEY}"))
        vendor.minutes(page, _json({}, 503), _json(_body(_bar(t=OPEN_MS + 60_000))))
        with pytest.raises(SourceError) as caught:
            vendor.minutes(_json({"error": KEY}, 418))
    said = [r.getMessage() for r in caplog.records if r.name != "uvicorn.access"]
    every = [repr(source), str(source), str(caught.value), repr(caught.value), *said]
    assert said
    assert KEY not in "".join((*every, *capfd.readouterr()))


@pytest.mark.parametrize("key", ["", " ", "two words", "line\n", "sch\u00fcssel"])
def test_an_unusable_key_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(SourceError, match="POLYGON_API_KEY") as caught:
        PolygonSource(SecretStr(key), "https://api.massive.com")
    assert len(key) < 3 or key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.massive.com",
        "ftp://x",
        "api.massive.com",
        "https://u:p@x",
        "https://x/v2",
        "https://x:y",
        "",
    ],
)
def test_an_address_that_would_leak_the_key_is_refused(url: str) -> None:
    with pytest.raises(SourceError, match="base URL"):
        PolygonSource(SecretStr(KEY), url)


@pytest.mark.parametrize("options", [{"timeout_seconds": 0}, {"known_delay": -dt.timedelta(1)}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match="impossible"):
        PolygonSource(SecretStr(KEY), "https://api.massive.com", **options)


@pytest.mark.parametrize("symbol", ["", "A/B", "A?x=1", "../v3", "A B"])
def test_what_is_no_symbol_is_refused_before_any_request(vendor: Vendor, symbol: str) -> None:
    with pytest.raises(SourceError, match="not a symbol"):
        vendor.source().bars([symbol], Timeframe.M1, DAY, DAY)
    assert vendor.requests == []


def test_many_symbols_and_few_sessions_take_one_request_a_session(vendor: Vendor) -> None:
    def grouped(request: Request) -> Response:
        day = dt.date.fromisoformat(request.url.path.rpartition("/")[2])
        t = int(calendar.session_close(day).timestamp() * 1000)
        rows = [_bar(T=s, t=t) for s in ("CCC", "AAA", "BBB", "XXX")]
        return _json(_body(*rows, {"T": "YYY", "o": "unused"}, ticker=...))

    vendor.answers = [grouped]
    told: list[tuple[int, int]] = []
    source = vendor.source(on_progress=lambda done, total: told.append((done, total)))
    last = dt.date(2024, 7, 3)
    bars = source.bars(["BBB", "AAA", "CCC"], Timeframe.D1, DAY, last)
    asked = sorted(r.url.path.rpartition("/")[2] for r in vendor.requests)
    assert asked == [str(DAY), str(last)]
    assert bars.select(Bar.SYMBOL, Bar.SESSION).rows() == [
        (s, d) for s in ("AAA", "BBB", "CCC") for d in (DAY, last)
    ]
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_actions_of_many_symbols_take_one_query(vendor: Vendor) -> None:
    rows = [
        {"ticker": t, "execution_date": "2024-07-06", "split_from": 3, "split_to": 1}
        for t in ("AAA", "AAB", "ZZZ")
    ]
    vendor.answers = [_json({"status": "OK", "results": rows})]
    splits = vendor.source().splits(["ZZZ", "AAA"], DAY, dt.date(2024, 7, 31))
    assert len(vendor.requests) == 1
    assert splits[Split.SYMBOL].to_list() == ["AAA", "ZZZ"]
    assert splits[Split.SPLIT_RATIO].to_list() == [1 / 3, 1 / 3]
    # A Saturday: in force, and known, when Monday begins.
    assert splits[Split.KNOWN_AT][0] == calendar.midnight(dt.date(2024, 7, 8))


def test_a_dividend_is_known_once_its_declaration_day_is_over(vendor: Vendor) -> None:
    def row(ticker: str, **changes: Any) -> dict[str, Any]:
        base = {"ticker": ticker, "ex_dividend_date": "2024-07-05", "cash_amount": 1}
        return base | {"currency": "USD"} | changes

    vendor.answers = [
        _json(
            {
                "status": "OK",
                "results": [
                    row("AAA", declaration_date="2024-07-01"),
                    row("AAB", declaration_date="2024-07-05"),
                    row("AAC"),
                    row("AAD", currency="CAD"),
                ],
            }
        )
    ]
    wanted = ["AAA", "AAB", "AAC", "AAD"]
    found = vendor.source().dividends(wanted, DAY, DAY + dt.timedelta(days=5))
    at_open = calendar.session_open(dt.date(2024, 7, 5))
    assert found.select(Dividend.SYMBOL, Dividend.KNOWN_AT).rows() == [
        ("AAA", dt.datetime(2024, 7, 2, 4, tzinfo=dt.UTC)),
        ("AAB", at_open),
        ("AAC", at_open),
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"ticker": "AAA", "execution_date": "soon", "split_from": 1, "split_to": 2},
        {"ticker": "AAA", "execution_date": "2024-07-02", "split_from": 0, "split_to": 2},
        {"ticker": "AAA", "execution_date": "2024-07-02", "split_from": 1, "split_to": -2},
        {"ticker": "AAA", "execution_date": "2024-07-02", "split_from": 1},
        {"ticker": "AAA", "execution_date": "2023-07-03", "split_from": 1, "split_to": 2},
        {"execution_date": "2024-07-02", "split_from": 1, "split_to": 2},
    ],
)
def test_an_unusable_split_is_an_error(vendor: Vendor, row: dict[str, Any]) -> None:
    vendor.answers = [_json({"status": "OK", "results": [row]})]
    with pytest.raises(SourceError, match="unusable"):
        vendor.source().splits(["AAA"], DAY, DAY)
