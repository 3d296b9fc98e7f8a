"""The one door to MLflow: runs, stored models, champions.

Models are stored in their libraries' native flavours (scikit-learn's as skops), never pickled.
A registered model version carries what is needed to use it as tags, so that a champion is
restored from the registry alone.
"""

from __future__ import annotations

import datetime as dt
import importlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from zipfile import BadZipFile

import mlflow
import orjson
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from market.errors import ModelError
from models.fit import FittedModel
from models.registry import find_family

CHAMPION = "champion"
_PREFIX = "isobar"


class Tracker:
    """Logs training runs and keeps the champions.

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

    def log_training(
        self,
        horizon: str,
        models: Sequence[FittedModel],
        *,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> str:
        """Log one training run, store its models and make them the champions.

        Returns
        -------
        str
            The MLflow run's id. The aliases move only after every model was stored.

        Raises
        ------
        ModelError
            When the tracking store refuses; the champions stay as they were.
        """
        try:
            return self._log(horizon, models, params, metrics, tags)
        except MlflowException as error:
            raise ModelError(
                f"MLflow did not store the training run of {horizon} ({error.message})",
                remedy="check the tracking store; the previous champions keep serving",
            ) from error

    def _log(
        self,
        horizon: str,
        models: Sequence[FittedModel],
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> str:
        mlflow.set_tracking_uri(self._uri)
        mlflow.set_registry_uri(self._uri)
        experiment = f"{_PREFIX}-{horizon}"
        if self._client.get_experiment_by_name(experiment) is None:
            self._client.create_experiment(experiment, f"{self._artifacts}/{experiment}")
        mlflow.set_experiment(experiment)
        with mlflow.start_run() as run:
            mlflow.log_params(dict(params))
            mlflow.log_metrics({k: v for k, v in metrics.items() if v == v})
            mlflow.set_tags(dict(tags))
            stored = [(m, self._store(m)) for m in models]
        versions = [(m, self._register(m, uri, str(run.info.run_id))) for m, uri in stored]
        for model, version in versions:
            self._client.set_registered_model_alias(_registered(model), CHAMPION, version)
        return str(run.info.run_id)

    def _store(self, model: FittedModel) -> str:
        flavour = _flavour(model.family.flavour)
        native = model.forecaster.native()
        extra: dict[str, Any] = {}
        if model.family.flavour == "sklearn":
            # An imputer's dtype is data, not code: skops asks that it be named all the same.
            extra |= {"serialization_format": "skops", "skops_trusted_types": ["numpy.dtype"]}
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

    def _register(self, model: FittedModel, uri: str, run_id: str) -> str:
        name = _registered(model)
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = self._client.create_model_version(
            name, source=uri, run_id=run_id, tags=_to_tags(model)
        )
        return str(version.version)

    def is_trained_on(self, horizon: str, dataset_version: str, config_hash: str) -> bool:
        """Say whether the horizon's newest finished training saw this dataset and settings."""
        experiment = self._client.get_experiment_by_name(f"{_PREFIX}-{horizon}")
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
        """Load the champions of a horizon as they were usable at ``as_of``.

        The newest version of each family whose training data was known by then; the alias
        ``champion`` wins where it qualifies.

        Raises
        ------
        ModelError
            When there is none, or a stored model cannot be restored.
        """
        found: list[FittedModel] = []
        newest: list[str] = []
        prefix = f"{_PREFIX}-{horizon}-"
        listed = self._client.search_registered_models(f"name LIKE '{prefix}%'", max_results=1000)
        for registered in listed:
            if not registered.name.startswith(prefix):
                continue
            versions = self._client.search_model_versions(f"name='{registered.name}'")
            newest += [str(v.tags["known_at"]) for v in versions]
            usable = [v for v in versions if _moment(v.tags["known_at"]) <= as_of]
            if not usable:
                continue
            alias = str(registered.aliases.get(CHAMPION, ""))
            usable.sort(key=lambda v: (str(v.version) == alias, v.tags["known_at"], int(v.version)))
            found.append(self._restore(usable[-1]))
        if not found:
            raise ModelError(
                f"no champion for horizon {horizon} that was trained by {as_of.isoformat()}",
                got=max(newest, default="no model at all"),
                allowed="a model whose training data was known by then",
                remedy=f"run `isobar train --horizon {horizon}`",
            )
        return sorted(found, key=lambda m: m.family.name)

    def _restore(self, version: Any) -> FittedModel:
        tags: dict[str, str] = version.tags
        family = find_family(tags["family"])
        mlflow.set_tracking_uri(self._uri)
        try:
            native = _flavour(family.flavour).load_model(version.source)
        except (MlflowException, OSError, ValueError, RuntimeError, BadZipFile) as error:
            raise ModelError(
                f"the stored model {tags['version']} cannot be read ({error})",
                remedy="restore the artifact store, or train again",
            ) from error
        params = orjson.loads(tags["params"])
        return FittedModel(
            family=family,
            forecaster=family.build(params, int(tags["seed"]), native),
            horizon=tags["horizon"],
            spread=float(tags["spread"]),
            params=params,
            seed=int(tags["seed"]),
            feature_names=tuple(orjson.loads(tags["feature_names"])),
            rows=int(tags["rows"]),
            trained_from=tags["trained_from"],
            known_at=tags["known_at"],
            version=tags["version"],
        )


def _flavour(name: str) -> Any:
    return importlib.import_module(f"mlflow.{name}")


def _registered(model: FittedModel) -> str:
    return f"{_PREFIX}-{model.horizon}-{model.family.name}"


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def _to_tags(model: FittedModel) -> dict[str, str]:
    return {
        "family": model.family.name,
        "horizon": model.horizon,
        "spread": repr(model.spread),
        "params": orjson.dumps(dict(model.params), option=orjson.OPT_SORT_KEYS).decode(),
        "seed": str(model.seed),
        "feature_names": orjson.dumps(list(model.feature_names)).decode(),
        "rows": str(model.rows),
        "trained_from": model.trained_from,
        "known_at": model.known_at,
        "version": model.version,
    }
