"""What assets are given: stores and ports, opened when first used.

A plain object, not a configurable resource: configuration is shown in Dagster's pages, and this
holds secrets.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from platformdirs import user_cache_path

from execution.broker import Broker
from market.errors import SettingsError
from market.lake import Lake
from market.ledger import Ledger, open_ledger
from market.reference_source import ReferenceSource
from market.remembered_plan import find_plan
from market.request_limiter import Plan, RequestLimiter, folder_of_key
from market.response_cache import ResponseCache
from market.source import BarSource, RemoteSource
from market.universe import liquid_universe, membership_universe, read_membership
from pipelines.lake_store import open_lake
from pipelines.settings import Settings

# Dagster and the clients of MLflow, vendor and broker take seconds to import. Most commands need
# none of them.
if TYPE_CHECKING:
    import dagster as dg

    from market.polygon import PolygonSource
    from models.tracking import Tracker

DEFAULT_SYMBOLS = ("SPY", "AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "JPM", "XOM", "UNH")
NOW_TAG = "isobar/now"
Progress = Callable[[str, int, int], None]


class Stores:
    """Lake, ledger, source, broker and tracker of one installation.

    Parameters
    ----------
    settings : Settings
        Where everything is.
    progress : callable, optional
        Called with (what, done, total) on long work.
    """

    def __init__(self, settings: Settings, progress: Progress | None = None) -> None:
        self.settings = settings
        self.progress = progress or (lambda what, done, total: None)

    def __repr__(self) -> str:
        return f"Stores({str(self.settings.home)!r})"

    @cached_property
    def lake(self) -> Lake:
        """The lake."""
        return open_lake(self.settings)

    def reading(self, lake: Lake) -> Stores:
        """Return these stores over another lake, such as one that is frozen."""
        other = Stores(self.settings, self.progress)
        other.lake = lake
        return other

    @property
    def ledger(self) -> Ledger:
        """The ledger, migrated to this version; each use opens its own connections."""
        self.settings.home.mkdir(parents=True, exist_ok=True)
        return open_ledger(self.settings.resolved_ledger_url)

    @cached_property
    def tracker(self) -> Tracker:
        """The MLflow door."""
        from models.tracking import Tracker

        self.settings.home.mkdir(parents=True, exist_ok=True)
        url = self.settings.resolved_mlflow_url
        # A server keeps the files itself: other machines have no folder of this one.
        if url.startswith(("http://", "https://")):
            return Tracker(url)
        return Tracker(url, (self.settings.home / "mlflow").resolve().as_uri())

    @cached_property
    def source(self) -> RemoteSource:
        """The vendor of bars."""
        polygon = self.settings.polygon
        # Flat files are raw.
        both = polygon.has_flat_files and not polygon.adjusted
        return self._with_flat_files(self._vendor) if both else self._vendor

    @property
    def has_vendor(self) -> bool:
        """Whether the key for market data is set."""
        return bool(self.settings.polygon.api_key.get_secret_value())

    def vendor_time(self) -> dt.datetime:
        """Return the vendor's clock (UTC), in one request once the plan is known.

        Raises
        ------
        SourceError
            When the vendor refuses the key or is out of reach.
        """
        return self._vendor.server_time()

    @cached_property
    def _vendor(self) -> PolygonSource:
        if not self.has_vendor:
            raise SettingsError(
                "no key for market data",
                allowed="POLYGON_API_KEY or MASSIVE_API_KEY in the environment",
                remedy="set one of them, or run `isobar demo`, which needs none",
            )
        return self._rest(self.plan)

    def _rest(self, plan: Plan) -> PolygonSource:
        from market.polygon import PolygonSource

        polygon = self.settings.polygon
        return PolygonSource(
            polygon.api_key,
            polygon.base_url,
            known_delay=self.delay,
            timeout_seconds=polygon.timeout_seconds,
            on_progress=lambda done, total: self.progress("requests", done, total),
            limiter=RequestLimiter.for_plan(self._vendor_folder, plan),
            cache=self._answers,
            adjusted=polygon.adjusted,
        )

    @property
    def plan(self) -> Plan:
        """The vendor's plan: the one that is set, or found out by asking, and then remembered.

        Raises
        ------
        SourceError
            When it has to be found out, and the vendor refuses the key or is out of reach.
        """
        plan = self.settings.polygon.plan
        if plan != "auto":
            return plan
        # Until it is known, the slowest one.
        probe = self._rest(Plan.FREE).probe_plan
        return find_plan(self._vendor_folder, probe, now=dt.datetime.now(dt.UTC))

    @property
    def _vendor_folder(self) -> Path:
        """Where the holders of this key on this machine share their request budget."""
        polygon = self.settings.polygon
        shared = polygon.shared_folder
        if shared is None and polygon.is_replay:
            shared = self.settings.home / "vendor"  # A replay is nobody else's vendor.
        shared = shared or user_cache_path("isobar")
        return folder_of_key(shared, polygon.base_url, polygon.api_key)

    @property
    def _answers(self) -> ResponseCache | None:
        polygon = self.settings.polygon
        # What has settled is told by this machine's clock; a replay has a clock of its own.
        if polygon.is_replay or not polygon.cache_bytes:
            return None
        return ResponseCache(self._vendor_folder / "answers", max_bytes=polygon.cache_bytes)

    def _with_flat_files(self, rest: PolygonSource) -> RemoteSource:
        from market.flatfiles import FlatFileSource
        from market.vendor import VendorSource

        polygon = self.settings.polygon
        flat = FlatFileSource(
            polygon.s3_access_key,
            polygon.s3_secret_key,
            polygon.s3_endpoint,
            bucket=polygon.s3_bucket,
            known_delay=self.delay,
        )
        return VendorSource(
            rest, flat, on_progress=lambda done, total: self.progress("files", done, total)
        )

    @cached_property
    def second_source(self) -> BarSource | None:
        """Another source of daily bars; ``None`` where none is set."""
        second, polygon = self.settings.second_source, self.settings.polygon
        if not second.base_url:
            return None
        from market.polygon import PolygonSource

        return PolygonSource(
            second.api_key,
            second.base_url,
            known_delay=self.delay,
            timeout_seconds=polygon.timeout_seconds,
        )

    @property
    def reference(self) -> ReferenceSource:
        """The vendor of macro data, news and identities: that of bars, over REST."""
        return self._vendor

    @property
    def has_broker(self) -> bool:
        """Whether keys for the broker are set."""
        alpaca = self.settings.alpaca
        return bool(alpaca.api_key.get_secret_value() and alpaca.secret_key.get_secret_value())

    @cached_property
    def broker(self) -> Broker:
        """The broker."""
        alpaca = self.settings.alpaca
        if not self.has_broker:
            raise SettingsError(
                "no keys for the broker",
                allowed="ALPACA_API_KEY and ALPACA_SECRET_KEY in the environment",
                remedy="set both; a paper account is free",
            )
        from execution.alpaca import AlpacaBroker

        return AlpacaBroker(
            alpaca.api_key,
            alpaca.secret_key,
            alpaca.base_url,
            is_paper=self.settings.trading.mode == "paper",
            timeout_seconds=alpaca.timeout_seconds,
        )

    @cached_property
    def universe(self) -> tuple[str, ...]:
        """Symbols to ingest: those of the settings, or all of a replay, or ten large ones."""
        if self.settings.symbols:
            return self.settings.symbols
        if self.settings.polygon.is_replay:
            # A replayed vendor serves one file's symbols; the real one lists eleven thousand.
            return tuple(self.source.tickers()["symbol"].to_list())
        return DEFAULT_SYMBOLS

    def members(self, sessions: Sequence[dt.date]) -> pl.DataFrame | None:
        """Return who belongs on each session (``session``, ``symbol``); ``None`` for everyone."""
        rule = self.settings.universe
        if rule.kind == "membership" and rule.membership_file is not None:
            return membership_universe(read_membership(rule.membership_file), sessions)
        if rule.kind == "liquidity":
            return liquid_universe(
                self.lake.read_bars("bars_1d"),
                sessions,
                count=rule.count,
                lookback_sessions=rule.lookback_sessions,
            )
        return None

    def only_members(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Return the rows of symbols that belonged on their session."""
        sessions = frame.select(pl.col("session").unique()).collect()["session"]
        members = self.members(sorted(sessions))
        if members is None:
            return frame
        return frame.join(
            members.lazy(), on=["session", "symbol"], how="semi", maintain_order="left"
        )

    def refuse_adjusted(self) -> None:
        """Raise where bars are adjusted for splits that came after them.

        Raises
        ------
        SettingsError
            When ``polygon.adjusted`` is on.
        """
        if self.settings.polygon.adjusted:
            raise SettingsError(
                "nothing is learned from adjusted bars: later splits are in their prices",
                got="polygon.adjusted = true",
                allowed="raw bars, which are adjusted forwards from what was known",
                remedy="set polygon.adjusted = false; the raw bars have a lake of their own",
            )

    @property
    def delay(self) -> dt.timedelta:
        """Delay of the data plan."""
        return dt.timedelta(minutes=self.settings.polygon.delay_minutes)

    @property
    def head_file(self) -> Path:
        """Where heads of the signals chain are kept outside the database."""
        return self.settings.home / "signal_heads.jsonl"

    @property
    def audit_head_file(self) -> Path:
        """Where heads of the audit log are kept outside the database."""
        return self.settings.home / "audit_heads.jsonl"


def moment_of(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext,
) -> dt.datetime:
    """Return the run's present: its tag ``isobar/now`` in a replay, else the clock."""
    tagged = context.run.tags.get(NOW_TAG)
    return dt.datetime.fromisoformat(tagged) if tagged else dt.datetime.now(dt.UTC)


def sessions_of(context: dg.AssetExecutionContext) -> list[dt.date]:
    """Return the sessions of the partitions that this run is for."""
    return [dt.date.fromisoformat(key) for key in context.partition_keys]
