"""Training beside a champion of another recipe, and in a process that may die."""

from __future__ import annotations

import datetime as dt
import multiprocessing
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import polars as pl
import psutil
import pytest
import sqlalchemy as sa

from market.errors import ModelError
from market.horizons import Run, find_horizon, scheduled_for
from market.ledger_tables import engines, signals
from models.forecast import LIVE_SCHEMA, LIVE_TABLE
from models.recipe import challenger_engine, digest_recipe
from models.registry import FAMILIES
from models.registry_store import CHAMPION, StoredModel
from pipelines.drift import judge_drift
from pipelines.explain import explain_signal
from pipelines.recipes import Recipes, plan_recipes
from pipelines.resources import Stores
from pipelines.settings import load_settings
from pipelines.signal_run import make_again, publish_run, read_inputs
from pipelines.training import train_and_store
from pipelines.training_process import TrainingRequest, train_apart
from signals.parity import compare_signals
from signals.publish import read_signals
from tests.pipelines.installation import KEYS, TODAY, YESTERDAY, Installation, environment_of

pytestmark = pytest.mark.xdist_group("installation")

DAILY = find_horizon("1d")
CHALLENGER = challenger_engine("linear")
TRAINED_AT = scheduled_for(Run.EOD, YESTERDAY) + dt.timedelta(minutes=1)
ROOMY = 16_000_000_000
OTHER_ALPHA = '\n[models.tuned."1d".linear.params]\nclip = 77.0\n'


def opened(installation: Installation, place: Path, more: str = "") -> Stores:
    """A copy of the installation, with more settings."""
    made = installation.copy(place, ledger=False)
    with (made.home / "isobar.toml").open("a") as file:
        file.write(more)
    return made.stores


def train(stores: Stores, now: dt.datetime = TRAINED_AT):
    return train_and_store(
        stores, DAILY, start=None, end=None, as_of=now, now=now, progress=lambda *_: None
    )


def request(stores: Stores, **changes) -> TrainingRequest:
    made = TrainingRequest(stores.settings, "1d", None, None, TRAINED_AT, TRAINED_AT)
    return replace(made, **changes)


def predictions(stores: Stores) -> pl.DataFrame:
    return stores.lake.scan("predictions").filter(pl.col("horizon") == "1d").collect()


def values(frame: pl.DataFrame) -> pl.DataFrame:
    """Without the versions, which name the whole dataset: it has grown by a day since."""
    return frame.sort("engine", "bar_end", "symbol").drop("model_version")


def champions(stores: Stores) -> list[str]:
    return [m.version for m in stores.tracker.champions("1d", TRAINED_AT)]


def trainings() -> list[psutil.Process]:
    """The training processes of this one."""
    found = []
    for child in multiprocessing.active_children():
        # What it told may be read after it has ended.
        with suppress(psutil.NoSuchProcess):
            if child.name.startswith("training "):
                found.append(psutil.Process(child.pid))
    return found


class TestPlan:
    RULE = {"band_bps": 5.0, "last_weight": 1.0}

    def wanted(self, name: str = "linear", features=("a", "b"), **params) -> Recipes:
        family = FAMILIES[name]
        family = replace(family, defaults={**family.defaults, **params})
        return Recipes((family,), tuple(features), self.RULE)

    def stored(self, recipe: Recipes, role: str = CHAMPION) -> StoredModel:
        (family,) = recipe.families
        now = dt.datetime(2025, 1, 2, tzinfo=dt.UTC)
        digest = digest_recipe(
            family=family.name, horizon="1d", params=family.defaults,
            feature_names=recipe.feature_names, rule=recipe.rule,
        )  # fmt: skip
        return StoredModel(
            family.name, "1d", 1, role, "v", digest, now, now, 99,
            rule=recipe.rule, params=family.defaults, feature_names=recipe.feature_names,
        )  # fmt: skip

    def test_without_a_champion_the_settings_serve(self):
        wanted = [self.wanted(), self.wanted("xgboost")]
        (plan,) = plan_recipes(wanted, [], ["a", "b"])
        assert [f.name for f in plan.families] == ["linear", "xgboost"]
        assert not plan.challenge

    def test_a_champion_of_the_same_recipe_is_trained_alone(self):
        one = self.wanted(clip=3.0)
        assert plan_recipes([one], [self.stored(one)], ["a", "b"]) == [one]

    def test_a_champion_of_another_recipe_is_trained_too(self):
        champion, other = self.wanted(clip=3.0), self.wanted(clip=9.0, features=["b"])
        serving, challenger = plan_recipes([other], [self.stored(champion)], ["a", "b"])
        assert serving.families[0].defaults == champion.families[0].defaults
        assert serving.feature_names == ("a", "b")
        assert challenger == replace(other, challenge=True)

    def test_a_champion_whose_features_are_gone_is_succeeded(self):
        champion, other = self.wanted(features=["a", "gone"]), self.wanted()
        assert plan_recipes([other], [self.stored(champion)], ["a", "b"]) == [other]

    def test_a_mere_challenger_of_the_past_changes_nothing(self):
        before, other = self.wanted(clip=3.0), self.wanted(clip=9.0)
        assert plan_recipes([other], [self.stored(before, role="challenger")], "ab") == [other]

    def test_a_family_with_features_of_its_own_is_trained_apart(self):
        wanted = [self.wanted(), self.wanted("xgboost", features=["a"]), self.wanted("lightgbm")]
        plan = plan_recipes(wanted, [], ["a", "b"])
        named = [[f.name for f in p.families] for p in plan]
        assert named == [["linear", "lightgbm"], ["xgboost"]]


