"""The market regimes that labels, weights and signals are keyed by."""

from __future__ import annotations

from enum import StrEnum


class RegimeLabel(StrEnum):
    """The three states of the market."""

    BULL = "bull"
    BEAR = "bear"
    NEUTRAL = "neutral"
