"""Settings: precedence, refusals with near names, and secrets that never show."""

from __future__ import annotations

import datetime as dt
import io
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from market.errors import FeatureError, MarketError, ModelError, SettingsError
from market.horizons import find_horizon
from market.replay import create_app
from market.replay_data import ServedMarket
from market.request_limiter import Plan
from market.serving import BackgroundServer
from market.synthetic import SyntheticSpec, generate
from market.timeframes import Timeframe
from models.registry import FAMILIES
from pipelines.feature_run import kept_features
from pipelines.redaction import redact
from pipelines.resources import Stores
from pipelines.settings import Settings, hide_secrets, load_settings
from tests.pipelines.installation import clean_environment, environment_of

SECRETS = {
    "POLYGON_API_KEY": "pk-settings-2f7ac1",
    "POLYGON_S3_ACCESS_KEY": "s3a-settings-51e0c8",
    "POLYGON_S3_SECRET_KEY": "s3s-settings-c09b72",
    "ALPACA_API_KEY": "ak-settings-90be44",
    "ALPACA_SECRET_KEY": "sk-settings-7d13f8",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder with an empty data root beside it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with environment_of({"ISOBAR_HOME": str(tmp_path / "home")}):
        yield tmp_path


def load(folder: Path, environment: Mapping[str, str] | None = None) -> Settings:
    with environment_of({"ISOBAR_HOME": str(folder / "home"), **(environment or {})}):
        return load_settings()


def refusal(folder: Path, environment: Mapping[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(folder, environment)
    return str(caught.value)


def test_nothing_set_gives_the_defaults(folder: Path):
    assert load(folder) == Settings(home=folder / "home")


def test_the_data_root_is_var_unless_said_otherwise(folder: Path):
    with environment_of({}):
        assert load_settings().home == Path("var")


def test_environment_then_file_in_home_then_file_in_the_working_folder(folder: Path):
    (folder / "work/isobar.toml").write_text("[models]\nseed = 1\n")
    assert load(folder).models.seed == 1
    (folder / "home/isobar.toml").write_text("[models]\nseed = 2\n")
    assert load(folder).models.seed == 2
    assert load(folder, {"ISOBAR_MODELS__SEED": "3"}).models.seed == 3
    assert load(folder, {"ISOBAR_MODELS__SEED": ""}).models.seed == 2


def test_one_environment_variable_leaves_the_rest_of_its_group_to_the_file(folder: Path):
    (folder / "home/isobar.toml").write_text("[models]\nseed = 2\nembargo_sessions = 4\n")
    found = load(folder, {"ISOBAR_MODELS__SEED": "3"}).models
    assert (found.seed, found.embargo_sessions) == (3, 4)


def test_lists_and_groups_come_from_the_environment(folder: Path):
    found = load(
        folder,
        {
            "ISOBAR_SYMBOLS": "IBM,GE",
            "ISOBAR_MODELS__HORIZONS": "1h,14d",
            "ISOBAR_TARGETS__SYMBOL_CAP": "0.2",
            "ISOBAR_RISK__ORDER_COUNT": "7",
            "ISOBAR_COSTS__SLIPPAGE_BPS": "5",
            "ISOBAR_STARTING_CASH_USD": "5000.50",
            "POLYGON_BASE_URL": "http://127.0.0.1:1",
            "ALPACA_BASE_URL": "http://127.0.0.1:2",
            "ISOBAR_ALLOW_LIVE": "123",
        },
    )
    assert found.symbols == ("IBM", "GE")
    assert found.models.horizons == ("1h", "14d")
    assert found.targets.symbol_cap == 0.2
    assert found.risk.order_count == 7
    assert found.costs.slippage_bps == 5.0
    assert found.starting_cash_usd == Decimal("5000.50")
    assert found.polygon.base_url == "http://127.0.0.1:1"
    assert found.alpaca.base_url == "http://127.0.0.1:2"
    assert found.trading.allow_live == "123"


@pytest.mark.parametrize(
    ("text", "given", "near"),
    [
        ("symbol = ['A']", "symbol", "symbols"),
        ("[models]\nsead = 1", "models.sead", "models.seed"),
        ("[targets]\nsymbol_cup = 0.1", "targets.symbol_cup", "targets.symbol_cap"),
        ("[risk]\norder_cont = 1", "risk.order_cont", "risk.order_count"),
        ("[costs]\nslipage_bps = 1", "costs.slipage_bps", "costs.slippage_bps"),
        ("[history]\nstrat = 2020-01-02", "history.strat", "history.start"),
    ],
)
def test_an_unknown_key_of_the_file_is_refused_with_near_names(
    folder: Path, text: str, given: str, near: str
):
    (folder / "home/isobar.toml").write_text(text)
    message = refusal(folder)
    assert f"unknown setting: got '{given}'" in message
    assert f"did you mean {near}" in message


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ISOBAR_SYMBOL", "symbols"),
        ("ISOBAR_MODELS__SEAD", "models.seed"),
        ("ISOBAR_TARGETS__SYMBOL_CUP", "targets.symbol_cap"),
        ("ISOBAR_RISK__ORDER_CONT", "risk.order_count"),
        ("ISOBAR_COSTS__SLIPAGE_BPS", "costs.slippage_bps"),
    ],
)
def test_an_unknown_variable_is_refused_with_near_names(folder: Path, name: str, near: str):
    message = refusal(folder, {name: "1"})
    assert "unknown setting" in message
    assert near in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ISOBAR_MODELS__SEED", "seven"),
        ("ISOBAR_HISTORY__START", "yesterday"),
        ("ISOBAR_TRADING__MODE", "real"),
        ("ISOBAR_POLYGON__DELAY_MINUTES", "90"),
        ("ISOBAR_MODELS", "x"),
    ],
)
def test_a_malformed_value_is_refused_by_name(folder: Path, name: str, value: str):
    message = refusal(folder, {name: value})
    assert name.removeprefix("ISOBAR_").lower().replace("__", ".") in message
    assert "Remedy" in message


