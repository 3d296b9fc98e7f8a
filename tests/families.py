"""The model families with settings under which a test is quick."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from market.horizons import Horizon
from models.ensemble import META_ENGINE
from models.spec import Family

_FEW = {"trees": 15, "window": 5, "hidden": 8, "epochs": 3, "steps": 6_144}


def quick(families: Iterable[Family], **instead: float) -> tuple[Family, ...]:
    """Return the families with few trees, small networks and little practice, or as named."""
    values = _FEW | instead
    return tuple(
        replace(f, defaults={k: values.get(k, v) for k, v in f.defaults.items()}) for f in families
    )


def engines_of(horizon: Horizon) -> tuple[str, ...]:
    """Return the names of the engines below a horizon's ensemble, sorted."""
    return tuple(sorted([*horizon.families, META_ENGINE] if horizon.stacked else horizon.families))
