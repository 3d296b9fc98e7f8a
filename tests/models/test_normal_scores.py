import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, rankdata

from features.compute import compute_features
from features.labels import forward_returns
from features.neutral_labels import NEUTRAL_RETURN
from market.errors import ModelError
from market.horizons import find_horizon
from market.synthetic import SyntheticSpec, generate
from models.dataset import assemble
from models.normal_scores import ranked, source_of, to_normal_scores

values = st.lists(st.floats(-1e6, 1e6, width=32) | st.just(float("nan")), min_size=1, max_size=40)


def by_scipy(column):
    out = np.full(len(column), np.nan)
    there = np.isfinite(column)
    if there.any():
        out[there] = norm.ppf((rankdata(column[there]) - 0.5) / there.sum())
    return out


@given(st.lists(values, min_size=1, max_size=5))
def test_scores_are_those_of_scipy_moment_by_moment(moments):
    column = np.concatenate([np.array(m, np.float32) for m in moments])
    offsets = np.cumsum([0, *map(len, moments)])
    wanted = np.concatenate([by_scipy(np.array(m, np.float32)) for m in moments])
    np.testing.assert_allclose(to_normal_scores(column, offsets), wanted, atol=1e-5)


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=40), st.sampled_from([0.25, 8.0]))
def test_only_the_order_counts(moment, scale):
    column, offsets = np.array(moment, np.float32), np.array([0, len(moment)])
    bent = (column * np.float32(scale)) ** 3
    np.testing.assert_array_equal(
        to_normal_scores(bent, offsets), to_normal_scores(column, offsets)
    )


def test_given_values_are_left_alone():
    column = np.array([3.0, 1.0, np.inf], np.float32)
    made = to_normal_scores(column, np.array([0, 3]))
    assert column.tolist() == [3.0, 1.0, np.inf]
    assert np.isnan(made[2])


@pytest.fixture(scope="module")
def market():
    bars = generate(SyntheticSpec(symbols=12, sessions=60, minute_sessions=0)).daily
    return compute_features(bars), forward_returns(bars, find_horizon("1d"))


def test_a_ranked_column_stands_beside_its_feature(market):
    features, labels = market
    names = ["return_5", *ranked(["return_5", "body"]), "body"]
    data = assemble(features.lazy(), labels, names, steps=1)
    assert data.feature_names == tuple(names)
    for k, name in ((1, "return_5"), (2, "body")):
        plain = data.x[:, names.index(source_of(name))]
        for session in data.keys["session"].unique():
            rows = (data.keys["session"] == session).to_numpy()
            np.testing.assert_allclose(data.x[rows, k], by_scipy(plain[rows]), atol=1e-5)


def test_one_session_alone_is_ranked_as_among_all(market):
    features, labels = market
    names = ranked(["return_5", "volatility_20"])
    whole = assemble(features, labels, names, steps=1)
    last = features["session"].max()
    alone = assemble(features.filter(pl.col("session") == last), labels, names, steps=1)
    rows = (whole.keys["session"] == last).to_numpy()
    np.testing.assert_array_equal(alone.x, whole.x[rows])


def test_a_feature_that_is_not_there_is_named_without_the_suffix(market):
    features, labels = market
    with pytest.raises(ModelError, match="nothing_5"):
        assemble(features, labels, ["nothing_5@rank"], steps=1)


def test_another_label_is_learned_and_the_excess_return_kept(market):
    features, labels = market
    other = labels.with_columns((-pl.col("excess_return")).alias(NEUTRAL_RETURN))
    plain = assemble(features, labels, ["return_5"], steps=1)
    made = assemble(features, other, ["return_5"], steps=1, target=NEUTRAL_RETURN)
    np.testing.assert_array_equal(made.y, -plain.y)
    np.testing.assert_array_equal(made.excess_return, plain.excess_return)
