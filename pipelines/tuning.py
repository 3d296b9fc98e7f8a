"""A tuning on what is in the lake: the training's own features and labels, up to a moment."""

from __future__ import annotations

import datetime as dt

import polars as pl
import sqlalchemy as sa

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
_SCHEMA = "tuning"
_MINUTES = 30.0
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


def budget_of(trials: int, minutes: float) -> Budget:
    """Return a budget; half an hour where neither is said.

    Examples
    --------
    >>> budget_of(0, 0.0)
    Budget(trials=None, minutes=30.0)
    >>> budget_of(20, 0.0)
    Budget(trials=20, minutes=None)
    """
    return Budget(trials or None, minutes or (None if trials else _MINUTES))


def tune_by_name(
    stores: Stores,
    horizon: Horizon,
    family: str,
    *,
    as_of: dt.datetime,
    budget: Budget,
    objective: Objective,
    windows: int = 0,
    window_sessions: int = 0,
    study: str = "",
    select: bool = False,
    progress: Progress | None = None,
) -> Tuned:
    """Search parameters of a family on what is in the lake; what is not said is as usual.

    Raises
    ------
    ModelError
        When the family does not serve the horizon, or as :func:`tune_family` says.
    """
    chosen = family_to_tune(horizon, family)
    dataset = tuning_dataset(stores, horizon, as_of)
    return tune_family(
        stores,
        dataset,
        chosen,
        horizon,
        as_of=as_of,
        budget=budget,
        windows=inner_windows(stores, horizon, windows or None, window_sessions or None),
        objective=objective,
        study=study or study_name(chosen, dataset, horizon),
        select=select,
        progress=progress,
    )


def study_storage(stores: Stores) -> str:
    """Return where studies are kept: a file of the data root, or beside a ledger on PostgreSQL.

    There in a schema of their own, which is made where it is not there.
    """
    with stores.ledger as ledger:
        if ledger.engine.dialect.name != "postgresql":
            return _file(stores)
        with ledger.transaction() as connection:
            ledgers = connection.scalar(sa.text("SELECT current_schema()"))
            schema = _SCHEMA if ledgers == "public" else f"{ledgers}_{_SCHEMA}"
            connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
        url = ledger.engine.url.update_query_dict({"options": f"-csearch_path={schema}"})
        return url.render_as_string(hide_password=False)


def study_storages(stores: Stores) -> tuple[str, ...]:
    """Return all places with studies: a ledger may have moved to PostgreSQL after some."""
    return tuple(dict.fromkeys([study_storage(stores), _file(stores)]))


def _file(stores: Stores) -> str:
    return f"sqlite:///{stores.settings.home.resolve() / STORAGE}"


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

    The study is kept where :func:`study_storage` says, and goes on there where it was stopped.

    Raises
    ------
    ModelError
        When the study belongs to another search or process, or there is too little history.
    """
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
        storage=study_storage(stores),
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
