"""The maps against naive loops, and what they promise for any input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.calibration_maps import (
    Counts,
    apply_isotonic,
    apply_platt,
    count_alike,
    fit_isotonic,
    fit_platt,
    from_log_odds,
    log_odds,
    mean_log_loss,
)


@st.composite
def evidence(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities (exact zeros and ones among them), classes and weights."""
    n = draw(st.integers(1, 40))
    raw = draw(arrays(np.int64, (n, 3), elements=st.integers(0, 6)))
    raw[raw.sum(axis=1) == 0] = [1, 0, 0]
    classes = draw(arrays(np.int64, n, elements=st.integers(0, 2)))
    weights = draw(arrays(np.int64, n, elements=st.integers(1, 5)))
    return raw / raw.sum(axis=1, keepdims=True), classes, weights.astype(np.float64)


def naive_pool(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Pool adjacent violators, one block at a time; forecasts equal but for rounding are one."""
    at = np.round(x, 12)
    blocks: list[list] = []
    for value in sorted(set(at)):
        here = at == value
        blocks.append([[value], float((w * y)[here].sum()), float(w[here].sum())])
        while len(blocks) > 1 and blocks[-2][1] / blocks[-2][2] >= blocks[-1][1] / blocks[-1][2]:
            values, total, weight = blocks.pop()
            blocks[-1] = [blocks[-1][0] + values, blocks[-1][1] + total, blocks[-1][2] + weight]
    level = {value: total / weight for values, total, weight in blocks for value in values}
    return np.array([level[value] for value in at])


@given(evidence())
@settings(deadline=None, derandomize=True, max_examples=100)
def test_counting_alike_keeps_totals_and_means(data) -> None:
    raw, classes, weights = data
    counts = count_alike(raw, classes, weights, 1.0)
    for k in range(3):
        assert counts.weights[:, k].sum() == pytest.approx(weights[classes == k].sum())
    odds = log_odds(counts.probabilities)
    mean = (odds * counts.weights.sum(axis=1)).sum(axis=1) / weights.sum()
    assert mean == pytest.approx((log_odds(raw) * weights).sum(axis=1) / weights.sum(), abs=1e-5)
    assert len(counts.probabilities) <= len(np.unique(raw, axis=0))


def test_rows_far_apart_are_not_counted_together() -> None:
    near = from_log_odds(np.array([[0.001, 0.002, 1.0], [0.001, -0.002, 1.0]]))
    assert len(count_alike(near, np.zeros(3, int), np.ones(3), 1.0).probabilities) == 2


@given(evidence())
@settings(deadline=None, derandomize=True, max_examples=100)
def test_log_odds_and_back(data) -> None:
    raw, _, _ = data
    assert from_log_odds(log_odds(raw)) == pytest.approx(raw, abs=3e-6)


@given(evidence(), st.floats(0.5, 50.0))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_isotonic_is_the_naive_pooling_with_the_rule_of_succession(data, session_weight) -> None:
    raw, classes, weights = data
    counts = count_alike(raw, classes, weights, session_weight)
    knots = fit_isotonic(counts)
    total = counts.weights.sum(axis=1)
    prior = 3.0 * session_weight
    for k in range(3):
        x = np.concatenate([[0.0], counts.probabilities[:, k], [1.0]])
        y = np.concatenate([[1 / 3], counts.weights[:, k] / total, [1 / 3]])
        wanted = naive_pool(x, y, np.concatenate([[prior], total, [prior]]))
        assert np.interp(x, *knots[k]) == pytest.approx(wanted, abs=1e-6)


def test_the_rule_of_succession_bounds_the_outermost_plateaus() -> None:
    raw = np.array([[0.1, 0.2, 0.7]] * 9 + [[0.7, 0.2, 0.1]] * 9)
    classes = np.array([2] * 9 + [0] * 9)
    knots = fit_isotonic(count_alike(raw, classes, np.ones(18), 1.0))
    # Nine of nine, and one more of three: ten of twelve. The same the other way round.
    assert np.interp([0.7, 0.1], *knots[2]) == pytest.approx([10 / 12, 1 / 12])
    assert np.interp([0.7, 0.1], *knots[0]) == pytest.approx([10 / 12, 1 / 12])


@given(evidence(), arrays(np.float64, (20, 3), elements=st.floats(0.0, 1.0)))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_isotonic_values_are_distributions_away_from_certainty(data, new) -> None:
    raw, classes, weights = data
    knots = fit_isotonic(count_alike(raw, classes, weights, 1.0))
    new = (new + 1e-12) / (new + 1e-12).sum(axis=1, keepdims=True)
    for rows in (raw, new, np.eye(3)):
        out = apply_isotonic(knots, rows)
        assert out.sum(axis=1) == pytest.approx(np.ones(len(rows)))
        assert (out > 0.0).all()
        assert (out < 1.0).all()
    steps = np.linspace(0.0, 1.0, 200)
    for curve in knots:
        assert (np.diff(np.interp(steps, *curve)) >= 0.0).all()


def naive_penalised_loss(theta, counts: Counts) -> float:
    """Written out row by row from the definition, around the mean forecast."""
    rows, middle = [], [0.0, 0.0, 0.0]
    for p, w in zip(counts.probabilities, counts.weights, strict=True):
        direction = math.log(p[2]) - math.log(p[0])
        size = (math.log(p[2]) + math.log(p[0])) / 2 - math.log(p[1])
        rows.append((direction, size, w))
        middle = [middle[0] + direction * w.sum(), middle[1] + size * w.sum(), middle[2] + w.sum()]
    m_direction, m_size, total = middle[0] / middle[2], middle[1] / middle[2], middle[2]
    loss = 0.0
    for direction, size, w in rows:
        d = theta[0] * (direction - m_direction) + m_direction + theta[1]
        s = theta[2] * (size - m_size) + m_size + theta[3]
        logits = [s - d / 2, 0.0, s + d / 2]
        whole = math.log(sum(math.exp(v) for v in logits))
        loss += sum(w[k] * (whole - logits[k]) for k in range(3)) / total
    away = [theta[0] - 1, theta[1], theta[2] - 1, theta[3]]
    return loss + 0.5 * counts.session_weight / total * sum(a * a for a in away)


@pytest.mark.parametrize("seed", range(4))
def test_platt_is_the_minimum_of_the_naive_loss(seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.dirichlet([2.0, 3.0, 2.0], 60)
    classes = rng.integers(0, 3, 60)
    counts = count_alike(raw, classes, rng.uniform(0.5, 2.0, 60), 2.0)
    a, b, c, d = fit_platt(counts)
    odds = log_odds(counts.probabilities)
    weight = counts.weights.sum(axis=1)
    m_direction = float(np.average(odds[1] - odds[0], weights=weight))
    m_size = float(np.average((odds[0] + odds[1]) / 2, weights=weight))
    centred = np.array([a, b + (a - 1) * m_direction, c, d + (c - 1) * m_size])
    best = naive_penalised_loss(centred, counts)
    for k in range(4):
        for step in (-0.01, 0.01):
            moved = centred.copy()
            moved[k] = max(0.0, moved[k] + step) if k in (0, 2) else moved[k] + step
            assert naive_penalised_loss(moved, counts) >= best - 1e-12


def test_platt_finds_the_planted_distortion() -> None:
    """200,000 rows whose true log-odds are a stretched and shifted version of the forecast."""
    rng = np.random.default_rng(0)
    raw = rng.dirichlet([3.0, 4.0, 3.0], 200_000)
    planted = (0.3, 0.1, 0.8, -0.4)
    truth = apply_platt(planted, raw)
    classes = (rng.random((len(raw), 1)) > truth.cumsum(axis=1)).sum(axis=1)
    found = fit_platt(count_alike(raw, classes, np.ones(len(raw)), 100.0))
    assert found == pytest.approx(planted, abs=0.03)


def test_platt_never_turns_a_forecast_round() -> None:
    """Directions that were always wrong lose their weight and do not become right ones."""
    raw = np.array([[0.1, 0.3, 0.6], [0.6, 0.3, 0.1]] * 200)
    classes = np.array([0, 2] * 200)
    found = fit_platt(count_alike(raw, classes, np.ones(400), 1.0))
    assert found[0] == 0.0
    out = apply_platt(found, raw)
    assert out[:, 2] == pytest.approx(out[:, 0], abs=0.01)


@given(
    st.tuples(st.floats(0.0, 3.0), st.floats(-2.0, 2.0), st.floats(0.0, 3.0), st.floats(-2.0, 2.0)),
    st.floats(-8.0, 8.0),
    st.lists(st.floats(-8.0, 8.0), min_size=2, max_size=2),
)
@settings(deadline=None, derandomize=True, max_examples=200)
def test_platt_keeps_the_order_it_promises(coefficients, fixed, moving) -> None:
    low, high = sorted(moving)
    for direction in (True, False):
        d = [low, high] if direction else [fixed, fixed]
        s = [fixed, fixed] if direction else [low, high]
        odds = np.array([[s[0] - d[0] / 2, s[1] - d[1] / 2], [s[0] + d[0] / 2, s[1] + d[1] / 2]])
        out = apply_platt(coefficients, from_log_odds(odds))
        assert out.sum(axis=1) == pytest.approx([1.0, 1.0])
        if direction:
            share = out[:, 2] / (out[:, 0] + out[:, 2])
            assert share[1] >= share[0] - 1e-9
        else:
            assert out[1, 1] <= out[0, 1] + 1e-9


def test_platt_with_unit_slopes_is_the_identity() -> None:
    raw = np.random.default_rng(0).dirichlet([1.0, 1.0, 1.0], 50)
    assert apply_platt((1.0, 0.0, 1.0, 0.0), raw) == pytest.approx(raw, abs=1e-5)


@given(evidence())
@settings(deadline=None, derandomize=True, max_examples=60)
def test_platt_survives_anything(data) -> None:
    raw, classes, weights = data
    found = fit_platt(count_alike(raw, classes, weights, 1.0))
    out = apply_platt(found, raw)
    assert np.isfinite(out).all()
    assert out.sum(axis=1) == pytest.approx(np.ones(len(raw)))


def test_the_mean_log_loss_is_a_weighted_mean() -> None:
    rows = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])
    got = mean_log_loss(rows, np.array([0, 1]), np.array([3.0, 1.0]))
    assert got == pytest.approx((3 * math.log(2.0) + math.log(1e6)) / 4)
