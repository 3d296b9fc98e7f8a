"""Measures of a series of session returns, each with its interval, from one set of draws.

Intervals are 95 percent percentile intervals of the stationary bootstrap (Politis and Romano,
1994), expanded as Student's t is against the normal (Hesterberg, 2015): as they are they are too
narrow in short samples, more so where blocks leave few that are independent. The mean block is the
longer of the automatic choices (:mod:`models.block_length`) for returns and for their squares,
which are correlated where returns are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import norm, t

from models.block_length import automatic_block
from models.resampling import stationary_rows

Vector = npt.NDArray[np.float64]
SESSIONS_PER_YEAR = 252
DRAWS = 2000
_CHUNK = 250
_MIN_SESSIONS = 10
_ENOUGH = 0.9
_NO_SPREAD = 1e-12
_TAIL = 0.05
_OUTSIDE = 0.025

METRIC_SCHEMA = pl.Schema(
    {
        "metric": pl.String(),
        "group": pl.String(),
        "value": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
        "n": pl.Int64(),
    }
)
"""One row per metric and group; what cannot be computed is null.

``group`` is ``all`` or ``by=label``, as in ``year=2024``; ``n`` counts what the value rests on:
sessions, or trades.
"""


@dataclass(frozen=True)
class SessionSeries:
    """What happened in each session, (n,) float64 each, in order of time.

    Attributes
    ----------
    returns : Vector
        Return on equity after costs, as a share.
    before_costs : Vector
        The same with costs added back.
    turnover : Vector
        Purchases and sales over the equity before.
    gross, net : Vector
        Exposures as shares of equity.
    benchmark : Vector, optional
        Return of the benchmark.
    """

    returns: Vector
    before_costs: Vector
    turnover: Vector
    gross: Vector
    net: Vector
    benchmark: Vector | None = None

    def __len__(self) -> int:
        return len(self.returns)

    def take(self, rows: npt.NDArray[Any]) -> SessionSeries:
        """Return some sessions; of (draws, length) rows, as many resamples."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return SessionSeries(**{k: None if v is None else v[rows] for k, v in parts.items()})


@dataclass(frozen=True)
class Draws:
    """Resamples of the sessions of a series.

    Attributes
    ----------
    rows : (draws, n) int32
        Sessions of each resample.
    block : float
        Mean length of a block, in sessions.
    """

    rows: npt.NDArray[np.int32]
    block: float

    @cached_property
    def counts(self) -> Vector:
        """How often each resample holds each session, (draws, n)."""
        draws, n = self.rows.shape
        flat = self.rows.astype(np.int64) + n * np.arange(draws)[:, None]
        return np.bincount(flat.ravel(), minlength=n * draws).reshape(draws, n).astype(np.float64)

    def tail(self, sessions: int | None = None) -> float:
        """Return the share of resamples to leave out on either side of an interval.

        Parameters
        ----------
        sessions : int, optional
            How many have a value; all of them by default. In blocks they are worth as
            ``sessions / (2 * block - 1)`` independent ones, the sum of the weights that the
            bootstrap gives to autocovariances.
        """
        n = self.rows.shape[1] if sessions is None else sessions
        worth = max(n / (2.0 * max(self.block, 1.0) - 1.0), 2.0)
        wider = math.sqrt(worth / (worth - 1.0)) * float(t.isf(_OUTSIDE, worth - 1.0))
        return float(norm.sf(wider))


def draw_sessions(n: int, *, block: float, seed: int, draws: int = DRAWS) -> Draws:
    """Return resamples of ``n`` sessions; made in chunks, to keep memory small."""
    rng = np.random.default_rng(seed)
    parts = [
        stationary_rows(n, block=block, rng=rng, draws=min(_CHUNK, draws - k)).astype(np.int32)
        for k in range(0, draws, _CHUNK)
    ]
    return Draws(np.concatenate(parts), block)


def block_of(returns: Vector) -> float:
    """Return the mean block length for a series of returns, in sessions."""
    finite = returns[np.isfinite(returns)]
    return max(automatic_block(finite), automatic_block((finite - finite.mean()) ** 2))


def session_metrics(
    series: SessionSeries, draws: Draws, *, group: str = "all", is_path: bool = True
) -> pl.DataFrame:
    """Return every measure of a series with its interval.

    Parameters
    ----------
    series : SessionSeries
        The sessions.
    draws : Draws
        Resamples of these sessions.
    group : str
        What to call them.
    is_path : bool
        Whether they follow one another: drawdowns of sessions that do not mean nothing.

    Returns
    -------
    pl.DataFrame
        ``METRIC_SCHEMA``. There is no interval below ten sessions, nor where more than a tenth of
        the resamples have no value.
    """
    n = len(series)
    values = measures(series.take(np.arange(n)[None, :]), is_path=is_path)
    drawn: dict[str, list[Vector]] = {name: [] for name in values}
    if n >= _MIN_SESSIONS:
        for start in range(0, len(draws.rows), _CHUNK):
            resampled = series.take(draws.rows[start : start + _CHUNK])
            for name, found in measures(resampled, is_path=is_path).items():
                drawn[name].append(found)
    rows = [
        (name, group, _plain(value[0]), *interval(drawn[name], draws.tail()), n)
        for name, value in values.items()
    ]
    return pl.DataFrame(rows, schema=METRIC_SCHEMA, orient="row")


