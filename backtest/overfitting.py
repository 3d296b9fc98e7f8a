"""How much of a Sharpe ratio is the luck of having looked often.

Sharpe ratios here are per session, not annualised. Sources: Bailey and López de Prado (2012), "The
Sharpe ratio efficient frontier"; Bailey and López de Prado (2014), "The deflated Sharpe ratio";
Bailey, Borwein, López de Prado and Zhu (2017), "The probability of backtest overfitting".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import norm, rankdata

from backtest.group_metrics import known_outcomes, session_ics
from market.errors import BacktestError
from market.horizons import Horizon

Vector = npt.NDArray[np.float64]
CONFIDENCE = 0.95
_EULER = float(np.euler_gamma)
_MIN_SESSIONS = 20
_MIN_BLOCK = 5


@dataclass(frozen=True, slots=True)
class SharpeEstimate:
    """A Sharpe ratio per period, and what its uncertainty depends on.

    Attributes
    ----------
    sharpe : float
        Mean over standard deviation of the returns of a period.
    skewness, kurtosis : float
        Of these returns; the kurtosis of normal ones is 3.
    periods : int
        How many there are.
    """

    sharpe: float
    skewness: float
    kurtosis: float
    periods: int

    @property
    def error_factor(self) -> float:
        """Variance of the estimate times (periods - 1), by the delta method; never below zero."""
        found = 1.0 - self.skewness * self.sharpe + (self.kurtosis - 1.0) / 4.0 * self.sharpe**2
        return max(found, 0.0)


@dataclass(frozen=True, slots=True)
class Trials:
    """How often one looked before this backtest, and who says so.

    Attributes
    ----------
    training_runs : int
        Training runs in the tracking store.
    forecasters : int
        Engines that these runs judged out of sample, one per run and engine.
    tuning_trials : int
        Finished trials of the studies of parameters, pruned ones too.
    backtests : int
        Backtests of other forecasts or settings, this one included.
    sharpe_ratios : tuple of float
        Of these backtests, per session; this one is left out.
    counted_in : str
        Where these numbers come from, in words.
    """

    training_runs: int
    forecasters: int
    tuning_trials: int
    backtests: int
    sharpe_ratios: tuple[float, ...]
    counted_in: str

    @property
    def total(self) -> int:
        """Every forecaster, tuning trial and backtest; at least this one."""
        return max(1, self.forecasters + self.tuning_trials + self.backtests)


@dataclass(frozen=True, slots=True)
class SplitVerdict:
    """What combinatorially symmetric cross-validation says of a choice among strategies.

    Attributes
    ----------
    probability : float
        That the best in one half of the blocks is below the median in the other half.
    strategies : tuple of str
        What was chosen from.
    statistic : str
        What they were compared by.
    blocks, purge, splits, sessions : int
        Blocks of sessions, sessions left out at the end of each, ways to halve, sessions used.
    """

    probability: float
    strategies: tuple[str, ...]
    statistic: str
    blocks: int
    purge: int
    splits: int
    sessions: int


def estimate_sharpe(returns: Vector) -> SharpeEstimate:
    """Return the Sharpe ratio of returns with their skewness and kurtosis.

    Raises
    ------
    BacktestError
        When there are fewer than three, one is not finite, or they do not vary.
    """
    if len(returns) < 3 or not np.isfinite(returns).all() or np.ptp(returns) < 1e-12:
        raise BacktestError(
            "returns have no Sharpe ratio",
            got=f"{len(returns)} returns",
            allowed="three or more, finite, not all alike",
            remedy="simulate a longer period",
        )
    away = returns - returns.mean()
    spread = float(np.sqrt((away**2).mean()))
    return SharpeEstimate(
        sharpe=float(returns.mean()) / float(returns.std(ddof=1)),
        skewness=float((away**3).mean()) / spread**3,
        kurtosis=float((away**4).mean()) / spread**4,
        periods=len(returns),
    )


def probabilistic_sharpe_ratio(estimate: SharpeEstimate, benchmark: float = 0.0) -> float:
    """Return the probability that the true Sharpe ratio exceeds a benchmark.

    Parameters
    ----------
    estimate : SharpeEstimate
        Per period.
    benchmark : float
        A Sharpe ratio of the same period.

    Examples
    --------
    The fund of Bailey and López de Prado (2012): two years of months.

    >>> fund = SharpeEstimate(0.458, skewness=-2.448, kurtosis=10.164, periods=24)
    >>> round(probabilistic_sharpe_ratio(fund), 3)
    0.913
    """
    lead = (estimate.sharpe - benchmark) * math.sqrt(estimate.periods - 1)
    if estimate.error_factor == 0.0:
        return 0.5 if lead == 0.0 else float(lead > 0.0)
    return float(norm.cdf(lead / math.sqrt(estimate.error_factor)))


def expected_maximum(trials: int, variance: float) -> float:
    """Return the Sharpe ratio that the best of so many trials without skill is expected to show.

    Parameters
    ----------
    trials : int
        Independent trials, 1 or more.
    variance : float
        Of the Sharpe ratios across trials, per period.

    Raises
    ------
    BacktestError
        When there is no trial, or the variance is negative.
    """
    if trials < 1 or not variance >= 0.0:
        raise BacktestError(
            "trials of a deflated Sharpe ratio",
            got=f"{trials} trials with variance {variance}",
            allowed="1 or more, variance 0 or more",
            remedy="count the trials from the stores",
        )
    if trials == 1:
        return 0.0
    high = norm.isf(1.0 / trials)
    higher = norm.isf(1.0 / (trials * math.e))
    return math.sqrt(variance) * float((1.0 - _EULER) * high + _EULER * higher)


def deflated_sharpe_ratio(estimate: SharpeEstimate, *, trials: int, variance: float) -> float:
    """Return the probability that the true Sharpe ratio exceeds what the best by luck would show.

    Parameters
    ----------
    estimate : SharpeEstimate
        Per period.
    trials : int
        How many were tried.
    variance : float
        Of the Sharpe ratios across trials, per period.

    Examples
    --------
    The strategy of Bailey and López de Prado (2014): five years of 250 days, 100 trials.

    >>> found = SharpeEstimate(2.5 / 250**0.5, skewness=-3.0, kurtosis=10.0, periods=1250)
    >>> round(deflated_sharpe_ratio(found, trials=100, variance=0.5 / 250), 4)
    0.9004
    """
    return probabilistic_sharpe_ratio(estimate, expected_maximum(trials, variance))


def minimum_track_record(
    estimate: SharpeEstimate, benchmark: float = 0.0, *, confidence: float = CONFIDENCE
) -> float:
    """Return the periods after which so high a Sharpe ratio exceeds a benchmark with confidence.

    Infinite where it is not above the benchmark.

    Examples
    --------
    An annual Sharpe ratio of 2 against 1, on normal daily returns: 2.73 years.

    >>> daily = SharpeEstimate(2.0 / 252**0.5, skewness=0.0, kurtosis=3.0, periods=252)
    >>> round(minimum_track_record(daily, 1.0 / 252**0.5) / 252, 2)
    2.73
    """
    lead = estimate.sharpe - benchmark
    if lead <= 0.0:
        return math.inf
    return 1.0 + estimate.error_factor * (float(norm.ppf(confidence)) / lead) ** 2


def backtest_overfitting(
    values: Vector, names: tuple[str, ...], *, statistic: str, purge: int = 0, blocks: int = 16
) -> SplitVerdict:
    """Return the probability that choosing the best strategy chooses a poor one.

    Parameters
    ----------
    values : (n, k) float64
        What each of ``k`` strategies made in each of ``n`` sessions, in order of time; finite.
    names : tuple of str
        Of the strategies.
    statistic : str
        ``mean``, or ``ratio``: mean over standard deviation.
    purge : int
        Sessions left out at the end of each block, because their outcomes reach into the next.
    blocks : int
        Most blocks, even. Fewer where a block would keep fewer than five sessions.

    Raises
    ------
    BacktestError
        When there are fewer than two strategies, or too few sessions for four blocks.

    Notes
    -----
    Every way to take half of the blocks is tried; the best there is ranked in the other half. A
    rank at the very median counts half, so that strategies without any difference come out
    at one half in the mean for odd ``k`` too; the paper counts it whole.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal((400, 3))
    >>> better = noise + np.array([0.5, 0.0, 0.0])
    >>> backtest_overfitting(better, ("a", "b", "c"), statistic="mean").probability
    0.0
    """
    if statistic not in ("mean", "ratio") or len(names) != values.shape[1]:
        raise BacktestError(
            "strategies and their statistic",
            got=f"{statistic!r}, {len(names)} names for {values.shape[1]} columns",
            allowed="'mean' or 'ratio', one name per column",
            remedy="correct the call",
        )
    used = _even_blocks(len(values), purge, blocks)
    if used < 4 or values.shape[1] < 2 or not np.isfinite(values).all():
        raise BacktestError(
            "too little to tell a good choice from luck",
            got=f"{values.shape[1]} strategies over {len(values)} sessions",
            allowed=f"two or more, finite, over {4 * (_MIN_BLOCK + purge)} sessions or more",
            remedy="judge over more sessions",
        )
    parts = [p[: len(p) - purge] for p in np.array_split(values, used)]
    chosen = np.array(list(combinations(range(used), used // 2)))
    inside = np.zeros((len(chosen), used))
    inside[np.arange(len(chosen))[:, None], chosen] = 1.0
    trained = _statistic(inside, parts, statistic)
    tested = _statistic(1.0 - inside, parts, statistic)
    best = trained.argmax(axis=1)
    ranks = rankdata(tested, axis=1)[np.arange(len(best)), best]
    middle = (values.shape[1] + 1) / 2.0
    probability = float(np.mean((ranks < middle) + 0.5 * (ranks == middle)))
    kept = sum(map(len, parts))
    return SplitVerdict(probability, names, statistic, used, purge, len(chosen), kept)


def compare_engines(scored: pl.DataFrame, horizons: Sequence[Horizon]) -> dict[str, SplitVerdict]:
    """Return by horizon how a choice of engine by its rank IC holds up in other sessions.

    Parameters
    ----------
    scored : pl.DataFrame
        Predictions of several engines, the ensemble among them, joined with their labels:
        ``horizon``, ``engine``, ``bar_end``, ``expected_return_bps``, ``excess_return``.
    horizons : sequence of Horizon
        Their overlaps are purged between blocks.

    Returns
    -------
    dict
        By name, over the sessions in which every engine has a rank IC. A horizon is left out
        where fewer than two have one, or sessions are too few.
    """
    found = {h.name: _compare(scored.filter(pl.col("horizon") == h.name), h) for h in horizons}
    return {name: verdict for name, verdict in found.items() if verdict is not None}


def _compare(scored: pl.DataFrame, horizon: Horizon) -> SplitVerdict | None:
    ics = session_ics(known_outcomes(scored), "engine")
    wide = ics.pivot("label", index="session", values="rank_ic").sort("session").drop_nulls()
    names = tuple(sorted(c for c in wide.columns if c != "session"))
    if len(names) < 2 or _even_blocks(wide.height, horizon.sessions, 16) < 4:
        return None
    values = wide.select(names).to_numpy()
    return backtest_overfitting(values, names, statistic="mean", purge=horizon.sessions)


def judge_overfitting(
    returns: Vector, trials: Trials, splits: Mapping[str, SplitVerdict]
) -> dict[str, object]:
    """Return what the count of trials makes of a backtest, ready for JSON.

    Parameters
    ----------
    returns : (n,) float64
        Session returns after costs.
    trials : Trials
        Counted from the stores.
    splits : mapping
        By horizon: of the engines that were to choose from. Of several the worst one counts.

    Returns
    -------
    dict
        ``probabilistic_sharpe_ratio`` (against zero), ``deflated_sharpe_ratio``,
        ``expected_maximum_sharpe`` (annualised), ``minimum_track_record_sessions``, ``trials``
        with its total, ``sharpe_variance`` (per session) and where it comes from,
        ``probability_of_overfitting`` with the ``splits`` it rests on and those by horizon, and
        ``verdict``, one sentence. What cannot be said is ``None``.

    Notes
    -----
    The variance across trials is that of earlier backtests' Sharpe ratios, but never less than the
    sampling error of a strategy without skill, 1 / (n - 1): trials that resemble each other would
    otherwise make the hurdle vanish. Trials count as independent, which makes it higher.
    """
    worst = max(splits, key=lambda h: splits[h].probability, default=None)
    found: dict[str, object] = {
        "probabilistic_sharpe_ratio": None,
        "deflated_sharpe_ratio": None,
        "expected_maximum_sharpe": None,
        "minimum_track_record_sessions": None,
        "skewness": None,
        "kurtosis": None,
        "sharpe_variance": None,
        "sharpe_variance_from": None,
        "trials": {**_as_json(trials), "total": trials.total},
        "probability_of_overfitting": None if worst is None else splits[worst].probability,
        "probability_by_horizon": {h: s.probability for h, s in splits.items()},
        "splits": None if worst is None else {**_as_json(splits[worst]), "horizon": worst},
    }
    if len(returns) >= _MIN_SESSIONS and np.ptp(returns) > 1e-12:
        found |= _of_sharpe(estimate_sharpe(returns), trials)
    return {**found, "verdict": overfitting_verdict(found)}


def _of_sharpe(estimate: SharpeEstimate, trials: Trials) -> dict[str, object]:
    chance = 1.0 / (estimate.periods - 1)
    seen = float(np.var(trials.sharpe_ratios, ddof=1)) if len(trials.sharpe_ratios) > 1 else 0.0
    variance = max(seen, chance)
    hurdle = expected_maximum(trials.total, variance)
    needed = minimum_track_record(estimate, hurdle)
    source = (
        f"{len(trials.sharpe_ratios)} earlier backtests"
        if seen > chance
        else "the sampling error of a strategy without skill"
    )
    return {
        "probabilistic_sharpe_ratio": probabilistic_sharpe_ratio(estimate),
        "deflated_sharpe_ratio": deflated_sharpe_ratio(
            estimate, trials=trials.total, variance=variance
        ),
        "expected_maximum_sharpe": hurdle * math.sqrt(252.0),
        "minimum_track_record_sessions": math.ceil(needed) if math.isfinite(needed) else None,
        "skewness": estimate.skewness,
        "kurtosis": estimate.kurtosis,
        "sharpe_variance": variance,
        "sharpe_variance_from": source,
    }


def overfitting_verdict(found: dict[str, object]) -> str:
    """Return in one plain sentence whether the result survives the number of looks."""
    deflated, chance = found["deflated_sharpe_ratio"], found["probability_of_overfitting"]
    trials = found["trials"]
    assert isinstance(trials, dict)
    total = f"{trials['total']:,} {'trial' if trials['total'] == 1 else 'trials'}"
    if not isinstance(deflated, float):
        return f"There is too little to say whether {total} explain the result."
    hurdle = f"what the best of {total} without skill would show"
    if deflated >= CONFIDENCE:
        text = f"The Sharpe ratio exceeds {hurdle} (deflated Sharpe ratio {deflated:.2f})"
    elif deflated >= 0.5:
        text = f"The Sharpe ratio is not clearly above {hurdle} ({deflated:.2f}, below 0.95)"
    else:
        text = f"The Sharpe ratio is below {hurdle} ({deflated:.2f}): luck is enough to explain it"
    if isinstance(chance, float):
        word = "but" if (deflated >= CONFIDENCE) == (chance >= 0.5) else "and"
        text += f", {word} choosing the best engine would have misled in {chance:.0%} of splits"
    return text + "."


def _as_json(record: Trials | SplitVerdict) -> dict[str, object]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(record).items()}


def _even_blocks(sessions: int, purge: int, most: int) -> int:
    fitting = sessions // (_MIN_BLOCK + purge)
    return min(most, fitting) // 2 * 2


def _statistic(chosen: Vector, parts: list[Vector], statistic: str) -> Vector:
    """Return the statistic of each strategy over the blocks that each split takes."""
    sums = chosen @ np.stack([p.sum(axis=0) for p in parts])
    counts = (chosen @ np.array([float(len(p)) for p in parts]))[:, None]
    mean = sums / counts
    if statistic == "mean":
        return mean
    squares = chosen @ np.stack([(p**2).sum(axis=0) for p in parts])
    spread = np.sqrt(np.maximum(squares / counts - mean**2, 0.0))
    return np.where(spread > 1e-12, mean / np.where(spread > 1e-12, spread, 1.0), 0.0)
