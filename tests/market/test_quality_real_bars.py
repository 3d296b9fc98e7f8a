"""The rules on real bars: how many true faults they find, and how many sound rows they take."""

from __future__ import annotations

import datetime as dt
import os
from functools import lru_cache
from pathlib import Path

import polars as pl
import pytest

from market.actions import Adjustment, adjust, session_factors
from market.quality import inspect_bars
from market.quality_rules import Inspection, Reason
from market.replay_data import ServedMarket, load_bars_file
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar, empty
from market.timeframes import Timeframe

SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS", "")
pytestmark = [
    pytest.mark.real_bars,
    pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS names no folder of real bars"),
]
DAY = [Bar.SYMBOL, Bar.SESSION]
AS_OF = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
WORST_DATES = {dt.date(2014, 10, 29), dt.date(2014, 10, 30)}


@lru_cache(maxsize=2)
def loaded(name: str) -> ServedMarket:
    return load_bars_file(Path(SAMPLES) / f"{name}.parquet", as_of=AS_OF)


def daily(name: str) -> pl.DataFrame:
    bars = loaded(name).daily
    assert bars is not None
    return bars


def dirty() -> pl.DataFrame:
    return daily("daily_dirty505_2013_2014")


@lru_cache(maxsize=1)
def clean() -> pl.DataFrame:
    """Split-adjusted clean bars of the dirty file's time."""
    of = loaded("daily_us504_raw_1999_2014")
    raw = daily("daily_us504_raw_1999_2014")
    factors = session_factors(raw, of.splits, of.dividends)
    adjusted = adjust(raw, factors, Adjustment.SPLIT, AS_OF)
    return adjusted.filter(pl.col(Bar.SESSION) >= dt.date(2013, 2, 8))


@lru_cache(maxsize=1)
def distances() -> pl.DataFrame:
    """How far every dirty close is off, worked out row by row and apart from the code."""
    both = dirty().join(clean().select(*DAY, pl.col(Bar.CLOSE).alias("clean")), on=DAY)
    out = []
    for (symbol,), rows in both.sort(DAY).group_by(Bar.SYMBOL):
        ratio = (rows[Bar.CLOSE] / rows["clean"]).to_list()
        for at, session in enumerate(rows[Bar.SESSION]):
            window = sorted(ratio[max(0, at - 20) : at + 21])
            half = len(window) // 2
            odd = len(window) % 2
            median = window[half] if odd else (window[half - 1] + window[half]) / 2
            out.append((symbol, session, abs(ratio[at] / median - 1)))
    schema = {Bar.SYMBOL: pl.String, Bar.SESSION: pl.Date, "off": pl.Float64}
    return pl.DataFrame(out, schema=schema, orient="row")


def inspect(bars: pl.DataFrame, **more: pl.DataFrame | None) -> Inspection:
    none = {"splits": empty(SPLIT_SCHEMA), "dividends": empty(DIVIDEND_SCHEMA)}
    return inspect_bars(bars, timeframe=Timeframe.D1, **(none | more))  # type: ignore[arg-type]


def caught(found: Inspection, least: float, most: float = float("inf")) -> tuple[int, int]:
    """Return how many of the rows this far off are quarantined, of how many."""
    rows = distances().filter((pl.col("off") > least) & (pl.col("off") <= most))
    return rows.join(found.quarantined, on=DAY, how="semi").height, rows.height


def test_with_a_second_source_the_faults_go_and_the_rest_stays() -> None:
    found = inspect(dirty(), second=clean())
    hit, faults = caught(found, 0.03)
    assert (distances().height, faults) == (194_116, 112)
    assert hit / faults >= 0.95
    for agreeing in (0.03, 0.01):
        taken, sound = caught(found, -1.0, agreeing)
        assert taken / sound < 0.0005


def test_alone_the_checks_name_the_dates() -> None:
    found = inspect(dirty())
    excess = found.findings.filter(pl.col("rule") == Reason.EXCESS.value)
    assert set(excess["session"]) > WORST_DATES
    assert excess.sort("worst", descending=True)["session"][0] in WORST_DATES
    hit, faults = caught(found, 0.03)
    assert hit / faults > 0.8
    taken, sound = caught(found, -1.0, 0.01)
    assert taken / sound < 0.005


def test_on_the_day_the_date_stands_out() -> None:
    bars = dirty()
    day = dt.date(2014, 10, 30)
    today = inspect(
        bars.filter(pl.col(Bar.SESSION) == day), history=bars.filter(pl.col(Bar.SESSION) < day)
    )
    assert Reason.EXCESS.value in set(today.findings["rule"])
    after = dt.date(2014, 10, 31)
    revealed = inspect(
        bars.filter(pl.col(Bar.SESSION) == after), history=bars.filter(pl.col(Bar.SESSION) < after)
    )
    assert set(revealed.suspects[Bar.SESSION]) <= WORST_DATES
    assert revealed.suspects.height > 30


def test_clean_bars_are_left_alone() -> None:
    of = loaded("daily_us504_raw_1999_2014")
    bars = daily("daily_us504_raw_1999_2014")
    found = inspect(bars, splits=of.splits, dividends=of.dividends)
    rows = found.findings.filter(~pl.col("rule").is_in([Reason.EXCESS.value, Reason.HOLE.value]))
    assert rows["rows"].sum() / bars.height < 0.001
    # The listed faults that are in the file and move a price.
    listed = pl.read_csv(Path(SAMPLES) / "daily_us504_corrections.csv", try_parse_dates=True)
    dropped = listed.filter(
        (pl.col("action") == "row_dropped") & pl.col("symbol").is_in(["IRM", "CMCSA"])
    ).select("symbol", pl.col("date").alias("session"))
    assert dropped.join(found.quarantined, on=DAY, how="semi").height == dropped.height == 2


@pytest.mark.parametrize("name", ["minute_99_extended_2025_01_02", "minute_142_2018_02_04"])
def test_minutes_are_left_alone(name: str) -> None:
    bars = loaded(name).minute
    assert bars is not None
    found = inspect_bars(
        bars,
        timeframe=Timeframe.M1,
        splits=empty(SPLIT_SCHEMA),
        dividends=empty(DIVIDEND_SCHEMA),
    )
    assert found.good.height + found.quarantined.height == bars.height
    assert found.quarantined.height / bars.height < 0.0002
