"""The contract that every model family keeps, and what a family declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from market.errors import ModelError

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Params = Mapping[str, float | int | str | bool]


@dataclass(frozen=True, slots=True)
class Lines:
    """Where the earlier bars of each row of a matrix are.

    Attributes
    ----------
    order : (m,) int64
        Rows symbol by symbol, each in order of time.
    place : (m,) int64
        Where each row stands in ``order``.
    first : (m,) int64
        Where its symbol begins in ``order``.
    session : (m,) int64
        Number of each row's session in the calendar.
    reach_sessions : int
        Earlier bars further back than this are taken as missing, so that a run that reads the
        newest sessions alone sees what a run over all of history sees.
    """

    order: Indices
    place: Indices
    first: Indices
    session: Indices
    reach_sessions: int

    def windows(self, rows: Indices, bars: int) -> Indices:
        """Return the rows of the last ``bars`` bars up to each row, oldest first; -1: missing.

        Examples
        --------
        >>> at = np.arange(4)
        >>> lines = Lines(at, at, np.array([0, 0, 2, 2]), np.array([0, 1, 0, 1]), 5)
        >>> lines.windows(np.array([1, 2]), 2).tolist()
        [[0, 1], [-1, 2]]
        """
        at = self.place[rows][:, None] - np.arange(bars - 1, -1, -1)
        found = self.order[np.maximum(at, 0)]
        there = at >= self.first[rows][:, None]
        near = self.session[rows][:, None] - self.session[found] <= self.reach_sessions
        return np.where(there & near, found, -1)


@dataclass(frozen=True, slots=True)
class Sample:
    """Some rows of a matrix of features, and where their earlier bars are.

    Nothing is copied until :meth:`matrix` or :meth:`windows` is called.

    Attributes
    ----------
    x : (m, k) float32
        Every row; NaN where a feature is missing.
    rows : (n,) int64
        The rows that are meant.
    lines : Lines or None
        ``None``: no row has earlier bars.
    """

    x: Matrix = field(repr=False)
    rows: Indices
    lines: Lines | None = None

    @staticmethod
    def of(x: Matrix) -> Sample:
        """Return all rows of a matrix, each without earlier bars."""
        return Sample(x, np.arange(len(x)))

    def __len__(self) -> int:
        return len(self.rows)

    def matrix(self) -> Matrix:
        """Return the rows, (n, k); a view where they lie side by side."""
        if not len(self.rows):
            return self.x[:0]
        begin, end = int(self.rows[0]), int(self.rows[-1]) + 1
        if end - begin == len(self.rows) and (np.diff(self.rows) == 1).all():
            return self.x[begin:end]
        return self.x[self.rows]

    def windows(self, bars: int) -> Indices:
        """Return, for each row, the rows of ``x`` of its last bars, (n, bars); -1: missing."""
        if self.lines is None:
            alone = np.full((len(self.rows), bars), -1)
            alone[:, -1] = self.rows
            return alone
        return self.lines.windows(self.rows, bars)

    def take(self, places: Indices) -> Sample:
        """Return some of the rows."""
        return Sample(self.x, self.rows[places], self.lines)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A sample with what came of it.

    Attributes
    ----------
    sample : Sample
        n rows, in order of time.
    y : (n,) float64
        Excess return over the horizon, in units of its volatility.
    weight : (n,) float64
        How much each row counts; 1 on average.
    band : (n,) float64
        Half the width of the neutral band in the same units: what a round trip costs.
    steps : int
        Bars that a label spans.
    """

    sample: Sample
    y: Vector
    weight: Vector
    band: Vector
    steps: int = 1

    def __len__(self) -> int:
        return len(self.y)

    @property
    def classes(self) -> Indices:
        """Which class each row turned out to be: 0 short, 1 neutral, 2 long."""
        return 1 + (self.y > self.band).astype(np.int64) - (self.y < -self.band)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a model expects of each row.

    Attributes
    ----------
    mean : (n,) float64
        Expected excess return, in units of its volatility.
    spread : (n,) float64 or None
        Standard deviation of the outcome around it; ``None``: that of the model's training.
    classes : (n, 3) float64 or None
        Probabilities of short, neutral and long, where a model gives them by itself; else they
        follow from mean and spread.
    """

    mean: Vector
    spread: Vector | None = None
    classes: Vector | None = None


@runtime_checkable
class Forecaster(Protocol):
    """A model of one family.

    Contract (``tests/contracts/test_forecaster.py``): rows with missing features are
    accepted and never silently filled by zero; fitting twice with one seed gives the same
    forecasts; a model rebuilt from its native form forecasts the same to the bit; rows are
    forecast one by one as together.
    """

    def fit(self, train: Labelled, held: Labelled | None = None) -> None:
        """Learn.

        Parameters
        ----------
        train : Labelled
            What to learn from.
        held : Labelled, optional
            Later rows, purged from the first, on which a family that stops early decides when;
            given to such families alone, and to them always.
        """
        ...

    def predict(self, sample: Sample) -> Forecast:
        """Return what is expected of each row."""
        ...

    def contributions(self, sample: Sample) -> Vector:
        """Return each feature's signed share of each mean, (n, k), in the same units.

        Together with a constant they add up to the mean.
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
        Whether it reads windows of bars instead of rows; their length is its parameter ``window``.
    stops_early : bool
        Whether the newest training rows are held back to decide when to stop.
    """

    name: str
    flavour: str
    build: Callable[[Params, int, Any], Forecaster]
    defaults: Params
    needs_sequences: bool = False
    stops_early: bool = False


def window_of(params: Params) -> int:
    """Return how many bars, the current one included, a model with these parameters reads."""
    return int(params.get("window", 1))


def not_fitted(family: str) -> ModelError:
    """Return the error of a model that is used before it was fitted or loaded."""
    return ModelError(
        f"the {family} model has not learned anything",
        allowed="a fitted or loaded model",
        remedy="call fit first, or load a champion",
    )
