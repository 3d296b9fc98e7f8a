"""Levels: stated odds come true, the grid of prices is kept, nothing is learned from the future."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from features.labels import forward_returns
from market import calendar
from market.errors import SignalError
from market.horizons import Horizon, find_horizon
from models.forecast import PREDICTION_SCHEMA
from signals.levels import (
    PROBABILITIES,
    STOP_ODDS,
    TARGET_ODDS,
    Residuals,
    evidence_sessions,
    fit_residuals,
    price_levels,
)
from signals.schema import Direction
from tests.markets import labels_of, market

DAILY = find_horizon("1d")
SIDES = st.sampled_from([Direction.LONG, Direction.SHORT])


def a_history(
    draw, sessions: int = 400, symbols: int = 20, horizon: Horizon = DAILY, seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Forecasts and labels of which the standardised residual is what ``draw(rng, n)`` gives."""
    rng = np.random.default_rng(seed)
    days = [dt.date(2022, 1, 3)]
    while len(days) < sessions + horizon.steps:
        days.append(calendar.next_session(days[-1]))
    ends = [calendar.session_close(d) for d in days]
    n = sessions * symbols
    expected, volatility = rng.normal(0, 20, n), rng.uniform(50, 400, n)
    held = (expected + draw(rng, n) * volatility * horizon.steps**0.5) / 1e4
    past = pl.DataFrame(
        {
            "symbol": [f"S{k}" for k in range(symbols)] * sessions,
            "session": np.repeat(np.array(days[:sessions]), symbols).tolist(),
            "bar_end": [e for e in ends[:sessions] for _ in range(symbols)],
            "as_of": [e for e in ends[:sessions] for _ in range(symbols)],
            "horizon": horizon.name,
            "engine": "ensemble",
            "model_version": "v",
            "p_short": 0.3,
            "p_neutral": 0.3,
            "p_long": 0.4,
            "expected_return_bps": expected,
            "volatility_bps": volatility,
        }
    ).select(pl.col(c).cast(t) for c, t in PREDICTION_SCHEMA.items())
    labels = past.select(
        "symbol",
        "bar_end",
        pl.Series(
            "label_known_at", [e for e in ends[horizon.steps :] for _ in range(symbols)]
        ).cast(PREDICTION_SCHEMA["as_of"]),
        pl.Series("forward_return", held),
        pl.lit(0.0).alias("overnight_return"),
    )
    return past, labels


def skewed(rng: np.random.Generator, n: int) -> np.ndarray:
    """Fat to the left, and wider than the volatility says."""
    return 1.5 * (1.0 - rng.exponential(1.0, n))