@pytest.fixture(scope="module")
def contested(installation: Installation, tmp_path_factory: pytest.TempPathFactory):
    """Trained again with another alpha for one family, then published."""
    stores = opened(installation, tmp_path_factory.mktemp("contested"), OTHER_ALPHA)
    before = predictions(stores)
    summary = train(stores)
    as_of = scheduled_for(Run.EOD, TODAY)
    with environment_of(installation.environment, stores.settings.home):
        publish_run(stores, Run.EOD, TODAY, as_of)
    return stores, summary, before


def test_the_champion_serves_on_and_the_challenger_stands_beside(contested):
    stores, summary, _ = contested
    assert {m.partition("-")[0] for m in summary.champions} == {
        "linear",
        "lstm",
        "gradient_boosting",
    }
    assert len(summary.challengers) == 1
    (challenger,) = stores.tracker.challengers("1d", TRAINED_AT)
    assert challenger.params["clip"] == 77.0
    served = {
        m.family.name: m.params.get("clip") for m in stores.tracker.champions("1d", TRAINED_AT)
    }
    assert served["linear"] != 77.0


def test_a_challenger_has_no_part_in_the_ensemble(contested):
    """Out of sample, all other engines and the ensemble are what they were, to the bit."""
    stores, _, before = contested
    after = predictions(stores)
    assert values(after.filter(pl.col("engine") != CHALLENGER)).equals(values(before))
    mine = after.filter(pl.col("engine") == CHALLENGER)
    linear = after.filter(pl.col("engine") == "linear")
    assert mine.height == linear.height
    assert not set(mine["model_version"]) & set(linear["model_version"])


def test_a_challenger_is_published_in_the_background(contested, installation: Installation):
    stores, _, _ = contested
    query = sa.select(signals).where(signals.c.horizon == "1d")
    with stores.ledger as ledger:
        mine = ledger.rows(query)
        kinds = {r["engine"]: r["kind"] for r in ledger.rows(sa.select(engines))}
    assert kinds[CHALLENGER] == "background"
    assert {kind for engine, kind in kinds.items() if engine != CHALLENGER} == {"core"}
    as_of = scheduled_for(Run.EOD, TODAY)
    with installation.stores.ledger as ledger:
        original = ledger.rows(query.where(signals.c.as_of == as_of))
    expected = {(r["symbol"], r["engine"]): r["expected_return_bps"] for r in original}
    found = {(r["symbol"], r["engine"]): r["expected_return_bps"] for r in mine}
    assert {k: v for k, v in found.items() if k[1] != CHALLENGER} == expected
    assert {s for s, e in found if e == CHALLENGER} == {s for s, _ in expected}


def test_what_was_forecast_live_is_kept_once(contested, installation: Installation):
    stores, _, _ = contested
    live = stores.lake.scan(LIVE_TABLE).collect()
    assert live.schema == LIVE_SCHEMA
    mine = live.filter(pl.col("engine") == CHALLENGER)
    assert mine["session"].unique().to_list() == [TODAY]
    assert set(mine["symbol"]) == set(live.filter(pl.col("engine") == "linear")["symbol"])
    version = stores.lake.version(LIVE_TABLE)
    with environment_of(installation.environment, stores.settings.home):
        publish_run(stores, Run.EOD, TODAY, scheduled_for(Run.EOD, TODAY))
    assert stores.lake.version(LIVE_TABLE) == version


