"""Features that set a symbol against all others at the same moment: the second pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from features import alpha158, core, market_relative, microstructure
from features.kernels import Values
from features.panel import Panel, ratio
from features.spec import Feature, Stage

FAMILY = "cross_section"
_BY_NAME = {
    f.name: f
    for family in (core, alpha158, microstructure, market_relative)
    for f in family.FEATURES
}


def zscore(p: Panel, of: str) -> Values:
    """Return a feature's distance from the mean of all symbols in standard deviations."""
    return p.group_zscore(p[of])


def rank(p: Panel, of: str) -> Values:
    """Return a feature's rank among all symbols, -0.5 to 0.5."""
    return p.group_rank(p[of]) - 0.5


def in_sector(p: Panel, of: str) -> Values:
    """Return a feature's distance from the mean of its sector in standard deviations."""
    mean, deviation = p.sector_moments(p[of], p["sector"])
    return ratio(p[of] - mean, deviation)


def sector_mean(p: Panel, of: str) -> Values:
    """Return the mean of a feature over the symbols of the sector."""
    return p.sector_moments(p[of], p["sector"])[0]


def dispersion(p: Panel, of: str = "return_1") -> Values:
    """Return the standard deviation of a feature across symbols."""
    return p.group_moments(p[of])[1]


def mean_sign(p: Panel, of: str) -> Values:
    """Return the share of symbols above zero less that of those below."""
    return p.group_moments(np.sign(p[of]))[0]


def share_at_end(p: Panel, of: str) -> Values:
    """Return the share of symbols of which an extreme lies in the newest bar of its window."""
    place = p[of]
    return p.group_moments(np.where(np.isfinite(place), place >= 1.0, np.nan))[0]


def average_correlation(p: Panel) -> Values:
    """Return the market's variance over that of a typical symbol, near the mean correlation."""
    typical = p.group_moments(p["volatility_20"])[0]
    return ratio(p["market_volatility_20"], typical) ** 2


def breadth(p: Panel) -> Values:
    """Return the share of symbols above their 20-bar average."""
    gap = p["sma_gap_20"]
    above = np.where(np.isfinite(gap), (gap > 0).astype(np.float64), np.nan)
    return p.group_moments(above)[0]


def _cross(
    name: str,
    compute: Callable[[Panel], Values],
    of: str,
    meaning: str,
    source: str,
    *,
    family: str = core.FAMILY,
    beside: tuple[str, ...] = (),
) -> Feature:
    return Feature(
        name,
        compute,
        (of, *beside),
        max(_BY_NAME[n].lookback for n in (of, *beside) if n in _BY_NAME),
        Stage.CROSS_SECTION,
        meaning,
        source,
        family=family,
    )


_RELATIVE = (
    *("return_1", "return_5", "return_20"),
    *("sma_gap_5", "sma_gap_10", "sma_gap_20", "body_4"),
)

CORE: tuple[Feature, ...] = (
    *(
        _cross(
            f"{n}_z",
            partial(zscore, of=n),
            n,
            f"{n} against all symbols at that time, in standard deviations",
            "cross-sectional standardisation",
        )
        for n in _RELATIVE
    ),
    _cross(
        "volatility_rank",
        partial(rank, of="volatility_20"),
        "volatility_20",
        "Rank of volatility among all symbols, -0.5 to 0.5",
        "Ang, Hodrick, Xing and Zhang (2006)",
    ),
    _cross(
        "volume_rank",
        partial(rank, of="volume_ratio"),
        "volume_ratio",
        "Rank of relative volume among all symbols, -0.5 to 0.5",
        "Gervais, Kaniel and Mingelgrin (2001)",
    ),
    _cross(
        "dispersion",
        dispersion,
        "return_1",
        "Standard deviation of returns across symbols",
        "cross-sectional dispersion",
    ),
    _cross(
        "breadth",
        breadth,
        "sma_gap_20",
        "Share of symbols above their 20-bar average",
        "market breadth",
    ),
)

_own = partial(_cross, family=FAMILY)

_STANDARD = "Kelly, Pruitt and Su (2019); Gu, Kelly and Xiu (2020), cross-sectional ranks"
_RANKED = (
    # Reversal and momentum.
    *("return_1", "return_5", "return_20", "ROC60", "residual_return_5", "residual_momentum_60"),
    *("drawdown_40", "rsi_14_cutler", "efficiency_10", "RSV20", "RANK60"),
    # Volatility and its shape.
    *("yang_zhang_20", "idiosyncratic_volatility_60", "beta_60", "jump_share_60"),
    *("realised_skew_60", "downside_share_60", "volatility_ratio"),
    # Liquidity and volume.
    *("amihud_5_over_60", "corwin_schultz_spread_20", "kyle_lambda_60", "vpin_50"),
    *("volume_imbalance_20", "CORR20", "WVMA20", "VSUMP20"),
)
_SCALED = (
    *("residual_return_1", "residual_return_5", "residual_momentum_60"),
    *("gap", "body", "drawdown_40", "idiosyncratic_volatility_60", "volume_imbalance_20"),
)
_NEUTRAL = (
    *("return_1", "return_5", "return_20", "sma_gap_20", "residual_momentum_60"),
    *("volatility_20", "volume_ratio", "amihud_5_over_60"),
)

FEATURES: tuple[Feature, ...] = (
    *market_relative.FEATURES,
    *(
        _own(
            f"{n}_rank",
            partial(rank, of=n),
            n,
            f"Rank of {n} among all symbols at that time, -0.5 to 0.5",
            _STANDARD,
        )
        for n in _RANKED
    ),
    *(
        _own(
            f"{n}_z",
            partial(zscore, of=n),
            n,
            f"{n} against all symbols at that time, in standard deviations",
            "cross-sectional standardisation",
        )
        for n in _SCALED
    ),
    *(
        _own(
            f"{n}_in_sector",
            partial(in_sector, of=n),
            n,
            f"{n} against the symbols of its sector, in standard deviations",
            "Asness, Porter and Stevens (2000), within industries",
            beside=("sector",),
        )
        for n in _NEUTRAL
    ),
    *(
        _own(
            f"sector_{n}",
            partial(sector_mean, of=n),
            n,
            f"Mean of {n} over the symbols of its sector",
            "Moskowitz and Grinblatt (1999)",
            beside=("sector",),
        )
        for n in ("return_1", "return_5", "return_20")
    ),
    *(
        _own(
            f"dispersion_of_{n}",
            partial(dispersion, of=n),
            n,
            f"Standard deviation of {n} across symbols",
            "Stivers and Sun (2010), return dispersion",
        )
        for n in ("return_5", "return_20", "residual_return_1")
    ),
    _own(
        "advance_decline",
        partial(mean_sign, of="return_1"),
        "return_1",
        "Share of symbols that rose less that of those that fell",
        "market breadth (Zweig, 1986)",
    ),
    _own(
        "share_at_highs_20",
        partial(share_at_end, of="IMAX20"),
        "IMAX20",
        "Share of symbols whose bar has the highest high of 20 bars",
        "market breadth, new highs",
    ),
    _own(
        "share_at_lows_20",
        partial(share_at_end, of="IMIN20"),
        "IMIN20",
        "Share of symbols whose bar has the lowest low of 20 bars",
        "market breadth, new lows",
    ),
    _own(
        "average_correlation_20",
        average_correlation,
        "volatility_20",
        "Variance of the market over the square of the mean volatility, 20 bars",
        "Pollet and Wilson (2010), average correlation",
        beside=("market_volatility_20",),
    ),
)
