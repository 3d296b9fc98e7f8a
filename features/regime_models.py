"""Models of the regime that were compared, each as a fit on the past and a filter.

A fitted model labels every session from the sessions up to it: filtered, never smoothed. The
statistical ones need the packages of the ``dev`` extra and are no part of a running system; which
model is, and why, stands in ``docs/regimes.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
from numba import njit

from features.label_grid import Floats, Integers
from features.market_state import BREADTH, RETURN, TREND, VOLATILITY
from features.regime import follow_trend
from market.regimes import RegimeLabel

STATES = 3
Labels = list[str]
Filter = Callable[[pl.DataFrame], Labels]
"""From a market state (:func:`features.market_state.market_state`) to one label per session."""


@dataclass(frozen=True, slots=True)
class RegimeModel:
    """A way to name regimes.

    Attributes
    ----------
    name : str
        As the comparison prints it.
    fit : callable
        From the market states of the past to a filter. The filter's label of a session depends
        on the past that was fitted and on the sessions up to that one.
    is_fitted : bool
        Whether it learns from data at all.
    """

    name: str
    fit: Callable[[pl.DataFrame], Filter]
    is_fitted: bool = True


@dataclass(frozen=True, slots=True)
class RefitPlan:
    """When a model is fitted: first after ``first`` sessions, then every ``every``."""

    first: int = 504
    every: int = 126

    def cuts(self, sessions: int) -> list[int]:
        """Return how many sessions each fit sees, in a history of this length."""
        return list(range(self.first, sessions, self.every))


def label_walk_forward(
    model: RegimeModel, state: pl.DataFrame, plan: RefitPlan | None = None
) -> pl.Series:
    """Label each session by the newest model fitted before it.

    Parameters
    ----------
    model : RegimeModel
        One of :data:`REGIME_MODELS`.
    state : pl.DataFrame
        From :func:`features.market_state.market_state`.
    plan : RefitPlan, optional
        When to fit. Default: first after 504 sessions, then every 126.

    Returns
    -------
    pl.Series
        ``regime``, one word per session; neutral before the first fit.

    Examples
    --------
    >>> from market.synthetic import SyntheticSpec, generate
    >>> from features.market_state import market_state
    >>> market = generate(SyntheticSpec(symbols=3, sessions=90, minute_sessions=0))
    >>> label_walk_forward(REGIME_MODELS["trend"], market_state(market.daily)).len()
    90
    """
    if not model.is_fitted:
        return pl.Series("regime", model.fit(state)(state), dtype=pl.String)
    cuts = (plan or RefitPlan()).cuts(state.height)
    labels = [RegimeLabel.NEUTRAL.value] * state.height
    for begin, end in pairwise([*cuts, state.height]):
        seen = model.fit(state.head(begin))(state.head(end))
        labels[begin:end] = seen[begin:end]
    return pl.Series("regime", labels, dtype=pl.String)


def _fit_trend(past: pl.DataFrame) -> Filter:
    del past
    return lambda state: follow_trend(state[TREND].to_numpy())


def _fit_trend_with_breadth(past: pl.DataFrame) -> Filter:
    del past
    return lambda state: follow_trend(state[TREND].to_numpy(), state[BREADTH].to_numpy())


def _usable(inputs: pl.DataFrame) -> tuple[Floats, int]:
    """Return the inputs from the first session on that has them all, and that session's place."""
    whole = inputs.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
    start = int(whole.arg_max() or 0) if whole.any() else inputs.height
    return np.ascontiguousarray(inputs.tail(inputs.height - start).to_numpy()), start


def _name_states(states: Integers, returns: Floats) -> list[str]:
    """Name states by their mean return in training: the lowest bear, the highest bull.

    The states of the past may be the smoothed ones here: all of it lies before the fit.
    """
    means = [
        float(returns[states == k].mean()) if (states == k).any() else 0.0 for k in range(STATES)
    ]
    names = [RegimeLabel.NEUTRAL.value] * STATES
    names[int(np.argmin(means))] = RegimeLabel.BEAR.value
    names[int(np.argmax(means))] = RegimeLabel.BULL.value
    return names


def _named(states: Integers, names: list[str], missing: int) -> Labels:
    return [RegimeLabel.NEUTRAL.value] * missing + [names[k] for k in states]


def markov_inputs(state: pl.DataFrame) -> pl.DataFrame:
    """Return a session's return, the logarithm of its volatility, and breadth."""
    return state.select(RETURN, pl.col(VOLATILITY).log(), BREADTH)


