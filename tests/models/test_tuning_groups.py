"""Groups of features are chosen among by a search, and never all left out."""

from __future__ import annotations

from typing import Any

import pytest

from market.errors import ModelError
from models.tuning import Budget
from tests.models.planted import NAMES, blend_family, search


def test_groups_of_features_are_chosen_and_never_all_left_out() -> None:
    groups = {"good": ["signal"], "bad": ["noise"], "ugly": ["other"]}
    found = search(family=blend_family(mix=0.5), select_groups=groups, budget=Budget(trials=20))
    assert found.defaults.features == NAMES
    assert "row" in found.best.features
    assert "signal" in found.best.features
    entry = found.settings()["models"]["tuned"]["1d"]["blend"]
    if len(found.chosen.features) < len(NAMES):
        assert entry["features"] == list(found.chosen.features)


def test_no_trial_is_left_without_a_group() -> None:
    """Forty choices, of which a coin would leave ten empty; features of no group always stay."""
    groups = {"b": ["other", "noise"], "a": ["signal"]}
    sizes = [search(select_groups=groups, seed=s, budget=Budget(trials=10)) for s in range(4)]
    assert {n for found in sizes for n in found.trials["features"]} == {2, 3, 4}
    for found in sizes:
        assert found.best.features in (NAMES, ("signal", "row"), ("noise", "other", "row"))


@pytest.mark.parametrize(
    "groups", [{"a": ["signal"]}, {"a": ["signal"], "b": []}, {"a": ["signal"], "b": ["nothing"]}]
)
def test_groups_that_leave_nothing_to_choose_are_refused(groups: Any) -> None:
    with pytest.raises(ModelError, match="groups of features"):
        search(select_groups=groups)
