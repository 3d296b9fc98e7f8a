"""The technical family: classic indicators, scale-free, equal to their usual definitions.

Each agrees with pandas-ta-classic (its plain path), or with the definition its ``source`` names;
``tests/oracles/pandas_ta_reference.py`` holds the reference in the same unit. Nothing is centred
or shifted into the past: no chikou span, no centred detrending. Left out are indicators whose
recursion reads a window of another recursion (QQE, the Schaff cycle): an incremental run could
not go on from their state.
"""

from __future__ import annotations

from features import (
    technical_averages,
    technical_momentum,
    technical_oscillators,
    technical_trend,
    technical_volatility,
    technical_volume,
)
from features.spec import Feature

FEATURES: tuple[Feature, ...] = (
    *technical_averages.FEATURES,
    *technical_trend.FEATURES,
    *technical_momentum.FEATURES,
    *technical_oscillators.FEATURES,
    *technical_volatility.FEATURES,
    *technical_volume.FEATURES,
)
