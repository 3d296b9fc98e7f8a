"""Settings: one frozen model.

Order of precedence: environment, then ``.env``, then ``isobar.toml`` (in ``ISOBAR_HOME``, else in
the working folder), then the profile that one of these names, then the defaults below.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from execution.guard import GuardRules
from execution.intents import PlanRules
from execution.risk import RiskLimits
from execution.targets import TargetRules
from features.bridge import parse_indicator
from features.registry import FAMILIES, select_features
from market.costs import CostModel
from market.errors import SettingsError
from market.horizons import HORIZONS, Horizon, find_horizon
from market.ingest_log import RefetchPolicy
from market.near_names import did_you_mean
from market.quality_rules import DEFAULT_RULES, QualityRules
from market.timeframes import Timeframe
from models.spec import Family
from pipelines.alerts import AlertSettings
from pipelines.cluster_settings import ClusterSettings
from pipelines.profiles import PROFILES
from pipelines.redaction import hide
from pipelines.settings_file import CONFIG_FILE
from pipelines.settings_sources import read_sources
from pipelines.telemetry_settings import LogSettings, TelemetrySettings
from pipelines.vendor_settings import (
    AlpacaSettings,
    Frozen,
    PolygonSettings,
    S3Settings,
    SecondSourceSettings,
)

_DEFAULT_HORIZONS = tuple(h.name for h in HORIZONS if h.on_by_default)


class HistorySettings(Frozen):
    """Which sessions the pipeline covers."""

    start: dt.date = Field(dt.date(1998, 1, 2), description="First session that may be ingested")
    daily_sessions: int = Field(1260, ge=1, description="Sessions of daily bars to bootstrap")
    minute_sessions: int = Field(120, ge=1, description="Sessions of 1-minute bars to bootstrap")
    end: dt.date | None = Field(None, description="Last session; today when absent")


class UniverseSettings(Frozen):
    """Which of the ingested symbols belong, session by session."""

    kind: Literal["fixed", "membership", "liquidity"] = Field(
        "fixed", description="All of `symbols`; an index file's members; or the most liquid"
    )
    membership_file: Path | None = Field(
        None, description="CSV of ticker, start_date, end_date, for kind membership"
    )
    count: int = Field(500, ge=1, description="How many symbols, for kind liquidity")
    lookback_sessions: int = Field(63, ge=1, description="Window of the median dollar volume")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "membership" and self.membership_file is None:
            raise ValueError("kind membership needs universe.membership_file")
        return self


class FeatureSettings(Frozen):
    """Which features are computed, and which of them models learn from."""

    families: tuple[str, ...] = Field(tuple(FAMILIES), description="Families that are computed")
    indicators: tuple[str, ...] = Field(
        (),
        description="Indicators of pandas-ta-classic to compute besides, like fisher(length=9);"
        " each is audited first",
    )

    newest_sessions: dict[str, int] = Field(
        default_factory=dict,
        description="By length of bar (1m, 5m, ...), of how many of the newest sessions features"
        " are made up for; of all where nothing is said. A day's own run adds its session",
    )
    sectors_file: Path | None = Field(
        None,
        description="CSV of symbol, sector for sector-neutral features; they are null without",
    )

    @field_validator("newest_sessions")
    @classmethod
    def _lengths(cls, newest: dict[str, int]) -> dict[str, int]:
        known = [t.value for t in Timeframe]
        for name, sessions in newest.items():
            if name not in known or sessions < 1:
                raise ValueError(
                    f"{name} = {sessions}: name one of {', '.join(known)} and 1 or more"
                )
        return newest

    @field_validator("indicators")
    @classmethod
    def _written_well(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if len({parse_indicator(text) for text in texts}) < len(texts):
            raise ValueError("name each indicator once")
        return texts

    @field_validator("families")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            select_features(family=name)
        if "core" not in names or len(set(names)) != len(names):
            raise ValueError("name each family once, core among them: models scale by it")
        return names


class TunedFamily(Frozen):
    """What a tuning found for one family and horizon; see docs/tuning.md."""

    params: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="Laid over the family's defaults"
    )
    features: tuple[str, ...] = Field(
        (), description="Features that the family learns from, in order; all when empty"
    )
    study: str = Field("", description="Id of the study that found them")
    digest: str = Field("", description="What the study searched")
    trial: int = Field(0, description="The trial")
    trials: int = Field(0, description="Of how many")
    seed: int = Field(0, description="Of the study")
    objective: str = Field("", description="What it was judged by")
    value: float | None = Field(None, description="The objective, a mean over sessions")
    low: float | None = Field(None, description="Lower end of its 95 percent interval")
    high: float | None = Field(None, description="Upper end of its 95 percent interval")
    sessions: int = Field(0, description="Sessions behind it")
    windows: int = Field(0, description="Inner windows behind it")


class ModelSettings(Frozen):
    """How models are trained."""

    horizons: tuple[str, ...] = Field(_DEFAULT_HORIZONS, description="Horizons that are on")
    families: tuple[str, ...] = Field(
        (*FAMILIES, "bridge"), description="Feature families that models learn from"
    )
    seed: int = Field(7, description="Seed of every model")
    daily_min_train_sessions: int = Field(378, description="First training window, daily bars")
    daily_test_sessions: int = Field(63, description="Rhythm of retraining, daily bars")
    intraday_min_train_sessions: int = Field(40, description="First window, intraday bars")
    intraday_test_sessions: int = Field(10, description="Rhythm of retraining, intraday bars")
    daily_max_train_sessions: int | None = Field(
        None, ge=1, description="Rolling training windows, daily bars; all of the past when absent"
    )
    intraday_max_train_sessions: int | None = Field(
        None, ge=1, description="Rolling training windows, intraday bars; all when absent"
    )
    last_weight: float = Field(
        1.0, gt=-1, le=1, description="What the oldest label weighs beside the newest; 1: as much"
    )
    embargo_sessions: int = Field(1, ge=0, description="Sessions left out beyond the purge")
    ranks_from_symbols: int = Field(
        100,
        ge=0,
        description="Symbols a session from which models of daily bars learn from ranks, and"
        " returns beyond market and sector; 0: never",
    )
    matrix_gb: float = Field(
        2.0, gt=0, description="Of a larger matrix some symbols of each week are not learned from"
    )
    memory_gb: float = Field(
        8.0, gt=0, description="A training that holds more is stopped; the champions stay"
    )
    tuned: dict[str, dict[str, TunedFamily]] = Field(
        default_factory=dict, description="By horizon and family, what `isobar` trains with"
    )

    def families_of(self, horizon: Horizon) -> tuple[Family, ...]:
        """Return the families that serve a horizon, with their tuned parameters."""
        # Here and not above: a command that trains nothing loads no library of models.
        from models.registry import families_of

        tuned = self.tuned.get(horizon.name, {})
        return tuple(
            replace(f, defaults={**f.defaults, **tuned[f.name].params}) if f.name in tuned else f
            for f in families_of(horizon)
        )

    @field_validator("tuned")
    @classmethod
    def _tunable(
        cls, tuned: dict[str, dict[str, TunedFamily]]
    ) -> dict[str, dict[str, TunedFamily]]:
        if tuned:
            from models.registry import find_family
        for horizon, families in tuned.items():
            find_horizon(horizon)
            for name, entry in families.items():
                known = find_family(name).defaults
                unknown = sorted(set(entry.params) - set(known))
                if unknown:
                    raise ValueError(f"{name} has no parameter {unknown[0]}: {', '.join(known)}")
        return tuned

    @field_validator("horizons")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            find_horizon(name)
        if not names or len(set(names)) != len(names):
            raise ValueError("name at least one horizon, each once")
        return names


class BacktestSettings(Frozen):
    """What a combined backtest is made of."""

    combined_horizons: tuple[str, ...] = Field(
        (), description="Horizons in one account; all with out-of-sample predictions when empty"
    )

    @field_validator("combined_horizons")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            find_horizon(name)
        if len(set(names)) != len(names) or len(names) == 1:
            raise ValueError("name two horizons or more, each once, or none")
        return names


class DriftSettings(Frozen):
    """From where on drift asks for a training; see docs/drift.md."""

    live_sessions: int = Field(20, ge=1, description="Newest sessions whose features are judged")
    recent_sessions: int = Field(60, ge=20, description="Newest sessions with outcomes, judged")
    psi_limit: float = Field(0.1, gt=0, description="Index from which on a feature has drifted")
    drifted_share: float = Field(
        0.25, ge=0, le=1, description="Share of the features, by importance, that may have drifted"
    )
    calibration_error: float = Field(
        0.01, ge=0, description="Worsening of the calibration error that is borne"
    )
    rank_ic: float = Field(0.0, ge=0, description="Loss of rank IC that is borne")


class TradingSettings(Frozen):
    """Whether and how orders are sent."""

    enabled: bool = Field(False, description="Whether scheduled runs send orders at all")
    mode: Literal["paper", "live"] = Field("paper", description="Live needs allow_live as well")
    allow_live: str | None = Field(None, description="The live account's number, else no live")
    late_after_minutes: int = Field(30, ge=0, description="A batch later than this may not trade")


PLACES = frozenset(
    {"home", "profile", "ledger_url", "mlflow_url", "polygon", "alpaca", "alerts", "refetch"}
    | {"second_source", "drift", "backtest", "logs", "telemetry", "lake_url", "s3", "cluster"}
)
"""Settings that say where things are and what is judged: none changes a forecast."""


class Settings(Frozen):
    """Everything that can be set.

    ``config_hash`` identifies it in MLflow runs and signals; secrets and folders are no part of it.
    """

    home: Path = Field(Path("var"), description="Data root (ISOBAR_HOME)")
    profile: str = Field("", description=f"Settings to begin from: {', '.join(PROFILES)}, or none")
    symbols: tuple[str, ...] = Field(
        (),
        description="The universe; when empty, ten large symbols, or all that a replay serves;"
        " `*` for whatever traded on each session",
    )
    lake_url: str = Field(
        "",
        pattern=r"^(s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._~-]+)*/?)?$",
        description="Where the lake lies, as s3://bucket/prefix; under the data root when empty",
    )
    s3: S3Settings = S3Settings()
    ledger_url: str = Field("", description="Ledger; SQLite under the data root when empty")
    mlflow_url: str = Field("", description="MLflow; SQLite under the data root when empty")
    polygon: PolygonSettings = PolygonSettings()
    second_source: SecondSourceSettings = SecondSourceSettings()
    alpaca: AlpacaSettings = AlpacaSettings()
    alerts: AlertSettings = AlertSettings()
    history: HistorySettings = HistorySettings()
    universe: UniverseSettings = UniverseSettings()
    features: FeatureSettings = FeatureSettings()
    models: ModelSettings = ModelSettings()
    drift: DriftSettings = DriftSettings()
    backtest: BacktestSettings = BacktestSettings()
    cluster: ClusterSettings = ClusterSettings()
    logs: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    trading: TradingSettings = TradingSettings()
    targets: TargetRules = TargetRules()
    risk: RiskLimits = RiskLimits()
    orders: PlanRules = PlanRules(brackets=True)
    guard: GuardRules = GuardRules()
    costs: CostModel = CostModel()
    refetch: RefetchPolicy = RefetchPolicy()
    quality: QualityRules = DEFAULT_RULES
    starting_cash_usd: Decimal = Field(Decimal(100_000), gt=0, description="Backtest's capital")

    @model_validator(mode="after")
    def _lockable(self) -> Self:
        if self.lake_url and not self.ledger_url.startswith("postgresql"):
            raise ValueError(
                "lake_url needs a ledger_url on PostgreSQL, whose locks its writers share"
            )
        return self

    @property
    def enabled_horizons(self) -> tuple[Horizon, ...]:
        """The horizons that are on, as rows of the horizons table."""
        return tuple(find_horizon(n) for n in self.models.horizons)

    @property
    def band_bps(self) -> float:
        """The neutral band: what a round trip costs."""
        return 2.0 * self.costs.one_way_bps

    @property
    def config_hash(self) -> str:
        """Digest of everything that can change a number."""
        body = json.dumps(self.model_dump(exclude=set(PLACES)), default=_canonical, sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:12]

    @property
    def lake_root(self) -> str:
        """Folder or URL of the lake; adjusted bars have one of their own."""
        name = "lake_adjusted" if self.polygon.adjusted else "lake"
        return f"{self.lake_url.rstrip('/')}/{name}" if self.lake_url else str(self.home / name)

    @property
    def resolved_ledger_url(self) -> str:
        """URL of the ledger."""
        return self.ledger_url or f"sqlite:///{(self.home / 'ledger.db').resolve()}"

    @property
    def resolved_mlflow_url(self) -> str:
        """URL of the MLflow tracking store."""
        return self.mlflow_url or f"sqlite:///{(self.home / 'mlflow.db').resolve()}"


def load_settings(home: Path | None = None) -> Settings:
    """Read the settings.

    Parameters
    ----------
    home : Path, optional
        Data root whose settings are wanted; ``ISOBAR_HOME`` or ``./var`` when absent.

    Raises
    ------
    SettingsError
        On an unknown key (with near names), a malformed value or an unreadable file. Secrets are
        never part of the message.
    """
    return validate(read_sources(home).values)


def validate(values: Mapping[str, Any]) -> Settings:
    """Return the settings that values make.

    Raises
    ------
    SettingsError
        See :func:`load_settings`.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise explain_error(error) from None