@pytest.mark.parametrize("name", ["ISOBAR_SYMBOLS__FIRST", "ISOBAR_MODELS__SEED__LOW"])
def test_a_group_below_a_plain_setting_is_refused(folder: Path, name: str):
    (folder / "home/isobar.toml").write_text("symbols = ['A']\n[models]\nseed = 2\n")
    assert "setting" in refusal(folder, {name: "1"})


def test_values_out_of_range_are_refused_by_the_floor_that_owns_them(folder: Path):
    with pytest.raises(MarketError, match="slippage_bps"):
        load(folder, {"ISOBAR_COSTS__SLIPPAGE_BPS": "-1"})
    with pytest.raises(MarketError, match="unknown horizon: got '9h'"):
        load(folder, {"ISOBAR_MODELS__HORIZONS": "9h"})


@pytest.mark.parametrize("body", [b"symbols = [", b"symbols = ['\xff\xfe']"])
def test_a_file_that_cannot_be_read_is_named(folder: Path, body: bytes):
    (folder / "home/isobar.toml").write_bytes(body)
    message = refusal(folder)
    assert "isobar.toml" in message
    assert "correct the file" in message


def test_settings_are_frozen():
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.home = Path("elsewhere")  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.models.seed = 8  # type: ignore[misc]
    with pytest.raises(AttributeError):
        settings.risk.order_count = 1  # type: ignore[misc]


def test_either_name_of_the_vendor_brings_its_key(folder: Path):
    for name in ("POLYGON_API_KEY", "MASSIVE_API_KEY"):
        assert load(folder, {name: "a-key"}).polygon.api_key.get_secret_value() == "a-key"


@pytest.mark.parametrize(
    "names", [("POLYGON_API_KEY", "MASSIVE_API_KEY"), ("MASSIVE_API_KEY", "POLYGON_API_KEY")]
)
def test_of_both_names_one_wins_whatever_their_order(folder: Path, names: tuple[str, str]):
    found = load(folder, {n: n for n in names})
    assert found.polygon.api_key.get_secret_value() == "POLYGON_API_KEY"


def test_secrets_are_in_no_rendering(folder: Path):
    settings = load(folder, SECRETS)
    assert settings.polygon.api_key.get_secret_value() == SECRETS["POLYGON_API_KEY"]
    for text in (repr(settings), str(settings), settings.model_dump_json(), settings.config_hash):
        assert not [s for s in SECRETS.values() if s in text]


def test_a_malformed_secret_is_not_repeated(folder: Path):
    (folder / "home/isobar.toml").write_text("[polygon]\napi_key = [7215533]\n")
    message = refusal(folder)
    assert "polygon.api_key" in message
    assert "7215533" not in message


@pytest.mark.parametrize("name", ["POLYGON_S3_ACCESS_KEY", "POLYGON_S3_SECRET_KEY"])
def test_one_key_of_the_flat_files_alone_is_refused(folder: Path, name: str):
    message = refusal(folder, {name: SECRETS[name]})
    assert "POLYGON_S3_ACCESS_KEY and POLYGON_S3_SECRET_KEY" in message
    assert SECRETS[name] not in message