def _fit_markov(past: pl.DataFrame) -> Filter:
    """Fit a Gaussian hidden Markov model; filter with its forward recursion.

    Hamilton (1989); three states, full covariances, the best of five starts.
    """
    from hmmlearn.hmm import GaussianHMM  # The dev extra's: not needed to run the system.

    inputs, start = _usable(markov_inputs(past))
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0)
    scaled = (inputs - centre) / scale
    fits = [
        GaussianHMM(STATES, covariance_type="full", n_iter=200, tol=1e-3, random_state=seed).fit(
            scaled
        )
        for seed in range(5)
    ]
    best = fits[int(np.argmax([fit.score(scaled) for fit in fits]))]
    covariances = np.asarray(best.covars_)
    parameters = (
        np.asarray(best.startprob_),
        np.asarray(best.transmat_),
        np.asarray(best.means_),
        np.linalg.inv(covariances),
        -0.5 * np.linalg.slogdet(covariances)[1],
    )
    names = _name_states(best.predict(scaled), past[RETURN].to_numpy()[start:])

    def label(state: pl.DataFrame) -> Labels:
        values, missing = _usable(markov_inputs(state))
        filtered = filter_states((values - centre) / scale, *parameters)
        return _named(filtered.argmax(axis=1), names, missing)

    return label


@njit(cache=True)
def filter_states(
    values: Floats,
    initial: Floats,
    transition: Floats,
    means: Floats,
    precision: Floats,
    offset: Floats,
) -> Floats:
    """Return each state's probability given the observations up to each row, (T, K).

    ``offset`` is minus half the logarithm of each covariance's determinant. Written out row by
    row, so that a row's rounding does not depend on how many follow.
    """
    length, width = values.shape
    states = len(initial)
    out = np.empty((length, states))
    logs = np.empty(states)
    for t in range(length):
        for k in range(states):
            distance = 0.0
            for a in range(width):
                for b in range(width):
                    left, right = values[t, a] - means[k, a], values[t, b] - means[k, b]
                    distance += left * precision[k, a, b] * right
            logs[k] = offset[k] - 0.5 * distance
        total = 0.0
        for k in range(states):
            prior = initial[k]
            if t > 0:
                prior = 0.0
                for m in range(states):
                    prior += out[t - 1, m] * transition[m, k]
            out[t, k] = prior * np.exp(logs[k] - logs.max())
            total += out[t, k]
        for k in range(states):
            out[t, k] = out[t, k] / total if total > 0.0 else 1.0 / states
    return out


def jump_inputs(state: pl.DataFrame) -> pl.DataFrame:
    """Return the downside deviation, two Sortino ratios, and breadth.

    Exponentially weighted with half-lives of 10, 20 and 60 sessions, after Shu, Yu and Mulvey
    (2024), with breadth added.
    """

    def downside(half_life: int) -> pl.Expr:
        fall = pl.col(RETURN).clip(upper_bound=0.0)
        return fall.pow(2).ewm_mean(half_life=half_life).sqrt() + 1e-8

    def sortino(half_life: int) -> pl.Expr:
        return pl.col(RETURN).ewm_mean(half_life=half_life) / downside(half_life)

    ready = pl.col(BREADTH).is_not_null()
    inputs = (downside(10), sortino(20), sortino(60), pl.col(BREADTH))
    return state.select(pl.when(ready).then(e).alias(f"x{n}") for n, e in enumerate(inputs))


JUMP_PENALTY = 50.0
_CLIP = 3.0


def _fit_jump(past: pl.DataFrame) -> Filter:
    """Fit a statistical jump model; filter with its online recursion.

    Nystrup, Lindstrom and Madsen (2020); Shu, Yu and Mulvey (2024): penalty 50, inputs clipped
    at three standard deviations.
    """
    from jumpmodels.jump import JumpModel  # The dev extra's: not needed to run the system.

    inputs, start = _usable(jump_inputs(past))
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0)

    def standardise(values: Floats) -> Floats:
        return np.clip((values - centre) / scale, -_CLIP, _CLIP)

    returns = past[RETURN].to_numpy()[start:]
    model = JumpModel(STATES, jump_penalty=JUMP_PENALTY, random_state=0, n_init=5)
    model.fit(standardise(inputs), ret_ser=returns, sort_by="ret")
    centres = np.ascontiguousarray(np.asarray(model.centers_))
    names = _name_states(np.asarray(model.labels_), returns)

    def label(state: pl.DataFrame) -> Labels:
        values, missing = _usable(jump_inputs(state))
        return _named(filter_jumps(standardise(values), centres, JUMP_PENALTY), names, missing)

    return label


@njit(cache=True)
def filter_jumps(values: Floats, centres: Floats, penalty: float) -> Integers:
    """Return the last state of the cheapest path up to each row, (T,).

    A path pays half its squared distance to its states' centres and a penalty for each jump.
    """
    length, width = values.shape
    states = len(centres)
    cost = np.zeros(states)
    out = np.empty(length, dtype=np.int64)
    for t in range(length):
        cheapest = cost.min()
        for k in range(states):
            distance = 0.0
            for a in range(width):
                distance += (values[t, a] - centres[k, a]) ** 2
            if not np.isnan(distance):
                cost[k] = min(cost[k], cheapest + penalty) + 0.5 * distance
            else:
                cost[k] = np.inf
        out[t] = np.argmin(cost)
    return out


REGIME_MODELS: Mapping[str, RegimeModel] = {
    "trend": RegimeModel("trend", _fit_trend, is_fitted=False),
    "trend and breadth": RegimeModel("trend and breadth", _fit_trend_with_breadth, is_fitted=False),
    "hidden Markov": RegimeModel("hidden Markov", _fit_markov),
    "jump": RegimeModel("jump", _fit_jump),
}
