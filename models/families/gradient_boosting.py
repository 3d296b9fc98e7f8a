"""Gradient boosting on binned features, as scikit-learn has it (Friedman, 2001)."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from models.families.tree_paths import Tree, add_paths, fill_values
from models.spec import Family, Forecast, Labelled, Params, Sample, Vector, not_fitted

# Returns are almost all noise: few leaves, large leaves, small steps.
DEFAULTS: Params = {
    "max_iter": 120,
    "learning_rate": 0.03,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 400,
    "max_features": 0.5,
    "features_per_split": 64,
    "l2_regularization": 50.0,
    "max_bins": 63,
}


class GradientBoostingForecaster:
    """Regression on the standardised excess return."""

    def __init__(self, params: Params, seed: int, native: Any = None) -> None:
        self._params: dict[str, Any] = dict(params)
        self._features = int(self._params.pop("features_per_split"))
        self._seed = seed
        self._model: HistGradientBoostingRegressor | None = native

    def fit(self, train: Labelled, held: Labelled | None = None) -> None:
        """See :class:`models.spec.Forecaster`."""
        x = train.sample.matrix()
        # The library cannot bin a feature that is never there; a constant one is never asked.
        absent = np.isnan(x).all(axis=0)
        if absent.any():
            x = np.where(absent, np.float32(0.0), x)
        # A leaf may not need more rows than a small training set can give to several of them.
        leaf = min(int(self._params["min_samples_leaf"]), max(1, len(train) // 20))
        share = min(float(self._params["max_features"]), self._features / x.shape[1])
        given: dict[str, Any] = {**self._params, "min_samples_leaf": leaf, "max_features": share}
        # With weights the library sorts a feature once per bin, without them once.
        weight = None if np.ptp(train.weight) < 1e-9 else train.weight
        model: Any = HistGradientBoostingRegressor
        self._model = model(**given, early_stopping=False, random_state=self._seed).fit(
            x, train.y, sample_weight=weight
        )

    def predict(self, sample: Sample) -> Forecast:
        """See :class:`models.spec.Forecaster`."""
        return Forecast(np.asarray(self._fitted().predict(sample.matrix()), dtype=np.float64))

    def contributions(self, sample: Sample) -> Vector:
        """See :class:`models.spec.Forecaster`; what each split on the way moved."""
        x = np.ascontiguousarray(sample.matrix())
        out = np.zeros(x.shape)
        for tree in _trees(self._fitted()):
            add_paths(tree, x, out)
        return out

    def native(self) -> Any:
        """See :class:`models.spec.Forecaster`."""
        return self._model

    def _fitted(self) -> HistGradientBoostingRegressor:
        if self._model is None:
            raise not_fitted("gradient_boosting")
        return self._model


def _trees(model: HistGradientBoostingRegressor) -> list[Tree]:
    # The nodes are nowhere else to be had.
    predictors: Any = model._predictors  # pyright: ignore[reportPrivateUsage]
    return [_tree(predictor.nodes) for (predictor,) in predictors]


def _tree(nodes: Any) -> Tree:
    left, right = (nodes[n].astype(np.int64) for n in ("left", "right"))
    return Tree(
        feature=nodes["feature_idx"].astype(np.int64),
        threshold=nodes["num_threshold"].astype(np.float64),
        missing_left=nodes["missing_go_to_left"].astype(np.bool_),
        left=left,
        right=right,
        value=fill_values(left, right, nodes["count"].astype(np.float64), nodes["value"]),
    )


FAMILY = Family("gradient_boosting", "sklearn", GradientBoostingForecaster, DEFAULTS)
