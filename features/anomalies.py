"""What daily bars told of the cross-section of returns in published work, beyond the short run.

Nights and days apart, the share of rising sessions, a symbol's own autocorrelation, the yearly
high. Each is meant to be read against the other symbols of its session
(:mod:`models.normal_scores`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from features.core import returns
from features.kernels import Values
from features.microstructure import overnight
from features.panel import Panel, ratio, shared
from features.spec import Feature, Scope, Stage

FAMILY = "anomalies"
QUARTER_BARS, YEAR_BARS = 60, 250
_SHOCKS = 4


@shared
def _night(p: Panel) -> Values:
    return ratio(overnight(p), p.std(returns(p), QUARTER_BARS))


@shared
def _intraday(p: Panel) -> Values:
    return np.log(ratio(p["close"], p["open"]))


@shared
def _day(p: Panel) -> Values:
    return ratio(_intraday(p), p.std(returns(p), QUARTER_BARS))


def _night_ago(p: Panel, bars: int) -> Values:
    return p.lag(_night(p), bars)


def _day_ago(p: Panel, bars: int) -> Values:
    return p.lag(_day(p), bars)


def _night_sum(p: Panel, bars: int) -> Values:
    return ratio(p.sum(overnight(p), bars), p.std(returns(p), bars))


def _day_sum(p: Panel, bars: int) -> Values:
    return ratio(p.sum(_intraday(p), bars), p.std(returns(p), bars))


def _night_day_correlation(p: Panel) -> Values:
    return p.correlation(overnight(p), _intraday(p), QUARTER_BARS)


def _night_share(p: Panel) -> Values:
    return ratio(p.std(overnight(p), QUARTER_BARS), p.std(_intraday(p), QUARTER_BARS))


@shared
def _rises(p: Panel) -> Values:
    apart = returns(p) - p["market_return"]
    return np.where(np.isfinite(apart), np.sign(apart), np.nan)


def _up_share(p: Panel, bars: int) -> Values:
    # Exact, whatever bars came before: a mean of whole numbers would be off by a rounding.
    return p.sum(_rises(p), bars) / bars


@shared
def _autocorrelation(p: Panel) -> Values:
    now = returns(p)
    return p.correlation(now, p.lag(now, 1), YEAR_BARS)


def _expected_echo(p: Panel) -> Values:
    return _autocorrelation(p) * ratio(returns(p), p.std(returns(p), QUARTER_BARS))


@shared
def _location(p: Panel) -> Values:
    return ratio(p["close"] - p["low"], p["high"] - p["low"])


def _close_location(p: Panel, bars: int) -> Values:
    # A bar without a range says nothing of where it closed: the middle.
    place = _location(p)
    flat = np.isfinite(p["close"]) & (p["high"] == p["low"])
    return p.mean(np.where(flat, 0.5, place), bars)


def _range_ratio(p: Panel, bars: int) -> Values:
    width = p.shared("log_range", lambda: np.log(ratio(p["high"], p["low"])))
    return ratio(p.mean(width, bars), p.mean(width, QUARTER_BARS))


def _under_high(p: Panel) -> Values:
    return ratio(p["close"], p.max(p["high"], YEAR_BARS)) - 1.0


def _over_low(p: Panel) -> Values:
    return ratio(p["close"], p.min(p["low"], YEAR_BARS)) - 1.0


def _one(
    name: str,
    compute: Callable[[Panel], Values],
    inputs: tuple[str, ...],
    lookback: int,
    meaning: str,
    source: str,
) -> Feature:
    return Feature(
        name,
        compute,
        inputs,
        lookback,
        Stage.TIME_SERIES,
        meaning,
        source,
        family=FAMILY,
        scope=Scope.DAILY,
    )


_OPEN = ("close", "open")
_BAR = ("close", "high", "low")
_TUG = "Lou, Polk and Skouras (2019)"
_AGO = ("of this session", "one session ago", "two sessions ago", "three sessions ago")

FEATURES: tuple[Feature, ...] = (
    *(
        _one(
            f"night_{k}",
            partial(_night_ago, bars=k),
            _OPEN,
            QUARTER_BARS + 1 + k,
            f"Return from close to open {_AGO[k]}, in units of volatility",
            "Berkman, Koch, Tuttle and Zhang (2012)",
        )
        for k in range(_SHOCKS)
    ),
    *(
        _one(
            f"day_{k}",
            partial(_day_ago, bars=k),
            _OPEN,
            QUARTER_BARS + 1 + k,
            f"Return from open to close {_AGO[k]}, in units of volatility",
            "Berkman, Koch, Tuttle and Zhang (2012)",
        )
        for k in range(_SHOCKS)
    ),
    *(
        _one(
            f"night_sum_{n}",
            partial(_night_sum, bars=n),
            _OPEN,
            n + 1,
            f"Sum of {n} returns from close to open, in units of volatility",
            _TUG,
        )
        for n in (10, QUARTER_BARS, YEAR_BARS)
    ),
    *(
        _one(
            f"day_sum_{n}",
            partial(_day_sum, bars=n),
            _OPEN,
            n + 1,
            f"Sum of {n} returns from open to close, in units of volatility",
            _TUG,
        )
        for n in (10, QUARTER_BARS, YEAR_BARS)
    ),
    _one(
        "night_day_correlation_60",
        _night_day_correlation,
        _OPEN,
        QUARTER_BARS + 1,
        "Correlation of 60 nights with the days that followed",
        _TUG,
    ),
    _one(
        "night_share_60",
        _night_share,
        _OPEN,
        QUARTER_BARS + 1,
        "Standard deviation of 60 nights over that of the days",
        _TUG,
    ),
    *(
        _one(
            f"up_share_{n}",
            partial(_up_share, bars=n),
            ("close", "market_return"),
            n + 1,
            f"Share of {n} sessions better than the market's less that of worse ones",
            "Da, Gurun and Warachka (2014), continuous information",
        )
        for n in (QUARTER_BARS, YEAR_BARS)
    ),
    _one(
        "autocorrelation_250",
        _autocorrelation,
        ("close",),
        YEAR_BARS + 2,
        "Correlation of 250 returns with those of the session before",
        "Lo and MacKinlay (1990)",
    ),
    _one(
        "expected_echo",
        _expected_echo,
        ("close",),
        YEAR_BARS + 2,
        "Last return in units of volatility times the autocorrelation of 250 sessions",
        "Lo and MacKinlay (1990)",
    ),
    *(
        _one(
            f"close_location_{n}",
            partial(_close_location, bars=n),
            _BAR,
            n,
            f"Where the close lay between low and high, mean of {n} bars",
            "Lane (1984), stochastic %K of one bar",
        )
        for n in (5, 20)
    ),
    *(
        _one(
            f"range_ratio_{n}",
            partial(_range_ratio, bars=n),
            ("high", "low"),
            QUARTER_BARS,
            f"Mean log range of {n} bars over that of 60",
            "Parkinson (1980)",
        )
        for n in (1, 5)
    ),
    _one(
        "under_high_250",
        _under_high,
        ("close", "high"),
        YEAR_BARS,
        "Close under its 250-bar high",
        "George and Hwang (2004)",
    ),
    _one(
        "over_low_250",
        _over_low,
        ("close", "low"),
        YEAR_BARS,
        "Close over its 250-bar low",
        "George and Hwang (2004)",
    ),
)
