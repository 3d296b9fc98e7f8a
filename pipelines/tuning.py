"""A tuning on what is in the lake: the training's own features and labels, up to a moment."""

from __future__ import annotations

import datetime as dt

import polars as pl

from features.neutral_labels import NEUTRAL_RETURN
from market.errors import ModelError
from market.horizons import Horizon
from models.dataset import EXCESS_RETURN, Dataset, assemble, reach_of
from models.inner_windows import InnerWindows, Objective
from models.normal_scores import ranked, source_of
from models.registry import FAMILIES, families_of
from models.spec import Family
from models.tuned import Tuned
from models.tuning import Budget, Progress, tune
from pipelines.daily_recipe import learns_ranks, neutral_labels
from pipelines.feature_run import kept_features
from pipelines.recipes import learned_features, window_setting
from pipelines.resources import Stores
from pipelines.training import read_labels, training_features

STORAGE = "tuning.db"
_INTRADAY_TEST_SESSIONS = 5


def family_to_tune(horizon: Horizon, name: str) -> Family:
    """Return a family that serves a horizon, with its own parameters and none that were tuned.

    Raises
    ------
    ModelError
        When it does not serve the horizon.
    """
    serving = {f.name: f for f in families_of(horizon)}
    if name not in serving:
        raise ModelError(
            f"this family does not serve horizon {horizon.name}",
            got=name,
            allowed=", ".join(serving),
            remedy="name one of these",
        )
    return FAMILIES[name]


def tuning_dataset(stores: Stores, horizon: Horizon, as_of: dt.datetime) -> Dataset:
    """Return what a training at a moment would learn from, with every feature it may choose.

    Raises
    ------
    ModelError
        When a feature is not there, or there is no row.
    """
    names = learned_features(stores.settings, horizon.timeframe)
    rows = training_features(stores, horizon.timeframe).filter(pl.col("as_of") <= as_of)
    labels = read_labels(stores.lake, horizon)
    ranks = learns_ranks(stores.settings, horizon, rows)
    return assemble(
        rows,
        neutral_labels(stores, horizon, rows, labels) if ranks else labels,
        ranked(names) if ranks else names,
        steps=horizon.steps,
        reach_sessions=reach_of(horizon.timeframe),
        target=NEUTRAL_RETURN if ranks else EXCESS_RETURN,
    )


def inner_windows(
    stores: Stores, horizon: Horizon, windows: int | None, test_sessions: int | None
) -> InnerWindows:
    """Return the windows to judge on; six of 21 sessions, of 5 on intraday bars, by default."""
    usual = InnerWindows()
    models = stores.settings.models
    short = _INTRADAY_TEST_SESSIONS if horizon.timeframe.is_intraday else usual.test_sessions
    return InnerWindows(
        windows=windows or usual.windows,
        test_sessions=test_sessions or short,
        embargo_sessions=models.embargo_sessions,
        max_train_sessions=window_setting(models, horizon, "max_train_sessions"),
    )


def study_name(family: Family, dataset: Dataset, horizon: Horizon) -> str:
    """Return the name of a study: another day's data are another study's."""
    return f"{family.name} {horizon.name} to {dataset.keys['session'].max()}"


def tune_family(
    stores: Stores,
    dataset: Dataset,
    family: Family,
    horizon: Horizon,
    *,
    as_of: dt.datetime,
    budget: Budget,
    windows: InnerWindows,
    objective: Objective,
    study: str,
    select: bool = False,
    progress: Progress | None = None,
) -> Tuned:
    """Search parameters of a family; see :func:`models.tuning.tune`.

    With ``select``, trials leave out whole families of features as well.

    The study is kept in ``tuning.db`` of the data root, and goes on there where it was stopped.

    Raises
    ------
    ModelError
        When the study belongs to another search or process, or there is too little history.
    """
    home = stores.settings.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    return tune(
        dataset,
        family,
        horizon,
        as_of=as_of,
        budget=budget,
        windows=windows,
        objective=objective,
        select_groups=_families_of_features(stores, dataset, horizon) if select else None,
        study=study,
        storage=f"sqlite:///{home / STORAGE}",
        seed=stores.settings.models.seed,
        band_bps=stores.settings.band_bps,
        progress=progress,
    )


def _families_of_features(
    stores: Stores, dataset: Dataset, horizon: Horizon
) -> dict[str, list[str]]:
    families = {f.name: f.family for f in kept_features(stores.settings, horizon.timeframe)}
    groups: dict[str, list[str]] = {}
    for column in dataset.feature_names:
        groups.setdefault(families[source_of(column)], []).append(column)
    return groups
