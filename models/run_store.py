"""How training runs and models are kept in MLflow: runs, reports, files in native flavours.

Behind the same door as :mod:`models.tracking`, which decides what becomes of a model; nothing
else uses it. Models are stored in their libraries' native flavours (scikit-learn's as skops),
never pickled, and loaded only where their files are, to the bit, those that were stored.
"""

from __future__ import annotations

import datetime as dt
import importlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import mlflow
import polars as pl
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from market.errors import ModelError
from market.schema import UTC_MICROSECONDS
from models.fit import FittedModel
from models.registry import find_family
from models.registry_store import (
    PREFIX,
    StoredCard,
    digest_files,
    from_tags,
    registered_name,
    to_tags,
)
from models.session_scores import Score
from models.trained_features import TrainedFeatures
from models.training_report import CARD, TRAINED_FEATURES, TrainingReport

_CARD_TAG = "model_card"
_FEATURES_TAG = "trained_features"
_PAGE = 1000
_RUN_TAGS = ("role", "dataset_version", "config_hash", "code_version")
_RUN_MEASURES = tuple(
    m.value
    for m in (
        *(Score.RANK_IC, Score.RANK_IC_LOW, Score.RANK_IC_HIGH),
        *(Score.HIT_RATE, Score.HIT_RATE_LOW, Score.HIT_RATE_HIGH),
        *(Score.BRIER, Score.LOG_LOSS, Score.ECE),
    )
)
RUN_SCHEMA = pl.Schema(
    {
        "run_id": pl.String(),
        "horizon": pl.String(),
        "trained_at": UTC_MICROSECONDS,
        "engine": pl.String(),
        **dict.fromkeys(_RUN_TAGS, pl.String()),
        **dict.fromkeys(_RUN_MEASURES, pl.Float64()),
    }
)
"""One row per run and engine: who it was for, what it was trained on, its out-of-sample scores."""

# Data, not code, that skops asks to be named all the same: an imputer's dtype, and nodes of
# trees, whose numbers the library does not check against their bounds.
_TRUSTED = (
    "numpy.dtype",
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)


