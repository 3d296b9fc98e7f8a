"""The one door to MLflow: runs, stored models, champions and challengers.

Models are stored in their libraries' native flavours (scikit-learn's as skops), never pickled.
A registered model version carries what is needed to use it as tags, so that a champion is
restored from the registry alone. Its files are loaded only where they are, to the bit, the files
that were stored.
"""

from __future__ import annotations

import datetime as dt
import importlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import mlflow
import orjson
import polars as pl
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from market.errors import ModelError
from models.fit import FittedModel
from models.normal_scores import source_of
from models.recipe import recipe_of
from models.registry import find_family
from models.registry_store import (
    CHAMPION,
    PREFIX,
    Change,
    Contest,
    RegistryStore,
    StoredModel,
    digest_files,
    from_tags,
    registered_name,
    to_tags,
)
from models.sequential import SequentialTest
from models.succession import (
    HISTORY_SCHEMA,
    Event,
    Evidence,
    Standing,
    after_training,
    promote_challenger,
    roll_back,
    standing,
    standing_at,
)

__all__ = ["CHAMPION", "Tracker"]

# Data, not code, that skops asks to be named all the same: an imputer's dtype, and nodes of
# trees, whose numbers the library does not check against their bounds.
_TRUSTED = (
    "numpy.dtype",
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)


