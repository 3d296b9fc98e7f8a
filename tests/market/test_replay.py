"""The vendor's own client, unmodified, against the replay server."""

from __future__ import annotations

import datetime as dt
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import massive
import numpy as np
import orjson
import polars as pl
import pytest
import urllib3
from massive.exceptions import BadResponse
from pydantic import SecretStr

from market import calendar
from market.errors import MarketError
from market.replay import ServedMarket, create_app, load_bars_file
from market.schema import DIVIDEND_SCHEMA, TICKER_SCHEMA, Bar, empty
from market.serving import BackgroundServer

KEY = "the-secret-key"
AS_OF = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
START, END = dt.date(2024, 7, 1), dt.date(2024, 7, 12)
SESSIONS = calendar.sessions_between(START, END)
SPLIT_DAY = dt.date(2024, 7, 9)
MINUTES_OF = SESSIONS[1:4]
SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS")


def _daily() -> pl.DataFrame:
    rows = [
        {
            "symbol": symbol,
            "date": s,
            "open": base + n,
            "high": base + n + 2.5,
            "low": base + n - 1.25,
            "close": base + n + 0.5,
            "volume": 1000 + 10 * n,
            "vwap": base + n + 0.25 if symbol == "AAA" else None,
            "split": 4.0 if (symbol, s) == ("AAA", SPLIT_DAY) else 1.0,
            "dividend": 0.5 if s in (SESSIONS[1], SESSIONS[5]) else 0.0,
        }
        for symbol, base in (("AAA", 100.0), ("BBB", 20.0))
        for n, s in enumerate(SESSIONS)
    ]
    return pl.DataFrame(rows, schema_overrides={"volume": pl.Int64})


def _minutes() -> pl.DataFrame:
    """All minutes of three sessions from 09:00 to 10:59 New York, but for a hole."""
    starts = [
        calendar.session_open(s) + dt.timedelta(minutes=k)
        for s in MINUTES_OF
        for k in range(-30, 90)
        if not 40 <= k < 45
    ]
    steps = np.arange(len(starts))
    price = 100 + np.round(np.sin(steps / 7), 4)
    return pl.DataFrame(
        {
            "symbol": ["AAA"] * len(starts),
            "ts": starts,
            "open": price,
            "high": price + 0.5,
            "low": price - 0.5,
            "close": price + 0.25,
            "volume": 100 + steps,
        }
    )


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> ServedMarket:
    folder = tmp_path_factory.mktemp("bars")
    _daily().write_parquet(folder / "daily.parquet")
    _minutes().write_parquet(folder / "minute.parquet")
    days = load_bars_file(folder / "daily.parquet", as_of=AS_OF)
    minutes = load_bars_file(folder / "minute.parquet", as_of=AS_OF)
    return ServedMarket(days.daily, minutes.minute, days.splits, days.dividends, days.tickers)


@pytest.fixture(scope="module")
def url(market: ServedMarket) -> Iterator[str]:
    with BackgroundServer(create_app(market, api_key=SecretStr(KEY))) as server:
        yield server.url


def _client(url: str, **options: Any) -> massive.RESTClient:
    return massive.RESTClient(KEY, base=url, retries=0, **options)


@pytest.fixture
def client(url: str) -> Iterator[massive.RESTClient]:
    client = _client(url)
    yield client
    client.client.clear()


def _get(url: str, **headers: str) -> urllib3.BaseHTTPResponse:
    with urllib3.PoolManager(retries=False, timeout=5) as pool:
        return pool.request("GET", url, headers=headers)


def _frame(aggs: Any) -> pl.DataFrame:
    rows = [(a.timestamp, a.open, a.high, a.low, a.close, a.volume) for a in aggs]
    return pl.DataFrame(rows, schema=["t", "o", "h", "l", "c", "v"], orient="row")


def _stored(bars: pl.DataFrame, start: str = Bar.BAR_START) -> pl.DataFrame:
    return bars.select(
        pl.col(start).dt.epoch("ms").alias("t"),
        pl.col(Bar.OPEN).alias("o"),
        pl.col(Bar.HIGH).alias("h"),
        pl.col(Bar.LOW).alias("l"),
        pl.col(Bar.CLOSE).alias("c"),
        pl.col(Bar.VOLUME).alias("v"),
    )


@pytest.mark.parametrize("sort", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 7, 115, 50_000])
def test_paging_gives_the_same_bars(
    client: massive.RESTClient, market: ServedMarket, sort: str, limit: int
) -> None:
    window = (START, SESSIONS[1]) if limit == 1 else (START, END)
    found = _frame(
        client.list_aggs("AAA", 1, "minute", *window, adjusted=False, sort=sort, limit=limit)
    )
    assert market.minute is not None
    stored = _stored(market.minute.filter(pl.col(Bar.SESSION).is_between(*window)))
    assert found.equals(stored if sort == "asc" else stored.reverse())


