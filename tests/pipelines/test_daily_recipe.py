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
from models.fit import NEUTRAL
from pipelines import daily_recipe
from pipelines.recipes import wanted_recipes
from pipelines.settings import ModelSettings, Settings


@pytest.fixture(scope="module")
def bars():
    return generate(SyntheticSpec(symbols=12, sessions=90, minute_sessions=0)).daily


@pytest.fixture
def learned(bars, monkeypatch):
    monkeypatch.setattr(daily_recipe, "read_adjusted", lambda *_: bars)
    monkeypatch.setattr(daily_recipe, "by_company", lambda lake, rows, make: make(rows))

    def run(horizon="1d"):
        labels = forward_returns(bars, find_horizon(horizon))
        stores = SimpleNamespace(settings=Settings(), lake=None)
        chosen = find_horizon(horizon)
        return daily_recipe.neutral_labels(stores, chosen, features(bars), labels), labels

    return run


def features(bars) -> pl.LazyFrame:
    return compute_features(bars, [*CORE, *select_features(["beta_60"])]).lazy()


def settings(least: int) -> Settings:
    return Settings(models=ModelSettings(ranks_from_symbols=least))


def test_neutral_labels_are_beside_the_others_and_add_up_to_nothing(learned):
    made, labels = learned()
    assert made.drop(NEUTRAL_RETURN).equals(labels)
    by_session = made.group_by("bar_end").agg(pl.col(NEUTRAL_RETURN).mean()).drop_nulls()
    # Where a return is clipped the rest does not add up to zero.
    assert np.median(np.abs(by_session[NEUTRAL_RETURN].to_numpy())) < 1e-12


def test_a_longer_horizon_learns_its_nested_labels_too(learned):
    short, long = learned("1d")[0], learned("7d")[0]
    both = short.join(long, on=["symbol", "bar_end"], suffix="_5").drop_nulls()
    assert both.select(pl.corr(NEUTRAL_RETURN, f"{NEUTRAL_RETURN}_5")).item() > 0.4


@pytest.mark.parametrize(
    ("least", "horizon", "drop", "ranks"),
    [
        (12, "1d", (), True),
        (12, "1M", (), True),
        (13, "1d", (), False),
        (0, "1d", (), False),
        (10, "5m", (), False),
        (10, "1d", EXPOSURES[:1], False),
    ],
)
def test_many_symbols_of_daily_bars_are_set_against_one_another(bars, least, horizon, drop, ranks):
    table = features(bars).drop(drop)
    assert daily_recipe.learns_ranks(settings(least), find_horizon(horizon), table) is ranks


def test_a_recipe_of_ranks_names_them_and_its_label():
    chosen = find_horizon("1d")
    plain, ranks = (wanted_recipes(settings(1), chosen, ranks=r) for r in (False, True))
    for before, after in zip(plain, ranks, strict=True):
        assert after.feature_names == tuple(f"{n}@rank" for n in before.feature_names)
        assert dict(after.rule) == {**before.rule, NEUTRAL: 1.0}
        assert NEUTRAL not in before.rule
