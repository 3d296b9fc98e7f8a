"""The model families. Adding one is a file under ``families/`` and a line here."""

from __future__ import annotations

from market.errors import ModelError
from market.horizons import Horizon
from models.families import cnn, lightgbm, linear, lstm, transformer, xgboost
from models.spec import Family

FAMILIES: dict[str, Family] = {
    f.name: f
    for f in (
        xgboost.FAMILY,
        lightgbm.FAMILY,
        linear.FAMILY,
        lstm.FAMILY,
        cnn.FAMILY,
        transformer.FAMILY,
    )
}
_EVERYWHERE = ("xgboost", "lightgbm")


def find_family(name: str) -> Family:
    """Return a family by name, or say which there are."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise ModelError(
            "unknown model family",
            got=name,
            allowed=", ".join(FAMILIES),
            remedy="choose one of these",
        ) from None


def families_of(horizon: Horizon) -> tuple[Family, ...]:
    """Return the families that serve a horizon.

    Those of its row in the horizons table that are registered, and the two tree families, which
    stand in wherever a row's own families are not all there.
    """
    names = [n for n in horizon.families if n in FAMILIES]
    if len(names) < len(horizon.families):
        names += [n for n in _EVERYWHERE if n not in names]
    return tuple(FAMILIES[n] for n in names)
