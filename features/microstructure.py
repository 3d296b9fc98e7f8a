"""Liquidity, the price of trading, and volatility, estimated from bars."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from features import microstructure_kernels as own_kernels
from features import premarket, session_shape
from features.core import returns, typical_price
from features.kernels import Values
from features.panel import Panel, empty, ratio, shared
from features.spec import Feature, Scope, Stage

FAMILY = "microstructure"
_SIGN_BARS = 20
_LN_2 = float(np.log(2.0))

# ---------------------------------------------------------------------- liquidity


@shared
def dollar_volume(p: Panel) -> Values:
    """Return each bar's volume in money, at its vwap where it has one."""
    return typical_price(p) * p["volume"]


@shared
def _illiquidity(p: Panel) -> Values:
    return ratio(np.abs(returns(p)), dollar_volume(p))


def _amihud(p: Panel, bars: int) -> Values:
    return ratio(p.mean(_illiquidity(p), bars), p.mean(_illiquidity(p), 60))


@shared
def signed_share(p: Panel) -> Values:
    """Return the share of a bar's volume taken for buying less that taken for selling, -1 to 1."""
    move = p.change(p["close"])
    out = empty(p.rows)
    own_kernels.buyers_excess(ratio(move, p.std(move, _SIGN_BARS)), out)
    return out


@shared
def _signed_dollars(p: Panel) -> Values:
    return signed_share(p) * dollar_volume(p)


def _kyle(p: Panel, bars: int) -> Values:
    slope = p.slope_on(returns(p), _signed_dollars(p), bars)
    return slope * p.mean(dollar_volume(p), bars)


def _imbalance(p: Panel, bars: int) -> Values:
    signed = p.shared("signed_volume", lambda: signed_share(p) * p["volume"])
    return ratio(p.sum(signed, bars), p.sum(p["volume"], bars))


def _vpin(p: Panel, bars: int) -> Values:
    apart = p.shared("imbalance", lambda: np.abs(signed_share(p)) * p["volume"])
    return ratio(p.sum(apart, bars), p.sum(p["volume"], bars))


# ---------------------------------------------------------------------- spreads


def _roll(p: Panel, bars: int) -> Values:
    covariance = p.covariance(returns(p), p.lag(returns(p), 1), bars)
    return -2.0 * np.sign(covariance) * np.sqrt(np.abs(covariance))


@shared
def _middle(p: Panel) -> Values:
    # The geometric middle of the range: its logarithm is the mean of those of high and low.
    return np.sqrt(p["high"] * p["low"])


@shared
def _abdi_ranaldo_pair(p: Panel) -> Values:
    before, own = p.lag(p["close"], 1), p.lag(_middle(p), 1)
    square = 4.0 * np.log(ratio(before, own)) * np.log(ratio(before, _middle(p)))
    return np.sqrt(np.maximum(square, 0.0))


def _abdi_ranaldo(p: Panel, bars: int) -> Values:
    return p.mean(_abdi_ranaldo_pair(p), bars)


@shared
def _corwin_schultz_pair(p: Panel) -> Values:
    before = p.lag(p["close"], 1)
    # A bar that opened away from the close before is moved back to it.
    gap = np.maximum(p["low"] - before, 0.0) + np.minimum(p["high"] - before, 0.0)
    high, low = p["high"] - gap, p["low"] - gap
    last_high, last_low = p.lag(p["high"], 1), p.lag(p["low"], 1)
    beta = np.log(ratio(high, low)) ** 2 + np.log(ratio(last_high, last_low)) ** 2
    gamma = np.log(ratio(np.maximum(high, last_high), np.minimum(low, last_low))) ** 2
    weight = 3.0 - 2.0 * np.sqrt(2.0)
    alpha = (np.sqrt(2.0 * beta) - np.sqrt(beta)) / weight - np.sqrt(gamma / weight)
    # 2 (e^alpha - 1) / (1 + e^alpha); a negative estimate is set to zero before averaging.
    return np.maximum(2.0 * np.tanh(0.5 * alpha), 0.0)


def _corwin_schultz(p: Panel, bars: int) -> Values:
    return p.mean(_corwin_schultz_pair(p), bars)


# ---------------------------------------------------------------------- volatility


@shared
def log_returns(p: Panel) -> Values:
    """Return the logarithm of each close over the one before."""
    return np.log1p(returns(p))


@shared
def _power(p: Panel, exponent: int) -> Values:
    return log_returns(p) ** exponent


def _realised_variance(p: Panel, bars: int) -> Values:
    return p.sum(_power(p, 2), bars)


def _bipower_variance(p: Panel, bars: int) -> Values:
    def products() -> Values:
        size = np.abs(log_returns(p))
        return size * p.lag(size, 1)

    # Of n returns there are n - 1 neighbours.
    scale = 0.5 * np.pi * bars / (bars - 1.0)
    return scale * p.sum(p.shared("neighbours", products), bars - 1)


