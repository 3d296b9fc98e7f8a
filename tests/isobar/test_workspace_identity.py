"""Workspace.bars over a rename: the bars of the company, as known at the time."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from isobar.workspace import Workspace
from market import calendar
from market.errors import MarketError
from market.ingest import ingest
from market.lake import Lake
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar
from market.timeframes import Timeframe
from tests.market.test_quarantine import FrameSource
from tests.markets import daily_bars, minute_bars
from tests.pipelines.installation import environment, environment_of
from tests.reference_tables import identities

DAYS = calendar.sessions_between(dt.date(2022, 6, 1), dt.date(2022, 6, 17))
CHANGE = dt.date(2022, 6, 9)
SPLIT_DAY, EX_DAY = dt.date(2022, 6, 6), dt.date(2022, 6, 14)
FUND_LEFT = dt.date(2022, 6, 3)
NOW = dt.datetime(2022, 7, 1, tzinfo=dt.UTC)
BEFORE = [d for d in DAYS if d < CHANGE]
AFTER = [d for d in DAYS if d >= CHANGE]
META, FUND = "BBG000META01", "BBG000FUND01"
TABLE = identities(
    (META, META, "FB", None, CHANGE, False, None),
    (META, META, "META", CHANGE, None, True, None),
    (FUND, FUND, "META", None, FUND_LEFT, False, None),
    (FUND, FUND, "METV", FUND_LEFT, None, True, None),
    ("GONE", None, "GONE", None, dt.date(2022, 6, 8), False, dt.date(2022, 6, 7)),
)


def _daily() -> pl.DataFrame:
    fund = [d for d in DAYS if d < FUND_LEFT]
    return pl.concat(
        [
            daily_bars({"FB": [200.0 + n for n in range(len(BEFORE))]}, BEFORE[0]),
            daily_bars({"META": [300.0 + n for n in range(len(AFTER))]}, AFTER[0]),
            daily_bars({"META": [10.0 + n for n in range(len(fund))]}, fund[0]),
            daily_bars({"METV": [20.0] * 4}, FUND_LEFT),
            # Somebody else trades under the old ticker afterwards.
            daily_bars({"FB": [1.0] * 3}, AFTER[1]),
            daily_bars({"GONE": [5.0] * 5, "SPY": [400.0] * len(DAYS)}, DAYS[0]),
        ]
    ).sort(Bar.SYMBOL, Bar.BAR_START)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    lake = Lake(home / "lake")
    lake.replace("bars_1d", _daily(), DAYS)
    minutes = [
        minute_bars(s, [calendar.session_open(d) + dt.timedelta(minutes=k) for k in range(3)],
                    [base, base + 1, base + 2], d)
        for s, d, base in (("FB", BEFORE[-1], 200.0), ("META", CHANGE, 300.0))
    ]  # fmt: skip
    source = FrameSource(pl.concat(minutes))
    ingest(lake, source, Timeframe.M1, [BEFORE[-1], CHANGE], ["FB", "META"], now=NOW)
    opened = calendar.session_open
    splits = [("FB", SPLIT_DAY, opened(SPLIT_DAY), 2.0), ("META", FUND_LEFT, opened(DAYS[2]), 7.0)]
    lake.replace("splits", pl.DataFrame(splits, schema=SPLIT_SCHEMA, orient="row"), None)
    paid = [("META", EX_DAY, opened(EX_DAY), 3.0)]
    lake.replace("dividends", pl.DataFrame(paid, schema=DIVIDEND_SCHEMA, orient="row"), None)
    lake.replace("identities", TABLE, None)
    return home


@pytest.fixture
def workspace(home: Path) -> Workspace:
    with environment_of(environment(home), home):
        return Workspace(home)


def _raw(workspace: Workspace, symbol: str, **options: object) -> list[tuple[dt.date, float]]:
    found = workspace.bars(symbol, adjusted="raw", **options)  # type: ignore[call-overload]
    assert set(found["symbol"]) == {symbol}
    return found.select("session", "close").rows()


ONE_SERIES = [
    *((d, 200.0 + n) for n, d in enumerate(BEFORE)),
    *((d, 300.0 + n) for n, d in enumerate(AFTER)),
]


def test_meta_has_the_bars_of_fb_and_not_those_of_the_fund(workspace: Workspace) -> None:
    assert _raw(workspace, "META") == ONE_SERIES
    assert _raw(workspace, "FB") == ONE_SERIES
    lazy = workspace.bars("META", adjusted="raw", lazy=True).collect()
    assert lazy.equals(workspace.bars("META", adjusted="raw"))
    some = workspace.bars("META", "1d", BEFORE[-1], CHANGE, adjusted="raw")
    assert some["close"].to_list() == [200.0 + len(BEFORE) - 1, 300.0]


def test_the_ticker_itself_is_there_when_asked_for(workspace: Workspace) -> None:
    found = _raw(workspace, "META", identity=False)
    assert [close for _, close in found][:2] == [10.0, 11.0]
    assert len(found) == 2 + len(AFTER)


def test_other_companies_are_what_they_are(workspace: Workspace) -> None:
    both = workspace.bars(["SPY", "METV"], adjusted="raw")
    assert both.filter(pl.col("symbol") == "SPY").height == len(DAYS)
    fund = both.filter(pl.col("symbol") == "METV")["close"].to_list()
    assert fund == [10.0, 11.0, 20.0, 20.0, 20.0, 20.0]
    assert len(_raw(workspace, "GONE")) == 5


def test_corporate_actions_follow_the_company(workspace: Workspace) -> None:
    found = workspace.bars("META", adjusted="split")
    halves = [d for d in BEFORE if d < SPLIT_DAY]
    expected = [c / 2 if d in halves else c for d, c in ONE_SERIES]
    assert found["close"].to_list() == pytest.approx(expected)
    total = workspace.bars("META", adjusted="total")
    paid = dict(ONE_SERIES)[DAYS[DAYS.index(EX_DAY) - 1]]
    factor = 1 - 3.0 / paid
    by_hand = [
        c * (factor if d < EX_DAY else 1) for (d, _), c in zip(ONE_SERIES, expected, strict=True)
    ]
    assert total["close"].to_list() == pytest.approx(by_hand)


def test_weeks_and_minutes_go_through_the_rename(workspace: Workspace) -> None:
    week = workspace.bars("META", "1w", adjusted="raw")
    inside = [c for d, c in ONE_SERIES if dt.date(2022, 6, 6) <= d <= dt.date(2022, 6, 10)]
    assert (inside[0], inside[-1]) in week.select("open", "close").rows()
    minutes = workspace.bars("META", "1m", adjusted="raw")
    assert minutes["close"].to_list() == [200.0, 201.0, 202.0, 300.0, 301.0, 302.0]
    assert workspace.bars("META", "5m", adjusted="raw")["close"].to_list() == [202.0, 302.0]


def test_the_past_knows_only_the_names_of_its_time(workspace: Workspace) -> None:
    eve = calendar.session_open(CHANGE) - dt.timedelta(minutes=1)
    assert _raw(workspace, "FB", as_of=eve) == ONE_SERIES[: len(BEFORE)]
    # META meant the fund, which had left it.
    assert [c for _, c in _raw(workspace, "META", as_of=eve)] == [
        10.0,
        11.0,
        20.0,
        20.0,
        20.0,
        20.0,
    ]
    with pytest.raises(MarketError, match="nobody bore"):
        workspace.bars("METV", as_of=calendar.session_close(DAYS[0]))
    on_the_day = calendar.session_close(CHANGE)
    assert _raw(workspace, "META", as_of=on_the_day) == ONE_SERIES[: len(BEFORE) + 1]


def test_a_symbol_without_bars_is_named(workspace: Workspace) -> None:
    with pytest.raises(MarketError, match="NOPE"):
        workspace.bars(["SPY", "NOPE"])


def test_the_tables_are_there_in_sql(workspace: Workspace) -> None:
    found = workspace.sql(
        "select symbol from identities where identity = 'BBG000META01' order by valid_from"
    )
    assert sorted(found["symbol"]) == ["FB", "META"]