def test_the_keys_of_the_flat_files_make_the_source_of_both_roads(folder: Path):
    planned = {"ISOBAR_POLYGON__PLAN": "advanced"}
    plain = Stores(load(folder, {"POLYGON_API_KEY": "a-key", **planned})).source
    assert plain.name == "polygon"
    both = {**planned, "ISOBAR_POLYGON__DELAY_MINUTES": "15", "ISOBAR_POLYGON__S3_BUCKET": "b"}
    source = Stores(load(folder, {**SECRETS, **both})).source
    assert source.name == "polygon-flat-files+rest"
    assert "endpoint_url='https://files.massive.com', bucket='b'" in repr(source)
    assert not [s for s in SECRETS.values() if s in repr(source)]


def test_the_budget_and_the_answers_are_shared_by_key_and_not_by_data_root(folder: Path):
    def told(**more: str) -> tuple[str, str]:
        shared = {"ISOBAR_POLYGON__SHARED_FOLDER": str(folder / "shared")}
        plan = {"ISOBAR_POLYGON__PLAN": "free", "POLYGON_API_KEY": "one"}
        wire = Stores(load(folder, {**shared, **plan, **more})).source._wire
        return repr(wire._limiter), repr(wire._cache)

    limiter, cache = told()
    assert str(folder / "shared") in limiter
    assert limiter.endswith(", 5)")
    assert f"{folder / 'shared'}" in cache
    assert told(ISOBAR_HOME=str(folder / "other")) == (limiter, cache)
    assert told(POLYGON_API_KEY="two")[0] != limiter
    assert told(ISOBAR_POLYGON__CACHE_BYTES="0") == (limiter, "None")
    replay = {"POLYGON_BASE_URL": "http://127.0.0.1:1", "ISOBAR_POLYGON__PLAN": "free"}
    assert told(**replay)[1] == "None"
    replayed = Stores(load(folder, {**replay, "POLYGON_API_KEY": "one"})).source._wire
    assert str(folder / "home" / "vendor") in repr(replayed._limiter)


def test_the_plan_is_found_out_once_and_limits_the_source(folder: Path):
    made = generate(SyntheticSpec(symbols=2, sessions=2, minute_sessions=0, alpha={}))
    market = ServedMarket(made.daily, None, made.splits, made.dividends, made.tickers)
    with BackgroundServer(create_app(market, api_key="k", plan=Plan.STARTER)) as server:
        settings = load(folder, {"POLYGON_API_KEY": "k", "POLYGON_BASE_URL": server.url})
        assert settings.polygon.plan == "auto"
        assert repr(Stores(settings).source._wire._limiter).endswith(", 100)")
    # The vendor is gone; the plan is remembered.
    assert repr(Stores(settings).source._wire._limiter).endswith(", 100)")


def test_a_number_changes_the_hash_and_a_place_or_key_does_not(folder: Path):
    plain = load(folder).config_hash
    assert load(folder, SECRETS).config_hash == plain
    assert Settings(home=Path("elsewhere")).config_hash == plain
    assert load(folder, {"POLYGON_BASE_URL": "http://127.0.0.1:1"}).config_hash == plain
    assert load(folder, {"ISOBAR_LEDGER_URL": "sqlite:////tmp/x.db"}).config_hash == plain
    changed = [
        load(folder, {name: value}).config_hash
        for name, value in {
            "ISOBAR_MODELS__SEED": "8",
            "ISOBAR_SYMBOLS": "IBM",
            "ISOBAR_COSTS__SLIPPAGE_BPS": "2.5",
            "ISOBAR_TARGETS__SYMBOL_CAP": "0.11",
            "ISOBAR_RISK__ORDER_COUNT": "499",
        }.items()
    ]
    assert len({plain, *changed}) == 6


def test_the_hash_is_the_same_in_every_process(folder: Path):
    (folder / "work/isobar.toml").write_text('[risk]\nrestricted = ["A", "B", "C", "D", "E"]\n')
    program = "from pipelines.settings import load_settings; print(load_settings().config_hash)"
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**clean_environment(), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


@pytest.fixture
def hidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = load(folder, SECRETS)
    hide_secrets(settings)
    return settings


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a plain handler, added after the secrets were hidden, writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("tests.secrets")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def log_them(kind: str) -> None:
    logger = logging.getLogger("tests.secrets")
    for secret in SECRETS.values():
        if kind == "message":
            logger.warning(f"key {secret}")
        elif kind == "arguments":
            logger.warning("key %s of %d", secret, 3)
        elif kind == "mapping":
            logger.warning("key %(key)s", {"key": secret})
        else:
            try:
                raise ValueError(f"refused {secret}")
            except ValueError:
                logger.exception("request failed")


