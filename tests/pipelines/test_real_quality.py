"""Real bars from a server through ingest into bars, quarantine and checks.

``ISOBAR_RELIABILITY=1`` takes every symbol of every file; otherwise a part of the larger two.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from pydantic import SecretStr

from market import calendar
from market.ingest import ingest
from market.lake import Lake
from market.polygon import PolygonSource
from market.quality_rules import DEFAULT_RULES, Reason
from market.quarantine import read_held
from market.replay import create_app
from market.replay_data import ServedMarket
from market.schema import Bar
from market.serving import BackgroundServer
from market.timeframes import Timeframe
from pipelines.assets.bar_checks import recent_findings
from tests.market.test_quality_real_bars import DAY, WORST_DATES, distances, loaded

SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS", "")
EVERYTHING = os.environ.get("ISOBAR_RELIABILITY") == "1"
pytestmark = [
    pytest.mark.real_bars,
    pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS names no folder of real bars"),
]
D1, M1 = Timeframe.D1, Timeframe.M1
KEY = SecretStr("k")
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@contextmanager
def served(market: ServedMarket) -> Generator[PolygonSource]:
    with BackgroundServer(create_app(market, api_key=KEY)) as server:
        yield PolygonSource(KEY, server.url)


def some(names: Sequence[str], count: int) -> list[str]:
    return sorted(names) if EVERYTHING else sorted(names)[:count]


def of(bars: pl.DataFrame | None) -> tuple[pl.DataFrame, list[str], list[dt.date]]:
    assert bars is not None
    return bars, bars[Bar.SYMBOL].unique().to_list(), bars[Bar.SESSION].unique().sort().to_list()


def assert_nothing_is_lost(
    lake: Lake, timeframe: Timeframe, source: pl.DataFrame, days: list[dt.date]
) -> pl.DataFrame:
    """Every row of the source is served or held, once; return the held ones."""
    held = read_held(lake, timeframe, days)
    keys = [Bar.SYMBOL, Bar.BAR_START]
    kept = pl.concat([lake.read_bars(f"bars_{timeframe.value}").select(keys), held.select(keys)])
    assert kept.sort(keys).equals(source.select(keys).sort(keys))
    return held


def test_with_the_clean_file_as_second_source_the_dirty_rows_are_held(tmp_path: Path) -> None:
    market = loaded("daily_dirty505_2013_2014")
    bars, symbols, days = of(market.daily)
    lake = Lake(tmp_path)
    with served(market) as dirty, served(loaded("daily_us504_raw_1999_2014")) as clean:
        # One half at once, then as it comes: the last month session by session.
        ingest(lake, dirty, D1, days[:-20], symbols, now=NOW, second=clean)
        for day in days[-20:] if EVERYTHING else days[-3:]:
            ingest(lake, dirty, D1, [day], symbols, now=NOW, second=clean)
        again = days if EVERYTHING else days[-40:]
        ingest(lake, dirty, D1, again, symbols, now=NOW, second=clean)
    held = assert_nothing_is_lost(lake, D1, bars, days)
    off = distances()
    faults = off.filter(pl.col("off") > 0.03)
    caught = faults.join(held, on=DAY, how="semi").height
    assert faults.height == 112
    assert caught / faults.height >= 0.95
    agreeing = off.filter(pl.col("off") <= 0.03)
    assert agreeing.join(held, on=DAY, how="semi").height / agreeing.height < 0.0005


def test_alone_the_dirty_file_names_its_dates(tmp_path: Path) -> None:
    market = loaded("daily_dirty505_2013_2014")
    bars, symbols, days = of(market.daily)
    lake = Lake(tmp_path)
    with served(market) as dirty:
        ingest(lake, dirty, D1, days, symbols, now=NOW)
    held = assert_nothing_is_lost(lake, D1, bars, days)
    assert held.height / bars.height < 0.005
    findings, _ = recent_findings(lake, D1, DEFAULT_RULES)
    excess = findings.filter(pl.col("rule") == Reason.EXCESS.value).sort("worst", descending=True)
    assert set(excess["session"]) > WORST_DATES
    assert excess["session"][0] in WORST_DATES


def test_the_clean_file_is_left_alone(tmp_path: Path) -> None:
    market = loaded("daily_us504_raw_1999_2014")
    bars, symbols, days = of(market.daily)
    symbols = some(symbols, 24)
    lake = Lake(tmp_path)
    with served(market) as source:
        result = ingest(lake, source, D1, days, symbols, now=NOW)
    mine = bars.filter(pl.col(Bar.SYMBOL).is_in(symbols))
    held = assert_nothing_is_lost(lake, D1, mine, days)
    assert sum(result.held.values()) == held.height
    assert held.height / mine.height < 0.001


def test_minutes_with_extended_hours_pass_and_serve_the_premarket(tmp_path: Path) -> None:
    market = loaded("minute_99_extended_2025_01_02")
    bars, symbols, days = of(market.minute)
    symbols = some(symbols, 12)
    lake = Lake(tmp_path)
    with served(market) as source:
        ingest(lake, source, D1, days, symbols, now=NOW)
        ingest(lake, source, M1, days[:-1], symbols, now=NOW)
        # The last session as it stands at 08:30 in New York: premarket bars, and no later ones.
        early = calendar.session_open(days[-1]) - dt.timedelta(minutes=60)
        with BackgroundServer(create_app(market, api_key=KEY, now=lambda: early)) as server:
            today = days[-1]
            result = ingest(lake, PolygonSource(KEY, server.url), M1, [today], symbols, now=early)
        assert result.bars > 0
        told = lake.read_bars("bars_1m", start=today, as_of=early)
        assert told.height == result.bars
        assert told[Bar.KNOWN_AT].max() <= early
        assert told[Bar.SYMBOL].n_unique() > len(symbols) / 2
        ingest(lake, source, M1, days, symbols, now=NOW)
    mine = bars.filter(pl.col(Bar.SYMBOL).is_in(symbols))
    held = assert_nothing_is_lost(lake, M1, mine, days)
    assert held.height / mine.height < 0.0002
    assert dt.date(2025, 1, 9) not in lake.sessions("bars_1m")
    findings, found = recent_findings(lake, M1, DEFAULT_RULES)
    assert found.good.height > 0
    assert Reason.SOURCES_DISAGREE.value not in set(findings["rule"])
