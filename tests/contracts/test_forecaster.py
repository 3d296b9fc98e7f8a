"""What every model family must hold. Adding a family to the registry adds it here."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest

from market.errors import ModelError
from models.dataset import Dataset, lines_of
from models.fit import FittedModel, fit_model, predict_rows
from models.registry import FAMILIES
from models.spec import Family, Forecaster, Labelled, Sample
from models.tracking import Tracker

NAMES = ("a", "b", "c", "d")
ROWS = 1500


def rows_with_a_relation(seed: int = 0, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, len(NAMES))).astype(np.float32)
    y = 0.8 * x[:, 0] - 0.5 * x[:, 1] + rng.standard_normal(rows)
    x[rng.random(x.shape) < 0.05] = np.nan
    return x, y


def keys_of(rows: int) -> pl.DataFrame:
    """Ten symbols, a row of each per day."""
    begin = dt.datetime(2024, 1, 2, 21, tzinfo=dt.UTC)
    ends = [begin + dt.timedelta(days=k // 10) for k in range(rows)]
    return pl.DataFrame(
        {
            "symbol": [f"S{k % 10}" for k in range(rows)],
            "session": [e.date() for e in ends],
            "bar_end": ends,
            "as_of": ends,
            "label_known_at": [e + dt.timedelta(days=1) for e in ends],
        }
    ).with_columns(pl.col("bar_end", "as_of", "label_known_at").cast(pl.Datetime("us", "UTC")))


def dataset(seed: int = 0, rows: int = ROWS) -> Dataset:
    x, y = rows_with_a_relation(seed, rows)
    keys = keys_of(rows)
    volatility = np.full(rows, 0.01)
    outcome = y * volatility
    return Dataset(
        keys, x, NAMES, y, volatility, volatility, outcome, outcome, lines_of(keys), steps=1
    )


def sample_of(x: np.ndarray) -> Sample:
    return Sample(x, np.arange(len(x)), lines_of(keys_of(len(x))))


def means(model: Forecaster, x: np.ndarray) -> np.ndarray:
    return model.predict(sample_of(x)).mean


def learn(family: Family, model: Forecaster, x, y, weight=None) -> None:
    weight = np.ones(len(y)) if weight is None else weight
    whole = Labelled(sample_of(x), y, weight, np.full(len(y), 0.2))
    if not family.stops_early:
        model.fit(whole)
        return
    cut = int(0.85 * len(y))

    def part(rows: np.ndarray) -> Labelled:
        return Labelled(whole.sample.take(rows), y[rows], weight[rows], whole.band[rows])

    model.fit(part(np.arange(cut)), part(np.arange(cut, len(y))))


@pytest.fixture(params=list(FAMILIES.values()), ids=list(FAMILIES))
def family(request) -> Family:
    return request.param


def train(family: Family) -> Forecaster:
    model = family.build(family.defaults, 3, None)
    x, y = rows_with_a_relation()
    learn(family, model, x, y)
    return model


@cache
def trained(name: str) -> Forecaster:
    """A model that several tests ask; none trains it further."""
    return train(FAMILIES[name])


def fitted(family: Family) -> FittedModel:
    data = dataset()
    return fit_model(data, np.arange(400), family, horizon="1d", seed=3, data_hash="h")


def test_it_is_a_forecaster(family: Family) -> None:
    assert isinstance(family.build(family.defaults, 0, None), Forecaster)


def test_it_learns_an_easy_relation(family: Family) -> None:
    model = trained(family.name)
    x, _ = rows_with_a_relation(seed=9)
    clean = np.nan_to_num(x)
    truth = 0.8 * clean[:, 0] - 0.5 * clean[:, 1]
    assert np.corrcoef(means(model, x), truth)[0, 1] > 0.8


def test_missing_features_are_accepted_and_are_not_zero(family: Family) -> None:
    """A shifted feature's typical value is far from zero: filling with zero would show."""
    x, y = rows_with_a_relation(rows=600)
    x = x + np.float32(50.0)
    model = family.build(family.defaults, 3, None)
    learn(family, model, x, y)
    blank = np.full((1, len(NAMES)), np.nan, dtype=np.float32)
    got = means(model, blank)
    assert np.isfinite(got).all()
    assert np.isfinite(model.contributions(sample_of(blank))).all()
    assert not np.array_equal(got, means(model, np.zeros_like(blank)))
    assert abs(float(got[0])) < 3.0
    half = x[:20].copy()
    half[:, 2:] = np.nan
    assert np.isfinite(means(model, half)).all()


