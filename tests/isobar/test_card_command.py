"""`isobar models card`: what the newest training is worth, as a person reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.resources import Stores
from pipelines.settings import load_settings
from tests.commands import Outcome, isobar
from tests.pipelines.installation import environment, environment_of
from tests.trainings import fitted, report


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def ask(home: Path, *words: str) -> Outcome:
    return isobar("models", "card", "--horizon", "1d", *words, environment=environment(home))


def test_the_card_is_printed_and_given_as_json(home: Path) -> None:
    told = report(0.0)
    with environment_of(environment(home), home.parent):
        tracker = Stores(load_settings()).tracker
    run_id = tracker.log_training(
        "1d", fitted("linear"), params={}, metrics={}, tags={}, report=told
    )
    done = ask(home)
    assert (done.status, done.err) == (0, "")
    assert "Model card: 1d" in done.out
    assert "No skill is shown" in done.out
    assert run_id in done.out
    for words in ((), ("--family", "linear")):
        document = ask(home, *words, "--json").document
        assert (document["run_id"], document["text"]) == (run_id, told.card)
        assert document["horizon"] == "1d"


def test_without_a_training_it_says_what_to_do(home: Path) -> None:
    done = ask(home)
    assert done.status != 0
    assert "isobar train --horizon 1d" in " ".join(done.err.split())
    assert ask(home, "--family", "nothing").status == 2
