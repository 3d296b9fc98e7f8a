"""The synthetic market: deterministic, sound, and its truth is true."""

from __future__ import annotations

import copy
import datetime as dt

import numpy as np
import polars as pl
import pytest

from features.labels import forward_returns
from market import calendar
from market.errors import MarketError
from market.horizons import find_horizon
from market.schema import BAR_SCHEMA, Bar
from market.synthetic import SyntheticSpec, _Generator, generate, symbol_names
from tests.markets import adjusted_bars, adjusted_daily, bits, market

BIG = {"symbols": 30, "sessions": 1008}
DAILY_ALPHA = (("1d", 0.05),)


def attained(of, name: str) -> float:
    """Mean rank IC of a forecaster that knows the truth."""
    labels = forward_returns(adjusted_bars(of, name), find_horizon(name))
    truth = of.truth.filter(pl.col("horizon") == name).rename({"as_of": "bar_end"})
    both = truth.join(labels, on=["symbol", "bar_end"]).drop_nulls("excess_return")
    per_time = both.group_by("bar_end").agg(
        pl.corr("expected_return_bps", "excess_return", method="spearman").alias("ic")
    )
    return float(per_time["ic"].drop_nulls().mean())


def test_the_same_spec_gives_the_same_market_to_the_bit() -> None:
    spec = SyntheticSpec(symbols=3, sessions=12, minute_sessions=2, seed=4)
    one, two = generate(spec), generate(spec)
    for table in ("daily", "minute", "splits", "dividends", "tickers", "truth", "regimes"):
        assert bits(getattr(one, table)) == bits(getattr(two, table)), table
    other = generate(SyntheticSpec(symbols=3, sessions=12, minute_sessions=2, seed=5))
    assert bits(other.daily) != bits(one.daily)


def test_the_past_does_not_depend_on_how_long_the_market_runs() -> None:
    days = calendar.sessions_between(dt.date(2024, 1, 2), dt.date(2024, 12, 31))
    long = generate(SyntheticSpec(symbols=4, end=days[99], sessions=100, minute_sessions=0))
    short = generate(SyntheticSpec(symbols=4, end=days[59], sessions=60, minute_sessions=0))
    until = pl.col("session") <= days[59]
    assert bits(long.daily.filter(until)) == bits(short.daily)
    assert bits(long.truth.filter(until)) == bits(short.truth)
    assert bits(long.dividends.filter(pl.col("ex_date") <= days[59])) == bits(short.dividends)


def test_daily_bars_are_the_minutes_put_together() -> None:
    of = market(symbols=5, sessions=12, minute_sessions=12, end=dt.date(2024, 7, 12))
    made = (
        of.minute.sort(Bar.SYMBOL, Bar.BAR_START)
        .group_by(Bar.SYMBOL, Bar.SESSION, maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
            ((pl.col("vwap") * pl.col("volume")).sum() / pl.col("volume").sum()).alias("vwap"),
            pl.col("trades").sum(),
        )
    )
    exact = ["symbol", "session", "open", "high", "low", "close", "trades"]
    assert made.select(exact).equals(of.daily.select(exact))
    assert made["volume"].to_list() == pytest.approx(of.daily["volume"].to_list())
    assert made["vwap"].to_list() == pytest.approx(of.daily["vwap"].to_list(), abs=1e-3)


def test_bars_are_sound_and_on_the_session_grid() -> None:
    of = market(seed=1, alpha=DAILY_ALPHA, **BIG)
    small = market(symbols=5, sessions=12, minute_sessions=12, end=dt.date(2024, 7, 12))
    for bars in (of.daily, small.minute):
        assert bars.schema == BAR_SCHEMA
        assert bars.null_count().sum_horizontal().item() == 0
        assert bars.select(Bar.SYMBOL, Bar.BAR_START).is_unique().all()
        assert bars.equals(bars.sort(Bar.SYMBOL, Bar.BAR_START))
        low, high = pl.col("low"), pl.col("high")
        body_low, body_high = pl.min_horizontal("open", "close"), pl.max_horizontal("open", "close")
        good = (low > 0) & (low <= body_low) & (high >= body_high) & (pl.col("volume") > 0)
        assert bars.select(good.all()).item()
        inside = pl.col("vwap").is_between(low - 1e-4, high + 1e-4)
        assert bars.select(inside.all()).item()
        assert (bars["known_at"] == bars["bar_end"]).all()
    grid = of.daily.join(calendar.schedule(), on="session")
    assert (grid["bar_start"] == grid["session_open"]).all()
    assert (grid["bar_end"] == grid["session_close"]).all()
    half = small.minute.filter(pl.col("session") == dt.date(2024, 7, 3))
    assert half["bar_end"].max() == calendar.session_close(dt.date(2024, 7, 3))


