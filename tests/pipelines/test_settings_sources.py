"""Where a value comes from, what a profile lays below it, and the page of all settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isobar.settings_page import PAGE
from market.errors import SettingsError
from pipelines.profiles import PROFILES, find_profile
from pipelines.settings import Settings, known_settings, load_settings, validate
from pipelines.settings_sources import Sources, over_profile, read_sources
from pipelines.settings_table import SET, list_settings, settings_page
from tests.pipelines.installation import environment_of

PLACES = ("profile", "file", "dotenv", "environment")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@given(where=st.sets(st.sampled_from(PLACES)))
def test_the_strongest_place_that_says_something_wins(
    where: set[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    text = {"profile": 'profile = "live"\n', "file": "[risk]\norder_notional_usd = 2\n"}
    (home / "isobar.toml").write_text("".join(t for n, t in text.items() if n in where))
    name = "ISOBAR_RISK__ORDER_NOTIONAL_USD"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        (home / ".env").write_text(f"{name}=3\n" if "dotenv" in where else "")
        environment = {"ISOBAR_HOME": str(home)}
        if "environment" in where:
            environment[name] = "4"
        with environment_of(environment):
            sources = read_sources()
            found = load_settings().risk.order_notional_usd
    said = {"profile": 25_000, "file": 2, "dotenv": 3, "environment": 4}
    origins = {
        "profile": "profile live",
        "file": "isobar.toml",
        "dotenv": ".env",
        "environment": name,
    }
    strongest = next((p for p in reversed(PLACES) if p in where), None)
    assert found == (100_000 if strongest is None else said[strongest])
    origin = sources.origin_of("risk.order_notional_usd")
    assert origin == ("default" if strongest is None else origins[strongest])


def test_a_table_from_two_places_names_both(folder: Path) -> None:
    (folder / "isobar.toml").write_text(
        'profile = "demo"\n[models.tuned."4h".xgboost.params]\ntrees = 9\n'
    )
    with environment_of({"ISOBAR_HOME": str(folder)}):
        sources, settings = read_sources(), load_settings()
    assert sources.origin_of("models.tuned") == "profile demo, isobar.toml"
    tuned = settings.models.tuned["4h"]["xgboost"].params
    assert tuned["trees"] == 9
    assert tuned["eta"] == 0.06, "the profile's other parameters stay"


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_profile_is_valid_and_the_same_in_code_and_in_a_file(folder: Path, name: str) -> None:
    (folder / "isobar.toml").write_text(f'profile = "{name}"\n')
    with environment_of({"ISOBAR_HOME": str(folder)}):
        assert load_settings() == validate(over_profile(name, {"home": folder}))


def test_live_limits_are_never_wider_than_the_defaults() -> None:
    live, default = validate(over_profile("live", {})).risk, Settings().risk
    for name in find_profile("live").values["risk"]:
        assert getattr(live, name) < getattr(default, name)


def test_live_alone_sends_nothing_without_the_accounts_number() -> None:
    assert validate(over_profile("live", {})).trading.allow_live is None


def test_an_unknown_profile_is_refused_with_a_near_one(folder: Path) -> None:
    with environment_of({"ISOBAR_PROFILE": "papr"}), pytest.raises(SettingsError) as caught:
        read_sources()
    assert str(caught.value).endswith("did you mean paper?")


def test_the_profile_changes_no_hash_beyond_its_values() -> None:
    paper = validate(over_profile("paper", {}))
    same = Settings.model_validate({"trading": {"enabled": True, "mode": "paper"}})
    assert paper.config_hash == same.config_hash


def test_every_setting_has_a_meaning_and_a_place_of_its_own() -> None:
    found = list_settings(Settings(), Sources({}, {}))
    assert [s.name for s in found] == known_settings()
    assert [s.name for s in found if not s.meaning] == []
    assert len({s.variable for s in found}) == len(found)
    assert {s.origin for s in found} == {"default"}


def test_the_variable_of_each_setting_sets_it(folder: Path) -> None:
    for setting in list_settings(Settings(), Sources({}, {})):
        if setting.name == "home":
            continue
        with environment_of({setting.variable: "paper"}):
            assert read_sources().origin_of(setting.name) == setting.variable


def test_secrets_are_said_to_be_set_and_no_more() -> None:
    settings = validate({"polygon": {"api_key": "pk-3f1b77"}})
    shown = {s.name: s.value for s in list_settings(settings, Sources({}, {}))}
    assert shown["polygon.api_key"] == SET
    assert "pk-3f1b77" not in str(shown)


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text("utf-8") == settings_page(), "run python -m isobar.settings_page"