class RunStore:
    """Keeps runs with their models and reports.

    Parameters
    ----------
    client : MlflowClient
        Its errors pass through.
    uri : str
        Tracking store, ``sqlite:///...`` or a server's URL.
    artifact_root : str, optional
        Where new experiments keep their files; where a server says, when absent.
    """

    def __init__(self, client: Any, uri: str, artifact_root: str | None) -> None:
        self._client = client
        self._uri = uri
        self._artifacts = artifact_root

    def log(
        self,
        horizon: str,
        models: Sequence[FittedModel],
        *,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        report: TrainingReport | None = None,
    ) -> tuple[str, list[tuple[FittedModel, int]]]:
        """Log one run, and store its models as new versions that are nothing yet.

        Returns
        -------
        tuple
            The run's id, and each model with the number of its version.
        """
        self._connect()
        experiment = f"{PREFIX}-{horizon}"
        if self._client.get_experiment_by_name(experiment) is None:
            place = f"{self._artifacts}/{experiment}" if self._artifacts else None
            self._client.create_experiment(experiment, place)
        mlflow.set_experiment(experiment)
        with mlflow.start_run() as run:
            mlflow.log_params(dict(params))
            if report is not None:
                _log_report(report)
            mlflow.log_metrics({k: v for k, v in metrics.items() if v == v})
            mlflow.set_tags(dict(tags))
            stored = [(m, self._store(m)) for m in models]
        run_id = str(run.info.run_id)
        return run_id, [(m, self._register(m, made, run_id)) for m, made in stored]

    def restore(self, name: str, number: int) -> FittedModel:
        """Load a version of a registered model.

        Raises
        ------
        ModelError
            When its files cannot be read, or are not those that were stored.
        """
        self._connect()
        version = self._client.get_model_version(name, str(number))
        tags: dict[str, str] = version.tags
        family = find_family(tags["family"])
        try:
            folder = download_artifacts(artifact_uri=version.source)
            if digest_files(Path(folder)) != tags.get("files_sha256"):
                raise ValueError("its files are not those that were stored")
            native = _load(family.flavour, folder, tags["files_sha256"])
        except (MlflowException, OSError, ValueError, RuntimeError, BadZipFile) as error:
            raise ModelError(
                f"the stored model {tags['version']} cannot be read ({error})",
                got=f"version {number} of {name}",
                allowed="the very files that were stored, by their SHA-256",
                remedy="restore the artifact store from a backup, go back with `isobar models"
                f" rollback --horizon {tags['horizon']} --family {family.name}`, or train again",
            ) from error
        return from_tags(tags, family, native)

    def newest(self, horizon: str, *, with_card: bool = False) -> Any:
        """Return the newest finished run of a horizon, or ``None``."""
        experiment = self._client.get_experiment_by_name(f"{PREFIX}-{horizon}")
        if experiment is None:
            return None
        wanted = "attributes.status = 'FINISHED'"
        if with_card:
            wanted += f" and tags.{_CARD_TAG} = '{CARD}'"
        runs = self._client.search_runs(
            [experiment.experiment_id],
            filter_string=wanted,
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        return runs[0] if runs else None

    def count(self, horizon: str) -> tuple[int, int]:
        """Return the finished runs of a horizon, and the engines that they judged in all."""
        judged = [_judged(run.data.metrics) for run in self._finished(horizon)]
        return len(judged), sum(judged)

    def scores(self, horizon: str) -> pl.DataFrame:
        """Return what the finished runs of a horizon found, ``RUN_SCHEMA``, the newest first."""
        rows = [row for run in self._finished(horizon) for row in _scores_of(run, horizon)]
        order = ["trained_at", "run_id", "engine"]
        found = pl.DataFrame(rows, schema=RUN_SCHEMA)
        return found.sort(order, descending=[True, False, False])

    def _finished(self, horizon: str) -> Iterator[Any]:
        experiment = self._client.get_experiment_by_name(f"{PREFIX}-{horizon}")
        token: str | None = None
        while experiment is not None:
            page = self._client.search_runs(
                [experiment.experiment_id],
                filter_string="attributes.status = 'FINISHED'",
                max_results=_PAGE,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def card(self, horizon: str, run_id: str | None = None) -> StoredCard:
        """Return the model card of a run, or of the newest that has one.

        Raises
        ------
        ModelError
            When there is none, or it cannot be read.
        """
        self._connect()
        run = self._client.get_run(run_id) if run_id else self.newest(horizon, with_card=True)
        if run is None or run.data.tags.get(_CARD_TAG) != CARD:
            raise ModelError(
                f"there is no model card for horizon {horizon}",
                got=f"run {run_id}, without a card" if run_id else "no training with one",
                allowed="a training since reports are kept",
                remedy=f"run `isobar train --horizon {horizon}`",
            )
        at = dt.datetime.fromtimestamp(run.info.start_time / 1e3, dt.UTC)
        return StoredCard(
            horizon, str(run.info.run_id), at, self._text(run, CARD, "the model card")
        )

    def features(self, run_id: str) -> TrainedFeatures | None:
        """Return how the features of a run were distributed, or ``None`` where it kept nothing.

        Raises
        ------
        ModelError
            When what it kept cannot be read.
        """
        self._connect()
        run = self._client.get_run(run_id)
        if run.data.tags.get(_FEATURES_TAG) != TRAINED_FEATURES:
            return None
        return TrainedFeatures.from_json(
            self._text(run, TRAINED_FEATURES, "the summary of features")
        )

    def _text(self, run: Any, name: str, what: str) -> str:
        try:
            # By its place: MLflow draws progress bars for what it finds by the run.
            path = download_artifacts(artifact_uri=f"{run.info.artifact_uri}/{name}")
            return Path(path).read_text(encoding="utf-8")
        except (MlflowException, OSError) as error:
            raise ModelError(
                f"{what} of run {run.info.run_id} cannot be read ({error})",
                allowed="the file that was stored",
                remedy="restore the artifact store from a backup, or train again",
            ) from error

    def _connect(self) -> None:
        mlflow.set_tracking_uri(self._uri)
        mlflow.set_registry_uri(self._uri)

    def _store(self, model: FittedModel) -> Any:
        flavour = model.family.flavour
        native = model.forecaster.native()
        extra: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            if flavour == "sklearn":
                extra |= {"serialization_format": "skops", "skops_trusted_types": list(_TRUSTED)}
            if flavour == "xgboost":
                extra["model_format"] = "ubj"
            if flavour == "pytorch":
                # The program that runs, not the object: its graph is traced on an example.
                extra |= {"serialization_format": "pt2", "input_example": native.example()}
                values = Path(folder) / _values().FILE
                _values().save_values(native, values)
                extra["extra_files"] = [str(values)]
            return _flavour(flavour).log_model(
                native,
                name=model.family.name,
                pip_requirements=["isobar-quant"],
                **extra,
            )

    def _register(self, model: FittedModel, made: Any, run_id: str) -> int:
        name = registered_name(model.horizon, model.family.name)
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        digest = digest_files(Path(download_artifacts(artifact_uri=made.model_uri)))
        version = self._client.create_model_version(
            name,
            source=made.model_uri,
            run_id=run_id,
            # A server takes no source of which it is not told what model it is.
            model_id=made.model_id,
            tags=to_tags(model, digest),
        )
        return int(version.version)


def _judged(metrics: Mapping[str, float]) -> int:
    """Return how many engines a run judged; at least the one that it was for."""
    return max(1, len(_engines(metrics)))


def _engines(metrics: Mapping[str, float]) -> list[str]:
    skill = f"{Score.RANK_IC.value}_"
    bounds = (Score.RANK_IC_LOW.value, Score.RANK_IC_HIGH.value)
    return [
        n.removeprefix(skill) for n in metrics if n.startswith(skill) and not n.startswith(bounds)
    ]


def _scores_of(run: Any, horizon: str) -> list[dict[str, object]]:
    metrics, tags = run.data.metrics, run.data.tags
    about = {
        "run_id": run.info.run_id,
        "horizon": horizon,
        "trained_at": dt.datetime.fromtimestamp(run.info.start_time / 1e3, dt.UTC),
        **{name: tags.get(name) for name in _RUN_TAGS},
    }
    return [
        {**about, "engine": e, **{m: metrics.get(f"{m}_{e}") for m in _RUN_MEASURES}}
        for e in _engines(metrics)
    ]


def _log_report(report: TrainingReport) -> None:
    """Log what is told of a training into the run that is open."""
    mlflow.log_metrics(report.metrics)
    for number, metrics in report.window_metrics.items():
        mlflow.log_metrics(metrics, step=number)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in report.files().items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        mlflow.log_artifacts(folder)
    # Last: a run that says it has a card has all of the report.
    kept = {} if report.features is None else {_FEATURES_TAG: TRAINED_FEATURES}
    mlflow.set_tags(report.tags | kept | {_CARD_TAG: CARD})


@lru_cache(maxsize=64)
def _load(flavour: str, folder: str, _digest: str) -> Any:
    """Load a model's files once, as long as they are the same: nobody changes what is loaded."""
    if flavour == "pytorch":
        return _values().StoredValues(Path(folder) / "extra_files" / _values().FILE)
    return _flavour(flavour).load_model(folder)


def _flavour(name: str) -> Any:
    return importlib.import_module(f"mlflow.{name}")


def _values() -> Any:
    # PyTorch takes seconds to import: only where there is a network.
    return importlib.import_module("models.families.stored_values")
