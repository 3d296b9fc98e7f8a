"""How champions are kept in MLflow's model registry: names, events, aliases, digests of files.

Behind the same door as :mod:`models.tracking`, which hands in its client; nothing else uses it.
A family's registered model carries one tag per event. The tags decide; the aliases ``champion``
and ``challenger`` repeat them for readers of MLflow's pages.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from market.errors import ModelError
from models.fit import FittedModel
from models.recipe import recipe_of
from models.sequential import SequentialTest
from models.spec import Family, Params
from models.succession import Event, Standing, standing

CHAMPION = "champion"
CHALLENGER = "challenger"
PREFIX = "isobar"
_EVENT = "event."
_CONTEST = "contest"
# Written beside a model by whoever downloads it, and no part of it.
_NOT_OURS = frozenset({"registered_model_meta"})


@dataclass(frozen=True)
class StoredModel:
    """A version in the registry, for people and for decisions.

    Attributes
    ----------
    family, horizon : str
        What it is.
    number : int
        Its version in the registry.
    role : str
        ``champion``, ``challenger`` or empty.
    version : str
        Its own name, as predictions carry it.
    recipe : str
        Digest of how it was made.
    trained_at, known_at : datetime
        UTC; when it was stored, and when the newest of its training data was known.
    rows : int
        Of its training.
    rule : mapping
        Neutral band and how training rows were weighted.
    params : mapping
        Of the family.
    feature_names : tuple of str
        What it learned from.
    metrics : mapping
        Of the run that trained it, over all; those by window and regime are in its report.
    """

    family: str
    horizon: str
    number: int
    role: str
    version: str
    recipe: str
    trained_at: dt.datetime
    known_at: dt.datetime
    rows: int
    rule: Mapping[str, float] = field(default_factory=dict[str, float])
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    params: Params = field(default_factory=dict[str, float | int | str | bool])
    feature_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredCard:
    """The model card of a training.

    Attributes
    ----------
    horizon, run_id : str
        Whose it is.
    trained_at : datetime
        UTC; when the run began to be stored.
    text : str
        Markdown.
    """

    horizon: str
    run_id: str
    trained_at: dt.datetime
    text: str

    def _repr_markdown_(self) -> str:
        return self.text


@dataclass(frozen=True)
class StoredTraining:
    """The training behind the champions of a horizon.

    Attributes
    ----------
    horizon, run_id : str
        The run of the newest champion, where they come from several.
    since : datetime
        UTC; since when the champions are these.
    champions : tuple of str
        Their versions, sorted.
    """

    horizon: str
    run_id: str
    since: dt.datetime
    champions: tuple[str, ...]


@dataclass(frozen=True)
class Contest:
    """A champion and its challenger.

    Attributes
    ----------
    champion, challenger : StoredModel
        As they stand.
    begun : datetime
        UTC; since when the challenger's recipe has been one. What was known before was there to
        choose the recipe by, and is no evidence for it.
    test : SequentialTest or None
        What has been seen of these two so far.
    """

    champion: StoredModel
    challenger: StoredModel
    begun: dt.datetime
    test: SequentialTest | None = None


@dataclass(frozen=True)
class Change:
    """An event that is to be written, and the standing until then."""

    name: str
    before: Standing
    event: Event
    place: int


class RegistryStore:
    """Reads and writes what is particular to Isobar in a model registry.

    Parameters
    ----------
    client : MlflowClient
        Its errors pass through.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def families(self, horizon: str) -> dict[str, Any]:
        """Return the registered models of a horizon by family."""
        prefix = registered_name(horizon, "")
        listed = self._client.search_registered_models(f"name LIKE '{prefix}%'", max_results=1000)
        # A LIKE takes `_` for any character.
        return {
            r.name.removeprefix(prefix): r
            for r in sorted(listed, key=lambda r: str(r.name))
            if r.name.startswith(prefix)
        }

    def find(self, horizon: str, family: str) -> Any:
        """Return a registered model.

        Raises
        ------
        ModelError
            When there is none.
        """
        there = self.families(horizon)
        if family not in there:
            raise ModelError(
                f"no model of this family was stored for horizon {horizon}",
                got=family,
                allowed=", ".join(there) or "nothing so far",
                remedy=f"run `isobar train --horizon {horizon}`",
            )
        return there[family]

    def events(self, registered: Any) -> list[Event]:
        """Return the events of a registered model, in the order in which they were written."""
        tags: Mapping[str, str] = registered.tags
        return [Event.from_json(tags[k]) for k in sorted(tags) if k.startswith(_EVENT)]

    def change(self, name: str, event: Event, events: Sequence[Event]) -> Change:
        """Return what there is to write."""
        return Change(name, standing(events), event, len(events) + 1)

    def point(self, change: Change) -> None:
        """Move the aliases to where they stand after a change."""
        self._point(change.name, change.before.then(change.event))

    def write(self, change: Change) -> None:
        """Write the event: from here on it holds."""
        self._client.set_registered_model_tag(change.name, _key(change), change.event.to_json())

    def erase(self, change: Change) -> None:
        """Take an event back, where a change of several families broke off."""
        self._client.delete_registered_model_tag(change.name, _key(change))

    def point_back(self, change: Change) -> None:
        """Move the aliases to where they stood before a change."""
        self._point(change.name, change.before)

    def _point(self, name: str, wanted: Standing) -> None:
        aliases: Mapping[str, Any] = self._client.get_registered_model(name).aliases
        for alias, event in ((CHAMPION, wanted.champion), (CHALLENGER, wanted.challenger)):
            if event is None and alias in aliases:
                self._client.delete_registered_model_alias(name, alias)
            elif event is not None and str(aliases.get(alias)) != str(event.number):
                self._client.set_registered_model_alias(name, alias, str(event.number))

    def stored(self, registered: Any) -> list[StoredModel]:
        """Return every version of a registered model, the newest first."""
        now = standing(self.events(registered))
        found = self._client.search_model_versions(f"name='{registered.name}'")
        metrics = {
            run_id: _overall(self._client.get_run(run_id).data.metrics)
            for run_id in {v.run_id for v in found if v.run_id}
        }
        return [
            _to_stored(v, _role(now, int(v.version)), metrics.get(v.run_id, {}))
            for v in sorted(found, key=lambda v: -int(v.version))
        ]

    def number(self, registered: Any, version: str) -> int:
        """Return the newest number under which a version of a model is stored.

        Raises
        ------
        ModelError
            When it is not stored.
        """
        wanted = f"name='{registered.name}' and tags.version='{version}'"
        found = [int(v.version) for v in self._client.search_model_versions(wanted)]
        if not found:
            raise ModelError(
                f"no model {version} is stored",
                got=registered.name,
                allowed="a version that a training stored",
                remedy="restore the registry from a backup",
            )
        return max(found)

    def contest(self, registered: Any) -> Contest:
        """Return champion and challenger, and what their test has seen.

        Raises
        ------
        ModelError
            When there are not both.
        """
        now = standing(self.events(registered))
        roles = {m.role: m for m in self.stored(registered)}
        if CHAMPION not in roles or CHALLENGER not in roles or now.begun is None:
            raise ModelError(
                f"{registered.name} has nothing to compare",
                got=", ".join(sorted(r for r in roles if r)) or "neither",
                allowed="a champion and a challenger",
                remedy="change the recipe and train: another recipe becomes a challenger",
            )
        text = registered.tags.get(_CONTEST)
        kept: dict[str, Any] = orjson.loads(text) if text else {}
        same = kept.get("of") == _contest_of(now)
        test = SequentialTest.from_tags(kept["test"]) if same else None
        return Contest(roles[CHAMPION], roles[CHALLENGER], now.begun, test)

    def keep_test(self, registered: Any, test: SequentialTest) -> None:
        """Keep what the test of the present champion and challenger has seen."""
        of = _contest_of(standing(self.events(registered)))
        body = orjson.dumps({"of": of, "test": test.to_tags()}).decode()
        self._client.set_registered_model_tag(registered.name, _CONTEST, body)


