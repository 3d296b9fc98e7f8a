"""The contract that every model family keeps, and what a family declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from market.errors import ModelError

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
Params = Mapping[str, float | int | str | bool]


@runtime_checkable
class Forecaster(Protocol):
    """A model of one family.

    Contract (``tests/contracts/test_forecaster.py``): rows with missing features are
    accepted and never silently filled by zero; fitting twice with one seed gives the same
    forecasts; a model rebuilt from its native form forecasts the same to the bit.
    """

    def fit(self, x: Matrix, y: Vector, weight: Vector) -> None:
        """Learn from rows ``x`` (n, k), targets ``y`` (n,) and sample weights (n,)."""
        ...

    def predict(self, x: Matrix) -> Vector:
        """Return the expected target of each row, (n,)."""
        ...

    def contributions(self, x: Matrix) -> Vector:
        """Return each feature's signed share of each forecast, (n, k), in target units.

        Together with a constant they add up to the forecast.
        """
        ...

    def native(self) -> Any:
        """Return the library's own object, which tracking stores in its native flavour."""
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """A model family: how to build and rebuild it, and what it needs.

    Attributes
    ----------
    name : str
        As in the horizons table.
    flavour : str
        MLflow flavour in which its models are stored.
    build : callable
        ``(params, seed, native)`` to a forecaster; ``native`` is ``None`` for a new one, else what
        :meth:`Forecaster.native` returned.
    defaults : mapping
        Parameters used where tuning has said nothing.
    needs_sequences : bool
        Whether it reads windows of bars instead of rows.
    wants_gpu : bool
        Whether a GPU pays.
    stops_early : bool
        Whether it holds back the newest training rows to decide when to stop.
    """

    name: str
    flavour: str
    build: Callable[[Params, int, Any], Forecaster]
    defaults: Params
    needs_sequences: bool = False
    wants_gpu: bool = False
    stops_early: bool = False


def not_fitted(family: str) -> ModelError:
    """Return the error of a model that is used before it was fitted or loaded."""
    return ModelError(
        f"the {family} model has not learned anything",
        allowed="a fitted or loaded model",
        remedy="call fit first, or load a champion",
    )
