"""A symbol against the market: beta, what is left without it, and the market itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from features.core import returns
from features.kernels import Values
from features.panel import Panel, ratio, shared
from features.spec import Feature, Stage

FAMILY = "cross_section"
BETA_BARS = 60
_SKIPPED = 5


@shared
def _market(p: Panel) -> Values:
    # Its own array, so that what is computed of it is shared.
    return p["market_return"]


def _beta(p: Panel) -> Values:
    return p.slope_on(returns(p), _market(p), BETA_BARS)


def _correlation(p: Panel) -> Values:
    return p.correlation(returns(p), _market(p), BETA_BARS)


def _residual(p: Panel, bars: int) -> Values:
    return p.sum(returns(p), bars) - _beta(p) * p.sum(_market(p), bars)


@shared
def _idiosyncratic(p: Panel) -> Values:
    unexplained = np.maximum(1.0 - _correlation(p) ** 2, 0.0)
    # The regression took two parameters, the standard deviation one.
    freedom = (BETA_BARS - 1.0) / (BETA_BARS - 2.0)
    return p.std(returns(p), BETA_BARS) * np.sqrt(unexplained * freedom)


def _residual_momentum(p: Panel) -> Values:
    bars = BETA_BARS - _SKIPPED
    own, market = (p.lag(p.sum(x, bars), _SKIPPED) for x in (returns(p), _market(p)))
    return ratio(own - _beta(p) * market, _idiosyncratic(p) * np.sqrt(bars))


def _market_sum(p: Panel, bars: int) -> Values:
    return p.sum(_market(p), bars)


def _market_volatility(p: Panel, bars: int) -> Values:
    return p.std(_market(p), bars)


def _series(
    name: str,
    compute: Callable[[Panel], Values],
    lookback: int,
    meaning: str,
    source: str,
    inputs: tuple[str, ...] = ("close", "market_return"),
) -> Feature:
    return Feature(
        name, compute, inputs, lookback, Stage.TIME_SERIES, meaning, source, family=FAMILY
    )


_OF_MARKET = ("market_return",)

FEATURES: tuple[Feature, ...] = (
    *(
        _series(
            f"market_return_{n}",
            partial(_market_sum, bars=n),
            n + 1,
            f"Sum of the mean returns of all symbols over {n} bars",
            "equally weighted market",
            _OF_MARKET,
        )
        for n in (1, 5, 20)
    ),
    *(
        _series(
            f"market_volatility_{n}",
            partial(_market_volatility, bars=n),
            n + 1,
            f"Standard deviation of {n} mean returns of all symbols",
            "Ang, Hodrick, Xing and Zhang (2006)",
            _OF_MARKET,
        )
        for n in (20, 60)
    ),
    _series(
        "beta_60",
        _beta,
        BETA_BARS + 1,
        "Slope of 60 returns on those of the market",
        "Sharpe (1964); Frazzini and Pedersen (2014)",
    ),
    _series(
        "market_correlation_60",
        _correlation,
        BETA_BARS + 1,
        "Correlation of 60 returns with those of the market",
        "Asness, Frazzini, Gormsen and Pedersen (2020)",
    ),
    *(
        _series(
            f"residual_return_{n}",
            partial(_residual, bars=n),
            BETA_BARS + 1,
            f"Return over {n} bars less beta times the market's",
            "Da, Liu and Schaumburg (2014), residual reversal",
        )
        for n in (1, 5)
    ),
    _series(
        "residual_momentum_60",
        _residual_momentum,
        BETA_BARS + 1,
        "Return beyond beta of 60 bars without the last 5, in units of its volatility",
        "Blitz, Huij and Martens (2011)",
    ),
    _series(
        "idiosyncratic_volatility_60",
        _idiosyncratic,
        BETA_BARS + 1,
        "Standard deviation of 60 returns that the market does not explain",
        "Ang, Hodrick, Xing and Zhang (2006)",
    ),
)
