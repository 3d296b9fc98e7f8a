"""What can be wrong with a flat file and its server, on a real S3 server and over real sockets."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import logging
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from botocore import endpoint as botocore_endpoint
from fastapi import FastAPI, Request, Response
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from market import calendar, flatfile_parse
from market.errors import MarketError, SourceError
from market.flatfile_parse import DayFile
from market.flatfiles import BODY_ATTEMPTS, REQUEST_ATTEMPTS, FlatFileSource
from market.ingest import ingest
from market.lake import Lake
from market.schema import BAR_SCHEMA, Bar
from market.serving import BackgroundServer
from market.timeframes import Timeframe
from tests.flat_server import ACCESS_KEY, HEADER, SECRET_KEY, FlatServer, flat_server
from tests.markets import bits, market

DAY = dt.date(2024, 7, 2)
M1, D1 = Timeframe.M1, Timeframe.D1
OPEN_NS = int(calendar.session_open(DAY).timestamp()) * 10**9
MIDNIGHT_NS = OPEN_NS - 570 * 60 * 10**9
MINUTE = 60 * 10**9
GOOD = f"AAA,100,10,10.5,11,9.5,{OPEN_NS},3"


def _line(**changes: object) -> str:
    row = dict(zip(HEADER.split(","), GOOD.split(","), strict=True))
    return ",".join(str(v) for v in (row | changes).values())


def _gz(*lines: str, header: str = HEADER) -> bytes:
    return gzip.compress("\n".join([header, *lines, ""]).encode())


def _read(
    body: bytes, timeframe: Timeframe = M1, symbols: list[str] | None = None, size: int = 1 << 20
) -> pl.DataFrame:
    file = DayFile("the/file.csv.gz", timeframe, DAY, dt.timedelta(0))
    return file.read((body[n : n + size] for n in range(0, len(body), size)), symbols)


@pytest.fixture(scope="module")
def server() -> Iterator[FlatServer]:
    with flat_server() as server:
        yield server


def test_every_value_is_where_an_independent_reader_puts_it(server: FlatServer) -> None:
    of = market(symbols=7, sessions=3, minute_sessions=1)
    day = of.minute[Bar.SESSION][0]
    server.put_bars(M1, of.minute)
    body = server.client.get_object(
        Bucket=server.bucket, Key=f"us_stocks_sip/minute_aggs_v1/2024/07/{day}.csv.gz"
    )["Body"].read()
    rows = sorted(
        (
            row["ticker"],
            int(row["window_start"]),
            *(float(row[c]) for c in ("open", "high", "low", "close", "volume")),
            int(row["transactions"]),
        )
        for row in csv.DictReader(io.StringIO(gzip.decompress(body).decode()))
    )
    bars = server.source().session_bars(M1, day)
    ours = bars.select(
        "symbol",
        pl.col("bar_start").dt.epoch("us") * 1000,
        *("open", "high", "low", "close", "volume", "trades"),
    ).rows()
    assert ours == rows
    assert bars[Bar.VWAP].null_count() == bars.height == of.minute.height


def test_an_unsorted_file_is_sorted() -> None:
    lines = [_line(ticker=t, window_start=OPEN_NS + k * MINUTE) for t in "BCA" for k in (2, 0, 1)]
    bars = _read(_gz(*lines))
    assert bars[Bar.SYMBOL].to_list() == list("AAABBBCCC")
    assert bits(bars) == bits(bars.sort(Bar.SYMBOL, Bar.BAR_START))


def test_other_orders_and_further_columns_and_line_ends_are_read() -> None:
    plain = _read(_gz(GOOD))
    header = "otc,transactions,window_start,low,high,close,open,volume,ticker"
    turned = ",".join(["x", *reversed(GOOD.split(","))])
    assert _read(_gz(turned, header=header)).equals(plain)
    assert _read(gzip.compress(f"{HEADER}\r\n{GOOD}\r\n".encode())).equals(plain)
    assert _read(gzip.compress(f"{HEADER}\n{GOOD}".encode())).equals(plain)
    assert _read(gzip.compress(f"{HEADER}\n".encode()) + gzip.compress(GOOD.encode())).equals(plain)


@pytest.mark.parametrize("symbol", ["NA", "NULL", "TRUE", "NAN", "INF", "BRK.A", "ABRpD"])
def test_a_symbol_that_looks_like_something_else_stays_a_symbol(symbol: str) -> None:
    assert _read(_gz(_line(ticker=symbol)))[Bar.SYMBOL].to_list() == [symbol]


def test_only_the_symbols_asked_for_are_kept() -> None:
    body = _gz(*(_line(ticker=t) for t in ("AAA", "BBB", "CCC")))
    assert _read(body, symbols=["CCC", "AAA", "ZZZ"])[Bar.SYMBOL].to_list() == ["AAA", "CCC"]
    nothing = _read(body, symbols=[])
    assert nothing.is_empty()
    assert nothing.schema == BAR_SCHEMA


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 400), block=st.integers(80, 900))
def test_the_sizes_of_pieces_and_blocks_change_nothing(size: int, block: int) -> None:
    lines = [_line(ticker=t, window_start=OPEN_NS + k * MINUTE) for t in "ABCDE" for k in range(9)]
    body = _gz(*lines)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(flatfile_parse, "_BLOCK_BYTES", block)
        assert bits(_read(body, size=size)) == bits(_read(body))
    assert _read(body).height == 45


UNPLACED: list[tuple[str, dict[str, object]]] = [
    ("'window_start'.*whole minute", {"window_start": OPEN_NS + 1}),
    ("'window_start'.*2024-07-02 in New York", {"window_start": MIDNIGHT_NS - MINUTE}),
    ("'window_start'.*in New York", {"window_start": MIDNIGHT_NS + 24 * 60 * MINUTE}),
    ("'window_start'.*in New York", {"window_start": OPEN_NS // 10**6}),
    ("'window_start'.*in New York", {"window_start": 10**30}),
    ("'window_start'.*in New York", {"window_start": "noon"}),
    ("'window_start'.*in New York", {"window_start": ""}),
    ("'ticker'.*empty", {"ticker": ""}),
    ("not a symbol.*'A A'", {"ticker": "A A"}),
    ("cannot be read", {"transactions": "3,4"}),
]


@pytest.mark.parametrize(("message", "changes"), UNPLACED)
def test_one_row_that_is_no_bar_of_this_session_refuses_the_file(
    message: str, changes: dict[str, object]
) -> None:
    others = [_line(ticker=f"B{n}") for n in range(50)]
    bad = _line(**{"ticker": "AAA"} | changes)
    for symbols in (None, ["B7"]):  # Also where nobody asked for that row.
        if symbols is not None and "not a symbol" in message:
            continue
        with pytest.raises(SourceError, match=message) as caught:
            _read(_gz(*others[:25], bad, *others[25:]), symbols=symbols)
        assert "the/file.csv.gz" in str(caught.value)
        assert caught.value.remedy
        assert "\n" not in str(caught.value)


IMPOSSIBLE: list[tuple[str, object, float | None]] = [
    ("close", "NaN", float("nan")),
    ("open", "inf", float("inf")),
    ("low", -1, -1.0),
    ("low", 0, 0.0),
    ("open", "", None),
    ("high", "12x", None),
    ("high", '"11"', None),
    ("high", 10.25, 10.25),
    ("low", 10.25, 10.25),
    ("volume", -5, -5.0),
    ("volume", "nan", float("nan")),
    ("transactions", -1, -1),
    ("transactions", "2.5", None),
    ("transactions", "", None),
    ("transactions", 10**13, 10**13),
]


@pytest.mark.parametrize(("column", "text", "value"), IMPOSSIBLE)
def test_an_impossible_value_is_handed_on_in_its_row(
    column: str, text: object, value: float | None
) -> None:
    others = [_line(ticker=f"B{n}") for n in range(50)]
    bars = _read(_gz(*others[:25], _line(**{column: text}), *others[25:]))
    good = _read(_gz(*others[:25], GOOD, *others[25:]))
    name = Bar.TRADES if column == "transactions" else Bar(column)
    is_ours = pl.col(Bar.SYMBOL) == "AAA"
    wanted = pl.lit(value, BAR_SCHEMA[name])
    assert bits(bars) == bits(
        good.with_columns(pl.when(is_ours).then(wanted).otherwise(pl.col(name)).alias(name))
    )


def test_a_line_with_too_few_values_is_refused() -> None:
    short = GOOD.rpartition(",")[0]
    for lines in ([_line(ticker="BBB"), short], [short], [_line(open="x"), short], [GOOD, ",,"]):
        with pytest.raises(SourceError, match=r"fewer values than|cannot be read|ticker"):
            _read(_gz(*lines))


def test_extended_hours_minutes_stay_and_other_days_do_not() -> None:
    first, last = MIDNIGHT_NS + 240 * MINUTE, MIDNIGHT_NS + 1199 * MINUTE
    bars = _read(_gz(_line(window_start=first), _line(window_start=last)))
    opened = calendar.session_open(DAY)
    assert bars[Bar.BAR_START].to_list() == [
        opened - dt.timedelta(minutes=330),
        opened + dt.timedelta(minutes=629),
    ]


def test_a_daily_bar_of_another_day_is_refused() -> None:
    assert _read(_gz(_line(window_start=MIDNIGHT_NS)), D1).height == 1
    with pytest.raises(SourceError, match="window_start"):
        _read(_gz(_line(window_start=MIDNIGHT_NS - 1)), D1)


@pytest.mark.parametrize("timeframe", [M1, D1])
@pytest.mark.parametrize("between", [[], [_line(ticker="ZZZ")], [_line(ticker="AA")]])
def test_the_same_bar_twice_is_refused(timeframe: Timeframe, between: list[str]) -> None:
    with pytest.raises(SourceError, match="AAA: the same bar twice"):
        _read(_gz(GOOD, *between, _line(close=10.25)), timeframe)


@pytest.mark.parametrize(
    "header",
    [
        HEADER.replace("high", "hi"),
        HEADER.replace(",transactions", ""),
        HEADER + ",high",
        HEADER.replace(",", ";"),
        "<html>",
    ],
)
def test_wrong_columns_are_named(header: str) -> None:
    with pytest.raises(SourceError, match=r"columns.*ticker, volume") as caught:
        _read(_gz(GOOD, header=header))
    assert caught.value.got == header


@pytest.mark.parametrize("lines", [[], [""], ["", ""]])
def test_a_file_without_rows_is_refused(lines: list[str]) -> None:
    with pytest.raises(SourceError, match=r"no rows|empty"):
        _read(_gz(*lines))


def test_a_gzip_that_ends_early_is_refused_wherever_it_ends() -> None:
    body = _gz(*(_line(ticker=f"A{n}", volume=n * 7919 % 1009) for n in range(200)))
    for end in [*range(0, len(body), 97), *range(len(body) - 12, len(body))]:
        with pytest.raises(SourceError, match="cut short"):
            _read(body[:end])


def test_a_damaged_gzip_is_refused() -> None:
    body = bytearray(_gz(*(_line(ticker=f"A{n}") for n in range(200))))
    for body_of in (bytes(body[:-6] + b"\0" + body[-5:]), b"<html>no</html>", bytes(body) + b"?"):
        with pytest.raises(SourceError, match=r"not intact gzip|cut short"):
            _read(body_of)


def test_a_refused_file_leaves_the_lake_as_it_was(server: FlatServer, tmp_path) -> None:
    lake, source = Lake(tmp_path), server.source()
    days = [DAY, calendar.next_session(DAY)]
    later = dt.datetime(2024, 7, 8, tzinfo=dt.UTC)
    next_line = _line(window_start=OPEN_NS + 24 * 60 * MINUTE)
    server.put(M1, days[0], _gz(GOOD))
    ingest(lake, source, M1, days[:1], ["AAA"], now=later)
    before = lake.version("bars_1m"), lake.content_hash("bars_1m")
    server.put(M1, days[1], _gz(next_line)[:-9])
    with pytest.raises(SourceError, match="cut short"):
        ingest(lake, source, M1, days, ["AAA"], now=later)
    assert (lake.version("bars_1m"), lake.content_hash("bars_1m")) == before
    server.put(M1, days[1], _gz(next_line))
    assert ingest(lake, source, M1, days, ["AAA"], now=later).bars == 1
    assert lake.sessions("bars_1m") == set(days)


def test_a_file_that_is_not_there_yet(server: FlatServer) -> None:
    with pytest.raises(SourceError, match="11:00 New York") as caught:
        server.source().session_bars(M1, dt.date(2024, 7, 1))
    assert caught.value.got == "us_stocks_sip/minute_aggs_v1/2024/07/2024-07-01.csv.gz"
    with pytest.raises(SourceError, match=r"no such bucket.*'elsewhere'"):
        server.source(bucket="elsewhere").session_bars(M1, DAY)
    with pytest.raises(MarketError, match="not a trading session"):
        server.source().session_bars(M1, dt.date(2024, 7, 4))


def test_wrong_keys_are_refused_and_never_shown(
    server: FlatServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.put(M1, DAY, _gz(GOOD))
    with server.checking_keys() as (access, secret), caplog.at_level(logging.DEBUG):
        assert server.source(access, secret).session_bars(M1, DAY).height == 1
        wrong = "another-secret-value-987"
        for source, code, shown in (
            (server.source(access, wrong), "SignatureDoesNotMatch", (access, wrong)),
            (server.source("AKIAWRONGWRONG", secret), "InvalidAccessKeyId", ("AKIAWRONGWRONG",)),
            (server.source(access, secret, bucket="other"), "AccessDenied", (access, secret)),
        ):
            with pytest.raises(SourceError, match=f"{code}.*POLYGON_S3_ACCESS_KEY") as caught:
                source.session_bars(M1, DAY)
            told = "".join(traceback.format_exception(caught.value)) + repr(source) + str(source)
            # The server is in this process too, and may log what it was sent.
            logged = [r.getMessage() for r in caplog.records if not r.name.startswith("moto")]
            assert len(logged) > 100
            for key in (*shown, access, secret):
                assert key not in told
                assert not [text for text in logged if key in text]


@pytest.mark.parametrize("broken", ["", " ", "key\n", "schlüssel"])
def test_unusable_keys_are_refused_at_once(broken: str) -> None:
    for keys in ((broken, SECRET_KEY), (ACCESS_KEY, broken)):
        with pytest.raises(SourceError, match="POLYGON_S3_SECRET_KEY") as caught:
            FlatFileSource(SecretStr(keys[0]), SecretStr(keys[1]))
        assert caught.value.got is None


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("http://files.massive.com", {}, r"endpoint.*https://files\.massive\.com"),
        ("https://me:secret@files.massive.com", {}, "endpoint"),
        ("nonsense", {}, "endpoint"),
        ("https://files.massive.com", {"timeout_seconds": 0.0}, "time limit"),
        ("https://files.massive.com", {"known_delay": dt.timedelta(-1)}, "delay"),
    ],
)
def test_senseless_settings_are_refused(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        FlatFileSource(SecretStr(ACCESS_KEY), SecretStr(SECRET_KEY), url, **options)
    assert "secret@" not in str(caught.value)


Answer = Callable[[], Response]


class Vendor:
    """An endpoint that answers from a script; the last answer repeats."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[Answer] = []
        self.asked: list[str] = []
        self.waits: list[float] = []
        self.released = threading.Event()

    def source(self, *answers: Answer, **options: Any) -> FlatFileSource:
        self.answers = list(answers)
        return FlatFileSource(SecretStr(ACCESS_KEY), SecretStr(SECRET_KEY), self.url, **options)

    def answer(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        return (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])()


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vendor]:
    vendor = Vendor()
    app = FastAPI(docs_url=None, openapi_url=None)
    app.add_api_route("/{path:path}", vendor.answer, methods=["GET"])
    monkeypatch.setattr(botocore_endpoint, "time", SimpleNamespace(sleep=vendor.waits.append))
    with BackgroundServer(app) as server:
        vendor.url = server.url
        yield vendor
        vendor.released.set()


