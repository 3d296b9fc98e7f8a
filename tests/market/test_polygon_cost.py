"""What a download costs: requests counted, held back, kept; and pages read fast or carefully."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from fastapi import FastAPI, Request, Response
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from market import calendar
from market import polygon_kernel as kernel
from market import polygon_parse as parse
from market.errors import SourceError
from market.polygon import PolygonSource
from market.polygon_meter import RequestMetrics, kind_of
from market.polygon_overlap import IN_FLIGHT, overlap
from market.polygon_wire import decode
from market.replay import ServedMarket, create_app
from market.replay_faults import FaultKind, FaultPlan
from market.request_limiter import Plan
from market.response_cache import Kind, ResponseCache
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, TICKER_SCHEMA, empty
from market.serving import BackgroundServer
from market.timeframes import Timeframe
from tests.markets import bits, daily_bars, minute_bars

KEY = "sk-very-secret"
DAY = dt.date(2024, 7, 2)
SYMBOLS = ["AAA", "BBB"]
LATER = dt.datetime(2024, 7, 3, 12, tzinfo=dt.UTC)
MIDDAY = dt.datetime(2024, 7, 2, 16, tzinfo=dt.UTC)
OPEN_MS = int(calendar.session_open(DAY).timestamp() * 1000)


def _market(price: float = 10.0) -> ServedMarket:
    starts = [calendar.session_open(DAY) + dt.timedelta(minutes=n) for n in range(5)]
    minute = pl.concat([minute_bars(s, starts, [price] * 5, DAY) for s in SYMBOLS])
    return ServedMarket(
        daily=daily_bars({s: [price] for s in SYMBOLS}, DAY),
        minute=minute,
        splits=empty(SPLIT_SCHEMA),
        dividends=empty(DIVIDEND_SCHEMA),
        tickers=pl.DataFrame([SYMBOLS, SYMBOLS, [True] * 2, [None] * 2], schema=TICKER_SCHEMA),
    )


@contextmanager
def _served(price: float = 10.0, port: int = 0) -> Iterator[str]:
    with BackgroundServer(create_app(_market(price), api_key=KEY), port=port) as server:
        yield server.url


@pytest.fixture
def cache(tmp_path: Path) -> ResponseCache:
    return ResponseCache(tmp_path / "cache")


def _source(url: str, **options: Any) -> PolygonSource:
    return PolygonSource(SecretStr(KEY), url, sleep=lambda _: None, **options)


def _minutes(source: PolygonSource) -> pl.DataFrame:
    return source.bars(SYMBOLS, Timeframe.M1, DAY, DAY)


class Counter:
    """A limiter that counts and says it waited."""

    def __init__(self) -> None:
        self.count = 0
        self.held: list[float] = []

    def acquire(self) -> float:
        self.count += 1
        return 0.5

    def hold(self, seconds: float) -> None:
        self.held.append(seconds)


@pytest.mark.parametrize(
    ("status", "after", "held"), [(429, "7", [7.0]), (429, "", []), (503, "7", [])]
)
def test_a_wait_that_the_vendor_asks_for_is_everybodys(
    status: int, after: str, held: list[float]
) -> None:
    app, answered = FastAPI(), 0

    async def answer(request: Request) -> Response:
        nonlocal answered
        answered += 1
        if answered == 1:
            return Response(b"{}", status, {"Retry-After": after})
        return Response(b'{"status":"OK","results":[]}')

    app.add_api_route("/{path:path}", answer)
    limiter = Counter()
    with BackgroundServer(app) as server:
        _source(server.url, limiter=limiter).splits(["AAA"], DAY, DAY)
    assert (limiter.held, limiter.count) == (held, 2)


def test_requests_bytes_and_waits_are_counted() -> None:
    limiter = Counter()
    with _served() as url:
        source = _source(url, limiter=limiter)
        assert source.metrics == RequestMetrics()
        _minutes(source)
    metrics = source.metrics
    assert (metrics.requests, metrics.retries, metrics.cache_hits) == (2, 0, 0)
    assert metrics.bytes > 1_000
    assert (limiter.count, metrics.waits_seconds) == (2, 1.0)


def test_every_attempt_passes_the_limiter() -> None:
    app = FastAPI()

    async def fail(request: Request) -> Response:
        return Response(b"", 503)

    app.add_api_route("/{path:path}", fail)
    limiter = Counter()
    with BackgroundServer(app) as server:
        source = _source(server.url, limiter=limiter)
        with pytest.raises(SourceError, match="503"):
            source.bars(["AAA"], Timeframe.M1, DAY, DAY)
    assert (limiter.count, source.metrics.requests, source.metrics.retries) == (5, 5, 4)


def test_settled_history_is_asked_for_once(cache: ResponseCache, tmp_path: Path) -> None:
    with _served() as url:
        first = _minutes(_source(url, cache=cache, clock=lambda: LATER))
    # The vendor is gone; another process reads the same folder.
    again = _source(url, cache=ResponseCache(tmp_path / "cache"), clock=lambda: LATER)
    assert bits(_minutes(again)) == bits(first)
    assert (again.metrics.requests, again.metrics.cache_hits) == (0, 2)


def test_the_bars_of_today_are_asked_for_again_after_a_minute(tmp_path: Path) -> None:
    seconds = [1_000.0]
    cache = ResponseCache(tmp_path, clock=lambda: seconds[0])
    with _served() as url:
        source = _source(url, cache=cache, clock=lambda: MIDDAY)
        for wait, requests in ((0, 2), (59, 2), (2, 4)):
            seconds[0] += wait
            _minutes(source)
            assert source.metrics.requests == requests


def test_looking_for_revisions_goes_past_what_is_kept(cache: ResponseCache) -> None:
    with _served() as url:
        source = _source(url, cache=cache, clock=lambda: LATER)
        _minutes(source)
        fresh = source.afresh()
        _minutes(fresh)
        assert source.metrics.requests == fresh.metrics.requests == 4
        assert source.metrics.cache_hits == 0
    port = int(url.rpartition(":")[2])
    with _served(price=20.0, port=port):
        assert set(_minutes(source)["close"]) == {10.0}
        assert set(_minutes(source.afresh())["close"]) == {20.0}
    assert set(_minutes(source)["close"]) == {20.0}, "the revision replaced what was kept"


def test_adjusted_bars_never_settle(tmp_path: Path) -> None:
    seconds = [1_000.0]
    cache = ResponseCache(tmp_path, clock=lambda: seconds[0])
    with _served() as url:
        source = _source(url, cache=cache, clock=lambda: LATER, adjusted=True)
        raw = _source(url, cache=cache, clock=lambda: LATER)
        for wait, asked in ((0, (2, 2)), (59, (2, 2)), (2, (4, 2))):
            seconds[0] += wait
            _minutes(source)
            _minutes(raw)
            assert (source.metrics.requests, raw.metrics.requests) == asked


def test_actions_tickers_and_unknown_symbols_are_kept_too(cache: ResponseCache) -> None:
    with _served() as url:
        source = _source(url, cache=cache, clock=lambda: LATER)
        for _ in range(2):
            source.tickers()
            source.splits(["AAA"], DAY, DAY)
            source.dividends(["AAA"], DAY, DAY)
    assert (source.metrics.requests, source.metrics.cache_hits) == (4, 4)


def test_many_symbols_without_bars_are_looked_up_together() -> None:
    symbols = [f"S{k:02}" for k in range(25)]
    in_use = [s not in ("S07", "S08") for s in symbols]
    tickers = pl.DataFrame([symbols, symbols, in_use, [None] * 25], schema=TICKER_SCHEMA)
    app, limiter = create_app(replace(_market(), tickers=tickers), api_key=KEY), Counter()
    with BackgroundServer(app) as server:
        source = _source(server.url, limiter=limiter)
        source.check_known(symbols)
        # The list of those in use, and both lists for each of the two that are not.
        assert limiter.count == 1 + 2 * 2
        with pytest.raises(SourceError, match=r"does not know this symbol.*'NONE'"):
            source.check_known([*symbols, "NONE"])


def test_an_answer_with_an_impossible_bar_is_not_kept(cache: ResponseCache) -> None:
    faults = FaultPlan(FaultKind.ZERO_PRICE, rate=1.0, in_a_row=1000)
    with BackgroundServer(create_app(_market(), api_key=KEY, faults=faults)) as server:
        source = _source(server.url, cache=cache, clock=lambda: LATER)
        prices = ("open", "high", "low", "close")
        for _ in range(2):
            bars = _minutes(source)
            assert bars.filter(pl.any_horizontal(pl.col(prices) == 0.0)).height == len(SYMBOLS)
    assert source.metrics.cache_hits == 0


def test_the_key_is_nowhere_in_the_cache(cache: ResponseCache, tmp_path: Path) -> None:
    with _served() as url:
        _minutes(_source(url, cache=cache, clock=lambda: LATER))
    files = list((tmp_path / "cache").iterdir())
    assert files
    assert not any(KEY.encode() in f.read_bytes() or KEY in f.name for f in files)


@pytest.mark.parametrize(
    ("path", "rows", "now", "kind"),
    [
        ("/v2/aggs/ticker/A/range/1/minute/2024-07-01/2024-07-02", True, LATER, Kind.SETTLED),
        ("/v2/aggs/ticker/A/range/1/minute/2024-07-01/2024-07-02", False, LATER, Kind.LIVE_BARS),
        ("/v2/aggs/ticker/A/range/1/minute/2024-07-01/2024-07-02", True, MIDDAY, Kind.LIVE_BARS),
        (f"/v2/aggs/ticker/A/range/1/minute/1/{OPEN_MS}", True, LATER, Kind.SETTLED),
        (f"/v2/aggs/ticker/A/range/1/minute/1/{OPEN_MS}", True, MIDDAY, Kind.LIVE_BARS),
        ("/v2/aggs/ticker/A/range/1/minute/1/99999999999999999", True, LATER, None),
        ("/v2/aggs/ticker/A%3AB/range/1/day/x/2024-13-01", True, LATER, None),
        ("/v2/aggs/grouped/locale/us/market/stocks/2024-07-02", True, LATER, Kind.SETTLED),
        ("/v3/reference/tickers/A", True, LATER, Kind.REFERENCE),
        ("/stocks/v1/splits", True, LATER, Kind.REFERENCE),
        ("/v2/snapshot/locale/us/markets/stocks/tickers/A", True, LATER, Kind.QUOTE),
        ("/v3/quotes/A", True, LATER, Kind.QUOTE),
        ("/something/else", True, LATER, None),
    ],
)
def test_a_path_says_what_kind_of_data_it_is_about(
    path: str, rows: bool, now: dt.datetime, kind: Kind | None
) -> None:
    assert kind_of(path, rows, now) is kind


def _gate(covered: set[str], refusal: int = 403) -> FastAPI:
    app = FastAPI()

    async def answer(request: Request) -> Response:
        entitled = any(request.url.path.startswith(p) for p in covered)
        body = {"status": "OK" if entitled else "NOT_AUTHORIZED"}
        return Response(orjson.dumps(body), 200 if entitled else refusal)

    app.add_api_route("/{path:path}", answer)
    return app


@pytest.mark.parametrize(
    ("covered", "plan"),
    [
        ({"/v3/quotes/", "/v3/trades/", "/v2/snapshot/"}, Plan.ADVANCED),
        ({"/v3/trades/", "/v2/snapshot/"}, Plan.DEVELOPER),
        ({"/v2/snapshot/"}, Plan.STARTER),
        (set(), Plan.FREE),
    ],
)
def test_a_plan_is_found_out(covered: set[str], plan: Plan) -> None:
    with BackgroundServer(_gate(covered)) as server:
        assert _source(server.url).probe_plan() is plan


def test_an_unknown_key_has_no_plan() -> None:
    with BackgroundServer(_gate(set(), refusal=401)) as server:
        source = _source(server.url)
        with pytest.raises(SourceError, match="POLYGON_API_KEY"):
            source.probe_plan()


def test_work_overlaps_in_order_and_ends_at_the_first_error() -> None:
    told: list[tuple[int, int]] = []
    found = overlap(lambda n: n * 2, range(20), lambda *step: told.append(step))
    assert found == [n * 2 for n in range(20)]
    assert told == [(n, 20) for n in range(21)]
    begun: list[int] = []

    def fail(n: int) -> int:
        begun.append(n)
        raise SourceError(f"number {n}")

    with pytest.raises(SourceError, match="number 0"):
        overlap(fail, range(1000), lambda *_: None)
    assert len(begun) < 1000
    assert IN_FLIGHT <= 4


_number = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-5, 2**64 - 1),
    st.sampled_from([0, 10.5, 1e300, -1, None, "7", True, [1], {"a": 1}, "},{"]),
)
_plain = st.builds(lambda n, places: n / 10**places, st.integers(1, 2**53), st.integers(0, 22))
_price = st.one_of(_plain, st.floats(0.01, 1e6))
_row = st.fixed_dictionaries(
    dict.fromkeys("ohlc", _price)
    | {"v": st.one_of(_plain, st.floats(0, 1e9)), "t": st.integers(0, 2 * 10**12)},
    optional={"vw": _price, "n": st.integers(0, 10**6)},
)
_odd_row = st.tuples(_row, st.sampled_from(["o", "v", "vw", "t", "n", "zz"]), _number).map(
    lambda made: {**made[0], made[1]: made[2]}
)


@given(
    rows=st.lists(st.one_of(_row, _row, _row, _odd_row), max_size=6),
    lie=st.sampled_from([0, 0, 0, 1]),
    spaced=st.booleans(),
)
def test_a_page_reads_the_same_fast_and_carefully(
    rows: list[dict[str, Any]], lie: int, spaced: bool
) -> None:
    page = {"status": "OK", "ticker": "AAA", "adjusted": False, "resultsCount": len(rows) + lie}
    page["results"] = rows
    body = orjson.dumps(page, option=orjson.OPT_INDENT_2 if spaced else 0)

    def outcome(read: Any) -> bytes | str:
        try:
            return bits(parse.bars(read(body), "AAA"))
        except SourceError as error:
            return str(error)

    assert outcome(parse.read_page) == outcome(decode)


@given(number=st.builds(lambda n, k: f"{n}e-{k}", st.integers(1, 2**53), st.integers(0, 22)))
def test_the_fastest_reading_is_exact(number: str) -> None:
    text = f"{decimal.Decimal(number):f}"
    row = f'{{"v":{text},"o":1,"h":1,"l":1,"c":1,"t":1}}'
    floats, integers = np.full((6, 1), np.nan), np.zeros((2, 1), dtype=np.int64)
    if kernel.read_rows(np.frombuffer(row.encode(), np.uint8), floats, integers) == 1:
        assert floats[0, 0] == float(text)
    else:
        assert len(text) > 18 or int(text.replace(".", "")) >= 2**53 // 10


@pytest.mark.parametrize("digits", ["9" * n for n in (15, 16, 17, 18, 19, 20, 40)])
def test_a_number_too_long_for_the_fastest_reading_is_read_carefully(digits: str) -> None:
    for number in (digits, f"1.{digits}", f"{digits}.5", f"0.{digits}"):
        row = f'{{"v":{number},"o":1,"h":1,"l":1,"c":1,"t":1}}'
        body = f'{{"status":"OK","ticker":"AAA","adjusted":false,"results":[{row}]}}'.encode()
        found = parse.bars(parse.read_page(body), "AAA")
        assert found["volume"].to_list() == [float(number)]


def test_metrics_tell_what_came_between_two_snapshots() -> None:
    early = RequestMetrics(requests=2, bytes=10, waits_seconds=0.5)
    late = RequestMetrics(requests=5, bytes=70, cache_hits=1, retries=2, waits_seconds=0.75)
    assert late - early == RequestMetrics(3, 60, 1, 2, 0.25)
    assert early + (late - early) == late
    assert (late - early).as_metadata() == {
        "requests": 3,
        "bytes received": 60,
        "answers from cache": 1,
        "retries": 2,
        "seconds waited": 0.25,
    }


@pytest.mark.parametrize(
    "date", ["1990-01-02", "2024-03-08", "2024-03-11", "2024-11-04", "2030-12-31"]
)
@pytest.mark.parametrize("minute", [0, 240, 570, 1199, 1439])
def test_a_minute_belongs_to_its_date_in_new_york(date: str, minute: int) -> None:
    day = dt.date.fromisoformat(date)
    midnight = dt.datetime.combine(day, dt.time(), calendar.NEW_YORK).astimezone(dt.UTC)
    start = midnight + dt.timedelta(minutes=minute)
    row = {"v": 1, "o": 1, "h": 1, "l": 1, "c": 1, "t": int(start.timestamp() * 1000)}
    bars = parse.minute_bars(parse.columns([row], "AAA"), dt.timedelta(minutes=15))
    assert bars.row(0, named=True) | {"vwap": None, "trades": None} == {
        "symbol": "AAA", "session": day, "bar_start": start,
        "bar_end": start + dt.timedelta(minutes=1),
        "known_at": start + dt.timedelta(minutes=16), "open": 1.0, "high": 1.0, "low": 1.0,
        "close": 1.0, "volume": 1.0, "vwap": None, "trades": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "moment", ["1970-01-01T00:00", "1989-12-29T15:00", "2024-03-09T15:00", "2031-01-02T15:00",
               "2098-06-03T15:00"],
)  # fmt: skip
def test_a_minute_on_no_session_is_refused(moment: str) -> None:
    start = dt.datetime.fromisoformat(moment).replace(tzinfo=dt.UTC)
    row = {"v": 1, "o": 1, "h": 1, "l": 1, "c": 1, "t": int(start.timestamp() * 1000)}
    with pytest.raises(SourceError, match="without a session"):
        parse.minute_bars(parse.columns([row], "AAA"), dt.timedelta(0))


def test_a_plain_page_is_read_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "_read_lines", lambda _: pytest.fail("a plain page"))
    row = {"v": 1, "vw": 2.5, "o": 1, "c": 2, "h": 3.25, "l": 1, "t": OPEN_MS, "n": 3}
    page = {"status": "OK", "ticker": "AAA", "adjusted": False, "resultsCount": 2}
    bare = {k: v for k, v in row.items() if k not in ("vw", "n")}
    body = orjson.dumps({**page, "results": [row, bare], "next_url": "x"})
    assert isinstance(parse.read_page(body)["results"], pl.DataFrame)


@pytest.mark.parametrize(
    "rows",
    [
        b'{"o":1,"o":2,"h":3,"l":1,"c":2,"v":1,"t":1719927000000}',
        b'{"o":1,"h":3,"l":1,"c":2,"v":1,"t":1719927000000}\n{"o":1}',
        b'{"o":"1","h":3,"l":1,"c":2,"v":1,"t":1719927000000}',
        b'{"o":1,"h":3,"l":1,"c":2,"v":1,"t":1719927000000,"x":[1]}',
        b'{"o":1,"h":3,"l":1,"c":2,"v":1,"t":1719927000000,"x":"\\u0041"}',
        b'{"o":1,"h":3,"l":1,"c":2,"v":1,"t":1719927000000.0}',
        b'{"o":null,"h":3,"l":1,"c":2,"v":1,"t":1719927000000}',
        b'{"o":NaN,"h":3,"l":1,"c":2,"v":1,"t":1719927000000}',
        b"7",
    ],
)
def test_a_doubtful_page_is_not_read_fast(rows: bytes) -> None:
    body = b'{"status":"OK","ticker":"AAA","adjusted":false,"results":[' + rows + b"]}"
    try:
        page = parse.read_page(body)
    except SourceError:
        return
    assert page["results"] == orjson.loads(body)["results"]