def fat(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_t(3, n) / 3**0.5


@pytest.mark.parametrize("draw", [skewed, fat])
@pytest.mark.parametrize("side", [Direction.LONG, Direction.SHORT])
@pytest.mark.parametrize("horizon", [DAILY, find_horizon("14d")], ids=["1d", "14d"])
def test_stated_odds_come_true_on_rows_that_were_not_learned_from(draw, side, horizon) -> None:
    past, labels = a_history(draw, sessions=500, horizon=horizon, seed=1)
    cut = past["as_of"].unique().sort()[300]
    fitted = fit_residuals(past, labels, horizon=horizon, as_of=cut)["ensemble"]
    assert not fitted.is_normal
    assert fitted.sessions == 301 - horizon.steps
    later = past.join(labels, on=["symbol", "bar_end"]).filter(pl.col("as_of") > cut)
    beyond = {"target": 0, "stop": 0}
    for row in later.to_dicts():
        price = 1000.0  # the tick is then a tenth of a basis point
        spread = row["volatility_bps"] * horizon.steps**0.5
        (target,), (stop,) = price_levels(price, side, row["expected_return_bps"], spread, fitted)
        end = price * (1 + row["forward_return"])
        beyond["target"] += side.sign * (end - target) >= 0
        beyond["stop"] += side.sign * (stop - end) >= 0
    n = later.height
    for name, odds in (("target", TARGET_ODDS), ("stop", STOP_ODDS)):
        error = 4 * (odds * (1 - odds) * (1 / n + 1 / fitted.rows)) ** 0.5
        assert beyond[name] / n == pytest.approx(odds, abs=error), name
    apart = [abs(fitted.quantile(p) - norm.ppf(p)) for p in (0.1, 0.25, 0.75, 0.9)]
    assert max(apart) > 0.15, "a normal distribution would have missed"


def test_the_market_s_move_counts() -> None:
    """A level is a price: excess returns alone would make the levels too narrow."""
    of = market(seed=4, symbols=12, sessions=260)
    labels = labels_of(of)
    past = labels.drop_nulls("forward_return").select(
        "symbol",
        "session",
        "bar_end",
        "as_of",
        pl.lit("1d").alias("horizon"),
        pl.lit("a").alias("engine"),
        pl.lit("v").alias("model_version"),
        pl.lit(0.3).alias("p_short"),
        pl.lit(0.3).alias("p_neutral"),
        pl.lit(0.4).alias("p_long"),
        pl.lit(0.0).alias("expected_return_bps"),
        pl.lit(100.0).alias("volatility_bps"),
    )
    as_of = labels["label_known_at"].max()
    got = fit_residuals(past, forward_returns(of.daily, DAILY), horizon=DAILY, as_of=as_of)["a"]
    raw = forward_returns(of.daily, DAILY)["forward_return"].drop_nulls().to_numpy() * 100
    excess = forward_returns(of.daily, DAILY)["excess_return"].drop_nulls().to_numpy() * 100
    assert got.quantile(0.9) == pytest.approx(np.quantile(raw, 0.9))
    assert np.quantile(excess, 0.9) < np.quantile(raw, 0.9)


def test_later_outcomes_change_nothing() -> None:
    past, labels = a_history(fat)
    cut = past["as_of"].unique().sort()[200]
    got = fit_residuals(past, labels, horizon=DAILY, as_of=cut)
    later = pl.col("label_known_at") > cut
    other = labels.with_columns(
        pl.when(later).then(9.0).otherwise(pl.col("forward_return")).alias("forward_return")
    )
    assert fit_residuals(past, other, horizon=DAILY, as_of=cut) == got
    assert fit_residuals(past, labels.filter(~later), horizon=DAILY, as_of=cut) == got
    every = fit_residuals(past, other, horizon=DAILY, as_of=past["as_of"].max())
    assert every != got


def test_too_little_evidence_is_normal_and_says_how_little() -> None:
    least, most = evidence_sessions(DAILY)
    past, labels = a_history(fat, sessions=least - 1)
    end = labels["label_known_at"].max()
    few = fit_residuals(past, labels, horizon=DAILY, as_of=end)["ensemble"]
    assert (few.is_normal, few.sessions, few.rows) == (True, least - 1, past.height)
    assert few.quantile(0.75) == pytest.approx(float(norm.ppf(0.75)))
    past, labels = a_history(fat, sessions=least)
    end = labels["label_known_at"].max()
    assert not fit_residuals(past, labels, horizon=DAILY, as_of=end)["ensemble"].is_normal
    past, labels = a_history(fat, sessions=most + 60)
    newest = fit_residuals(past, labels, horizon=DAILY, as_of=labels["label_known_at"].max())
    assert newest["ensemble"].sessions == most
    # Horizons that overlap need as much that does not.
    assert evidence_sessions(find_horizon("1M"))[0] == 210


def test_rows_without_an_outcome_or_a_volatility_do_not_count() -> None:
    past, labels = a_history(fat, sessions=200)
    end = labels["label_known_at"].max()
    broken = past.with_columns(
        pl.when(pl.col("symbol") == "S0")
        .then(0.0)
        .otherwise("volatility_bps")
        .alias("volatility_bps")
    )
    holes = labels.with_columns(
        pl.when(pl.col("symbol") == "S1")
        .then(None)
        .otherwise("forward_return")
        .alias("forward_return")
    )
    got = fit_residuals(broken, holes, horizon=DAILY, as_of=end)["ensemble"]
    assert got.rows == 18 * 200


@given(st.lists(st.floats(-20, 20), min_size=len(PROBABILITIES), max_size=len(PROBABILITIES)))
@settings(derandomize=True, max_examples=50)
def test_residuals_are_read_back_to_the_bit(values) -> None:
    kept = Residuals(tuple(sorted(values)), rows=7, sessions=3)
    assert Residuals.from_json(kept.to_json()) == kept


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"quantiles": [1], "rows": 1, "sessions": 1}', '{"quantiles": 3}']
)
def test_what_is_no_residuals_is_refused(text) -> None:
    with pytest.raises(SignalError, match="fit them again"):
        Residuals.from_json(text)


