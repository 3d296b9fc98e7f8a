"""The scale of expected returns: earned from the past, and from nothing later."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.horizons import find_horizon
from market.regimes import RegimeLabel
from models.session_moments import MOMENT_SCHEMA, OUTCOME, session_moments
from signals import scale
from signals.scale import LEAST, PRIOR_DEVIATION, return_scale, scale_returns
from signals.weighting import blend_walk_forward
from tests.forecasts import LATER, forecasts
from tests.markets import bits

DAILY = find_horizon("1d")
BEGIN = dt.datetime(2020, 1, 1, 21, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
NOW = BEGIN + 400 * DAY
KEYS = ["symbol", "bar_end"]


def table(own, came) -> pl.DataFrame:
    """A session a day, the outcome known a day later."""
    days = [BEGIN + k * DAY for k in range(len(own))]
    parts = [
        pl.DataFrame(
            {
                "session": [d.date() for d in days],
                "engine": "ensemble",
                "other": other,
                "product": [float(v) for v in values],
                "rows": 10,
                "known_at": [d + DAY for d in days],
            },
            schema=MOMENT_SCHEMA,
        )
        for other, values in (("ensemble", own), (OUTCOME, came))
    ]
    return pl.concat(parts)


def drawn(seed: int, sessions: int = 300, slope: float = 0.6, noise: float = 3.0):
    rng = np.random.default_rng(seed)
    own = rng.uniform(0.5, 2.0, sessions)
    return own, slope * own + noise * rng.standard_normal(sessions)


def joined(predictions: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    outcome = outcomes.select(*KEYS, "excess_return", "label_known_at")
    return predictions.join(outcome, on=KEYS, how="left")


def test_without_evidence_it_is_one() -> None:
    assert return_scale(pl.DataFrame(schema=MOMENT_SCHEMA), NOW, DAILY) == 1.0
    few = table(*drawn(1, sessions=119))
    assert return_scale(few, NOW, DAILY) == 1.0
    assert return_scale(table(*drawn(1, sessions=120)), NOW, DAILY) != 1.0
    assert return_scale(table(*drawn(1)), BEGIN, DAILY) == 1.0
    assert return_scale(table(np.zeros(300), np.zeros(300)), NOW, DAILY) == 1.0


def test_longer_horizons_wait_longer() -> None:
    of = table(*drawn(1, sessions=200))
    assert return_scale(of, NOW, find_horizon("14d")) != 1.0
    assert return_scale(of, NOW, find_horizon("1M")) == 1.0


@given(st.integers(0, 10_000), st.floats(-2.0, 3.0), st.floats(0.0, 50.0), st.integers(121, 399))
@settings(deadline=None, derandomize=True, max_examples=80)
def test_it_is_never_negative_and_looks_at_nothing_later(seed, slope, noise, known) -> None:
    own, came = drawn(seed, 399, slope, noise)
    as_of = BEGIN + known * DAY
    got = return_scale(table(own, came), as_of, DAILY)
    assert got >= LEAST > 0.0
    assert max(min(slope, 1.0), LEAST) - noise <= got + 1e-9
    assert got <= max(slope, 1.0) + noise + 1e-9
    other = came.copy()
    other[known:] = -9.0 * other[known:] + 1.0
    assert return_scale(table(own, other), as_of, DAILY) == got
    assert return_scale(table(own[:known], came[:known]), as_of, DAILY) == got


@given(st.integers(0, 10_000), st.floats(0.1, 10.0))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_forecasts_so_many_times_as_large_have_that_part_of_the_scale(seed, times) -> None:
    """Exactly so without a prior, or where no noise leaves it any weight."""
    own, came = drawn(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "PRIOR_DEVIATION", 1e9)
        patch.setattr(scale, "LEAST", -1e9)
        one = return_scale(table(own, came), NOW, DAILY)
        assert return_scale(table(times**2 * own, times * came), NOW, DAILY) == pytest.approx(
            one / times, rel=1e-6, abs=1e-9
        )
    exact = table(times**2 * own, times * 0.6 * own)
    assert return_scale(exact, NOW, DAILY) == pytest.approx(0.6 / times)


def test_forecasts_that_mislead_come_to_nothing() -> None:
    own, came = drawn(1, slope=-2.0, noise=0.5)
    assert return_scale(table(own, came), NOW, DAILY) == LEAST


def test_it_is_the_posterior_mean_of_an_independent_regression() -> None:
    """Rows regressed by least squares; the error's sum of autocovariances written out."""
    of = joined(*forecasts(250, 15, seed=2, skill=0.1, boldness=0.2, engine="ensemble"))
    unit = of["volatility_bps"].to_numpy()
    x = of["expected_return_bps"].to_numpy() / unit
    y = np.clip(of["excess_return"].to_numpy() * 1e4 / unit, -4.0, 4.0)
    slope = np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]
    day = np.unique(of["session"].to_numpy(), return_inverse=True)[1]
    score = np.bincount(day, x * (y - slope * x))
    lags = 4  # twice the horizon, or the automatic ones of 250 sessions
    covariance = np.outer(score, score)
    near = 1.0 - np.abs(np.subtract.outer(range(250), range(250))) / (lags + 1.0)
    centred = np.outer(score - score.mean(), score - score.mean())
    assert score.mean() == pytest.approx(0.0, abs=1e-12)
    assert np.allclose(covariance, centred)
    variance = (covariance * near.clip(0.0)).sum() / (x @ x) ** 2
    precisions = np.array([1.0 / variance, 1.0 / PRIOR_DEVIATION**2])
    wanted = precisions @ [slope, 1.0] / precisions.sum()
    got = return_scale(session_moments(of, ["ensemble"]), LATER, DAILY)
    assert got == pytest.approx(wanted)
    assert 0.4 < got < 0.9


