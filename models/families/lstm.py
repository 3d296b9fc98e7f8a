"""LSTM: reads bars one after another, and remembers (Hochreiter and Schmidhuber, 1997)."""

from __future__ import annotations

from typing import Any

from models.families.neural_settings import COMMON
from models.spec import Family, Forecaster, Params

DEFAULTS: Params = {**COMMON, "layers": 1}


def build(params: Params, seed: int, native: Any = None) -> Forecaster:
    """See :class:`models.spec.Family`; loads PyTorch, which nothing does before."""
    from models.families.neural import NeuralForecaster

    return NeuralForecaster("lstm", params, seed, native)


FAMILY = Family(
    "lstm",
    "pytorch",
    build,
    DEFAULTS,
    needs_sequences=True,
    stops_early=True,
)
