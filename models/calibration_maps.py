"""The three maps that may calibrate class probabilities, and how each is fitted.

Sources: Platt (1999) and Guo et al. (2017) for maps that are linear in log-odds; Zadrozny and
Elkan (2002) for isotonic regression of one class against the rest, renormalised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from models.evaluation import Vector
from models.splits import Indices

Knots = tuple[tuple[float, ...], tuple[float, ...]]
"""Where an isotonic map bends: forecasts, ascending, and calibrated values."""

SMALLEST = 1e-6
"""Probabilities below this count as this where their logarithm is taken."""

_CERTAIN = -math.log(SMALLEST)
_GRID = 16
_SPAN = 4096
_PRIOR_SESSIONS = 3.0


@dataclass(frozen=True)
class Counts:
    """Forecasts that were nearly the same, counted together.

    Attributes
    ----------
    probabilities : (m, 3) float64
        Short, neutral, long.
    weights : (m, 3) float64
        Weight of the rows whose outcome was short, neutral, long.
    session_weight : float
        Weight of one independent session: the rows of a session share its shocks, and sessions
        whose labels overlap share returns.
    """

    probabilities: Vector
    weights: Vector
    session_weight: float


def count_alike(
    probabilities: Vector, classes: Indices, weights: Vector, session_weight: float
) -> Counts:
    """Count rows together whose log-odds lie in one square of 1/16 by 1/16.

    Some thousand counts stand for hundreds of thousands of rows. A count stands at the mean of its
    rows' log-odds, so that a slope fitted on counts is not flattened.
    """
    odds = log_odds(probabilities)
    cell = np.rint(odds * _GRID).astype(np.int64)
    key, at = np.unique(cell[0] * _SPAN + cell[1], return_inverse=True)
    totals = np.bincount(at * 3 + classes, weights=weights, minlength=3 * len(key))
    totals = totals.reshape(-1, 3).astype(np.float64)
    sums = np.stack([np.bincount(at, weights=weights * side) for side in odds])
    return Counts(from_log_odds(sums / totals.sum(axis=1)), totals, session_weight)


def log_odds(probabilities: Vector) -> Vector:
    """Return the log-odds (2, n) of short and of long against neutral."""
    logs = np.log(np.maximum(np.ascontiguousarray(probabilities.T), SMALLEST))
    return np.stack([logs[0] - logs[1], logs[2] - logs[1]])


def from_log_odds(odds: Vector) -> Vector:
    """Return the probabilities (n, 3) of such log-odds."""
    logits = np.stack([odds[0], np.zeros_like(odds[0]), odds[1]])
    raised = np.exp(logits - logits.max(axis=0))
    return np.ascontiguousarray((raised / raised.sum(axis=0)).T)


def mean_log_loss(probabilities: Vector, classes: Indices, weights: Vector) -> float:
    """Return the weighted mean of the negative log-probability of what happened."""
    chosen = probabilities[np.arange(len(classes)), classes]
    return -_dot(np.log(np.maximum(chosen, SMALLEST)), weights) / float(weights.sum())


def apply_platt(coefficients: tuple[float, ...], probabilities: Vector) -> Vector:
    """Stretch and shift the log-odds of direction and of size.

    Parameters
    ----------
    coefficients : tuple of 4 floats
        Slope and shift of direction, log(long / short); slope and shift of size,
        log(sqrt(long * short) / neutral).
    probabilities : (n, 3) float64
        Raw.

    Returns
    -------
    (n, 3) float64
        Long over short rises with the raw ratio; for equal direction, neutral falls as size
        rises. Slopes are 0 or more, so nothing is turned round. Never 0 or 1: no odds above
        a million to one.

    Notes
    -----
    One slope per class would have to choose: a forecaster of returns knows how far a price may
    move much better than which way, and flattening the second must not flatten the first.
    """
    slope_direction, shift_direction, slope_size, shift_size = coefficients
    direction, size = _split(log_odds(probabilities))
    half = (slope_direction * direction + shift_direction) / 2.0
    size = slope_size * size + shift_size
    return from_log_odds(np.clip(np.stack([size - half, size + half]), -_CERTAIN, _CERTAIN))


def fit_platt(counts: Counts) -> tuple[float, ...]:
    """Fit the four coefficients by penalised maximum likelihood.

    The penalty is a normal prior of unit variance around the identity, in which each independent
    session counts as one observation: little evidence changes little.
    """
    direction, size = _split(log_odds(counts.probabilities))
    total = counts.weights.sum(axis=1)
    whole = float(total.sum())
    middle_direction = _dot(direction, total) / whole
    middle_size = _dot(size, total) / whole
    direction, size = direction - middle_direction, size - middle_size
    penalty = counts.session_weight / whole
    centre = np.array([1.0, 0.0, 1.0, 0.0])
    short, long = counts.weights[:, 0], counts.weights[:, 2]
    shares = (total / whole, short / whole, long / whole)

    def objective(theta: Vector) -> tuple[float, Vector]:
        half = (theta[0] * direction + middle_direction + theta[1]) / 2.0
        magnitude = theta[2] * size + middle_size + theta[3]
        below, above = magnitude - half, magnitude + half
        top = np.maximum(np.maximum(below, above), 0.0)
        e_below, e_above = np.exp(below - top), np.exp(above - top)
        both = e_below + e_above + np.exp(-top)
        loss = _dot(shares[0], top + np.log(both))
        loss -= _dot(shares[1], below) + _dot(shares[2], above)
        g_below = shares[0] * e_below / both - shares[1]
        g_above = shares[0] * e_above / both - shares[2]
        way, far = (g_above - g_below) / 2.0, g_above + g_below
        gradient = np.array([_dot(way, direction), way.sum(), _dot(far, size), far.sum()])
        away = theta - centre
        return loss + 0.5 * penalty * _dot(away, away), gradient + penalty * away

    # Not L-BFGS-B: for four numbers it wakes the threads of a BLAS, at a hundred times the cost.
    found = minimize(
        objective,
        centre,
        jac=True,
        method="TNC",
        bounds=[(0.0, None), (None, None), (0.0, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-9, "xtol": 1e-10, "maxfun": 1000},
    )
    slope_direction, shift_direction, slope_size, shift_size = (float(v) for v in found.x)
    return (
        slope_direction,
        shift_direction + (1.0 - slope_direction) * middle_direction,
        slope_size,
        shift_size + (1.0 - slope_size) * middle_size,
    )


def apply_isotonic(knots: tuple[Knots, ...], probabilities: Vector) -> Vector:
    """Map each class by its own rising curve, then divide by the sum.

    Before the division a class's value never falls as its forecast rises; after it, that is not
    promised.
    """
    columns = np.ascontiguousarray(probabilities.T)
    mapped = np.stack([np.interp(p, *curve) for p, curve in zip(columns, knots, strict=True)])
    return np.ascontiguousarray((mapped / mapped.sum(axis=0)).T)


def fit_isotonic(counts: Counts) -> tuple[Knots, ...]:
    """Fit one rising curve per class.

    Notes
    -----
    The rule of succession (Laplace) for three classes, with the session as the observation: at
    forecasts 0 and 1 three sessions are added of which one third saw the class. They pool with
    the outermost plateaus, so no value is ever 0 or 1, and few rows cannot come near.
    """
    total = counts.weights.sum(axis=1)
    prior = _PRIOR_SESSIONS * counts.session_weight
    weight = np.concatenate([[prior], total, [prior]])
    return tuple(
        _fit_curve(
            np.concatenate([[0.0], counts.probabilities[:, k], [1.0]]),
            np.concatenate([[1.0 / 3.0], counts.weights[:, k] / total, [1.0 / 3.0]]),
            weight,
        )
        for k in range(3)
    )


def _fit_curve(forecast: Vector, share: Vector, weight: Vector) -> Knots:
    curve = IsotonicRegression(out_of_bounds="clip").fit(forecast, share, sample_weight=weight)
    return tuple(curve.X_thresholds_.tolist()), tuple(curve.y_thresholds_.tolist())


def _dot(left: Vector, right: Vector) -> float:
    """Return a sum of products that does not depend on how many threads a library starts."""
    return float(np.einsum("i,i->", left, right))


def _split(odds: Vector) -> tuple[Vector, Vector]:
    """Return direction and size of the log-odds (2, n) of short and long."""
    return odds[1] - odds[0], (odds[0] + odds[1]) / 2.0
