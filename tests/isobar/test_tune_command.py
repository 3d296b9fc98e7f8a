"""`isobar tune`: what it searches, what it shows, and what it writes into the settings."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from models.registry import find_family
from pipelines.recipes import learned_features, wanted_recipes
from pipelines.settings import load_settings
from tests.commands import Outcome, isobar
from tests.live_record import DAYS, HORIZON, LiveRecord
from tests.pipelines.installation import environment_of

SMALL = ("--horizon", "1d", "--family", "linear", "--windows", "2", "--window-sessions", "15")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> LiveRecord:
    return LiveRecord(tmp_path_factory.mktemp("tuned") / "home")


def ask(record: LiveRecord, *words: str) -> Outcome:
    return isobar("tune", *SMALL, *words, environment=record.environment)


def settings_of(record: LiveRecord):
    home = record.stores.settings.home
    with environment_of(record.environment, home.parent):
        return load_settings()


def toml(record: LiveRecord) -> str:
    return (record.stores.settings.home / "isobar.toml").read_text()


def test_a_study_goes_on_and_what_it_chose_is_trained_by(record: LiveRecord) -> None:
    before = toml(record)
    done = ask(record, "--trials", "3", "--json")
    assert (done.status, done.err) == (0, "")
    first = done.document
    assert len(first["trials"]) == 3
    assert first["study"] == f"linear 1d to {DAYS[-1]}"
    assert first["defaults"]["params"] == find_family("linear").defaults
    assert first["chosen"]["trial"] == (first["best"]["trial"] if first["is_better"] else 0)
    assert first["written_to"] is None
    assert toml(record) == before
    assert (record.stores.settings.home / "tuning.db").exists()

    done = ask(record, "--trials", "4", "--write", "--json")
    assert (done.status, done.err) == (0, "")
    second = done.document
    assert second["trials"][:3] == first["trials"]
    assert toml(record) == f"{before}\n{second['toml']}"
    assert second["written_to"] == str(record.stores.settings.home / "isobar.toml")
    entry = settings_of(record).models.tuned["1d"]["linear"]
    assert entry.params == second["chosen"]["params"]
    assert (entry.study, entry.trials) == (second["study"], 4)
    recipes = wanted_recipes(settings_of(record), HORIZON, ranks=False)
    mine = next(r for r in recipes if r.families[0].name == "linear")
    assert mine.families[0].defaults == second["chosen"]["params"]
    # What was tuned before is no part of the search: the study goes on.
    third = ask(record, "--trials", "4", "--write", "--json").document
    assert third["trials"] == second["trials"]
    assert toml(record) == f"{before}\n{second['toml']}"


def test_a_person_reads_a_table_and_the_fragment(record: LiveRecord) -> None:
    done = ask(record, "--trials", "2", "--study", "mine")
    assert done.status == 0, done.err
    for word in ("defaults", "best less defaults", "p = ", "[models.tuned.1d.linear]"):
        assert word in done.out
    assert "tuning linear 1d" in done.err
    fragment = done.out[done.out.index("[models.tuned") :]
    assert tomllib.loads(fragment)["models"]["tuned"]["1d"]["linear"]["study"] == "mine"


def test_features_are_chosen_by_families(record: LiveRecord) -> None:
    done = ask(record, "--trials", "2", "--study", "chosen", "--select-features", "--json")
    # There is one family of features in this lake.
    assert done.status == 1
    assert "groups of features to select from" in done.message
    assert len(learned_features(record.stores.settings, HORIZON.timeframe)) > 10


def test_a_study_of_another_search_is_refused(record: LiveRecord) -> None:
    assert ask(record, "--trials", "1", "--study", "one", "--json").status == 0
    other = ask(record, "--trials", "1", "--study", "one", "--objective", "log_loss", "--json")
    assert other.status == 1
    assert "the study one belongs to another search" in other.message


def test_what_is_known_by_then_alone_is_looked_at(record: LiveRecord) -> None:
    done = ask(record, "--trials", "1", "--as-of", f"{DAYS[-60]}T23:00", "--json")
    assert done.status == 0, done.err
    assert done.document["study"] == f"linear 1d to {DAYS[-60]}"


def test_a_file_that_cannot_be_edited_is_refused_before_the_search(
    record: LiveRecord, tmp_path: Path
) -> None:
    path = record.stores.settings.home / "isobar.toml"
    before = path.read_text()
    untuned = before.partition("[models.tuned")[0]
    path.write_text(untuned + '\n[models.tuned."1d"]\nlinear = { study = "x" }\n')
    try:
        done = ask(record, "--trials", "1", "--study", "never begun", "--write")
        assert done.status == 1
        assert "edited safely" in done.message
        again = ask(record, "--trials", "1", "--study", "never begun", "--json")
        assert again.document["trials"][0]["trial"] == 0
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--family", "oracle"), "oracle"),
        (("--family", "xgboost"), "does not serve horizon 1d"),
        (("--horizon", "3y"), "3y"),
        (("--horizon", "14d"), "switched off"),
        (("--trials", "1", "--as-of", "noon"), "--as-of"),
    ],
)
def test_what_is_asked_wrongly_is_status_2(record: LiveRecord, words, says: str) -> None:
    done = ask(record, *words)
    assert done.status == 2
    assert says in done.message