def test_halts_leave_holes() -> None:
    of = market(seed=1, alpha=DAILY_ALPHA, **BIG)
    assert 0 < 30 * 1008 - of.daily.height < 0.01 * 30 * 1008


def test_all_three_regimes_occur_and_last() -> None:
    regimes = market(seed=1, alpha=DAILY_ALPHA, **BIG).regimes
    assert set(regimes["regime"]) == {"bull", "bear", "neutral"}
    changes = (regimes["regime"] != regimes["regime"].shift(1)).sum()
    assert changes < 60


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_without_alpha_nobody_beats_the_market_in_any_regime(seed: int) -> None:
    """60 means a seed; |t| above 4.5 has a chance of about 4e-4 over all of them together."""
    of = market(seed=seed, symbols=20, sessions=756)
    change = (pl.col("close") / pl.col("close").shift(1) - 1.0).over("symbol")
    excess = (
        adjusted_daily(of)
        .with_columns(change=change)
        .drop_nulls("change")
        .with_columns(excess=pl.col("change") - pl.col("change").mean().over("session"))
        .join(of.regimes, on="session")
    )
    for keys in (["symbol"], ["symbol", "regime"]):
        t = excess.group_by(keys).agg(
            pl.len(), t=pl.col("excess").mean() / pl.col("excess").std() * pl.len().sqrt()
        )
        assert t.filter(pl.col("len") > 20)["t"].abs().max() < 4.5
    assert of.truth.is_empty()


def test_a_strength_of_zero_has_a_truth_of_zero() -> None:
    of = market(symbols=3, sessions=8, minute_sessions=2, alpha=(("1d", 0.0), ("1h", 0.0)))
    assert set(of.truth["horizon"]) == {"1d", "1h"}
    assert of.truth["expected_return_bps"].abs().max() == 0.0


def test_the_declared_daily_strength_is_attained() -> None:
    """One seed has a standard error near 0.006, so the mean of six near 0.0025."""
    found = [attained(market(seed=s, alpha=DAILY_ALPHA, **BIG), "1d") for s in range(1, 7)]
    assert np.mean(found) == pytest.approx(0.05, abs=0.01)


def test_the_declared_intraday_strength_is_attained() -> None:
    found = [
        attained(
            market(seed=s, symbols=30, sessions=41, minute_sessions=40, alpha=(("1h", 0.05),)), "1h"
        )
        for s in (1, 2, 3)
    ]
    # 40 sessions of 23 overlapping labels: near 0.009 a seed.
    assert np.mean(found) == pytest.approx(0.05, abs=0.02)


def test_strengths_add_up_without_disturbing_each_other() -> None:
    both = (("14d", 0.08), ("1d", 0.05))
    assert attained(market(seed=1, alpha=both, **BIG), "1d") > 0.03


