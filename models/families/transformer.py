"""Transformer: bars that attend to one another (Vaswani et al., 2017)."""

from __future__ import annotations

from typing import Any

from models.families.neural_settings import COMMON
from models.spec import Family, Forecaster, Params

DEFAULTS: Params = {**COMMON, "layers": 2, "heads": 2}


def build(params: Params, seed: int, native: Any = None) -> Forecaster:
    """See :class:`models.spec.Family`; loads PyTorch, which nothing does before."""
    from models.families.neural import NeuralForecaster

    return NeuralForecaster("transformer", params, seed, native)


FAMILY = Family(
    "transformer",
    "pytorch",
    build,
    DEFAULTS,
    needs_sequences=True,
    stops_early=True,
)