def test_windows_do_not_depend_on_the_page(client: massive.RESTClient) -> None:
    for multiplier, timespan in ((5, "minute"), (1, "hour"), (1, "week"), (2, "day")):
        whole = _frame(client.list_aggs("AAA", multiplier, timespan, START, END, limit=50_000))
        for sort in ("asc", "desc"):
            paged = _frame(
                client.list_aggs("AAA", multiplier, timespan, START, END, limit=4, sort=sort)
            )
            assert whole.height > 1
            assert paged.equals(whole if sort == "asc" else whole.reverse())


def test_five_minutes_are_the_sum_of_their_minutes(
    client: massive.RESTClient, market: ServedMarket
) -> None:
    found = _frame(client.list_aggs("AAA", 5, "minute", START, END, adjusted=False, limit=50_000))
    assert market.minute is not None
    naive: dict[int, list[dict[str, float]]] = {}
    for row in _stored(market.minute).iter_rows(named=True):
        naive.setdefault(row["t"] // 300_000 * 300_000, []).append(row)
    expected = [
        (
            t,
            rows[0]["o"],
            max(r["h"] for r in rows),
            min(r["l"] for r in rows),
            rows[-1]["c"],
            sum(r["v"] for r in rows),
        )
        for t, rows in naive.items()
    ]
    assert found.rows() == expected


def test_daily_bars_start_at_midnight_new_york(client: massive.RESTClient) -> None:
    found = _frame(client.list_aggs("BBB", 1, "day", START, END))
    midnights = [dt.datetime.combine(s, dt.time(), calendar.NEW_YORK) for s in SESSIONS]
    assert found["t"].to_list() == [int(m.timestamp() * 1000) for m in midnights]
    moment = midnights[3].astimezone(dt.UTC)
    one = _frame(client.list_aggs("BBB", 1, "day", moment, moment))
    assert one.rows() == [found.row(3)]


def test_weeks_begin_on_sunday_and_months_on_the_first(client: massive.RESTClient) -> None:
    weeks = _frame(client.list_aggs("BBB", 1, "week", dt.date(2024, 7, 3), dt.date(2024, 7, 8)))
    assert [_new_york(t) for t in weeks["t"]] == [dt.date(2024, 6, 30), dt.date(2024, 7, 7)]
    # Asked from a Wednesday to a Monday, the windows are whole all the same.
    assert weeks["v"].to_list() == [1000 + 1010 + 1020 + 1030, 1040 + 1050 + 1060 + 1070 + 1080]
    months = _frame(client.list_aggs("BBB", 1, "month", START, END))
    assert [_new_york(t) for t in months["t"]] == [dt.date(2024, 7, 1)]


def _new_york(t: int) -> dt.date:
    return dt.datetime.fromtimestamp(t / 1000, calendar.NEW_YORK).date()


def test_adjusted_prices_are_divided_by_later_splits(client: massive.RESTClient) -> None:
    raw = _frame(client.list_aggs("AAA", 1, "day", START, END, adjusted=False))
    adjusted = _frame(client.list_aggs("AAA", 1, "day", START, END))
    before = np.array([s < SPLIT_DAY for s in SESSIONS])
    factor = np.where(before, 4.0, 1.0)
    for price in "ohlc":
        np.testing.assert_array_equal(adjusted[price].to_numpy(), raw[price].to_numpy() / factor)
    np.testing.assert_array_equal(adjusted["v"].to_numpy(), raw["v"].to_numpy() * factor)
    assert 0 < before.sum() < len(before)
    minutes = [
        _frame(client.list_aggs("AAA", 1, "minute", START, END, adjusted=a)) for a in (True, False)
    ]
    assert (minutes[0]["o"] * 4 == minutes[1]["o"]).all()
    first = client.get_grouped_daily_aggs(START)
    assert {g.ticker: g.open for g in first} == {"AAA": 25.0, "BBB": 20.0}


def test_the_replay_clock_bounds_bars_and_adjustment(market: ServedMarket) -> None:
    moment = [calendar.session_close(SESSIONS[3])]
    with BackgroundServer(create_app(market, api_key=KEY, now=lambda: moment[0])) as server:
        client = _client(server.url)
        assert len(_frame(client.list_aggs("AAA", 1, "day", START, END))) == 4
        assert next(iter(client.list_aggs("AAA", 1, "day", START, END))).open == 100.0
        assert list(client.list_splits("AAA")) == []
        moment[0] = calendar.session_open(SESSIONS[2]) + dt.timedelta(minutes=10, seconds=59)
        minutes = _frame(client.list_aggs("AAA", 1, "minute", SESSIONS[2], END, limit=13))
        assert len(minutes) == 40  # Half an hour before the open, ten minutes after it.
        assert [g.ticker for g in client.get_grouped_daily_aggs(SESSIONS[2])] == []
        moment[0] = calendar.midnight(SPLIT_DAY) - dt.timedelta(minutes=1)
        assert next(iter(client.list_aggs("AAA", 1, "day", START, END))).open == 100.0
        moment[0] = calendar.midnight(SPLIT_DAY)
        assert [s.split_to for s in client.list_splits("AAA")] == [4]
        assert next(iter(client.list_aggs("AAA", 1, "day", START, END))).open == 25.0
        assert client.get_market_status().market == "closed"
        client.client.clear()


def test_grouped_daily(client: massive.RESTClient, market: ServedMarket) -> None:
    found = client.get_grouped_daily_aggs(SESSIONS[4], adjusted=False)
    assert [(g.ticker, g.open, g.close, g.vwap) for g in found] == [
        ("AAA", 104.0, 104.5, 104.25),
        ("BBB", 24.0, 24.5, None),
    ]
    closed = calendar.session_close(SESSIONS[4])
    assert {g.timestamp for g in found} == {int(closed.timestamp() * 1000)}
    assert client.get_grouped_daily_aggs(dt.date(2024, 7, 4)) == []


def test_unknown_symbols_and_empty_ranges_are_ok_and_empty(client: massive.RESTClient) -> None:
    body = orjson.loads(client.list_aggs("NOPE", 1, "day", START, END, raw=True).data)
    assert (body["status"], body["resultsCount"], "results" in body) == ("OK", 0, False)
    assert list(client.list_aggs("AAA", 1, "day", dt.date(2020, 1, 1), dt.date(2020, 2, 1))) == []
    assert list(client.list_aggs("BBB", 1, "minute", START, END)) == []


def test_the_body_has_the_vendors_keys(client: massive.RESTClient) -> None:
    body = orjson.loads(client.list_aggs("AAA", 1, "day", START, END, limit=3, raw=True).data)
    assert body.keys() == {
        "ticker", "queryCount", "resultsCount", "adjusted", "results", "status", "request_id",
        "count", "next_url",
    }  # fmt: skip
    assert (body["ticker"], body["queryCount"], body["resultsCount"]) == ("AAA", 3, 3)
    assert list(body["results"][0]) == ["v", "vw", "o", "c", "h", "l", "t"]
    assert KEY not in body["next_url"]


def test_tickers(client: massive.RESTClient) -> None:
    found = list(client.list_tickers(limit=1))
    assert [(t.ticker, t.active, t.market) for t in found] == [
        ("AAA", True, "stocks"),
        ("BBB", True, "stocks"),
    ]
    assert [t.ticker for t in client.list_tickers(order="desc")] == ["BBB", "AAA"]
    assert [t.ticker for t in client.list_tickers(ticker_gt="AAA")] == ["BBB"]
    assert list(client.list_tickers(active=False)) == []
    assert client.get_ticker_details("BBB").name == "BBB"
    with pytest.raises(BadResponse, match="NOT_FOUND"):
        client.get_ticker_details("NOPE")


def test_splits_and_dividends_in_both_forms(client: massive.RESTClient) -> None:
    for splits in (client.list_splits, client.list_stocks_splits):
        found = list(splits("AAA", limit=1))
        assert [(s.ticker, s.execution_date, s.split_from, s.split_to) for s in found] == [
            ("AAA", SPLIT_DAY.isoformat(), 1, 4)
        ]
        assert list(splits("AAA", execution_date_gt=SPLIT_DAY)) == []
        assert list(splits("BBB")) == []
    for dividends in (client.list_dividends, client.list_stocks_dividends):
        every = list(dividends(limit=1))
        assert [d.ex_dividend_date for d in every] == [
            s.isoformat() for s in (SESSIONS[5], SESSIONS[5], SESSIONS[1], SESSIONS[1])
        ]
        assert {d.cash_amount for d in every} == {0.5}
        found = list(dividends(ticker_gte="BBB", ex_dividend_date_lte=SESSIONS[4]))
        assert [(d.ticker, d.ex_dividend_date) for d in found] == [("BBB", str(SESSIONS[1]))]
    upward = client.list_stocks_dividends(sort="ex_dividend_date.asc,ticker.desc", limit=3)
    assert [d.ticker for d in upward] == ["BBB", "AAA", "BBB", "AAA"]


def test_market_status(client: massive.RESTClient) -> None:
    status = client.get_market_status()
    assert (status.market, status.after_hours, status.early_hours) == (
        "extended-hours",
        True,
        False,
    )
    assert status.server_time == "2024-07-12T16:00:00-04:00"
    coming = client.get_market_holidays()
    assert coming[0].date == "2024-09-02"
    assert {h.exchange for h in coming} == {"NYSE", "NASDAQ"}
    early = [h for h in coming if h.status == "early-close"]
    assert (early[0].date, early[0].close) == ("2024-11-29", "2024-11-29T18:00:00.000Z")


def test_a_wrong_or_missing_key_is_401_with_the_vendors_body(url: str) -> None:
    path = f"{url}/v3/reference/tickers"
    for response in (_get(path), _get(path, Authorization="Bearer no"), _get(path + "?apiKey=no")):
        body = response.json()
        assert response.status == 401
        assert (body["status"], body["error"]) == ("ERROR", "Unknown API Key")
        assert body["request_id"]
    assert _get(f"{path}?apiKey={KEY}").status == 200
    assert _get(path, Authorization=f"Bearer {KEY}").status == 200


def test_every_answer_has_a_request_id(url: str) -> None:
    for path, status in {
        "/v1/marketstatus/now": 200,
        "/v1/marketstatus/upcoming": 200,
        "/v9/nothing": 404,
        "/v2/aggs/ticker/AAA/range/1/fortnight/2024-07-01/2024-07-02": 400,
    }.items():
        response = _get(url + path, Authorization=f"Bearer {KEY}")
        assert response.status == status
        assert response.headers["X-Request-Id"]
        if status != 200:
            assert response.json()["request_id"] == response.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("0/day/2024-07-01/2024-07-02", "multiplier"),
        ("1/second/2024-07-01/2024-07-02", "timespan"),
        ("1/day/2024-07-02/2024-07-01", "from"),
        ("1/day/July/2024-07-01", "July"),
        ("1/day/2024-07-01/2024-07-02?limit=50001", "limit"),
        ("1/day/2024-07-01/2024-07-02?sort=up", "sort"),
        ("1/day/2024-07-01/2024-07-02?adjusted=maybe", "adjusted"),
        ("1/day/2024-07-01/2024-07-02?cursor=%21%21", "cursor"),
        ("1/day/2024-07-01/2024-07-02?cursor=", "cursor"),
        ("1/day/2024-07-01/2024-07-02?cursor=eA", "cursor"),
    ],
)
def test_a_bad_query_is_400_and_says_why(url: str, path: str, word: str) -> None:
    answer = _get(f"{url}/v2/aggs/ticker/AAA/range/{path}", Authorization=f"Bearer {KEY}")
    assert answer.status == 400
    assert word in answer.json()["error"]


