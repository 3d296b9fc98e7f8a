"""Search spaces hold their family's defaults, and are told apart by what they ask."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from market.errors import ModelError
from market.horizons import HORIZONS
from models.registry import FAMILIES
from models.search_spaces import SEARCH_SPACES, declared_ranges, find_space

PLAIN = {"a": 1, "b": 0.5, "c": "x"}


def asks(**given: Any) -> Any:
    """A space over ``PLAIN``; a keyword replaces what is asked for one parameter."""
    asked = {
        "a": lambda t: t.suggest_int("a", 0, 10),
        "b": lambda t: t.suggest_float("b", 0.1, 1.0, log=True),
        "c": lambda t: t.suggest_categorical("c", ("x", "y")),
    } | given
    return lambda trial: {name: ask(trial) for name, ask in asked.items()}


@pytest.mark.parametrize("family", list(FAMILIES.values()), ids=list(FAMILIES))
def test_every_family_has_a_space_that_holds_its_defaults(family: Any) -> None:
    paths = declared_ranges(find_space(family.name), family.defaults)
    assert all(path.keys() <= family.defaults.keys() for path in paths)


def test_every_family_of_the_horizons_table_has_a_space() -> None:
    assert {f for h in HORIZONS for f in h.families} | set(FAMILIES) <= set(SEARCH_SPACES)


@pytest.mark.parametrize("name", list(SEARCH_SPACES))
def test_a_trial_of_optuna_can_be_asked(name: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen: dict[str, set[Any]] = {}
    for _ in range(20):
        trial = study.ask()
        params = SEARCH_SPACES[name](trial)
        assert set(trial.params) == set(params)
        for key, value in params.items():
            assert type(value) in (int, float, str, bool)
            seen.setdefault(key, set()).add(value)
    assert all(len(values) > 1 for values in seen.values())


def test_heads_divide_the_hidden_units() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    for _ in range(50):
        params = SEARCH_SPACES["transformer"](study.ask())
        assert int(params["hidden"]) % int(params["heads"]) == 0


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ModelError, match="no search space for this model family: got 'prophet'"):
        find_space("prophet")


def test_the_same_question_is_the_same_space() -> None:
    assert declared_ranges(asks(), PLAIN) == declared_ranges(asks(), PLAIN)
    assert len(declared_ranges(asks(), PLAIN)) == 33


def branch(trial: Any) -> dict[str, Any]:
    """What ``b`` may be depends on ``c``, on a branch that the defaults do not take."""
    made = asks()(trial)
    return made if made["c"] == "x" else made | {"a": trial.suggest_int("a", 0, 10) + 1}


@pytest.mark.parametrize(
    "other",
    [
        asks(a=lambda t: t.suggest_int("a", 0, 11)),
        asks(a=lambda t: t.suggest_int("a", 1, 10)),
        asks(a=lambda t: t.suggest_int("a", 1, 10, log=True)),
        asks(a=lambda t: t.suggest_int("a", 0, 10, step=1) if t else 0, b=lambda t: 0.5),
        asks(b=lambda t: t.suggest_float("b", 0.1, 1.0)),
        asks(b=lambda t: t.suggest_float("b", 0.1, 1.0, step=0.1)),
        asks(c=lambda t: t.suggest_categorical("c", ("x", "y", "z"))),
        branch,
    ],
)
def test_another_question_or_another_branch_is_another_space(other: Any) -> None:
    assert declared_ranges(other, PLAIN) != declared_ranges(asks(), PLAIN)


@pytest.mark.parametrize(
    "space",
    [
        asks(a=lambda t: t.suggest_int("a", 2, 10)),
        asks(a=lambda t: t.suggest_int("a", 0, 10, step=2)),
        asks(b=lambda t: t.suggest_float("b", 0.6, 1.0)),
        asks(b=lambda t: t.suggest_float("b", 0.0, 0.4)),
        asks(c=lambda t: t.suggest_categorical("c", ("y", "z"))),
        asks(a=lambda t: 3),
    ],
)
def test_a_space_without_the_defaults_is_refused(space: Any) -> None:
    with pytest.raises(ModelError, match="does not hold the family's defaults"):
        declared_ranges(space, PLAIN)


@pytest.mark.parametrize("space", [asks(d=lambda t: t.suggest_int("d", 0, 1)), asks(d=lambda t: 1)])
def test_a_parameter_that_the_family_does_not_have_is_refused(space: Any) -> None:
    with pytest.raises(ModelError, match="a parameter that the family does not have: got 'd'"):
        declared_ranges(space, PLAIN)


def test_steps_of_fractions_hold_what_lies_on_them() -> None:
    space = asks(b=lambda t: t.suggest_float("b", 0.1, 1.1, step=0.1))
    draws = [path["b"].partition("-> ")[2] for path in declared_ranges(space, PLAIN)]
    assert draws[0] == "0.5"
    assert {float(d) for d in draws} <= {round(0.1 * k, 9) for k in range(1, 12)}
