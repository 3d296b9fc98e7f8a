"""Which recipes a horizon is trained by: those of the settings, and those of other champions.

The recipe of each family is that of the settings. Where the champion was made by another one,
both are trained on the same data: the champion's recipe goes on serving, in a newer edition, and
the settings' recipe becomes its challenger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from features.spec import Memory
from market.horizons import Horizon
from market.timeframes import Timeframe
from models.fit import NEUTRAL
from models.normal_scores import ranked, source_of
from models.recipe import digest_recipe
from models.registry_store import CHAMPION, StoredModel
from models.spec import Family
from pipelines.feature_run import kept_features
from pipelines.settings import ModelSettings, Settings


@dataclass(frozen=True)
class Recipes:
    """Recipes that are trained together: they share features, weights of rows and neutral band.

    Attributes
    ----------
    families : tuple of Family
        With their parameters as defaults.
    feature_names : tuple of str
        Columns of the matrix, in order.
    rule : mapping
        ``band_bps``, ``last_weight`` and what else there is of :class:`models.fit.Lesson`.
    challenge : bool
        Whether a champion of another recipe is there for each of them.
    """

    families: tuple[Family, ...]
    feature_names: tuple[str, ...]
    rule: Mapping[str, float]
    challenge: bool = False


def learned_features(settings: Settings, timeframe: Timeframe) -> tuple[str, ...]:
    """Return the features that models learn from, in column order.

    Not those that depend on where history starts: a level of them means nothing by itself.
    """
    return tuple(
        f.name
        for f in kept_features(settings, timeframe)
        if f.family in settings.models.families and f.memory is not Memory.CUMULATIVE
    )


def wanted_recipes(settings: Settings, horizon: Horizon, *, ranks: bool) -> list[Recipes]:
    """Return the recipes that the settings ask for.

    Parameters
    ----------
    settings, horizon
        Which.
    ranks : bool
        Whether models learn from ranks; see :func:`pipelines.daily_recipe.learns_ranks`.
    """
    models = settings.models
    every = learned_features(settings, horizon.timeframe)
    rule = _rule(models, horizon, settings.band_bps)
    if ranks:
        every, rule = tuple(ranked(every)), rule | {NEUTRAL: 1.0}
    found = []
    for family in models.families_of(horizon):
        entry = models.tuned.get(horizon.name, {}).get(family.name)
        chosen = entry.features if entry is not None and entry.features else every
        found.append(Recipes((family,), tuple(chosen), rule))
    return found


def _rule(models: ModelSettings, horizon: Horizon, band_bps: float) -> dict[str, float]:
    rule = {"band_bps": band_bps, "last_weight": models.last_weight}
    longest = window_setting(models, horizon, "max_train_sessions")
    return rule if longest is None else rule | {"max_train_sessions": longest}


def plan_recipes(
    wanted: Sequence[Recipes], stored: Iterable[StoredModel], features: Iterable[str]
) -> list[Recipes]:
    """Return what to train: the wanted recipes, and those of champions that differ from them.

    Parameters
    ----------
    wanted : sequence of Recipes
        One family each.
    stored : iterable of StoredModel
        Of one horizon.
    features : iterable of str
        Every feature that exists: a champion that learned from others can be trained no more.

    Returns
    -------
    list of Recipes
        Champions first; recipes that share all but the family are one.
    """
    there = set(features)
    champions = {m.family: m for m in stored if m.role == CHAMPION}
    serving: list[Recipes] = []
    challengers: list[Recipes] = []
    for one in wanted:
        (family,) = one.families
        champion = champions.get(family.name)
        lost = champion is not None and not set(map(source_of, champion.feature_names)) <= there
        if champion is None or lost or champion.recipe == _digest(one, champion.horizon):
            serving.append(one)
            continue
        before = replace(family, defaults=champion.params)
        serving.append(Recipes((before,), champion.feature_names, champion.rule))
        challengers.append(replace(one, challenge=True))
    return [*_together(serving), *_together(challengers)]


def _digest(recipes: Recipes, horizon: str) -> str:
    (family,) = recipes.families
    return digest_recipe(
        family=family.name,
        horizon=horizon,
        params=family.defaults,
        feature_names=recipes.feature_names,
        rule=recipes.rule,
    )


def _together(recipes: Iterable[Recipes]) -> list[Recipes]:
    groups: dict[object, Recipes] = {}
    for one in recipes:
        key = (one.feature_names, tuple(sorted(one.rule.items())))
        there = groups.get(key)
        groups[key] = one if there is None else replace(one, families=there.families + one.families)
    return list(groups.values())


def window_setting(models: ModelSettings, horizon: Horizon, name: str) -> Any:
    """Return a setting of training windows that daily and intraday bars have apart."""
    prefix = "intraday" if horizon.timeframe.is_intraday else "daily"
    return getattr(models, f"{prefix}_{name}")