def test_shocks_that_last_leave_more_doubt() -> None:
    rng = np.random.default_rng(4)
    own = np.ones(390)
    noise = rng.standard_normal(390)
    lasting = np.convolve(rng.standard_normal(400), np.ones(10) / np.sqrt(10.0))[9:399]
    lasting *= noise.std() / lasting.std()
    month = find_horizon("14d")
    alone, shared = (
        return_scale(table(own, 0.0 + 5.0 * (v - v.mean())), NOW, month) for v in (noise, lasting)
    )
    assert 0.0 < alone < shared < 1.0


def test_scaling_changes_returns_and_versions_alone() -> None:
    made, _ = forecasts(5, 4, skill=0.1, boldness=0.2, engine="ensemble")
    got = scale_returns(made, {"1d": 0.5})
    assert got["expected_return_bps"].to_list() == [v / 2 for v in made["expected_return_bps"]]
    rest = pl.all().exclude("expected_return_bps", "model_version")
    assert bits(got.select(rest)) == bits(made.select(rest))
    again = scale_returns(made, {"1d": 0.5})["model_version"].unique()
    assert again.to_list() == got["model_version"].unique().to_list()
    others = [scale_returns(made, {"1d": s})["model_version"][0] for s in (0.5, 0.6, 1.0)]
    assert len({*others, made["model_version"][0]}) == 4
    assert others[0].startswith("ensemble-1d-")