@pytest.mark.parametrize(
    ("name", "sessions"), [("1d", 1), ("7d", 5)], ids=["one session", "five sessions"]
)
def test_the_truth_is_the_mean_of_many_futures(name: str, sessions: int) -> None:
    """From one past, many futures: their mean excess return is what the truth says."""
    spec = SyntheticSpec(symbols=5, sessions=60, minute_sessions=0, seed=2, alpha={name: 0.45})
    past = _Generator(spec)
    for number in range(40):
        past._session(number, past.days[number])
    truth = past.truth[-1]
    assert truth["horizon"].unique().to_list() == [name]
    futures = {1: 900, 5: 500}[sessions]
    returns = np.empty((futures, spec.symbols))
    for k in range(futures):
        future = copy.deepcopy(past, {id(past.truth): [], id(past.daily_rows): []})
        future.rng = np.random.default_rng(k)
        for number in range(40, 40 + sessions):
            future._session(number, future.days[number])
        returns[k] = np.exp(future.log_price - past.log_price) - 1.0
    excess = returns - returns.mean(axis=1, keepdims=True)
    error = excess.std(axis=0, ddof=1) / futures**0.5
    expected = truth["expected_return_bps"].to_numpy() / 1e4
    assert np.abs(expected).max() > 5 * error.max(), "strong enough to be told from zero"
    assert (np.abs(excess.mean(axis=0) - expected) < 4.5 * error + 2e-4).all()


def test_the_truth_is_dated_when_it_could_be_known() -> None:
    of = market(symbols=3, sessions=8, minute_sessions=3, alpha=(("1d", 0.1), ("1h", 0.1)))
    daily = of.truth.filter(pl.col("horizon") == "1d").join(calendar.schedule(), on="session")
    assert (daily["as_of"] == daily["session_close"]).all()
    hourly = of.truth.filter(pl.col("horizon") == "1h").join(calendar.schedule(), on="session")
    assert (hourly["as_of"] <= hourly["session_close"] - dt.timedelta(hours=1)).all()
    step = (hourly["as_of"] - hourly["session_open"]).dt.total_minutes()
    assert (step % 15 == 0).all()
    mean = of.truth.group_by("as_of", "horizon").agg(pl.col("expected_return_bps").mean())
    assert mean["expected_return_bps"].abs().max() < 1e-9


def test_actions_are_announced_before_they_happen_and_from_what_was_known() -> None:
    of = market(seed=1, alpha=DAILY_ALPHA, **BIG)
    closes = of.daily.select("symbol", "bar_end", known_close="close")
    for actions in (of.splits, of.dividends):
        assert actions.height > 0
        opened = actions.join(calendar.schedule(), left_on="ex_date", right_on="session")
        assert (opened["known_at"] < opened["session_open"]).all()
    splits = of.splits.join(closes, left_on=["symbol", "known_at"], right_on=["symbol", "bar_end"])
    assert splits.height >= 0.9 * of.splits.height
    forward = splits.filter(pl.col("split_ratio") > 1)
    reverse = splits.filter(pl.col("split_ratio") < 1)
    # The last minute of a session may lack a trade: the close is then a minute older.
    assert (forward["known_close"] > 299.0).all()
    assert (reverse["known_close"] < 5.02).all()
    split_soon = of.splits.select("symbol", split_on="ex_date")
    paid = (
        of.dividends.join(closes, left_on=["symbol", "known_at"], right_on=["symbol", "bar_end"])
        .join(split_soon, on="symbol", how="left")
        .filter(
            pl.col("split_on").is_null()
            | ~(pl.col("ex_date") - pl.col("split_on")).dt.total_days().abs().le(40)
        )
    )
    assert paid.height > 50
    share = paid["amount_usd"] / paid["known_close"]
    assert share.to_numpy() == pytest.approx(0.005, rel=0.15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"symbols": 1}, "impossible synthetic market"),
        ({"symbols": 5001}, "impossible synthetic market"),
        ({"sessions": 1}, "impossible synthetic market"),
        ({"sessions": 10, "minute_sessions": 11}, "minute history longer"),
        ({"alpha": {"1d": 0.6}}, "alpha of horizon 1d"),
        ({"alpha": {"1d": -0.1}}, "alpha of horizon 1d"),
        ({"alpha": {"2d": 0.1}}, "unknown horizon"),
    ],
)
def test_impossible_markets_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(MarketError, match=message):
        generate(SyntheticSpec(**changes))


def test_names_are_made_up_and_unique() -> None:
    assert symbol_names(3) == ["ZZAA", "ZZAB", "ZZAC"]
    many = symbol_names(800)
    assert len(set(many)) == 800
    assert all(n.startswith("ZZ") for n in many)
