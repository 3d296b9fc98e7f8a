"""The one door to MLflow: runs, stored models, champions and challengers.

A registered model version carries what is needed to use it as tags, so that a champion is
restored from the registry alone. How runs and files are kept is in :mod:`models.run_store`.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict

import orjson
import polars as pl
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from market.errors import ModelError
from models.fit import FittedModel
from models.normal_scores import source_of
from models.recipe import recipe_of
from models.registry_store import (
    CHAMPION,
    Change,
    Contest,
    RegistryStore,
    StoredCard,
    StoredModel,
    StoredTraining,
    registered_name,
)
from models.run_store import RunStore
from models.sequential import SequentialTest
from models.succession import (
    HISTORY_SCHEMA,
    Event,
    Evidence,
    Standing,
    Step,
    after_training,
    dismiss_challenger,
    promote_challenger,
    roll_back,
    standing,
    standing_at,
)
from models.trained_features import TrainedFeatures
from models.training_report import TrainingReport

__all__ = ["CHAMPION", "Tracker"]


class Tracker:
    """Logs training runs and keeps the champions and their challengers.

    Parameters
    ----------
    uri : str
        Tracking store, ``sqlite:///...`` or a server's URL.
    artifact_root : str, optional
        Where new experiments keep their files; where a server says, when absent.
    """

    def __init__(self, uri: str, artifact_root: str | None = None) -> None:
        # MLflow reports each migration of its own store, which says nothing to our reader.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._registry = RegistryStore(self._client)
        self._runs = RunStore(self._client, uri, artifact_root)

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
        report: TrainingReport | None = None,
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
        report : TrainingReport, optional
            What is told of the training; its metrics, tags and files go with the run. Where a
            name is given twice, ``metrics`` and ``tags`` hold.

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
            run_id, stored = self._runs.log(
                horizon, models, params=params, metrics=metrics, tags=tags, report=report
            )
            changes = [
                self._after_training(m, number, now, features, as_challenger)
                for m, number in stored
            ]
            self._commit(changes)
        except (MlflowException, OSError) as error:
            raise ModelError(
                f"MLflow did not store the training run of {horizon} ({error})",
                remedy="check the tracking store; the previous champions keep serving",
            ) from error
        return run_id

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
        run = self._runs.newest(horizon)
        wanted = {"dataset_version": dataset_version, "config_hash": config_hash}
        if run is None or run.data.tags.get("role") == "challengers":
            return False  # Champions are stored last: theirs is missing.
        return all(run.data.tags.get(k) == v for k, v in wanted.items())

    def count_runs(self, horizon: str) -> tuple[int, int]:
        """Return how many trainings of a horizon are stored, and the engines they judged in all.

        Raises
        ------
        ModelError
            When the tracking store does not answer: what is not counted flatters a backtest.
        """
        try:
            return self._runs.count(horizon)
        except MlflowException as error:
            raise ModelError(
                f"MLflow did not say how often {horizon} was trained ({error.message})",
                remedy="check the tracking store",
            ) from error

    def runs(self, horizon: str) -> pl.DataFrame:
        """Return every finished training of a horizon, a row per engine that it judged.

        Returns
        -------
        pl.DataFrame
            ``models.run_store.RUN_SCHEMA``, the newest training first.

        Raises
        ------
        ModelError
            When the tracking store does not answer.
        """
        try:
            return self._runs.scores(horizon)
        except MlflowException as error:
            raise ModelError(
                f"MLflow did not give the trainings of {horizon} ({error.message})",
                remedy="check the tracking store",
            ) from error

    def card(self, horizon: str, family: str | None = None) -> StoredCard:
        """Return the model card of a horizon's newest training that has one.

        Parameters
        ----------
        horizon : str
            A row of the horizons table.
        family : str, optional
            The training that made this family's champion instead.

        Raises
        ------
        ModelError
            When there is no such training or champion, or no card.
        """
        if family is None:
            return self._runs.card(horizon)
        registered = self._registry.find(horizon, family)
        champion = standing(self._registry.events(registered)).champion
        if champion is None:
            raise ModelError(
                f"{registered.name} has no champion",
                got="versions alone",
                allowed="a champion",
                remedy=f"run `isobar train --horizon {horizon}`",
            )
        version = self._client.get_model_version(registered.name, str(champion.number))
        return self._runs.card(horizon, str(version.run_id))

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
                found.append(self._runs.restore(registered.name, champion.number))
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
                found.append(self._runs.restore(registered.name, challenger.number))
        return sorted(found, key=lambda m: m.family.name)

    def model(self, horizon: str, family: str, version: str) -> FittedModel:
        """Load a model by the version that predictions and signals carry, whatever serves now.

        Raises
        ------
        ModelError
            When there is none, or it cannot be restored as it was stored.
        """
        registered = self._registry.find(horizon, family)
        number = self._registry.number(registered, version)
        return self._runs.restore(registered.name, number)

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

    def dismiss(self, horizon: str, family: str, *, now: dt.datetime, reason: str) -> Event:
        """End the challenge of a family; its champion goes on serving.

        Raises
        ------
        ModelError
            When there is no challenger, the reason is empty, or ``now`` lies before an earlier
            change.
        """
        return self._change(
            horizon, family, lambda before: dismiss_challenger(before, now=now, reason=reason)
        )

    def _change(self, horizon: str, family: str, decide: Callable[[Standing], Event]) -> Event:
        registered = self._registry.find(horizon, family)
        events = self._registry.events(registered)
        event = decide(standing(events))
        if event.step is not Step.DISMISSED:
            # What cannot be loaded must not become champion.
            self._runs.restore(registered.name, event.number)
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

    def training(self, horizon: str) -> StoredTraining | None:
        """Return the training behind the present champions, or ``None`` where there is none."""
        found: list[tuple[dt.datetime, str, str]] = []
        for registered in self._registry.families(horizon).values():
            champion = standing(self._registry.events(registered)).champion
            if champion is not None:
                stored = self._client.get_model_version(registered.name, str(champion.number))
                found.append((champion.at, str(stored.run_id), str(stored.tags["version"])))
        if not found:
            return None
        since, run_id, _ = max(found)
        return StoredTraining(horizon, run_id, since, tuple(sorted(v for *_, v in found)))

    def trained_features(self, training: StoredTraining) -> TrainedFeatures | None:
        """Return how the features of a training were distributed, if it kept that.

        Raises
        ------
        ModelError
            When what it kept cannot be read.
        """
        return self._runs.features(training.run_id)

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
