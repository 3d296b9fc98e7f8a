"""Intervals of shares: against textbook formulas, and as wide as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, t

from market.errors import ModelError
from models.evaluation import stationary_indices
from models.session_bootstrap import draw_counts, share_intervals


def hits_of(rng: np.random.Generator, sessions: int, symbols: int, shared: float) -> np.ndarray:
    latent = np.sqrt(shared) * rng.standard_normal((sessions, 1))
    latent = latent + np.sqrt(1.0 - shared) * rng.standard_normal((sessions, symbols))
    return (latent > 0.0).sum(axis=1, keepdims=True).astype(float)


def test_draws_are_those_of_the_stationary_bootstrap() -> None:
    rng = np.random.default_rng(7)
    counts = draw_counts(30, seed=7, block=4.0, draws=5)
    for row in counts:
        naive = np.zeros(30)
        for k in stationary_indices(30, 4.0, rng):
            naive[k] += 1.0
        assert row.tolist() == naive.tolist()


def test_the_error_is_that_of_independent_sessions() -> None:
    """Without blocks and with equal sessions: the textbook interval of a mean."""
    rng = np.random.default_rng(0)
    hits = hits_of(rng, 400, 25, 0.3)
    found = share_intervals(hits, np.full((400, 1), 25.0), seed=1, block=1.0, draws=4000)
    shares = hits[:, 0] / 25.0
    half = t.ppf(0.975, 399) * shares.std(ddof=1) / math.sqrt(400)
    assert found.share[0] == pytest.approx(shares.mean())
    assert found.high[0] - found.share[0] == pytest.approx(half, rel=0.05)
    assert found.share[0] - found.low[0] == pytest.approx(half, rel=0.05)
    assert found.band_high[0] == found.high[0]


def test_unequal_sessions_weigh_by_their_rows() -> None:
    rows = np.array([[1.0], [9.0]] * 50)
    hits = np.array([[1.0], [0.0]] * 50)
    assert share_intervals(hits, rows, seed=1, block=1.0).share[0] == pytest.approx(0.1)


def test_rows_of_a_session_are_not_independent() -> None:
    rng = np.random.default_rng(0)
    rows = np.full((200, 1), 50.0)
    alone = share_intervals(hits_of(rng, 200, 50, 0.0), rows, seed=1, block=1.0)
    together = share_intervals(hits_of(rng, 200, 50, 0.3), rows, seed=1, block=1.0)
    assert together.high - together.low > 3.0 * (alone.high - alone.low)


def test_blocks_see_what_sessions_share() -> None:
    rng = np.random.default_rng(0)
    wave = np.repeat(rng.random(40), 10)[:, None] * 20.0
    rows = np.full((400, 1), 20.0)
    short = share_intervals(wave, rows, seed=1, block=1.0)
    long = share_intervals(wave, rows, seed=1, block=20.0)
    assert long.high - long.low > 2.0 * (short.high - short.low)


@given(st.integers(1, 60), st.integers(1, 6), st.floats(1.0, 6.0), st.integers(0, 1000))
@settings(deadline=None, derandomize=True, max_examples=80)
def test_the_band_holds_every_interval(sessions, shares, block, seed) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 5, (sessions, shares)).astype(float)
    hits = rng.binomial(rows.astype(int), 0.5).astype(float)
    found = share_intervals(hits, rows, seed=seed, block=block, draws=60)
    there = np.isfinite(found.band_low)
    assert (found.band_low[there] <= found.low[there]).all()
    assert (found.high[there] <= found.band_high[there]).all()
    assert (found.low[there] < found.share[there]).all()
    assert np.isnan(found.share[rows.sum(axis=0) == 0.0]).all()
    assert np.isnan(found.low[(rows > 0.0).sum(axis=0) < 10]).all()


def test_a_wider_table_has_a_wider_band() -> None:
    rng = np.random.default_rng(3)
    hits = rng.binomial(20, 0.5, (300, 12)).astype(float)
    rows = np.full((300, 12), 20.0)
    one = share_intervals(hits[:, :1], rows[:, :1], seed=1, block=1.0)
    all_of_them = share_intervals(hits, rows, seed=1, block=1.0)
    assert all_of_them.band_high[0] > one.band_high[0]
    assert all_of_them.high[0] == pytest.approx(one.high[0])


def test_all_hits_are_no_certainty() -> None:
    """Ten of ten: at least as wide as the interval of Agresti and Coull."""
    ones = np.ones((10, 1))
    found = share_intervals(ones, ones, seed=1, block=1.0)
    assert found.low[0] < 1.0 - 1.96 * math.sqrt((12 / 14) * (2 / 14) / 14) + 1e-3
    exact = share_intervals(ones, ones, seed=1, block=1.0, binary=False)
    assert (exact.low[0], exact.high[0]) == (1.0, 1.0)


@pytest.mark.parametrize(("sessions", "block", "there"), [(9, 1.0, False), (10, 1.0, True)])
def test_too_few_sessions_have_no_interval(sessions: int, block: float, there: bool) -> None:
    ones = np.ones((sessions, 1))
    found = share_intervals(ones, ones, seed=1, block=block)
    assert np.isfinite(found.low[0]) == there
    # Blocks of ten weigh nineteen autocovariances: 38 sessions are not enough, 39 are.
    for longer, fine in ((38, False), (39, True)):
        ones = np.ones((longer, 1))
        assert np.isfinite(share_intervals(ones, ones, seed=1, block=10.0).low[0]) == fine


@pytest.mark.parametrize(
    ("sessions", "shared", "block"), [(150, 0.2, 1.0), (250, 0.1, 5.0), (60, 0.3, 3.0)]
)
def test_intervals_cover_as_often_as_they_say(sessions, shared, block) -> None:
    """250 samples without skill: hits are binomial at 95 percent, within one in a thousand;
    the normal approximation is granted one point of shortfall below."""
    inside = 0
    for seed in range(250):
        hits = hits_of(np.random.default_rng(seed), sessions, 10, shared)
        rows = np.full((sessions, 1), 10.0)
        found = share_intervals(hits, rows, seed=seed, block=block, draws=300)
        inside += int(found.low[0] <= 0.5 <= found.high[0])
    assert binom.ppf(0.001, 250, 0.94) <= inside <= binom.ppf(0.999, 250, 0.95)


@pytest.mark.parametrize(("block", "draws"), [(0.5, 10), (float("nan"), 10), (1.0, 0)])
def test_senseless_draws_are_refused(block: float, draws: int) -> None:
    with pytest.raises(ModelError, match="block or draws"):
        draw_counts(10, seed=1, block=block, draws=draws)