@pytest.mark.parametrize("kind", ["message", "arguments", "mapping", "traceback"])
@pytest.mark.usefixtures("hidden")
def test_secrets_are_in_no_log(kind: str, written: io.StringIO, caplog: pytest.LogCaptureFixture):
    log_them(kind)
    for text in (written.getvalue(), caplog.text):
        assert "[secret]" in text
        assert not [s for s in SECRETS.values() if s in text]


@pytest.mark.usefixtures("hidden")
def test_a_log_call_with_wrong_arguments_does_not_stop_the_program(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
):
    # What logging does itself: report it on stderr and go on; in production not even that.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logging.getLogger("tests.secrets").warning("%d bars", "many")
    logging.getLogger("tests.secrets").warning("after")
    assert "after" in written.getvalue()


@pytest.mark.usefixtures("hidden")
def test_redact_takes_secrets_out_of_any_text():
    text = redact(f"GET /v2?apiKey={SECRETS['POLYGON_API_KEY']}&x=1")
    assert text == "GET /v2?apiKey=[secret]&x=1"


def test_a_membership_universe_needs_its_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="membership_file"):
        Settings.model_validate({"universe": {"kind": "membership"}})
    path = tmp_path / "members.csv"
    path.write_text("ticker,start_date,end_date\nA,2024-07-01,2024-07-03\n")
    rule = {"kind": "membership", "membership_file": path}
    stores = Stores(Settings.model_validate({"home": tmp_path, "universe": rule}))
    days = [dt.date(2024, 7, 2), dt.date(2024, 7, 3)]
    frame = pl.DataFrame({"session": days * 2, "symbol": ["A", "A", "B", "B"]})
    assert stores.only_members(frame.lazy()).collect().rows() == [(days[0], "A")]
    everyone = Stores(Settings.model_validate({"home": tmp_path}))
    assert everyone.only_members(frame.lazy()).collect().equals(frame)


def test_indicators_by_name_are_features_of_every_timeframe() -> None:
    named = Settings.model_validate({"features": {"indicators": ["fisher(length=9)"]}})
    for timeframe in (Timeframe.D1, Timeframe.M5):
        kept = {f.name: f for f in kept_features(named, timeframe)}
        assert kept["ta_fishert_9_1"].family == "bridge"
        assert "MA20" in kept
    assert named.config_hash != Settings().config_hash


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"indicators": ["fischer"]}, "fisher"),
        ({"indicators": ["fisher", "fisher"]}, "each indicator once"),
        ({"families": ["core", "alpha185"]}, "did you mean alpha158"),
        ({"families": ["alpha158"]}, "core among them"),
    ],
)
def test_senseless_features_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises((FeatureError, ValueError), match=message):
        Settings.model_validate({"features": values})


def test_an_indicator_that_looks_ahead_is_refused_when_features_are_asked_for() -> None:
    named = Settings.model_validate({"features": {"indicators": ["dpo"]}})
    with pytest.raises(FeatureError, match="looks ahead"):
        kept_features(named, Timeframe.D1)


def test_what_a_tuning_found_is_laid_over_the_familys_defaults() -> None:
    tuned = {"1d": {"linear": {"params": {"clip": 2.0}, "study": "s", "value": 0.02}}}
    settings = Settings.model_validate({"models": {"tuned": tuned}})
    daily, weekly = (
        {f.name: f for f in settings.models.families_of(find_horizon(h))} for h in ("1d", "14d")
    )
    assert daily["linear"].defaults == {**FAMILIES["linear"].defaults, "clip": 2.0}
    assert daily["lstm"] == FAMILIES["lstm"]
    assert set(weekly) == set(find_horizon("14d").families)
    assert settings.config_hash != Settings().config_hash


@pytest.mark.parametrize(
    ("tuned", "problem"),
    [
        ({"1d": {"linear": {"params": {"clap": 2.0}}}}, "linear has no parameter clap"),
        ({"1d": {"oracle": {}}}, "unknown model family"),
        ({"3d": {"linear": {}}}, "unknown horizon"),
    ],
)
def test_what_cannot_be_tuned_is_refused(tuned: dict, problem: str) -> None:
    with pytest.raises((ValueError, MarketError, ModelError), match=problem):
        Settings.model_validate({"models": {"tuned": tuned}})