@pytest.mark.parametrize("odds", [0.0, 0.001, 0.999, float("nan")])
def test_odds_that_are_not_kept_are_refused(odds) -> None:
    with pytest.raises(SignalError, match="odds of a level"):
        Residuals().quantile(odds)


def on_grid(level: float) -> bool:
    tick = Decimal("0.01") if level >= 1 else Decimal("0.0001")
    return Decimal(str(level)) % tick == 0


@given(
    st.floats(0.0002, 500_000.0),
    SIDES,
    st.floats(0.01, 3000.0),
    st.floats(0.01, 20_000.0),
    st.lists(st.floats(-9, 9), min_size=len(PROBABILITIES), max_size=len(PROBABILITIES)),
)
@example(1.0, Direction.LONG, 1.0, 1.0, [0.0] * len(PROBABILITIES))
@example(1.0, Direction.SHORT, 1.0, 1.0, [0.0] * len(PROBABILITIES))
@example(0.9999, Direction.LONG, 1.0, 1.0, [0.0] * len(PROBABILITIES))
@example(1.005, Direction.SHORT, 1.0, 60.0, [0.0] * len(PROBABILITIES))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_levels_lie_on_the_grid_and_on_their_side(price, side, size, spread, values) -> None:
    """Also where the forecast outweighs the spread, or the residuals are all on one side."""
    for shape in (None, Residuals(tuple(sorted(values)))):
        (target,), (stop,) = price_levels(price, side, side.sign * size, spread, shape)
        assert target > 0
        assert stop > 0
        assert side.sign * (target - price) > 0
        assert side.sign * (price - stop) > 0
        assert on_grid(target)
        assert on_grid(stop)


@given(st.floats(5.0, 5000.0), SIDES, st.floats(6.0, 100.0), st.floats(100.0, 1500.0))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_rounding_is_towards_the_price_by_less_than_a_tick(price, side, size, spread) -> None:
    expected = side.sign * size
    (target,), (stop,) = price_levels(price, side, expected, spread)
    z_target, z_stop = norm.isf(TARGET_ODDS), norm.isf(STOP_ODDS)
    exact = price * (1 + (expected + side.sign * z_target * spread) / 1e4)
    limit = price * (1 + (expected - side.sign * z_stop * spread) / 1e4)
    assert -1e-6 <= side.sign * (exact - target) < 0.01 + 1e-6
    slack = side.sign * (stop - limit)
    # Where the quantile itself is on the wrong side, one tick beyond the price.
    assert -1e-6 <= slack < 0.01 + 1e-6 or abs(stop - price) <= 0.01 + 1e-6


def test_no_price_above_zero_is_left_under_the_lowest() -> None:
    assert price_levels(0.0001, Direction.LONG, 50.0, 100.0) == ([0.0002], [])
    assert price_levels(0.0001, Direction.SHORT, -50.0, 100.0) == ([], [0.0002])


def test_levels_of_sub_penny_prices_keep_four_digits() -> None:
    (target,), (stop,) = price_levels(0.5, Direction.LONG, 10.0, 300.0)
    assert (target, stop) == (0.5106, 0.4813)
    (target,), (stop,) = price_levels(1.0, Direction.LONG, 10.0, 300.0)
    assert (target, stop) == (1.02, 0.9626)


def test_neutral_has_no_levels() -> None:
    assert price_levels(10.0, Direction.NEUTRAL, 1.0, 100.0) == ([], [])