def _realised_volatility(p: Panel, bars: int) -> Values:
    return np.sqrt(_realised_variance(p, bars) / bars)


def _bipower_volatility(p: Panel, bars: int) -> Values:
    return np.sqrt(_bipower_variance(p, bars) / bars)


def _jump_share(p: Panel, bars: int) -> Values:
    realised = _realised_variance(p, bars)
    return ratio(realised - _bipower_variance(p, bars), realised)


def _skew(p: Panel, bars: int) -> Values:
    cube = p.sum(_power(p, 3), bars)
    return ratio(np.sqrt(bars) * cube, _realised_variance(p, bars) ** 1.5)


def _kurtosis(p: Panel, bars: int) -> Values:
    return ratio(bars * p.sum(_power(p, 4), bars), _realised_variance(p, bars) ** 2)


def _downside_share(p: Panel, bars: int) -> Values:
    down = p.shared("down_squares", lambda: np.minimum(log_returns(p), 0.0) ** 2)
    return ratio(p.sum(down, bars), _realised_variance(p, bars))


@shared
def _log_ratio(p: Panel, above: str, below: str) -> Values:
    return np.log(ratio(p[above], p[below]))


def _parkinson(p: Panel, bars: int) -> Values:
    square = p.shared("range_square", lambda: _log_ratio(p, "high", "low") ** 2)
    return np.sqrt(p.mean(square, bars) / (4.0 * _LN_2))


def _garman_klass(p: Panel, bars: int) -> Values:
    def terms() -> Values:
        spread, move = _log_ratio(p, "high", "low"), _log_ratio(p, "close", "open")
        return 0.5 * spread**2 - (2.0 * _LN_2 - 1.0) * move**2

    return np.sqrt(p.mean(p.shared("garman_klass", terms), bars))


@shared
def _rogers_satchell_terms(p: Panel) -> Values:
    up = _log_ratio(p, "high", "close") * _log_ratio(p, "high", "open")
    return up + _log_ratio(p, "low", "close") * _log_ratio(p, "low", "open")


def _rogers_satchell(p: Panel, bars: int) -> Values:
    return np.sqrt(p.mean(_rogers_satchell_terms(p), bars))


@shared
def overnight(p: Panel) -> Values:
    """Return the logarithm of each open over the close before."""
    return np.log(ratio(p["open"], p.lag(p["close"], 1)))


def _yang_zhang(p: Panel, bars: int) -> Values:
    weight = 0.34 / (1.34 + (bars + 1.0) / (bars - 1.0))
    between, within = p.std(overnight(p), bars), p.std(_log_ratio(p, "close", "open"), bars)
    rest = (1.0 - weight) * p.mean(_rogers_satchell_terms(p), bars)
    return np.sqrt(between**2 + weight * within**2 + rest)


# ---------------------------------------------------------------------- night and day


def _overnight_sum(p: Panel, bars: int) -> Values:
    return p.sum(overnight(p), bars)


def _intraday_sum(p: Panel, bars: int) -> Values:
    return p.sum(_log_ratio(p, "close", "open"), bars)


def _tug_of_war(p: Panel, bars: int) -> Values:
    apart = _overnight_sum(p, bars) - _intraday_sum(p, bars)
    return ratio(apart, p.std(log_returns(p), bars) * np.sqrt(bars))


_CLOSE = ("close",)
_OHLC = ("close", "high", "low", "open")
_MONEY = ("close", "high", "low", "volume", "vwap")

Row = tuple[str, Callable[..., Values], tuple[int, ...], int, tuple[str, ...], str, str]

