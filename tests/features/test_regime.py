"""The regime rule: causal, with hysteresis."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.regime import ENTER, LEAVE, TREND_SESSIONS, classify_regimes, follow_trend
from market.schema import Bar
from tests.markets import adjusted_daily, bits, daily_bars, market

WORDS = {"bull", "bear", "neutral"}
START = dt.date(2020, 1, 2)


def one_symbol(returns: np.ndarray) -> pl.DataFrame:
    closes = 100.0 * np.cumprod(1.0 + returns)
    return classify_regimes(daily_bars({"A": closes.tolist()}, START))


def path(drift: float, length: int, seed: int = 0) -> np.ndarray:
    return drift + 0.005 * np.random.default_rng(seed).standard_normal(length)


def test_tomorrow_changes_no_label() -> None:
    daily = adjusted_daily(market(seed=2, symbols=4, sessions=320))
    whole = classify_regimes(daily)
    assert set(whole["regime"].unique()) <= WORDS
    assert whole["regime"].n_unique() > 1
    for session in whole[Bar.SESSION].sample(25, seed=4):
        seen = classify_regimes(daily.filter(pl.col(Bar.SESSION) <= session))
        assert bits(seen) == bits(whole.filter(pl.col(Bar.SESSION) <= session))


@given(
    seed=st.integers(0, 1000),
    drift=st.floats(-0.002, 0.002),
    cut=st.integers(70, 150),
    crash=st.floats(-0.5, 0.5),
)
@settings(deadline=None, derandomize=True, max_examples=20)
def test_no_tomorrow_changes_a_label(seed: int, drift: float, cut: int, crash: float) -> None:
    past = path(drift, cut, seed)
    before = one_symbol(past)
    after = one_symbol(np.append(past, crash))
    assert bits(after.head(cut)) == bits(before)


@pytest.mark.parametrize(("drift", "word"), [(0.003, "bull"), (-0.003, "bear")])
def test_a_trend_is_named(drift: float, word: str) -> None:
    out = one_symbol(path(drift, 130))
    assert out["regime"].tail(40).unique().to_list() == [word]


def test_sessions_before_the_lookback_are_neutral() -> None:
    out = one_symbol(path(0.01, 90))
    assert out["regime"].head(TREND_SESSIONS - 1).unique().to_list() == ["neutral"]
    assert out["trend"].head(TREND_SESSIONS - 1).null_count() == TREND_SESSIONS - 1


def test_a_market_that_does_not_move_is_neutral() -> None:
    assert one_symbol(np.zeros(90))["regime"].unique().to_list() == ["neutral"]


def test_hysteresis_keeps_a_state_between_the_thresholds() -> None:
    out = one_symbol(np.concatenate([path(0.002, 140), path(-0.002, 140, 1), path(0.0, 140, 2)]))
    state = "neutral"
    for trend, label in out.drop_nulls("trend").select("trend", "regime").rows():
        if abs(trend) > ENTER:
            state = "bull" if trend > 0 else "bear"
        elif (state == "bull" and trend < LEAVE) or (state == "bear" and trend > -LEAVE):
            state = "neutral"
        assert label == state
    inside = out.filter(pl.col("trend").abs() < ENTER, pl.col("regime") != "neutral")
    assert inside.height > 0


def test_known_when_the_last_symbol_is_known() -> None:
    bars = daily_bars({"A": [1.0, 2.0], "B": [1.0, 2.0]}, START)
    late = bars.with_columns(
        pl.when(pl.col(Bar.SYMBOL) == "B")
        .then(pl.col(Bar.KNOWN_AT) + dt.timedelta(minutes=15))
        .otherwise(pl.col(Bar.KNOWN_AT))
        .alias(Bar.KNOWN_AT)
    )
    out = classify_regimes(late)
    assert out["as_of"].to_list() == late.filter(pl.col(Bar.SYMBOL) == "B")["known_at"].to_list()


def test_the_label_comes_with_what_it_was_made_from() -> None:
    out = classify_regimes(adjusted_daily(market(seed=2, symbols=4, sessions=120)))
    assert out.columns == ["session", "as_of", "trend", "volatility", "breadth", "regime"]
    assert out["breadth"].drop_nulls().is_between(0.0, 1.0).all()
    assert (out["volatility"].drop_nulls() > 0.0).all()


def test_no_bars_no_regimes() -> None:
    out = classify_regimes(daily_bars({"A": [1.0]}, START).clear())
    assert out.height == 0


def test_breadth_can_veto_an_entry_but_not_hold_a_regime() -> None:
    trend = np.array([0.7, 0.7, 0.3, 0.0, -0.7, -0.7, np.nan])
    breadth = np.array([0.4, 0.6, 0.1, 0.9, 0.5, 0.4, 0.1])
    wanted = ["neutral", "bull", "bull", "neutral", "neutral", "bear", "neutral"]
    assert follow_trend(trend, breadth) == wanted
