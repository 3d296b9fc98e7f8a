"""What moves forecasts: shares of absolute contributions."""

from __future__ import annotations

import numpy as np
import pytest

from models.importances import IMPORTANCE_SCHEMA, importance_table, newest_sample
from tests.markets import dataset_of, market
from tests.trainings import fitted


def test_shares_are_those_of_the_contributions() -> None:
    sample = newest_sample(dataset_of(market()), 40)
    models = fitted("linear", "lightgbm")
    table = importance_table(models, sample)
    assert table.schema == IMPORTANCE_SCHEMA
    for model in models:
        mine = table.filter(engine=model.family.name)
        shares = dict(mine.select("feature", "share").rows())
        size = np.abs(model.forecaster.contributions(sample)).sum(axis=0)
        for k, name in enumerate(model.feature_names):
            assert shares[name] == pytest.approx(size[k] / size.sum(), abs=1e-12)
        assert mine["rank"].to_list() == list(range(1, mine.height + 1))
        assert mine["share"].is_sorted(descending=True)


def test_the_sample_is_of_the_newest_rows() -> None:
    data = dataset_of(market())
    few, many = newest_sample(data, 20), newest_sample(data, 10 * len(data))
    assert len(few) == 20
    assert few.rows.min() >= 0.9 * len(data) - 1
    assert few.rows.max() == len(data) - 1
    assert many.rows.tolist() == list(range(len(data)))
