"""XGBoost: gradient-boosted trees grown level by level (Chen and Guestrin, 2016)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost as xgb

from models.spec import Family, Forecast, Labelled, Params, Sample, Vector, not_fitted

# Returns are almost all noise: shallow trees, heavy leaves, small steps. Hundreds of features are
# alike: a tree is given half of few, and no more than 64 of many.
DEFAULTS: Params = {
    "trees": 150,
    "eta": 0.03,
    "max_depth": 3,
    "min_child_weight": 400,
    "subsample": 0.6,
    "colsample_bytree": 0.5,
    "features_per_tree": 64,
    "lambda": 50.0,
}


class XGBoostForecaster:
    """Regression on the standardised excess return."""

    def __init__(self, params: Params, seed: int, native: Any = None) -> None:
        given = dict(params)
        self._trees = int(given.pop("trees"))
        self._features = int(given.pop("features_per_tree"))
        self._params: dict[str, Any] = {
            "objective": "reg:squarederror",
            "tree_method": "hist",
            "seed": seed,
            "verbosity": 0,
            **given,
        }
        self._booster: xgb.Booster | None = native

    def fit(self, train: Labelled, held: Labelled | None = None) -> None:
        """See :class:`models.spec.Forecaster`."""
        x, y, weight = train.sample.matrix(), train.y, train.weight
        leaf = min(float(self._params["min_child_weight"]), max(1.0, len(y) / 20))
        share = min(float(self._params["colsample_bytree"]), self._features / x.shape[1])
        used = {**self._params, "min_child_weight": leaf, "colsample_bytree": share}
        data = xgb.QuantileDMatrix(x, y, weight=weight)
        self._booster = xgb.train(used, data, self._trees)

    def predict(self, sample: Sample) -> Forecast:
        """See :class:`models.spec.Forecaster`."""
        if self._booster is None:
            raise not_fitted("xgboost")
        return Forecast(self._booster.inplace_predict(sample.matrix()).astype(np.float64))

    def contributions(self, sample: Sample) -> Vector:
        """See :class:`models.spec.Forecaster`; TreeSHAP (Lundberg et al., 2020)."""
        if self._booster is None:
            raise not_fitted("xgboost")
        shares = self._booster.predict(xgb.DMatrix(sample.matrix()), pred_contribs=True)
        return np.asarray(shares, dtype=np.float64)[:, :-1]

    def native(self) -> Any:
        """See :class:`models.spec.Forecaster`."""
        return self._booster


FAMILY = Family("xgboost", "xgboost", XGBoostForecaster, DEFAULTS)