def registered_name(horizon: str, family: str) -> str:
    """Return the name under which a family's models are registered."""
    return f"{PREFIX}-{horizon}-{family}"


def digest_files(folder: Path) -> str:
    """Return the SHA-256 of a folder's files: their names, lengths and contents.

    Raises
    ------
    OSError
        When a file cannot be read.
    """
    total = hashlib.sha256()
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in _NOT_OURS)
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\n{content}\n".encode())
    return total.hexdigest()


def to_tags(model: FittedModel, files_sha256: str) -> dict[str, str]:
    """Return what is needed to use a stored model, and to know that it is the one stored."""
    return {
        "family": model.family.name,
        "horizon": model.horizon,
        "spread": repr(model.spread),
        "params": _to_json(model.params),
        "seed": str(model.seed),
        "feature_names": orjson.dumps(list(model.feature_names)).decode(),
        "rows": str(model.rows),
        "trained_from": model.trained_from,
        "known_at": model.known_at,
        "version": model.version,
        "rule": _to_json(model.rule),
        "recipe": recipe_of(model),
        "files_sha256": files_sha256,
    }


def from_tags(tags: Mapping[str, str], family: Family, native: Any) -> FittedModel:
    """Return the model that :func:`to_tags` described, around its library's own object."""
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
        rule=orjson.loads(tags["rule"]),
    )


def _to_json(values: Mapping[str, object]) -> str:
    return orjson.dumps(dict(values), option=orjson.OPT_SORT_KEYS).decode()


def _to_stored(version: Any, role: str, metrics: Mapping[str, float]) -> StoredModel:
    tags: Mapping[str, str] = version.tags
    return StoredModel(
        family=tags["family"],
        horizon=tags["horizon"],
        number=int(version.version),
        role=role,
        version=tags["version"],
        recipe=tags.get("recipe", ""),
        trained_at=dt.datetime.fromtimestamp(version.creation_timestamp / 1e3, dt.UTC),
        known_at=dt.datetime.fromisoformat(tags["known_at"]),
        rows=int(tags["rows"]),
        rule=orjson.loads(tags.get("rule", "{}")),
        metrics=metrics,
        params=orjson.loads(tags["params"]),
        feature_names=tuple(orjson.loads(tags["feature_names"])),
    )


def _overall(metrics: Mapping[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if "/" not in k}


def _role(now: Standing, number: int) -> str:
    if now.champion is not None and now.champion.number == number:
        return CHAMPION
    return CHALLENGER if now.challenger is not None and now.challenger.number == number else ""


def _contest_of(now: Standing) -> list[str]:
    """Return what a test belongs to: this challenger against this champion's recipe."""
    champion, challenger = now.champion, now.challenger
    return [
        champion.recipe if champion else "",
        challenger.recipe if challenger else "",
        now.begun.isoformat() if now.begun else "",
    ]


def _key(change: Change) -> str:
    # Sorted as text; the version tells two writers of one place apart.
    return f"{_EVENT}{change.place:06d}.{change.event.number:06d}"