def interval(drawn: list[Vector], tail: float) -> tuple[float | None, float | None]:
    """Return the interval of resampled values without ``tail`` of them on either side.

    Two nulls where there are none, or more than a tenth is not finite.
    """
    every = np.concatenate(drawn) if drawn else np.empty(0)
    finite = every[np.isfinite(every)]
    if len(every) == 0 or len(finite) < _ENOUGH * len(every):
        return None, None
    low, high = np.quantile(finite, [tail, 1.0 - tail])
    return float(low), float(high)


def measures(series: SessionSeries, *, is_path: bool = True) -> dict[str, Vector]:
    """Return each measure of each resample.

    Parameters
    ----------
    series : SessionSeries
        Of (draws, n) arrays.
    is_path : bool
        Whether to look at drawdowns too.

    Returns
    -------
    dict of (draws,) float64
        NaN where a measure does not exist. Ratios are annualised with 252 sessions and take no
        risk-free rate off.
    """
    returns = series.returns
    total = np.prod(1.0 + returns, axis=1) - 1.0
    total_before = np.prod(1.0 + series.before_costs, axis=1) - 1.0
    sessions = returns.shape[1]
    annual = annual_return(total, sessions)
    mean = returns.mean(axis=1)
    downside = np.sqrt((np.minimum(returns, 0.0) ** 2).mean(axis=1))
    low, high = np.quantile(returns, [_TAIL, 1.0 - _TAIL], axis=1)
    found = {
        "total_return": total,
        "annual_return": annual,
        "annual_volatility": _spread(returns) * math.sqrt(SESSIONS_PER_YEAR),
        "sharpe_ratio": sharpe_ratios(returns),
        "sortino_ratio": ratio(mean, downside) * math.sqrt(SESSIONS_PER_YEAR),
        "session_hit_rate": (returns > 0.0).mean(axis=1),
        "tail_ratio": ratio(high, np.where(low < 0.0, -low, 0.0)),
        "annual_turnover": series.turnover.mean(axis=1) * SESSIONS_PER_YEAR,
        "average_gross_exposure": series.gross.mean(axis=1),
        "average_net_exposure": series.net.mean(axis=1),
        "total_return_before_costs": total_before,
        "annual_return_before_costs": annual_return(total_before, sessions),
        "sharpe_ratio_before_costs": sharpe_ratios(series.before_costs),
    }
    if is_path:
        depth, length = deepest_drawdowns(returns)
        found |= {
            "max_drawdown": depth,
            "max_drawdown_sessions": length,
            "calmar_ratio": ratio(annual, -depth),
        }
    if series.benchmark is not None:
        found |= _against(returns, series.benchmark)
    return found


def annual_return(total: Vector, sessions: int) -> Vector:
    """Return total returns as returns a year; minus one where all was lost."""
    return np.where(
        total > -1.0, np.maximum(1.0 + total, 0.0) ** (SESSIONS_PER_YEAR / sessions) - 1.0, -1.0
    )


def sharpe_ratios(returns: Vector) -> Vector:
    """Return the annualised Sharpe ratio of each row; NaN where returns do not vary."""
    return ratio(returns.mean(axis=1), _spread(returns)) * math.sqrt(SESSIONS_PER_YEAR)


def ratio(numerator: Vector, denominator: Vector) -> Vector:
    """Divide; NaN where the denominator is not above zero."""
    some = denominator > _NO_SPREAD
    return np.where(some, numerator / np.where(some, denominator, 1.0), np.nan)


def deepest_drawdowns(returns: Vector) -> tuple[Vector, Vector]:
    """Return how deep each row's deepest drawdown is, and how many sessions it lasted.

    Returns
    -------
    (draws,), (draws,) float64
        Depth as a share, zero or negative; sessions from the peak to the session that regains
        it, or to the end. Of equally deep ones the first.

    Examples
    --------
    >>> [found.round(3).tolist() for found in deepest_drawdowns(np.array([[0.1, -0.1, 0.2]]))]
    [[-0.1], [2.0]]
    """
    rows, n = returns.shape
    equity = np.concatenate([np.ones((rows, 1)), np.cumprod(1.0 + returns, axis=1)], axis=1)
    down = equity / np.maximum.accumulate(equity, axis=1) - 1.0
    # The first of equally deep ones: which of them rounding made deeper means nothing.
    trough = (down <= down.min(axis=1, keepdims=True) + _NO_SPREAD).argmax(axis=1)
    place = np.arange(n + 1)
    upto = np.where(place <= trough[:, None], equity, -np.inf)
    level = upto.max(axis=1)
    # The last session at the peak: what comes back to it is no drawdown before it falls again.
    peak = n - (upto == level[:, None])[:, ::-1].argmax(axis=1)
    regained = (place >= trough[:, None]) & (equity >= level[:, None])
    end = np.where(regained.any(axis=1), regained.argmax(axis=1), n)
    depth = down[np.arange(rows), trough]
    return depth, np.where(depth < 0.0, end - peak, 0).astype(np.float64)


def _against(returns: Vector, benchmark: Vector) -> Mapping[str, Vector]:
    away = benchmark - benchmark.mean(axis=1, keepdims=True)
    beta = ratio((away * returns).sum(axis=1), (away**2).sum(axis=1))
    alpha = (returns.mean(axis=1) - beta * benchmark.mean(axis=1)) * SESSIONS_PER_YEAR
    total = np.prod(1.0 + benchmark, axis=1) - 1.0
    return {"beta": beta, "alpha": alpha, "benchmark_total_return": total}


def _spread(returns: Vector) -> Vector:
    if returns.shape[1] < 2:
        return np.full(len(returns), np.nan)
    return returns.std(axis=1, ddof=1)


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
