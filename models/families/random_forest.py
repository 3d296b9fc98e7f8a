"""Random forest: the mean of trees grown on resamples of the rows (Breiman, 2001)."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestRegressor

from models.families.tree_paths import Tree, add_paths
from models.spec import Family, Forecast, Labelled, Params, Sample, Vector, not_fitted

# Few rows for each tree: they then differ from one another, and their mean is what counts.
DEFAULTS: Params = {
    "n_estimators": 120,
    "max_depth": 6,
    "min_samples_leaf": 100,
    "max_features": 0.15,
    "features_per_split": 24,
    "rows_per_tree": 12_000,
}


class RandomForestForecaster:
    """Regression on the standardised excess return."""

    def __init__(self, params: Params, seed: int, native: Any = None) -> None:
        self._params: dict[str, Any] = dict(params)
        self._features = int(self._params.pop("features_per_split"))
        self._rows = int(self._params.pop("rows_per_tree"))
        self._seed = seed
        self._model: RandomForestRegressor | None = native

    def fit(self, train: Labelled, held: Labelled | None = None) -> None:
        """See :class:`models.spec.Forecaster`."""
        x, rows = train.sample.matrix(), min(self._rows, len(train))
        leaf = min(int(self._params["min_samples_leaf"]), max(1, rows // 20))
        features = max(1, round(float(self._params["max_features"]) * x.shape[1]))
        given: dict[str, Any] = {
            **self._params,
            "min_samples_leaf": leaf,
            "max_features": max(min(features, self._features), min(2, x.shape[1])),
        }
        model = RandomForestRegressor(**given, max_samples=rows, n_jobs=-1, random_state=self._seed)
        self._model = model.fit(x, train.y, sample_weight=train.weight)

    def predict(self, sample: Sample) -> Forecast:
        """See :class:`models.spec.Forecaster`."""
        x = sample.matrix()
        # Summed tree by tree in their order: threads of the library's own sum would not be.
        total = np.zeros(len(x))
        for tree in self._fitted().estimators_:
            total += tree.tree_.predict(x)[:, 0]
        return Forecast(total / len(self._fitted().estimators_))

    def contributions(self, sample: Sample) -> Vector:
        """See :class:`models.spec.Forecaster`; what each split on the way moved."""
        x = np.ascontiguousarray(sample.matrix())
        out = np.zeros(x.shape)
        trees = self._fitted().estimators_
        for tree in trees:
            add_paths(_tree(tree.tree_), x, out)
        return out / len(trees)

    def native(self) -> Any:
        """See :class:`models.spec.Forecaster`."""
        return self._model

    def _fitted(self) -> RandomForestRegressor:
        if self._model is None:
            raise not_fitted("random_forest")
        return self._model


def _tree(tree: Any) -> Tree:
    # In a leaf both children are -1.
    left, right = (
        np.maximum(c, 0).astype(np.int64) for c in (tree.children_left, tree.children_right)
    )
    return Tree(
        feature=tree.feature.astype(np.int64),
        threshold=tree.threshold.astype(np.float64),
        missing_left=tree.missing_go_to_left.astype(np.bool_),
        left=left,
        right=right,
        value=tree.value[:, 0, 0].astype(np.float64),
    )


FAMILY = Family("random_forest", "sklearn", RandomForestForecaster, DEFAULTS)
