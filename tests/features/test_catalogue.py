"""The catalogue says what the registry holds."""

from __future__ import annotations

from pathlib import Path

from features.catalogue import describe, render, summarise
from features.registry import FAMILIES, REGISTRY, find_feature

PAGE = Path(__file__).parents[2] / "docs" / "features.md"


def test_the_page_is_the_registry() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(FAMILIES), "python -m features.catalogue"


def test_every_feature_has_a_row_of_its_own() -> None:
    lines = render(FAMILIES).splitlines()
    for feature in REGISTRY:
        rows = [line for line in lines if line.startswith(f"| `{feature.name}` |")]
        assert len(rows) == 1, feature.name
        assert rows[0].count(" | ") - rows[0].count("\\|") == 3, feature.name


def test_names_are_unique_across_families() -> None:
    names = [f.name for family in FAMILIES.values() for f in family]
    assert len(set(names)) == len(names)
    # Two names that differ by capitals alone would be one column in SQL.
    assert len({n.lower() for n in names}) == len(names)


def test_a_feature_is_described_in_words() -> None:
    told = describe(find_feature("volatility_20"))
    assert told["first value after"] == "21 bars"
    assert told["reads"] == "close"
    assert told["reaches back to"] == "its lookback"
    assert summarise(find_feature("volatility_20"))["lookback_bars"] == 21