# Name, function, windows, bars more than the window, inputs, meaning, source.
_LIQUIDITY: tuple[Row, ...] = (
    (
        "kyle_lambda",
        _kyle,
        (60,),
        _SIGN_BARS,
        _MONEY,
        "Return per mean bar's money of net buying, by regression over {n} bars",
        "Kyle (1985), as in Hasbrouck (2009); signs by bulk classification",
    ),
    (
        "volume_imbalance",
        _imbalance,
        (20,),
        _SIGN_BARS,
        ("close", "volume"),
        "Volume taken for buying less that for selling, over all volume of {n} bars",
        "Easley, Lopez de Prado and O'Hara (2016), bulk volume classification",
    ),
    (
        "vpin",
        _vpin,
        (50,),
        _SIGN_BARS,
        ("close", "volume"),
        "Mean size of the imbalance of buying and selling over {n} bars, by volume, 0 to 1",
        "Easley, Lopez de Prado and O'Hara (2012), on bars of time instead of volume",
    ),
    (
        "roll_spread",
        _roll,
        (20, 60),
        2,
        _CLOSE,
        "Effective spread from the covariance of neighbouring returns in {n} bars; negative where "
        "that is positive",
        "Roll (1984), with the sign kept as in Harris (1990)",
    ),
    (
        "corwin_schultz_spread",
        _corwin_schultz,
        (20,),
        1,
        ("close", "high", "low"),
        "Spread from the ranges of one and of two bars, mean of {n} pairs",
        "Corwin and Schultz (2012), with their adjustment for the night",
    ),
    (
        "abdi_ranaldo_spread",
        _abdi_ranaldo,
        (20,),
        1,
        ("close", "high", "low"),
        "Spread from closes and the middles of ranges, mean of {n} pairs",
        "Abdi and Ranaldo (2017), two-day corrected",
    ),
)
_VOLATILITY: tuple[Row, ...] = (
    (
        "realised_volatility",
        _realised_volatility,
        (20, 60),
        1,
        _CLOSE,
        "Root of the mean squared log return of {n} bars",
        "Andersen, Bollerslev, Diebold and Labys (2003)",
    ),
    (
        "bipower_volatility",
        _bipower_volatility,
        (20, 60),
        1,
        _CLOSE,
        "Volatility of {n} bars without jumps, per bar",
        "Barndorff-Nielsen and Shephard (2004)",
    ),
    (
        "jump_share",
        _jump_share,
        (20, 60),
        1,
        _CLOSE,
        "Share of realised variance of {n} bars that comes from jumps",
        "Huang and Tauchen (2005), relative jump measure",
    ),
    (
        "realised_skew",
        _skew,
        (20, 60),
        1,
        _CLOSE,
        "Skewness of the log returns of {n} bars",
        "Amaya, Christoffersen, Jacobs and Vasquez (2015)",
    ),
    (
        "realised_kurtosis",
        _kurtosis,
        (20, 60),
        1,
        _CLOSE,
        "Kurtosis of the log returns of {n} bars",
        "Amaya, Christoffersen, Jacobs and Vasquez (2015)",
    ),
    (
        "downside_share",
        _downside_share,
        (20, 60),
        1,
        _CLOSE,
        "Share of realised variance of {n} bars that comes from falls",
        "Barndorff-Nielsen, Kinnebrock and Shephard (2010), realised semivariance",
    ),
    (
        "parkinson",
        _parkinson,
        (20, 60),
        0,
        ("high", "low"),
        "Volatility per bar from the ranges of {n} bars",
        "Parkinson (1980)",
    ),
    (
        "garman_klass",
        _garman_klass,
        (20, 60),
        0,
        _OHLC,
        "Volatility per bar from ranges and bodies of {n} bars",
        "Garman and Klass (1980)",
    ),
    (
        "rogers_satchell",
        _rogers_satchell,
        (20, 60),
        0,
        _OHLC,
        "Volatility per bar, free of drift, of {n} bars",
        "Rogers and Satchell (1991)",
    ),
    (
        "yang_zhang",
        _yang_zhang,
        (20, 60),
        1,
        _OHLC,
        "Volatility per bar, free of drift and with gaps, of {n} bars",
        "Yang and Zhang (2000)",
    ),
)
_NIGHT_AND_DAY: tuple[Row, ...] = (
    (
        "overnight_sum",
        _overnight_sum,
        (5, 20),
        1,
        ("close", "open"),
        "Sum of the log returns of the last {n} nights",
        "Lou, Polk and Skouras (2019)",
    ),
    (
        "intraday_sum",
        _intraday_sum,
        (5, 20),
        0,
        ("close", "open"),
        "Sum of the log returns of the last {n} days from open to close",
        "Lou, Polk and Skouras (2019)",
    ),
    (
        "tug_of_war",
        _tug_of_war,
        (5, 20),
        1,
        ("close", "open"),
        "Night less day over {n} sessions, in units of volatility",
        "Lou, Polk and Skouras (2019)",
    ),
)


def _features(rows: tuple[Row, ...], scope: Scope) -> tuple[Feature, ...]:
    return tuple(
        Feature(
            f"{name}_{n}",
            partial(compute, bars=n),
            inputs,
            n + more,
            Stage.TIME_SERIES,
            meaning.format(n=n),
            source,
            family=FAMILY,
            scope=scope,
        )
        for name, compute, windows, more, inputs, meaning, source in rows
        for n in windows
    )


FEATURES: tuple[Feature, ...] = (
    *(
        Feature(
            f"amihud_{n}_over_60",
            partial(_amihud, bars=n),
            _MONEY,
            61,
            Stage.TIME_SERIES,
            f"Illiquidity, the move per money traded, of {n} bars over that of 60",
            "Amihud (2002)",
            family=FAMILY,
        )
        for n in (5, 20)
    ),
    *_features(_LIQUIDITY, Scope.ANY),
    *_features(_VOLATILITY, Scope.ANY),
    *_features(_NIGHT_AND_DAY, Scope.DAILY),
    *session_shape.FEATURES,
    *premarket.FEATURES,
)
