"""Features and labels go on through a change of ticker, and never join two companies."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.compute import compute_features
from features.labels import forward_returns
from market.bars import by_company, read_adjusted
from market.errors import MarketError
from market.horizons import find_horizon
from market.lake import Lake
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar, empty
from market.timeframes import Timeframe
from tests.quality_bars import walk
from tests.reference_tables import identities

WALK = walk(symbols=3, sessions=60)
DAYS = WALK[Bar.SESSION].unique().sort().to_list()
HORIZON = find_horizon("1d")
OPEN = dt.datetime(2024, 1, 2, tzinfo=dt.UTC)


def stored(folder: Path, bars: pl.DataFrame, split: tuple[str, dt.date] | None) -> Lake:
    lake = Lake(folder)
    lake.replace("bars_1d", bars.sort(Bar.SYMBOL, Bar.BAR_START), DAYS)
    rows = [(split[0], split[1], OPEN, 3.0)] if split else []
    lake.replace("splits", pl.DataFrame(rows, schema=SPLIT_SCHEMA, orient="row"), None)
    lake.replace("dividends", empty(DIVIDEND_SCHEMA), None)
    return lake


def computed(lake: Lake) -> tuple[pl.DataFrame, pl.DataFrame]:
    bars = read_adjusted(lake, Timeframe.D1)
    return (
        by_company(lake, bars, compute_features),
        by_company(lake, bars, lambda rows: forward_returns(rows, HORIZON)),
    )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(change=st.integers(1, 58), reuse=st.integers(1, 20), split=st.integers(0, 59))
def test_a_renamed_company_has_the_values_of_one_that_was_not(
    tmp_path_factory: pytest.TempPathFactory, change: int, reuse: int, split: int
) -> None:
    """S000 becomes NEW on a day, and soon after S002 takes the ticker S000."""
    folder = tmp_path_factory.mktemp("rename")
    day, later = DAYS[change], DAYS[min(change + reuse, 59)]
    plain = stored(folder / "plain", WALK, ("S000", DAYS[split]))

    def name_of(symbol: str, session: dt.date) -> str:
        if symbol == "S000":
            return "NEW" if session >= day else "S000"
        return "S000" if symbol == "S002" and session >= later else symbol

    names = pl.Series([name_of(s, d) for s, d in WALK.select(Bar.SYMBOL, Bar.SESSION).rows()])
    bars = WALK.with_columns(names.alias(Bar.SYMBOL))
    told = stored(folder / "told", bars, (name_of("S000", DAYS[split]), DAYS[split]))
    table = identities(
        ("ONE", "ONE", "S000", None, day, False, None),
        ("ONE", "ONE", "NEW", day, None, True, None),
        ("TWO", "TWO", "S002", None, later, False, None),
        ("TWO", "TWO", "S000", later, None, True, None),
    )
    told.replace("identities", table, None)
    for expected, got in zip(computed(plain), computed(told), strict=True):
        keys = [Bar.SYMBOL, Bar.BAR_END]
        renamed = expected.with_columns(
            pl.struct(Bar.SYMBOL, Bar.BAR_END)
            .map_elements(
                lambda row: name_of(row["symbol"], row["bar_end"].date()), return_dtype=pl.String
            )
            .alias(Bar.SYMBOL)
        )
        assert got.sort(keys).equals(renamed.sort(keys))


def test_without_identities_a_ticker_is_all_there_is(tmp_path: Path) -> None:
    lake = stored(tmp_path, WALK, None)
    bars = read_adjusted(lake, Timeframe.D1)
    assert by_company(lake, bars, compute_features).equals(compute_features(bars))


def test_a_company_under_two_symbols_at_once_is_refused(tmp_path: Path) -> None:
    lake = stored(tmp_path, WALK, None)
    table = identities(
        ("ONE", "ONE", "S000", None, None, True, None),
        ("ONE", "ONE", "S001", None, None, True, None),
    )
    lake.replace("identities", table, None)
    with pytest.raises(MarketError, match="two symbols at the same time"):
        read_adjusted(lake, Timeframe.D1)
