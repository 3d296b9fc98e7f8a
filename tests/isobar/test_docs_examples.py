"""The snippets of docs/extending.md do what the page says of them."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

import pytest

from features.labels import forward_returns
from isobar.leak_audit import load_features
from market import calendar, horizons
from market.errors import ModelError
from market.horizons import Horizon
from models import registry
from models.splits import PurgedWalkForward
from tests.commands import isobar
from tests.contracts import test_forecaster as contract
from tests.markets import market

PAGE = Path(__file__).parents[2] / "docs/extending.md"


def snippet(title: str) -> str:
    """The first Python of a section."""
    section = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    (text,) = [s for s in section if s.startswith(f"{title}\n")]
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None, title
    return found[1]


def names_of(title: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(snippet(title), str(PAGE), "exec"), names)
    return names


class TestFeature:
    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        (tmp_path / "pull.py").write_text(snippet("A feature"))
        return f"{tmp_path}/pull.py:PULL"

    def test_it_is_a_feature_of_its_own(self, place: str):
        (made,) = load_features(place)
        assert (made.name, made.lookback) == ("pull_20", 20)

    def test_the_command_on_the_page_finds_no_leak(self, place: str, tmp_path: Path):
        command = re.search(r"^isobar (audit leaks --feature .*)$", PAGE.read_text(), re.MULTILINE)
        assert command is not None
        words = command[1].replace("pull.py:PULL", place).split()
        done = isobar(*words, "--json", environment={"ISOBAR_HOME": str(tmp_path / "home")})
        assert done.status == 0, done.err

    def test_the_same_command_finds_one_that_looks_ahead(self, tmp_path: Path):
        honest = snippet("A feature")
        ahead = honest.replace(
            'return ratio(p["close"] - p.mean', 'return ratio(p["close"][::-1].copy() - p.mean'
        )
        assert ahead != honest
        (tmp_path / "pull.py").write_text(ahead)
        words = ("audit", "leaks", "--feature", f"{tmp_path}/pull.py:PULL", "--timeframe", "1d")
        home = {"ISOBAR_HOME": str(tmp_path / "home")}
        assert isobar(*words, "--synthetic", "--json", environment=home).status == 1


class TestHorizon:
    @pytest.fixture
    def row(self) -> Horizon:
        return names_of("A horizon")["TWO_DAYS"]

    def test_it_is_new_and_its_families_are_registered(self, row: Horizon):
        assert row.name not in {h.name for h in horizons.HORIZONS}
        assert [f.name for f in registry.families_of(row)] == list(row.families)

    def test_labels_reach_two_sessions_and_are_known_at_their_close(self, row: Horizon):
        bars = market(symbols=3, sessions=30, minute_sessions=2).daily
        labels = forward_returns(bars, row).drop_nulls("forward_return")
        known = dict(labels.select("bar_end", "label_known_at").unique().rows())
        assert known
        for end, at in known.items():
            day = end.astimezone(calendar.NEW_YORK).date()
            assert at == calendar.session_close(calendar.offset_session(day, 2))

    def test_the_splitter_purges_two_sessions(self, row: Horizon):
        assert row.sessions == 2
        PurgedWalkForward(row, 20, 5, purge_sessions=2)
        with pytest.raises(ModelError):
            PurgedWalkForward(row, 20, 5, purge_sessions=1)

    def test_a_forecast_runs_its_course_in_two_sessions(self, row: Horizon):
        end = row.end_of(dt.datetime(2024, 7, 1, 20, tzinfo=dt.UTC))
        assert end == calendar.session_close(dt.date(2024, 7, 3))


class TestFamily:
    """The contract of all families, on the one of the page."""

    @pytest.fixture
    def family(self, monkeypatch: pytest.MonkeyPatch):
        made = names_of("A family of models")["FAMILY"]
        monkeypatch.setitem(registry.FAMILIES, made.name, made)
        return made

    @pytest.mark.parametrize(
        "claim",
        [
            contract.test_it_is_a_forecaster,
            contract.test_it_learns_an_easy_relation,
            contract.test_a_feature_that_is_always_missing_is_survived,
            contract.test_one_seed_gives_one_model_to_the_bit,
            contract.test_rows_are_forecast_one_by_one_as_together,
            contract.test_contributions_and_a_constant_add_up_to_the_forecast,
            contract.test_weights_count,
            contract.test_a_model_that_learned_nothing_says_so,
            contract.test_defaults_are_plain_values_that_a_tag_can_carry,
        ],
        ids=lambda claim: claim.__name__.removeprefix("test_"),
    )
    def test_it_keeps_the_contract(self, family: Any, claim: Any):
        claim(family)
