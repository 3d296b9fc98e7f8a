"""Features and labels joined into the matrix that models learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from features.spec import PANEL_KEYS
from market.errors import ModelError
from models.spec import Matrix, Vector

VOLATILITY = "volatility_20"
_CLIP = 4.0


@dataclass(frozen=True)
class Dataset:
    """Rows that can be learned from or forecast, in order of time.

    Attributes
    ----------
    keys : pl.DataFrame
        ``symbol``, ``session``, ``bar_end``, ``as_of`` and ``label_known_at`` (null when the
        label is not known).
    x : (n, k) float32
        Features; NaN where one is missing.
    feature_names : tuple of str
        Names of the columns of ``x``.
    y : (n,) float64
        Excess return over the horizon in ``unit``, clipped to plus or minus 4; NaN when not
        known.
    volatility : (n,) float64
        Standard deviation of one bar's return, known at ``as_of``.
    unit : (n,) float64
        The same over the horizon.
    excess_return, forward_return : (n,) float64
        Fractions; NaN when not known.
    """

    keys: pl.DataFrame
    x: Matrix
    feature_names: tuple[str, ...]
    y: Vector
    volatility: Vector
    unit: Vector
    excess_return: Vector
    forward_return: Vector

    def __len__(self) -> int:
        return self.keys.height


def assemble(
    features: pl.DataFrame, labels: pl.DataFrame, names: Sequence[str], *, steps: int
) -> Dataset:
    """Join features and labels on (symbol, bar_end).

    Parameters
    ----------
    features : pl.DataFrame
        From :func:`features.compute.compute_features`.
    labels : pl.DataFrame
        From :func:`features.labels.forward_returns`; may lack rows.
    names : sequence of str
        Feature columns to learn from. ``volatility_20`` must be among ``features``: it scales
        the target.
    steps : int
        Length of the horizon in bars: volatility grows with its square root.

    Returns
    -------
    Dataset
        One row per feature row whose volatility is known, sorted by time, then symbol.

    Raises
    ------
    ModelError
        When a feature is not there, or no row is left.
    """
    missing = [n for n in (VOLATILITY, *names) if n not in features.columns]
    if missing:
        raise ModelError(
            "features that a model needs are not there",
            got=missing[:5],
            allowed=f"all of its {len(names)} features, and {VOLATILITY}",
            remedy="keep their families in features.families, or train again",
        )
    label = labels.select("symbol", "bar_end", "label_known_at", "forward_return", "excess_return")
    frame = (
        features.filter(pl.col(VOLATILITY) > 0)
        .join(label, on=["symbol", "bar_end"], how="left")
        .sort("bar_end", "symbol")
    )
    if frame.is_empty():
        raise ModelError(
            "no row has a known volatility",
            got=f"{features.height} feature rows",
            allowed="more bars per symbol than the longest lookback",
            remedy="ingest a longer history",
        )
    volatility = frame[VOLATILITY].cast(pl.Float64).to_numpy()
    unit = volatility * steps**0.5
    excess = _floats(frame["excess_return"])
    x = frame.select(pl.col(n).cast(pl.Float32).fill_null(float("nan")) for n in names).to_numpy()
    return Dataset(
        keys=frame.select(*PANEL_KEYS, "label_known_at"),
        x=np.ascontiguousarray(x, dtype=np.float32),
        feature_names=tuple(names),
        y=np.clip(excess / unit, -_CLIP, _CLIP),
        volatility=volatility,
        unit=unit,
        excess_return=excess,
        forward_return=_floats(frame["forward_return"]),
    )


def _floats(column: pl.Series) -> Vector:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