def test_the_rate_limit_is_per_minute(market: ServedMarket) -> None:
    seconds = [0.0]
    app = create_app(market, api_key=KEY, requests_per_minute=2, monotonic=lambda: seconds[0])
    with BackgroundServer(app) as server:
        path = f"{server.url}/v1/marketstatus/now?apiKey={KEY}"
        assert [_get(path).status for _ in range(3)] == [200, 200, 429]
        body = _get(path).json()
        assert body["status"] == "ERROR"
        assert body["error"].startswith("You've exceeded the maximum requests per minute")
        seconds[0] = 60.0
        assert _get(path).status == 200


def test_the_key_is_never_logged(
    url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG, logger="uvicorn"):
        assert _get(f"{url}/v1/marketstatus/now?apiKey={KEY}").status == 200
        assert _get(f"{url}/nowhere?apiKey={KEY}").status == 404
    said = [r.getMessage() for r in caplog.records if not r.name.startswith("urllib3")]
    assert KEY not in "".join((*said, *capfd.readouterr()))


def test_symbols_without_daily_bars_get_them_from_regular_minutes(market: ServedMarket) -> None:
    only = ServedMarket(
        None, market.minute, market.splits, empty(DIVIDEND_SCHEMA), empty(TICKER_SCHEMA)
    )
    with BackgroundServer(create_app(only, api_key=KEY)) as server:
        client = _client(server.url)
        days = _frame(client.list_aggs("AAA", 1, "day", START, END, adjusted=False))
        client.client.clear()
    assert market.minute is not None
    regular = market.minute.filter(
        pl.col(Bar.SESSION) == MINUTES_OF[0],
        pl.col(Bar.BAR_START) >= calendar.session_open(MINUTES_OF[0]),
    )
    assert days.height == len(MINUTES_OF)
    assert days["o"][0] == regular[Bar.OPEN][0]
    assert days["v"][0] == regular[Bar.VOLUME].sum()


