"""Universes know only what was known before the session."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from market import calendar
from market.errors import MarketError
from market.schema import Bar
from market.universe import liquid_universe, membership_universe, read_membership
from tests.markets import market

D = dt.date


def members(universe: pl.DataFrame, session: dt.date) -> list[str]:
    return universe.filter(pl.col("session") == session)["symbol"].to_list()


def test_membership_counts_the_first_day_and_not_the_last(tmp_path: Path) -> None:
    path = tmp_path / "members.csv"
    path.write_text(
        "ticker,start_date,end_date\nA,2024-07-02,2024-07-05\nB,2024-07-01,\n"
        "A,2024-07-09,\nB,2024-07-02,2024-07-03\n"
    )
    days = calendar.sessions_between(D(2024, 7, 1), D(2024, 7, 10))
    universe = membership_universe(read_membership(path), days)
    assert members(universe, D(2024, 7, 1)) == ["B"]
    assert members(universe, D(2024, 7, 2)) == ["A", "B"]
    assert members(universe, D(2024, 7, 5)) == ["B"]
    assert members(universe, D(2024, 7, 9)) == ["A", "B"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ticker,start_date\nA,2024-01-01\n", "lacks columns"),
        ("ticker,start_date,end_date\nA,2024-02-01,2024-01-01\n", "impossible spell"),
        ("ticker,start_date,end_date\nA,yesterday,\n", "date that is none"),
        ("ticker,start_date,end_date\n,2024-02-01,\n", "impossible spell"),
    ],
)
def test_a_bad_membership_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "members.csv"
    path.write_text(text)
    with pytest.raises(MarketError, match=says):
        read_membership(path)
    with pytest.raises(MarketError, match="cannot be read"):
        read_membership(tmp_path / "nowhere.csv")


def naive(daily: pl.DataFrame, session: dt.date, count: int, lookback: int) -> list[str]:
    every = sorted(set(daily[Bar.SESSION]))
    window = [s for s in every if s < session][-lookback:]
    value: dict[str, float] = {}
    for symbol in sorted(set(daily[Bar.SYMBOL])):
        rows = daily.filter(
            (pl.col(Bar.SYMBOL) == symbol) & pl.col(Bar.SESSION).is_in(window)
        ).to_dicts()
        if window and 2 * len(rows) >= lookback:
            value[symbol] = float(
                np.median([(r["vwap"] or r["close"]) * r["volume"] for r in rows])
            )
    return sorted(sorted(value, key=lambda s: (-value[s], s))[:count])


def test_liquidity_equals_a_naive_loop_with_holes() -> None:
    daily = market(symbols=6, sessions=60).daily
    holes = (pl.col(Bar.SYMBOL) == "ZZAB") & (pl.col("_n") % 3 != 0)
    daily = daily.with_columns(pl.int_range(pl.len()).over(Bar.SYMBOL).alias("_n"))
    daily = daily.filter(~holes).drop("_n")
    sessions = sorted(set(daily[Bar.SESSION]))
    asked = [*sessions, calendar.next_session(sessions[-1])]
    universe = liquid_universe(daily, asked, count=3, lookback_sessions=10)
    for session in asked:
        assert members(universe, session) == naive(daily, session, 3, 10), session
    assert members(universe, sessions[2]) == []


def test_the_session_itself_and_later_ones_change_nothing() -> None:
    daily = market(symbols=6, sessions=60).daily
    sessions = sorted(set(daily[Bar.SESSION]))
    cut = sessions[40]
    now = liquid_universe(daily, sessions[:41], count=2, lookback_sessions=10)
    boosted = pl.when((pl.col(Bar.SYMBOL) == "ZZAC") & (pl.col(Bar.SESSION) >= cut))
    later = daily.with_columns(
        boosted.then(pl.col(Bar.VOLUME) * 1e6).otherwise(pl.col(Bar.VOLUME)).alias(Bar.VOLUME)
    )
    assert liquid_universe(later, sessions[:41], count=2, lookback_sessions=10).equals(now)
    past = daily.filter(pl.col(Bar.SESSION) < cut)
    assert liquid_universe(past, sessions[:41], count=2, lookback_sessions=10).equals(now)


def test_a_universe_of_no_symbol_is_refused() -> None:
    days = calendar.sessions_between(D(2024, 7, 1), D(2024, 7, 3))
    with pytest.raises(MarketError, match="liquidity universe"):
        liquid_universe(market().daily, days, count=0)


@pytest.mark.real_bars
def test_the_real_index_has_about_five_hundred_members() -> None:
    folder = os.environ.get("ISOBAR_SAMPLE_BARS")
    if not folder:
        pytest.skip("ISOBAR_SAMPLE_BARS names no folder of real bars")
    days = calendar.sessions_between(D(2000, 1, 3), D(2014, 12, 31))[::50]
    universe = membership_universe(read_membership(Path(folder) / "sp500_membership.csv"), days)
    sizes = universe.group_by("session").len()["len"]
    assert sizes.min() > 450
    assert sizes.max() < 550
