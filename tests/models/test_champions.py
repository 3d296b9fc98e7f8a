"""Champion and challenger in a real registry: promotion, rollback, faults, damaged files."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pytest
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from market.errors import ModelError
from models.fit import FittedModel, fit_model
from models.recipe import recipe_of
from models.registry import FAMILIES
from models.sequential import SequentialTest
from models.tracking import Tracker
from tests.markets import dataset_of, market

NOW = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
MOMENT = dt.timedelta(microseconds=1)


def day(n: int) -> dt.datetime:
    return NOW + dt.timedelta(days=n)


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))


@pytest.fixture
def client(tracker: Tracker, tmp_path: Path) -> MlflowClient:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def made(alpha: float, rows: int = 200, family: str = "linear") -> FittedModel:
    settings = {"l2": alpha} if family == "linear" else {"reg_lambda": alpha}
    chosen = FAMILIES[family]
    return fit_model(
        dataset_of(market()),
        np.arange(rows),
        chosen,
        horizon="1d",
        seed=1,
        data_hash="h",
        band_bps=5.0,
        params={**chosen.defaults, **settings},
    )


def train(tracker: Tracker, *models: FittedModel, now: dt.datetime = NOW, **settings) -> None:
    tracker.log_training(
        "1d", models, params={}, metrics={"rank_ic": 0.02}, tags={}, now=now, **settings
    )


def serving(tracker: Tracker, as_of: dt.datetime) -> list[str]:
    return [m.version for m in tracker.champions("1d", as_of)]


def aliases(client: MlflowClient, family: str = "linear") -> dict[str, int]:
    found = client.get_registered_model(f"isobar-1d-{family}").aliases
    return {k: int(v) for k, v in found.items()}


def test_from_challenger_to_champion_and_back(tracker: Tracker, client: MlflowClient) -> None:
    old, new = made(10.0), made(500.0)
    train(tracker, old, now=day(0))
    train(tracker, new, now=day(10))
    assert serving(tracker, day(900)) == [old.version]
    assert [m.version for m in tracker.challengers("1d", day(10))] == [new.version]
    assert tracker.challengers("1d", day(10) - MOMENT) == []
    assert aliases(client) == {"champion": 1, "challenger": 2}
    roles = {m.number: (m.role, m.recipe) for m in tracker.stored("1d")}
    assert roles == {2: ("challenger", recipe_of(new)), 1: ("champion", recipe_of(old))}
    assert all(m.metrics == {"rank_ic": 0.02} for m in tracker.stored("1d"))

    test = SequentialTest(looks=3)
    tracker.keep_test("1d", "linear", test)
    contest = tracker.contest("1d", "linear")
    assert (contest.test, contest.begun) == (test, day(10))

    evidence = {"mean_difference": 0.01, "sessions": 60}
    tracker.promote("1d", "linear", now=day(20), reason="lower loss", evidence=evidence)
    assert serving(tracker, day(20) - MOMENT) == [old.version]
    assert serving(tracker, day(20)) == [new.version]
    assert tracker.challengers("1d", day(20)) == []
    assert aliases(client) == {"champion": 2}
    with pytest.raises(ModelError, match="nothing to compare"):
        tracker.contest("1d", "linear")

    tracker.rollback("1d", "linear", now=day(30), reason="it lost money")
    at = {day(15): old, day(25): new, day(30): old}
    assert {t: serving(tracker, t) for t in at} == {t: [m.version] for t, m in at.items()}
    assert aliases(client) == {"champion": 1}
    with pytest.raises(ModelError, match="no earlier champion to go back to"):
        tracker.rollback("1d", "linear", now=day(31), reason="again")

    told = tracker.history("1d")
    assert told["step"].to_list() == ["trained", "challenged", "promoted", "rolled back"]
    assert told["number"].to_list() == [1, 2, 2, 1]
    assert told["previous"].to_list() == [None, 1, 1, 2]
    assert told["at"].to_list() == [day(0), day(10), day(20), day(30)]
    assert json.loads(told["evidence"][2]) == evidence
    assert told["reason"][3] == "it lost money"


def test_a_challenger_is_dismissed_even_when_it_cannot_be_loaded(
    tracker: Tracker, client: MlflowClient, tmp_path: Path
) -> None:
    old, new = made(10.0), made(500.0)
    train(tracker, old, now=day(0))
    train(tracker, new, now=day(10))
    (source,) = (
        v.source
        for v in client.search_model_versions("name='isobar-1d-linear'")
        if str(v.version) == "2"
    )
    for path in Path(download_artifacts(artifact_uri=source)).rglob("*.skops"):
        path.write_bytes(b"broken")
    event = tracker.dismiss("1d", "linear", now=day(20), reason="no better")
    assert (event.number, event.previous) == (2, 1)
    assert tracker.challengers("1d", day(20)) == []
    assert serving(tracker, day(20)) == [old.version]
    assert aliases(client) == {"champion": 1}
    assert tracker.history("1d")["step"].to_list() == ["trained", "challenged", "dismissed"]


def test_only_a_champion_whose_features_are_gone_is_replaced(tracker: Tracker) -> None:
    old, new = made(10.0), made(500.0)
    train(tracker, old)
    train(tracker, new, now=day(1), features=[*old.feature_names, "another"])
    assert serving(tracker, day(2)) == [old.version]
    train(tracker, new, now=day(3), features=old.feature_names[1:])
    assert serving(tracker, day(3)) == [new.version]
    assert serving(tracker, day(2)) == [old.version]
    assert old.feature_names[0] in tracker.history("1d")["reason"][-1]


@pytest.mark.parametrize("broken", ["set_registered_model_alias", "set_registered_model_tag"])
def test_a_store_that_fails_on_the_way_changes_no_champion(
    tracker: Tracker, client: MlflowClient, monkeypatch, broken: str
) -> None:
    before = made(10.0), made(1.0, family="lightgbm")
    train(tracker, *before)
    whole = getattr(MlflowClient, broken)
    left = [1]

    def fail(self, *arguments, **named):
        # The first of two families passes, the second does not.
        if not left:
            raise MlflowException("the disk is full")
        left.pop()
        return whole(self, *arguments, **named)

    newer = made(10.0, rows=300), made(1.0, rows=300, family="lightgbm")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, broken, fail)
        with pytest.raises(ModelError, match=r"disk is full.*previous champions keep serving"):
            train(tracker, *newer, now=day(1))
    assert set(serving(tracker, day(9))) == {m.version for m in before}
    if broken == "set_registered_model_tag":
        assert aliases(client) == aliases(client, "lightgbm") == {"champion": 1}
    # What was stored and never became anything is no champion later either.
    assert tracker.history("1d")["number"].to_list() == [1, 1]


def test_damaged_files_are_never_loaded(tracker: Tracker, tmp_path: Path) -> None:
    old, new, third = made(10.0), made(500.0), made(9.0)
    train(tracker, old)
    folders = set((tmp_path / "artifacts").rglob("model.skops"))
    train(tracker, new, now=day(1))
    (file,) = set((tmp_path / "artifacts").rglob("model.skops")) - folders
    whole = file.read_bytes()
    # Another sound model in its place loads without complaint; only the digest can tell.
    file.write_bytes(next(iter(folders)).read_bytes())
    with pytest.raises(ModelError, match=rf"{new.version} cannot be read.*not those.*version 2"):
        tracker.promote("1d", "linear", now=day(2), reason="better")
    assert serving(tracker, day(2)) == [old.version]

    file.write_bytes(whole)
    tracker.promote("1d", "linear", now=day(2), reason="better")
    assert serving(tracker, day(2)) == [new.version]
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"rollback --horizon 1d --family linear"):
        serving(tracker, day(2))
    tracker.rollback("1d", "linear", now=day(3), reason="its files are damaged")
    assert serving(tracker, day(3)) == [old.version]
    for other in folders:
        other.unlink()
    train(tracker, third, now=day(4))
    with pytest.raises(ModelError, match="cannot be read"):
        serving(tracker, day(5))


def test_a_family_that_was_never_trained_is_named(tracker: Tracker) -> None:
    with pytest.raises(ModelError, match=r"no model of this family.*isobar train --horizon 1d"):
        tracker.promote("1d", "linear", now=NOW, reason="why")
    assert tracker.history("1d").is_empty()
    assert tracker.stored("1d") == []
