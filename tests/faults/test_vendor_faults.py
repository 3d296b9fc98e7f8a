"""A vendor that misbehaves: ingest ends with the true lake, or with a clear error and no change."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import polars as pl
import pytest
from pydantic import SecretStr

from market import calendar
from market.errors import MarketError, SourceError
from market.ingest import ingest
from market.lake import Lake
from market.polygon import PolygonSource
from market.polygon_wire import MAX_ATTEMPTS
from market.quarantine import read_held
from market.replay import ServedMarket, create_app
from market.replay_faults import FaultKind, FaultPlan
from market.response_cache import ResponseCache
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, TICKER_SCHEMA, Bar, empty
from market.serving import BackgroundServer
from market.timeframes import Timeframe
from tests.markets import daily_bars, minute_bars

KEY = "k3y-0f-n0body"
SYMBOLS = ["AAA", "BBB", "CCC"]
SESSIONS = calendar.sessions_between(dt.date(2024, 7, 1), dt.date(2024, 7, 5))
NOW = dt.datetime(2024, 7, 8, 12, tzinfo=dt.UTC)
MINUTES = 40
PAGE = 70
# What passes when it is asked for again, or does no harm: the lake must be the true one.
HARMLESS = frozenset(
    {
        FaultKind.THROTTLED,
        FaultKind.THROTTLED_RETRY_AFTER,
        FaultKind.SERVER_ERROR,
        FaultKind.RESET,
        FaultKind.TRUNCATED,
        FaultKind.NAN_PRICE,
        FaultKind.REORDERED_PAGES,
        FaultKind.UNKNOWN_FIELDS,
        FaultKind.NEGATIVE_PRICE,
        FaultKind.ZERO_PRICE,
        FaultKind.TEXT_NUMBER,
        FaultKind.HIGH_BELOW_LOW,
    }
)
# A bar that cannot be, however often it is asked for: it is handed on, to be judged.
HANDED_ON = {
    FaultKind.NEGATIVE_PRICE: lambda price: price < 0,
    FaultKind.ZERO_PRICE: lambda price: price == 0,
    FaultKind.TEXT_NUMBER: lambda price: price.is_null(),
    FaultKind.HIGH_BELOW_LOW: lambda price: price > 0,
}
# What is in the data: the lake must not change.
HARMFUL = {
    FaultKind.DUPLICATED_PAGE: "same bar twice",
    FaultKind.NEXT_URL_LOOP: "paging does not end",
}
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def market() -> ServedMarket:
    minute = dt.timedelta(minutes=1)
    bars = [
        minute_bars(
            symbol,
            [calendar.session_open(s) + minute * k for k in range(MINUTES)],
            [100.0 * (n + 1) + k / 8 for k in range(MINUTES)],
            s,
        )
        for n, symbol in enumerate(SYMBOLS)
        for s in SESSIONS
    ]
    return ServedMarket(
        daily=daily_bars({s: [10.0 + n, 11, 12, 13] for n, s in enumerate(SYMBOLS)}, SESSIONS[0]),
        minute=pl.concat(bars),
        splits=empty(SPLIT_SCHEMA),
        dividends=empty(DIVIDEND_SCHEMA),
        tickers=pl.DataFrame(
            [SYMBOLS, SYMBOLS, [True] * 3, [None] * 3], schema=TICKER_SCHEMA, orient="col"
        ),
    )


def _ingest(market: ServedMarket, lake: Lake, faults: FaultPlan | None) -> list[float]:
    """Ingest from a vendor with these faults; return the waits, which nobody waited."""
    waits: list[float] = []
    with BackgroundServer(create_app(market, api_key=KEY, faults=faults)) as server:
        source = PolygonSource(SecretStr(KEY), server.url, sleep=waits.append)
        ingest(lake, source, Timeframe.M1, SESSIONS, SYMBOLS, now=NOW)
    return waits


def _content(lake: Lake) -> tuple[str, str]:
    return lake.content_hash("bars_1m"), lake.content_hash("ingest_log")


@pytest.fixture(scope="module")
def truth(market: ServedMarket, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    lake = Lake(tmp_path_factory.mktemp("truth"))
    assert _ingest(market, lake, None) == []
    return _content(lake)


@pytest.fixture(scope="module")
def first_session(market: ServedMarket, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    with BackgroundServer(create_app(market, api_key=KEY)) as server:
        source = PolygonSource(SecretStr(KEY), server.url)
        ingest(Lake(folder), source, Timeframe.M1, SESSIONS[:1], SYMBOLS, now=NOW)
    return folder


@pytest.fixture
def lake(first_session: Path, tmp_path: Path) -> Lake:
    """Return a lake that holds the first session already."""
    return Lake(shutil.copytree(first_session, tmp_path / "lake"))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", sorted(HARMLESS))
def test_what_passes_leaves_the_true_lake(
    market: ServedMarket, lake: Lake, truth: tuple[str, str], kind: FaultKind, seed: int
) -> None:
    _ingest(market, lake, FaultPlan(kind, seed, in_a_row=2, page_bars=PAGE))
    assert _content(lake) == truth


@pytest.mark.parametrize("kind", sorted(HARMFUL))
def test_what_is_in_the_data_is_refused_and_changes_nothing(
    market: ServedMarket, lake: Lake, kind: FaultKind
) -> None:
    before = _content(lake)
    with pytest.raises(SourceError, match=HARMFUL[kind]) as caught:
        _ingest(market, lake, FaultPlan(kind, rate=1.0, page_bars=PAGE))
    assert "Remedy:" in str(caught.value)
    assert _content(lake) == before


@pytest.mark.parametrize("kind", sorted(HANDED_ON))
def test_what_is_always_impossible_is_handed_on_as_it_is(
    market: ServedMarket, kind: FaultKind
) -> None:
    faults = FaultPlan(kind, rate=1.0, in_a_row=1000, page_bars=PAGE)
    with BackgroundServer(create_app(market, api_key=KEY, faults=faults)) as server:
        source = PolygonSource(SecretStr(KEY), server.url, sleep=lambda _: None)
        found = source.bars(SYMBOLS, Timeframe.M1, SESSIONS[0], SESSIONS[-1])
    assert market.minute is not None
    keys = [Bar.SYMBOL, Bar.SESSION, Bar.BAR_START, Bar.BAR_END, Bar.KNOWN_AT]
    assert found.select(keys).equals(market.minute.select(keys))
    wrong = 0
    for name in (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE):
        is_other = found[name].ne_missing(market.minute[name])
        assert HANDED_ON[kind](found[name].filter(is_other)).all()
        wrong += int(is_other.sum())
    rest = [Bar.VOLUME, Bar.VWAP, Bar.TRADES]
    assert found.select(rest).equals(market.minute.select(rest))
    pages = len(SYMBOLS) * -(-len(SESSIONS) * MINUTES // PAGE)
    assert wrong == pages * (2 if kind is FaultKind.HIGH_BELOW_LOW else 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", sorted(HANDED_ON))
def test_what_stays_impossible_is_held_and_all_else_is_true(
    market: ServedMarket, lake: Lake, kind: FaultKind, seed: int
) -> None:
    """No retry makes such a row whole: it is kept apart, and no other row suffers."""
    _ingest(market, lake, FaultPlan(kind, seed, rate=0.9, in_a_row=1000, page_bars=PAGE))
    assert market.minute is not None
    keys = [Bar.SYMBOL, Bar.BAR_START]
    served, held = lake.read_bars("bars_1m"), read_held(lake, Timeframe.M1, SESSIONS)
    assert held.height > 0
    assert set(held["reason"]) <= {"not_positive", "null", "ohlc_order", "spike"}
    both = pl.concat([served.select(keys), held.select(keys)]).sort(keys)
    assert both.equals(market.minute.select(keys).sort(keys))
    true = market.minute.join(held.select(keys), on=keys, how="anti").sort(keys)
    assert served.equals(true.select(served.columns))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", sorted(set(FaultKind) - HANDED_ON.keys()))
def test_the_lake_is_the_true_one_or_the_old_one(
    market: ServedMarket, lake: Lake, truth: tuple[str, str], kind: FaultKind, seed: int
) -> None:
    before = _content(lake)
    plan = FaultPlan(kind, seed, rate=0.3, in_a_row=MAX_ATTEMPTS + 1, page_bars=PAGE)
    said = None
    try:
        _ingest(market, lake, plan)
    except SourceError as error:
        said = str(error)
    assert _content(lake) == (truth if said is None else before)
    assert said is None or ("Remedy:" in said and KEY not in said)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (FaultKind.THROTTLED, "rate limit was hit"),
        (FaultKind.SERVER_ERROR, "failed with HTTP 50"),
        (FaultKind.RESET, "connection to the vendor broke"),
        (FaultKind.TRUNCATED, "not JSON"),
        (FaultKind.NAN_PRICE, "not JSON"),
    ],
)
def test_what_does_not_pass_is_given_up_and_changes_nothing(
    market: ServedMarket, lake: Lake, kind: FaultKind, message: str
) -> None:
    before = _content(lake)
    with pytest.raises(SourceError, match=message):
        _ingest(market, lake, FaultPlan(kind, rate=1.0, in_a_row=1000))
    assert _content(lake) == before


def test_a_retry_after_is_honoured(market: ServedMarket, tmp_path: Path) -> None:
    plan = FaultPlan(FaultKind.THROTTLED_RETRY_AFTER, rate=1.0, in_a_row=1)
    waits = _ingest(market, Lake(tmp_path), plan)
    assert len(waits) == len(SYMBOLS)
    assert all(w == int(w) and 0 <= w <= 30 for w in waits)


@pytest.mark.parametrize("kind", sorted(HARMFUL))
def test_a_refused_answer_is_not_kept(
    market: ServedMarket, tmp_path: Path, truth: tuple[str, str], kind: FaultKind
) -> None:
    lake, cache = Lake(tmp_path / "lake"), ResponseCache(tmp_path / "cache")
    faults = FaultPlan(kind, rate=0.3, in_a_row=1000, page_bars=PAGE + MINUTES)
    with BackgroundServer(create_app(market, api_key=KEY, faults=faults)) as server:
        source = PolygonSource(
            SecretStr(KEY), server.url, sleep=lambda _: None, cache=cache, clock=lambda: NOW
        )
        refused = 0
        for _ in range(100):
            try:
                ingest(lake, source, Timeframe.M1, SESSIONS, SYMBOLS, now=NOW)
            except SourceError:
                refused += 1
                continue
            break
    assert refused > 0
    assert _content(lake) == truth
    assert source.metrics.cache_hits == 0


@pytest.mark.parametrize("kind", sorted(FaultKind))
def test_many_symbols_in_one_answer_are_held_to_the_same(
    market: ServedMarket, tmp_path: Path, kind: FaultKind
) -> None:
    lake, sound = Lake(tmp_path / "lake"), Lake(tmp_path / "sound")
    two = SESSIONS[:2]

    def fetch(into: Lake, faults: FaultPlan | None) -> None:
        with BackgroundServer(create_app(market, api_key=KEY, faults=faults)) as server:
            source = PolygonSource(SecretStr(KEY), server.url, sleep=lambda _: None)
            ingest(into, source, Timeframe.D1, two, SYMBOLS, now=NOW)

    fetch(sound, None)
    try:
        fetch(lake, FaultPlan(kind, rate=1.0, in_a_row=1))
    except SourceError:
        assert lake.content_hash("bars_1d") == "empty"
    else:
        assert lake.content_hash("bars_1d") == sound.content_hash("bars_1d")


@pytest.mark.parametrize("options", [{"rate": 1.5}, {"in_a_row": 0}, {"page_bars": 0}])
def test_an_impossible_plan_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(MarketError, match="fault plan"):
        FaultPlan(FaultKind.RESET, **options)  # type: ignore[arg-type]
