"""What a study of parameters belongs to: a trial of one search says nothing about another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import orjson

from models.dataset import Dataset
from models.inner_windows import InnerWindows, Judge
from models.search_spaces import Space, declared_ranges

Groups = Mapping[str, Sequence[str]]


def identify(judge: Judge, space: Space, groups: Groups, windows: InnerWindows) -> dict[str, str]:
    """Return a digest of each thing that a trial's value depends on.

    Parameters
    ----------
    judge : Judge
        Family, data, horizon, objective, band and seed.
    space : callable
        The search space; taken by what it asks and gives.
    groups : mapping
        Groups of features that trials choose from.
    windows : InnerWindows
        What parameters are judged on.

    Raises
    ------
    ModelError
        When the space does not hold the family's defaults.
    """
    parts: dict[str, object] = {
        "family": {"name": judge.family.name, "defaults": dict(judge.family.defaults)},
        "search space": declared_ranges(space, judge.family.defaults),
        # In order: the last group is chosen in another way than the others.
        "feature groups": [[name, list(members)] for name, members in groups.items()],
        "features": judge.dataset.feature_names,
        "data": _content(judge.dataset),
        "horizon": judge.horizon.name,
        "inner windows": asdict(windows),
        "objective": judge.objective.value,
        "neutral band": judge.band_bps,
        "seed": judge.seed,
    }
    return {name: digest_of(part) for name, part in parts.items()}


def digest_of(value: object) -> str:
    """Return twelve hexadecimal digits of a value's canonical JSON.

    Examples
    --------
    >>> digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def _content(dataset: Dataset) -> str:
    """Return a digest of what is learned from and judged by, to the bit."""
    digest = hashlib.sha256()
    keys = dataset.keys
    for name in ("bar_end", "as_of", "label_known_at"):
        digest.update(keys[name].to_physical().fill_null(-1).to_numpy().tobytes())
    digest.update("\n".join(keys["symbol"].to_list()).encode())
    for values in (dataset.x, dataset.y, dataset.unit, dataset.excess_return):
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:12]