def _refused(tmp_path: Path, frame: pl.DataFrame, word: str, as_of: dt.datetime = AS_OF) -> None:
    frame.write_parquet(tmp_path / "bars.parquet")
    with pytest.raises(MarketError, match=word):
        load_bars_file(tmp_path / "bars.parquet", as_of=as_of)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    daily, minutes = _daily(), _minutes()
    null_symbol = pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise(pl.col("symbol"))
    _refused(tmp_path, daily.drop("open", "volume"), "open.*volume")
    _refused(tmp_path, daily.drop("date"), "date")
    _refused(tmp_path, daily.with_columns(null_symbol.alias("symbol")), "without a key")
    _refused(tmp_path, pl.concat([daily, daily.head(1)]), "duplicate")
    _refused(tmp_path, pl.concat([minutes, minutes.tail(1)]), "duplicate")
    _refused(tmp_path, daily.with_columns(close=pl.lit(float("nan"))), "price")
    _refused(tmp_path, daily.with_columns(low=pl.lit(-1.0)), "price")
    _refused(tmp_path, daily.with_columns(open=pl.lit("x")), "types")
    _refused(tmp_path, daily.with_columns(split=pl.lit(-2.0)), "split")
    _refused(tmp_path, daily.with_columns(date=pl.lit(dt.date(2024, 7, 4))), "session")
    _refused(tmp_path, minutes.with_columns(pl.col("ts").dt.offset_by("4d")), "session")
    _refused(tmp_path, minutes.with_columns(pl.col("ts").dt.replace_time_zone(None)), "UTC")
    _refused(tmp_path, minutes.with_columns(pl.col("ts").dt.offset_by("7s")).vstack(minutes), "gri")


