"""What a tuning found, and how it is written into the settings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from models.evaluation import Estimate
from models.inner_windows import Objective
from models.spec import Params


@dataclass(frozen=True)
class Choice:
    """Parameters and features that were judged together.

    Attributes
    ----------
    trial : int
        Number of the trial in its study.
    params : mapping
        All parameters of the family.
    features : tuple of str
        What it learns from, in the dataset's order.
    score : Estimate
        Objective with its 95 percent interval over the judged sessions of all inner windows. It
        does not know of how many trials this one was picked.
    """

    trial: int
    params: Params
    features: tuple[str, ...]
    score: Estimate


@dataclass(frozen=True)
class Tuned:
    """What a tuning found.

    Attributes
    ----------
    study, digest : str
        The study's name in its storage, and the digest of all that it belongs to.
    family, horizon : str
        Whose parameters.
    objective : Objective
        What was optimised.
    seed : int
        Of the sampler and of every model.
    windows : int
        Inner windows.
    chosen : Choice
        What to use: the best, or the defaults where the best is not better by more than chance.
    best : Choice
        The best trial by the objective; the earlier one of equals.
    defaults : Choice
        The family's own parameters with all features.
    gain : Estimate
        Improvement of the best over the defaults, session by session, with its 95 percent
        interval; positive is better for either objective.
    p_value : float
        That so good a best comes about by chance among so many trials
        (:func:`models.data_snooping.superior_skill`).
    is_better : bool
        Whether the interval lies above zero and the p-value below 0.05.
    trials : pl.DataFrame
        ``trial``, ``state`` (``complete`` or ``pruned``), ``value`` (null when pruned),
        ``windows``, ``features`` (their number), ``seconds`` and ``params`` (JSON), one row per
        finished trial.
    """

    study: str
    digest: str
    family: str
    horizon: str
    objective: Objective
    seed: int
    windows: int
    chosen: Choice
    best: Choice
    defaults: Choice
    gain: Estimate
    p_value: float
    is_better: bool
    trials: pl.DataFrame

    def settings(self) -> Mapping[str, Any]:
        """Return the fragment of settings, nested by horizon and family.

        Features are named only where some were left out.
        """
        score = self.chosen.score
        entry: dict[str, Any] = {
            "study": self.study,
            "digest": self.digest,
            "trial": self.chosen.trial,
            "trials": self.trials.height,
            "seed": self.seed,
            "objective": self.objective.value,
            "value": score.mean,
            "low": score.low,
            "high": score.high,
            "sessions": score.periods,
            "windows": self.windows,
        }
        if len(self.chosen.features) < len(self.defaults.features):
            entry["features"] = list(self.chosen.features)
        entry["params"] = dict(self.chosen.params)
        return {"models": {"tuned": {self.horizon: {self.family: entry}}}}

    def to_toml(self) -> str:
        """Return the same as TOML text, to paste into ``isobar.toml``."""
        entry = dict(self.settings()["models"]["tuned"][self.horizon][self.family])
        params = entry.pop("params")
        table = f"models.tuned.{_key(self.horizon)}.{_key(self.family)}"
        lines = [f"[{table}]", *_pairs(entry), "", f"[{table}.params]", *_pairs(params)]
        return "\n".join(lines) + "\n"


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{_key(name)} = {_value(value)}" for name, value in values.items()]


def _key(name: str) -> str:
    plain = name.replace("_", "a").replace("-", "a")
    return name if plain.isascii() and plain.isalnum() else _value(name)


def _value(value: Any) -> str:
    """Return a TOML value: as in JSON, but for what the two write differently."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
