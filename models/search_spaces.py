"""What tuning may change of each family, as functions of a trial.

A search space asks a trial for values and returns parameters to lay over the family's defaults
(Akiba et al., 2019: define-by-run). It must hold the defaults, so that a study can begin with
them and never ends below them. A new family is one function and one line of `SEARCH_SPACES`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from market.errors import ModelError
from models.spec import Params

_PATHS = 32


class Trial(Protocol):
    """What a search space may ask; an Optuna trial is one."""

    def suggest_float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        step: float | None = None,
        log: bool = False,
    ) -> float:
        """Return a value in ``[low, high]``."""
        ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Return a whole number in ``[low, high]``."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""
        ...


Space = Callable[[Trial], Params]


def _xgboost(trial: Trial) -> Params:
    return {
        "trees": trial.suggest_int("trees", 25, 1500, log=True),
        "eta": trial.suggest_float("eta", 0.005, 0.3, log=True),
        "max_depth": trial.suggest_int("max_depth", 2, 8),
        "min_child_weight": trial.suggest_float("min_child_weight", 10.0, 5000.0, log=True),
        "subsample": trial.suggest_float("subsample", 0.3, 1.0),
        "colsample_bytree": trial.suggest_float("colsample_bytree", 0.1, 1.0),
        "features_per_tree": trial.suggest_int("features_per_tree", 8, 512, log=True),
        "lambda": trial.suggest_float("lambda", 0.1, 1000.0, log=True),
    }


def _lightgbm(trial: Trial) -> Params:
    return {
        "trees": trial.suggest_int("trees", 25, 1500, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 0.005, 0.3, log=True),
        "num_leaves": trial.suggest_int("num_leaves", 3, 128, log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 10, 5000, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.1, 1.0),
        "features_per_tree": trial.suggest_int("features_per_tree", 8, 512, log=True),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.3, 1.0),
        "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 1000.0, log=True),
    }


def _linear(trial: Trial) -> Params:
    return {
        "penalty_per_row": trial.suggest_float("penalty_per_row", 1e-4, 100.0, log=True),
        "clip": trial.suggest_float("clip", 1.0, 10.0, log=True),
    }


def _gradient_boosting(trial: Trial) -> Params:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.005, 0.3, log=True),
        "max_iter": trial.suggest_int("max_iter", 25, 1500, log=True),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 3, 128, log=True),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 10, 5000, log=True),
        "l2_regularization": trial.suggest_float("l2_regularization", 0.1, 1000.0, log=True),
        "max_features": trial.suggest_float("max_features", 0.05, 1.0),
    }


def _random_forest(trial: Trial) -> Params:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 25, 1000, log=True),
        "max_depth": trial.suggest_int("max_depth", 2, 24),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 5, 5000, log=True),
        "max_features": trial.suggest_float("max_features", 0.02, 1.0, log=True),
        "rows_per_tree": trial.suggest_int("rows_per_tree", 1_000, 100_000, log=True),
    }


def _network(trial: Trial) -> dict[str, float | int | str | bool]:
    return {
        "window": trial.suggest_int("window", 4, 128, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.6),
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-7, 1.0, log=True),
        "batch": trial.suggest_int("batch", 16, 16384, log=True),
        "epochs": trial.suggest_int("epochs", 1, 200, log=True),
    }


def _layers(trial: Trial) -> int:
    return trial.suggest_int("layers", 1, 4)


def _lstm(trial: Trial) -> Params:
    return {**_cnn(trial), "layers": _layers(trial)}


def _cnn(trial: Trial) -> Params:
    return {"hidden": trial.suggest_int("hidden", 4, 256, log=True), **_network(trial)}


def _transformer(trial: Trial) -> Params:
    # Every head gets an equal part of the hidden units: a multiple of the most heads fits all.
    return {
        "heads": trial.suggest_categorical("heads", (1, 2, 4, 8)),
        "hidden": trial.suggest_int("hidden", 8, 256, step=8),
        "layers": _layers(trial),
        **_network(trial),
    }


def _policy(trial: Trial) -> Params:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True),
        "gamma": trial.suggest_float("gamma", 0.0, 1.0),
        "ent_coef": trial.suggest_float("ent_coef", 0.0, 0.1),
        "hidden": trial.suggest_int("hidden", 4, 256, log=True),
        "steps": trial.suggest_int("steps", 500, 500_000, log=True),
    }


SEARCH_SPACES: Mapping[str, Space] = {
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "linear": _linear,
    "gradient_boosting": _gradient_boosting,
    "random_forest": _random_forest,
    "lstm": _lstm,
    "cnn": _cnn,
    "transformer": _transformer,
    "policy": _policy,
}


def find_space(family: str) -> Space:
    """Return the search space of a family, or say which there are.

    Examples
    --------
    >>> sorted(declared_ranges(find_space("linear"), {"penalty_per_row": 0.02, "clip": 3.0})[0])
    ['clip', 'penalty_per_row']
    """
    try:
        return SEARCH_SPACES[family]
    except KeyError:
        raise ModelError(
            "no search space for this model family",
            got=family,
            allowed=", ".join(SEARCH_SPACES),
            remedy="add one to models/search_spaces.py, or pass space",
        ) from None


def declared_ranges(space: Space, defaults: Params) -> list[dict[str, str]]:
    """Return what a search space asks and gives, along the defaults and along 32 fixed draws.

    Two spaces with equal answers are taken as one: what they ask, in which range, on which branch,
    and what they make of it.

    Parameters
    ----------
    space : callable
        From a :class:`Trial` to parameters.
    defaults : mapping
        The family's own parameters.

    Returns
    -------
    list of dict
        One entry per path, the defaults first: parameter to its range and value, as text.

    Raises
    ------
    ModelError
        When the space asks for or returns a parameter that the family does not have, or does not
        hold its defaults.
    """
    return [_walk(space, defaults, None)] + [
        _walk(space, defaults, random.Random(path)) for path in range(_PATHS)
    ]


def _walk(space: Space, defaults: Params, draws: random.Random | None) -> dict[str, str]:
    probe = _Probe(defaults, draws)
    given = space(probe)
    for name in given:
        probe.require(name)
    moved = [name for name, value in given.items() if value != defaults[name]]
    if draws is None and moved:
        raise _without_defaults({name: given[name] for name in moved}, defaults)
    # Nine digits: the logarithm's last bits differ between machines.
    made = {name: _text(value) for name, value in given.items()}
    return {
        name: f"{probe.asked.get(name)} -> {made.get(name)}" for name in sorted(probe.asked)
    } | {name: made[name] for name in sorted(made.keys() - probe.asked.keys())}


class _Probe:
    """A trial that notes what it is asked; it answers with the defaults, or by chance."""

    def __init__(self, defaults: Params, draws: random.Random | None) -> None:
        self._defaults = defaults
        self._draws = draws
        self.asked: dict[str, str] = {}

    def suggest_float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        step: float | None = None,
        log: bool = False,
    ) -> float:
        self.require(name)
        self.asked[name] = f"float {low!r} {high!r} {step!r} {log}"
        if self._draws is None:
            return self._default(name, lambda v: _on_grid(v, low, high, step))
        return _between(self._draws.random(), low, high, step, log)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        self.require(name)
        self.asked[name] = f"int {low!r} {high!r} {step!r} {log}"
        if self._draws is None:
            return self._default(name, lambda v: v == int(v) and _on_grid(v, low, high, step))
        return round(_between(self._draws.random(), low, high, step, log))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.require(name)
        self.asked[name] = f"one of {list(choices)!r}"
        if self._draws is None:
            return self._default(name, lambda v: v in choices)
        return choices[int(self._draws.random() * len(choices))]

    def require(self, name: str) -> None:
        if name not in self._defaults:
            raise ModelError(
                "the search space has a parameter that the family does not have",
                got=name,
                allowed=", ".join(self._defaults),
                remedy="correct its name",
            )

    def _default(self, name: str, holds: Callable[[Any], bool]) -> Any:
        value = self._defaults[name]
        if not holds(value):
            raise _without_defaults({name: self.asked[name]}, self._defaults)
        return value


def _without_defaults(got: Mapping[str, object], defaults: Params) -> ModelError:
    return ModelError(
        "the search space does not hold the family's defaults",
        got=dict(got),
        allowed=", ".join(f"{name} with {defaults[name]}" for name in got),
        remedy="widen it, so that a study can begin with the defaults and not end below them",
    )


def _on_grid(value: float, low: float, high: float, step: float | None) -> bool:
    if not low <= value <= high:
        return False
    return step is None or math.isclose((value - low) / step, round((value - low) / step))


def _between(share: float, low: float, high: float, step: float | None, log: bool) -> float:
    if log:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    if step is None:
        return low + share * (high - low)
    return low + step * int(share * (1 + (high - low) // step))


def _text(value: object) -> str:
    return f"{value:.9g}" if isinstance(value, float) else repr(value)
