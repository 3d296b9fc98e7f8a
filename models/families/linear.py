"""Ridge regression: the plain member that is often hard to beat on returns (Hoerl, 1970)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import RobustScaler
from threadpoolctl import threadpool_limits

from models.spec import Family, Forecast, Labelled, Matrix, Params, Sample, Vector, not_fitted

# The penalty is per row, so that one value serves training sets of every size.
DEFAULTS: Params = {"penalty_per_row": 0.02, "clip": 3.0}
_SCALER_ROWS = 50_000


class LinearForecaster:
    """Ridge on robustly scaled, clipped features; missing values take the training median."""

    def __init__(self, params: Params, seed: int, native: Any = None) -> None:
        self._penalty = float(params["penalty_per_row"])
        self._clip = float(params["clip"])
        self._pipeline: Pipeline | None = native

    def fit(self, train: Labelled, held: Labelled | None = None) -> None:
        """See :class:`models.spec.Forecaster`."""
        x, y, weight = train.sample.matrix(), train.y, train.weight
        scaler = Pipeline(
            [
                ("impute", SimpleImputer(strategy="median", keep_empty_features=True)),
                ("scale", RobustScaler()),
            ]
        )
        # Medians and quartiles show in a part of the rows, and sorting all of them takes longer
        # than the regression.
        part = x[:: -(-len(x) // _SCALER_ROWS)]
        # The imputer's own way to a median, through masked arrays, takes four times as long:
        # it is shown the medians, and the median of one row is that row.
        scaler[0].fit(_medians(part))
        scaler[1].fit(scaler[0].transform(part))
        scaled = np.clip(scaler.transform(x), -self._clip, self._clip)
        # Sums that threads share among themselves end in other digits from process to process.
        with threadpool_limits(1, "blas"):
            ridge = Ridge(alpha=self._penalty * len(y)).fit(scaled, y, sample_weight=weight)
        self._pipeline = Pipeline([*scaler.steps, ("ridge", ridge)])

    def predict(self, sample: Sample) -> Forecast:
        """See :class:`models.spec.Forecaster`."""
        ridge, scaled = self._parts(sample.matrix())
        # Row by row: a matrix product rounds a row differently in another company of rows.
        mean = (scaled * ridge.coef_).sum(axis=1) + ridge.intercept_
        return Forecast(np.asarray(mean, dtype=np.float64))

    def contributions(self, sample: Sample) -> Vector:
        """See :class:`models.spec.Forecaster`; coefficient times scaled feature."""
        ridge, scaled = self._parts(sample.matrix())
        return np.asarray(scaled * ridge.coef_, dtype=np.float64)

    def _parts(self, x: Matrix) -> tuple[Ridge, Vector]:
        if self._pipeline is None:
            raise not_fitted("linear")
        scaled = self._pipeline[:-1].transform(x)
        ridge: Any = self._pipeline[-1]
        return ridge, np.clip(scaled, -self._clip, self._clip)

    def native(self) -> Any:
        """See :class:`models.spec.Forecaster`."""
        return self._pipeline


def _medians(x: Matrix) -> Matrix:
    """Return one row: each column's median, NaN where it has no value."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.nanmedian(x, axis=0, keepdims=True)


FAMILY = Family("linear", "sklearn", LinearForecaster, DEFAULTS)