def walked(times: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Two engines whose forecasts are so many times too large, their ensemble and outcomes."""
    parts = []
    for number, engine in enumerate(("linear", "trees")):
        made, outcomes = forecasts(
            756, 20, seed=seed, skill=0.15, boldness=0.15 * times, engine=engine
        )
        rng = np.random.default_rng([seed, number])
        parts.append(
            made.with_columns(
                pl.col("expected_return_bps") * pl.Series(1.0 + 0.1 * rng.standard_normal(756 * 20))
            )
        )
    both = pl.concat(parts)
    sessions = both["session"].unique().sort()
    regimes = pl.DataFrame(
        {"session": sessions, "as_of": both["as_of"].unique().sort()}
    ).with_columns(pl.lit(RegimeLabel.BULL.value).alias("regime"))
    return both, outcomes, blend_walk_forward(both, outcomes, regimes)


def slope(predictions: pl.DataFrame, outcomes: pl.DataFrame) -> float:
    """Of returns in bps on forecasts in bps, both less their session's mean."""
    of = joined(predictions, outcomes).with_columns(pl.col("excess_return") * 1e4)
    x, y = (
        (of[c] - of.select(pl.col(c).mean().over("session"))[c]).to_numpy()
        for c in ("expected_return_bps", "excess_return")
    )
    return float(x @ y / (x @ x))


@pytest.mark.parametrize("seed", range(3))
def test_too_large_forecasts_become_as_large_as_they_should_be(seed: int) -> None:
    both, outcomes, blended = walked(2.0, seed)
    second = pl.col("session") >= both["session"].unique().sort()[378]
    before = slope(both.filter(second & (pl.col("engine") == "linear")), outcomes)
    after = slope(blended.filter(second), outcomes)
    assert abs(after - 1.0) < 0.5 * abs(before - 1.0)
    first = both["session"].unique().sort()[110]
    early = blended.filter(pl.col("session") < first), both.filter(pl.col("session") < first)
    assert slope(early[0], outcomes) == pytest.approx(
        slope(early[1].filter(pl.col("engine") == "linear"), outcomes), rel=0.1
    )


def test_forecasts_that_are_right_are_left_nearly_alone() -> None:
    both, outcomes, blended = walked(1.0, 0)
    second = pl.col("session") >= both["session"].unique().sort()[378]
    assert slope(blended.filter(second), outcomes) == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("times", [2.0, -2.0])
def test_scores_of_sessions_and_probabilities_are_those_without_a_scale(
    times: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One positive number a month orders no session anew, not even where forecasts mislead."""
    _, outcomes, scaled = walked(times, 1)
    monkeypatch.setattr("signals.weighting.return_scale", lambda *_: 1.0)
    _, _, plain = walked(times, 1)
    share = scaled["expected_return_bps"] / plain["expected_return_bps"]
    assert share[-1] == pytest.approx(LEAST if times < 0.0 else 0.5, rel=0.3)
    chances = ["symbol", "session", "p_short", "p_neutral", "p_long", "volatility_bps"]
    assert bits(scaled.select(chances)) == bits(plain.select(chances))
    for method in ("spearman", "pearson"):
        one, other = (
            joined(of, outcomes)
            .group_by("session", maintain_order=True)
            .agg(pl.corr("expected_return_bps", "excess_return", method=method))[
                "expected_return_bps"
            ]
            for of in (scaled, plain)
        )
        assert one.is_finite().all()
        assert one.to_list() == pytest.approx(other.to_list(), rel=1e-9)


def test_a_later_outcome_changes_no_earlier_scale() -> None:
    both, outcomes, blended = walked(2.0, 2)
    month = pl.col("session").dt.truncate("1mo")
    cut = both["session"].unique().sort()[400]
    first = min(both.filter(month == cut.replace(day=1))["as_of"].to_list())
    flipped = outcomes.with_columns(
        pl.when(pl.col("label_known_at") > first)
        .then(-pl.col("excess_return"))
        .otherwise(pl.col("excess_return"))
        .alias("excess_return")
    )
    sessions = both["session"].unique().sort()
    regimes = pl.DataFrame(
        {"session": sessions, "as_of": both["as_of"].unique().sort()}
    ).with_columns(pl.lit(RegimeLabel.BULL.value).alias("regime"))
    other = blend_walk_forward(both, flipped, regimes)
    upto = month <= cut.replace(day=1)
    assert bits(other.filter(upto)) == bits(blended.filter(upto))
    assert bits(other.filter(~upto)) != bits(blended.filter(~upto))
