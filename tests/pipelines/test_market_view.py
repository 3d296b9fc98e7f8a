"""What trading is told of the market: the last prices, volumes and doubts, and nothing later."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from backtest.tape import VOLUME_SESSIONS
from execution.intents import LastPrice
from market import calendar
from market.errors import MarketError
from market.horizons import find_horizon
from market.quality_rules import HELD_SCHEMA
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar
from pipelines.market_view import newest_prices, read_market
from pipelines.resources import Stores
from pipelines.settings import FeatureSettings, Settings
from pipelines.signal_run import last_prices
from tests.execution.paper_rig import bar, frame

TODAY = dt.date(2025, 3, 4)
YESTERDAY = calendar.previous_session(TODAY)
OPEN = calendar.session_open(TODAY)
MINUTE = dt.timedelta(minutes=1)
NOON = OPEN + 150 * MINUTE
DAYS = calendar.sessions_between(calendar.offset_session(TODAY, -30), TODAY)


def daily(symbol: str, day: dt.date, close: float = 50.0, volume: float = 1000.0):
    minutes = int((calendar.session_close(day) - calendar.session_open(day)) / MINUTE)
    return bar(symbol, day, 0, (close, close, close, close), length=minutes, volume=volume)


def minute(symbol: str, at: int, close: float):
    return bar(symbol, TODAY, at, (close, close, close, close))


def write(stores: Stores, table: str, *rows):
    made = frame(*rows)
    stores.lake.replace(table, made, made[Bar.SESSION].unique().to_list())


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    made = Stores(Settings(home=tmp_path))
    write(made, "bars_1d", *(daily(s, day) for s in "AB" for day in DAYS))
    return made


def test_the_last_price_is_that_of_the_newest_bar_known(stores: Stores):
    write(stores, "bars_1d", daily("A", YESTERDAY, 51.25), daily("B", YESTERDAY, 20.12346))
    write(stores, "bars_1m", *(minute("A", at, 60.0 + at) for at in (0, 1, 2, 200)))
    at_noon = read_market(stores, NOON).prices
    assert at_noon["A"].price_usd == Decimal("62.0")
    assert at_noon["A"].at == OPEN + 3 * MINUTE
    assert at_noon["B"].price_usd == Decimal("20.1235")
    assert at_noon["B"].at == calendar.session_close(YESTERDAY)
    before = read_market(stores, OPEN + 2 * MINUTE - dt.timedelta(seconds=1)).prices
    assert before["A"].price_usd == Decimal("60.0")


def test_a_bar_that_comes_late_is_not_known_before(stores: Stores):
    late = minute("A", 5, 99.0) | {"known_at": NOON}
    write(stores, "bars_1m", minute("A", 0, 60.0), late)
    assert read_market(stores, NOON - MINUTE).prices["A"].price_usd == Decimal("60.0")
    assert read_market(stores, NOON).prices["A"].price_usd == Decimal("99.0")


def test_volumes_are_the_mean_of_the_last_sessions(stores: Stores):
    rows = [daily("A", day, volume=float(10**n)) for n, day in enumerate(DAYS[-4:-1])]
    write(stores, "bars_1d", *rows, *(daily("B", day, volume=7.0) for day in DAYS[-4:-1]))
    found = read_market(stores, NOON).average_volumes
    rest = VOLUME_SESSIONS - 3
    assert found == {
        "A": Decimal(str((111 + rest * 1000) / VOLUME_SESSIONS)),
        "B": Decimal(str((21 + rest * 1000) / VOLUME_SESSIONS)),
    }


def test_volatility_is_annualised_and_as_of_then(stores: Stores):
    rows = [
        ("A", YESTERDAY, calendar.session_close(YESTERDAY), 0.01),
        ("A", TODAY, calendar.session_close(TODAY), 0.09),
        ("B", YESTERDAY, calendar.session_close(YESTERDAY), 0.0),
    ]
    names = ["symbol", "session", "bar_end", "volatility_20"]
    made = pl.DataFrame(rows, schema=names, orient="row")
    made = made.with_columns(pl.col("bar_end").alias("as_of"))
    stores.lake.replace("features_1d", made, [YESTERDAY, TODAY])
    assert read_market(stores, NOON).volatilities == {"A": pytest.approx(0.01 * 252**0.5)}
    evening = calendar.session_close(TODAY)
    assert read_market(stores, evening).volatilities == {"A": pytest.approx(0.09 * 252**0.5)}


def test_a_symbol_without_its_daily_bar_has_a_problem(stores: Stores):
    write(stores, "bars_1d", daily("A", YESTERDAY))
    assert read_market(stores, NOON).data_problems == {"B": f"no daily bar of {YESTERDAY}"}


def test_a_session_that_no_bar_of_has_come_is_told_by_the_age_of_prices(stores: Stores):
    stores.lake.replace("bars_1d", frame(daily("A", TODAY)).head(0), [YESTERDAY])
    found = read_market(stores, NOON)
    assert found.data_problems == {}
    assert {p.at for p in found.prices.values()} == {calendar.session_close(DAYS[-3])}


def hold(stores: Stores, timeframe: str, symbol: str | None, evident: dt.datetime | None):
    row = daily("A", YESTERDAY) | {"symbol": symbol, "reason": "spike", "detail": "d"}
    row |= {"asked_session": YESTERDAY, "place": 0, "evident_at": evident, "source_row": "{}"}
    held = pl.DataFrame([row], schema_overrides=HELD_SCHEMA).select(HELD_SCHEMA.names())
    stores.lake.replace(f"quarantine_{timeframe}", held, [YESTERDAY])


@pytest.mark.parametrize("timeframe", ["1d", "1m"])
def test_bars_in_quarantine_are_a_problem_from_when_it_was_evident(stores: Stores, timeframe):
    hold(stores, timeframe, "A", NOON)
    said = f"{timeframe} bars of {YESTERDAY} in quarantine: spike"
    assert read_market(stores, NOON).data_problems == {"A": said}
    assert read_market(stores, NOON - MINUTE).data_problems == {}
    hold(stores, timeframe, "A", None)
    assert read_market(stores, OPEN).data_problems == {"A": said}
    # Of the session before the last one nothing is said.
    assert read_market(stores, calendar.session_close(TODAY)).data_problems == {}


def test_a_held_row_of_no_symbol_stops_nobody(stores: Stores):
    hold(stores, "1d", None, OPEN)
    assert read_market(stores, NOON).data_problems == {}


def with_sectors(stores: Stores, text: str) -> Stores:
    path = stores.settings.home / "sectors.csv"
    path.write_text(text)
    return Stores(Settings(home=stores.settings.home, features=FeatureSettings(sectors_file=path)))


def test_sectors_come_from_the_file_where_one_is_set(stores: Stores):
    assert read_market(stores, NOON).sectors is None
    told = with_sectors(stores, "symbol,sector\nA,energy\nB,tech\n")
    assert read_market(told, NOON).sectors == {"A": "energy", "B": "tech"}
    with pytest.raises(MarketError, match="twice"):
        read_market(with_sectors(stores, "symbol,sector\nA,energy\nA,tech\n"), NOON)


def test_actions_are_those_known_and_due(stores: Stores):
    tomorrow = TODAY + dt.timedelta(days=1)
    splits = [
        ("A", TODAY, OPEN - MINUTE, 2.0),
        ("A", tomorrow, OPEN - MINUTE, 3.0),
        ("B", TODAY, NOON + MINUTE, 4.0),
    ]
    stores.lake.replace("splits", pl.DataFrame(splits, schema=SPLIT_SCHEMA, orient="row"), None)
    paid = [("B", TODAY, OPEN - MINUTE, 0.5), ("A", tomorrow, OPEN - MINUTE, 0.6)]
    paid_frame = pl.DataFrame(paid, schema=DIVIDEND_SCHEMA, orient="row")
    stores.lake.replace("dividends", paid_frame, None)
    found = read_market(stores, NOON).actions
    assert found is not None
    assert found.splits["split_ratio"].to_list() == [2.0]
    assert found.dividends["amount_usd"].to_list() == [0.5]
    later = read_market(stores, NOON + MINUTE).actions
    assert later is not None
    assert sorted(later.splits["split_ratio"].to_list()) == [2.0, 4.0]


def test_newest_prices_are_the_lake_s_last_ones_however_old(stores: Stores, tmp_path: Path):
    write(stores, "bars_1m", minute("A", 388, 70.5))
    stores.lake.replace("bars_1d", frame(daily("B", TODAY, 49.5)), [TODAY])
    found = newest_prices(stores.lake)
    assert {s: p.price_usd for s, p in found.items()} == {
        "A": Decimal("70.5"),
        "B": Decimal("49.5"),
    }
    assert newest_prices(Stores(Settings(home=tmp_path / "none")).lake) == {}


def test_of_bars_that_end_together_the_daily_one_counts(stores: Stores):
    write(stores, "bars_1m", minute("A", 389, 70.5), minute("B", 389, 71.5))
    found = read_market(stores, calendar.session_close(TODAY)).prices
    assert {s: p.price_usd for s, p in found.items()} == {"A": Decimal(50), "B": Decimal(50)}


def test_before_the_open_of_an_ex_date_prices_and_volumes_are_per_new_share(stores: Stores):
    write(stores, "bars_1m", bar("A", YESTERDAY, 389, (52.0, 52.0, 52.0, 52.0)))
    known = calendar.midnight(TODAY)
    rows = [("A", TODAY, known, 4.0), ("B", calendar.next_session(TODAY), known, 2.0)]
    stores.lake.replace("splits", pl.DataFrame(rows, schema=SPLIT_SCHEMA, orient="row"), None)
    evening, morning = known - MINUTE, known + 510 * MINUTE
    assert read_market(stores, evening).prices["A"].price_usd == Decimal("50.0")
    view = read_market(stores, morning)
    assert view.prices["A"] == LastPrice(Decimal("12.5"), calendar.session_close(YESTERDAY))
    assert view.average_volumes["A"] == Decimal(4000)
    assert (view.prices["B"].price_usd, view.average_volumes["B"]) == (Decimal("50.0"), 1000)
    assert view.actions.splits["symbol"].to_list() == ["A"]
    for horizon in ("1d", "1h"):
        there = last_prices(stores, find_horizon(horizon), morning)
        assert there["A"] == (12.5 if horizon == "1d" else 13.0)
    assert last_prices(stores, find_horizon("1d"), evening)["A"] == 50.0
    write(stores, "bars_1m", minute("A", 0, 12.75))
    assert read_market(stores, OPEN + MINUTE).prices["A"].price_usd == Decimal("12.75")
