"""The compared regime models: filtered, fitted on the past alone, right about what is planted."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hmmlearn.hmm import GaussianHMM
from hypothesis import given, settings
from hypothesis import strategies as st
from jumpmodels.jump import JumpModel

from features.market_state import BREADTH, RETURN, VOLATILITY, market_state
from features.regime import classify_regimes
from features.regime_models import (
    REGIME_MODELS,
    Filter,
    RefitPlan,
    RegimeModel,
    filter_jumps,
    filter_states,
    jump_inputs,
    label_walk_forward,
    markov_inputs,
)
from market.actions import forward_adjust, session_factors
from market.replay_data import load_bars_file
from market.schema import Bar
from tests.markets import adjusted_daily, bits, daily_bars, market

SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS", "")
PLAN = RefitPlan(first=160, every=60)
FITTED = [m for m in REGIME_MODELS.values() if m.is_fitted]


def of_market() -> pl.DataFrame:
    return adjusted_daily(market(seed=2, symbols=6, sessions=420))


def changed_by_tomorrow(model: RegimeModel, daily: pl.DataFrame, cuts: list[int]) -> int:
    """Count labels that are others when the bars after a session are not there yet."""
    sessions = daily[Bar.SESSION].unique().sort()
    whole = label_walk_forward(model, market_state(daily), PLAN)
    changed = 0
    for cut in cuts:
        seen = market_state(daily.filter(pl.col(Bar.SESSION) <= sessions[cut]))
        labels = label_walk_forward(model, seen, PLAN)
        assert labels.len() == cut + 1
        changed += int((labels != whole.head(cut + 1)).sum())
    return changed


def smoothed(past: pl.DataFrame) -> Filter:
    """Fit on the past, as it should be, and then label each session from both of its sides."""
    width = markov_inputs(past).drop_nulls().to_numpy()
    centre, scale = width.mean(axis=0), width.std(axis=0)
    fit = GaussianHMM(3, covariance_type="full", random_state=0).fit((width - centre) / scale)

    def label(state: pl.DataFrame) -> list[str]:
        inputs = markov_inputs(state).drop_nulls().to_numpy()
        states = fit.predict_proba((inputs - centre) / scale).argmax(axis=1)
        words = ("bear", "neutral", "bull")
        return ["neutral"] * (state.height - len(states)) + [words[k] for k in states]

    return label


def centred(past: pl.DataFrame) -> Filter:
    """Label by a centred mean: ten sessions back, ten ahead."""
    del past

    def label(state: pl.DataFrame) -> list[str]:
        mean = state[RETURN].rolling_mean(21, center=True).fill_null(0.0)
        return ["bull" if m > 0 else "bear" for m in mean]

    return label


@pytest.mark.parametrize("model", REGIME_MODELS.values(), ids=lambda m: m.name)
def test_a_label_never_changes_when_later_bars_arrive(model: RegimeModel) -> None:
    cuts = np.random.default_rng(3).integers(70, 419, 12).tolist()
    refits = [c - 1 + shift for c in PLAN.cuts(420) for shift in (0, 1)]
    assert changed_by_tomorrow(model, of_market(), [*cuts, *refits]) == 0


@pytest.mark.parametrize(
    "planted",
    [RegimeModel("smoothed", smoothed), RegimeModel("centred", centred, is_fitted=False)],
    ids=lambda m: m.name,
)
def test_a_smoothed_regime_is_caught_by_the_same_test(planted: RegimeModel) -> None:
    cuts = np.random.default_rng(3).integers(200, 419, 12).tolist()
    assert changed_by_tomorrow(planted, of_market(), cuts) > 0


def test_every_fit_sees_the_past_alone() -> None:
    state = market_state(of_market())
    seen: list[tuple[int, int]] = []

    def fit(past: pl.DataFrame) -> Filter:
        def label(upto: pl.DataFrame) -> list[str]:
            seen.append((past.height, upto.height))
            return [f"{past.height}"] * upto.height

        return label

    labels = label_walk_forward(RegimeModel("spy", fit), state, PLAN)
    assert seen == [(160, 220), (220, 280), (280, 340), (340, 400), (400, 420)]
    assert labels.to_list() == [
        "neutral" if n < 160 else str(160 + (n - 160) // 60 * 60) for n in range(420)
    ]


@pytest.mark.parametrize("model", FITTED, ids=lambda m: m.name)
def test_a_history_too_short_to_fit_is_neutral(model: RegimeModel) -> None:
    state = market_state(of_market()).head(PLAN.first)
    assert label_walk_forward(model, state, PLAN).unique().to_list() == ["neutral"]


@pytest.mark.parametrize("model", FITTED, ids=lambda m: m.name)
def test_what_is_planted_is_found(model: RegimeModel) -> None:
    rng = np.random.default_rng(8)
    truth = np.tile(np.repeat(["bull", "bear"], 120), 6)
    drift, scale = {"bull": 0.0015, "bear": -0.003}, {"bull": 0.007, "bear": 0.02}
    common = np.array([drift[w] + scale[w] * rng.standard_normal() for w in truth])
    closes = {
        f"S{n:02d}": (
            50.0 * np.cumprod(1.0 + common + 0.004 * rng.standard_normal(len(truth)))
        ).tolist()
        for n in range(12)
    }
    state = market_state(daily_bars(closes, dt.date(2015, 1, 2)))
    labels = label_walk_forward(model, state, RefitPlan(first=720, every=120)).to_numpy()
    place = np.arange(len(truth))
    judged = (place % 120 >= 60) & (place >= 720)
    bear, named = judged & (truth == "bear"), judged & (labels == "bear")
    assert (labels[bear] == "bear").mean() > 0.8
    assert (truth[named] == "bear").mean() > 0.8
    # The third state may share the calm half with bull, or the wild half with bear.
    assert (truth[judged & (labels == "bull")] == "bull").all()


@pytest.mark.parametrize("seed", range(3))
def test_the_forward_filter_is_the_last_smoothed_probability(seed: int) -> None:
    """What is filtered at a session is what smoothing says when that session is the last one."""
    values = markov_inputs(market_state(of_market())).drop_nulls().to_numpy()
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    fit = GaussianHMM(3, covariance_type="full", random_state=seed).fit(values)
    filtered = filter_states(
        values,
        fit.startprob_,
        fit.transmat_,
        fit.means_,
        np.linalg.inv(fit.covars_),
        -0.5 * np.linalg.slogdet(fit.covars_)[1],
    )
    assert filtered.sum(axis=1) == pytest.approx(np.ones(len(values)))
    for cut in (1, 2, 5, 50, 200, len(values)):
        last = fit.predict_proba(values[:cut])[-1]
        assert filtered[cut - 1] == pytest.approx(last, abs=1e-9)


@given(seed=st.integers(0, 10_000), penalty=st.floats(0.0, 80.0))
@settings(deadline=None, derandomize=True, max_examples=15)
def test_the_jump_filter_is_the_published_online_recursion(seed: int, penalty: float) -> None:
    values = np.random.default_rng(seed).standard_normal((120, 4)).cumsum(axis=0) / 5.0
    model = JumpModel(3, jump_penalty=penalty, random_state=0, n_init=2)
    model.fit(values, sort_by=None)
    online = model.predict_online(values)
    assert filter_jumps(values, np.asarray(model.centers_), penalty).tolist() == online.tolist()


def test_inputs_of_the_jump_model_by_their_definition() -> None:
    state = market_state(of_market())
    made = jump_inputs(state).drop_nulls().to_numpy()
    change = state[RETURN].to_numpy()
    first = state.height - len(made)
    for t in (first, first + 1, state.height - 1):
        age = np.arange(t, -1, -1.0)
        past = change[: t + 1]

        def mean(values: np.ndarray, half_life: float, age: np.ndarray = age) -> float:
            weight = 0.5 ** (age / half_life)
            return float((weight * values).sum() / weight.sum())

        down = {h: mean(np.minimum(past, 0.0) ** 2, h) ** 0.5 + 1e-8 for h in (10, 20, 60)}
        wanted = [
            down[10],
            mean(past, 20) / down[20],
            mean(past, 60) / down[60],
            state[BREADTH][t],
        ]
        assert made[t - first] == pytest.approx(wanted, rel=1e-9)


def test_the_state_of_the_market_equals_a_naive_loop() -> None:
    daily = of_market().filter(pl.int_range(pl.len()) % 29 != 3)
    state = market_state(daily)
    parts = daily.sort(Bar.SESSION).partition_by(Bar.SYMBOL)
    of_symbol = [dict(p.select(Bar.SESSION, Bar.CLOSE).iter_rows()) for p in parts]
    returns: dict[dt.date, list[float]] = {}
    rising: dict[dt.date, list[bool]] = {}
    for closes in of_symbol:
        days = list(closes)
        for n, day in enumerate(days):
            if n >= 1:
                returns.setdefault(day, []).append(closes[day] / closes[days[n - 1]] - 1.0)
            if n >= 63:
                rising.setdefault(day, []).append(closes[day] > closes[days[n - 63]])
    change = [float(np.log1p(np.mean(returns.get(day, [0.0])))) for day in state[Bar.SESSION]]
    assert state[RETURN].to_list() == pytest.approx(change, abs=1e-14)
    for n, day in enumerate(state[Bar.SESSION]):
        row = state.row(n, named=True)
        share = float(np.mean(rising[day])) if day in rising else None
        assert row[BREADTH] == (None if share is None else pytest.approx(share))
        spread = None if n < 20 else pytest.approx(float(np.std(change[n - 20 : n + 1], ddof=1)))
        assert row[VOLATILITY] == spread
        if n >= 62:
            last = change[n - 62 : n + 1]
            assert row["trend"] == pytest.approx(sum(last) / (np.std(last, ddof=1) * 63**0.5))
        else:
            assert row["trend"] is None


@pytest.mark.real_bars
@pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS names no folder of real bars")
def test_no_label_of_the_real_market_changes_when_tomorrow_arrives() -> None:
    made = load_bars_file(
        Path(SAMPLES) / "daily_us504_raw_1999_2014.parquet",
        as_of=dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    )
    assert made.daily is not None
    daily = forward_adjust(made.daily, session_factors(made.daily, made.splits, made.dividends))
    whole = classify_regimes(daily)
    assert set(whole["regime"]) == {"bull", "bear", "neutral"}
    for session in whole[Bar.SESSION].sample(25, seed=9):
        seen = classify_regimes(daily.filter(pl.col(Bar.SESSION) <= session))
        assert bits(seen) == bits(whole.filter(pl.col(Bar.SESSION) <= session))
