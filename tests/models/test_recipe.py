"""The recipe: how a model is made and nothing that it was made from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import ModelError
from models.fit import fit_lesson, prepare
from models.recipe import challenger_engine, digest_recipe, recipe_of
from models.registry import FAMILIES
from tests.markets import dataset_of, market

numbers = st.integers(-1000, 1000) | st.floats(-1e6, 1e6)
values = numbers | st.booleans() | st.text(max_size=5)
names = st.text("abcdef_", min_size=1, max_size=6)
recipes = st.fixed_dictionaries(
    {
        "family": st.sampled_from(["linear", "xgboost"]),
        "horizon": st.sampled_from(["1d", "14d"]),
        "params": st.dictionaries(names, values, max_size=4),
        "feature_names": st.lists(names, min_size=1, max_size=4, unique=True),
        "rule": st.dictionaries(names, numbers, max_size=3),
    }
)


def turned(mapping: dict) -> dict:
    return dict(reversed(mapping.items()))


@given(recipes)
def test_order_of_settings_and_storage_do_not_count(recipe) -> None:
    wanted = digest_recipe(**recipe)
    assert len(wanted) == 12
    other = recipe | {"params": turned(recipe["params"]), "rule": turned(recipe["rule"])}
    assert digest_recipe(**other) == wanted
    assert digest_recipe(**json.loads(json.dumps(recipe))) == wanted
    floats = {k: float(v) if type(v) is int else v for k, v in recipe["params"].items()}
    assert digest_recipe(**recipe | {"params": floats}) == wanted


@given(recipes, recipes)
def test_two_recipes_are_equal_where_all_their_parts_are(a, b) -> None:
    def parts(recipe: dict) -> list:
        # True is no 1 here: a switch is another setting than a count.
        typed = {k: (type(v) is bool, v) for k, v in recipe["params"].items()}
        return [recipe["family"], recipe["horizon"], typed, recipe["feature_names"], recipe["rule"]]

    assert (digest_recipe(**a) == digest_recipe(**b)) == (parts(a) == parts(b))
    for name, part in b.items():
        mixed = a | {name: part}
        assert (digest_recipe(**mixed) == digest_recipe(**a)) == (parts(mixed) == parts(a))


@given(recipes.filter(lambda r: len(r["feature_names"]) > 1))
def test_the_order_of_features_counts(recipe) -> None:
    other = recipe | {"feature_names": recipe["feature_names"][::-1]}
    assert digest_recipe(**other) != digest_recipe(**recipe)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused(number: float) -> None:
    with pytest.raises(ModelError, match=r"alpha of a recipe is no number.*finite"):
        digest_recipe(
            family="linear",
            horizon="1d",
            params={"alpha": number},
            feature_names=("a",),
            rule={},
        )


def test_data_seed_and_dates_are_no_part_and_each_setting_is() -> None:
    data = dataset_of(market())

    def made(rows: int = 200, seed: int = 1, data_hash: str = "h", params=None, **rule):
        settings = {"horizon": "1d", "band_bps": 5.0, **rule}
        lesson = prepare(data, np.arange(rows), **settings)
        family = FAMILIES["linear"]
        return fit_lesson(lesson, family, seed=seed, data_hash=data_hash, params=params)

    base = recipe_of(made())
    assert recipe_of(made(rows=300, seed=2, data_hash="other")) == base
    defaults = FAMILIES["linear"].defaults
    others = [
        made(params={**defaults, next(iter(defaults)): 0.123}),
        made(band_bps=6.0),
        made(last_weight=0.5),
        made(max_train_sessions=60),
        made(horizon="14d"),
        replace(made(), feature_names=data.feature_names[:-1]),
        replace(made(), family=FAMILIES["xgboost"]),
    ]
    assert len({base, *(recipe_of(m) for m in others)}) == len(others) + 1


def test_a_challenger_has_an_engine_of_its_own() -> None:
    assert {challenger_engine(name) for name in FAMILIES}.isdisjoint(FAMILIES)
