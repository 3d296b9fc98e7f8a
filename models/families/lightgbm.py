"""LightGBM: gradient-boosted trees grown leaf by leaf (Ke et al., 2017)."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np

from models.spec import Family, Forecast, Labelled, Params, Sample, Vector, not_fitted

# Returns are almost all noise: few leaves, large leaves, small steps. Hundreds of features are
# alike: a tree is given half of few, and no more than 64 of many.
DEFAULTS: Params = {
    "trees": 150,
    "learning_rate": 0.03,
    "num_leaves": 8,
    "min_data_in_leaf": 400,
    "feature_fraction": 0.5,
    "features_per_tree": 64,
    "bagging_fraction": 0.6,
    "lambda_l2": 50.0,
}


class LightGBMForecaster:
    """Regression on the standardised excess return."""

    def __init__(self, params: Params, seed: int, native: Any = None) -> None:
        given = dict(params)
        self._trees = int(given.pop("trees"))
        self._features = int(given.pop("features_per_tree"))
        self._params: dict[str, Any] = {
            "objective": "regression",
            "bagging_freq": 1,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
            **given,
        }
        self._booster: lgb.Booster | None = native

    def fit(self, train: Labelled, held: Labelled | None = None) -> None:
        """See :class:`models.spec.Forecaster`."""
        x, y, weight = train.sample.matrix(), train.y, train.weight
        # A leaf may not need more rows than a small training set can give to several of them.
        leaf = min(int(self._params["min_data_in_leaf"]), max(1, len(y) // 20))
        share = min(float(self._params["feature_fraction"]), self._features / x.shape[1])
        used = {**self._params, "min_data_in_leaf": leaf, "feature_fraction": share}
        # Where the values of a feature are split shows in a part of the rows as well.
        data = lgb.Dataset(
            x, y, weight=weight, params={"verbosity": -1, "bin_construct_sample_cnt": 20_000}
        )
        self._booster = lgb.train(used, data, self._trees)

    def predict(self, sample: Sample) -> Forecast:
        """See :class:`models.spec.Forecaster`."""
        if self._booster is None:
            raise not_fitted("lightgbm")
        return Forecast(np.asarray(self._booster.predict(sample.matrix()), dtype=np.float64))

    def contributions(self, sample: Sample) -> Vector:
        """See :class:`models.spec.Forecaster`; TreeSHAP (Lundberg et al., 2020)."""
        if self._booster is None:
            raise not_fitted("lightgbm")
        shares = np.asarray(
            self._booster.predict(sample.matrix(), pred_contrib=True), dtype=np.float64
        )
        return shares[:, :-1]

    def native(self) -> Any:
        """See :class:`models.spec.Forecaster`."""
        return self._booster


FAMILY = Family("lightgbm", "lightgbm", LightGBMForecaster, DEFAULTS)