def hide_secrets(settings: Settings) -> None:
    """Make every log handler, present and future, redact the configured secrets."""
    polygon, alpaca = settings.polygon, settings.alpaca
    keys = (polygon.api_key, polygon.s3_access_key, polygon.s3_secret_key)
    keys += (settings.second_source.api_key, alpaca.api_key, alpaca.secret_key)
    keys += (settings.s3.access_key, settings.s3.secret_key)
    keys += (settings.alerts.webhook_url, settings.alerts.smtp_password)
    hide({k.get_secret_value() for k in keys if len(k.get_secret_value()) >= 4})


def _canonical(value: object) -> object:
    # The order of a set differs from process to process.
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def known_settings(model: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """Return the dotted name of every setting, in their order."""
    keys: list[str] = []
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += known_settings(inner, f"{prefix}{name}.")
        elif is_dataclass(inner):
            keys += [f"{prefix}{name}.{f.name}" for f in fields(inner)]
        else:
            keys.append(f"{prefix}{name}")
    return keys


def explain_error(error: ValidationError) -> SettingsError:
    """Return what is wrong with a setting, with near names and without its value."""
    first = error.errors(include_input=False, include_url=False)[0]
    key = ".".join(str(p) for p in first["loc"])
    known = known_settings()
    if first["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return SettingsError(
            "unknown setting",
            got=key,
            allowed=f"one of {len(known)} settings, see `isobar settings show`",
            remedy=did_you_mean(key, known, "remove it"),
        )
    return SettingsError(
        f"setting {key}: {first['msg']}", remedy=f"correct it in {CONFIG_FILE} or the environment"
    )
