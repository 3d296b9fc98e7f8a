"""The linear family: the same model whatever threads the linear algebra library has."""

from __future__ import annotations

import numpy as np
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


def test_threads_change_no_bit() -> None:
    assert np.array_equal(forecasts(1), forecasts(2))