def test_a_feature_that_is_always_missing_is_survived(family: Family) -> None:
    x, y = rows_with_a_relation(rows=600)
    x[:, 3] = np.nan
    model = family.build(family.defaults, 3, None)
    learn(family, model, x, y)
    assert np.isfinite(means(model, x)).all()


def test_one_seed_gives_one_model_to_the_bit(family: Family) -> None:
    x, _ = rows_with_a_relation(seed=9)
    assert means(train(family), x).tobytes() == means(trained(family.name), x).tobytes()


def test_rows_are_forecast_one_by_one_as_together(family: Family) -> None:
    model = trained(family.name)
    x, _ = rows_with_a_relation(seed=9)
    whole = sample_of(x)
    together = model.predict(whole.take(np.arange(300, 320))).mean
    alone = np.concatenate([model.predict(whole.take(np.array([k]))).mean for k in range(300, 320)])
    # Libraries sum float32 in an order that depends on the number of rows.
    assert together == pytest.approx(alone, abs=1e-6)
    assert together.dtype == np.float64
    assert together.shape == (20,)


def test_contributions_and_a_constant_add_up_to_the_forecast(family: Family) -> None:
    model = trained(family.name)
    x, _ = rows_with_a_relation(seed=9)
    shares = model.contributions(sample_of(x))
    assert shares.shape == x.shape
    constant = means(model, x) - shares.sum(axis=1)
    assert constant == pytest.approx(constant[0], abs=1e-5)
    assert np.abs(shares[:, 0]).mean() > np.abs(shares[:, 3]).mean()


def test_weights_count(family: Family) -> None:
    x, y = rows_with_a_relation(rows=800)
    model = family.build(family.defaults, 3, None)
    flipped = np.concatenate([y, -y])
    weight = np.concatenate([np.full(len(y), 1e-3), np.ones(len(y))])
    learn(family, model, np.concatenate([x, x]), flipped, weight)
    assert np.corrcoef(means(model, x), y)[0, 1] < -0.3


def test_a_model_that_learned_nothing_says_so(family: Family) -> None:
    model = family.build(family.defaults, 0, None)
    x, _ = rows_with_a_relation(rows=5)
    with pytest.raises(ModelError, match="has not learned anything"):
        means(model, x)
    with pytest.raises(ModelError, match="has not learned anything"):
        model.contributions(sample_of(x))


def test_a_stored_model_comes_back_to_the_bit(family: Family, tmp_path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))
    model = fitted(family)
    tracker.log_training("1d", [model], params={"p": 1}, metrics={"ic": 0.1}, tags={"t": "x"})
    (back,) = tracker.champions("1d", dt.datetime(2030, 1, 1, tzinfo=dt.UTC))
    x, _ = rows_with_a_relation(seed=9)
    assert means(back.forecaster, x).tobytes() == means(model.forecaster, x).tobytes()
    shares = back.forecaster.contributions(sample_of(x))
    assert shares.tobytes() == model.forecaster.contributions(sample_of(x)).tobytes()
    assert replace(back, forecaster=model.forecaster) == model
    data = dataset(seed=5, rows=1500)
    late = np.arange(1400, 1500)
    assert predict_rows(back, data, late, 5.0).equals(predict_rows(model, data, late, 5.0))


@pytest.mark.parametrize("labels", ["constant", "unknown", "few"])
def test_labels_from_which_nothing_can_be_learned_are_refused(family: Family, labels: str) -> None:
    data = dataset()
    y = data.y.copy()
    if labels == "constant":
        y[:] = 0.25
    else:
        y[(49 if labels == "few" else 0) :] = np.nan
    with pytest.raises(ModelError, match="cannot train"):
        fit_model(replace(data, y=y), np.arange(ROWS), family, horizon="1d", seed=1, data_hash="")


def test_defaults_are_plain_values_that_a_tag_can_carry(family: Family) -> None:
    assert all(type(v) in (int, float, str, bool) for v in family.defaults.values())