def _whole() -> Response:
    return Response(_gz(GOOD))


def _cut_off() -> Response:
    body = _gz(*(_line(ticker=f"A{n}") for n in range(500)))
    return Response(body[:-200], headers={"Content-Length": str(len(body))})


def _status(status: int) -> Answer:
    return lambda: Response("<Error><Code>SlowDown</Code></Error>", status)


def test_a_vendor_out_of_order_is_asked_again(vendor: Vendor) -> None:
    source = vendor.source(_status(503), _status(500), _whole)
    assert source.session_bars(M1, DAY).height == 1
    assert vendor.asked == [f"/flatfiles/us_stocks_sip/minute_aggs_v1/2024/07/{DAY}.csv.gz"] * 3
    assert len(vendor.waits) == 2


@pytest.mark.parametrize("status", [500, 503])
def test_asking_again_has_an_end(vendor: Vendor, status: int) -> None:
    with pytest.raises(SourceError, match=f"SlowDown.*{status}"):
        vendor.source(_status(status)).session_bars(M1, DAY)
    assert len(vendor.asked) == REQUEST_ATTEMPTS
    assert len(vendor.waits) == REQUEST_ATTEMPTS - 1


def test_a_body_that_breaks_off_is_read_again(vendor: Vendor) -> None:
    assert vendor.source(_cut_off, _whole).session_bars(M1, DAY).height == 1
    assert len(vendor.asked) == 2


def test_a_body_that_always_breaks_off_is_an_error(vendor: Vendor) -> None:
    with pytest.raises(SourceError, match=f"broke off {BODY_ATTEMPTS} times"):
        vendor.source(_cut_off).session_bars(M1, DAY)
    assert len(vendor.asked) == BODY_ATTEMPTS


def test_a_vendor_that_never_answers_is_an_error(vendor: Vendor) -> None:
    def never() -> Response:
        vendor.released.wait()
        return _whole()

    with pytest.raises(SourceError, match=r"out of reach.*ReadTimeoutError"):
        vendor.source(never, timeout_seconds=0.05).session_bars(M1, DAY)
    assert len(vendor.waits) == REQUEST_ATTEMPTS - 1


def test_nobody_at_the_address_is_an_error(vendor: Vendor) -> None:
    with socket.socket() as taken:  # Bound, but nobody listens.
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        source = FlatFileSource(SecretStr(ACCESS_KEY), SecretStr(SECRET_KEY), url)
        with pytest.raises(SourceError, match=r"out of reach.*EndpointConnectionError") as caught:
            source.session_bars(M1, DAY)
    assert caught.value.got == url
