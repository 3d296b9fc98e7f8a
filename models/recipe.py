"""How a model is made, as one digest: what tells a retraining from a new idea."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

from market.errors import ModelError
from models.fit import FittedModel
from models.spec import Params

_SUFFIX = "@challenger"


def challenger_engine(family: str) -> str:
    """Return the engine under which a family's challenger stands in the predictions table.

    Examples
    --------
    >>> challenger_engine("linear")
    'linear@challenger'
    """
    return f"{family}{_SUFFIX}"


def is_challenger(engine: str) -> bool:
    """Say whether an engine is a challenger: scored beside the others, and weighing nothing."""
    return engine.endswith(_SUFFIX)


def recipe_of(model: FittedModel) -> str:
    """Return the recipe by which a model was made; see :func:`digest_recipe`."""
    return digest_recipe(
        family=model.family.name,
        horizon=model.horizon,
        params=model.params,
        feature_names=model.feature_names,
        rule=model.rule,
    )


def digest_recipe(
    *,
    family: str,
    horizon: str,
    params: Params,
    feature_names: Sequence[str],
    rule: Mapping[str, float],
) -> str:
    """Return a digest of how a model is made, and of nothing that it was made from.

    Data, rows, dates and seed are no part of it: whoever trains the same recipe on newer data
    gets a newer edition of the same model.

    Parameters
    ----------
    family, horizon : str
        Which kind of model, and what it forecasts.
    params : mapping
        Of the family. Their order does not count, and 5 is 5.0.
    feature_names : sequence of str
        Columns of the matrix. Their order counts: models of trees and networks depend on it.
    rule : mapping
        Neutral band, weights by age and length of the training window; from
        :class:`models.fit.Lesson`.

    Returns
    -------
    str
        Twelve hexadecimal digits.

    Raises
    ------
    ModelError
        When a number is not finite.

    Examples
    --------
    >>> digest_recipe(family="linear", horizon="1d", params={"alpha": 1},
    ...     feature_names=("rsi_14",), rule={"band_bps": 5.0})
    '2fc315ba2566'
    """
    recipe = {
        "family": family,
        "horizon": horizon,
        "params": {k: _plain(k, v) for k, v in params.items()},
        "features": list(feature_names),
        "rule": {k: _plain(k, v) for k, v in rule.items()},
    }
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(name: str, value: float | int | str | bool) -> float | int | str | bool:
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        raise ModelError(
            f"{name} of a recipe is no number",
            got=value,
            allowed="finite numbers, text, yes or no",
            remedy="correct the parameters",
        )
    return int(value) if value.is_integer() else value
