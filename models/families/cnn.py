"""CNN: causal dilated convolutions over bars (Bai, Kolter and Koltun, 2018)."""

from __future__ import annotations

from typing import Any

from models.families.neural_settings import COMMON
from models.spec import Family, Forecaster, Params

DEFAULTS: Params = {**COMMON, "kernel": 3}


def build(params: Params, seed: int, native: Any = None) -> Forecaster:
    """See :class:`models.spec.Family`; loads PyTorch, which nothing does before."""
    from models.families.neural import NeuralForecaster

    return NeuralForecaster("cnn", params, seed, native)


FAMILY = Family(
    "cnn",
    "pytorch",
    build,
    DEFAULTS,
    needs_sequences=True,
    stops_early=True,
)
