"""Features of a longer bar, seen from shorter ones once the longer bar is over.

The bar that is still running is not used: its value changes until it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import polars as pl

from features import core
from features.side import SideTables
from features.spec import PANEL_KEYS, Feature, Scope, Stage
from market.schema import Bar
from market.timeframes import Timeframe

FAMILY = "longer_bars"
TIMEFRAMES = (Timeframe.H1, Timeframe.D1)
_NAMES = (
    *("return_1", "return_5", "volatility_20", "close_location"),
    *("volume_ratio", "rsi_14_cutler"),
)
INNER = tuple(f for f in core.FEATURES if f.name in _NAMES)
"""What is computed on the longer bars."""

_AS_OF = PANEL_KEYS[-1]


def _of_longer(
    side: SideTables, name: str, timeframe: Timeframe, inner: Callable[[Any], Any]
) -> pl.DataFrame | None:
    """Return a feature of longer bars; ``inner`` makes its definition a part of this one's."""
    bars = side.longer.get(timeframe)
    if bars is None or bars.is_empty():
        return None

    def make() -> pl.DataFrame:
        # The engine knows the registry, and so this family: it can be imported only when it runs.
        from features.compute import compute_features

        return compute_features(bars, INNER)

    made = side.shared((FAMILY, timeframe), make)
    return made.select(Bar.SYMBOL, pl.col(_AS_OF).alias(Bar.KNOWN_AT), pl.col(name).alias("value"))


FEATURES: tuple[Feature, ...] = tuple(
    Feature(
        f"{inner.name}_of_{timeframe.value}",
        partial(_of_longer, name=inner.name, timeframe=timeframe, inner=inner.compute),
        ("longer",),
        1,
        Stage.AS_OF,
        f"{inner.meaning}, of the last {timeframe.value} bar that is over",
        inner.source,
        family=FAMILY,
        scope=Scope.INTRADAY,
    )
    for timeframe in TIMEFRAMES
    for inner in INNER
)
