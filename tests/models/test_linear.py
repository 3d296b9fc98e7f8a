"""The linear family: the same model whatever threads the linear algebra library has."""

from __future__ import annotations

import numpy as np
from sklearn.impute import SimpleImputer
from threadpoolctl import threadpool_limits

from models.registry import FAMILIES
from models.spec import Labelled, Sample, Vector


def forecasts(threads: int) -> Vector:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 510), dtype=np.float32)
    y, weight = rng.standard_normal(2000), 1.0 + rng.random(2000)
    family = FAMILIES["linear"]
    model = family.build(family.defaults, 1, None)
    with threadpool_limits(threads, "blas"):
        model.fit(Labelled(Sample.of(x), y, weight, np.zeros(2000), 1))
    return model.predict(Sample.of(x[:50])).mean


def test_missing_values_take_the_median_as_the_library_reckons_it() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((501, 6), dtype=np.float32)
    x[rng.random(x.shape) < 0.3] = np.nan
    x[:, 4], x[1:, 5] = np.nan, np.nan
    model = FAMILIES["linear"].build(FAMILIES["linear"].defaults, 1, None)
    model.fit(Labelled(Sample.of(x), rng.standard_normal(501), np.ones(501), np.zeros(501), 1))
    ours = model.native()["impute"]
    theirs = SimpleImputer(strategy="median", keep_empty_features=True).fit(x)
    assert np.array_equal(ours.statistics_, theirs.statistics_)
    assert np.array_equal(ours.transform(x), theirs.transform(x))


def test_threads_change_no_bit() -> None:
    assert np.array_equal(forecasts(1), forecasts(2))