def test_a_training_apart_is_the_training(installation: Installation, tmp_path: Path):
    stores = opened(installation, tmp_path)
    before = predictions(stores)
    seen: list[tuple[int, int]] = []
    told: set[int] = set()
    lines: set[str] = set()

    def watch(done: int, total: int, windows: int) -> None:
        seen.append((done, total))
        told.add(windows)
        lines.update(" ".join(c.cmdline()) for c in trainings())

    summary, peak = train_apart(request(stores), memory_bytes=ROOMY, progress=watch)
    assert values(predictions(stores)).equals(values(before))
    assert seen == [(k, len(seen)) for k in range(1, len(seen) + 1)]
    assert len(seen) == summary.windows * 3
    assert told == {summary.windows}
    assert sorted(summary.champions) == sorted(champions(stores))
    assert peak > 50_000_000
    assert lines
    assert not any(key in line for key in KEYS for line in lines)


def test_a_training_keeps_how_its_features_were_distributed(installation: Installation) -> None:
    tracker = installation.stores.tracker
    for horizon in ("1h", "1d"):
        training = tracker.training(horizon)
        assert training is not None
        kept = tracker.trained_features(training)
        assert kept is not None
        assert kept.last_session < TODAY
        learned = {n for m in tracker.stored(horizon) for n in m.feature_names}
        names = {f.name for f in kept.reference.features}
        assert names == set(kept.importance)
        assert names <= learned
        assert 0.0 < sum(kept.importance.values()) <= len(training.champions) + 1e-9


def test_a_killed_training_leaves_what_served(installation: Installation, tmp_path: Path):
    stores = opened(installation, tmp_path, OTHER_ALPHA)
    before, served = predictions(stores), champions(stores)

    def kill(*_: int) -> None:
        for child in trainings():
            child.kill()

    with pytest.raises(ModelError, match="ended before it was done: got 'SIGKILL'"):
        train_apart(request(stores), memory_bytes=ROOMY, progress=kill)
    assert predictions(stores).equals(before)
    assert champions(stores) == served
    assert stores.tracker.challengers("1d", TRAINED_AT) == []


def test_a_training_past_its_memory_is_stopped(installation: Installation, tmp_path: Path):
    stores = opened(installation, tmp_path)
    with pytest.raises(ModelError, match="took too much memory"):
        train_apart(request(stores), memory_bytes=10_000_000, progress=lambda *_: None)
    assert trainings() == []


def test_what_a_training_raises_is_raised_here(installation: Installation, tmp_path: Path):
    stores = opened(installation, tmp_path)
    early = request(stores, start=dt.date(2020, 1, 2))
    with pytest.raises(ModelError, match="no history before the out-of-sample period"):
        train_apart(early, memory_bytes=ROOMY, progress=lambda *_: None)


def test_settings_with_features_of_a_family_are_read(installation: Installation, tmp_path: Path):
    entry = '\n[models.tuned."1d".linear]\nfeatures = ["return_1", "volatility_20"]\n'
    made = installation.copy(tmp_path, ledger=False)
    with (made.home / "isobar.toml").open("a") as file:
        file.write(entry)
    with environment_of(made.environment, made.home):
        tuned = load_settings().models.tuned["1d"]["linear"]
    assert tuned.features == ("return_1", "volatility_20")


def test_models_that_learn_from_ranks_go_all_the_way(installation: Installation, tmp_path: Path):
    """From training to signals, drift, and the same signals again."""
    stores = opened(installation, tmp_path)
    settings = stores.settings
    # Betas, without which no label is neutral, are known from the sixty-first session on.
    changes = {"ranks_from_symbols": 1, "horizons": ("1d",), "daily_min_train_sessions": 75}
    learning = settings.models.model_copy(update=changes)
    registry = tmp_path / "mlflow.db"
    url = f"sqlite:///{registry}"
    stores = Stores(settings.model_copy(update={"models": learning, "mlflow_url": url}))
    train(stores)
    champions = stores.tracker.champions("1d", TRAINED_AT)
    assert {n[-5:] for m in champions for n in m.feature_names} == {"@rank"}
    as_of = scheduled_for(Run.EOD, TODAY)
    made, batch = publish_run(stores, Run.EOD, TODAY, as_of)
    assert set(made.rows["horizon"]) == {"1d"}
    with stores.ledger as ledger:
        inputs = read_inputs(ledger, batch.batch_id)
        id_ = read_signals(ledger, engine="ensemble").row(0, named=True)["id"]
    assert compare_signals(made.rows, make_again(stores, inputs, as_of).rows) == []
    found = explain_signal(stores, id_)
    assert all(f["feature"].endswith("@rank") for f in found["features"])
    drift = judge_drift(stores, DAILY, as_of)
    assert "ranks" in str(drift)
