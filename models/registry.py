"""The model families. Adding one is a file under ``families/`` and a line here."""

from __future__ import annotations

from market.errors import ModelError
from market.horizons import Horizon
from market.near_names import did_you_mean
from models.families import (
    cnn,
    gradient_boosting,
    lightgbm,
    linear,
    lstm,
    policy,
    random_forest,
    transformer,
    xgboost,
)
from models.spec import Family

FAMILIES: dict[str, Family] = {
    f.name: f
    for f in (
        xgboost.FAMILY,
        lightgbm.FAMILY,
        gradient_boosting.FAMILY,
        random_forest.FAMILY,
        linear.FAMILY,
        lstm.FAMILY,
        cnn.FAMILY,
        transformer.FAMILY,
        policy.FAMILY,
    )
}


def find_family(name: str) -> Family:
    """Return a family by name, or say which there are."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise ModelError(
            "unknown model family",
            got=name,
            allowed=", ".join(FAMILIES),
            remedy=did_you_mean(name, FAMILIES, "choose one of these"),
        ) from None


def families_of(horizon: Horizon) -> tuple[Family, ...]:
    """Return the families that serve a horizon: those of its row in the horizons table."""
    return tuple(find_family(n) for n in horizon.families)
