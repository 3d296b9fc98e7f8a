"""Features that set a symbol against all others at the same moment: the second pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from features import core
from features.kernels import Values
from features.panel import Panel
from features.spec import Feature, Stage

_BY_NAME = {f.name: f for f in core.FEATURES}


def zscore(p: Panel, of: str) -> Values:
    """Return a feature's distance from the mean of all symbols in standard deviations."""
    return p.group_zscore(p[of])


def rank(p: Panel, of: str) -> Values:
    """Return a feature's rank among all symbols, -0.5 to 0.5."""
    return p.group_rank(p[of]) - 0.5


def dispersion(p: Panel) -> Values:
    """Return the standard deviation of returns across symbols."""
    return p.group_moments(p["return_1"])[1]


def breadth(p: Panel) -> Values:
    """Return the share of symbols above their 20-bar average."""
    gap = p["sma_gap_20"]
    above = np.where(np.isfinite(gap), (gap > 0).astype(np.float64), np.nan)
    return p.group_moments(above)[0]


def _cross(
    name: str, compute: Callable[[Panel], Values], of: str, meaning: str, source: str
) -> Feature:
    return Feature(
        name,
        compute,
        (of,),
        _BY_NAME[of].lookback,
        Stage.CROSS_SECTION,
        meaning,
        source,
        family=core.FAMILY,
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
