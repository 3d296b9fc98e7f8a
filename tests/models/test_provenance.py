"""The hash of the features that models learn from."""

from __future__ import annotations

import pytest

from market.errors import ModelError
from models.provenance import feature_hash

DEFINITIONS = {"a": "1", "b": "2", "c": "3"}


def test_it_changes_with_names_definitions_and_order_alone() -> None:
    known = feature_hash(DEFINITIONS, ["a", "b"])
    assert known == feature_hash({"b": "2", "a": "1"}, ["a", "b"])
    others = (
        feature_hash(DEFINITIONS, ["b", "a"]),
        feature_hash(DEFINITIONS | {"a": "9"}, ["a", "b"]),
        feature_hash(DEFINITIONS, ["a", "b", "c"]),
        feature_hash({"a": "12", "b": ""}, ["a", "b"]),
    )
    assert len({known, *others}) == 5


def test_a_rank_counts_by_its_name_and_its_feature() -> None:
    ranks = feature_hash(DEFINITIONS, ["a@rank", "b"])
    assert ranks != feature_hash(DEFINITIONS, ["a", "b"])
    assert ranks != feature_hash(DEFINITIONS | {"a": "9"}, ["a@rank", "b"])


def test_a_feature_without_definition_is_refused() -> None:
    with pytest.raises(ModelError, match=r"without a definition.*d"):
        feature_hash(DEFINITIONS, ["a", "d"])