def test_bars_from_the_future_are_refused(tmp_path: Path) -> None:
    close = calendar.session_close(END)
    _refused(tmp_path, _daily(), "2 bars from the future", close - dt.timedelta(seconds=1))
    _daily().write_parquet(tmp_path / "bars.parquet")
    assert load_bars_file(tmp_path / "bars.parquet", as_of=close).daily is not None


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bars.parquet").write_text("not parquet")
    for name in ("bars.parquet", "missing.parquet"):
        with pytest.raises(MarketError, match=rf"cannot read.*{name}"):
            load_bars_file(tmp_path / name, as_of=AS_OF)


@pytest.mark.parametrize("options", [{"api_key": ""}, {"api_key": "k", "requests_per_minute": 0}])
def test_an_impossible_server_is_refused(market: ServedMarket, options: dict[str, Any]) -> None:
    with pytest.raises(MarketError, match="key is empty or its rate limit"):
        create_app(market, **options)


@pytest.mark.real_bars
@pytest.mark.skipif(SAMPLES is None, reason="ISOBAR_SAMPLE_BARS is not set")
@pytest.mark.parametrize(
    ("name", "multiplier", "timespan"),
    [
        ("daily_us504_raw_1999_2014", 1, "day"),
        ("daily_dirty505_2013_2014", 1, "day"),
        ("hour_5_adj_1998_2014", 1, "hour"),
        ("minute_142_2018_02_04", 1, "minute"),
        ("minute_99_extended_2025_01_02", 1, "minute"),
    ],
)
def test_real_bars_come_back_equal(name: str, multiplier: int, timespan: str) -> None:
    assert SAMPLES is not None
    path = Path(SAMPLES) / f"{name}.parquet"
    market = load_bars_file(path, as_of=AS_OF)
    key = "date" if timespan == "day" else "ts"
    file = pl.read_parquet(path).sort("symbol", key)
    symbols = file["symbol"].unique().sort().gather([0, -1]).to_list()
    with BackgroundServer(create_app(market, api_key=KEY)) as server:
        client = _client(server.url)
        for symbol in symbols:
            bars = file.filter(pl.col("symbol") == symbol).tail(2500).head(2000)
            local = (
                bars[key].cast(pl.Datetime("us")).dt.replace_time_zone("America/New_York")
                if timespan == "day"
                else bars[key]
            )
            t = local.dt.epoch("ms")
            aggs = client.list_aggs(
                symbol, multiplier, timespan, t[0], t[-1], adjusted=False, limit=700
            )
            wanted = bars.select(
                t.alias("t"), o="open", h="high", l="low", c="close", v=pl.col("volume") * 1.0
            )
            assert _frame(aggs).equals(wanted)
        client.client.clear()
