"""What models of daily bars learn, by how many symbols there are."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from features.compute import compute_features
from features.labels import forward_returns
from features.neutral_labels import EXPOSURES, NEUTRAL_RETURN
from features.registry import CORE, select_features
from market.horizons import find_horizon
from market.synthetic import SyntheticSpec, generate
from models.dataset import EXCESS_RETURN
from pipelines import daily_recipe
from pipelines.settings import ModelSettings, Settings

NAMES = ["return_5", "body"]


@pytest.fixture(scope="module")
def bars():
    return generate(SyntheticSpec(symbols=12, sessions=90, minute_sessions=0)).daily


@pytest.fixture
def learned(bars, monkeypatch):
    monkeypatch.setattr(daily_recipe, "read_adjusted", lambda *_: bars)
    monkeypatch.setattr(daily_recipe, "by_company", lambda lake, rows, make: make(rows))

    def run(least, horizon="1d", drop=()):
        made = compute_features(bars, [*CORE, *select_features(["beta_60"])]).drop(drop)
        stores = SimpleNamespace(
            settings=Settings(models=ModelSettings(ranks_from_symbols=least)), lake=None
        )
        chosen = find_horizon(horizon)
        labels = forward_returns(bars, find_horizon("1d") if "m" in horizon else chosen)
        return daily_recipe.learned_from(stores, chosen, made.lazy(), labels, NAMES), labels

    return run


def test_many_symbols_are_set_against_one_another(learned):
    made, labels = learned(10)
    assert made.names == ["return_5@rank", "body@rank"]
    assert made.target == NEUTRAL_RETURN
    assert made.labels.drop(NEUTRAL_RETURN).equals(labels)
    by_session = made.labels.group_by("bar_end").agg(pl.col(NEUTRAL_RETURN).mean()).drop_nulls()
    # Where a return is clipped the rest does not add up to zero.
    assert np.median(np.abs(by_session[NEUTRAL_RETURN].to_numpy())) < 1e-12


def test_a_longer_horizon_learns_its_nested_labels_too(learned):
    short, long = learned(10, "1d")[0], learned(10, "7d")[0]
    assert long.target == NEUTRAL_RETURN
    both = short.labels.join(long.labels, on=["symbol", "bar_end"], suffix="_5").drop_nulls()
    assert pl.DataFrame(both).select(pl.corr(NEUTRAL_RETURN, f"{NEUTRAL_RETURN}_5")).item() > 0.4


@pytest.mark.parametrize(
    ("least", "horizon", "drop"),
    [(13, "1d", ()), (0, "1d", ()), (10, "5m", ()), (10, "1d", EXPOSURES[:1])],
)
def test_else_features_and_labels_stay_as_they_are(learned, least, horizon, drop):
    made, labels = learned(least, horizon, drop)
    assert made.names == NAMES
    assert made.target == EXCESS_RETURN
    assert made.labels is labels
