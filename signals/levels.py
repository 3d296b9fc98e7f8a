"""Targets and stops: prices that the horizon's end lies beyond with stated odds.

The conditional distribution of the return is the forecast plus a residual. How wide and how
skewed residuals are is read off past out-of-sample forecasts, in units of the volatility that
was known with each (historical simulation filtered by volatility: Barone-Adesi, Giannopoulos and
Vosper 1999); a normal distribution stands in where there are too few.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

import numpy as np
import orjson
import polars as pl
from scipy.special import ndtri

from market.errors import SignalError
from market.horizons import Horizon
from market.ticks import tick_size, to_tick
from models.calibration import windows_of
from models.forecast import Prediction
from signals.schema import Direction

TARGET_ODDS = 0.25
"""Probability that the price stands at the target or beyond it when the horizon ends.

A path that may turn back touches a level about twice as often as it ends beyond it (reflection
principle), so a target is touched in about half of the cases.
"""

STOP_ODDS = 0.10
"""Probability that the price stands at the stop or beyond it when the horizon ends.

It is touched in about one case of five: noise alone seldom takes a position out.
"""

PROBABILITIES = (
    0.01,
    0.02,
    0.05,
    0.1,
    0.15,
    0.2,
    0.25,
    0.5,
    0.75,
    0.8,
    0.85,
    0.9,
    0.95,
    0.98,
    0.99,
)
"""Where the distribution of residuals is kept."""

INDEPENDENT_SPANS = 10
"""Least number of horizons, one after the other, that the evidence must span."""

_FINEST = tick_size(Decimal(0))


@dataclass(frozen=True)
class Residuals:
    """The distribution of one engine's residuals, made of plain values only.

    A residual is the return of a holder over the horizon less the expected return, over the
    volatility of one bar times the root of the horizon's steps.

    Attributes
    ----------
    quantiles : tuple of float
        At ``PROBABILITIES``, not falling; empty: those of the normal distribution.
    rows, sessions : int
        What there was to fit it on.

    Examples
    --------
    >>> round(Residuals().quantile(0.1), 3)
    -1.282
    >>> Residuals.from_json(Residuals().to_json()) == Residuals()
    True
    """

    quantiles: tuple[float, ...] = ()
    rows: int = 0
    sessions: int = 0

    def __post_init__(self) -> None:
        found = np.asarray(self.quantiles, dtype=np.float64)
        whole = len(found) in (0, len(PROBABILITIES))
        if not (whole and np.isfinite(found).all() and (np.diff(found) >= 0.0).all()):
            raise SignalError(
                "quantiles of residuals are none",
                got=list(self.quantiles),
                allowed=f"none, or {len(PROBABILITIES)} finite numbers that do not fall",
                remedy="fit them again",
            )

    @property
    def is_normal(self) -> bool:
        """Whether a normal distribution stands in for evidence."""
        return not self.quantiles

    def quantile(self, probability: float) -> float:
        """Return the residual that this share lies below, in standard deviations.

        Raises
        ------
        SignalError
            When the probability is out of the range that is kept.
        """
        first, last = PROBABILITIES[0], PROBABILITIES[-1]
        if not first <= probability <= last:
            raise SignalError(
                "odds of a level are out of range",
                got=probability,
                allowed=f"{first} to {last}",
                remedy="choose odds in this range",
            )
        if self.is_normal:
            return float(ndtri(probability))
        return float(np.interp(probability, PROBABILITIES, self.quantiles))

    def to_json(self) -> str:
        """Return all of it as JSON; numbers are written so that they are read to the bit."""
        return orjson.dumps(self, option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def from_json(cls, text: str) -> Residuals:
        """Return what :meth:`to_json` wrote.

        Raises
        ------
        SignalError
            When it is something else.
        """
        try:
            read: Mapping[str, Any] = orjson.loads(text)
            values = tuple(float(v) for v in read["quantiles"])
            return cls(values, int(read["rows"]), int(read["sessions"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SignalError(
                f"stored residuals cannot be read ({error})",
                got=text[:80],
                allowed="what Residuals.to_json wrote",
                remedy="fit them again",
            ) from error


def evidence_sessions(horizon: Horizon) -> tuple[int, int]:
    """Return the least and the most sessions of outcomes that residuals are read off.

    Those of calibration, and at least ten horizons one after the other.

    Examples
    --------
    >>> from market.horizons import find_horizon
    >>> [evidence_sessions(find_horizon(n)) for n in ("1h", "1d", "1M")]
    [(40, 120), (120, 504), (210, 504)]
    """
    least, most = windows_of(horizon)
    return max(least, INDEPENDENT_SPANS * horizon.sessions), most


def fit_residuals(
    past: pl.DataFrame, labels: pl.DataFrame, *, horizon: Horizon, as_of: dt.datetime
) -> dict[str, Residuals]:
    """Return the distribution of each engine's residuals by what is known now.

    Parameters
    ----------
    past : pl.DataFrame
        ``PREDICTION_SCHEMA``: out-of-sample predictions of one horizon.
    labels : pl.DataFrame
        ``symbol``, ``bar_end``, ``label_known_at``, ``forward_return`` and ``overnight_return``
        from :func:`features.labels.forward_returns`. Not the excess return: a level is a price,
        and a price moves with the market.
    horizon : Horizon
        Of all predictions.
    as_of : datetime
        Aware. Outcomes known later are not looked at.

    Returns
    -------
    dict
        Engine to its residuals; normal for one with fewer sessions than
        :func:`evidence_sessions` asks for.
    """
    least, most = evidence_sessions(horizon)
    held = (1.0 + pl.col("forward_return")) * (1.0 + pl.col("overnight_return")) - 1.0
    spread = pl.col(Prediction.VOLATILITY_BPS) * horizon.steps**0.5
    known = (
        past.join(
            labels.filter(pl.col("label_known_at") <= as_of).select(
                Prediction.SYMBOL, Prediction.BAR_END, held.alias("_held")
            ),
            on=[Prediction.SYMBOL, Prediction.BAR_END],
        )
        .select(
            Prediction.ENGINE,
            Prediction.SESSION,
            ((pl.col("_held") * 1e4 - pl.col(Prediction.EXPECTED_RETURN_BPS)) / spread).alias(
                "_residual"
            ),
        )
        .filter(pl.col("_residual").is_finite())
    )
    found: dict[str, Residuals] = {}
    for engine in past[Prediction.ENGINE].unique().sort():
        rows = known.filter(pl.col(Prediction.ENGINE) == engine)
        days = rows[Prediction.SESSION].unique().sort().tail(most)
        values = rows.filter(pl.col(Prediction.SESSION).is_in(days.implode()))["_residual"]
        quantiles: tuple[float, ...] = ()
        if len(days) >= least:
            quantiles = tuple(np.quantile(values.to_numpy(), PROBABILITIES).tolist())
        found[engine] = Residuals(quantiles, len(values), len(days))
    return found


_NORMAL = Residuals()


def price_levels(
    price: float,
    direction: Direction,
    expected_bps: float,
    spread_bps: float,
    residuals: Residuals | None = None,
    *,
    target_odds: float = TARGET_ODDS,
    stop_odds: float = STOP_ODDS,
) -> tuple[list[float], list[float]]:
    """Return target and stop prices as lists, empty for neutral.

    Parameters
    ----------
    price : float
        Last known raw price, USD, positive.
    direction : Direction
        Of the signal.
    expected_bps, spread_bps : float
        Expected return, and one standard deviation of the horizon's return.
    residuals : Residuals, optional
        Normal when ``None``.
    target_odds, stop_odds : float
        See ``TARGET_ODDS`` and ``STOP_ODDS``.

    Returns
    -------
    tuple of list of float
        Multiples of the tick: 0.01 USD from 1 USD on, 0.0001 USD below (Regulation NMS, rule
        612). Both are rounded towards the price, so that a target promises no more and a stop
        admits no more loss than the quantile says, but each lies one tick beyond the price at
        the least. A list is empty where no price above zero is left on that side.

    Examples
    --------
    >>> price_levels(100.0, Direction.LONG, 20.0, 150.0)
    ([101.21], [98.28])
    >>> price_levels(0.5, Direction.SHORT, -20.0, 150.0)
    ([0.494], [0.5086])
    """
    if direction is Direction.NEUTRAL:
        return [], []
    shape, sign = residuals or _NORMAL, direction.sign
    # The share of returns that lie below the level.
    target_below, stop_below = (
        (1.0 - target_odds, stop_odds) if sign > 0 else (target_odds, 1.0 - stop_odds)
    )
    target, stop = (
        price * (1.0 + (expected_bps + shape.quantile(p) * spread_bps) / 1e4)
        for p in (target_below, stop_below)
    )
    return _on_side(target, price, sign), _on_side(stop, price, -sign)


def _on_side(level: float, price: float, side: int) -> list[float]:
    """Return the level as a price of the grid above (1) or below (-1) the price."""
    # Twelve digits: what arithmetic of floats adds to a price on the grid is no reason to leave it.
    at, wanted = (Decimal(f"{v:.12g}") for v in (price, level))
    nearest = _next_price(at, side)
    if side > 0:
        return [float(max(to_tick(max(wanted, Decimal(0)), up=False), nearest))]
    lower = min(to_tick(max(wanted, Decimal(0)), up=True), nearest)
    if lower <= 0:
        lower = min(_FINEST, nearest)
    return [float(lower)] if lower > 0 else []


def _next_price(price: Decimal, side: int) -> Decimal:
    """Return the nearest price of the grid that lies strictly above or below."""
    tick = tick_size(price if side > 0 else max(price - _FINEST, Decimal(0)))
    steps = (price / tick).to_integral_value(ROUND_FLOOR if side > 0 else ROUND_CEILING)
    return steps * tick + side * tick