class Tracker:
    """Logs training runs and keeps the champions and their challengers.

    Parameters
    ----------
    uri : str
        Tracking store, ``sqlite:///...`` or a server's URL.
    artifact_root : str
        Where new experiments keep their files.
    """

    def __init__(self, uri: str, artifact_root: str) -> None:
        # MLflow reports each migration of its own store, which says nothing to our reader.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._uri = uri
        self._artifacts = artifact_root
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._registry = RegistryStore(self._client)

    def log_training(
        self,
        horizon: str,
        models: Sequence[FittedModel],
        *,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        now: dt.datetime | None = None,
        features: Collection[str] | None = None,
        as_challenger: bool | None = None,
    ) -> str:
        """Log one training run, store its models and make them champions or challengers.

        A model is champion at once where no evidence could say otherwise: the first of its
        family, a newer edition of the champion's recipe (:mod:`models.recipe`), or the
        successor of a champion that learned from features which exist no longer. Every other
        recipe is a challenger, and the champion goes on serving.

        Parameters
        ----------
        horizon, models
            What was trained.
        params, metrics, tags : mapping
            Of the run.
        now : datetime, optional
            Aware; when it was trained. When absent, when each model's data was known.
        features : collection of str, optional
            Every feature that exists today. When absent, none is taken for gone: a champion is
            never replaced on a guess.
        as_challenger : bool, optional
            Decides by hand what the models become.

        Returns
        -------
        str
            The MLflow run's id. Nothing changes before every model was stored.

        Raises
        ------
        ModelError
            When the tracking store refuses; the champions stay as they were.
        """
        try:
            run_id, stored = self._log(horizon, models, params, metrics, tags)
            changes = [
                self._after_training(m, number, now, features, as_challenger)
                for m, number in stored
            ]
            self._commit(changes)
        except MlflowException as error:
            raise ModelError(
                f"MLflow did not store the training run of {horizon} ({error.message})",
                remedy="check the tracking store; the previous champions keep serving",
            ) from error
        return run_id

    def _log(
        self,
        horizon: str,
        models: Sequence[FittedModel],
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> tuple[str, list[tuple[FittedModel, int]]]:
        self._connect()
        experiment = f"{PREFIX}-{horizon}"
        if self._client.get_experiment_by_name(experiment) is None:
            self._client.create_experiment(experiment, f"{self._artifacts}/{experiment}")
        mlflow.set_experiment(experiment)
        with mlflow.start_run() as run:
            mlflow.log_params(dict(params))
            mlflow.log_metrics({k: v for k, v in metrics.items() if v == v})
            mlflow.set_tags(dict(tags))
            stored = [(m, self._store(m)) for m in models]
        run_id = str(run.info.run_id)
        return run_id, [(m, self._register(m, uri, run_id)) for m, uri in stored]

    def _connect(self) -> None:
        mlflow.set_tracking_uri(self._uri)
        mlflow.set_registry_uri(self._uri)

    def _store(self, model: FittedModel) -> str:
        flavour = _flavour(model.family.flavour)
        native = model.forecaster.native()
        extra: dict[str, Any] = {}
        if model.family.flavour == "sklearn":
            extra |= {"serialization_format": "skops", "skops_trusted_types": list(_TRUSTED)}
        if model.family.flavour == "xgboost":
            extra["model_format"] = "ubj"
        if model.family.flavour == "pytorch":
            # The program that runs, not the object: its graph is traced on an example.
            extra |= {"serialization_format": "pt2", "input_example": native.example()}
        info = flavour.log_model(
            native,
            name=model.family.name,
            pip_requirements=["isobar-quant"],
            **extra,
        )
        return str(info.model_uri)

    def _register(self, model: FittedModel, uri: str, run_id: str) -> int:
        name = registered_name(model.horizon, model.family.name)
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        digest = digest_files(Path(download_artifacts(artifact_uri=uri)))
        version = self._client.create_model_version(
            name, source=uri, run_id=run_id, tags=to_tags(model, digest)
        )
        return int(version.version)

    def _after_training(
        self,
        model: FittedModel,
        number: int,
        now: dt.datetime | None,
        features: Collection[str] | None,
        as_challenger: bool | None,
    ) -> Change:
        name = registered_name(model.horizon, model.family.name)
        events = self._registry.events(self._client.get_registered_model(name))
        before = standing(events)
        lost: set[str] = set()
        if before.champion is not None and features is not None:
            tags = self._client.get_model_version(name, str(before.champion.number)).tags
            used = map(source_of, orjson.loads(tags["feature_names"]))
            lost = set(used) - set(features)
        event = after_training(
            before,
            number=number,
            recipe=recipe_of(model),
            known_at=dt.datetime.fromisoformat(model.known_at),
            now=now,
            lost=lost,
            as_challenger=as_challenger,
        )
        return self._registry.change(name, event, events)

    def _commit(self, changes: Sequence[Change]) -> None:
        """Write the changes; all of them, or none."""
        written: list[Change] = []
        try:
            for change in changes:
                self._registry.point(change)
            for change in changes:
                written.append(change)
                self._registry.write(change)
        except MlflowException:
            self._take_back(changes, written)
            raise

    def _take_back(self, changes: Sequence[Change], written: Sequence[Change]) -> None:
        try:
            for change in written:
                self._registry.erase(change)
        except MlflowException as error:
            raise ModelError(
                f"MLflow broke off while champions changed ({error.message})",
                got=", ".join(c.name for c in written),
                allowed="all of a training's models, or none",
                remedy="see `isobar models history` for which did change; train again or roll back",
            ) from error
        # Aliases are for readers only, and the next change sets them right.
        with suppress(MlflowException):
            for change in changes:
                self._registry.point_back(change)

    def is_trained_on(self, horizon: str, dataset_version: str, config_hash: str) -> bool:
        """Say whether the horizon's newest finished training saw this dataset and settings."""
        experiment = self._client.get_experiment_by_name(f"{PREFIX}-{horizon}")
        if experiment is None:
            return False
        runs = self._client.search_runs(
            [experiment.experiment_id],
            filter_string="attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        wanted = {"dataset_version": dataset_version, "config_hash": config_hash}
        return bool(runs) and all(runs[0].data.tags.get(k) == v for k, v in wanted.items())

    def champions(self, horizon: str, as_of: dt.datetime) -> list[FittedModel]:
        """Load the champions of a horizon as they were at ``as_of``.

        Of each family the version that was champion then (:func:`models.succession.standing_at`);
        never one that was a challenger until then. A model that cannot be restored as it was
        stored is an error, and no other takes its place by itself.

        Raises
        ------
        ModelError
            When there is none, or a stored model cannot be restored.
        """
        known: list[dt.datetime] = []
        found: list[FittedModel] = []
        for registered in self._registry.families(horizon).values():
            events = self._registry.events(registered)
            known += [e.known_at for e in events]
            champion = standing_at(events, as_of).champion
            if champion is not None:
                found.append(self._restore(registered.name, champion.number))
        if not found:
            raise ModelError(
                f"no champion for horizon {horizon} that was trained by {as_of.isoformat()}",
                got=max(known).isoformat() if known else "no model at all",
                allowed="a model whose training data was known by then",
                remedy=f"run `isobar train --horizon {horizon}`",
            )
        return sorted(found, key=lambda m: m.family.name)

    def challengers(self, horizon: str, as_of: dt.datetime) -> list[FittedModel]:
        """Load the challengers of a horizon as they were at ``as_of``; there may be none.

        Raises
        ------
        ModelError
            When a stored model cannot be restored.
        """
        found: list[FittedModel] = []
        for registered in self._registry.families(horizon).values():
            challenger = standing_at(self._registry.events(registered), as_of).challenger
            if challenger is not None:
                found.append(self._restore(registered.name, challenger.number))
        return sorted(found, key=lambda m: m.family.name)

    def promote(
        self,
        horizon: str,
        family: str,
        *,
        now: dt.datetime,
        reason: str,
        evidence: Evidence | None = None,
    ) -> Event:
        """Make the challenger of a family its champion, from ``now`` on.

        Raises
        ------
        ModelError
            When there is no challenger, it cannot be restored, the reason is empty, or ``now``
            lies before an earlier change.
        """
        return self._change(
            horizon,
            family,
            lambda before: promote_challenger(before, now=now, reason=reason, evidence=evidence),
        )

    def rollback(self, horizon: str, family: str, *, now: dt.datetime, reason: str) -> Event:
        """Bring back the champion before the present one; again, the one before that.

        Raises
        ------
        ModelError
            When there is none before, it cannot be restored, the reason is empty, or ``now``
            lies before an earlier change.
        """
        return self._change(
            horizon, family, lambda before: roll_back(before, now=now, reason=reason)
        )

    def _change(self, horizon: str, family: str, decide: Callable[[Standing], Event]) -> Event:
        registered = self._registry.find(horizon, family)
        events = self._registry.events(registered)
        event = decide(standing(events))
        # What cannot be loaded must not become champion.
        self._restore(registered.name, event.number)
        try:
            self._commit([self._registry.change(registered.name, event, events)])
        except MlflowException as error:
            raise ModelError(
                f"MLflow did not change the champion of {registered.name} ({error.message})",
                remedy="check the tracking store; the previous champion keeps serving",
            ) from error
        return event

    def history(self, horizon: str) -> pl.DataFrame:
        """Return every change of champions and challengers, in the order of their writing.

        Returns
        -------
        pl.DataFrame
            ``HISTORY_SCHEMA`` of :mod:`models.succession`; times are UTC.
        """
        rows = [
            {"horizon": horizon, "family": family, **asdict(event)}
            for family, registered in self._registry.families(horizon).items()
            for event in self._registry.events(registered)
        ]
        for row in rows:
            row["evidence"] = orjson.dumps(row["evidence"]).decode()
        return pl.DataFrame(rows, schema=HISTORY_SCHEMA)

    def stored(self, horizon: str) -> list[StoredModel]:
        """Return every stored version of a horizon, by family, the newest first."""
        families = self._registry.families(horizon).values()
        return [model for registered in families for model in self._registry.stored(registered)]

    def contest(self, horizon: str, family: str) -> Contest:
        """Return champion and challenger of a family and what their test has seen.

        Raises
        ------
        ModelError
            When there are not both.
        """
        return self._registry.contest(self._registry.find(horizon, family))

    def keep_test(self, horizon: str, family: str, test: SequentialTest) -> None:
        """Keep what the test of the present champion and challenger has seen."""
        self._registry.keep_test(self._registry.find(horizon, family), test)

    def _restore(self, name: str, number: int) -> FittedModel:
        self._connect()
        version = self._client.get_model_version(name, str(number))
        tags: dict[str, str] = version.tags
        family = find_family(tags["family"])
        try:
            folder = download_artifacts(artifact_uri=version.source)
            if digest_files(Path(folder)) != tags.get("files_sha256"):
                raise ValueError("its files are not those that were stored")
            native = _flavour(family.flavour).load_model(folder)
        except (MlflowException, OSError, ValueError, RuntimeError, BadZipFile) as error:
            raise ModelError(
                f"the stored model {tags['version']} cannot be read ({error})",
                got=f"version {number} of {name}",
                allowed="the very files that were stored, by their SHA-256",
                remedy="restore the artifact store from a backup, go back with `isobar models"
                f" rollback --horizon {tags['horizon']} --family {family.name}`, or train again",
            ) from error
        return from_tags(tags, family, native)


def _flavour(name: str) -> Any:
    return importlib.import_module(f"mlflow.{name}")
