"""The model families with settings under which a test is quick."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from models.spec import Family

_FEW = {"trees": 15, "window": 5, "hidden": 8, "epochs": 3}


def quick(families: Iterable[Family], **instead: float) -> tuple[Family, ...]:
    """Return the families with few trees and small networks, or with what is named instead."""
    values = _FEW | instead
    return tuple(
        replace(f, defaults={k: values.get(k, v) for k, v in f.defaults.items()}) for f in families
    )
